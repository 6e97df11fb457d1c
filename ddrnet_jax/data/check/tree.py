"""The files below a root as collections: "images/{split}" and what is below it, for each split that there is."""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from ddrnet_jax.data import files

_MOST_FILES = 200_000  # that are looked at
_MOST_COLLECTIONS = 150
_MOST_PARTS = 4  # of a folder's path
# At the start of a word; "train2017" and "trainannot" are of the split "train".
_SPLIT = re.compile(r"(?<![^\W_])(training|train|trn|validation|valid|val|dev|eval|testing|test)", re.IGNORECASE)
_EVALUATED = ("val", "valid", "validation", "dev", "eval", "test", "testing")  # the best first


class File(NamedTuple):
    """A file below a collection: its folder there ("" or "city_a/"), its name without suffix, its suffix."""

    folder: str
    stem: str
    suffix: str


class Tree(NamedTuple):
    """The files below a root.

    collections  {"images/{split}": {"train": [files], "val": [files]}}; "" where no split is named
    texts        {"lists/{split}.txt": {"train": path below the root}}
    jsons        likewise; those alone in their folder, or few
    class_files  the paths of files that class_files reads, those nearest to the root first
    """

    collections: dict[str, dict[str, list[File]]]
    texts: dict[str, dict[str, str]]
    jsons: dict[str, dict[str, str]]
    class_files: list[str]


def scan(root: Path, class_file_names: frozenset[str]) -> Tree:
    """The tree of a root. Folders of one split each are one collection."""
    folders: dict[str, list[str]] = {}
    count = 0
    for place, below, names in os.walk(root):
        below[:] = sorted(name for name in below if not name.startswith("."))
        relative = os.path.relpath(place, root).replace(os.sep, "/")
        folders["" if relative == "." else relative] = sorted(n for n in names if not n.startswith("."))
        count += len(names)
        if count > _MOST_FILES:
            break
    tree = Tree({}, {}, {}, [])
    for folder, names in folders.items():
        _sort_in(tree, folder, names, class_file_names)
    tree.class_files.sort(key=lambda path: (path.count("/"), path))
    largest = sorted(tree.collections, key=lambda t: -sum(map(len, tree.collections[t].values())))
    return tree._replace(collections={t: tree.collections[t] for t in largest[:_MOST_COLLECTIONS]})


def _sort_in(tree: Tree, folder: str, names: list[str], class_file_names: frozenset[str]) -> None:
    jsons = [name for name in names if name.lower().endswith(".json")]
    for name in names:
        path = f"{folder}/{name}" if folder else name
        if name in class_file_names:
            tree.class_files.append(path)
        elif name.lower().endswith(".txt"):
            _under(tree.texts, path)
        elif name in jsons and len(jsons) <= 4:
            _under(tree.jsons, path)
    data = [os.path.splitext(name) for name in names if files.is_image(name) or name in jsons]
    if not data:
        return
    parts = folder.split("/") if folder else []
    for depth in range(max(0, len(parts) - _MOST_PARTS), len(parts) + 1):
        below = "".join(f"{part}/" for part in parts[depth:])
        template, split = template_of("/".join(parts[:depth]))
        known = tree.collections.setdefault(template, {}).setdefault(split, [])
        known += [File(below, stem, suffix) for stem, suffix in data]


def _under(known: dict[str, dict[str, str]], path: str) -> None:
    template, split = template_of(path)
    known.setdefault(template, {})[split] = path


def template_of(path: str) -> tuple[str, str]:
    """("images/{split}", "train") of "images/train"; (path, "") where no split is named."""
    found = _SPLIT.search(path)
    if not found:
        return path, ""
    word = found[0]
    return re.sub(rf"(?<![^\W_]){word}", "{split}", path), word


def train_and_eval(splits: Iterable[str]) -> tuple[str, str] | None:
    """The splits to train and to evaluate on; None where one is missing."""
    trained = [split for split in splits if split.lower().startswith("tr")]
    evaluated = [split for name in _EVALUATED for split in splits if split.lower() == name]
    return (trained[0], evaluated[0]) if trained and evaluated else None
