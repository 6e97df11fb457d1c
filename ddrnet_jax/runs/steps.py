"""The steps of one run, where they are: on a disk, or in a bucket."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from ddrnet_jax.bucket import MARKER, Bucket, is_address
from ddrnet_jax.errors import TryAgain
from ddrnet_jax.runs import step_files, step_folders
from ddrnet_jax.runs.mirror import Mirror
from ddrnet_jax.runs.step_files import CheckpointError, first_line
from ddrnet_jax.runs.step_folders import FOLDER, REPLACED, number


class NotSaved(CheckpointError, TryAgain):
    """A step did not reach its bucket."""


class Steps(Protocol):
    """A place for the checkpoints of a run. The first process alone changes something there."""

    @property
    def root(self) -> Path | str:
        """Where they are, for messages."""

    def for_orbax(self) -> os.PathLike:
        """The folder as Orbax takes it."""

    def is_renamed(self) -> bool:
        """True if a step is one by its name, False if by its marker."""

    def newest_first(self) -> list[int]:
        """The steps that there are, not those set aside."""

    def fetched(self, step: int) -> Path:
        """A folder on this disk with all of a step."""

    def forget_fetched(self) -> None:
        """The folders that `fetched` has made are wanted no more."""

    def named(self) -> contextlib.AbstractContextManager[None]:
        """Errors about such a folder name the place of the steps."""

    def set_aside(self, step: int) -> str:
        """Give a damaged step another name, which is returned, so that the run can save that step again."""

    def tidy(self) -> None:
        """Finish what a kill has cut short: saves, and the replacement of a step."""

    def remove_unfinished(self) -> None:
        """Remove what a save has left that failed."""

    def moved_away(self, step: int) -> contextlib.AbstractContextManager[None]:
        """The step under another name until its replacement is complete: a kill in between loses neither."""

    def check_saved(self, step: int, arrays: int, metric: str) -> None:
        """Raises CheckpointError unless a step is found, described, ranked, and its lists name as many arrays."""

    def not_saved(self, step: int, error: Exception) -> CheckpointError:
        """The error to raise where Orbax could not save a step."""


def steps_of(workdir: str | Path) -> Steps:
    """The steps of a workdir: a path, or an address gs://BUCKET/RUN. Raises BucketError."""
    return BucketSteps(workdir) if is_address(workdir) else DiskSteps(workdir)


