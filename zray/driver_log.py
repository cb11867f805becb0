"""Worker output, as the driver shows it: ``(f pid=123) text``, exact repeats within a batch folded, none lost.

What comes from another node says from which: ``(f pid=123, ip=10.0.0.2) text``.
"""

from __future__ import annotations

import os
import sys
from typing import Any

BAR_MARK = "__zray_progress__:"  # a line that says where a bar of zray.experimental.tqdm_ray stands
FOLD = os.environ.get("ZRAY_DEDUP_LOGS", os.environ.get("RAY_DEDUP_LOGS", "1")) not in ("0", "false")


def render(lines: list[Any], dropped: int, fold: bool = FOLD, ip: str = "") -> tuple[str, str]:
    """What to print for one LogLines message: ``(to stdout, to stderr)``."""
    repeats: dict[tuple[bool, str], int] = {}
    if fold:
        for _, _, is_stderr, text in lines:
            repeats[bool(is_stderr), text] = repeats.get((bool(is_stderr), text), 0) + 1
    out: list[str] = []
    err: list[str] = []
    for name, pid, is_stderr, text in lines:
        count = repeats.get((bool(is_stderr), text), 1)
        if count == 0:
            continue  # shown already, with its count
        if fold:
            repeats[bool(is_stderr), text] = 0
        note = f" [repeated {count}x across processes]" if count > 1 else ""
        label = f"{name} pid={pid}" if name else f"pid={pid}"
        label += f", ip={ip}" if ip else ""
        (err if is_stderr else out).append(f"({label}) {text}{note}\n")
    if dropped:
        err.append(f"({dropped} lines of worker output were dropped; they are in the session's logs)\n")
    return "".join(out), "".join(err)


def show(message: Any) -> None:
    """Print a LogLines message; a closed or broken stdout is the user's business."""
    bars = [line[3] for line in message.lines if line[3].startswith(BAR_MARK)]
    lines = [line for line in message.lines if not line[3].startswith(BAR_MARK)] if bars else message.lines
    tqdm_ray = sys.modules.get("zray.experimental.tqdm_ray")
    manager = tqdm_ray.instance() if tqdm_ray is not None else None
    if manager is not None and lines:
        manager.hide_bars()
    texts = render(lines, message.dropped, ip=message.ip)
    for text, stream in zip(texts, (sys.stdout, sys.stderr), strict=True):
        if text and stream is not None:
            try:
                stream.write(text)
                stream.flush()
            except (OSError, ValueError):
                continue
    _move(bars)
    if manager is not None and lines:
        manager.unhide_bars()


def _move(bars: list[str]) -> None:
    if not bars:
        return
    import json

    from zray.experimental import tqdm_ray

    for text in bars:
        try:
            tqdm_ray.instance().move(json.loads(text.removeprefix(BAR_MARK)))
        except (OSError, ValueError, KeyError, TypeError):
            continue  # somebody else's line, or a closed stderr
