"""Causes of a low mIoU that a config tells by itself, beside the sizes of the data it names."""

import collections
import math

from ml_collections import ConfigDict

from ddrnet_jax.data.check_findings import Finding, padding_share

_FEW_EPOCHS = 20
_SMALL_BATCH = 4  # images that batch norm and OHEM see at once; the paper's recipe has 12
_SMALL_CROP = 1 / 4  # of the evaluated image's area
_MOST_PADDING = 0.3
_MANY_EMA_LENGTHS = 3  # an average of 1 / (1 - decay) steps forgets its start after as many


def findings(config: ConfigDict, train_images: int, train_sizes: collections.Counter) -> list[Finding]:
    """What the settings that a network was, or is to be, trained with say.

    train_sizes  {(W, H): how many of the training images looked at have it}
    """
    found = (
        _initial_weights(config),
        _trunk_rate(config),
        _length(config, train_images),
        _batch(config),
        _average(config),
        _evaluated_size(config),
        _padding(config, train_sizes),
        _small_crop(config, train_sizes),
        _augmentation(config),
    )
    return [finding for finding in found if finding]


def _initial_weights(config: ConfigDict) -> Finding | None:
    if config.init_from or config.data.name == "scenes":
        return None
    return Finding(
        "warning",
        "the network starts from random weights (init_from is '')",
        "start from ImageNet weights of the same variant: every published score does; others report 1.5 to 2 points "
        "less without them on Cityscapes, and small data sets lose far more",
        paste=("config.init_from = 'FILE'",),
    )


def _trunk_rate(config: ConfigDict) -> Finding | None:
    factor = config.optimizer.trunk_lr_factor
    if config.init_from or factor >= 1:
        return None
    rate = factor * config.optimizer.learning_rate
    return Finding(
        "warning",
        f"the trunk learns at {factor:g} of the learning rate, {rate:g}, but from random weights (init_from is '')",
        "a slow trunk is meant for one that was pretrained: give init_from, or let all layers learn alike",
        paste=("config.optimizer.trunk_lr_factor = 1.0",),
    )


def _length(config: ConfigDict, train_images: int) -> Finding | None:
    epochs = config.total_steps * config.batch_size / max(1, train_images)
    if epochs >= _FEW_EPOCHS:
        return None
    return Finding(
        "warning",
        f"{config.total_steps} steps of {config.batch_size} see each of {train_images:,} training images "
        f"{epochs:.1f} times",
        "train longer: the paper's recipes see each image 110 to 968 times",
        paste=(f"config.total_steps = {math.ceil(100 * train_images / config.batch_size)}",),
    )


def _batch(config: ConfigDict) -> Finding | None:
    parts = config.optimizer.accumulate_steps
    seen = config.batch_size // parts
    if seen >= _SMALL_BATCH:
        return None
    of_parts = f", in {parts} parts (optimizer.accumulate_steps)" if parts > 1 else ""
    return Finding(
        "warning",
        f"batch norm and the loss see {seen} images at a time: batch_size is {config.batch_size}{of_parts}",
        f"{_SMALL_BATCH} or more; the paper's recipe has 12. With smaller crops more fit into memory",
    )


def _average(config: ConfigDict) -> Finding | None:
    if not config.ema_decay:
        return None
    length = 1 / (1 - config.ema_decay)
    if config.total_steps >= _MANY_EMA_LENGTHS * length:
        return None
    decay = 1 - _MANY_EMA_LENGTHS * 3 / config.total_steps
    return Finding(
        "warning",
        f"the moving average of the weights reaches back {length:,.0f} steps (ema_decay={config.ema_decay:g}), "
        f"but the run has {config.total_steps:,}",
        "it is what is evaluated, and it lags behind: choose a shorter one, or none (0.0)",
        paste=(f"config.ema_decay = {max(0.0, round(decay, 4))}",),
    )


def _evaluated_size(config: ConfigDict) -> Finding | None:
    if config.eval.size_hw is None:
        return None
    height, width = config.eval.size_hw
    return Finding(
        "warning",
        f"images are resized to {height}x{width} (HxW) before the network sees them (eval.size_hw)",
        "scores of benchmarks are of whole images at their own size; if memory is short, use tiles",
        paste=("config.eval.size_hw = None", "config.eval.tile_hw = (1024, 1024)"),
    )


def _padding(config: ConfigDict, sizes: collections.Counter) -> Finding | None:
    share = padding_share(sizes, config.data.crop_hw, config.data.scale_range)
    if share <= _MOST_PADDING:
        return None
    height, width = (max(8, n // 8 * 8) for n in sizes.most_common(1)[0][0][::-1])
    return Finding(
        "warning",
        f"{share:.0%} of the average training crop is padding: data.crop_hw is {config.data.crop_hw}, "
        f"most images are {height}x{width} (HxW)",
        "choose a crop that the images fill",
        paste=(f"config.data.crop_hw = {(height, width)}",),
    )


def _small_crop(config: ConfigDict, sizes: collections.Counter) -> Finding | None:
    if not sizes or config.eval.size_hw or config.eval.tile_hw:
        return None
    (width, height), _ = sizes.most_common(1)[0]
    crop_h, crop_w = config.data.crop_hw
    low, high = config.data.scale_range
    share = crop_h * crop_w / (height * width * ((low + high) / 2) ** 2)
    if share >= _SMALL_CROP:
        return None
    return Finding(
        "warning",
        f"a training crop of {crop_h}x{crop_w} shows {share:.0%} of a scaled image, but whole images of "
        f"{height}x{width} (HxW) are evaluated",
        "DAPPM sees another context there than it learnt: larger crops, smaller scales (data.scale_range), or tiles "
        "of the crop's size (eval.tile_hw)",
    )


def _augmentation(config: ConfigDict) -> Finding | None:
    low, high = config.data.scale_range
    missing = [*(["data.scale_range"] if low == high else []), *([] if config.data.flip else ["data.flip"])]
    if not missing:
        return None
    return Finding(
        "warning",
        f"training images are not varied by {' and '.join(missing)}",
        "the recipes scale by 0.5 to 2 and mirror: without it a network learns its training images by heart",
        paste=("config.data.scale_range = (0.5, 2.0)", "config.data.flip = True"),
    )
