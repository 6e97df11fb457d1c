"""COCO-Stuff 10k: lists of its splits, labels in MATLAB files."""

from pathlib import Path

from ddrnet_jax.data import files
from ddrnet_jax.data.errors import DataError, first_few
from ddrnet_jax.data.sets import coco_stuff
from ddrnet_jax.data.sets.specs import DatasetSpec, Pair


class CocoStuff10k(DatasetSpec):
    """The layout of the release."""

    def find_pairs(self, root: Path, split: str) -> list[Pair]:
        """The images of a list, and their MATLAB files."""
        path = root / "imageLists" / f"{split}.txt"
        if not path.is_file():
            raise DataError(
                f"{path}: no such file, expected the list of split {split!r}; the release has train and test"
            )
        stems = files.read_file(path).decode(errors="replace").split()
        files.require_some(stems, path, "names of images")
        images = files.files_by_stem(root / "images", "images of COCO-Stuff 10k")
        unknown = [stem for stem in stems if stem not in images]
        if unknown:
            raise DataError(
                f"{path}: names {first_few(unknown)}, but {root / 'images'} has no such image(s), {len(unknown)} of "
                f"{len(stems)} are missing; unzip it again"
            )
        return files.require_labels(
            ((images[stem], root / "annotations" / f"{stem}.mat") for stem in stems),
            f"unzip the annotations of the release into {root}",
        )


SPEC = CocoStuff10k(name="coco_stuff_10k", **coco_stuff.about(first_label=1, unlabelled=0))
