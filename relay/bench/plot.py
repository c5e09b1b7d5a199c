"""A line chart as SVG: few lines, axes linear or logarithmic, no dependencies."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final
from xml.sax.saxutils import escape

WIDTH: Final = 640
HEIGHT: Final = 400
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 40, 90
COLOURS: Final = ("#0b62a4", "#c8501e", "#3c8c3c", "#7a4ea0", "#8c6d1f", "#4d4d4d", "#c2185b", "#00838f")
LEGEND_ROWS: Final = 2
LINEAR_TICKS: Final = 5

Points = Sequence[tuple[float, float]]


class _Axis:
    """Where a value stands between ``start`` and ``end`` (pixels)."""

    def __init__(
        self, values: Sequence[float], log: bool, start: float, end: float, span: tuple[float, float] | None = None
    ) -> None:
        self.log = log
        low, high = (min(values), max(values)) if log else (0.0, max(values) * 1.1)
        if span is not None:
            low, high = span
        elif log:
            low, high = 10 ** math.floor(math.log10(low)), 10 ** math.ceil(math.log10(high))
        self._low, self._high = low, high if high > low else low + 1
        self._start, self._end = start, end

    def place(self, value: float) -> float:
        """Pixels."""
        if self.log:
            part = math.log10(value / self._low) / math.log10(self._high / self._low)
        else:
            part = (value - self._low) / (self._high - self._low)
        return self._start + part * (self._end - self._start)

    def ticks(self) -> list[float]:
        """Values to write at the axis: round ones."""
        if self.log:
            return [10.0**n for n in range(round(math.log10(self._low)), round(math.log10(self._high)) + 1)]
        rough = (self._high - self._low) / LINEAR_TICKS
        unit = 10 ** math.floor(math.log10(rough))
        step = next(each * unit for each in (1, 2, 5, 10) if each * unit >= rough)
        return [n * step for n in range(int(self._high / step) + 1)]


def short(value: float) -> str:
    """A number in few characters: 1k, 2.5M."""
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:.3g}{name}"
    return f"{value:.3g}"


def chart(
    title: str, x: str, y: str, lines: Mapping[str, Points], log_x: bool = False, log_y: bool = False,
    y_range: tuple[float, float] | None = None,
) -> str:  # fmt: skip
    """``lines`` (name -> points) as an SVG document; ``x`` and ``y`` are written at the axes.

    ``y_range``: where the axis begins and ends, for plots that are looked at together; points beyond it stand at its
    end. Values on a logarithmic axis must be over 0. Raises ``ValueError`` when there is no point.
    """
    points = [point for line in lines.values() for point in line]
    if not points:
        raise ValueError("nothing to plot")
    across = _Axis([point[0] for point in points], log_x, LEFT, WIDTH - RIGHT)
    up = _Axis([point[1] for point in points], log_y, HEIGHT - BOTTOM, TOP, y_range)
    if y_range is not None:
        lines = {name: [(a, min(max(b, y_range[0]), y_range[1])) for a, b in line] for name, line in lines.items()}
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" '
        f'viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{WIDTH / 2}" y="22" text-anchor="middle" font-size="15">{escape(title)}</text>',
        *_grid(across, up),
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - BOTTOM + 38}" text-anchor="middle">{escape(x)}</text>',
        f'<text x="16" y="{(TOP + HEIGHT - BOTTOM) / 2}" text-anchor="middle" '
        f'transform="rotate(-90 16 {(TOP + HEIGHT - BOTTOM) / 2})">{escape(y)}</text>',
    ]
    for number, (name, line) in enumerate(lines.items()):
        colour = COLOURS[number % len(COLOURS)]
        path = " ".join(f"{across.place(a):.1f},{up.place(b):.1f}" for a, b in line)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{across.place(a):.1f}" cy="{up.place(b):.1f}" r="3" fill="{colour}"/>' for a, b in line]
        columns = max(3, -(-len(lines) // LEGEND_ROWS))
        left = LEFT + number % columns * (570 // columns)
        top = HEIGHT - 32 + number // columns * 18
        parts.append(f'<rect x="{left}" y="{top - 9}" width="10" height="10" fill="{colour}"/>')
        parts.append(f'<text x="{left + 15}" y="{top}">{escape(name)}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _grid(across: _Axis, up: _Axis) -> list[str]:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = [f'<path d="M{LEFT} {TOP}V{bottom}H{right}" fill="none" stroke="black"/>']
    for value in across.ticks():
        at = across.place(value)
        if LEFT - 1 <= at <= right + 1:
            parts.append(f'<path d="M{at:.1f} {TOP}V{bottom}" stroke="#ddd"/>')
            parts.append(f'<text x="{at:.1f}" y="{bottom + 17}" text-anchor="middle">{short(value)}</text>')
    for value in up.ticks():
        at = up.place(value)
        if TOP - 1 <= at <= bottom + 1:
            parts.append(f'<path d="M{LEFT} {at:.1f}H{right}" stroke="#ddd"/>')
            parts.append(f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{short(value)}</text>')
    return parts
