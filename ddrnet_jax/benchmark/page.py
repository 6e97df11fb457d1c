"""The benchmark as a page: accuracy over speed, as figure 1 of the paper, and all figures as they are printed."""

from collections.abc import Sequence

from ddrnet_jax.benchmark import device
from ddrnet_jax.benchmark.published import CITYSCAPES_HW, HARDWARE, PUBLISHED
from ddrnet_jax.report import charts
from ddrnet_jax.report.markup import DASH, Markup, document, element, table
from ddrnet_jax.report.style import CSS
from ddrnet_jax.text import three_digits, versions

PAPER = f"paper: {HARDWARE}"
_HERE = "measured here: "
_PUBLISHED = {variant: row for (variant, size_hw), row in PUBLISHED.items() if size_hw == CITYSCAPES_HW}
_REAL_TIME_FPS = 30.0
_CSS = f"""{CSS}
.figures {{ white-space: pre; overflow-x: auto; }}
.speeds {{ max-width: 760px; }} .speeds .chart {{ max-width: none; }} .speeds .chart text {{ fill: var(--muted); }}
.curve, .point {{ stroke: currentColor; }} .curve {{ stroke-opacity: .4; }}
.point {{ fill: currentColor; }} .speeds table {{ margin: 8px 0; }}
.color0 {{ color: var(--muted); }} .color1 {{ color: var(--run0); }} .color2 {{ color: var(--run1); }}
.color3 {{ color: #2c8c4a; }} .color4 {{ color: #a05ac8; }} .color5 {{ color: #b0741a; }} .color6 {{ color: #1f8f9c; }}
"""


def page(result: dict, lines: Sequence[str]) -> str:
    """The text of an HTML file.

    result  what benchmark.json holds
    lines   the report for people; its title comes first
    """
    figures = element("pre", "\n".join(lines[1:]).strip("\n"), class_="figures", tabindex=0)
    main = element("main", element("h1", lines[0]), _figure(result), element("h2", "All figures"), figures)
    return document(lines[0], _CSS, main)


def speeds(result: dict) -> dict[str, dict[str, float]]:
    """Frames a second, {where and by what: {variant: FPS}}, one image of 1024x2048 at a time; the paper's come first.

    Empty without a `paper` row of that size, and for weights of another data set: their mIoU is not the published one.
    """
    found: dict[str, dict[str, float]] = {}
    for row in filter(_is_drawn, result["rows"] if result["data_set"] in (None, "cityscapes") else ()):
        found.setdefault(_HERE + row["engine"], {})[row["variant"]] = row["fps"]
    return found and {PAPER: {variant: row.fps for variant, row in _PUBLISHED.items()}} | found


def _is_drawn(row: dict) -> bool:
    where = row["protocol"], tuple(row["size_hw"]), row["batch"]
    return not row["error"] and where == ("paper", CITYSCAPES_HW, 1) and row["variant"] in _PUBLISHED


def _figure(result: dict) -> Markup | None:
    """The chart, its numbers, and what they are."""
    shown = speeds(result)
    if not shown:
        return None
    packages = {name.removeprefix(_HERE).split()[0] for name in shown}  # jax of "jax float32"
    software = versions({name: version for name, version in result["versions"].items() if name in packages})
    about = (
        "mIoU: published, Cityscapes test set; not measured here. FPS: 1024x2048, one image at a time, x8 upsampling "
        f"included, argmax not. Coloured: measured on {device.label(result['device'])}, {software}. "
        f"Grey: published, {HARDWARE}. Different machines: not a comparison of software."
    )
    title = element("figcaption", element("b", "DDRNet on Cityscapes: accuracy (mIoU, %) and speed"))
    return element("figure", title, _chart(shown), _numbers(shown), element("p", about, class_="note"), class_="speeds")


def _chart(shown: dict[str, dict[str, float]]) -> Markup:
    """Published mIoU in percent over frames a second, a line for each engine; numbers on hover."""
    fps = [value for by_variant in shown.values() for value in by_variant.values()]
    mious = {variant: 100 * row.miou for variant, row in _PUBLISHED.items()}
    low, high = min(fps) / 5, max(fps) * 1.5  # with room for the networks' names at the left
    y_ticks = charts.ticks(min(mious.values()), max(mious.values()), 4)
    axes = charts.Axes((low, high), charts.log_ticks(low, high), y_ticks, is_log=True)
    parts = [axes.name(_name(variant), miou) for variant, miou in mious.items()]
    if low < _REAL_TIME_FPS < high:
        parts.append(axes.upright(_REAL_TIME_FPS, "30 FPS"))
    for i, (name, by_variant) in enumerate(shown.items()):
        points = sorted(
            (fps, mious[v], f"{_name(v)}, {name}: {three_digits(fps)} FPS") for v, fps in by_variant.items()
        )
        parts.append(axes.curve([(x, y) for x, y, _ in points], f"curve {_color(i)}"))
        parts += [axes.point(*point, f"point {_color(i)}") for point in points]
    return axes.chart(parts, x_name="frames a second (logarithmic)", about="published mIoU over frames a second")


def _numbers(shown: dict[str, dict[str, float]]) -> Markup:
    """The chart's frames a second; a dash where a network was not measured."""
    head = ["frames a second", *(f"{_name(variant)}, {100 * row.miou:.1f} %" for variant, row in _PUBLISHED.items())]
    rows = [
        [[element("b", "● ", class_=_color(i)), name]]
        + [three_digits(by_variant[variant]) if variant in by_variant else DASH for variant in _PUBLISHED]
        for i, (name, by_variant) in enumerate(shown.items())
    ]
    return table(head, rows)


def _color(index: int) -> str:
    """A class of the CSS: the paper's own, and one for each of as many engines as run side by side."""
    return f"color{index and 1 + (index - 1) % 6}"


def _name(variant: str) -> str:
    return variant.replace("_", "-")
