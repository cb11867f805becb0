"""Families of metrics as text, in Prometheus' format 0.0.4.  Pure.

The format: prometheus.io/docs/instrumenting/exposition_formats.

A family is ``{"name", "kind", "description", "boundaries", "series": [[labels, value], ...]}``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from zray.metrics.recorder import COUNTER, HISTOGRAM

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def merged(families: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Families of several nodes: one for each name.  The first declaration of a metric counts; others are left out."""
    found: dict[str, dict[str, Any]] = {}
    for family in families:
        known = found.get(family["name"])
        if known is None:
            found[family["name"]] = {**family, "series": list(family["series"])}
        elif (known["kind"], known["boundaries"]) == (family["kind"], family["boundaries"]):
            known["series"] += family["series"]
    return list(found.values())


def text_of(families: Iterable[dict[str, Any]]) -> str:
    """The text that a scrape gets, families by name."""
    lines: list[str] = []
    for family in sorted(families, key=lambda family: family["name"]):
        name = family["name"]
        if family["kind"] == COUNTER and not name.endswith("_total"):
            name += "_total"  # as OpenMetrics asks, and as Ray does
        lines += [f"# HELP {name} {_escaped(family['description'])}", f"# TYPE {name} {family['kind']}"]
        for labels, value in family["series"]:
            if family["kind"] == HISTOGRAM:
                lines += _histogram(name, labels, value, family["boundaries"])
            else:
                lines.append(f"{name}{_labels(labels)} {_number(value)}")
    return "".join(line + "\n" for line in lines)


def _histogram(name: str, labels: dict[str, str], value: list[Any], boundaries: list[float]) -> list[str]:
    lines, count = [], 0
    for boundary, inside in zip([*map(_number, boundaries), "+Inf"], value[:-1], strict=True):
        count += inside
        lines.append(f"{name}_bucket{_labels({**labels, 'le': boundary})} {count}")
    return [*lines, f"{name}_sum{_labels(labels)} {_number(value[-1])}", f"{name}_count{_labels(labels)} {count}"]


def _labels(labels: dict[str, str]) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{key}="{_escaped(value, quote=True)}"' for key, value in labels.items()) + "}"


def _escaped(text: str, quote: bool = False) -> str:
    text = text.replace("\\", r"\\").replace("\n", r"\n")
    return text.replace('"', r"\"") if quote else text


def _number(value: float) -> str:
    """As Go and Python read it: 1, 0.5, +Inf, NaN."""
    if value != value:
        return "NaN"
    if value in (float("inf"), float("-inf")):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else repr(float(value))
