"""The folder a run lives in: made, tried, kept for one config, and known again as long as the run lasts."""

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import filelock
import jax

from ddrnet_jax import atomic, regular_files
from ddrnet_jax.bucket import BucketAway, is_address
from ddrnet_jax.config import ConfigError
from ddrnet_jax.config import files as config_files
from ddrnet_jax.errors import UserError
from ddrnet_jax.runs.lease import OLD_S, Lease
from ddrnet_jax.runs.metrics_file import METRICS_FILE, read_lines
from ddrnet_jax.runs.mirror import Mirror
from ddrnet_jax.runs.step_folders import FOLDER
from ddrnet_jax.runtime import devices

CONFIG, REPORT, _LOCK = "config.json", "report.html", ".lock"
CLASS_PIXELS, TEACHER, TRACKER_ID = "class_pixels.json", "teacher.json", "tracker_id.txt"
_KEYS = {"seed", "batch_size", "total_steps", "model", "data"}  # of every config of ours since the first


class WorkdirLost(UserError):
    """The workdir is no longer this run's; the message says why and what to do."""


class Claim:
    """A run's hold on its workdir: the folder, and in the first process the lock, are those that it began with.

    folder  with what the run reads and writes beside its checkpoints
    """

    def __init__(self, workdir: Path, stack: contextlib.ExitStack, *, is_first: bool):
        """stack is what lets go of it"""
        self.folder = self._workdir = workdir
        self._stack = stack
        folder = os.open(workdir, os.O_RDONLY)  # as long as it is open, no other folder gets its inode
        stack.callback(os.close, folder)
        self._folder = _identity(workdir)
        self._lock = self._locked() if is_first else None

    def check(self) -> None:
        """Raises WorkdirLost if the folder is another one by now, or another run is in it."""
        if _identity(self._workdir) != self._folder:
            raise WorkdirLost(
                f"--workdir {self._workdir}: is no longer the folder that this run began in (removed, moved or "
                "unmounted), and nothing is written to what is there now; put it back and run the same command again"
            )
        if self._lock is None:
            return
        if _identity(self._workdir / _LOCK) is None:  # somebody removed it, and nobody has taken the place
            with contextlib.suppress(filelock.Timeout):
                self._lock = self._locked()
        if _identity(self._workdir / _LOCK) != self._lock:
            raise WorkdirLost(
                f"--workdir {self._workdir}: another run has begun there, since {_LOCK} was removed; this one ends. "
                f"Leave {_LOCK} in place, and run the same command again once the other has ended"
            )

    def push(self) -> None:
        """Nothing to do: files written in `folder` are where they belong."""

    def _locked(self) -> tuple[int, int] | None:
        regular_files.require(self._workdir / _LOCK)
        lock = filelock.FileLock(self._workdir / _LOCK)
        lock.acquire(timeout=0)
        self._stack.callback(lock.release)
        return _identity(self._workdir / _LOCK)


class BucketClaim:
    """See Claim: the first process has a lease in the bucket, and each a copy of the run's small files on its disk."""

    def __init__(self, mirror: Mirror, lease: Lease | None):
        self.folder, self._mirror, self._lease = mirror.folder, mirror, lease

    def check(self) -> None:
        """Raises WorkdirLost if another run is in the workdir."""
        if self._lease is not None and not self._lease.renew():  # its thread may not have noticed yet
            raise WorkdirLost(
                f"--workdir {self._mirror.bucket}: another run has taken it over, since this one did not reach the "
                f"bucket for {OLD_S:g} s; this one ends. Run the same command again once the other has ended"
            )

    def push(self) -> None:
        """Bring the bucket up to date with `folder`. Raises WorkdirLost, BucketError."""
        self.check()
        if self._lease is not None:
            self._mirror.push()


