"""Profiles as people and tools read them: folded stacks, a flame graph as SVG, speedscope's JSON.  Pure."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from dataclasses import dataclass, field
from html import escape

from zray.cli.text import cut, safe

PICTURE_PX, FRAME_PX, CHARACTER_PX = 1200.0, 17.0, 6.6  # pixels: of the picture, of a frame's height, of a character
LEAST_PX = 0.3  # narrower frames are left out
# As py-spy writes them: relative to the entry of sys.path.
_OWN = re.compile(r"\((zray/\S+|threading\.py|<string>)(:\d+)?\)$")
Stacks = dict[tuple[str, ...], int]


def parsed(text: str) -> Stacks:
    """Folded stacks: lines of frames joined by ";", then a count; lines that begin with "#" are comments."""
    found: Counter[tuple[str, ...]] = Counter()
    for line in text.splitlines():
        frames, _, count = line.rpartition(" ")
        if frames and not line.startswith("#") and count.isdigit():
            found[tuple(frames.split(";"))] += int(count)
    return dict(found)


def written(stacks: Stacks) -> str:
    """Folded stacks as text."""
    return "".join(f"{';'.join(frames)} {count}\n" for frames, count in stacks.items())


def of_user(stacks: Stacks) -> Stacks:
    """Of stacks that were sampled from outside: without frames of zray itself, and without threads that have no others.
    """
    found: Counter[tuple[str, ...]] = Counter()
    for frames, count in stacks.items():
        kept = tuple(frame for frame in frames if not _OWN.search(frame))
        if any(".py:" in frame for frame in kept):
            found[kept] += count
    return dict(found)


def heaviest(stacks: Stacks) -> list[tuple[str, int, int]]:
    """(frame, samples in it itself, samples in it or below), the largest first."""
    own: Counter[str] = Counter()
    whole: Counter[str] = Counter()
    for frames, count in stacks.items():
        own[frames[-1]] += count
        for frame in set(frames):
            whole[frame] += count
    return sorted(((frame, own[frame], count) for frame, count in whole.items()),
                  key=lambda each: (-each[1], -each[2], each[0]))


def speedscope(stacks: Stacks, title: str) -> str:
    """A file for https://www.speedscope.app."""
    numbers: dict[str, int] = {}
    samples = [[numbers.setdefault(frame, len(numbers)) for frame in frames] for frames in stacks]
    weights = list(stacks.values())
    return json.dumps({
        "$schema": "https://www.speedscope.app/file-format-schema.json", "name": title, "exporter": "zray",
        "activeProfileIndex": 0, "shared": {"frames": [{"name": name} for name in numbers]},
        "profiles": [{"type": "sampled", "name": title, "unit": "none", "startValue": 0, "endValue": sum(weights),
                      "samples": samples, "weights": weights}]})


@dataclass
class _Node:
    name: str
    count: int = 0
    below: dict[str, _Node] = field(default_factory=dict)


def _tree(stacks: Stacks) -> _Node:
    root = _Node("all")
    for frames, count in stacks.items():
        node = root
        node.count += count
        for frame in frames:
            node = node.below.setdefault(frame, _Node(frame))
            node.count += count
    return root


def svg(stacks: Stacks, title: str) -> str:
    """A flame graph, the outermost call at the top; a frame shows its name and share when pointed at."""
    root = _tree(stacks)
    total = max(1, root.count)
    boxes: list[str] = []
    depth = 0
    work = [(root, 0.0, 0)]
    while work:
        node, left, level = work.pop()
        width = PICTURE_PX * node.count / total
        if width < LEAST_PX:
            continue
        depth = max(depth, level)
        boxes.append(_box(node, left, level, width, total))
        at = left
        for each in sorted(node.below.values(), key=lambda one: one.name):
            work.append((each, at, level + 1))
            at += PICTURE_PX * each.count / total
    height = (depth + 3) * FRAME_PX
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {PICTURE_PX:g} {height:g}" width="{PICTURE_PX:g}" '
        f'height="{height:g}" font-family="monospace" font-size="11">',
        f"<title>{escape(safe(title))}</title>",
        f'<rect width="{PICTURE_PX:g}" height="{height:g}" fill="#fffdf8"/>',
        f'<text x="4" y="{FRAME_PX - 4:g}">{escape(safe(title))}, {total} samples</text>', *boxes, "</svg>", ""])


def _box(node: _Node, left: float, level: int, width: float, total: int) -> str:
    top = (level + 1.5) * FRAME_PX
    name = safe(node.name)
    label = cut(name, int((width - 4) / CHARACTER_PX)) if width > 4 * CHARACTER_PX else ""
    hue = 10 + int(hashlib.blake2b(node.name.encode(errors="replace"), digest_size=2).hexdigest(), 16) % 45
    share = 100 * node.count / total
    text = f'<text x="{left + 3:.1f}" y="{top + FRAME_PX - 5:.1f}">{escape(label)}</text>' if label else ""
    return (f'<g><title>{escape(name)}: {node.count} samples, {share:.1f}%</title><rect x="{left:.2f}" y="{top:.1f}" '
            f'width="{max(0.2, width - 0.4):.2f}" height="{FRAME_PX - 1:g}" fill="hsl({hue} 85% 66%)"/>{text}</g>')
