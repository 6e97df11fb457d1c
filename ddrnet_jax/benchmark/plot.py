"""Speed against accuracy, as figure 1 of the paper: published mIoU over measured frames a second, drawn with cv2."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from ddrnet_jax.benchmark import device
from ddrnet_jax.benchmark.published import CITYSCAPES_HW, HARDWARE, PUBLISHED
from ddrnet_jax.data import pictures

PLOT_NAME = "speed_accuracy.png"
PAPER = f"paper: {HARDWARE}"
_SIZE_HW = (1000, 1600)
_AREA = (180, 150, 1550, 780)  # top, left, right, bottom of the axes
_SMOOTH = 2  # drawn so many times larger
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_INK, _GREY, _GRID = (40, 40, 40), (110, 110, 110), (228, 228, 228)
_PAPER_COLOR = (150, 150, 150)
_COLORS = ((31, 99, 190), (214, 96, 30), (44, 140, 74), (140, 80, 170), (190, 40, 60))
_CAPTION_SCALE, _LABEL_SCALE = 0.62, 0.75
_APART = 5  # pixels around a label that are kept free
_LINE_FAULT = 7  # a label upon a line is better than one so many places further away
_REAL_TIME_FPS = 30.0


class Point(NamedTuple):
    """One network: frames a second, published mIoU (0..1), what stands beside it."""

    fps: float
    miou: float
    label: str


class Series(NamedTuple):
    """The networks by one engine, or the paper's."""

    name: str
    points: tuple[Point, ...]
    color: tuple[int, int, int]


class Plot(NamedTuple):
    """What is drawn.

    fps_range, miou_range  of the axes; the first is logarithmic
    """

    title: str
    series: tuple[Series, ...]
    fps_range: tuple[float, float]
    fps_ticks: tuple[float, ...]
    miou_range: tuple[float, float]
    miou_ticks: tuple[float, ...]
    caption: str


def write(result: dict, output: Path) -> Path | None:
    """OUTPUT/speed_accuracy.png; None where the benchmark has no row for it, and that of another benchmark goes."""
    path, plot = output / PLOT_NAME, layout(result)
    if plot is None:
        path.unlink(missing_ok=True)
        return None
    pictures.write_png(path, draw(plot))
    return path


def layout(result: dict) -> Plot | None:
    """The plot of a benchmark's `paper` rows at 1024x2048, one image at a time; None if there is none.

    Nor is there one of weights from another data set: their mIoU is not the published one.
    """
    rows = [r for r in result["rows"] if _is_drawn(r)] if result["data_set"] in (None, "cityscapes") else []
    if not rows:
        return None
    engines = list(dict.fromkeys(row["engine"] for row in rows))
    where, versions = device.label(result["device"]), result["versions"]
    packages = {engine.split()[0] for engine in engines}  # "jax float32"
    software = ", ".join(f"{name} {version}" for name, version in versions.items() if name in packages)
    series = [Series(PAPER, _points(_published_speeds()), _PAPER_COLOR)]
    for i, engine in enumerate(engines):
        speeds = {row["variant"]: row["fps"] for row in rows if row["engine"] == engine}
        series.append(Series(f"measured here: {engine}", _points(speeds), _COLORS[i % len(_COLORS)]))
    all_fps = [point.fps for s in series for point in s.points]
    fps_range = (min(all_fps) / 2.2, max(all_fps) * 2.6)
    caption = (
        "mIoU: published, Cityscapes test set; not measured here. FPS: 1024x2048, one image at a time, x8 upsampling "
        f"included, argmax not. Coloured: measured on {where}, {software}. "
        f"Grey: published, {HARDWARE}. Different machines: not a comparison of software."
    )
    return Plot(
        title="DDRNet on Cityscapes: accuracy and speed",
        series=tuple(series),
        fps_range=fps_range,
        fps_ticks=_ticks(fps_range),
        miou_range=(0.763, 0.815),
        miou_ticks=(0.77, 0.78, 0.79, 0.80, 0.81),
        caption=caption,
    )


def _is_drawn(row: dict) -> bool:
    where = row["protocol"], tuple(row["size_hw"]), row["batch"]
    return not row["error"] and where == ("paper", CITYSCAPES_HW, 1) and (row["variant"], CITYSCAPES_HW) in PUBLISHED


def _published_speeds() -> dict[str, float]:
    return {variant: row.fps for (variant, size_hw), row in PUBLISHED.items() if size_hw == CITYSCAPES_HW}


