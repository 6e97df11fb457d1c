"""Which inputs are cameras and streams; loads neither OpenCV nor JAX."""

from pathlib import Path

_SCHEMES = frozenset(("rtsp", "rtsps", "rtmp", "http", "https", "udp", "tcp", "srt"))  # that FFmpeg reads


def is_stream(source: str | Path) -> bool:
    """True of an address that may be a stream's, and of the number of a camera unless a file has that name."""
    text = str(source)
    scheme, separator, _ = text.partition("://")
    return scheme in _SCHEMES if separator else text.isdecimal() and not Path(text).exists()
