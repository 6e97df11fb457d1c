"""One sample looked at closely: what its files hold, and everything that is wrong with them."""

import collections
import dataclasses
import hashlib
from typing import cast

import cv2
import numpy as np

from ddrnet_jax.data import decode, headers, matlab, polygons, ranges, remarks
from ddrnet_jax.data.check.jpegs import Decoders
from ddrnet_jax.data.errors import DataAway, DataError, UnreadKind
from ddrnet_jax.data.labels import IGNORE
from ddrnet_jax.data.samples import EncodedSample, Source
from ddrnet_jax.data.sets.specs import Color, DatasetSpec

_MOST_COLORS = 64  # of a mask that are told apart; more are no classes but blended edges
_RAW = DatasetSpec("raw", (), (), values={value: value for value in range(256)})
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}  # by colour type


@dataclasses.dataclass
class Observation:
    """The facts and the faults of one sample.

    name      of the image; "" if it could not be read
    size_wh   of the image in pixels, or None
    digest    of the bytes of the image's file
    deep_range  (lowest, highest) raw value that an image of more than 8 bits makes use of
    counts    i64[C+1] labelled pixels (or samples) by class, the ignored ones last; None if the label is unreadable
    raw       i64[256] pixels by raw value, of index masks
    unknown   {raw value, RGB or name: pixels} that the data set does not know
    colors    {RGB: pixels}, of masks whose colours do not fit the data set; the most frequent ones
    problems  [(kind, "FILE: what is the matter")]; the kinds are those of findings.py
    """

    name: str = ""
    size_wh: tuple[int, int] | None = None
    digest: int = 0
    deep_range: tuple[float, float] | None = None
    counts: np.ndarray | None = None
    raw: np.ndarray | None = None
    unknown: dict = dataclasses.field(default_factory=dict)
    colors: dict[Color, int] = dataclasses.field(default_factory=dict)
    problems: list[tuple[str, str]] = dataclasses.field(default_factory=list)

    def note(self, kind: str, text: str | DataError) -> None:
        """Adds a problem; the advice at the end of an error's message is left out."""
        text = (str(text).rpartition("; ")[0] or str(text)) if isinstance(text, DataError) else text
        self.problems.append((kind, text))


def inspect(source: Source, index: int, decoders: Decoders) -> Observation:
    """Sample `index` of a source; damage of any kind is a problem in the answer; raises DataAway alone."""
    seen = Observation()
    try:
        encoded = source.encoded(index)
    except DataAway:
        raise
    except DataError as e:
        seen.note("unreadable", e)
        return seen
    seen.name = encoded.name
    seen.digest = int.from_bytes(hashlib.blake2b(encoded.image, digest_size=8).digest(), "big")
    image_hw = _inspect_image(encoded.image, encoded.name, source.spec, seen, decoders)
    if not source.spec.has_masks:
        _inspect_class(encoded.label, encoded.label_name, source.spec, seen)
        return seen
    spec = source.spec
    inspect_label = (
        _inspect_polygons if spec.has_polygons else _inspect_colors if spec.has_color_masks else _inspect_indices
    )
    label_hw = inspect_label(encoded.label, encoded.label_name, spec, seen)
    if image_hw and label_hw:
        _compare_sizes(image_hw, label_hw, encoded.label_name, seen)
        _compare_orientations(encoded, source.spec, seen)
    return seen


def _inspect_image(
    data: bytes, name: str, spec: DatasetSpec, seen: Observation, decoders: Decoders
) -> tuple[int, int] | None:
    try:
        image = decode.decode_image(data, name, spec.value_range)
    except DataError as e:
        _note_unreadable(e, seen)
        seen.deep_range = getattr(e, "value_range", None)
        return None
    seen.size_wh = (image.shape[1], image.shape[0])
    if decode.is_jpeg(data) and (complaint := decoders.complaint(data)):
        seen.note("damaged inside", f"{name}: {complaint}")
    channels, bits = _stored_form(data)
    if channels < 3:
        seen.note("grey", f"{name}: grey")
    if channels in (2, 4):
        seen.note("alpha", f"{name}: {channels} channels")
    if bits > 8 and not spec.value_range:
        what = remarks.of_image(data, spec).get("narrow")
        seen.deep_range = decode.deep_range(data)
        seen.note("narrow" if what else "deep", f"{name}: {what or f'{bits} bits'}")
    elif bits > 8 and (levels := len(np.unique(image))) < remarks.FEW_LEVELS:
        low, high = spec.value_range
        seen.deep_range = ranges.used(_pixels(data))
        seen.note("narrow", f"{name}: {levels} of 256 grey levels by data.value_range = ({low:g}, {high:g})")
    if what := remarks.of_image(data, spec).get("no number"):
        seen.note("no number", f"{name}: {what}")
    if (image[::8, ::8] == image[0, 0]).all() and (image == image[0, 0]).all():
        seen.note("blank", f"{name}: RGB {tuple(map(int, image[0, 0]))} everywhere")
    return image.shape[:2]


