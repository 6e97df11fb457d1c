"""Files and folders of data sets, with errors that name them."""

import collections
import os
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from ddrnet_jax import outputs, regular_files
from ddrnet_jax.data.errors import DataError, MissingLabels, Pair
from ddrnet_jax.text import first_few

IMAGE_SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".gif"))
_FEW = 4  # that a message names
_NO_DATA = frozenset(("thumbs.db", "desktop.ini"))


def files_by_stem(folder: Path, what: str) -> dict[str, Path]:
    """{stem: path} of the image files in a folder.

    Raises DataError if the folder is missing, holds no image, or two images of one stem.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder, expected the {what}; check data.root and the splits")
    paths: dict[str, Path] = {}
    ours = outputs.written_in(folder)
    for path in sorted(folder.iterdir()):
        if not is_image(path.name) or path.name in ours:
            continue
        if path.stem in paths:
            raise DataError(same_stem(path, paths[path.stem]))
        paths[path.stem] = path
    if not paths:
        kinds = ", ".join(sorted(IMAGE_SUFFIXES))
        raise DataError(f"{folder}: no images here ({kinds}), expected the {what}: {contents(folder)}")
    return paths


def same_stem(one: Path, other: Path) -> str:
    """The message about two files of one stem."""
    kinds = {unicodedata.is_normalized("NFC", path.name) for path in (one, other)}
    forms = " (one name is in Unicode's composed form, the other decomposed)" if len(kinds) == 2 else ""
    return f"{one} and {other.name} have the same stem{forms}; one of them must go"


def is_image(name: str) -> bool:
    """True if a file of this name is taken for an image."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES and not os.path.basename(name).startswith(".")


def is_folder(entry: os.DirEntry) -> bool:
    """True of a folder and of a link to one; a link to itself is none."""
    return entry.is_dir(follow_symlinks=False) or (entry.is_symlink() and os.path.isdir(entry.path))


def contents(folder: Path, called: str = "it") -> str:
    """The contents of a folder in a few words: "it has city_a/, city_b/ and 12 .json"."""
    with os.scandir(folder) as entries:
        there = [entry for entry in entries if not entry.name.startswith(".")]
    folders = sorted(f"{entry.name}/" for entry in there if is_folder(entry))
    suffixes = [os.path.splitext(entry.name)[1] or "without suffix" for entry in there if not is_folder(entry)]
    kinds = [f"{count:,} {suffix}" for suffix, count in collections.Counter(suffixes).most_common()]
    parts = [first_few(found, _FEW) for found in (folders, kinds) if found]
    return f"{called} has {' and '.join(parts)}" if parts else f"{called} is empty"


def unread(folder: str | Path) -> list[str]:
    """The names of what lies beside the images of a folder and is no image by its name; folders end in "/"."""
    with os.scandir(folder) as entries:
        return sorted(
            f"{entry.name}/" if is_folder(entry) else entry.name
            for entry in entries
            if not (entry.name.startswith(".") or entry.name.lower() in _NO_DATA or is_image(entry.name))
        )


def read_file(path: str | Path) -> bytes:
    """The bytes of a file. Raises DataError naming it if it cannot be read."""
    try:
        return regular_files.read_bytes(path)
    except OSError as e:
        raise DataError(f"{path}: cannot be read ({e.strerror})") from e


def require_folder(folder: Path, what: str) -> Path:
    """The folder itself. Raises DataError that says what it should be and what is there instead."""
    if folder.is_dir():
        return folder
    above = folder.parent
    there = contents(above, str(above)) if above.is_dir() else f"{above} is not there either"
    raise DataError(f"{folder}: no such folder, expected {what}; {there}: check data.root and the splits")


def subfolders(folder: Path) -> list[str]:
    """The names of the folders in a folder, sorted; hidden ones left out."""
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if is_folder(e) and not e.name.startswith("."))


def require_labels(pairs: Iterable[tuple[Path, Path]], advice: str) -> list[Pair]:
    """The (image, label) paths as texts. Raises MissingLabels if an image has no label."""
    names: dict[Path, frozenset[str]] = {}
    there: list[Pair] = []
    missing: list[tuple[str, str]] = []
    for image, label in pairs:
        folder = label.parent
        if folder not in names:
            names[folder] = frozenset(os.listdir(folder)) if folder.is_dir() else frozenset()
        (there if label.name in names[folder] else missing).append((str(image), str(label)))
    if missing:
        raise MissingLabels(there, missing, advice)
    return there


def require_some(found: list, place: Path, expected: str) -> None:
    """Raises DataError that names the place if nothing was found there."""
    if not found:
        raise DataError(f"{place}: nothing to read here, expected {expected}; check data.root and the splits")
