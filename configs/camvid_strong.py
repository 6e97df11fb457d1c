"""CamVid at 480x360 from random weights: what the literature suggests against what limits camvid_small.

python -m ddrnet_jax.main --config configs/camvid_strong.py --workdir runs/camvid_strong --config.data.root=DIR

configs/camvid_strong.py:short (the same), as many steps as camvid_small; :long, with other colours and more scales,
made the weights that come with the project. DIR as of camvid_small.

[M] Jordan, Muon (2024), at AdamW's step size (arXiv 2502.16982); [EF] Eigen and Fergus, median-frequency balancing
(ICCV 2015), of which "auto" takes the square root; [mm] mmsegmentation's photometric distortion.
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
    config.data.scale_range = (0.75, 1.5)  # nearer to the one evaluated; at 0.5 nearly half of a crop is padding
    config.optimizer.name = "muon"  # [M]
    config.optimizer.learning_rate = 0.005
    config.optimizer.weight_decay = 0.05
    config.optimizer.decay_norms_and_biases = False
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 90
    config.loss.name = "cross_entropy"
    config.loss.class_weights = "auto"  # [EF]
    config.ema_decay = 0.98
    config.eval.every_steps = 0
    config.eval.batch_size = 8
    config.checkpoint.every_steps = 225
    if length == "long":
        config.total_steps = 2700  # 60 epochs
        config.data.scale_range = (0.75, 2.0)
        config.data.colour = (0.125, 0.5, 0.5, 0.1)  # [mm]
        config.eval.every_steps = 450
    return config