def _note_unreadable(error: DataError, seen: Observation) -> None:
    if isinstance(error, UnreadKind):
        seen.note("unread bits" if error.value_range else "unread kind", str(error))
    else:
        seen.note("unreadable", error)


def _stored_form(data: bytes) -> tuple[int, int]:
    """(channels, bits a channel) of the file of a sound image."""
    if data[: len(_PNG)] == _PNG:
        return _PNG_CHANNELS.get(data[25], 3), data[24]
    if decode.is_jpeg(data):
        return _jpeg_channels(data), 8
    pixels = _pixels(data)
    return (1 if pixels.ndim == 2 else pixels.shape[2]), pixels.dtype.itemsize * 8


def _jpeg_channels(data: bytes) -> int:
    """The channels that the frame header names; Adobe's four inks count as three colours."""
    frame = next((at for marker, at in headers.jpeg_segments(data) if marker in headers.FRAMES), None)
    return 3 if frame is None else min(data[frame + 9], 3)


def _inspect_class(number: int, name: str, spec: DatasetSpec, seen: Observation) -> None:
    seen.counts = np.zeros(spec.num_classes + 1, np.int64)
    if 0 <= number < spec.num_classes:
        seen.counts[number] = 1
    else:
        seen.note("class number", f"{name}: class number {number}")


def _inspect_indices(data: bytes, name: str, spec: DatasetSpec, seen: Observation) -> tuple[int, int] | None:
    """Height and width of an index mask; None if it is none."""
    try:
        raw = decode.decode_label(data, name, _RAW)
    except DataError as e:
        return _inspect_unfit(data, name, e, spec, seen)
    seen.raw = np.bincount(raw.ravel(), minlength=256)
    if reason := spec.misnamed(frozenset(np.flatnonzero(seen.raw).tolist())):
        seen.note("misnamed", f"{name}: {reason}")
    seen.unknown = {int(v): int(seen.raw[v]) for v in np.flatnonzero(seen.raw) if int(v) not in spec.values}
    by_id = np.zeros(256, np.int64)
    for value, train_id in spec.values.items():
        by_id[train_id] += seen.raw[value]
    _count(by_id, name, spec, seen)
    if seen.unknown:
        seen.note("value", f"{name}: {_listed(seen.unknown)}")
    return raw.shape


def _inspect_colors(data: bytes, name: str, spec: DatasetSpec, seen: Observation) -> tuple[int, int] | None:
    """Height and width of a colour mask; None if it is none."""
    try:
        ids = decode.decode_label(data, name, spec)
    except DataError as e:
        return _inspect_unfit(data, name, e, spec, seen)
    _count(np.bincount(ids.ravel(), minlength=256), name, spec, seen)
    pixels = _pixels(data)
    if pixels.ndim == 3 and pixels.shape[2] == 4 and (pixels[..., 3] == 0).any():
        seen.note("erased", f"{name}: {(pixels[..., 3] == 0).mean():.1%} of it")
    return ids.shape


def _inspect_polygons(data: bytes, name: str, spec: DatasetSpec, seen: Observation) -> tuple[int, int] | None:
    """Height and width of the image that a label in JSON is of; None if it cannot be read."""
    try:
        size_hw, regions = polygons.read(data, name)
        areas: collections.Counter[str] = collections.Counter()
        for region in regions:
            areas[region.name] += int(region.inside.sum())
        seen.unknown = {name: area for name, area in areas.items() if name not in spec.values}
        ids = polygons.decode(data, name, spec.values | dict.fromkeys(seen.unknown, IGNORE))
    except DataError as e:
        seen.note("unreadable", e)
        return None
    _count(np.bincount(ids.ravel(), minlength=256), name, spec, seen)
    if seen.unknown:
        seen.note("name", f"{name}: {_listed(seen.unknown)}")
    return size_hw


