"""Encoded bytes -> image and train ids, checked: a damaged file is an error, never a half-grey picture."""

import os
import struct
import zlib
from collections.abc import Sequence

import cv2
import numpy as np

from ddrnet_jax import memory
from ddrnet_jax.data import exif, gifs, headers, matlab, polygons, ranges, unreadable
from ddrnet_jax.data.errors import DataError
from ddrnet_jax.data.labels import IGNORE
from ddrnet_jax.data.sets.specs import DatasetSpec

cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # our error names the damaged file
_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8"
_TIFF = (b"II*\0", b"MM\0*")
_MOST_PIXELS = 2**30  # that OpenCV reads, unless it is told otherwise
_LARGE_PIXELS = 2**25  # a smaller picture fits beside any network
_BYTES_A_PIXEL = 16  # of the decoder, its result and a copy or two


def decode_image(data: bytes, name: str, value_range: Sequence[float] = ()) -> np.ndarray:
    """u8[H,W,3] RGB of an encoded image, turned as its EXIF orientation says (viewers show it so).

    value_range  (low, high) raw values that become 0 and 255, of images of more than 8 bits; (): all 16 bits
    Raises DataError naming the file if it is damaged.
    """
    _check_complete(data, name)
    _check_fits(data, name)
    image = _deep(data) if value_range else _imdecode(data, cv2.IMREAD_COLOR_RGB)
    if image is None:
        raise unreadable.error(data, name)
    if image.dtype == np.uint8:
        return image
    low, high = value_range
    stretched = (image.astype(np.float32) - low) * (255 / (high - low))
    return np.rint(np.clip(np.nan_to_num(stretched), 0, 255)).astype(np.uint8)


def _deep(data: bytes) -> np.ndarray | None:
    """[H,W,3] RGB of whatever bits the file has; OpenCV itself makes no three channels of a grey image of floats."""
    pixels = _imdecode(data, cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH)
    if pixels is None or pixels.ndim == 3:
        return None if pixels is None else pixels[..., ::-1]
    return np.repeat(pixels[..., None], 3, axis=2)


def share_not_finite(data: bytes) -> float:
    """The share of an image's values that are no finite numbers; only TIFF can hold such."""
    pixels = stored_pixels(data) if data[:4] in _TIFF else None
    return 0.0 if pixels is None else 1 - float(np.isfinite(pixels).mean())


def deep_range(data: bytes) -> tuple[int, int] | None:
    """(lowest, highest) raw value that an image of 16 bits makes use of; None of any other."""
    is_deep = data[24:25] == b"\x10" if data[:8] == _PNG else data[:4] in _TIFF or data[:2] in (b"P5", b"P6")
    pixels = _imdecode(data, cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR) if is_deep else None
    if pixels is None or pixels.dtype != np.uint16:
        return None
    low, high = ranges.used(pixels) or (0, 0)
    return int(low), int(high)


def grey_levels(low: int, high: int) -> int:
    """How many of 256 grey levels are left of 16-bit values low..high where no data.value_range is set."""
    return (high >> 8) - (low >> 8) + 1


def decode_label(data: bytes, name: str, spec: DatasetSpec) -> np.ndarray:
    """u8[H,W] train ids (0..C-1 or 255) of an encoded index or colour mask, a MATLAB label map, or polygons in JSON.

    Raises DataError naming the file if it is damaged or holds a value that the spec does not know.
    """
    if spec.has_polygons:
        return polygons.decode(data, name, spec.values)
    if data.startswith(matlab.MAGIC):
        return _values_to_ids(matlab.read_label_map(data, name), b"", name, spec)
    _check_complete(data, name)
    _check_fits(data, name)
    if is_jpeg(data):
        raise DataError(f"{name}: labels must be lossless (PNG); JPEG changes the values")
    mask = _imdecode(data if spec.has_color_masks else _palette_as_grey(data), cv2.IMREAD_UNCHANGED)
    if mask is None:
        raise unreadable.error(data, name, "label")
    if data[: len(_PNG)] == _PNG:  # which is the only kind that the decoder has not turned
        mask = exif.turned(mask, exif.orientation(data))
    return _colors_to_ids(mask, name, spec) if spec.has_color_masks else _values_to_ids(mask, data, name, spec)


