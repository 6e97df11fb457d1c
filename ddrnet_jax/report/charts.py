"""Inline SVG: curves over steps, bars, the heat map of a confusion matrix. Colours come from the page's CSS."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ddrnet_jax.report.markup import Markup, element

_WIDTH, _HEIGHT = 420, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 12, 40
_MOST_POINTS = 600  # of a curve, more than a chart has pixels for
_MAP = 430  # pixels of a heat map's side, within the limits of a cell
_CELLS = (26, 44)
_LETTER = 6.3  # pixels of a letter of the heat map's names
_LONGEST_NAME = 22


class Curve(NamedTuple):
    """One run's values over its steps."""

    steps: Sequence[int]
    values: Sequence[float]


def line_chart(curves: Sequence[Curve], *, title: str, unit: str, has_points: bool) -> Markup:
    """Curves over the same axes, both with ticks; empty ones are left out.

    has_points  mark every value, with its number on hover
    """
    curves = [(i, _thinned(curve)) for i, curve in enumerate(curves) if len(curve.steps)]
    steps = [s for _, curve in curves for s in curve.steps]
    values = [v for _, curve in curves for v in curve.values]
    x_max = max([1, *steps])
    x_ticks = [tick for tick in ticks(0, x_max, 4, whole=True) if tick <= x_max]
    y_ticks = ticks(min(0.0, *values), max(values), 4) if values else [0.0, 1.0]
    y_min, y_max = y_ticks[0], y_ticks[-1]

    def x(step: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * step / x_max

    def y(value: float) -> float:
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * (value - y_min) / (y_max - y_min)

    parts = [_axes(x_ticks, y_ticks, x, y)]
    for i, curve in curves:
        points = " ".join(f"{x(s):.1f},{y(v):.1f}" for s, v in zip(curve.steps, curve.values, strict=True))
        parts.append(element("polyline", points=points, class_=f"curve run{i}"))
        if has_points or len(curve.steps) == 1:
            parts += [_point(x(s), y(v), i, s, v, unit) for s, v in zip(curve.steps, curve.values, strict=True)]
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(element("text", "step", x=middle, y=_HEIGHT - 6, text_anchor="middle", class_="axis"))
    name = f"{title} over steps"
    return element("svg", parts, viewBox=f"0 0 {_WIDTH} {_HEIGHT}", class_="chart", role="img", aria_label=name)


def _axes(x_ticks: list[float], y_ticks: list[float], x, y) -> list[Markup]:
    parts = []
    for tick in y_ticks:
        parts.append(element("path", d=f"M{_LEFT},{y(tick):.1f}H{_WIDTH - _RIGHT}", class_="grid"))
        parts.append(element("text", short(tick), x=_LEFT - 6, y=f"{y(tick) + 4:.1f}", text_anchor="end"))
    bottom = _HEIGHT - _BOTTOM
    for tick in x_ticks:
        parts.append(element("path", d=f"M{x(tick):.1f},{bottom}v4", class_="grid"))
        parts.append(element("text", short(tick), x=f"{x(tick):.1f}", y=bottom + 17, text_anchor="middle"))
    return parts


def _point(x: float, y: float, run: int, step: int, value: float, unit: str) -> Markup:
    title = element("title", f"step {step}: {value:.4g}{unit}")
    return element("circle", title, cx=f"{x:.1f}", cy=f"{y:.1f}", r=3.5, class_=f"point run{run}")


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
    names = [clipped(name) for name in classes]
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
        for column in np.flatnonzero(confusion[row]):
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
        aria_label="confusion matrix: rows are labels, columns predictions",
    )  # fmt: skip


def _cell(row: int, column: int, share: float, about: str, margin: float, side: int) -> Markup:
    left, top = margin + column * side, margin + row * side
    kind = "right" if row == column else "wrong"
    square = element(
        "rect", x=f"{left:.1f}", y=f"{top:.1f}", width=side, height=side, fill_opacity=f"{share:.3f}", class_=kind
    )
    number = None
    if round(100 * share):
        on_dark = " strong" if share > 0.55 else ""
        middle = {"x": f"{left + side / 2:.1f}", "y": f"{top + side / 2 + 3.5:.1f}"}
        number = element("text", round(100 * share), text_anchor="middle", class_=f"count{on_dark}", **middle)
    return element("g", element("title", about), square, number)


def clipped(name: str) -> str:
    """A name short enough for the side of a heat map."""
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"
