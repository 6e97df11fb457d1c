"""Inline SVG: curves, bars, the heat map of a confusion matrix. Colours come from the page's CSS."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ddrnet_jax.report.markup import Markup, element
from ddrnet_jax.text import cut, printable

_WIDTH, _HEIGHT = 420, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 12, 40
_MOST_POINTS = 600  # of a curve, more than a chart has pixels for
_MAP = 430  # pixels of a heat map's side, within the limits of a cell
_CELLS = (26, 44)
_LETTER = 7.2  # pixels of a letter of the heat map's names
_LONGEST_NAME = 22


class Curve(NamedTuple):
    """One run's values over its steps."""

    steps: Sequence[int]
    values: Sequence[float]


class Axes(NamedTuple):
    """The place of values in a chart: from the first to the last of x_range, and between the outermost ticks of y.

    is_log  x is logarithmic
    """

    x_range: tuple[float, float]
    x_ticks: Sequence[float]
    y_ticks: Sequence[float]
    is_log: bool = False

    def x(self, value: float) -> float:
        """Pixels from the left."""
        low, high, at = map(math.log, (*self.x_range, value)) if self.is_log else (*self.x_range, value)
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (at - low) / (high - low)

    def y(self, value: float) -> float:
        """Pixels from the top."""
        low, high = self.y_ticks[0], self.y_ticks[-1]
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * (value - low) / (high - low)

    def curve(self, points: Sequence[tuple[float, float]], class_: str) -> Markup:
        """Lines from each (x, y) to the next."""
        return element(
            "polyline", points=" ".join(f"{self.x(a):.1f},{self.y(b):.1f}" for a, b in points), class_=class_
        )

    def point(self, x: float, y: float, about: str, class_: str) -> Markup:
        """A dot that says `about` on hover."""
        return element(
            "circle", element("title", about), cx=f"{self.x(x):.1f}", cy=f"{self.y(y):.1f}", r=3.5, class_=class_
        )

    def name(self, text: str, y: float) -> Markup:
        """A text at the left, at one y."""
        return element("text", text, x=_LEFT + 4, y=f"{self.y(y) + 4:.1f}")

    def upright(self, x: float, name: str) -> Markup:
        """A line at one x from the bottom to the top, with its name beside."""
        line = element("path", d=f"M{self.x(x):.1f},{_HEIGHT - _BOTTOM}V{_TOP}", class_="upright")
        return element("g", line, element("text", name, x=f"{self.x(x) + 5:.1f}", y=_TOP + 10))

    def chart(self, parts: Sequence[Markup], *, x_name: str, about: str) -> Markup:
        """The picture of these parts over the ticks' grid."""
        grid = []
        for tick in self.y_ticks:
            y = self.y(tick)
            grid.append(element("path", d=f"M{_LEFT},{y:.1f}H{_WIDTH - _RIGHT}", class_="grid"))
            grid.append(element("text", short(tick), x=_LEFT - 6, y=f"{y + 4:.1f}", text_anchor="end"))
        bottom = _HEIGHT - _BOTTOM
        for tick in self.x_ticks:
            x = f"{self.x(tick):.1f}"
            grid.append(element("path", d=f"M{x},{bottom}v4", class_="grid"))
            grid.append(element("text", short(tick), x=x, y=bottom + 17, text_anchor="middle"))
        middle = (_LEFT + _WIDTH - _RIGHT) / 2
        name = element("text", x_name, x=middle, y=_HEIGHT - 6, text_anchor="middle", class_="axis")
        box = f"0 0 {_WIDTH} {_HEIGHT}"
        return element("svg", grid, parts, name, viewBox=box, class_="chart", role="img", aria_label=about)


def line_chart(curves: Sequence[Curve], *, title: str, unit: str, has_points: bool) -> Markup:
    """Curves over the same axes, both with ticks; empty ones are left out.

    has_points  mark every value, with its number on hover
    """
    curves = [(i, _thinned(curve)) for i, curve in enumerate(curves) if len(curve.steps)]
    values = [v for _, curve in curves for v in curve.values]
    x_max = max([1, *(s for _, curve in curves for s in curve.steps)])
    x_ticks = [tick for tick in ticks(0, x_max, 4, whole=True) if tick <= x_max]
    axes = Axes((0, x_max), x_ticks, ticks(min(0.0, *values), max(values), 4) if values else [0.0, 1.0])
    parts = []
    for i, curve in curves:
        points = [*zip(curve.steps, curve.values, strict=True)]
        parts.append(axes.curve(points, f"curve run{i}"))
        if has_points or len(points) == 1:
            parts += [axes.point(s, v, f"step {s}: {v:.4g}{unit}", f"point run{i}") for s, v in points]
    return axes.chart(parts, x_name="step", about=f"{title} over steps")


