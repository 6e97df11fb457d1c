"""Causes of a low mIoU that an experiment tells by itself, beside the sizes of the data it names."""

import collections
import math

from ddrnet_jax.build import Experiment
from ddrnet_jax.data.check.findings import Finding, padding_share

_FEW_EPOCHS = 15
# Learning rates from random weights; recipes that start from them have more.
_SLOW_TRUNK = {"sgd": 0.01, "adamw": 5e-4, "muon": 5e-4}
_SMALL_BATCH = 4  # images that batch norm and OHEM see at once; the paper's recipe has 12
_SMALL_CROP = 1 / 4  # of the evaluated image's area
_LARGE_CROP_HW = (1024, 1024)
_MOST_PADDING = 0.3
_SAME_AREA = (0.7, 1.4)  # of an image after a resize that changes little
_MANY_EMA_LENGTHS = 3  # an average of 1 / (1 - decay) steps forgets its start after as many

Sizes = collections.Counter  # {(W, H): how many of the images looked at have it}


def of_training(experiment: Experiment, train_images: int, train_sizes: Sizes, eval_sizes: Sizes) -> list[Finding]:
    """Finds causes in the settings that a network was, or is to be, trained with."""
    found = (
        _initial_weights(experiment),
        _trunk_rate(experiment),
        _length(experiment, train_images),
        _batch(experiment),
        _average(experiment),
        _padding(experiment, train_sizes),
        _small_crop(experiment, eval_sizes),
        _augmentation(experiment),
    )
    return [finding for finding in found if finding]


def of_evaluation(experiment: Experiment, eval_sizes: Sizes) -> list[Finding]:
    """Finds causes in the settings of the evaluation."""
    if experiment.view["size_hw"] is None:
        return []
    height, width = experiment.view["size_hw"]
    areas = [height * width / (w * h) for w, h in eval_sizes.elements()]
    if areas and _SAME_AREA[0] <= sum(areas) / len(areas) <= _SAME_AREA[1]:
        return []
    return [
        Finding(
            "warning",
            f"images are resized to {height}x{width} (HxW) before the network sees them (eval.size_hw)",
            "scores of benchmarks are of whole images at their own size; if memory is short, use tiles",
            paste=("config.eval.size_hw = None", f"config.eval.tile_hw = {tuple(experiment.crop_hw)}"),
        )
    ]


def _initial_weights(experiment: Experiment) -> Finding | None:
    if experiment.init_from or experiment.data_name == "scenes":
        return None
    return Finding(
        "warning",
        "the network starts from random weights (init_from is '')",
        "start from ImageNet weights of the same variant: every published score does; others report 1.5 to 2 points "
        "less without them on Cityscapes, and small data sets lose far more",
        paste=("config.init_from = 'FILE'",),
    )


def _trunk_rate(experiment: Experiment) -> Finding | None:
    factor, peak = experiment.optimizer["trunk_lr_factor"], experiment.schedule["peak"]
    slow = _SLOW_TRUNK[experiment.optimizer["name"]]
    if experiment.init_from or factor >= 1 or factor * peak >= slow:
        return None
    return Finding(
        "warning",
        f"the trunk learns at {factor * peak:g} (optimizer.trunk_lr_factor={factor:g}) from random weights "
        "(init_from is '')",
        "that is a rate for a trunk that was pretrained: give init_from, or let it learn faster",
        paste=(f"config.optimizer.trunk_lr_factor = {min(1.0, float(f'{slow / peak:.2g}'))}",),
    )


def _length(experiment: Experiment, train_images: int) -> Finding | None:
    epochs = experiment.total_steps * experiment.batch_size / max(1, train_images)
    if epochs >= _FEW_EPOCHS or experiment.data_name == "scenes":
        return None
    return Finding(
        "warning",
        f"{experiment.total_steps} steps of {experiment.batch_size} see each of {train_images:,} training images "
        f"{epochs:.1f} times",
        "train longer: the paper's recipes see each image 110 to 968 times",
        paste=(f"config.total_steps = {math.ceil(100 * train_images / experiment.batch_size)}",),
    )


def _batch(experiment: Experiment) -> Finding | None:
    parts = experiment.accumulate_steps
    seen = experiment.batch_size // parts
    if seen >= _SMALL_BATCH:
        return None
    of_parts = f", in {parts} parts (optimizer.accumulate_steps)" if parts > 1 else ""
    return Finding(
        "warning",
        f"batch norm and the loss see {seen} images at a time: batch_size is {experiment.batch_size}{of_parts}",
        f"{_SMALL_BATCH} or more; the paper's recipe has 12. With smaller crops more fit into memory",
    )


def _average(experiment: Experiment) -> Finding | None:
    if not experiment.ema_decay:
        return None
    length = 1 / (1 - experiment.ema_decay)
    if experiment.total_steps >= _MANY_EMA_LENGTHS * length:
        return None
    distance = float(f"{min(1.0, 3 * _MANY_EMA_LENGTHS / experiment.total_steps):.1g}")  # of the decay from 1
    return Finding(
        "warning",
        f"the moving average of the weights reaches back {length:,.0f} steps (ema_decay={experiment.ema_decay:g}), "
        f"but the run has {experiment.total_steps:,}",
        "it is what is evaluated, and it lags behind: choose a shorter one, or none (0.0)",
        paste=(f"config.ema_decay = {1 - distance:.{max(1, -math.floor(math.log10(distance)))}f}",),
    )


def _padding(experiment: Experiment, sizes: Sizes) -> Finding | None:
    share = padding_share(sizes, experiment.crop_hw, experiment.scale_range)
    if share <= _MOST_PADDING:
        return None
    height, width = (max(8, n // 8 * 8) for n in sizes.most_common(1)[0][0][::-1])
    return Finding(
        "warning",
        f"{share:.0%} of the average training crop is padding: data.crop_hw is {experiment.crop_hw}, "
        f"most images are {height}x{width} (HxW)",
        "choose a crop that the images fill",
        paste=(f"config.data.crop_hw = {(height, width)}",),
    )


def _small_crop(experiment: Experiment, sizes: Sizes) -> Finding | None:
    if not sizes or experiment.view["size_hw"] or experiment.view["tile_hw"]:
        return None
    (width, height), _ = sizes.most_common(1)[0]
    (crop_h, crop_w), (largest_h, largest_w) = experiment.crop_hw, _LARGE_CROP_HW
    low, high = experiment.scale_range
    share = crop_h * crop_w / (height * width * ((low + high) / 2) ** 2)
    if share >= _SMALL_CROP:
        return None
    return Finding(
        "warning",
        f"a training crop of {crop_h}x{crop_w} shows {share:.0%} of a scaled image, but whole images of "
        f"{height}x{width} (HxW) are evaluated",
        "DAPPM sees another context there than it learnt: crops as large as memory allows, smaller scales "
        "(data.scale_range), or tiles of the crop's size (eval.tile_hw)",
        paste=(f"config.data.crop_hw = {(min(height // 8 * 8, largest_h), min(width // 8 * 8, largest_w))}",),
    )


def _augmentation(experiment: Experiment) -> Finding | None:
    low, high = experiment.scale_range
    usual = {"data.scale_range": "(0.5, 2.0)"} if low == high else {}
    usual |= {} if experiment.augment.options["flip"] else {"data.flip": "True"}
    if not usual:
        return None
    return Finding(
        "warning",
        f"training images are not varied by {' and '.join(usual)}",
        "the recipes scale by 0.5 to 2 and mirror: without it a network learns its training images by heart",
        paste=tuple(f"config.{key} = {value}" for key, value in usual.items()),
    )
