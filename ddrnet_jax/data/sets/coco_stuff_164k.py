"""COCO-Stuff 164k: COCO's own splits, labels in PNGs."""

from pathlib import Path

from ddrnet_jax.data import files
from ddrnet_jax.data.errors import DataError
from ddrnet_jax.data.sets import coco_stuff
from ddrnet_jax.data.sets.specs import DatasetSpec, Pair


class CocoStuff164k(DatasetSpec):
    """The layout of the release."""

    def find_pairs(self, root: Path, split: str) -> list[Pair]:
        """Images and labels as they are unzipped, in one of two ways each."""
        image_folder = root / split if (root / split).is_dir() else root / "images" / split
        images = files.files_by_stem(image_folder, f"images of split {split!r} (COCO's are train2017 and val2017)")
        label_folder = root / "stuffthingmaps" / split
        if not label_folder.is_dir():
            label_folder = root / "annotations" / split
        if not label_folder.is_dir():
            raise DataError(
                f"{root}: has neither stuffthingmaps/{split} nor annotations/{split}, expected the labels; "
                "unzip stuffthingmaps_trainval2017.zip into one of them"
            )
        return files.require_labels(
            ((images[stem], label_folder / f"{stem}.png") for stem in sorted(images)),
            f"unzip stuffthingmaps_trainval2017.zip into {label_folder.parent}",
        )


SPEC = CocoStuff164k(name="coco_stuff_164k", **coco_stuff.about(first_label=0, unlabelled=255))
