"""One step's directory on disk: read whole and verified, or why it cannot be.

Orbax notices missing and truncated files, but most flipped bits decode to other numbers (a flip in the arrays' own
file always did, benchmarks/fault_injection.py); so a step carries checksums of what was saved, and reading compares.
What a step is of is known without JAX: an exported network needs none. What reads arrays loads it.
"""

import atexit
import errno
import functools
import json
import os
import re
import shutil
import sys
import tempfile
import warnings
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ddrnet_jax import regular_files
from ddrnet_jax.errors import UserError
from ddrnet_jax.runs import step_folders
from ddrnet_jax.runs.metrics_file import SCORES

if TYPE_CHECKING:
    from orbax.checkpoint import v1 as ocp

_CHECKSUMS = "checksums"
_ODD = re.compile(r"[\[\]*?\\\udc80-\udcff]")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class CheckpointError(UserError):
    """A checkpoint is missing, damaged, does not fit or cannot be saved; the message names it and says what to do."""


def saving_context(*, is_renamed: bool) -> "ocp.Context":
    """In which Orbax saves a step: renamed once it is complete, or under its final name, the marker last."""
    from orbax.checkpoint import v1 as ocp

    context = ocp.Context()
    if not is_renamed:
        context.atomicity.mode = ocp.options.AtomicityMode.COMMIT_FILE
    return context


@functools.cache
def plainly_named(folder: Path) -> Path:
    """The folder by a name that Orbax takes as it is: below it names are patterns, backslashes separators, all UTF-8.

    Raises CheckpointError if this process can make no other name for it.
    """
    if not _ODD.search(str(folder)):
        return folder
    try:
        place = Path(tempfile.mkdtemp(prefix="ddrnet_jax-"))
        atexit.register(shutil.rmtree, place, ignore_errors=True)
        (place / "folder").symlink_to(folder.absolute(), target_is_directory=True)
    except OSError as e:
        raise CheckpointError(f"{folder}: checkpoints cannot be in a folder of such a name ({e}); rename it") from e
    return place / "folder"


def described(state: dict, description: dict) -> dict:
    """The description (JSON values) to save with a state, the checksums of both added."""
    return description | {_CHECKSUMS: {part: _checksum(tree) for part, tree in state.items()} | _about(description)}


def read_metadata(folder: Path) -> "ocp.CheckpointMetadata":
    """Orbax's metadata of a step. Raises CheckpointError where it is damaged or not ours, DeviceError without JAX."""
    from orbax.checkpoint import v1 as ocp

    from ddrnet_jax.runtime import devices

    ignore_echoes()
    devices.check()
    try:
        regular_files.require_in(folder)
        metadata = ocp.metadata(plainly_named(folder))
    except Exception as e:  # Orbax raises many kinds for damaged files
        raise CheckpointError(f"{folder}: the checkpoint cannot be read ({first_line(e)})") from e
    if not metadata.metadata:
        raise CheckpointError(f"{folder}: the checkpoint cannot be read (it holds no arrays)")
    _check_description(folder, metadata.custom_metadata)
    return metadata


