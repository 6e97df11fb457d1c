"""The names that a tensor of the network has in the official release, in mmsegmentation and in super-gradients."""

import re

ORIGINS = ("official", "mmsegmentation", "super-gradients")

_CONV_BN = ((0, "conv"), (1, "bn"))
_BN_CONV = ((0, "bn"), (2, "conv"))
# Official module -> theirs: the longest entry that a name begins with is replaced; without one it stays.
_MMSEGMENTATION = {
    **{f"conv1.{3 * i + j}": f"backbone.stem.{i}.{part}" for i in (0, 1) for j, part in _CONV_BN},
    **{f"layer{n}": f"backbone.stem.{2 * n}" for n in (1, 2)},
    **{f"layer{n}": f"backbone.context_branch_layers.{n - 3}" for n in (3, 4, 5)},
    **{f"layer{n}_": f"backbone.spatial_branch_layers.{n - 3}" for n in (3, 4, 5)},
    **{f"compression{n}.{j}": f"backbone.compression_{n - 2}.{part}" for n in (3, 4) for j, part in _CONV_BN},
    **{f"down3.{j}": f"backbone.down_1.{part}" for j, part in _CONV_BN},
    **{f"down4.{3 * i + j}": f"backbone.down_2.{i}.{part}" for i in (0, 1) for j, part in _CONV_BN},
    **{f"spp.scale0.{j}": f"backbone.spp.scales.0.{part}" for j, part in _BN_CONV},
    **{f"spp.scale{n}.{j + 1}": f"backbone.spp.scales.{n}.1.{part}" for n in (1, 2, 3, 4) for j, part in _BN_CONV},
    **{f"spp.process{n}.{j}": f"backbone.spp.processes.{n - 1}.{part}" for n in (1, 2, 3, 4) for j, part in _BN_CONV},
    **{f"spp.{at}.{j}": f"backbone.spp.{at}.{part}" for at in ("compression", "shortcut") for j, part in _BN_CONV},
    "final_layer.bn1": "decode_head.head.0.bn",
    "final_layer.conv1": "decode_head.head.0.conv",
    "final_layer.bn2": "decode_head.head.1",
    "final_layer.conv2": "decode_head.conv_seg",
    "seghead_extra.bn1": "decode_head.aux_head.0.bn",
    "seghead_extra.conv1": "decode_head.aux_head.0.conv",
    "seghead_extra.bn2": "decode_head.aux_head.1",
    "seghead_extra.conv2": "decode_head.aux_cls_seg",
}
_REPEATS = (("", 0), ("_1", 0), ("_2", 1))  # the official suffix, there only in 39, and their index
_SUPER_GRADIENTS = {
    **{f"conv1.{3 * i + j}": f"_backbone.stem.{i}.{j}" for i in (0, 1) for j in (0, 1)},
    **{f"layer{n}": f"_backbone.layer{n}" for n in (1, 2, 4)},
    **{f"layer3{repeat}": f"_backbone.layer3.{i}" for repeat, i in _REPEATS},
    **{f"layer3{repeat}_": f"layer3_skip.{i}" for repeat, i in _REPEATS},
    **{f"{part}3{repeat}": f"{part}3.{i}" for part in ("compression", "down") for repeat, i in _REPEATS},
    **{f"layer{n}_": f"layer{n}_skip" for n in (4, 5)},
    **{f"down4.{3 * i + j}": f"down4.{i}.{j}" for i in (0, 1) for j in (0, 1)},
    **{f"spp.scale{n}": f"spp.branches.{n}.down_scale" for n in range(5)},
    **{f"spp.process{n}": f"spp.branches.{n}.process" for n in (1, 2, 3, 4)},
}
_MODULES = {"official": {}, "mmsegmentation": _MMSEGMENTATION, "super-gradients": _SUPER_GRADIENTS}
# Then, inside residual blocks: (pattern, replacement).
_IN_BLOCKS = {
    "official": ("^", ""),
    "mmsegmentation": (r"\.(conv|bn)(\d)\.", r".conv\2.\1."),
    "super-gradients": (r"\.downsample\.", ".shortcut."),
}


def official_to(origin: str, official: str) -> str:
    """The name that the tensor `official` of the official release has in the naming of `origin`."""
    parts = official.split(".")
    modules = (".".join(parts[:length]) for length in (3, 2, 1))
    module = next((module for module in modules if module in _MODULES[origin]), "")
    return re.sub(*_IN_BLOCKS[origin], _MODULES[origin].get(module, "") + official.removeprefix(module))
