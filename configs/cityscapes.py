"""Cityscapes from ImageNet weights, as the paper has it.

python -m ddrnet_jax.main --config configs/cityscapes.py --workdir runs/cityscapes --config.data.root=DIR \\
    --config.init_from=FILE

configs/cityscapes.py:23_slim (the same), :23, :39; for the test server, trained on train and val, :23_slim_trainval,
:23_trainval, :39_trainval: their own val mIoU says nothing, those images were trained on.
DIR holds leftImg8bit/ and gtFine/ as unzipped. FILE holds ImageNet weights of the same variant: the official
repository's .pth, or the workdir of configs/imagenet.py. Without them expect 1.5 to 2 points less [ours,
from what others report of 23 and 23-slim].

Not run by us. The paper trained on 4 x 2080Ti [R]. By arithmetic alone, one accelerator that achieves 20 TFLOP/s needs
2.3 h (23-slim), 9 h (23), 17 h (39); 2.3 h are 175 images/s to decode. Where 12 crops do not fit in memory,
--config.optimizer.accumulate_steps=2 needs about half; batch norm and OHEM then see 6.

mIoU to expect, whole images of 1024x2048:
  23-slim  val 77.8 [repo], mean of four runs 77.3 +- 0.4 [R], 77.84 with the same recipe [mm]; test 77.4 [repo]
  23       val 79.5 [repo], mean of four runs 79.1 +- 0.3 [R], 79.99 with the same recipe [mm]; test 79.4 [repo]
  39       val never published by its authors; test 80.4 [repo]
Two runs differ by about 1 point [repo].

[repo] README and issues of the official repository; [hr] the HRNet code that it was trained with; [mm] mmsegmentation;
[R] recalled from the paper, not checked; [ours] our choice.
"""

from ddrnet_jax.config import ConfigError, base

_VARIANTS = ("23_slim", "23", "39")
_TRAINVAL = "_trainval"
_ARGUMENTS = (*_VARIANTS, *(variant + _TRAINVAL for variant in _VARIANTS))


def get_config(argument="23_slim"):
    if argument not in _ARGUMENTS:
        raise ConfigError(f"argument {argument!r} given, expected {', '.join(map(repr, _ARGUMENTS))}")
    is_trainval = argument.endswith(_TRAINVAL)
    steps_an_epoch = (2975 + 500 if is_trainval else 2975) // 12  # [hr]

    config = base()
    config.model.variant = argument.removesuffix(_TRAINVAL)
    config.batch_size = 12  # [R]
    config.total_steps = 484 * steps_an_epoch  # 484 epochs [hr]; with val it is 484 of the longer ones [ours]
    config.data.name = "cityscapes"
    config.data.root = "data/cityscapes"
    config.data.train_split = "train+val" if is_trainval else "train"
    config.data.crop_hw = (1024, 1024)  # [repo]
    config.data.scale_range = (0.5, 2.0)  # [R]; the code draws from 0.5, 0.6, ..., 2.1 [hr]
    config.data.num_threads = 16
    config.optimizer.learning_rate = 0.01  # [hr]
    config.optimizer.weight_decay = 5e-4  # of all parameters [hr]
    config.optimizer.schedule = "poly"  # power 0.9, no warm-up; momentum 0.9 [hr]
    config.loss.name = "ohem"  # of both heads [repo issue 35]; of the last output only in [hr]
    config.loss.aux_weight = 0.4  # [repo issue 35]
    config.loss.class_weights = True  # [hr]; "class balance" in [repo]
    config.loss.ohem_threshold = 0.9  # [hr]
    config.loss.ohem_min_kept_fraction = 1 / 24  # 131072 of 3 crops on each GPU [hr]
    config.eval.every_steps = 0 if is_trainval else 50 * steps_an_epoch
    config.checkpoint.every_steps = 10 * steps_an_epoch
    return config