def stored_pixels(data: bytes) -> np.ndarray | None:
    """[H,W] or [H,W,channels] of a picture, with the type and values that its file stores; None if it is none."""
    return _imdecode(data, cv2.IMREAD_UNCHANGED)


def is_jpeg(data: bytes) -> bool:
    """True if these are the bytes of a JPEG file."""
    return data[:2] == _JPEG


def check_pair(image: np.ndarray, label: np.ndarray, name: str) -> None:
    """Raises DataError if image u8[H,W,3] and label u8[H,W] differ in size."""
    if image.shape[:2] != label.shape[:2]:
        raise DataError(
            f"{name}: the label is {label.shape[1]}x{label.shape[0]} (WxH), "
            f"its image {image.shape[1]}x{image.shape[0]}; they must be equal"
        )


def _values_to_ids(mask: np.ndarray, data: bytes, name: str, spec: DatasetSpec) -> np.ndarray:
    if data.startswith(gifs.MAGIC):
        mask = mask[..., 0] if mask.ndim == 3 else mask
    if mask.ndim != 2:
        raise DataError(
            f"{name}: the label has more than one channel; an index mask has one: save it as grey without alpha (for "
            "colour masks give data.colors)"
        )
    if mask.dtype != np.uint8:
        raise DataError(f"{name}: the label is {mask.dtype}; an index mask is 8-bit")
    mask = _undo_grey_scaling(mask, data)
    unknown_id = min(set(range(256)) - set(spec.values.values()), default=-1)  # -1: all 256 values are known
    table = np.full(256, max(unknown_id, 0), np.uint8)
    table[list(spec.values)] = list(spec.values.values())
    ids = cv2.LUT(mask, table)  # several times faster than table[mask]
    is_unknown = ids == unknown_id
    if is_unknown.any():
        unknown = ", ".join(map(str, np.unique(mask[is_unknown])[:5]))
        known = ", ".join(map(str, sorted(spec.values)))
        raise DataError(f"{name}: label value {unknown} is not one of {spec.name}'s: {known}")
    return ids


def _colors_to_ids(mask: np.ndarray, name: str, spec: DatasetSpec) -> np.ndarray:
    if mask.dtype != np.uint8:
        raise DataError(f"{name}: the label is {mask.dtype}; a colour mask is 8-bit")
    if mask.ndim == 2:  # a mask of greys only
        mask = np.repeat(mask[..., None], 3, axis=2)
    blue, green, red = (mask[..., i].astype(np.int32) for i in range(3))
    codes = red << 16 | green << 8 | blue
    known = {r << 16 | g << 8 | b: train_id for (r, g, b), train_id in spec.values.items()}
    sorted_codes = np.array(sorted(known))
    position = np.searchsorted(sorted_codes, codes).clip(max=len(sorted_codes) - 1)
    is_erased = mask[..., 3] == 0 if mask.shape[2] == 4 else np.zeros(codes.shape, bool)
    is_unknown = (sorted_codes[position] != codes) & ~is_erased
    if is_unknown.any():
        code = int(codes[is_unknown][0])
        raise DataError(
            f"{name}: colour {(code >> 16, code >> 8 & 255, code & 255)} on {is_unknown.mean():.1%} of the label "
            "is in neither data.colors nor data.ignore_values"
        )
    ids = np.array([known[code] for code in sorted_codes], np.uint8)[position]
    ids[is_erased] = IGNORE  # what lies under a transparent pixel is what an editor left there
    return ids


def _imdecode(data: bytes, flags: int) -> np.ndarray | None:
    """The picture that cv2 makes of the bytes; None where it can make none (it raises for some damage)."""
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        return None