def _points(speeds: dict[str, float]) -> tuple[Point, ...]:
    """Slowest first."""
    points = []
    for variant, fps in sorted(speeds.items(), key=lambda item: item[1]):
        label = f"{variant.replace('_', '-')}: {fps:.3g}"
        points.append(Point(fps, PUBLISHED[variant, CITYSCAPES_HW].miou, label))
    return tuple(points)


def _ticks(fps_range: tuple[float, float]) -> tuple[float, ...]:
    """1, 2, 5 of every power of ten in the range."""
    powers = range(math.floor(math.log10(fps_range[0])), math.ceil(math.log10(fps_range[1])) + 1)
    ticks = [m * 10.0**p for p in powers for m in (1, 2, 5)]
    return tuple(round(t, 6) for t in ticks if fps_range[0] <= t <= fps_range[1])


def place(plot: Plot, fps: float, miou: float) -> tuple[float, float]:
    """Where a point lies in the picture: (x, y) in pixels."""
    top, left, right, bottom = _AREA
    low, high = (math.log10(f) for f in plot.fps_range)
    x = left + (right - left) * (math.log10(fps) - low) / (high - low)
    y = bottom - (bottom - top) * (miou - plot.miou_range[0]) / (plot.miou_range[1] - plot.miou_range[0])
    return x, y


def label_boxes(plot: Plot) -> dict[tuple[int, int], tuple[float, float, float, float]]:
    """(series, point) -> left, top, right, bottom of its label in pixels.

    Each near its point where it hits no other label and no point, and if it need not, no line.
    """
    taken = [_box(*place(plot, p.fps, p.miou), 0, 0, 22, 22) for series in plot.series for p in series.points]
    lines = [_box(*place(plot, fps, miou), 0, 0, 2, 2) for fps, miou in _on_lines(plot)]
    boxes: dict[tuple[int, int], tuple[float, float, float, float]] = {}

    def faults(choice) -> tuple[bool, int]:
        order, box = choice
        hits = not _is_inside(box) or any(_overlap(box, other) for other in taken)
        return hits, order + _LINE_FAULT * any(_overlap(box, line) for line in lines)

    for i, series in enumerate(plot.series):
        for j, point in enumerate(series.points):
            size, centre = _text_size(point.label, _LABEL_SCALE), place(plot, point.fps, point.miou)
            choices = enumerate(_box(*centre, dx, dy, *size) for dx, dy in _offsets(*size))
            _, boxes[i, j] = min(choices, key=faults)
            taken.append(boxes[i, j])
    return boxes


def _on_lines(plot: Plot) -> Iterator[tuple[float, float]]:
    """Many (fps, miou) along the lines between points, and along the line at 30 FPS."""
    steps = np.linspace(0, 1, 60)
    for series in plot.series:
        for a, b in zip(series.points, series.points[1:], strict=False):
            yield from ((a.fps * (b.fps / a.fps) ** t, a.miou + (b.miou - a.miou) * t) for t in steps)
    low, high = plot.miou_range
    yield from ((_REAL_TIME_FPS, low + (high - low) * t) for t in steps)


def _offsets(width: float, height: float) -> list[tuple[float, float]]:
    """From a point to the centre of its label: right of it, left of it, then ever further above and below."""
    aside, away = 18 + width / 2, 16 + height / 2
    return [(aside, 0.0), (-aside, 0.0)] + [
        (dx, side * (away + k * (height + 2 * _APART)))
        for k in range(4)
        for dx in (0.0, width / 3, -width / 3)
        for side in (-1, 1)
    ]


def _box(x: float, y: float, dx: float, dy: float, width: float, height: float) -> tuple[float, float, float, float]:
    return x + dx - width / 2, y + dy - height / 2, x + dx + width / 2, y + dy + height / 2


def _is_inside(box: Sequence[float]) -> bool:
    top, left, right, bottom = _AREA
    return box[0] > left and box[1] > top and box[2] < right and box[3] < bottom


def _overlap(a: Sequence[float], b: Sequence[float]) -> bool:
    """Of two boxes, or of the free space around them."""
    return all(a[k] - _APART < b[k + 2] and b[k] - _APART < a[k + 2] for k in (0, 1))


