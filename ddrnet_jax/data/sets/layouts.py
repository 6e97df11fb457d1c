"""The files of splits: (root, split) -> the image and the label of every sample, in order."""

import dataclasses
from pathlib import Path

from ddrnet_jax.data.errors import DataError, MissingLabels
from ddrnet_jax.data.sets.specs import DatasetSpec, Pair


def find_pairs(root: str | Path, split: str, spec: DatasetSpec) -> tuple[list[Pair], DatasetSpec]:
    """The samples of a split, or of several joined by "+", and the spec that their labels follow.

    Raises DataError if a folder is missing or empty, MissingLabels if images have no label.
    """
    spec = spec_of_files(root, split, spec)
    pairs: list[Pair] = []
    missing: list[tuple[str, str]] = []
    advice = ""
    for part in split_parts(split):
        try:
            pairs += spec.find_pairs(Path(root), part)
        except MissingLabels as e:
            pairs += e.pairs
            missing += e.missing
            advice = advice or e.advice
    if missing:
        raise MissingLabels(pairs, missing, advice)
    return pairs, spec


def spec_of_files(root: str | Path, split: str, spec: DatasetSpec) -> DatasetSpec:
    """The spec that the label files of a split follow: CamVid has two forms."""
    found = spec.of_files(Path(root), split_parts(split))
    return found if found is spec else dataclasses.replace(found, value_range=spec.value_range)


def split_parts(split: str) -> list[str]:
    """The splits of "train+val". Raises DataError if one is empty or named twice."""
    parts = split.split("+")
    if not all(parts) or len(set(parts)) != len(parts):
        raise DataError(f"split {split!r}: expected names joined by '+', each once, like 'train+val'")
    return parts