@contextlib.contextmanager
def claimed(
    workdir: str | Path, config: dict, check_stop: Callable[[], None] = lambda: None
) -> Iterator[Claim | BucketClaim]:
    """The workdir, made, of this config (JSON values), and no other run's as long as the context lasts.

    workdir     a path, or an address gs://BUCKET/RUN
    check_stop  raises to stop waiting for another run
    Of several processes the first claims it, and the others look whether they see the same folder.
    Raises ConfigError, before anything is written, if it cannot be written, has files of our names that are no run's,
    belongs to another config, or another run is in it.
    """
    with contextlib.ExitStack() as stack:
        if is_address(workdir):
            yield stack.enter_context(_claimed_in_bucket(workdir, config, check_stop))
            return
        workdir = Path(workdir)
        if jax.process_index():
            _check_shared(workdir)
            yield Claim(workdir, stack, is_first=False)
            return
        _check_ours(workdir)
        claim = _made(workdir, stack)
        _claim(workdir, config)
        _check_shared(workdir)
        yield claim


@contextlib.contextmanager
def _claimed_in_bucket(workdir: str | Path, config: dict, check_stop: Callable[[], None]) -> Iterator[BucketClaim]:
    mirror = Mirror(workdir)
    if devices.differing({"--workdir": str(mirror.bucket)}):
        raise ConfigError(f"--workdir {mirror.bucket}: the processes of this run were given different ones")
    with contextlib.ExitStack() as stack:
        stack.enter_context(mirror.named())
        lease = None
        if jax.process_index() == 0:
            mirror.pull()
            _check_bucket_is_ours(mirror)  # before the lease, which is written
            lease = stack.enter_context(Lease(mirror.bucket, mirror.push, check_stop))
            mirror.pull()
            _check_bucket_is_ours(mirror)
            (mirror.folder / FOLDER).mkdir(exist_ok=True)  # which a bucket has with its first step
            _claim(mirror.folder, config)
        devices.wait_for_all("workdir")
        if lease is None:
            mirror.pull()
        claim = BucketClaim(mirror, lease)
        try:
            yield claim
        finally:
            with contextlib.suppress(BucketAway, WorkdirLost):  # what matters went before the last save
                claim.push()


def _check_bucket_is_ours(mirror: Mirror) -> None:
    _check_ours(mirror.folder)
    if not (mirror.folder / CONFIG).exists() and mirror.bucket.objects(f"{FOLDER}/"):  # of which the copy has no more
        raise ConfigError(_not_ours(mirror.folder / FOLDER))


def _made(workdir: Path, stack: contextlib.ExitStack) -> Claim:
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        return Claim(workdir, stack, is_first=True)
    except filelock.Timeout as e:
        raise ConfigError(f"--workdir {workdir}: another run is writing there; wait for it or choose another") from e
    except OSError as e:
        place = f": {e.filename}" if e.filename and Path(e.filename) != workdir else ""
        raise ConfigError(f"--workdir {workdir}: cannot be written ({e.strerror}{place})") from e


def _identity(path: Path) -> tuple[int, int] | None:
    """(device, inode) of what has this name, None if there is nothing."""
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return stat.st_dev, stat.st_ino


def _check_ours(workdir: Path) -> None:
    """Raises ConfigError if files of our names are there that no run of ours has written."""
    if (workdir / "_CHECKPOINT_METADATA").exists():
        raise ConfigError(f"--workdir {workdir}: is a checkpoint itself; choose another folder")
    path = workdir / CONFIG
    if os.path.lexists(path):
        _read_config(path)
        return
    if _has_steps(workdir):
        raise ConfigError(f"{path}: gone, but there are checkpoints; restore it, or choose another --workdir")
    for name in (METRICS_FILE, REPORT, CLASS_PIXELS, TEACHER, TRACKER_ID, FOLDER, _LOCK):
        if _holds_something(workdir / name):
            raise ConfigError(_not_ours(workdir / name))


def _not_ours(path: Path) -> str:
    return f"{path}: is of no run of ours and is not written over; choose another --workdir"


