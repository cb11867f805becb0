"""What ran when, as an inline SVG: one lane for each worker, at most so many bars that a page stays small.  Pure."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

LANES_MAX = 64
BARS_MAX = 4000
WIDTH, LANE_HEIGHT, LABELS_WIDTH, TOP = 1000.0, 16.0, 150.0, 22.0  # pixels of the drawing
TICKS = 8


@dataclass
class Bar:
    """Attempts beside each other in one lane."""

    begin: float
    end: float
    name: str
    count: int = 1
    failed: int = 0
    seconds: float = 0.0


def lanes(events: Iterable[dict[str, Any]]) -> dict[str, list[Bar]]:
    """Bars of the tasks of a trace, by row of a worker, each lane in order; the lanes that were busy longest."""
    found: dict[str, list[Bar]] = {}
    for event in events:
        if event["ph"] != "X" or event["cat"] != "task":
            continue
        begin = event["ts"] / 1e6
        length = max(0.0, event["dur"] / 1e6)
        found.setdefault(f"{event['args']['pid']} {event['pid']} {event['tid']}", []).append(
            Bar(begin, begin + length, event["name"], 1, 0 if event["args"]["ok"] else 1, length))
    busiest = sorted(found, key=lambda lane: -sum(bar.seconds for bar in found[lane]))[:LANES_MAX]
    return {lane: sorted(found[lane], key=lambda bar: bar.begin) for lane in found if lane in busiest}


def merged(bars: list[Bar], gap_s: float) -> list[Bar]:
    """Bars, each joined to the one before if it is closer than ``gap_s``, and of the same name or as short."""
    out: list[Bar] = []
    for bar in bars:
        last = out[-1] if out else None
        if last is not None and bar.begin - last.end < gap_s and (
                bar.name == last.name or bar.end - bar.begin < gap_s and last.seconds / last.count < gap_s):
            last.end = max(last.end, bar.end)
            last.name = last.name if bar.name == last.name else "several functions"
            last.count += bar.count
            last.failed += bar.failed
            last.seconds += bar.seconds
        else:
            out.append(Bar(**vars(bar)))
    return out


def svg(events: Iterable[dict[str, Any]], escape: Callable[[object], str]) -> str:
    """The drawing; '' when nothing ran.  ``escape`` makes a name safe."""
    found = lanes(events)
    if not found:
        return ""
    first = min(bars[0].begin for bars in found.values())
    last = max(bar.end for bars in found.values() for bar in bars)
    span = max(last - first, 1e-6)
    gap = span / WIDTH / 2
    drawn = {lane: merged(bars, gap) for lane, bars in found.items()}
    while sum(map(len, drawn.values())) > BARS_MAX:
        gap *= 2
        drawn = {lane: merged(bars, gap) for lane, bars in drawn.items()}
    height = TOP + LANE_HEIGHT * len(drawn) + 4
    parts = [f'<svg viewBox="0 0 {LABELS_WIDTH + WIDTH:g} {height:g}" role="img" '
             'aria-label="What ran when on each worker">']
    for tick in range(TICKS + 1):
        x = LABELS_WIDTH + WIDTH * tick / TICKS
        anchor = "end" if tick == TICKS else "middle"
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 4:g}" y2="{height:g}"/>'
                     f'<text class="tick" x="{x:.1f}" y="12" text-anchor="{anchor}">+{_seconds(span * tick / TICKS)}'
                     "</text>")
    for number, (lane, bars) in enumerate(drawn.items()):
        y = TOP + LANE_HEIGHT * number
        parts.append(f'<text class="tick" x="0" y="{y + 11:g}">worker {escape(lane.partition(" ")[0])}</text>')
        parts += [_rect(bar, first, span, y, escape) for bar in bars]
    return "".join([*parts, "</svg>"])


def _rect(bar: Bar, first: float, span: float, y: float, escape: Callable[[object], str]) -> str:
    x = LABELS_WIDTH + (bar.begin - first) / span * WIDTH
    width = max(0.5, (bar.end - bar.begin) / span * WIDTH)
    hue = zlib.crc32(bar.name.encode(errors="replace")) % 360
    times = f" x {bar.count}" if bar.count > 1 else ""
    failed = f", {bar.failed} failed" if bar.failed else ""
    style = ' class="failed"' if bar.failed else f' fill="hsl({hue} 45% 55%)"'
    return (f'<rect x="{x:.1f}" y="{y:g}" width="{width:.1f}" height="{LANE_HEIGHT - 3:g}"{style}><title>'
            f"{escape(bar.name)}{times}: {_seconds(bar.seconds)} from +{_seconds(bar.begin - first)}{failed}"
            "</title></rect>")


def _seconds(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms" if seconds < 1 else f"{seconds:.4g} s"
