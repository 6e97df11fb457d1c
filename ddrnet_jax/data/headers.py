"""The size of a picture as its file's header says it, before anything is decoded."""

import re
import struct

_PPM = re.compile(rb"P[1-6]\s+(?:#[^\n]*\s+)*(\d{1,9})\s+(\d{1,9})\s")


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
        return _of_tiff(data, "<" if data.startswith(b"I") else ">")
    elif match := _PPM.match(data):
        width, height = map(int, match.groups())
    else:
        return None
    return abs(height), width  # a BMP from the top has a negative height


def _of_jpeg(data: bytes) -> tuple[int, int] | None:
    at = 2
    while at + 9 <= len(data):
        marker = data[at + 1]
        if data[at] != 0xFF or marker in (0, 0xFF):
            at += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, at + 5)
            return height, width
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None


def _of_webp(data: bytes) -> tuple[int, int]:
    kind, _ = data[12:16], data[29]  # all of the header is there
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack_from("<HH", data, 26)
    return width & 0x3FFF, height & 0x3FFF


def _of_tiff(data: bytes, order: str) -> tuple[int, int] | None:
    (at,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, at)
    found = {}
    for entry in range(at + 2, at + 2 + 12 * count, 12):
        tag, kind = struct.unpack_from(order + "HH", data, entry)
        (found[tag],) = struct.unpack_from(order + ("H" if kind == 3 else "I"), data, entry + 8)
    return (found[257], found[256]) if 256 in found and 257 in found else None
