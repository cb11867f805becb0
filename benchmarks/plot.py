"""Line plots as SVG, written by hand: enough for the figures in docs/figures, and no dependency."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path

WIDTH, HEIGHT = 720, 380
LEFT, RIGHT, TOP, BOTTOM = 70, 170, 40, 50
# Tell apart by people who cannot tell red from green: Okabe and Ito's palette.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")

Line = tuple[str, Sequence[tuple[float, float]]]


class _Axis:
    """Values to pixels, and ticks; ``log`` for powers of ten."""

    def __init__(self, values: list[float], start: float, end: float, log: bool) -> None:
        self.log, self.start, self.end = log, start, end
        if log:
            self.low = 10.0 ** math.floor(math.log10(min(values)))
            self.high = 10.0 ** math.ceil(math.log10(max(values)))
            if self.low == self.high:
                self.high *= 10
        else:
            step = _step(max(values) or 1.0)
            self.low, self.high = 0.0, step * math.ceil(max(values) / step) or step

    def at(self, value: float) -> float:
        if self.log:
            share = math.log10(value / self.low) / math.log10(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        if self.log:
            decades = round(math.log10(self.high / self.low))
            return [self.low * 10.0**decade for decade in range(decades + 1)]
        step = _step(self.high)
        return [step * i for i in range(round(self.high / step) + 1)]


def _step(high: float) -> float:
    """A round distance of ticks, four to ten of them."""
    rough = high / 5
    base = 10.0 ** math.floor(math.log10(rough))
    return next(base * factor for factor in (1, 2, 5, 10) if base * factor >= rough * 0.999)


def _shown(value: float) -> str:
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{suffix}"
    return f"{value:.3g}"


def plot(path: str | Path, title: str, x: str, y: str, lines: Sequence[Line], *, log: bool = False,
         legend: bool = True, thin: bool = False) -> None:
    """Write an SVG file of ``lines``, (name, points) each.  ``log``: both axes; ``thin``: many lines of one kind."""
    points = [point for _, line in lines for point in line]
    across = _Axis([px for px, _ in points], LEFT, WIDTH - RIGHT, log)
    up = _Axis([py for _, py in points], HEIGHT - BOTTOM, TOP, log)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
           f'font-size="12">', f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
           f'<text x="{LEFT}" y="22" font-size="14">{escape(title)}</text>']
    for tick in across.ticks():
        px = across.at(tick)
        out.append(f'<line x1="{px:.1f}" y1="{TOP}" x2="{px:.1f}" y2="{HEIGHT - BOTTOM}" stroke="#eee"/>'
                   f'<text x="{px:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{_shown(tick)}</text>')
    for tick in up.ticks():
        py = up.at(tick)
        out.append(f'<line x1="{LEFT}" y1="{py:.1f}" x2="{WIDTH - RIGHT}" y2="{py:.1f}" stroke="#eee"/>'
                   f'<text x="{LEFT - 6}" y="{py + 4:.1f}" text-anchor="end">{_shown(tick)}</text>')
    out.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 12}" text-anchor="middle">{escape(x)}</text>'
               f'<text transform="translate(16 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)" text-anchor="middle">'
               f'{escape(y)}</text>')
    for number, (name, line) in enumerate(lines):
        colour = COLOURS[number % len(COLOURS)]
        path_of = " ".join(f"{across.at(px):.1f},{up.at(py):.1f}" for px, py in line)
        out.append(f'<polyline fill="none" stroke="{colour}" stroke-width="{0.7 if thin else 2}" points="{path_of}"/>')
        if legend:
            py = TOP + 14 + 18 * number
            out.append(f'<line x1="{WIDTH - RIGHT + 10}" y1="{py - 4}" x2="{WIDTH - RIGHT + 30}" y2="{py - 4}" '
                       f'stroke="{colour}" stroke-width="2"/>'
                       f'<text x="{WIDTH - RIGHT + 36}" y="{py}">{escape(name)}</text>')
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text("\n".join([*out, "</svg>"]) + "\n", encoding="utf-8")
