"""Cityscapes by the recipe of super-gradients: moving average, Dice + edge cross entropy, two learning rates.

python -m ddrnet_jax.main --config configs/cityscapes_modern.py --workdir runs/modern --config.data.root=DIR \\
    --config.init_from=FILE

configs/cityscapes_modern.py:23_slim (the same), :23, :39. DIR holds leftImg8bit/ and gtFine/ as unzipped. FILE holds
ImageNet weights of the same variant: the official repository's .pth, or the workdir of configs/imagenet.py.
The trunk's learning rate is a tenth, so that it needs FILE; from random weights use configs/cityscapes.py.

Not run by us. Published: 4 x RTX A5000, 9 h (23-slim), 12 h (23), 15 h (39) [sg].

val mIoU to expect, whole images of 1024x2048: 78.01 (23-slim), 80.26 (23), 81.32 (39) [sg].

Where [sg] differs from this config:
  - it changes brightness, contrast and saturation of every image by up to a half; here brightness moves by an eighth
    of 255, and each of the three in half of the images, as mmsegmentation has them;
  - its published weights are an average of its best checkpoints; here they are the moving average;
  - its moving average ramps exponentially, ours as (1 + t) / (10 + t);
  - its trunk ends before the low branch's last stage (low5), which it trains fresh; here low5 has ImageNet weights and
    belongs to the trunk.

[sg] super-gradients' recipe; [ours] our choice. Nothing here is from the paper.
"""

from ddrnet_jax.config import ConfigError, base

_VARIANTS = ("23_slim", "23", "39")
_STEPS_AN_EPOCH = 2975 // 24


def get_config(variant="23_slim"):
    if variant not in _VARIANTS:
        raise ConfigError(f"variant {variant!r} given, expected {', '.join(map(repr, _VARIANTS))}")
    config = base()
    config.model.variant = variant
    config.batch_size = 24  # 6 on each of 4 GPUs [sg]
    config.total_steps = 500 * _STEPS_AN_EPOCH  # [sg]
    config.data.name = "cityscapes"
    config.data.root = "data/cityscapes"
    config.data.crop_hw = (1024, 1024)  # [sg]
    config.data.scale_range = (0.5, 2.0)  # [sg]
    config.data.colour = (0.125, 0.5, 0.5, 0.0)  # [ours], for [sg]'s
    config.data.num_threads = 16
    config.optimizer.learning_rate = 0.075  # of DAPPM and the heads [sg]
    config.optimizer.trunk_lr_factor = 0.1  # 0.0075 [sg]
    config.optimizer.weight_decay = 5e-4  # [sg]
    config.optimizer.decay_norms_and_biases = False  # [sg]
    config.optimizer.schedule = "poly"  # power 0.9; momentum 0.9 [sg]
    config.optimizer.warmup_steps = 10 * _STEPS_AN_EPOCH  # linear [sg]
    config.loss.name = "dice_edge"  # of both heads, weights and edges as in base() [sg]
    config.loss.aux_weight = 0.4  # [sg]
    config.ema_decay = 0.9999  # [sg]
    config.eval.every_steps = 50 * _STEPS_AN_EPOCH
    config.checkpoint.every_steps = 10 * _STEPS_AN_EPOCH
    return config