class DiskSteps:
    """See Steps: folders that get their final name by a rename once they are complete; where a bucket is mounted, whose
    folders cannot be renamed, they have it from the beginning, and get Orbax's marker last."""

    def __init__(self, workdir: str | Path):
        self.root = Path(workdir).absolute() / FOLDER

    def for_orbax(self) -> os.PathLike:
        return step_files.plainly_named(self.root)

    def is_renamed(self) -> bool:
        return step_folders.is_renamed(self.root)

    def newest_first(self) -> list[int]:
        return [int(folder.name) for folder in step_folders.steps(self.root)]

    def fetched(self, step: int) -> Path:
        return self.root / str(step)

    def forget_fetched(self) -> None:
        pass

    def named(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def set_aside(self, step: int) -> str:
        return step_folders.set_aside(self.root / str(step)).name

    def remove_unfinished(self) -> None:
        step_folders.remove_unfinished(self.root)

    def tidy(self) -> None:
        self.remove_unfinished()
        for path in step_folders.replaced(self.root):
            step = path.with_suffix("")
            if step_folders.is_step(step):
                step_folders.remove(path)
            else:
                shutil.rmtree(step, ignore_errors=True)  # what there is of the replacement
                step_folders.rename(path, step)

    @contextlib.contextmanager
    def moved_away(self, step: int) -> Iterator[None]:
        folder = self.root / str(step)
        aside = folder.with_name(f"{step}{REPLACED}")
        step_folders.rename(folder, aside)
        yield
        step_folders.remove(aside)

    def check_saved(self, step: int, arrays: int, metric: str) -> None:
        step_files.check_saved(self.root / str(step), arrays, metric)

    def not_saved(self, step: int, error: Exception) -> CheckpointError:
        is_full = step_files.is_full_disk(error)
        return CheckpointError(
            f"{self.root / str(step)}: the checkpoint cannot be saved ({first_line(error)}"
            f"{f'; {_free(self.root)}' if is_full else ''}); the checkpoints before it are intact: "
            f"{'make room, then ' if is_full else ''}run the same command again"
        )


class BucketSteps:
    """See Steps: objects of equal beginnings, which are a step once Orbax has written its marker, the last of them.

    Nothing is read from the bucket directly, but copied to this disk first: so a network that is away is no damage.
    """

    def __init__(self, workdir: str | Path):
        self._bucket, self._mirror = Bucket(workdir), Mirror(workdir)
        self.root = f"{self._bucket}/{FOLDER}"

    def for_orbax(self) -> os.PathLike:
        from etils import epath

        return epath.Path(self.root)

    def is_renamed(self) -> bool:
        return False

    def newest_first(self) -> list[int]:
        self._mirror.pull()
        return [int(folder.name) for folder in step_folders.steps(self._mirror.folder / FOLDER)]

    def fetched(self, step: int) -> Path:
        self._mirror.pull(f"{FOLDER}/{step}")
        return self._mirror.folder / FOLDER / str(step)

    def forget_fetched(self) -> None:
        self._mirror.clear()

    def named(self) -> contextlib.AbstractContextManager[None]:
        return self._mirror.named()

    def set_aside(self, step: int) -> str:
        names = {name.split("/")[1] for name in self._bucket.objects(f"{FOLDER}/")}
        aside = step_folders.name_aside(str(step), names)
        self._bucket.copy(f"{FOLDER}/{step}", f"{FOLDER}/{aside}")
        self._bucket.remove(f"{FOLDER}/{step}")
        return aside

    def remove_unfinished(self) -> None:
        there = self._bucket.objects(f"{FOLDER}/")
        for name in {name.split("/")[1] for name in there}:
            if number(name.removesuffix(REPLACED)) is not None and f"{FOLDER}/{name}/{MARKER}" not in there:
                self._bucket.remove(f"{FOLDER}/{name}")

    def tidy(self) -> None:
        self.remove_unfinished()
        names = {name.split("/")[1] for name in self._bucket.objects(f"{FOLDER}/")}
        for aside in (name for name in names if name.endswith(REPLACED)):
            step = aside.removesuffix(REPLACED)
            if step not in names:
                self._bucket.copy(f"{FOLDER}/{aside}", f"{FOLDER}/{step}")
            self._bucket.remove(f"{FOLDER}/{aside}")

    @contextlib.contextmanager
    def moved_away(self, step: int) -> Iterator[None]:
        folder = f"{FOLDER}/{step}"
        self._bucket.copy(folder, f"{folder}{REPLACED}")
        self._bucket.remove(folder)
        yield
        self._bucket.remove(f"{folder}{REPLACED}")

    def check_saved(self, step: int, arrays: int, metric: str) -> None:
        self._mirror.pull()
        place = {"driver": "gcs", "bucket": self._bucket.bucket, "path": f"{self._bucket.folder}/{FOLDER}/{step}/"}
        with self.named():
            step_files.check_saved(self._mirror.folder / FOLDER / str(step), arrays, metric, place)

    def not_saved(self, step: int, error: Exception) -> CheckpointError:
        return NotSaved(
            f"{self.root}/{step}: the checkpoint cannot be saved ({first_line(error)}); the checkpoints before it are "
            "intact: look at the network, and run the same command again"
        )


def _free(folder: Path) -> str:
    try:
        return f"{shutil.disk_usage(folder).free / 1e9:.2f} GB free"
    except OSError as e:
        return f"{folder} is gone: {e.strerror}"
