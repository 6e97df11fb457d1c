"""Which step a path means, and an exact name for what it holds; loads no JAX."""

import hashlib
import os
from pathlib import Path

from ddrnet_jax import regular_files
from ddrnet_jax.runs import step_files
from ddrnet_jax.runs.step_files import CheckpointError


def find_step(path: str | Path) -> Path:
    """The step directory that a workdir or step directory stands for: the best, else the latest.

    Raises CheckpointError if there is none, or if a damaged one may be the best: another model must not
    take its place unnoticed.
    """
    path = Path(path).expanduser().absolute()
    if step_files.is_step(path):
        return path
    root = path / step_files.FOLDER if (path / step_files.FOLDER).is_dir() else path
    found = {int(p.name): p for p in step_files.steps(root) if step_files.is_step(p)}
    for aside in step_files.replaced(root):  # whose replacement a kill may have cut short
        found.setdefault(int(aside.name.removesuffix(step_files.REPLACED)), aside)
    ranked = {}
    for index, step in found.items():
        try:
            ranked[step] = (step_files.score(step_files.read_description(step)), index)
        except CheckpointError as e:
            if step.exists():  # a run that goes on may have removed it meanwhile
                raise CheckpointError(f"{e}, and it may be the best{step_files.beside(step)}") from e
    if not ranked:
        raise CheckpointError(f"{path}: no checkpoint here; expected a workdir or one step's directory")
    return max(ranked, key=ranked.__getitem__)


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
