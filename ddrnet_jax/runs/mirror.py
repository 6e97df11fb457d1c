"""A workdir in a bucket as a local folder: what a run reads and writes beside its arrays, and the steps asked for.

The local folder has the run's small files, and of every step that was saved to its end all but its arrays; so that what
is known of a workdir on a disk is known of one in a bucket by the same functions.
"""

import atexit
import contextlib
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from ddrnet_jax import regular_files
from ddrnet_jax.bucket import MARKER, Bucket, BucketError, Vanished
from ddrnet_jax.errors import UserError
from ddrnet_jax.outputs import RECORD
from ddrnet_jax.runs.metrics_file import METRICS_FILE
from ddrnet_jax.runs.step_folders import FOLDER

MLFLOW_STORE = "mlruns"
_STEP = re.compile(rf"(?:{FOLDER}/)?([0-9][^/]*)/")  # of a workdir, or of its folder of steps
_MOST_BYTES = 64 * 2**20  # of a file beside the steps: what is larger is none of a run's
_ATTEMPTS = 5


class Mirror:
    """A local folder that is brought up to date with one in a bucket, and the bucket's with it."""

    def __init__(self, address: str | Path):
        """Raises BucketError where the address is none, or buckets cannot be used here."""
        self.bucket = Bucket(address)
        root = Path(tempfile.mkdtemp(prefix="ddrnet_jax-"))
        atexit.register(shutil.rmtree, root, ignore_errors=True)
        self.folder = root / self.bucket.bucket / self.bucket.folder
        self.folder.mkdir(parents=True)
        self._generations: dict[str, int] = {}
        self._pushed: dict[str, tuple[int, int]] = {}
        self._lock = threading.Lock()  # one thread pushes before a save, another now and then

    def pull(self, whole: str | None = None) -> None:
        """Make the local folder what the bucket has now.

        whole   the name of a step that is wanted with its arrays, as "checkpoints/12"; "" for the folder itself
        Raises  BucketError.
        """
        for _ in range(_ATTEMPTS):
            there = self.bucket.objects()
            steps = {match[0] for name in there if (match := _STEP.match(name))}
            unfinished = tuple(step for step in steps if f"{step}{MARKER}" not in there)
            there = {name: blob for name, blob in there.items() if not (unfinished and name.startswith(unfinished))}
            for name in self._generations.keys() - there.keys():
                del self._generations[name]
                (self.folder / name).unlink(missing_ok=True)
            self._remove_steps(steps - set(unfinished))
            changed = {
                name: blob
                for name, blob in there.items()
                if blob.generation != self._generations.get(name)
                and (name in self._generations or _is_small(name, blob.size) or _is_below(name, whole))
            }
            try:
                self.bucket.fetch(changed, self.folder)
            except Vanished:
                continue
            for name, blob in changed.items():
                self._generations[name] = blob.generation
                self._pushed[name] = self._state(name)
            return
        raise BucketError(f"{self.bucket}: its files change all the time; run the same command again")

    def push(self) -> None:
        """Write to the bucket what has changed here beside the steps. Raises BucketError."""
        with self._lock:
            for path in sorted(self._files()):
                name = path.relative_to(self.folder).as_posix()
                with contextlib.suppress(FileNotFoundError):
                    if _is_of_run(name) and self._pushed.get(name) != (state := self._state(name)):
                        self.bucket.write(name, regular_files.read_bytes(path))
                        self._pushed[name] = state

    def clear(self) -> None:
        """Remove what is in the local folder."""
        shutil.rmtree(self.folder)
        self.folder.mkdir()
        self._generations.clear()
        self._pushed.clear()

    @contextlib.contextmanager
    def named(self) -> Iterator[None]:
        """Errors about the local folder speak of the bucket's."""
        try:
            yield
        except UserError as e:
            e.args = (str(e).replace(str(self.folder), str(self.bucket)),)
            raise

    def _remove_steps(self, there: set[str]) -> None:
        """Folders of steps that are gone from the bucket; without files they are none, but look like some."""
        for path in (*self.folder.glob("[0-9]*"), *self.folder.glob(f"{FOLDER}/[0-9]*")):
            if path.is_dir() and f"{path.relative_to(self.folder).as_posix()}/" not in there:
                shutil.rmtree(path)

    def _files(self) -> Iterator[Path]:
        """Those there are now; trackers remove folders meanwhile, of which os.walk alone makes nothing."""
        for folder, _, names in os.walk(self.folder):
            yield from (path for name in names if (path := Path(folder, name)).is_file())

    def _state(self, name: str) -> tuple[int, int]:
        stat = (self.folder / name).stat()
        return stat.st_size, stat.st_mtime_ns


def _is_small(name: str, size: int) -> bool:
    """True of what is wanted of a run in any case."""
    is_in_step = _STEP.match(name) is not None or name.startswith(("state/", "metrics/"))
    if is_in_step:
        return "/d/" not in name
    if name.startswith(f"{MLFLOW_STORE}/"):  # a resumed run adds to its files; it only makes new pictures
        return "/artifacts/" not in name
    return "/" not in name and _is_of_run(name) and (size <= _MOST_BYTES or name == METRICS_FILE)


def _is_of_run(name: str) -> bool:
    """True of what lies beside the steps, but locks and what is being written."""
    return name == RECORD or not name.startswith((f"{FOLDER}/", "."))


def _is_below(name: str, whole: str | None) -> bool:
    return whole is not None and (not whole or name.startswith(f"{whole}/"))
