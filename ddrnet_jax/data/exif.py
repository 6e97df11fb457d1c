"""The orientation that the file of a picture names: how viewers turn it."""

import struct
from collections.abc import Iterator

import numpy as np

from ddrnet_jax.data import headers

_TAG = 0x112
_APP1 = 0xE1
_PNG = b"\x89PNG\r\n\x1a\n"


def orientation(data: bytes) -> int:
    """The EXIF orientation (1: as stored .. 8) of a JPEG, PNG, TIFF or WebP file's bytes; 1 where none is named."""
    found = (headers.tiff_tags(block).get(_TAG, 0) for block in _exif_blocks(data))
    return next((value for value in found if 1 <= value <= 8), 1)


def turned(picture: np.ndarray, orientation: int) -> np.ndarray:
    """A picture [H,W,...] as it is stored -> as viewers show it.

    Source: the EXIF standard; 5 and 7 mirror along a diagonal.
    """
    if orientation >= 5:
        picture = picture.swapaxes(0, 1)
    flips = {2: (1,), 3: (0, 1), 4: (0,), 6: (1,), 7: (0, 1), 8: (0,)}
    return np.ascontiguousarray(np.flip(picture, flips.get(orientation, ())))


def _exif_blocks(data: bytes) -> Iterator[bytes]:
    """The bytes that may be EXIF, laid out as a TIFF file."""
    if data[:2] == b"\xff\xd8":
        for marker, at in headers.jpeg_segments(data):
            body = data[at + 4 : at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")]
            if marker == _APP1 and body[:6] == b"Exif\0\0":
                yield body[6:]
    elif data[:8] == _PNG:
        yield from _chunks(data, 8, ">I4s", b"eXIf", after=4)
    elif data[:4] == b"RIFF":
        yield from (body.removeprefix(b"Exif\0\0") for body in _chunks(data, 12, "<4sI", b"EXIF", after=0))
    else:
        yield data


def _chunks(data: bytes, at: int, layout: str, wanted: bytes, *, after: int) -> Iterator[bytes]:
    """Bodies of the chunks of a kind; `after` bytes follow each, and WebP fills odd ones up."""
    while at + 8 <= len(data):
        head = struct.unpack_from(layout, data, at)
        length, kind = head if isinstance(head[0], int) else head[::-1]
        if kind == wanted:
            yield data[at + 8 : at + 8 + length]
        at += 8 + length + (after or length % 2)
