"""SVG plots. Colours are the page's, by class: the variant's name, and `direct` for what is not through the gateway."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from models.report.plot import decades, steps

WIDTH, WIDE, HEIGHT = 460, 920, 300
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 10, 40
MOST_TICKS = 9
Point = tuple[float, float]
Band = tuple[str, float, float]
"""An upright stripe: a class, a begin and an end."""


@dataclass(frozen=True, slots=True)
class Axis:
    """``ticks`` are (value, text); ``of`` maps a value to a place on a straight line."""

    title: str
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    of: Callable[[float], float] = float

    def share(self, value: float) -> float:
        low, high = self.of(self.low), self.of(self.high)
        return (self.of(value) - low) / ((high - low) or 1)


def texts(marks: Sequence[float]) -> tuple[tuple[float, str], ...]:
    return tuple((mark, short(mark)) for mark in marks)


def linear(title: str, values: Sequence[float], *, from_zero: bool = True, rounded: bool = True) -> Axis:
    """``rounded`` ends at a round number, otherwise where the values end."""
    low, high = 0 if from_zero else min(values), max(values)
    marks = steps(low, high)
    if not rounded:
        marks = [mark for mark in marks if low <= mark <= high]
    return Axis(title, low if not rounded else marks[0], high if not rounded else marks[-1], texts(marks))


def logarithmic(title: str, values: Sequence[float]) -> Axis:
    """Decades, with 2 and 5 between where there are few."""
    low, high = min(values), max(values)
    marks = decades(low, high)
    if len(marks) <= 3:
        between = [factor * mark for mark in marks for factor in (1, 2, 5)]
        inside = [mark for mark in between if low / 2.6 <= mark <= high * 2.6]
        marks = inside or marks
    low, high = min(low, marks[0]), max(high, marks[-1])
    return Axis(title, low, high, texts(marks), math.log10)


def doubling(title: str, values: Sequence[float]) -> Axis:
    """Powers of two as they were chosen."""
    marks = sorted(set(values))
    stride = -(-len(marks) // MOST_TICKS)
    return Axis(title, marks[0], marks[-1], tuple((mark, short(mark)) for mark in marks[::stride]), math.log2)


def tail(title: str, least_share: float) -> Axis:
    """The share of requests that took longer, as percentiles: p50, p90, p99 ... each as wide as the one before."""
    marks = [(0.5, "p50"), (0.1, "p90"), (0.01, "p99"), (0.001, "p99.9"), (0.0001, "p99.99")]
    shown = tuple((-math.log10(share), text) for share, text in marks if share >= least_share * 0.999)
    return Axis(title, 0.0, -math.log10(least_share), shown)


@dataclass(frozen=True, slots=True)
class Series:
    """``css`` is `tensorflow` or `pytorch`, with `direct` behind it for what is not through the gateway."""

    css: str
    points: Sequence[Point]
    dots: bool = False


def chart(
    series: Sequence[Series], x: Axis, y: Axis, *, title: str, bands: Sequence[Band] = (), width: int = WIDTH
) -> str:
    """Bands are drawn first. A title is what a screen reader says."""
    plane = Plane(x, y, width)
    drawn = "".join(plane.line(one) for one in series)
    return (
        f'<svg class="plot" viewBox="0 0 {width} {HEIGHT}" role="img" aria-label="{escape(title, quote=True)}">'
        f"{''.join(map(plane.band, bands))}{plane.grid()}{drawn}</svg>"
    )


@dataclass(frozen=True, slots=True)
class Plane:
    """Where values lie on the drawing."""

    x: Axis
    y: Axis
    width: int

    def across(self, value: float) -> float:
        return LEFT + self.x.share(value) * (self.width - LEFT - RIGHT)

    def up(self, value: float) -> float:
        return HEIGHT - BOTTOM - self.y.share(value) * (HEIGHT - TOP - BOTTOM)

    def band(self, band: Band) -> str:
        css, begin, end = band
        left, right = self.across(begin), self.across(end)
        return (
            f'<rect class="band {css}" x="{left:.1f}" y="{TOP}" width="{max(0.5, right - left):.1f}" '
            f'height="{HEIGHT - TOP - BOTTOM}"/>'
        )

    def grid(self) -> str:
        parts = []
        right = self.width - RIGHT
        for value, text in self.y.ticks:
            at = self.up(value)
            parts.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}"/>')
            parts.append(f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{text}</text>')
        for value, text in self.x.ticks:
            at = self.across(value)
            parts.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
            anchor = "end" if at > right - 8 else "middle"
            parts.append(f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="{anchor}">{text}</text>')
        middle, side = (LEFT + right) / 2, (TOP + HEIGHT - BOTTOM) / 2
        parts.append(f'<text x="{middle:.0f}" y="{HEIGHT - 4}" text-anchor="middle">{escape(self.x.title)}</text>')
        parts.append(
            f'<text x="12" y="{side:.0f}" text-anchor="middle" transform="rotate(-90 12 {side:.0f})">'
            f"{escape(self.y.title)}</text>"
        )
        return "".join(parts)

    def line(self, series: Series) -> str:
        places = [(self.across(left), self.up(height)) for left, height in series.points]
        marks = "".join(f'<circle class="{series.css}" cx="{a:.1f}" cy="{b:.1f}" r="2.5"/>' for a, b in places)
        if series.dots:
            return marks
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in places)
        return f'<polyline class="line {series.css}" points="{path}"/>' + (marks if len(places) < 12 else "")


ROW_HEIGHT, NAMES_WIDTH = 22, 150


def forest(rows: Sequence[tuple[str, float, float, float]], *, margin: float, title: str) -> str:
    """Each (name, ratio, low, high) on a logarithmic axis, with the margin around 1 shaded."""
    low = min(1 / (1 + 2 * margin), *(one[2] for one in rows))
    high = max(1 + 2 * margin, *(one[3] for one in rows))
    axis = Axis("ratio", low * 0.98, high * 1.02, (), math.log)
    height = ROW_HEIGHT * len(rows) + 30

    def at(value: float) -> float:
        return NAMES_WIDTH + axis.share(value) * (WIDTH - NAMES_WIDTH - RIGHT)

    ticks = (0.2, 0.25, 0.33, 0.5, 0.67, 0.8, 0.9, 1, 1.1, 1.25, 1.5, 2, 3, 4, 5)
    shown = [value for value in ticks if axis.low <= value <= axis.high]
    inner = height - 24
    parts = [
        f'<rect class="margin" x="{at(1 / (1 + margin)):.1f}" width="{at(1 + margin) - at(1 / (1 + margin)):.1f}" '
        f'y="0" height="{inner}"/>',
        f'<line class="one" x1="{at(1):.1f}" x2="{at(1):.1f}" y1="0" y2="{inner}"/>',
    ]
    parts += [
        f'<text x="{at(value):.1f}" y="{height - 8}" text-anchor="middle">{value:g}</text>'
        for value in spread(shown, at)
    ]
    for number, (name, ratio, least, most) in enumerate(rows):
        y = ROW_HEIGHT * number + ROW_HEIGHT / 2
        parts.append(f'<text x="{NAMES_WIDTH - 8}" y="{y + 4:.1f}" text-anchor="end">{escape(name)}</text>')
        parts.append(f'<line class="interval" x1="{at(least):.1f}" x2="{at(most):.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<circle class="middle" cx="{at(ratio):.1f}" cy="{y:.1f}" r="4"/>')
    return (
        f'<svg class="plot forest" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="{escape(title, quote=True)}">{"".join(parts)}</svg>'
    )


def spread(values: Sequence[float], at: Callable[[float], float], least: float = 30.0) -> list[float]:
    """Those whose places are apart enough for a number; 1 is always among them."""
    kept = [1.0]
    for value in sorted(values, key=lambda one: abs(math.log(one))):
        if all(abs(at(value) - at(other)) >= least for other in kept):
            kept.append(value)
    return sorted(kept)


def stacked(rows: Mapping[str, Mapping[str, float]], *, title: str, unit: str = "ms") -> str:
    """A bar a row, a piece a part; parts keep their colour over rows."""
    names = list(dict.fromkeys(part for parts in rows.values() for part in parts))
    most = max(sum(parts.values()) for parts in rows.values()) or 1
    height, wide = 34, WIDTH - NAMES_WIDTH - 70
    drawn = []
    for number, (name, parts) in enumerate(rows.items()):
        y, left = number * height + 4, float(NAMES_WIDTH)
        drawn.append(f'<text x="{NAMES_WIDTH - 8}" y="{y + 16}" text-anchor="end">{escape(name)}</text>')
        for part, value in parts.items():
            width = wide * value / most
            drawn.append(
                f'<rect class="part part{names.index(part)}" x="{left:.1f}" y="{y}" width="{max(0.5, width):.1f}" '
                f'height="22"><title>{escape(part)} {value:.2f} {unit}</title></rect>'
            )
            left += width
        drawn.append(f'<text x="{left + 6:.1f}" y="{y + 16}">{sum(parts.values()):.2f} {unit}</text>')
    key = "".join(
        f'<span class="key"><svg viewBox="0 0 12 10" aria-hidden="true"><rect class="part part{place}" width="12" '
        f'height="10"/></svg>{escape(name)}</span>'
        for place, name in enumerate(names)
    )
    return (
        f'<svg class="plot" viewBox="0 0 {WIDTH} {height * len(rows) + 4}" role="img" '
        f'aria-label="{escape(title, quote=True)}">{"".join(drawn)}</svg>{key}'
    )


def short(value: float) -> str:
    """
    >>> [short(value) for value in (0.05, 2, 1500, 128, 4e6)]
    ['0.05', '2', '1.5k', '128', '4M']
    """
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"
