"""From what was seen of the samples of a split to findings: what is wrong, how bad it is, what to do."""

import collections
import dataclasses
from collections.abc import Sequence

import numpy as np

from ddrnet_jax.data import remarks
from ddrnet_jax.data.check.samples import Observation
from ddrnet_jax.data.labels import IGNORE
from ddrnet_jax.data.sets.specs import DatasetSpec
from ddrnet_jax.text import first_few

SEVERITIES = ("error", "warning", "note")
SHARED = "both trained and evaluated on"
_MOST_SIZES = 16  # that evaluation compiles without complaint
_MOST_VALUES = 6  # of what is unknown, in a message

# kind: (severity, of what there is one or more, what to do)
_KINDS = {
    "unreadable": ("error", "file(s) damaged or not readable", "replace them, or remove image and label"),
    "lossy": ("error", "label(s) in JPEG, which changes the values", "export them again as PNG"),
    "unread kind": ("error", "file(s) of a kind that is not read, though not damaged", "do what it says there"),
    "unread bits": ("error", "file(s) of numbers that are not 8 or 16 bits", ""),
    "deep label": ("error", "label(s) of other than 8 bits", "save them as 8-bit PNG"),
    "size": ("error", "label(s) of another size than the image", "export both at one size; never resize colour masks"),
    "turned": (
        "error",
        "label(s) turned against the image",
        "turn the label, or undo the image's EXIF rotation",
    ),
    "class number": ("error", "sample(s) of a class that is not there", "prepare the data again, or set data.classes"),
    "value": ("error", "label(s) with values that no class has", ""),
    "color": ("error", "label(s) with colours that no class has", ""),
    "name": ("error", "label(s) with classes that are not in data.classes", ""),
    "color for index": ("error", "label(s) are colour masks, but no colours are set", ""),
    "index for color": ("error", "label(s) are index masks, but colours are set", ""),
    "greys": ("error", "index label(s) saved with equal colour channels, or with alpha", ""),
    "blended": (
        "error",
        "label(s) with blended colours",
        "export them again without smoothing, resizing or JPEG: a pixel must have exactly the colour of its class",
    ),
    "misnamed": ("error", "label(s) hold other values than their names say", "rename them as it says there"),
    "oriented": (
        "warning",
        "image(s) with an EXIF orientation that their label does not have",
        "they are turned as viewers show them: if the labels were drawn on the pixels as stored, remove the tag "
        "(exiftool -Orientation= FILE), else all is well; the picture of samples shows it",
    ),
    "narrow": ("warning", "16-bit image(s) that use little of their range: most of what they show is lost", ""),
    "no number": ("warning", "image(s) with pixels that are no finite numbers (NaN)", "fill them: they become black"),
    "damaged inside": (
        "warning",
        "JPEG(s) that a decoder complains about",
        "look at them: if a part is grey or shifted, replace them; a few extraneous bytes do no harm",
    ),
    "unlabelled": ("warning", "label(s) with no labelled pixel", "remove them, or look at what is ignored"),
    "blank": ("warning", "image(s) of one single colour", "look at them: was the export interrupted?"),
    "grey": ("note", "grey image(s)", "nothing: they are read with three equal channels"),
    "erased": ("note", "colour label(s) with transparent pixels", "nothing if they are no class: they count nowhere"),
    "alpha": ("note", "image(s) with an alpha channel", "nothing: it is left out"),
    "deep": ("note", "image(s) of 16 bits", "nothing if they fill the range: they are read as 8 bits"),
}

