"""Small SVG plots. Colours and fonts are the page's, by class, so that they follow its light and dark."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 420, 300
BARS_WIDTH, BARS_HEIGHT = 84, 30
LEFT, RIGHT, TOP, BOTTOM = 52, 10, 10, 34
MOST_POINTS = 200
SPAN_FOR_LOGARITHMS = 20
"""Above this ratio of greatest to smallest value a linear axis would show a corner and a flat line."""


def curves(series: Mapping[str, Sequence[float]], *, title: str) -> str:
    """One line per series over the epochs, which count from 1. A series' name is its CSS class."""
    values = [value for points in series.values() for value in points if math.isfinite(value)]
    if not values:
        return ""
    scale = Scale(values)
    epochs = max(map(len, series.values()))
    lines = "".join(line(name, points, epochs, scale) for name, points in series.items())
    return (
        f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title, quote=True)}">'
        f"{''.join(map(scale.grid, scale.ticks))}{epoch_axis(epochs)}{lines}</svg>"
    )


class Scale:
    """From a value to its height in the plot, logarithmic where the values span much."""

    def __init__(self, values: Sequence[float]) -> None:
        low, high = min(values), max(values)
        self._logarithmic = low > 0 and high / low > SPAN_FOR_LOGARITHMS
        self.ticks = decades(low, high) if self._logarithmic else steps(low, high)
        self._low, self._high = (self._of(edge) for edge in (min(low, self.ticks[0]), max(high, self.ticks[-1])))

    def _of(self, value: float) -> float:
        return math.log10(value) if self._logarithmic else value

    def y(self, value: float) -> float:
        share = (self._of(value) - self._low) / ((self._high - self._low) or 1)
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    def grid(self, tick: float) -> str:
        y = self.y(tick)
        return (
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{number(tick)}</text>'
        )


def line(name: str, points: Sequence[float], epochs: int, scale: Scale) -> str:
    places = sorted({round(step * (len(points) - 1) / MOST_POINTS) for step in range(MOST_POINTS + 1)})
    drawn = [(x(place + 1, epochs), scale.y(points[place])) for place in places if math.isfinite(points[place])]
    if len(drawn) == 1:
        return f'<circle class="{name}" cx="{drawn[0][0]:.1f}" cy="{drawn[0][1]:.1f}" r="3"/>'
    path = " ".join(f"{left:.1f},{top:.1f}" for left, top in drawn)
    return f'<polyline class="line {name}" points="{path}"/>'


def x(epoch: int, epochs: int) -> float:
    return LEFT + (epoch - 1) / max(1, epochs - 1) * (WIDTH - LEFT - RIGHT)


def epoch_axis(epochs: int) -> str:
    marks = sorted({1, epochs, *(tick for tick in map(int, steps(1, epochs)) if 1 < tick < epochs * 0.93)})
    texts = "".join(
        f'<text x="{x(mark, epochs):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="{anchor(mark, epochs)}">{mark}</text>'
        for mark in marks
    )
    return f'{texts}<text x="{(LEFT + WIDTH - RIGHT) / 2:.0f}" y="{HEIGHT - 3}" text-anchor="middle">epoch</text>'


def anchor(mark: int, epochs: int) -> str:
    return "end" if mark == epochs > 1 else "middle"


def steps(low: float, high: float) -> list[float]:
    """Round numbers around `low` to `high`, about five of them.

    >>> steps(1, 12)
    [0, 5, 10, 15]
    """
    span = (high - low) or abs(high) or 1.0
    magnitude = 10 ** math.floor(math.log10(span / 4))
    size = next(factor * magnitude for factor in (1, 2, 5, 10) if factor * magnitude >= span / 4)
    first, last = math.floor(low / size), math.ceil(high / size)
    return [round(place * size, 12) for place in range(first, last + 1)]


def decades(low: float, high: float) -> list[float]:
    """
    >>> decades(0.03, 2)
    [0.01, 0.1, 1.0, 10.0]
    """
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    stride = max(1, math.ceil((last - first) / 6))
    return [10.0**exponent for exponent in range(first, last + stride, stride)]


def number(value: float) -> str:
    return f"{value:.0e}".replace("e-0", "e-") if value and abs(value) < 1e-3 else f"{value:g}"


def bars(columns: Mapping[str, Sequence[float]], *, title: str) -> str:
    """Shares from 0 to 1 side by side, a group for each place."""
    group = BARS_WIDTH / max(map(len, columns.values()))
    wide = 0.8 * group / len(columns)
    drawn = "".join(
        f'<rect class="{name}" x="{place * group + kind * wide:.1f}" y="{BARS_HEIGHT - high:.1f}" '
        f'width="{wide:.1f}" height="{high:.1f}"/>'
        for kind, (name, shares) in enumerate(columns.items())
        for place, high in enumerate(max(0.5, share * BARS_HEIGHT) for share in shares)
    )
    return (
        f'<svg class="bars" viewBox="0 0 {BARS_WIDTH} {BARS_HEIGHT}" role="img" '
        f'aria-label="{escape(title, quote=True)}">{drawn}</svg>'
    )
