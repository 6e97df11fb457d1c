"""The orientation that the file of a picture names: how viewers turn it."""

import struct
from collections.abc import Iterator

import numpy as np

_TAG = 0x112
_PNG = b"\x89PNG\r\n\x1a\n"


def orientation(data: bytes) -> int:
    """The EXIF orientation (1: as stored .. 8) of a JPEG, PNG, TIFF or WebP file's bytes; 1 where none is named."""
    found = (_of_tiff(block) for block in _exif_blocks(data))
    return next((value for value in found if value), 1)


def turned(picture: np.ndarray, orientation: int) -> np.ndarray:
    """A picture [H,W,...] as it is stored -> as viewers show it.

    Source: the EXIF standard; 5 and 7 mirror along a diagonal.
    """
    if orientation >= 5:
        picture = picture.swapaxes(0, 1)
    flips = {2: (1,), 3: (0, 1), 4: (0,), 6: (1,), 7: (0, 1), 8: (0,)}
    return np.ascontiguousarray(np.flip(picture, flips.get(orientation, ())))


def _exif_blocks(data: bytes) -> Iterator[bytes]:
    """What may be EXIF, laid out as a TIFF file."""
    if data[:2] == b"\xff\xd8":
        yield from (body[6:] for body in _jpeg_segments(data, 0xE1) if body[:6] == b"Exif\0\0")
    elif data[:8] == _PNG:
        yield from _chunks(data, 8, ">I4s", b"eXIf", after=4)
    elif data[:4] == b"RIFF":
        yield from (body.removeprefix(b"Exif\0\0") for body in _chunks(data, 12, "<4sI", b"EXIF", after=0))
    else:
        yield data


def _jpeg_segments(data: bytes, wanted: int) -> Iterator[bytes]:
    at = 2
    while at + 4 <= len(data) and data[at + 1] != 0xDA:
        if data[at] != 0xFF or data[at + 1] in (0, 0xFF):
            at += 1
            continue
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if data[at + 1] == wanted:
            yield data[at + 4 : at + 2 + length]
        at += 2 + length


def _chunks(data: bytes, at: int, layout: str, wanted: bytes, *, after: int) -> Iterator[bytes]:
    """Bodies of the chunks of a kind; `after` bytes follow each, and WebP fills odd ones up."""
    while at + 8 <= len(data):
        head = struct.unpack_from(layout, data, at)
        length, kind = head if isinstance(head[0], int) else head[::-1]
        if kind == wanted:
            yield data[at + 8 : at + 8 + length]
        at += 8 + length + (after or length % 2)


def _of_tiff(block: bytes) -> int | None:
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(block[:4])
    if order is None:
        return None
    try:
        (at,) = struct.unpack_from(f"{order}I", block, 4)
        (count,) = struct.unpack_from(f"{order}H", block, at)
        for entry in range(at + 2, at + 2 + 12 * count, 12):
            tag, _, _, value = struct.unpack_from(f"{order}HHIH", block, entry)
            if tag == _TAG:
                return value if 1 <= value <= 8 else None
    except struct.error:  # cut short
        pass
    return None
