"""A report on a data set for people: a screen of text, and a picture of samples with their labels."""

import dataclasses
import functools
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

from ddrnet_jax.data import pictures
from ddrnet_jax.data.check.check import Report
from ddrnet_jax.data.check.findings import Finding, Tally
from ddrnet_jax.data.samples import Sample
from ddrnet_jax.data.sets.specs import DatasetSpec
from ddrnet_jax.outputs import Outputs
from ddrnet_jax.text import WIDTH, cut, percent, wrapped

FILES = ("findings.txt", "samples.png")
_NAME_LINES = 24  # of all findings together, on one screen
_NAMES = 5  # of one finding
_MOST_CLASSES = 24  # that are listed in full
_ALL_NAMES = ", all of them in findings.txt"
_SIZES = 4
_GAP = 6
_wrapped = functools.partial(wrapped, hanging=4)


def write(report: Report, output: str | Path) -> list[str]:
    """Write OUTPUT/findings.txt, with every name, and OUTPUT/samples.png; returns one screen of lines.

    Raises OutputError if the files cannot be written, or something of the user's is there.
    """
    outputs, output = Outputs(output), Path(output)
    text = "\n".join(lines(report, whole=True)) + "\n"
    outputs.write(FILES[0], text.encode(errors="surrogateescape"))
    screen = lines(report)
    if report.samples:
        outputs.write(FILES[1], pictures.png(sheet(report)))
        screen += _wrapped(f"{len(report.samples)} samples with their labels: {output / 'samples.png'}")
    if any(line.endswith(_ALL_NAMES) for line in screen):
        screen += _wrapped(f"every name: {output / 'findings.txt'}")
    return [*screen, _verdict(report)]


