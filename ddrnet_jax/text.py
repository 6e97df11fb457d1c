"""Numbers and lines for people: how tables and messages say sizes, shares and long lists."""

import textwrap
from collections.abc import Mapping, Sequence

WIDTH = 80  # columns of everything that is printed


def printable(text: str) -> str:
    """The text with whatever is none spelt out: bytes of a name that are not UTF-8, controls, turns of direction."""
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)


def wrapped(text: str, indent: str = "", *, hanging: int = 0) -> list[str]:
    """A paragraph in lines of at most WIDTH columns; see `printable`.

    indent   before the first line; the others get as many spaces
    hanging  spaces more of the others
    """
    text = printable(text)
    rest = " " * (len(indent) + hanging)
    return textwrap.wrap(text, WIDTH, initial_indent=indent, subsequent_indent=rest, break_on_hyphens=False)


def size(size_hw: Sequence[int]) -> str:
    """Height x width in pixels: (1024, 2048) -> "1024x2048"."""
    return "x".join(map(str, size_hw))


def percent(share: float | None, digits: int = 0) -> str:
    """0.604 -> "60%", a dash where there is no number."""
    return "-" if share is None else f"{share:.{digits}%}"


def three_digits(value: float) -> str:
    """1.23, 12.3, 123"""
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def versions(found: Mapping[str, str]) -> str:
    """{"jax": "0.10.2", "numpy": "2.1"} -> "jax 0.10.2, numpy 2.1"."""
    return ", ".join(f"{name} {version}" for name, version in found.items())


def first_few(names: Sequence, count: int = 3) -> str:
    """ "a, b, c and 4 more" """
    return ", ".join(map(str, names[:count])) + (f" and {len(names) - count:,} more" if len(names) > count else "")


def cut(text: str, length: int, ending: str = "...") -> str:
    """A text of at most `length` letters; a longer one loses its end."""
    return text if len(text) <= length else text[: length - len(ending)] + ending