def _count(by_id: np.ndarray, name: str, spec: DatasetSpec, seen: Observation) -> None:
    seen.counts = np.append(by_id[: spec.num_classes], by_id[IGNORE])
    if not seen.counts[:-1].any() and not seen.unknown:
        seen.note("unlabelled", f"{name}: every pixel is ignored")


def _inspect_unfit(data: bytes, name: str, error: DataError, spec: DatasetSpec, seen: Observation):
    """A label that the data set cannot read: is the file damaged, or of another form? Its height and width."""
    try:
        if data.startswith(matlab.MAGIC):
            raise error
        rgb = decode.decode_image(data, name)
    except UnreadKind as e:
        if e.value_range:
            seen.note("deep label", f"{name}: {_pixels(data).dtype}")
        else:
            _note_unreadable(e, seen)
        return None
    except DataError:
        _note_unreadable(error, seen)
        return None
    pixels = _pixels(data)
    if decode.is_jpeg(data):
        seen.note("lossy", f"{name}: JPEG")
    elif pixels.dtype != np.uint8:
        seen.note("deep label", f"{name}: {pixels.dtype}")
    else:
        _inspect_form(rgb, name, spec, seen, channels=1 if pixels.ndim == 2 else pixels.shape[2])
    return rgb.shape[:2]


def _inspect_form(rgb: np.ndarray, name: str, spec: DatasetSpec, seen: Observation, channels: int) -> None:
    """A sound mask whose colours, or whose having any, the data set does not know."""
    colors, distinct = _colors_of(rgb)
    if distinct > _MOST_COLORS and channels > 1:
        seen.note("blended", f"{name}: {distinct:,} colours")
        return
    seen.colors = colors
    seen.unknown = {color: n for color, n in colors.items() if color not in spec.values}
    values = ", ".join(str(color[0]) for color in sorted(colors)[:8])
    if spec.has_color_masks and channels == 1:
        seen.note("index for color", f"{name}: one channel, values {values}")
    elif spec.has_color_masks:
        seen.note("color", f"{name}: {_listed(seen.unknown)}")
    elif all(red == green == blue for red, green, blue in colors):
        seen.note("greys", f"{name}: values {values}")
    else:
        seen.note("color for index", f"{name}: {distinct} colour(s)")


def _compare_sizes(image_hw, label_hw, name: str, seen: Observation) -> None:
    if tuple(image_hw) != tuple(label_hw):
        turned = tuple(image_hw) == tuple(label_hw)[::-1]
        sizes = f"label {label_hw[1]}x{label_hw[0]}, image {image_hw[1]}x{image_hw[0]} (WxH)"
        seen.note("turned" if turned else "size", f"{name}: {sizes}")


def _compare_orientations(encoded: EncodedSample, spec: DatasetSpec, seen: Observation) -> None:
    """Where sizes are equal they do not say whether the label was drawn on the image as stored or as shown."""
    what = remarks.of_image(encoded.image, spec, encoded.label).get("oriented")
    if what and not any(kind in ("turned", "size") for kind, _ in seen.problems):
        seen.note("oriented", f"{encoded.name}: {what}")


def _colors_of(rgb: np.ndarray) -> tuple[dict[Color, int], int]:
    """({RGB: pixels} of the most frequent colours, how many there are in all)"""
    red, green, blue = (rgb[..., i].astype(np.int32) for i in range(3))
    codes, counts = np.unique(red << 16 | green << 8 | blue, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:_MOST_COLORS]
    rgbs = ((int(codes[i]), int(counts[i])) for i in order)
    return {(code >> 16, code >> 8 & 255, code & 255): count for code, count in rgbs}, len(codes)


def _pixels(data: bytes) -> np.ndarray:
    return cast(np.ndarray, cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED))  # of a sound file


def _listed(unknown: dict) -> str:
    """ "value 12 on 34 pixels, ...": the four most frequent."""
    kind = {int: "value", str: "class"}.get(type(next(iter(unknown))), "colour")
    most = sorted(unknown, key=unknown.__getitem__, reverse=True)
    rest = f", and {len(most) - 4} more" if len(most) > 4 else ""
    return ", ".join(f"{kind} {value} on {unknown[value]:,} pixel(s)" for value in most[:4]) + rest