def lines(report: Report, whole: bool = False) -> list[str]:
    """The report in at most 80 columns; whole: every file and every class."""
    where = f" in {report.root}" if report.root else ""
    out = _wrapped(f"{report.name}{where}")
    for tally in report.tallies:
        out += _wrapped(f"{tally.role} ({tally.split}): {tally.count:,} images; {_sizes(tally)}", "  ")
    out += ["", *_histogram(report, whole), ""]
    named = sum(bool(finding.names) for finding in report.findings)
    shown = max(1, min(_NAMES, _NAME_LINES // max(named, 1)))
    for finding in report.findings:
        out += finding_lines(finding, root=f"{report.root}/", shown=len(finding.names) if whole else shown)
    return [*out, ""] if report.findings else out


def _sizes(tally: Tally) -> str:
    sizes = tally.sizes.most_common()
    text = ", ".join(f"{width}x{height}: {count:,}" for (width, height), count in sizes[:_SIZES])
    return f"{text} and {len(sizes) - _SIZES} more sizes" if len(sizes) > _SIZES else text or "none is readable"


def finding_lines(finding: Finding, *, root: str = "/", shown: int = _NAMES, rest: str = _ALL_NAMES) -> list[str]:
    """One finding in at most 80 columns: what, at most `shown` of its files (below `root`), what to do.

    rest  where the others are, as the end of a line
    """

    def relative(text: str) -> str:
        return text.replace(root, "") if root != "/" else text

    out = _wrapped(f"{finding.severity}: {relative(finding.message)}")
    for name in finding.names[:shown]:
        out += _wrapped(relative(name), "    ")
    if len(finding.names) > shown:
        out.append(f"    and {len(finding.names) - shown:,} more{rest}")
    out += _wrapped(f"-> {relative(finding.what_to_do)}{':' if finding.paste else ''}", "  ")
    for line in finding.paste:
        out += _wrapped(line, "    ")  # as it stands in get_config()
    return out


def _histogram(report: Report, whole: bool) -> list[str]:
    """Classes with their share of what is labelled, a column a split."""
    if not any(tally.counts.any() for tally in report.tallies):
        return ["no label could be read"]
    spec, per = report.spec, "labelled pixels" if report.spec.has_masks else "images"
    names = [cut(name, 24) for name in spec.classes]
    width = max(map(len, (*names, "(ignored)")))
    shares = [tally.counts[:-1] / max(tally.counts[:-1].sum(), 1) for tally in report.tallies]
    heading = "".join(f"{tally.role:>12}" for tally in report.tallies)
    rows = [f"{'class':<{width}}{heading}  share of {per}"]
    for i in _listed(shares[0], whole):
        if i is None:
            rows.append(f"{'...':<{width}}")
            continue
        bar = "#" * round(shares[0][i] / max(shares[0].max(), 1e-9) * (WIDTH - width - 12 * len(shares) - 3))
        rows.append(f"{names[i]:<{width}}{_columns([share[i] for share in shares])}  {bar}".rstrip())
    if spec.has_masks:
        ignored = [tally.counts[-1] / max(tally.counts.sum(), 1) for tally in report.tallies]
        rows.append(f"{'(ignored)':<{width}}{_columns(ignored)}  of all pixels")
    return rows


def _columns(shares: Iterable[float]) -> str:
    return "".join(f"{percent(share or None, 2):>12}" for share in shares)


def _listed(share: np.ndarray, whole: bool) -> Iterable[int | None]:
    """Indices of the classes in a table; of many, the most and the least frequent ones with None between."""
    if whole or len(share) <= _MOST_CLASSES:
        return range(len(share))
    order = np.argsort(-share, kind="stable").tolist()
    return [*order[:6], None, *order[-6:]]


def _verdict(report: Report) -> str:
    errors, warnings = report.count("error"), report.count("warning")
    if errors:
        return f"{errors} error(s), {warnings} warning(s): training would stop or go wrong"
    return f"no errors, {warnings} warning(s): this data can be trained on" if warnings else "fine: nothing is wrong"


def sheet(report: Report) -> np.ndarray:
    """u8[h,w,3] RGB: two samples a row, each the image beside its label (or under its class), and the legend."""
    spec = report.spec
    panels = [_panel(sample, spec) for sample in report.samples]
    rows = []
    for i in range(0, len(panels), 2):
        pair = panels[i : i + 2]
        height, width = (max(panel.shape[axis] for panel in panels) for axis in (0, 1))
        row = np.full((height + _GAP, 2 * width + 3 * _GAP, 3), 255, np.uint8)
        for column, panel in enumerate(pair):
            left = _GAP + column * (width + _GAP)
            row[: panel.shape[0], left : left + panel.shape[1]] = panel
        rows.append(row)
    if spec.has_masks:
        rows.append(pictures.legend(_named_colors(report), rows[0].shape[1]))
    return np.vstack(rows)


def _named_colors(report: Report) -> DatasetSpec:
    """The classes of the data set; where its labels were not understood, the colours by their numbers."""
    if np.ndim(report.samples[0]["label"]) == 2:
        return report.spec
    found = tuple(sorted({color for tally in report.tallies for color in tally.colors}))
    return dataclasses.replace(report.spec, classes=tuple(map(str, found)), colors=found)


def _panel(sample: Sample, spec: DatasetSpec) -> np.ndarray:
    image = sample["image"]
    width = 240 if spec.has_masks else 320
    height = max(1, min(480, round(width * image.shape[0] / image.shape[1])))
    views = [image]
    if spec.has_masks:
        label = sample["label"]
        views.append(label if label.ndim == 3 else pictures.colorize(label, spec))
    views = [cv2.resize(view, (width, height), interpolation=cv2.INTER_AREA) for view in views]
    title = Path(sample["name"]).name
    if not spec.has_masks:
        title = f"{spec.classes[sample['label']]}: {title}"
    strip = np.full((20, width * len(views), 3), 255, np.uint8)
    pictures.put_text(strip, cut(title, 60), (0, 14))
    return np.vstack([strip, np.hstack(views)])
