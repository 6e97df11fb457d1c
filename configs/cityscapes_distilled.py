"""Cityscapes with a teacher, by the recipe of super-gradients: cross entropy and channel-wise distillation.

python -m ddrnet_jax.main --config configs/cityscapes_distilled.py --workdir runs/distilled --config.data.root=DIR \\
    --config.init_from=FILE --config.distill.teacher=TEACHER

configs/cityscapes_distilled.py:23_slim (the same), :23. DIR holds leftImg8bit/ and gtFine/ as unzipped. FILE holds
ImageNet weights of the same variant, as for configs/cityscapes_modern.py. TEACHER is a checkpoint, .pth or .safetensors
file of a larger network with the 19 classes; theirs is a DDRNet-39 of mIoU 85.17, trained with labels that a network
made for the coarse images (here: --mode pseudo_label).

Not run by us. Published: 4 x RTX A5000, 11 h (23-slim), 13 h (23) [sg].

val mIoU to expect, whole images of 1024x2048: 79.41 (23-slim), 81.48 (23); by configs/cityscapes_modern.py 78.01 and
80.26 [sg]. The two recipes differ in the loss and the auxiliary head too.

[sg] super-gradients' recipe. Where it differs from this config: as configs/cityscapes_modern.py says, and it compares
the logits after upsampling.
"""

from ddrnet_jax.config import ConfigError, base

_VARIANTS = ("23_slim", "23")
_STEPS_AN_EPOCH = 2975 // 24


def get_config(variant="23_slim"):
    if variant not in _VARIANTS:
        raise ConfigError(f"variant {variant!r} given, expected {', '.join(map(repr, _VARIANTS))}")
    config = base()
    config.model.variant = variant
    config.model.aux_head = False  # [sg]
    config.batch_size = 24  # 6 on each of 4 GPUs [sg]
    config.total_steps = 500 * _STEPS_AN_EPOCH  # [sg]
    config.data.name = "cityscapes"
    config.data.root = "data/cityscapes"
    config.data.crop_hw = (1024, 1024)  # [sg]
    config.data.scale_range = (0.5, 2.0)  # [sg]
    config.data.colour = (0.125, 0.5, 0.5, 0.0)  # as in cityscapes_modern.py
    config.data.num_threads = 16
    config.optimizer.learning_rate = 0.075  # of DAPPM and the head [sg]
    config.optimizer.trunk_lr_factor = 0.1  # 0.0075 [sg]
    config.optimizer.weight_decay = 5e-4  # [sg]
    config.optimizer.decay_norms_and_biases = False  # [sg]
    config.optimizer.schedule = "poly"  # power 0.9; momentum 0.9 [sg]
    config.optimizer.warmup_steps = 10 * _STEPS_AN_EPOCH  # linear [sg]
    config.loss.name = "cross_entropy"  # plain [sg]
    config.distill.teacher = "TEACHER"  # no such file: the command has to name one
    config.distill.weight = 6.0  # [sg]
    config.distill.temperature = 3.0  # [sg]
    config.ema_decay = 0.9999  # [sg]
    config.eval.every_steps = 50 * _STEPS_AN_EPOCH
    config.checkpoint.every_steps = 10 * _STEPS_AN_EPOCH
    return config
