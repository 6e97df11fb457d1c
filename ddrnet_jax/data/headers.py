"""The headers of pictures' files, read before anything is decoded: sizes, segments, tags."""

import contextlib
import re
import struct
from collections.abc import Iterator

SCAN = 0xDA  # the marker after which a JPEG's pixels come
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # the markers of the segments that name its size
_PPM = re.compile(rb"P[1-6]\s+(?:#[^\r\n]*\s+)*(\d{1,9})\s+(\d{1,9})\s")


def size_hw(data: bytes) -> tuple[int, int] | None:
    """Height and width in pixels of an encoded picture, not turned; None where the header does not say."""
    try:
        return _size_hw(data)
    except (struct.error, IndexError):  # cut short
        return None


def _size_hw(data: bytes) -> tuple[int, int] | None:
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        width, height = struct.unpack_from(">II", data, 16)
    elif data.startswith(b"\xff\xd8"):
        return _of_jpeg(data)
    elif data.startswith(b"BM"):
        width, height = struct.unpack_from("<ii", data, 18)
    elif data.startswith(b"GIF8"):
        width, height = struct.unpack_from("<HH", data, 6)
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        width, height = _of_webp(data)
    elif data[:4] in (b"II*\0", b"MM\0*"):
        return _of_tiff(data)
    elif match := _PPM.match(data):
        width, height = map(int, match.groups())
    else:
        return None
    return abs(height), width  # a BMP from the top has a negative height


def _of_jpeg(data: bytes) -> tuple[int, int] | None:
    frame = next((at for marker, at in jpeg_segments(data) if marker in FRAMES), None)
    return None if frame is None else struct.unpack_from(">HH", data, frame + 5)


def _of_webp(data: bytes) -> tuple[int, int]:
    kind, _ = data[12:16], data[29]  # all of the header is there
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack_from("<HH", data, 26)
    return width & 0x3FFF, height & 0x3FFF


def _of_tiff(data: bytes) -> tuple[int, int] | None:
    tags = tiff_tags(data)
    return (tags[257], tags[256]) if tags.keys() >= {256, 257} else None


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int]]:
    """(marker, where its 0xFF is) of each segment of a JPEG file's bytes, the start of the scan the last."""
    at = 2
    while at + 4 <= len(data):
        marker = data[at + 1]
        if data[at] != 0xFF or marker in (0, 0xFF):  # decoders skip what lies between segments, and so must this
            at += 1
            continue
        yield marker, at
        if marker == SCAN:
            return
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")


def tiff_tags(data: bytes) -> dict[int, int]:
    """{tag: its first number} of the first directory of a TIFF file's bytes, as far as it goes; {} of no TIFF's."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4])
    tags: dict[int, int] = {}
    if order is None:
        return tags
    with contextlib.suppress(struct.error):  # cut short
        (at,) = struct.unpack_from(f"{order}I", data, 4)
        (count,) = struct.unpack_from(f"{order}H", data, at)
        for entry in range(at + 2, at + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(f"{order}HH", data, entry)
            (value,) = struct.unpack_from(f"{order}{'H' if kind == 3 else 'I'}", data, entry + 8)
            tags.setdefault(tag, value)  # decoders pass over a second one too
    return tags
