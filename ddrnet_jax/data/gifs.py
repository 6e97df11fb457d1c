"""GIF masks: their indices, which decoders turn into colours."""

MAGIC = b"GIF8"


def indices_as_greys(data: bytes) -> bytes:
    """The same GIF with greys 0, 1, 2, ... as its palettes, and nothing transparent. A damaged one stays as it is.

    Source: the blocks of the format; OpenCV expands palettes and cannot be told not to.
    """
    out = bytearray(data)
    try:
        at = _greys(out, 13, out[10])
        while out[at] != 0x3B:
            if out[at] == 0x21:  # an extension
                if out[at + 1] == 0xF9:
                    out[at + 3] &= ~1  # no transparent index
                at += 2
            else:  # a picture: its place and flags, its palette, the size of its codes
                at = _greys(out, at + 10, out[at + 9]) + 1
            while out[at]:
                at += 1 + out[at]
            at += 1
    except IndexError:
        return data
    return bytes(out)


def _greys(out: bytearray, at: int, flags: int) -> int:
    """Makes the palette at this place, if the flags say there is one, one of greys. Returns where it ends."""
    count = 2 << (flags & 7) if flags & 0x80 else 0
    out[at : at + 3 * count] = bytes(i for i in range(count) for _ in range(3))
    return at + 3 * count