def _holds_something(path: Path) -> bool:
    if path.is_dir():
        return any(path.iterdir())
    return os.path.lexists(path) and not (path.is_file() and path.stat().st_size == 0)


def _has_steps(workdir: Path) -> bool:
    return any((workdir / FOLDER).glob("[0-9]*"))


def _read_config(path: Path) -> dict:
    """The JSON values of a config. Raises ConfigError if it is none of ours."""
    try:
        values = json.loads(regular_files.read_text(path))
    except OSError as e:
        raise ConfigError(f"{path}: cannot be read ({e.strerror})") from e
    except (ValueError, RecursionError) as e:
        raise ConfigError(f"{path}: not a config in JSON; restore it, or choose another --workdir") from e
    if not (isinstance(values, dict) and values.keys() >= _KEYS):
        raise ConfigError(f"{path}: not a config of ours and not written over; restore it, or choose another --workdir")
    return values


def _claim(workdir: Path, config: dict) -> None:
    """Write config.json; once the workdir has checkpoints, only a config of the same run may use it."""
    path = workdir / CONFIG
    lines = read_lines(workdir)
    if _has_steps(workdir) or lines:
        _check_same_run(path, config)
    if lines and not _has_steps(workdir) and _has_saved(workdir, lines):
        raise ConfigError(
            f"{workdir / FOLDER}: the checkpoints are gone, though {METRICS_FILE} goes on to step {lines[-1]['step']}; "
            "put them back, or choose another --workdir"
        )
    try:
        (workdir / FOLDER).mkdir(exist_ok=True)
        atomic.write_text(path, json.dumps(config, indent=2) + "\n")
    except OSError as e:
        raise ConfigError(f"--workdir {workdir}: cannot be written ({e.strerror})") from e


def _has_saved(workdir: Path, lines: list[dict]) -> bool:
    """True if the run had a checkpoint: it was done, or evaluated twice, and the first save comes before the second."""
    evaluated = {line["step"] for line in lines if any(name.startswith("val/") for name in line)}
    return not (workdir / FOLDER).is_dir() or (workdir / REPORT).exists() or len(evaluated) > 1


def _check_shared(workdir: Path) -> None:
    """Every process calls it. Raises ConfigError in those that do not see what the first one writes into the folder."""
    if jax.process_count() == 1:
        return
    number = time.time_ns()  # a name that no file system's cache knows
    if jax.process_index() == 0:
        (workdir / f".shared-{number}").touch()
    path = workdir / f".shared-{devices.from_first_process(number)}"
    is_shared = path.exists()
    devices.wait_for_all("workdir")
    if jax.process_index() == 0:
        path.unlink()
    elif not is_shared:
        raise ConfigError(
            f"--workdir {workdir}: process {jax.process_index()} does not see what process 0 wrote there; "
            "it has to be one folder for all processes, as on a network file system"
        )


def _check_same_run(path: Path, given: dict) -> None:
    changed = _changed_keys(path, _read_config(path), given)
    if changed:
        raise ConfigError(
            f"{path}: this workdir was made with another config; choose another --workdir or restore: "
            + "; ".join(changed)
            + _road_on(path.parent, changed)
        )


def _changed_keys(place: Path, before: dict, given: dict) -> list[str]:
    try:
        return config_files.changed_keys(config_files.to_json(config_files.from_json(before)), given)
    except ConfigError as e:
        raise ConfigError(f"{place}: {e}; restore it, or choose another --workdir") from e


def _road_on(workdir: Path, changed: list[str]) -> str:
    """The advice for a run that is to be of another length."""
    if not any(key.startswith("total_steps:") for key in changed):
        return ""
    return f". The learning rate falls over total_steps, so a run keeps its length; {train_longer(workdir)}"


def train_longer(workdir: str | Path) -> str:
    """How to go on from where a run has ended."""
    return f"to train longer, start from its weights: --config.init_from={workdir} and another --workdir"
