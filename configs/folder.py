"""Your own images: a folder of images, a folder of masks, the names of the classes.

python -m ddrnet_jax.main --config configs/folder.py --workdir runs/mine --config.data.root=DIR

Copy this file anywhere and edit the five lines; it runs from any folder. DIR holds
images/train, labels/train, images/val, labels/val; an image and its mask have the same stem.
Masks are 8-bit PNGs of class indices, or colour masks (then give data.colors). For other layouts (Pascal VOC, COCO,
labelme, masks with names of their own, one folder without splits) --mode check_data prints the lines to add.
Its 2000 steps take 20 to 40 minutes on 2 CPU cores (reckoned from a step of camvid_strong.py).
With few images of streets add --config.init_from=camvid_23_slim --config.init_head=fresh: weights that come with the
project, for research (docs/weights.md). Measured with 20 images of CamVid, five classes and 200 steps: val mIoU 88,
from random weights 76. Of other scenes nothing was measured.
"""

from ddrnet_jax.config import base


def get_config():
    config = base()
    config.data.name = "folder"
    config.data.root = "data/mine"
    config.data.classes = ("background", "road", "car")
    config.data.colors = ()  # colour masks: ((0, 0, 0), (128, 64, 128), (0, 0, 142))
    config.data.ignore_values = (255,)  # colour masks: ((255, 255, 255),)

    config.batch_size = 8
    config.total_steps = 2000
    config.log_every_steps = 20
    config.data.crop_hw = (256, 256)  # as large as memory allows, best not far below the images' size
    config.data.colour = (0.125, 0.5, 0.5, 0.1)  # other light, other cameras

    # As configs/camvid_strong.py, which learns more than SGD does in few steps.
    config.optimizer.name = "muon"
    config.optimizer.learning_rate = 0.005
    config.optimizer.weight_decay = 0.05
    config.optimizer.decay_norms_and_biases = False
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 50
    config.loss.name = "cross_entropy"
    config.loss.class_weights = "auto"
    config.ema_decay = 0.98
    config.eval.every_steps = 500
    return config
