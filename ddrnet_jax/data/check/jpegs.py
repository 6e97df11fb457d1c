"""JPEGs that are damaged inside: decoders fill the rest in and only mention it on the process's standard error."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator

from ddrnet_jax.data import decode
from ddrnet_jax.data.errors import DataError
from ddrnet_jax.data.samples import Source

_OF_DECODERS = ("Corrupt JPEG data", "Premature end of JPEG", "libpng warning")


class Overheard:
    """What C libraries write to standard error while the context lasts; Python's own text still gets there.

    What is no decoder's is passed on at the end.
    """

    def __enter__(self) -> "Overheard":
        self._undo = contextlib.ExitStack()
        self._heard = self._undo.enter_context(tempfile.TemporaryFile())
        terminal = os.dup(2)
        if sys.stderr is not None and _descriptor(sys.stderr) == 2:
            sys.stderr.flush()
            ours = open(os.dup(terminal), "w", buffering=1, encoding=sys.stderr.encoding, errors=sys.stderr.errors)
            self._undo.enter_context(ours)
            self._undo.enter_context(contextlib.redirect_stderr(ours))
        os.dup2(self._heard.fileno(), 2)
        self._undo.callback(os.close, terminal)
        self._undo.callback(os.dup2, terminal, 2)
        return self

    def __exit__(self, *error: object) -> None:
        lines = self.text_since(0).splitlines(keepends=True)
        self._undo.close()
        with contextlib.suppress(OSError):
            os.write(2, "".join(line for line in lines if not line.startswith(_OF_DECODERS)).encode())

    def mark(self) -> int:
        """How much was heard so far, in bytes."""
        return os.fstat(self._heard.fileno()).st_size

    def text_since(self, mark: int) -> str:
        """What was heard since a mark."""
        return os.pread(self._heard.fileno(), self.mark() - mark, mark).decode(errors="replace")


def complaints(source: Source, indices: Iterable[int], overheard: Overheard) -> Iterator[str]:
    """Yields "FILE: what the decoder said" of the JPEGs among these samples that are damaged inside.

    One after another and with nothing beside it, or nobody could say whose complaint it is.
    """
    for index in indices:
        try:
            encoded = source.encoded(index)
            if not decode.is_jpeg(encoded.image):
                continue
            mark = overheard.mark()
            decode.decode_image(encoded.image, encoded.name)
        except DataError:
            continue
        if said := overheard.text_since(mark).strip():
            yield f"{encoded.name}: {said.splitlines()[0]}"


def _descriptor(stream) -> int | None:
    try:
        return stream.fileno()
    except (AttributeError, OSError, ValueError):  # of a notebook, or a test's capture
        return None
