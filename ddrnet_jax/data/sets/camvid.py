"""CamVid: SegNet's 480x360 release, and the original of 960x720 in colours."""

import dataclasses
from pathlib import Path

from ddrnet_jax.data import files
from ddrnet_jax.data.errors import DataError
from ddrnet_jax.data.labels import IGNORE
from ddrnet_jax.data.sets.specs import DatasetSpec, Pair

# The frames of the original CamVid in SegNet's split of 367 / 101 / 233; all others are for training.
_VAL = ("0016E5_07959", "0016E5_08159")
_TEST = (("0001TP_008550", "0001TP_999999"), ("Seq05VD", "Seq05VD_~"))
# The 32 colours of the original CamVid labels -> the 11 classes that papers report on, as SegNet grouped them.
_COLORS = {
    (64, 128, 64): ("Animal", "pedestrian"),
    (192, 0, 128): ("Archway", "building"),
    (0, 128, 192): ("Bicyclist", "bicyclist"),
    (0, 128, 64): ("Bridge", "building"),
    (128, 0, 0): ("Building", "building"),
    (64, 0, 128): ("Car", "car"),
    (64, 0, 192): ("CartLuggagePram", "pedestrian"),
    (192, 128, 64): ("Child", "pedestrian"),
    (192, 192, 128): ("Column_Pole", "pole"),
    (64, 64, 128): ("Fence", "fence"),
    (128, 0, 192): ("LaneMkgsDriv", "road"),
    (192, 0, 64): ("LaneMkgsNonDriv", "road"),
    (128, 128, 64): ("Misc_Text", "sign"),
    (192, 0, 192): ("MotorcycleScooter", "bicyclist"),
    (128, 64, 64): ("OtherMoving", "car"),
    (64, 192, 128): ("ParkingBlock", "pavement"),
    (64, 64, 0): ("Pedestrian", "pedestrian"),
    (128, 64, 128): ("Road", "road"),
    (128, 128, 192): ("RoadShoulder", "pavement"),
    (0, 0, 192): ("Sidewalk", "pavement"),
    (192, 128, 128): ("SignSymbol", "sign"),
    (128, 128, 128): ("Sky", "sky"),
    (64, 128, 192): ("SUVPickupTruck", "car"),
    (0, 0, 64): ("TrafficCone", "pole"),
    (0, 64, 64): ("TrafficLight", "sign"),
    (192, 64, 128): ("Train", "car"),
    (128, 128, 0): ("Tree", "tree"),
    (192, 128, 192): ("Truck_Bus", "car"),
    (64, 0, 64): ("Tunnel", "building"),
    (192, 192, 0): ("VegetationMisc", "tree"),
    (0, 0, 0): ("Void", None),
    (64, 192, 0): ("Wall", "building"),
}


# Name and RGB by train id.
_CLASSES = {
    "sky": (128, 128, 128),
    "building": (128, 0, 0),
    "pole": (192, 192, 128),
    "road": (128, 64, 128),
    "pavement": (0, 0, 192),
    "tree": (128, 128, 0),
    "sign": (192, 128, 128),
    "fence": (64, 64, 128),
    "car": (64, 0, 128),
    "pedestrian": (64, 64, 0),
    "bicyclist": (0, 128, 192),
}


class CamVid(DatasetSpec):
    """Two forms with the same classes; the original has all splits in one folder."""

    def of_files(self, root: Path, splits: list[str]) -> DatasetSpec:
        """COLOR, where the root holds the original."""
        return COLOR if (root / COLOR.image_folder).is_dir() else self

    def find_pairs(self, root: Path, split: str) -> list[Pair]:
        """The samples of one split, in the original those of SegNet's."""
        if not self.has_color_masks:
            return super().find_pairs(root, split)
        if split not in ("train", "val", "test"):
            raise DataError(f"split {split!r}: the original CamVid has 'train', 'val' and 'test'")
        images = files.files_by_stem(root / self.image_folder, "original CamVid images")
        stems = sorted(stem for stem in images if _split(stem) == split)
        files.require_some(stems, root / self.image_folder, f"frames of split {split!r}")
        return files.require_labels(
            ((images[stem], root / self.label_folder / f"{stem}_L.png") for stem in stems),
            f"unzip LabeledApproved_full.zip into {root / self.label_folder}",
        )


def _split(stem: str) -> str:
    if _VAL[0] <= stem <= _VAL[1]:
        return "val"
    return "test" if any(first <= stem <= last for first, last in _TEST) else "train"


SPEC = CamVid(
    name="camvid",
    classes=tuple(_CLASSES),
    colors=tuple(_CLASSES.values()),
    values={**{i: i for i in range(11)}, 11: IGNORE, IGNORE: IGNORE},
    image_folder="{split}",
    label_folder="{split}annot",
    # Median-frequency balancing, counted over the 367 training labels at 480x360.
    class_weights=(0.2794, 0.2018, 4.7889, 0.1491, 1.0, 0.4235, 3.8464, 1.9798, 0.789, 6.3847, 8.8193),
)

# The same classes in the 32 colours of the original 960x720 labels.
COLOR = dataclasses.replace(
    SPEC,
    values={color: IGNORE if group is None else SPEC.classes.index(group) for color, (_, group) in _COLORS.items()},
    image_folder="701_StillsRaw_full",
    label_folder="LabeledApproved_full",
)
