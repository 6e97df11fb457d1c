"""Exported networks in the user's cache folder, one a checkpoint; found without JAX."""

import contextlib
import hashlib
import os
from pathlib import Path

from ddrnet_jax import atomic, regular_files
from ddrnet_jax.runs import find
from ddrnet_jax.runtime import cache_folder

_FOLDER = "exported"
_MOST_FILES = 16  # the least recently used go
_EXPORTER = [Path(__file__).with_name("onnx_graph.py"), Path(__file__).parents[1] / "models" / "folding.py"]


def folder() -> Path | None:
    """Where they lie; None where there is no cache."""
    return cache_folder.made(_FOLDER)


class Entry:
    """The place of one network in the cache, by the content of its weights and the code that exports it."""

    def __init__(self, weights: Path, folder: Path):
        """
        weights  a step's folder, or a file
        Raises   CheckpointError if it cannot be read.
        """
        exporter = hashlib.sha256(b"".join(map(regular_files.read_bytes, _EXPORTER))).hexdigest()
        self._folder, self._key = folder, f"{exporter[:8]}-{find.fingerprint(weights)[:32]}"

    def read(self) -> bytes | None:
        """The file, None if there is none that is whole."""
        for path in self._folder.glob(f"{self._key}-*.onnx"):
            with contextlib.suppress(OSError):
                content = regular_files.read_bytes(path)
                if path.name == self._name(content):
                    os.utime(path)
                    return content
        return None

    def write(self, content: bytes) -> None:
        """Keep it, if there is room."""
        with contextlib.suppress(OSError):
            with atomic.replacing(self._folder / self._name(content)) as partial:
                regular_files.write(partial, content)
            for path in sorted(self._folder.glob("*.onnx"), key=os.path.getmtime)[:-_MOST_FILES]:
                path.unlink(missing_ok=True)

    def _name(self, content: bytes) -> str:
        return f"{self._key}-{hashlib.sha256(content).hexdigest()[:16]}.onnx"