def _thinned(curve: Curve) -> Curve:
    """The means of as many equal groups of lines as a chart can show."""
    group = math.ceil(len(curve.steps) / _MOST_POINTS)
    if group < 2:
        return curve
    starts = range(0, len(curve.steps), group)
    values = [math.fsum(curve.values[i : i + group]) / len(curve.values[i : i + group]) for i in starts]
    return Curve([curve.steps[i : i + group][-1] for i in starts], values)


def lines_a_point(count: int) -> int:
    """The number of values, of `count`, that one point of a curve is the mean of."""
    return max(1, math.ceil(count / _MOST_POINTS))


def ticks(low: float, high: float, count: int, *, whole: bool = False) -> list[float]:
    """About `count` round numbers, evenly spaced, that enclose low and high."""
    if not high > low:
        high = low + (abs(low) or 1.0)
    rough = max((high - low) / count, 1.0 if whole else 0.0)
    power = 10.0 ** math.floor(math.log10(rough))
    steps = [m * power for m in (1, 2, 2.5, 5, 10)]
    step = next(s for s in steps if s >= rough * (1 - 1e-9) and (s.is_integer() or not whole))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times the powers of ten, of those between low and high."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [round(m * 10.0**p, 9) for p in powers for m in (1, 2, 5)]
    return [tick for tick in found if low <= tick <= high]


def short(number: float) -> str:
    """A tick's number: 120k, 0.01, 5e-05."""
    if abs(number) >= 10_000:
        return f"{number / 1000:g}k" if abs(number) < 1e6 else f"{number / 1e6:g}M"
    return f"{number:.6g}"


def bar(share: float, fill: str, *, run: int | None = None) -> Markup:
    """A bar of `share` (0..1) of its place.

    fill  a CSS colour; of a bar of several runs the run's own colour is taken
    """
    colour = {"fill": fill} if run is None else {"class_": f"fill{run}"}
    body = element("rect", x=0, y=0, width=f"{100 * share:.2f}", height=10, **colour)
    place = element("rect", x=0, y=0, width=100, height=10, class_="place")
    return element(
        "svg", place, body, viewBox="0 0 100 10", preserveAspectRatio="none", class_="bar", aria_hidden="true"
    )


def heat_map(confusion: np.ndarray, classes: Sequence[str], row_totals: np.ndarray) -> Markup:
    """Shares of each row of labels, in percent, with names and counts on hover.

    confusion   i64[C,C], rows are labels
    row_totals  i64[C] labelled pixels of each row, which may be more than the columns shown
    """
    classes = [printable(name) for name in classes]
    names = [cut(name, _LONGEST_NAME, "…") for name in classes]
    margin = 12 + _LETTER * max(map(len, names))
    side = min(max(_MAP // len(names), _CELLS[0]), _CELLS[1])
    size = side * len(names)
    parts = []
    for i, name in enumerate(names):
        middle = margin + (i + 0.5) * side
        full = element("title", classes[i])
        parts.append(element("text", full, name, x=f"{margin - 6:.1f}", y=f"{middle + 4:.1f}", text_anchor="end"))
        turned = f"translate({middle + 4:.1f},{margin - 6:.1f}) rotate(-90)"
        parts.append(element("text", full, name, transform=turned))
    for row, total in enumerate(row_totals):
        for column in np.flatnonzero(confusion[row]).tolist():
            count = int(confusion[row, column])
            share = count / total
            about = f"{classes[row]} predicted as {classes[column]}: {share:.2%} ({count:,} pixels)"
            parts.append(_cell(row, column, share, about, margin, side))
    frame = element("rect", x=f"{margin:.1f}", y=f"{margin:.1f}", width=size, height=size, class_="frame")
    whole = f"{margin + size + 2:.0f}"
    is_small = size <= _MAP  # enough of it can be read on a telephone to be made smaller there; others scroll
    return element(
        "svg", frame, parts, viewBox=f"0 0 {whole} {whole}", width=whole, height=whole,
        class_="heat small" if is_small else "heat", role="img",
        aria_label="confusion matrix: rows are labels, columns predictions; its numbers are in the table below",
    )  # fmt: skip


def _cell(row: int, column: int, share: float, about: str, margin: float, side: int) -> Markup:
    left, top = margin + column * side, margin + row * side
    kind = "right" if row == column else "wrong"
    square = element(
        "rect", x=f"{left:.1f}", y=f"{top:.1f}", width=side, height=side, fill_opacity=f"{share:.3f}", class_=kind
    )
    number = None
    if round(100 * share):
        middle = {"x": f"{left + side / 2:.1f}", "y": f"{top + side / 2 + 3.5:.1f}"}
        number = element("text", round(100 * share), text_anchor="middle", class_="count", **middle)
    return element("g", element("title", about), square, number)
