"""The files of a split that are read, and the others: images without label, labels without image, the rest."""

import os
from collections.abc import Sequence
from pathlib import Path

from ddrnet_jax.data import files
from ddrnet_jax.data.sets.specs import DatasetSpec, Pair
from ddrnet_jax.data.sources import FolderPairs


class KnownPairs(FolderPairs):
    """The pairs given, whether they are all of a split or not."""

    def __init__(self, root: str | Path, pairs: Sequence[Pair], spec: DatasetSpec):
        self.root, self.pairs, self.spec = root, list(pairs), spec


def labels_without_image(pairs: Sequence[tuple[str, str]]) -> list[str]:
    """Labels beside those of the pairs, named as they are, whose image is not there.

    Source: what a pair's two file names have in common says which image a label belongs to, in every layout.
    """
    endings: dict[tuple[str, str], set[tuple[str, str]]] = {}
    for image, label in pairs:
        (image_folder, image_name), (label_folder, label_name) = os.path.split(image), os.path.split(label)
        shared = len(os.path.commonprefix([os.path.splitext(image_name)[0], os.path.splitext(label_name)[0]]))
        endings.setdefault((image_folder, label_folder), set()).add((image_name[shared:], label_name[shared:]))
    alone = []
    for (image_folder, label_folder), known in endings.items():
        image_endings, label_endings = ({ending[i] for ending in known} for i in range(2))
        if not os.path.isdir(label_folder):
            continue
        images = {_without(name, image_endings) for name in os.listdir(image_folder)}
        for name in sorted(os.listdir(label_folder)):
            stem = None if name.startswith(".") else _without(name, label_endings)
            if stem is not None and stem not in images:
                alone.append(os.path.join(label_folder, name))
    return alone


def unread_files(pairs: Sequence[tuple[str, str | int]]) -> list[str]:
    """The files beside the images of the pairs that are no images by their names; folders end in "/"."""
    folders = sorted({os.path.dirname(image) for image, _ in pairs})
    return [os.path.join(folder, name) for folder in folders for name in files.unread(folder)]


def _without(name: str, endings: set[str]) -> str | None:
    """The name without the longest ending that fits, None where none does."""
    fitting = [ending for ending in endings if name.endswith(ending)]
    return name[: len(name) - len(max(fitting, key=len))] if fitting else None
