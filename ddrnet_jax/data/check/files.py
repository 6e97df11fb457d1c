"""The files of a split that are read, and the others: images without label, labels without image, the rest."""

import functools
import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from ddrnet_jax.data import files
from ddrnet_jax.data.sets import class_files
from ddrnet_jax.data.sets.specs import DatasetSpec, Pair
from ddrnet_jax.data.sources import FolderPairs

_Affixes = tuple[str, str]
_MOST_FORMS = 64  # of the names in two folders


class KnownPairs(FolderPairs):
    """The pairs given, whether they are all of a split or not."""

    def __init__(self, root: str | Path, pairs: Sequence[Pair], spec: DatasetSpec):
        self.root, self.pairs, self.spec = root, list(pairs), spec


def labels_without_image(pairs: Sequence[tuple[str, str]]) -> list[str]:
    """Labels beside those of the pairs, named as they are, whose image is not there.

    Source: what a pair's two file names have in common says which image a label belongs to, in every layout.
    """
    endings: dict[tuple[str, str], set[tuple[_Affixes, _Affixes]]] = {}
    for image, label in pairs:
        (image_folder, image_name), (label_folder, label_name) = os.path.split(image), os.path.split(label)
        endings.setdefault((image_folder, label_folder), set()).add(
            _affixes(_composed(image_name), _composed(label_name))
        )
    alone = []
    for (image_folder, label_folder), known in endings.items():
        if not os.path.isdir(label_folder) or len(known) > _MOST_FORMS:  # no form at all
            continue
        image_affixes, label_affixes = ({both[i] for both in known} for i in range(2))
        with os.scandir(image_folder) as entries:
            images = {_without(_composed(entry.name), image_affixes) for entry in entries if not files.is_folder(entry)}
        for name in sorted(os.listdir(label_folder)):
            stem = None if name.startswith(".") else _without(_composed(name), label_affixes)
            if stem is not None and stem not in images:
                alone.append(os.path.join(label_folder, name))
    return alone


def _composed(name: str) -> str:
    """A name as pairing compares it: macOS takes its letters apart."""
    return unicodedata.normalize("NFC", name)


def unread_files(pairs: Sequence[tuple[str, str | int]]) -> list[str]:
    """The files beside the images of the pairs that are no images by their names; folders end in "/"."""
    folders = sorted({os.path.dirname(image) for image, _ in pairs})
    places = {os.path.dirname(str(path)) for pair in pairs for path in pair}
    read = {f"{above}/" for place in places for above in _above(place)}
    kinds = {_kind(label) for _, label in pairs if isinstance(label, str)}  # of labels, which another split may have
    beside = (os.path.join(folder, name) for folder in folders for name in files.unread(folder))
    known = read | kinds
    return [p for p in beside if not {p, _kind(p)} & known and os.path.basename(p) not in class_files.READERS]


def _kind(path: str) -> str:
    """FOLDER/*.SUFFIX"""
    return os.path.join(os.path.dirname(path), f"*{os.path.splitext(path)[1]}")


def _affixes(image_name: str, label_name: str) -> tuple[_Affixes, _Affixes]:
    """The text before and after the name that an image and its label share."""
    stem, ending = os.path.splitext(image_name)
    before, found, after = label_name.partition(stem)
    if found:
        return ("", ending), (before, after)
    shared = len(os.path.commonprefix([stem, os.path.splitext(label_name)[0]]))
    return ("", image_name[shared:]), ("", label_name[shared:])


@functools.cache
def _above(folder: str) -> tuple[str, ...]:
    """A folder and those above it."""
    return (folder, *map(str, Path(folder).parents))


def _without(name: str, affixes: set[_Affixes]) -> str | None:
    """The name without the longest affixes that fit, None where none do."""
    fitting = [(len(before) + len(after), before, after) for before, after in affixes if _fits(name, before, after)]
    if not fitting:
        return None
    _, before, after = max(fitting)
    return name[len(before) : len(name) - len(after)]


def _fits(name: str, before: str, after: str) -> bool:
    return name.startswith(before) and name.endswith(after) and len(name) > len(before) + len(after)
