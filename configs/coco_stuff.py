"""COCO-Stuff, 171 classes at 640x640: 10k as the paper has it, and 164k.

python -m ddrnet_jax.main --config configs/coco_stuff.py --workdir runs/coco_stuff --config.data.root=DIR \\
    --config.init_from=FILE
python -m ddrnet_jax.main --config configs/coco_stuff.py:164k --workdir runs/coco_stuff_164k --config.data.root=DIR \\
    --config.init_from=FILE

configs/coco_stuff.py:10k (the first), :10k_39, :164k, :164k_39; 10k and 164k are DDRNet-23. DIR holds, for 10k,
images/, annotations/ and imageLists/; for 164k, train2017/, val2017/ and stuffthingmaps/. FILE holds ImageNet weights
of the same variant: the official repository's .pth, or the workdir of configs/imagenet.py.

Not run by us. By arithmetic alone, one accelerator that achieves 20 TFLOP/s needs 2.4 h (10k), 4.7 h (10k_39),
7 h (164k), 14 h (164k_39).

mIoU to expect on 10k's test: 32.1 (23), 34.8 (39), pixel accuracy 64.7 and 66.6 [R, of low confidence]. On 164k nothing
was published, and its length here is our choice.

The paper first resizes every image to a short side of 640 [R]. Here the random scale makes up for it: its range is 4/3
of 0.5 to 2, since most images are 640x480.

[R] recalled from the paper, not checked; [hr] the HRNet code that it was trained with; [ours] our choice.
"""

from ddrnet_jax.config import ConfigError, base

_ARGUMENTS = ("10k", "10k_39", "164k", "164k_39")


def get_config(argument="10k"):
    if argument not in _ARGUMENTS:
        raise ConfigError(f"argument {argument!r} given, expected {', '.join(map(repr, _ARGUMENTS))}")
    release, _, variant = argument.partition("_")

    config = base()
    config.model.variant = variant or "23"
    config.batch_size = 12  # [R]; 16 in [hr]
    config.data.name = f"coco_stuff_{release}"
    config.data.root = f"data/coco_stuff_{release}"
    if release == "10k":
        config.data.eval_split = "test"
        config.total_steps = 110 * (9000 // 12)  # 110 epochs [R, hr]
    else:
        config.data.train_split, config.data.eval_split = "train2017", "val2017"
        config.total_steps = 240_000  # [ours]
    config.data.crop_hw = (640, 640)  # [R]
    config.data.scale_range = (2 / 3, 8 / 3)  # [ours], see above
    config.data.num_threads = 16
    config.optimizer.learning_rate = 0.001  # [R, hr]
    config.optimizer.weight_decay = 1e-4  # [R, hr]
    config.optimizer.schedule = "poly"  # as on Cityscapes, with its power 0.9 and momentum 0.9 [R]
    config.loss.name = "ohem"  # as on Cityscapes, with its threshold, share of pixels and aux_weight [R]
    config.eval.size_hw = (640, 640)  # [R]
    config.eval.batch_size = 12
    config.eval.every_steps = config.total_steps // 10
    config.checkpoint.every_steps = config.total_steps // 50
    return config
