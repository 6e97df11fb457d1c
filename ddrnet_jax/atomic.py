"""Files that others find whole or not at all; one process at a time writes one."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from ddrnet_jax import regular_files


@contextlib.contextmanager
def beside(path: str | os.PathLike) -> Iterator[Path]:
    """A place for a file beside `path`; what is there at the end is removed: a full disk has use for the space."""
    partial = Path(path).with_name(f".{Path(path).name}.partial")
    try:
        yield partial
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing(path: str | os.PathLike, *, is_synced: bool = False) -> Iterator[Path]:
    """A place for a file that then becomes `path`; after an error `path` is as it was before.

    is_synced  whether the file is on the disk before it gets its name, so that a power cut leaves one or the other
    """
    with beside(path) as partial:
        yield partial
        if is_synced:
            with regular_files.opened(partial, "r+b") as file:
                os.fsync(file.fileno())
        os.replace(partial, path)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a file of this text, whole."""
    with replacing(path) as partial:
        regular_files.write(partial, text)