def read_description(folder: Path) -> dict:
    """The description saved with a step; Orbax takes a while to describe its arrays too. Raises CheckpointError."""
    try:
        description = json.loads(regular_files.read_text(folder / "_CHECKPOINT_METADATA"))["custom_metadata"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as e:
        raise CheckpointError(f"{folder}: the checkpoint cannot be read ({first_line(e)})") from e
    _check_description(folder, description)
    return description


def _check_description(folder: Path, description: object) -> None:
    if not isinstance(description, dict) or "config" not in description:
        raise CheckpointError(f"{folder}: the checkpoint cannot be read (its description is damaged or not ours)")
    _compare(folder, description, _about(description))


def check_description(folder: Path, metric: str) -> dict:
    """The description of a step that a run can rank by its score; its arrays are not read. Raises CheckpointError."""
    if not step_folders.is_step(folder):
        raise CheckpointError(f"{folder}: the checkpoint cannot be read (it is not complete)")
    description = read_metadata(folder).custom_metadata
    _check_score(folder, description, metric)
    return description


def check_saved(folder: Path, arrays: int, metric: str, place: dict[str, str] | None = None) -> None:
    """Raises CheckpointError unless a step is found, described, ranked, and its lists name as many arrays.

    place  where its arrays are, as TensorStore says it; None: in the folder
    Reads these lists alone, in some ms: Orbax itself takes seconds to describe the arrays of a large network.
    """
    import tensorstore as ts

    place = place or {"driver": "file", "path": f"{plainly_named(folder)}/"}
    state = place | {"path": f"{place['path']}state/"}
    description = read_description(folder)
    try:
        keys = ts.KvStore.open({"driver": "ocdbt", "base": state}).result().list().result()
    except Exception as e:  # TensorStore raises many kinds
        raise CheckpointError(f"{folder}: the checkpoint cannot be read ({first_line(e)})") from e
    _check_score(folder, description, metric)
    found = len({key.partition(b"/")[0] for key in keys})
    if found != arrays:
        raise CheckpointError(f"{folder}: the checkpoint cannot be read (it has {found} of {arrays} arrays)")


def _check_score(folder: Path, description: dict, metric: str) -> None:
    score = description.get(metric)
    try:  # Orbax's own copy of the score, by which it keeps the best
        ranked = json.loads(regular_files.read_text(folder / "metrics" / "metrics"))[metric]
    except FileNotFoundError:
        ranked = None
    except (ValueError, KeyError, TypeError) as e:
        raise CheckpointError(f"{folder}: the checkpoint cannot be read (its score: {first_line(e)})") from e
    if ranked != score:
        raise CheckpointError(f"{folder}: the checkpoint cannot be read (its score is {ranked}, {score} was saved)")


def check_number(folder: Path, state: dict) -> None:
    """Raises CheckpointError if the state is another step's: its data and learning rate would be those of the name."""
    if int(state["step"]) != int(folder.name):
        raise CheckpointError(f"{folder}: the checkpoint is that of step {int(state['step'])}, renamed")


def read(folder: Path, like: dict) -> dict:
    """The parts of a step that `like` has, in its structure, shapes and dtypes; the leaves numpy arrays.

    Each process reads by itself, so that one which cannot leaves no other waiting.
    Raises CheckpointError if something cannot be read or is not what was saved.
    """
    import jax
    from orbax.checkpoint import v1 as ocp

    if not step_folders.is_step(folder):
        raise CheckpointError(f"{folder}: the checkpoint cannot be read (it is not complete)")
    templates = jax.tree.map(lambda a: np.broadcast_to(np.zeros((), a.dtype), a.shape), like)
    description = read_description(folder)
    context = ocp.Context()
    context.pytree_options.loading.partial_load = True
    context.multiprocessing_options.primary_host = jax.process_index()
    context.multiprocessing_options.active_processes = {jax.process_index()}
    try:
        with context:
            state = ocp.load(plainly_named(folder), templates)
    except Exception as e:
        raise CheckpointError(f"{folder}: the checkpoint cannot be read ({first_line(e)})") from e
    _compare(folder, description, {part: _checksum(tree) for part, tree in state.items()})
    return state


def score(metrics: dict | None) -> float:
    """The score of a step, to compare with other steps of the same run: they have the same metric."""
    known = metrics or {}
    return max((float(known[name]) for name in SCORES.values() if name in known), default=-1.0)


def is_full_disk(error: BaseException) -> bool:
    """True if an error, or one that it came from, is known to be a lack of room."""
    texts = tuple(os.strerror(number) for number in _FULL)
    while error is not None:
        if getattr(error, "errno", None) in _FULL or any(text in str(error) for text in texts):
            return True
        error = error.__cause__ or error.__context__
    return False


def first_line(error: BaseException) -> str:
    """The message of another package's error, short enough for one line."""
    text = str(error)
    for number in (*_FULL, errno.EROFS, errno.EIO):
        if os.strerror(number) in text:  # TensorStore puts long paths before it
            return os.strerror(number)
    return (text.splitlines() or [type(error).__name__])[0][:200]


def _checksum(tree) -> int:
    import jax

    value = 0
    for leaf in jax.tree.leaves(tree):
        array = np.ascontiguousarray(leaf)
        value = zlib.crc32(f"{array.dtype}{np.shape(leaf)}".encode(), value)
        value = zlib.crc32(array.reshape(-1).view(np.uint8).data, value)
    return value


def _about(description: dict) -> dict[str, int]:
    text = json.dumps({k: v for k, v in description.items() if k != _CHECKSUMS}, sort_keys=True)
    return {"description": zlib.crc32(text.encode())}


def _compare(folder: Path, description: dict, found: dict[str, int]) -> None:
    """Steps of earlier versions have no checksums."""
    saved = description.get(_CHECKSUMS, {})
    wrong = sorted(part for part in found if saved.get(part, found[part]) != found[part])
    if wrong:
        raise CheckpointError(
            f"{folder}: the checkpoint cannot be read (its files have changed: {', '.join(wrong)} "
            "differ from what was saved)"
        )


def ignore_echoes() -> None:
    """Leave one error of Orbax's one: at the first bad array it closes its loop, and TensorStore answers for the rest.

    Hundreds of tracebacks "Event loop is closed", some after the load has returned; so the filter stays. Where no more
    files may be opened, the loop that could not be made complains when it is removed.
    """
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    previous = sys.unraisablehook
    if hasattr(previous, "ignores_echoes"):
        return

    def report(unraisable) -> None:
        if not any(echo in str(unraisable.exc_value) for echo in ("Event loop is closed", "'_ssock'")):
            previous(unraisable)

    vars(report)["ignores_echoes"] = True
    sys.unraisablehook = report
