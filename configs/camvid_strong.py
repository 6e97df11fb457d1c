"""CamVid at 480x360 from random weights: what the literature suggests against what limits camvid_small.

python -m ddrnet_jax.main --config configs/camvid_strong.py --workdir runs/camvid_strong --config.data.root=DIR

configs/camvid_strong.py:short (the same), as long as camvid_small: about 20 minutes on 2 CPU cores; :long, with larger
crops and other colours, about 3 hours. DIR as of camvid_small. Not run by us yet: no mIoU is known.

[L] Loshchilov and Hutter, AdamW (arXiv 1711.05101); [EF] Eigen and Fergus, median-frequency balancing (ICCV 2015), of
which "auto" takes the square root; [mm] mmsegmentation's photometric distortion.
"""

from ddrnet_jax.config import ConfigError, base

_LENGTHS = ("short", "long")


def get_config(length="short"):
    if length not in _LENGTHS:
        raise ConfigError(f"length {length!r} given, expected {', '.join(map(repr, _LENGTHS))}")
    config = base()
    config.batch_size = 8
    config.total_steps = 900  # 20 epochs of 45 steps
    config.log_every_steps = 45
    config.data.name = "camvid"
    config.data.root = "data/camvid"
    config.data.crop_hw = (240, 320)
    config.data.scale_range = (0.75, 1.5)  # nearer to the one evaluated; at 0.5 half of a crop is padding
    config.optimizer.name = "adamw"  # [L]
    config.optimizer.learning_rate = 0.002
    config.optimizer.weight_decay = 0.05
    config.optimizer.decay_norms_and_biases = False
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 90
    config.loss.name = "cross_entropy"
    config.loss.class_weights = "auto"  # [EF]
    config.eval.every_steps = 0
    config.eval.batch_size = 8
    config.checkpoint.every_steps = 225
    if length == "long":
        config.total_steps = 5625  # 125 epochs
        config.data.crop_hw = (288, 384)
        config.data.colour = (0.125, 0.5, 0.5, 0.1)  # [mm]
        config.optimizer.warmup_steps = 225
        config.eval.every_steps = 1125
    return config