_KEYS = {"value": int, "color": tuple, "name": str}  # kind of what is unknown: what it is


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing about the data.

    severity    one of SEVERITIES; an error stops training or ruins it
    message     what, and how many
    what_to_do  an advice
    names       the files, each with what is the matter there
    paste       lines for the config file
    """

    severity: str
    message: str
    what_to_do: str
    names: tuple[str, ...] = ()
    paste: tuple[str, ...] = ()


@dataclasses.dataclass
class Tally:
    """The counts of a split, sample by sample.

    role     "training" or "evaluation"
    count    samples in it
    counts   i64[C+1] labelled pixels (of data without masks: samples) by class, the ignored ones last
    sizes    {(W, H): images}
    names    {digest of an image's file: its name}
    sound    indices of the samples without error
    deep_ranges  {image of more than 8 bits: (lowest, highest) raw value}
    unfit    indices of those whose labels have colours that do not fit the data set
    """

    role: str
    split: str
    spec: DatasetSpec
    count: int = 0
    counts: np.ndarray = dataclasses.field(init=False)
    raw: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(256, np.int64))
    sizes: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    unknown: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    colors: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    problems: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    names: dict[int, str] = dataclasses.field(default_factory=dict)
    sound: list[int] = dataclasses.field(default_factory=list)
    deep_ranges: dict[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    unfit: list[int] = dataclasses.field(default_factory=list)

    def __post_init__(self):
        self.counts = np.zeros(self.spec.num_classes + 1, np.int64)

    def add(self, index: int, seen: Observation) -> None:
        """Count one sample in."""
        for kind, text in seen.problems:
            self.problems.setdefault(kind, []).append(text)
        if not any(_KINDS[kind][0] == "error" for kind, _ in seen.problems):
            self.sound.append(index)
        elif seen.colors and seen.size_wh:
            self.unfit.append(index)
        if seen.counts is not None:
            self.counts += seen.counts
        if seen.raw is not None:
            self.raw += seen.raw
        if seen.size_wh:
            self.sizes[seen.size_wh] += 1
            self.names[seen.digest] = seen.name
        if seen.deep_range:
            self.deep_ranges[seen.name] = seen.deep_range
        self.unknown.update(seen.unknown)
        self.colors.update(seen.colors)


def of_samples(tallies: Sequence[Tally], spec: DatasetSpec) -> list[Finding]:
    """The faults of single files, of all splits together."""
    findings = []
    for kind, (severity, what, advice) in _KINDS.items():
        names = tuple(name for tally in tallies for name in tally.problems.get(kind, ()))
        if not names:
            continue
        message = f"{len(names)} {what}"
        paste: tuple[str, ...] = ()
        if kind in _KEYS:
            message += f": {_most(_summed(tallies, 'unknown', _KEYS[kind]))}"
        if not advice:
            advice, paste = _advice(kind, tallies, spec)
        findings.append(Finding(severity, message, advice, names, paste))
    return findings


def _advice_for_ranges(used: dict[str, tuple[float, float]]) -> tuple[str, tuple[str, ...]]:
    """used  {image: (lowest, highest) raw value}"""
    low, high = min(low for low, _ in used.values()), max(high for _, high in used.values())
    narrow, wide = (pick(used, key=lambda name: used[name][1] - used[name][0]) for pick in (min, max))
    span = used[narrow][1] - used[narrow][0]
    if 0 < span < remarks.FEW_LEVELS / 256 * (high - low):
        far = wide if used[wide] != used[narrow] else max(used, key=lambda name: used[name][1])
        ranges = ", ".join(f"{name} uses {used[name][0]:g} to {used[name][1]:g}" for name in (narrow, far))
        return f"no one data.value_range shows them all ({ranges}): save them with 8 bits, each kind by its range", ()
    return "let the values that there are become 0 to 255", (f"config.data.value_range = {(low, high)}",)


def _advice(kind: str, tallies: Sequence[Tally], spec: DatasetSpec) -> tuple[str, tuple[str, ...]]:
    if kind in ("narrow", "unread bits"):
        return _advice_for_ranges({name: used for tally in tallies for name, used in tally.deep_ranges.items()})
    if kind == "greys":
        return "save them as grey, with one channel", ()
    if spec.name != "folder":
        return f"these are not the labels of {spec.name}; unzip its release again, or use data.name='folder'", ()
    if kind in ("color for index", "index for color") and 2 * _with(kind, tallies) < sum(t.count for t in tallies):
        return "most labels are of the other kind: export these as those", ()
    if kind == "index for color":
        return "set no colours; values and classes must agree", ("config.data.colors = ()",)
    if kind == "value":
        return _advice_for_values(tallies, spec)
    if kind == "name":
        names = tuple(sorted(_summed(tallies, "unknown", str)))
        return "add them to data.classes, or count them nowhere", (f"config.data.ignore_values = {names}",)
    if kind == "color":
        colors = [key for key, train_id in spec.values.items() if train_id == IGNORE]
        unknown = sorted(_summed(tallies, "unknown", tuple))
        return (
            "add them with a class each to data.colors and data.classes, or count them nowhere",
            (f"config.data.ignore_values = {(*colors, *unknown)}",),
        )
    return _advice_for_colors(_summed(tallies, "colors", tuple), spec)


def _with(kind: str, tallies: Sequence[Tally]) -> int:
    """Samples with a problem of a kind."""
    return sum(len(tally.problems.get(kind, ())) for tally in tallies)


def _advice_for_values(tallies: Sequence[Tally], spec: DatasetSpec) -> tuple[str, tuple[str, ...]]:
    ignored = tuple(key for key, train_id in spec.values.items() if train_id == IGNORE)
    seen = [int(v) for v in np.flatnonzero(sum(tally.raw for tally in tallies)) if int(v) not in ignored]
    if len(seen) == spec.num_classes:
        return "if these are the values of your classes, in order", (f"config.data.label_values = {tuple(seen)}",)
    is_counted_from_1 = seen[-1] == spec.num_classes or 2 * _with("value", tallies) >= sum(t.count for t in tallies)
    if len(seen) == spec.num_classes + 1 and seen[0] == 0 and is_counted_from_1:
        values, ignored = tuple(seen[1:]), tuple(sorted({0, *ignored}))
        lines = (f"config.data.label_values = {values}", f"config.data.ignore_values = {ignored}")
        return "if 0 is 'no class' and the others are your classes, in order", lines
    unknown = sorted(_summed(tallies, "unknown", int))
    return (
        "correct the labels, add classes, or count these values nowhere",
        (f"config.data.ignore_values = {(*ignored, *unknown)}",),
    )


def _advice_for_colors(colors: collections.Counter, spec: DatasetSpec) -> tuple[str, tuple[str, ...]]:
    total = sum(colors.values())
    found = [color for color, _ in colors.most_common()]
    ignored = tuple(color for color in ((0, 0, 0), (255, 255, 255)) if color in colors)[:1]
    if not ignored or len(found) != spec.num_classes + 1:
        ignored = ()
    shares = ", ".join(f"{color} {colors[color] / total:.1%}" for color in found[:_MOST_VALUES])
    advice = f"put the colours into the order of data.classes; by their share of the pixels: {shares}"
    if ignored:
        lines = (f"config.data.colors = {tuple(c for c in found if c not in ignored)}",)
        return f"{advice}; {ignored[0]} is taken for 'no class'", (*lines, f"config.data.ignore_values = {ignored}")
    if len(found) > spec.num_classes:
        advice += f"; they are {len(found)} for {spec.num_classes} classes: move the others to data.ignore_values"
    elif len(found) < spec.num_classes:
        advice += f"; they are only {len(found)} for {spec.num_classes} classes: add those that are missing"
    return advice, (f"config.data.colors = {tuple(found)}",)


def of_classes(tally: Tally) -> list[Finding]:
    """Classes that a split never shows, and how much of it is ignored."""
    spec, labelled, ignored = tally.spec, int(tally.counts[:-1].sum()), int(tally.counts[-1])
    findings: list[Finding] = []
    if not labelled + ignored:
        return findings
    if not labelled:
        advice = "correct the labels, or what data.ignore_values says"
        return [Finding("error", f"{tally.role}: every pixel of every label is ignored", advice)]
    share = ignored / (labelled + ignored)
    if share > 0.5:
        advice = "nothing is learnt there: is a class among what is ignored?"
        findings.append(Finding("warning", f"{tally.role}: {share:.0%} of the labels' pixels are ignored", advice))
    unseen = [name for name, count in zip(spec.classes, tally.counts[:-1], strict=True) if not count]
    if unseen:
        findings.append(_unseen(tally, unseen))
    return findings


def _unseen(tally: Tally, unseen: list[str]) -> Finding:
    spec = tally.spec
    named = first_few(unseen, _MOST_VALUES)
    message = f"{tally.role}: {len(unseen)} of {spec.num_classes} classes never seen: {named}"
    if tally.role != "training":
        return Finding("note", message, "they do not count in the mean over classes")
    values = [int(v) for v in np.flatnonzero(tally.raw)]
    if spec.name == "folder" and IGNORE in values and len(values) == spec.num_classes and not spec.has_color_masks:
        lines = (f"config.data.label_values = {tuple(values)}", "config.data.ignore_values = ()")
        return Finding("warning", message, f"{IGNORE} is ignored; if it is a class", paste=lines)
    return Finding("warning", message, "they cannot be learnt: add labels that have them, or leave the classes out")


def of_images(
    tallies: Sequence[Tally],
    crop_hw: tuple[int, int],
    scale_range: tuple[float, float],
    eval_size_hw: tuple[int, int] | None,
) -> list[Finding]:
    """Crops that are mostly padding, too many sizes to evaluate, images that are trained and evaluated on."""
    findings = []
    for tally in tallies:
        padding = padding_share(tally.sizes, crop_hw, scale_range)
        if tally.role == "training" and tally.spec.has_masks and padding > 0.5:
            height, width = (max(8, n // 8 * 8) for n in tally.sizes.most_common(1)[0][0][::-1])
            message = f"{padding:.0%} of the average crop is padding: data.crop_hw is larger than the images"
            lines = (f"config.data.crop_hw = {(height, width)}",)
            findings.append(Finding("warning", message, "choose a crop that fits the images", paste=lines))
        if tally.role != "training" and len(tally.sizes) > _MOST_SIZES and not eval_size_hw and tally.spec.has_masks:
            message = f"evaluation images of {len(tally.sizes)} sizes: each is compiled for by itself"
            findings.append(Finding("warning", message, "set eval.size_hw, or bring the images to fewer sizes"))
    if len(tallies) == 2:
        first, second = (tally.names for tally in tallies)
        same = tuple(f"{first[digest]} = {second[digest]}" for digest in first if digest in second)
        if same:
            message = f"{len(same)} image(s) {SHARED}"
            advice = "remove them from one split, unless meant (train+val for a server): the evaluation is too good"
            findings.append(Finding("warning", message, advice, same))
    return findings


def padding_share(sizes: collections.Counter, crop_hw: tuple[int, int], scale_range: tuple[float, float]) -> float:
    """The share of padding in the average training crop, over the images' sizes {(W, H): count} and the scales."""
    scales = np.linspace(*scale_range, 9)
    filled = sum(
        count * np.mean(np.minimum(scales * height, crop_hw[0]) * np.minimum(scales * width, crop_hw[1]))
        for (width, height), count in sizes.items()
    )
    return 1 - filled / (sum(sizes.values()) * crop_hw[0] * crop_hw[1]) if sizes else 0.0


def _summed(tallies: Sequence[Tally], name: str, kind: type) -> collections.Counter:
    """One counter of all splits, of the keys of one type: raw values, or RGB triples."""
    total: collections.Counter = collections.Counter()
    for tally in tallies:
        total.update({key: count for key, count in getattr(tally, name).items() if isinstance(key, kind)})
    return total


def _most(unknown: collections.Counter) -> str:
    return first_few([value for value, _ in unknown.most_common()], _MOST_VALUES)