def draw(plot: Plot) -> np.ndarray:
    """u8[1000,1600,3] RGB"""
    canvas = np.full((_SIZE_HW[0] * _SMOOTH, _SIZE_HW[1] * _SMOOTH, 3), 255, np.uint8)
    _text(canvas, plot.title, (_AREA[1], 60), 1.2, _INK, thickness=2)
    _axes(canvas, plot)
    for i, series in enumerate(plot.series):
        _legend_entry(canvas, series, i)
        places = [place(plot, p.fps, p.miou) for p in series.points]
        for a, b in zip(places, places[1:], strict=False):
            cv2.line(canvas, _pixel(a), _pixel(b), _pale(series.color), 2 * _SMOOTH, cv2.LINE_AA)
    boxes = label_boxes(plot)
    for i, series in enumerate(plot.series):
        for j, point in enumerate(series.points):
            centre = _pixel(place(plot, point.fps, point.miou))
            cv2.circle(canvas, centre, 11 * _SMOOTH, (255, 255, 255), -1, cv2.LINE_AA)
            cv2.circle(canvas, centre, 9 * _SMOOTH, series.color, -1, cv2.LINE_AA)
            left, _, _, bottom = boxes[i, j]
            _text(canvas, point.label, (left, bottom - 6), _LABEL_SCALE, _dark(series.color))
    for i, line in enumerate(_lines(plot.caption, _AREA[2] - _AREA[1])):
        _text(canvas, line, (_AREA[1], _AREA[3] + 122 + 28 * i), _CAPTION_SCALE, _GREY)
    return cv2.resize(canvas, _SIZE_HW[::-1], interpolation=cv2.INTER_AREA)


def _lines(text: str, width: float) -> list[str]:
    """Of the caption, none wider than `width` pixels."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and _text_size(longer, _CAPTION_SCALE)[0] > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _axes(canvas: np.ndarray, plot: Plot) -> None:
    top, left, right, bottom = _AREA
    for fps in plot.fps_ticks:
        x, _ = place(plot, fps, plot.miou_range[0])
        cv2.line(canvas, _pixel((x, top)), _pixel((x, bottom)), _GRID, _SMOOTH)
        _text(canvas, f"{fps:g}", (x, bottom + 34), 0.75, _INK, centred=True)
    for miou in plot.miou_ticks:
        _, y = place(plot, plot.fps_range[0], miou)
        cv2.line(canvas, _pixel((left, y)), _pixel((right, y)), _GRID, _SMOOTH)
        text = f"{100 * miou:.0f}"
        _text(canvas, text, (left - 16 - _text_size(text, 0.75)[0], y + 8), 0.75, _INK)
    if plot.fps_range[0] < _REAL_TIME_FPS < plot.fps_range[1]:
        x, _ = place(plot, _REAL_TIME_FPS, plot.miou_range[0])
        for y in range(top, bottom, 18):
            cv2.line(canvas, _pixel((x, y)), _pixel((x, min(bottom, y + 9))), _GREY, 2 * _SMOOTH)
        _text(canvas, "30 FPS", (x + 10, top + 28), 0.65, _GREY)
    cv2.line(canvas, _pixel((left, bottom)), _pixel((right, bottom)), _INK, 2 * _SMOOTH)
    cv2.line(canvas, _pixel((left, top)), _pixel((left, bottom)), _INK, 2 * _SMOOTH)
    _text(canvas, "frames a second (logarithmic)", ((left + right) / 2, bottom + 74), 0.8, _INK, centred=True)
    _text(canvas, "mIoU, %", (28, top - 14), 0.8, _INK)


def _legend_entry(canvas: np.ndarray, series: Series, index: int) -> None:
    """Above the axes, two in a row."""
    x, y = _AREA[1] + (index % 2) * 690, 100 + 30 * (index // 2)
    cv2.circle(canvas, _pixel((x + 8, y - 7)), 8 * _SMOOTH, series.color, -1, cv2.LINE_AA)
    _text(canvas, series.name, (x + 28, y), 0.72, _INK)


def _text(canvas, text, origin, scale, color, *, thickness=1, centred=False) -> None:
    x, y = origin
    if centred:
        x -= _text_size(text, scale)[0] / 2
    width = round(thickness * 1.6 * _SMOOTH)
    cv2.putText(canvas, text, _pixel((x, y)), _FONT, scale * _SMOOTH, color, width, cv2.LINE_AA)


def _text_size(text: str, scale: float) -> tuple[float, float]:
    (width, height), baseline = cv2.getTextSize(text, _FONT, scale, 2)
    return width, height + baseline


def _pixel(place: tuple[float, float]) -> tuple[int, int]:
    return round(place[0] * _SMOOTH), round(place[1] * _SMOOTH)


def _pale(color: tuple[int, int, int]) -> tuple[int, ...]:
    return tuple(round(c + (255 - c) * 0.6) for c in color)


def _dark(color: tuple[int, int, int]) -> tuple[int, ...]:
    return tuple(round(c * 0.75) for c in color)
