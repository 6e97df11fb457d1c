"""CamVid at 960x720, as the paper has it: from ImageNet weights, or from a Cityscapes model.

python -m ddrnet_jax.main --config configs/camvid.py --workdir runs/camvid --config.data.root=DIR \\
    --config.init_from=FILE
python -m ddrnet_jax.main --config configs/camvid.py:23_slim_cityscapes --workdir runs/camvid_cityscapes \\
    --config.data.root=DIR --config.init_from=FILE

configs/camvid.py:23_slim (the first), :23, :23_slim_cityscapes, :23_cityscapes. DIR holds the original release,
701_StillsRaw_full/ and LabeledApproved_full/, in SegNet's split of 367, 101 and 233. FILE holds weights of the same
variant: of ImageNet, or, for the last two, of a Cityscapes model (a .pth, or the workdir of configs/cityscapes.py),
whose heads are left out.

Not run by us (configs/camvid_small.py was). The paper trained on one GPU [R]. By arithmetic alone, one accelerator
that achieves 20 TFLOP/s needs 22 minutes (23-slim) or 85 (23), and a fifth of it from Cityscapes.

mIoU to expect on test, at 960x720:
  23-slim  74.7 [abstract], mean of runs 74.3 +- 0.3 [R]; from Cityscapes 78.6, mean 78.2 +- 0.3 [R]
  23       76.3, mean of runs 76.0 +- 0.3 [R]; from Cityscapes 80.6, mean 80.1 +- 0.4 [R]
They are compared after the last step only: choosing a checkpoint on test would flatter it. Whether the paper also
trained on val is not known to us; PIDNet does: --config.data.train_split=train+val.

[abstract] of the paper; [R] recalled from the paper, not checked; [ours] our choice.
"""

from ddrnet_jax.config import ConfigError, base

_ARGUMENTS = ("23_slim", "23", "23_slim_cityscapes", "23_cityscapes")
_FROM_CITYSCAPES = "_cityscapes"
_STEPS_AN_EPOCH = 367 // 12


def get_config(argument="23_slim"):
    if argument not in _ARGUMENTS:
        raise ConfigError(f"argument {argument!r} given, expected {', '.join(map(repr, _ARGUMENTS))}")
    is_from_cityscapes = argument.endswith(_FROM_CITYSCAPES)

    config = base()
    config.model.variant = argument.removesuffix(_FROM_CITYSCAPES)
    config.batch_size = 12  # [R]
    config.total_steps = (200 if is_from_cityscapes else 968) * _STEPS_AN_EPOCH  # [R]
    config.init_head = "fresh" if is_from_cityscapes else "load"  # 19 classes there, 11 here
    config.log_every_steps = _STEPS_AN_EPOCH
    config.data.name = "camvid"
    config.data.root = "data/camvid"
    config.data.train_split = "train"  # [ours]
    config.data.eval_split = "test"
    config.data.crop_hw = (720, 960)  # [R]
    config.data.scale_range = (0.5, 2.0)  # [R]
    config.data.num_threads = 16
    config.optimizer.learning_rate = 0.001  # [R]
    config.optimizer.weight_decay = 5e-4  # [R]
    config.optimizer.schedule = "poly"  # as on Cityscapes, with its power 0.9 and momentum 0.9 [R]
    config.loss.name = "ohem"  # as on Cityscapes, with its threshold, share of pixels and aux_weight [R]
    config.loss.class_weights = False  # [ours]
    config.eval.every_steps = 0
    config.checkpoint.every_steps = 50 * _STEPS_AN_EPOCH
    return config
