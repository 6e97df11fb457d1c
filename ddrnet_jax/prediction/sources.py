"""Which inputs are cameras and streams; loads neither OpenCV nor JAX."""

from pathlib import Path

_SCHEMES = frozenset(("rtsp", "rtsps", "rtmp", "http", "https", "udp", "tcp", "srt"))  # that FFmpeg reads
_MOST_DIGITS = 4  # of a camera's number; a longer one is the name of a file, as 20261130


def is_stream(source: str | Path) -> bool:
    """True of an address that may be a stream's, and of the number of a camera unless a file has that name."""
    text = str(source)
    scheme, separator, _ = text.partition("://")
    return scheme in _SCHEMES if separator else _is_number(text) and not Path(text).exists()


def _is_number(text: str) -> bool:
    return text.isdecimal() and len(text) <= _MOST_DIGITS
