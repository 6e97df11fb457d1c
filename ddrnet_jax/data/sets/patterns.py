"""Patterns of file names: "labels/{split}/{stem}_L.png" -> the files of a split, by what {stem} stands for.

A pattern without {stem} is a folder: all its files, by their names without suffix. Subfolders are part of the stem, so
a/0.jpg and b/0.jpg are two images. Without a suffix at its end a pattern takes every kind of image.
"""

import os
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from ddrnet_jax.data import files
from ddrnet_jax.data.errors import DataError
from ddrnet_jax.outputs import written_in

PLACEHOLDERS = ("{split}", "{stem}")
_SUFFIXES = files.IMAGE_SUFFIXES | {".json"}


def find(root: Path, pattern: str, split: str, what: str) -> dict[str, Path]:
    """{stem: path} of the files of a split, in the order of the stems; stems in Unicode's composed form.

    what  the files are, for messages
    Raises DataError if the folder is missing, nothing fits, or two files have one stem.
    """
    folder, fits = _folder_and_form(root, pattern, split)
    files.require_folder(folder, f"the {what}")
    found: dict[str, Path] = {}
    for relative in sorted(_below(folder)):
        if not (match := fits(relative)):
            continue
        stem, path = unicodedata.normalize("NFC", match["folder"] + match["name"]), folder / relative
        if stem in found:
            raise DataError(files.same_stem(path, found[stem]))
        found[stem] = path
    if not found:
        raise DataError(f"{folder}: no images here by {pattern!r}, expected the {what}: {files.contents(folder)}")
    return {stem: found[stem] for stem in sorted(found)}


def path_of(root: Path, pattern: str, split: str, stem: str) -> Path:
    """Where the file of a stem is expected; a PNG, if the pattern takes every kind of image."""
    text = _with_stem(pattern)
    text = text if _suffix(text) else f"{text}.png"
    return root / text.replace("{split}", split).replace("{stem}", stem)


def _with_stem(pattern: str) -> str:
    return pattern if "{stem}" in pattern else f"{pattern.rstrip('/')}/{{stem}}"


def _suffix(text: str) -> str:
    suffix = os.path.splitext(f"x{text}")[1]  # ".png" alone would be a name
    return suffix if suffix.lower() in _SUFFIXES else ""


def _folder_and_form(root: Path, pattern: str, split: str):
    """The folder that a pattern's files are in, and a function: their path below it -> its match or None."""
    before, after = _with_stem(pattern).replace("{split}", split).split("{stem}")
    folder, _, before = before.rpartition("/")
    suffix = _suffix(after)
    ending = f"(?i:{re.escape(suffix)})" if suffix else r"\.[^./]+"
    after = re.escape(after.removesuffix(suffix))
    form = re.compile(rf"(?P<folder>(?:.*/)?){re.escape(before)}(?P<name>[^/]+){after}{ending}", re.DOTALL)

    def fits(relative: str) -> re.Match | None:
        return form.fullmatch(relative) if suffix or files.is_image(relative) else None

    return root / folder, fits


def _below(folder: Path) -> Iterator[str]:
    """The files in a folder and its subfolders, as paths below it; hidden ones left out."""
    seen = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        stat = os.stat(place)
        if (stat.st_dev, stat.st_ino) in seen:  # a link back
            folders.clear()
            continue
        seen.add((stat.st_dev, stat.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        relative = os.path.relpath(place, folder).replace(os.sep, "/")
        prefix = "" if relative == "." else f"{relative}/"
        ours = written_in(place)
        yield from (prefix + name for name in names if not name.startswith(".") and name not in ours)
