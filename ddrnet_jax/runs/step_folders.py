"""The directories of a run's steps: which are there and complete, and other names for them. Needs no JAX."""

import itertools
import os
import shutil
from collections.abc import Collection
from pathlib import Path

from ddrnet_jax.bucket import MARKER
from ddrnet_jax.runs import mounts

FOLDER = "checkpoints"  # in a workdir
REPLACED = ".replaced"  # a step under this name until its replacement is complete
_UNFINISHED = ".orbax-checkpoint-tmp"
_DAMAGED = ".damaged"


def is_step(path: Path) -> bool:
    """True if this is a step's directory that was written to its end."""
    has_description = (path / "_CHECKPOINT_METADATA").is_file() and _UNFINISHED not in path.name
    return has_description and (is_renamed(path) or (path / MARKER).is_file())


def is_renamed(path: Path) -> bool:
    """True where a step gets its final name once it is complete; else its marker, which a bucket's mount has last."""
    return not mounts.is_bucket(path)


def steps(root: Path) -> list[Path]:
    """The directories of a run's steps, newest first, complete or not; not those set aside."""
    return sorted((p for p in root.glob("*") if number(p.name) is not None and p.is_dir()), key=lambda p: -int(p.name))


def replaced(root: Path) -> list[Path]:
    """The directories of steps whose replacement is not complete."""
    return [p for p in root.glob(f"*{REPLACED}") if number(p.name.removesuffix(REPLACED)) is not None]


def number(name: str) -> int | None:
    """The step that a directory of this name is of; None if it is no step's."""
    is_step = name.isascii() and name.isdecimal() and len(name) <= 10 and str(int(name)) == name  # neither ² nor 007
    return int(name) if is_step else None


def beside(folder: Path) -> str:
    """The other steps of the run, as the end of a message about one that cannot be read."""
    others = [p.name for p in steps(folder.parent) if p != folder and is_step(p)]
    if not others:
        return ""
    return f"; beside it are {', '.join(others)}: choose one, as --checkpoint {folder.with_name(others[0])}"


def rename(folder: Path, target: Path) -> None:
    """Give a step another name; a mount copies it, and under one of the two names it is whole at any time."""
    if is_renamed(folder):
        os.replace(folder, target)
        return
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns(MARKER), dirs_exist_ok=True)
    if (folder / MARKER).is_file():
        shutil.copyfile(folder / MARKER, target / MARKER)
    remove(folder)


def remove(folder: Path) -> None:
    """Remove a step, its marker first."""
    (folder / MARKER).unlink(missing_ok=True)
    shutil.rmtree(folder)


def set_aside(folder: Path) -> Path:
    """Give a damaged step another name, so that the run can save that step again; returns the new path."""
    aside = folder.with_name(name_aside(folder.name, os.listdir(folder.parent)))
    rename(folder, aside)
    return aside


def name_aside(name: str, taken: Collection[str]) -> str:
    """The first name for a damaged step that none of those beside it has."""
    names = (f"{name}{_DAMAGED}{f'-{n}' if n > 1 else ''}" for n in itertools.count(1))
    return next(aside for aside in names if aside not in taken)


def remove_unfinished(root: Path) -> None:
    """Remove what saves that were cut short have left: under Orbax's name for it, on a mount without its marker."""
    for path in root.glob("*"):
        is_of_step = number(path.name.removesuffix(REPLACED)) is not None
        if _UNFINISHED in path.name or (is_of_step and not is_renamed(path) and not (path / MARKER).is_file()):
            shutil.rmtree(path, ignore_errors=True)
