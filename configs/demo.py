"""Drawn street scenes: the whole road from images to a trained network, with no download.

python -m ddrnet_jax.main --config configs/demo.py --workdir runs/demo

About 3 minutes on 2 CPU cores.
"""

from ddrnet_jax.config import base


def get_config():
    config = base()
    config.batch_size = 8
    config.total_steps = 300
    config.log_every_steps = 10
    config.data.name = "scenes"
    config.data.crop_hw = (128, 256)
    config.data.scale_range = (0.75, 1.5)
    config.optimizer.learning_rate = 0.05
    config.optimizer.warmup_steps = 20
    config.loss.name = "cross_entropy"
    config.ema_decay = 0.95
    config.eval.every_steps = 100
    config.eval.batch_size = 10
    return config
