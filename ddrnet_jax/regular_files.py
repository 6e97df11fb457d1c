"""Files as they are opened everywhere: only regular ones, whose end comes, and text as UTF-8 whatever the locale.

A FIFO, a socket or a terminal under the name of a file would keep its reader, or its writer, waiting for ever.
"""

import errno
import os
import stat
from typing import Any


def opened(path: str | os.PathLike, mode: str = "rb", errors: str | None = None) -> Any:
    """The file, open; text is UTF-8, a byte order mark before it no part of it.

    Raises OSError if it cannot be opened, or is no regular file.
    """
    encoding = None if "b" in mode else "utf-8-sig" if mode == "r" else "utf-8"
    return open(path, mode, encoding=encoding, errors=errors, opener=_open)


def read_bytes(path: str | os.PathLike) -> bytes:
    """All of a file. Raises OSError as `opened` does."""
    with opened(path) as file:
        return file.read()


def read_text(path: str | os.PathLike, errors: str = "strict") -> str:
    """All of a text file. Raises OSError as `opened` does, UnicodeDecodeError where it is not UTF-8."""
    with opened(path, "r", errors) as file:
        return file.read()


def write(path: str | os.PathLike, content: bytes | memoryview | str, errors: str = "strict") -> None:
    """Write all of a file, in place. Raises OSError as `opened` does."""
    is_text = isinstance(content, str)
    with opened(path, "w" if is_text else "wb", errors if is_text else None) as file:
        file.write(content)


def require_in(folder: str | os.PathLike) -> None:
    """Raises OSError if something below a folder is neither a folder nor a regular file: its readers are not ours."""
    for parent, _, names in os.walk(os.fspath(folder)):
        for path in (os.path.join(parent, name) for name in names):
            require(path)


def require(path: str | os.PathLike) -> None:
    """Raises OSError if the path is there and is neither a folder nor a regular file."""
    if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
        raise _error(path)


def _open(path: str, flags: int) -> int:
    try:
        descriptor = os.open(
            path, flags | getattr(os, "O_NONBLOCK", 0), 0o666
        )  # a FIFO does not wait for its other end
    except OSError as e:
        raise (_error(path) if e.errno == errno.ENXIO else e) from None
    if stat.S_ISREG(mode := os.fstat(descriptor).st_mode) or stat.S_ISDIR(mode):  # of a folder `open` itself complains
        return descriptor
    os.close(descriptor)
    raise _error(path)


def _error(path: str | os.PathLike) -> OSError:
    return OSError(errno.EINVAL, "not a regular file", os.fspath(path))
