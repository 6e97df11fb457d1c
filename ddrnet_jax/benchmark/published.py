"""The authors' figures for DDRNet: frames a second and mIoU, each with its source."""

from typing import NamedTuple

from ddrnet_jax.data.sets.known import SPECS

HARDWARE = "one GTX 2080 Ti, PyTorch, float32, batch 1"
SPEED_PROTOCOL = "github.com/ydhongHIT/DDRNet, segmentation/DDRNet_23_slim_eval_speed.py"
CITYSCAPES_HW = (1024, 2048)

_PAPER = "arXiv 2101.06085"
_README = "github.com/ydhongHIT/DDRNet"
_RECALLED = f"{_PAPER}v2 as recalled, not checked against the text"


class Published(NamedTuple):
    """A row of the paper.

    data_set    as `config.data.name` calls it
    fps         images a second of one image at a time, x8 upsampling included, argmax not
    miou        0..1, on the test split of the data set
    is_checked  whether the frames a second were read at their source, or recalled
    """

    data_set: str
    fps: float
    miou: float
    source: str
    is_checked: bool


# By (variant, height and width in pixels).
PUBLISHED = {
    ("23_slim", CITYSCAPES_HW): Published("cityscapes", 101.6, 0.774, f"{_PAPER} (abstract: 102 FPS), {_README}", True),
    ("23", CITYSCAPES_HW): Published("cityscapes", 37.1, 0.794, f"FPS: {_RECALLED}; mIoU: {_README}", False),
    ("39", CITYSCAPES_HW): Published("cityscapes", 22.0, 0.804, f"FPS: {_RECALLED}; mIoU: {_README}", False),
    ("23_slim", (720, 960)): Published("camvid", 230.0, 0.747, f"{_PAPER} (abstract)", True),
    ("23", (720, 960)): Published("camvid", 94.0, 0.763, _RECALLED, False),
    ("23", (640, 640)): Published("coco_stuff_10k", 129.2, 0.321, _RECALLED, False),
    ("39", (640, 640)): Published("coco_stuff_10k", 83.8, 0.348, _RECALLED, False),
}


def num_classes(size_hw: tuple[int, int]) -> int:
    """The classes of the data set whose figures were published at this size; elsewhere those of Cityscapes."""
    data_sets = [row.data_set for (_, published_hw), row in PUBLISHED.items() if published_hw == size_hw]
    return SPECS[data_sets[0] if data_sets else "cityscapes"].num_classes


# Multiply-adds of one image of CITYSCAPES_HW, in units of 1e9, by the authors' count: how long a run will take.
# Of a variant that they have not counted, the most is expected.
GMACS = {"23_slim": 36.3, "23": 143.1, "39": 281.2}
