"""Files written into folders that users have files in too: none is replaced that was not written here before."""

import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path

from ddrnet_jax import regular_files
from ddrnet_jax.errors import UserError

RECORD = ".ddrnet_jax"  # in a folder of results: a JSON line for each file that was written, with its SHA-256


class OutputError(UserError):
    """A file cannot be written, or is not ours to write; the message names it and says what to do."""


class Outputs:
    """The files of a folder that a command writes. They appear whole, and are noted before they appear.

    A file there is ours if it is as it was noted: one that was edited since is the user's.
    """

    def __init__(self, folder: str | Path, *, inputs: Iterable[str | Path] = ()):
        """inputs are files that the command reads: none is ever written"""
        self.folder = Path(folder)
        self._inputs = tuple(inputs)
        self._known = set(_noted(self.folder / RECORD))

    def require(self, names: Iterable[str]) -> None:
        """Make the folders of the files of these names, below the folder, before any long work.

        Raises OutputError if they cannot be written, or if one is there that is an input or was not written by us.
        """
        names = list(names)
        inputs = _identities(self._inputs) if any(map(self._is_there, names)) else frozenset()
        for name in filter(self._is_there, names):
            self._check(name, inputs)
        for path in {(self.folder / name).parent: self.folder / name for name in names}.values():
            with _explained(path), _beside(path) as trial:
                trial.touch()

    @contextlib.contextmanager
    def replacing(self, name: str, *, keeps_part: bool = False) -> Iterator[Path]:
        """A place for a file that then gets its name; after an error there is what was there before.

        keeps_part  the file gets its name after an error too: what there is of it is of use
        Raises OutputError as `require` does, at the end: what a user puts there meanwhile is not replaced either.
        """
        with _explained(self.folder / name), _beside(self.folder / name) as partial:
            try:
                yield partial
                keeps_part = True
            finally:
                if keeps_part and partial.exists():
                    self._place(partial, name)

    def write(self, name: str, data: bytes) -> None:
        """Write a file of these bytes, whole. Raises OutputError."""
        with self.replacing(name) as partial:
            regular_files.write(partial, data)

    def _place(self, partial: Path, name: str) -> None:
        if self._is_there(name):
            self._check(name, _identities(self._inputs))
        self._note(name, _sha256(partial))
        os.replace(partial, self.folder / name)

    def _is_there(self, name: str) -> bool:
        return os.path.lexists(self.folder / name)

    def _check(self, name: str, inputs: frozenset) -> None:
        path = self.folder / name
        if _identities([path]) & inputs:
            raise OutputError(f"{path}: is read as an input and not written over; choose another --output")
        with _explained(path):
            if not path.is_file() or (name, _sha256(path)) not in self._known:
                raise OutputError(
                    f"{path}: is not of this program, or was changed since it was written; it is not written over: "
                    "choose another --output, or move it away"
                )

    def _note(self, name: str, sha256: str) -> None:
        if (name, sha256) not in self._known:
            with regular_files.opened(self.folder / RECORD, "a") as record:
                record.write(json.dumps({"file": name, "sha256": sha256}) + "\n")
            self._known.add((name, sha256))


def written_in(folder: str | Path) -> frozenset[str]:
    """The names of files right in a folder that are results as a command wrote them, and so nobody's input."""
    known = set(_noted(Path(folder) / RECORD))
    names = {name for name, _ in known if "/" not in name}
    return frozenset(
        name for name in names if (Path(folder) / name).is_file() and (name, _sha256(Path(folder) / name)) in known
    )


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        raise OutputError(f"--output {path}: cannot be written ({e.strerror or e})") from e


@contextlib.contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A place in the file's folder, which is made, for a file of that kind; what is there at the end is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{secrets.token_hex(6)}.partial{path.suffix}")
    try:
        yield partial
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def _noted(record: Path) -> Iterator[tuple[str, str]]:
    """(name, SHA-256) of every line of a record; none of what is no record of ours."""
    for line in regular_files.read_text(record, "replace").splitlines() if record.is_file() else ():
        with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
            noted = json.loads(line)
            yield str(noted["file"]), str(noted["sha256"])


def _identities(paths: Iterable[str | Path]) -> frozenset[tuple[int, int]]:
    """(device, inode) of the files that are there: two names of one file are the same."""
    found = set()
    for path in paths:
        with contextlib.suppress(OSError):
            stat = os.stat(path)
            found.add((stat.st_dev, stat.st_ino))
    return frozenset(found)


def _sha256(path: Path) -> str:
    with regular_files.opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
