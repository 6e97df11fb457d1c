"""Cityscapes: 19 of its 34 labels, fine or coarse annotations, a test split for its server."""

import dataclasses
import os
from pathlib import Path

from ddrnet_jax.data import files
from ddrnet_jax.data.labels import IGNORE
from ddrnet_jax.data.sets.specs import DatasetSpec, HiddenTest, Pair

_ENDING = "_leftImg8bit.png"
# (label id, name, train id or None, RGB). Source: the label definition of the Cityscapes release.
# Id -1 (license plate) is never drawn into the labelIds images.
_LABELS = (
    (0, "unlabeled", None, (0, 0, 0)),
    (1, "ego vehicle", None, (0, 0, 0)),
    (2, "rectification border", None, (0, 0, 0)),
    (3, "out of roi", None, (0, 0, 0)),
    (4, "static", None, (0, 0, 0)),
    (5, "dynamic", None, (111, 74, 0)),
    (6, "ground", None, (81, 0, 81)),
    (7, "road", 0, (128, 64, 128)),
    (8, "sidewalk", 1, (244, 35, 232)),
    (9, "parking", None, (250, 170, 160)),
    (10, "rail track", None, (230, 150, 140)),
    (11, "building", 2, (70, 70, 70)),
    (12, "wall", 3, (102, 102, 156)),
    (13, "fence", 4, (190, 153, 153)),
    (14, "guard rail", None, (180, 165, 180)),
    (15, "bridge", None, (150, 100, 100)),
    (16, "tunnel", None, (150, 120, 90)),
    (17, "pole", 5, (153, 153, 153)),
    (18, "polegroup", None, (153, 153, 153)),
    (19, "traffic light", 6, (250, 170, 30)),
    (20, "traffic sign", 7, (220, 220, 0)),
    (21, "vegetation", 8, (107, 142, 35)),
    (22, "terrain", 9, (152, 251, 152)),
    (23, "sky", 10, (70, 130, 180)),
    (24, "person", 11, (220, 20, 60)),
    (25, "rider", 12, (255, 0, 0)),
    (26, "car", 13, (0, 0, 142)),
    (27, "truck", 14, (0, 0, 70)),
    (28, "bus", 15, (0, 60, 100)),
    (29, "caravan", None, (0, 0, 90)),
    (30, "trailer", None, (0, 0, 110)),
    (31, "train", 16, (0, 80, 100)),
    (32, "motorcycle", 17, (0, 0, 230)),
    (33, "bicycle", 18, (119, 11, 32)),
)

# By train id. Source: HRNet-Semantic-Segmentation, and with it every published DDRNet recipe.
_CLASS_WEIGHTS = (
    *(0.8373, 0.918, 0.866, 1.0345, 1.0166, 0.9969, 0.9754, 1.0489, 0.8786, 1.0023),
    *(0.9539, 0.9843, 1.1116, 0.9037, 1.0865, 1.0955, 1.0865, 1.1529, 1.0507),
)


@dataclasses.dataclass(frozen=True)
class Cityscapes(DatasetSpec):
    """Images and labels by city, in the two trees of the release.

    label_kind  as the files' names end; shared copies often have labelTrainIds alone
    """

    label_kind: str = "labelIds"

    def find_pairs(self, root: Path, split: str) -> list[Pair]:
        """Pairs of a split: train_extra, and a name that ends in _coarse, have the coarse annotations."""
        annotation, folder = _annotation(split)

        def label_of(image: Path) -> Path:
            name = f"{image.name.removesuffix(_ENDING)}_{annotation}_{self.label_kind}.png"
            return root / annotation / folder / image.parent.name / name

        pairs = ((image, label_of(image)) for image in images(root, folder))
        return files.require_labels(pairs, f"unzip the {annotation} archive of the release into {root}")

    def of_files(self, root: Path, splits: list[str]) -> DatasetSpec:
        """The spec of train ids, where their files alone are there."""
        for split in splits:
            annotation, folder = _annotation(split)
            for city in sorted((root / annotation / folder).glob("*/")):
                names = os.listdir(city)
                if any(name.endswith("_labelIds.png") for name in names):
                    return self
                if any(name.endswith("_labelTrainIds.png") for name in names):
                    return self.of_train_ids()
        return self

    def of_train_ids(self) -> "Cityscapes":
        """The spec of labels that hold train ids."""
        return dataclasses.replace(self, label_kind="labelTrainIds", values=_TRAIN_IDS)

    def misnamed(self, values: frozenset[int]) -> str:
        """Train ids under the name of label ids: 255, none above 18, and some that label ids give to nothing seen."""
        if self.label_kind == "labelIds" and 255 in values and max(values - {255}, default=0) < 19 and min(values) < 7:
            return "holds train ids, not label ids; rename all such files from _labelIds to _labelTrainIds"
        return ""


def _annotation(split: str) -> tuple[str, str]:
    """(the tree of a split's labels, its folder there)"""
    is_coarse = split == "train_extra" or split.endswith("_coarse")
    return "gtCoarse" if is_coarse else "gtFine", split.removesuffix("_coarse")


def images(root: str | Path, split: str) -> list[Path]:
    """The images of a folder of Cityscapes' leftImg8bit, in order, with or without labels. Raises DataError."""
    folder = files.require_folder(Path(root) / "leftImg8bit" / split, f"the cities of Cityscapes' split {split!r}")
    found = [
        folder / city / name
        for city in files.subfolders(folder)
        for name in sorted(os.listdir(folder / city))
        if name.endswith(_ENDING) and not name.startswith(".")
    ]
    files.require_some(found, folder, f"CITY/*{_ENDING}")
    return found


_TRAINED = [label for label in _LABELS if label[2] is not None]

_TRAIN_IDS = {**{train_id: train_id for train_id in range(len(_TRAINED))}, IGNORE: IGNORE}

SPEC = Cityscapes(
    name="cityscapes",
    classes=tuple(name for _, name, _, _ in _TRAINED),
    colors=tuple(color for _, _, _, color in _TRAINED),
    values={
        **{label: IGNORE if train_id is None else train_id for label, _, train_id, _ in _LABELS},
        255: IGNORE,  # -1 in eight bits
    },
    class_weights=_CLASS_WEIGHTS,
    hidden_test=HiddenTest("test", images=1525, size_hw=(1024, 2048)),
)