def _check_complete(data: bytes, name: str) -> None:
    """Decoders fill what is missing of a truncated file with grey, so completeness is checked here."""
    if not data:
        raise DataError(f"{name}: the file is empty; replace it")
    if data[: len(_PNG)] == _PNG:
        kinds = []
        for kind, body, checksum in _png_chunks(data):
            kinds.append(kind)
            if zlib.crc32(body, zlib.crc32(kind)) != checksum:
                raise DataError(f"{name}: damaged PNG (checksum of chunk {kind!r} is wrong); replace the file")
        if not kinds or kinds[-1] != b"IEND":
            raise DataError(f"{name}: truncated PNG (its end is missing); replace the file")
        if kinds[0] != b"IHDR":
            raise DataError(f"{name}: damaged PNG (its header is missing); replace the file")
    elif is_jpeg(data) and not _has_jpeg_end(data):
        raise DataError(f"{name}: truncated JPEG (its end is missing); replace the file")


def is_large(data: bytes) -> bool:
    """True of an image file that may not fit into memory beside others."""
    height, width = headers.size_hw(data) or (0, 0)
    return height * width >= _LARGE_PIXELS


def _check_fits(data: bytes, name: str) -> None:
    """Refuse what the memory cannot hold before it is decoded: the system would kill the process, and not say why."""
    height, width = headers.size_hw(data) or (0, 0)
    is_refused = height * width > _MOST_PIXELS and "OPENCV_IO_MAX_IMAGE_PIXELS" not in os.environ
    if height * width < _LARGE_PIXELS or is_refused:
        return
    needed, free = height * width * _BYTES_A_PIXEL, memory.available_bytes()
    if free is not None and needed > free:
        raise DataError(
            f"{name}: {width}x{height} pixels (WxH) take {needed / 2**30:.1f} GiB to decode, {free / 2**30:.1f} GiB of "
            "memory are free; cut or shrink the picture, or use a larger machine"
        )


def _has_jpeg_end(data: bytes) -> bool:
    """True if an end marker follows the image's own scan; thumbnails and trailing data have markers of their own."""
    scan = next((at for marker, at in headers.jpeg_segments(data) if marker == headers.SCAN), None)
    return scan is not None and data.find(b"\xff\xd9", scan) >= 0


def _png_chunks(data: bytes):
    """Yields (kind, body as a view, stored checksum); stops at IEND or where the file ends too early."""
    at = len(_PNG)
    view = memoryview(data)
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        if at + 12 + length > len(data):
            return
        kind = bytes(view[at + 4 : at + 8])
        yield kind, view[at + 8 : at + 8 + length], struct.unpack_from(">I", data, at + 8 + length)[0]
        if kind == b"IEND":
            return
        at += 12 + length


def _palette_as_grey(data: bytes) -> bytes:
    """Relabel a PNG or GIF with a palette as greyscale, so that the decoder returns its indices, not its colours.

    Source: cv2 expands palettes and cannot be told not to; the pixel data of both kinds is the same.
    """
    if data.startswith(gifs.MAGIC):
        return gifs.indices_as_greys(data)
    if data[: len(_PNG)] != _PNG or data[25] != 3:
        return data
    header = data[16:25] + b"\0" + data[26:29]
    checksum = struct.pack(">I", zlib.crc32(b"IHDR" + header))
    kept = [data[:16], header, checksum]
    for kind, body, stored in _png_chunks(data):
        if kind in (b"IDAT", b"IEND"):
            kept.append(struct.pack(">I", len(body)) + kind + body + struct.pack(">I", stored))
    return b"".join(kept)


def _undo_grey_scaling(mask: np.ndarray, data: bytes) -> np.ndarray:
    """Decoders stretch 1-, 2- and 4-bit grey to 0..255; indices must come back as stored."""
    bits = data[24] if data[: len(_PNG)] == _PNG else 8
    return mask if bits >= 8 else mask // (255 // (2**bits - 1))
