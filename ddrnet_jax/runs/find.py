"""Which step a path or an address means, and an exact name for what it holds; loads no JAX."""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from ddrnet_jax import regular_files
from ddrnet_jax.bucket import Bucket, is_address
from ddrnet_jax.runs import step_files, step_folders
from ddrnet_jax.runs.mirror import Mirror
from ddrnet_jax.runs.step_files import CheckpointError

_mirrors: dict[str, Mirror] = {}  # what was copied once in this process is copied again only where it has changed


def find_step(path: str | Path) -> Path:
    """The step directory that a workdir or step directory stands for: the best, else the latest.

    path  or an address gs://BUCKET/RUN, whose step is then copied to this disk
    Raises CheckpointError if there is none, or if a damaged one may be the best: another model must not
    take its place unnoticed.
    """
    path = on_this_disk(path).expanduser().absolute()
    if step_folders.is_step(path):
        return path
    root = path / step_folders.FOLDER if (path / step_folders.FOLDER).is_dir() else path
    found = {int(p.name): p for p in step_folders.steps(root) if step_folders.is_step(p)}
    for aside in step_folders.replaced(root):  # whose replacement a kill may have cut short
        found.setdefault(int(aside.name.removesuffix(step_folders.REPLACED)), aside)
    ranked = {}
    for index, step in found.items():
        try:
            ranked[step] = (step_files.score(step_files.read_description(step)), index)
        except CheckpointError as e:
            if step.exists():  # a run that goes on may have removed it meanwhile
                raise CheckpointError(f"{e}, and it may be the best{step_folders.beside(step)}") from e
    if not ranked:
        raise CheckpointError(f"{path}: no checkpoint here; expected a workdir or one step's directory")
    return max(ranked, key=ranked.__getitem__)


def on_this_disk(place: str | Path, *, needs_step: bool = True) -> Path:
    """A path as it is; of an address a copy: of a workdir its small files and its best, else latest step.

    place       a workdir, one step's directory, or a file; or gs://BUCKET/ and its name
    needs_step  False: of a workdir without any, its small files
    Raises      BucketError, and CheckpointError as find_step does.
    """
    if not is_address(place):
        return Path(place)
    mirror, inside = _copied(place)
    mirror.pull(inside)
    folder = mirror.folder / (inside or "")
    with mirror.named():
        if step_folders.is_step(folder):
            mirror.pull(inside or "")
        elif inside or not any(folder.iterdir()):
            return _file(Bucket(place), mirror.folder)
        elif needs_step or step_folders.steps(folder / step_folders.FOLDER):
            step = find_step(folder)
            mirror.pull(step.relative_to(folder).as_posix())
            if find_step(folder) != step:  # a run that goes on has saved a better one
                return on_this_disk(place)
    return folder


@contextlib.contextmanager
def named() -> Iterator[None]:
    """Errors about a copy on this disk speak of the address that it is a copy of."""
    with contextlib.ExitStack() as stack:
        for mirror in _mirrors.values():
            stack.enter_context(mirror.named())
        yield


def put_back(place: str | Path) -> str:
    """Uploads what was written into the copy of a workdir. Returns its address. Raises BucketError."""
    mirror, _ = _copied(place)
    mirror.push()
    return str(mirror.bucket)


def _copied(place: str | Path) -> tuple[Mirror, str | None]:
    """(the copy of the workdir or the folder that an address is in, the name of the step in it if it is one's)"""
    address = Bucket(place).address
    workdir, _, name = address.rpartition(f"/{step_folders.FOLDER}/")
    if workdir and step_folders.number(name.removesuffix(step_folders.REPLACED)) is not None:
        return _mirror(workdir), f"{step_folders.FOLDER}/{name}"
    return _mirror(address), None


def _mirror(address: str) -> Mirror:
    if address not in _mirrors:
        _mirrors[address] = Mirror(address)
    return _mirrors[address]


def _file(bucket: Bucket, folder: Path) -> Path:
    blob = bucket.itself()
    if blob is None:
        raise CheckpointError(f"{bucket}: no checkpoint here; expected a workdir or one step's directory")
    name = bucket.folder.rpartition("/")[2]
    bucket.fetch({name: blob}, folder)
    return folder / name


def fingerprint(weights: Path) -> str:
    """sha256 of a file, or of all files of a step and their names. Raises CheckpointError where one cannot be read."""
    digest = hashlib.sha256()
    paths = [weights] if weights.is_file() else sorted(p for p in weights.rglob("*") if not p.is_dir())
    try:
        for path in paths:
            content = hashlib.sha256(regular_files.read_bytes(path)).digest()
            digest.update(os.fsencode(path.relative_to(weights)) + b"\0" + content)
    except OSError as e:
        raise CheckpointError(f"{weights}: the checkpoint cannot be read ({e.strerror or e})") from e
    return digest.hexdigest()
