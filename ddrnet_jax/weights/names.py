"""One table of names: ours, the official release's, mmsegmentation's and super-gradients'."""

import functools
import itertools
import re
from collections.abc import Iterable

ORIGINS = ("official", "mmsegmentation", "super-gradients")

_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}

# The layers inside of a part: our name, and its name in each of ORIGINS. {b} is the number of a block.
_CONV_BN = (("conv", "0", "conv", "0"), ("bn", "1", "bn", "1"))
_TWO_CONV_BN = (
    *(("0.conv", "0", "0.conv", "0.0"), ("0.bn", "1", "0.bn", "0.1")),
    *(("1.conv", "3", "1.conv", "1.0"), ("1.bn", "4", "1.bn", "1.1")),
)
_BN_CONV = (("bn", "0", "bn", "0"), ("conv", "2", "conv", "2"))
_POOL_BN_CONV = (("bn", "1", "1.bn", "1"), ("conv", "3", "1.conv", "3"))
_BLOCK = (
    *((f"conv_bn{n}.{p}", f"{p}{n}", f"conv{n}.{p}", f"{p}{n}") for n in (1, 2, 3) for p in ("conv", "bn")),
    ("shortcut.conv", "downsample.0", "downsample.0", "shortcut.0"),
    ("shortcut.bn", "downsample.1", "downsample.1", "shortcut.1"),
)
_BLOCKS = tuple((f"blocks.{{b}}.{ours}", *(f"{{b}}.{theirs}" for theirs in names)) for ours, *names in _BLOCK)
_HEAD = (
    ("hidden.bn", "bn1", "head.0.bn", "bn1"),
    ("hidden.conv", "conv1", "head.0.conv", "conv1"),
    ("classifier.bn", "bn2", "head.1", "bn2"),
    ("classifier.conv", "conv2", "conv_seg", "conv2"),
)
_AUX_HEAD = (
    ("hidden.bn", "bn1", "aux_head.0.bn", "bn1"),
    ("hidden.conv", "conv1", "aux_head.0.conv", "conv1"),
    ("classifier.bn", "bn2", "aux_head.1", "bn2"),
    ("classifier.conv", "conv2", "aux_cls_seg", "conv2"),
)
# The parts, likewise, with their layers. {i} is the repeat of stage 3, {_n} its number in the release, "" if it is one.
_PARTS = (
    ("stem", "conv1", "backbone.stem", "_backbone.stem", _TWO_CONV_BN),
    ("layer1", "layer1", "backbone.stem.2", "_backbone.layer1", _BLOCKS),
    ("layer2", "layer2", "backbone.stem.4", "_backbone.layer2", _BLOCKS),
    ("stage3.{i}.low", "layer3{_n}", "backbone.context_branch_layers.0", "_backbone.layer3.{i}", _BLOCKS),
    ("stage3.{i}.high", "layer3{_n}_", "backbone.spatial_branch_layers.0", "layer3_skip.{i}", _BLOCKS),
    ("stage3.{i}.compression", "compression3{_n}", "backbone.compression_1", "compression3.{i}", _CONV_BN),
    ("stage3.{i}.down.convs.0", "down3{_n}", "backbone.down_1", "down3.{i}", _CONV_BN),
    ("stage4.low", "layer4", "backbone.context_branch_layers.1", "_backbone.layer4", _BLOCKS),
    ("stage4.high", "layer4_", "backbone.spatial_branch_layers.1", "layer4_skip", _BLOCKS),
    ("stage4.compression", "compression4", "backbone.compression_2", "compression4", _CONV_BN),
    ("stage4.down.convs", "down4", "backbone.down_2", "down4", _TWO_CONV_BN),
    ("low5", "layer5.0", "backbone.context_branch_layers.2.0", "layer5.0", _BLOCK),
    ("high5", "layer5_.0", "backbone.spatial_branch_layers.2.0", "layer5_skip.0", _BLOCK),
    ("dappm.scales.0", "spp.scale0", "backbone.spp.scales.0", "spp.branches.0.down_scale", _BN_CONV),
    ("dappm.scales.1", "spp.scale1", "backbone.spp.scales.1", "spp.branches.1.down_scale", _POOL_BN_CONV),
    ("dappm.scales.2", "spp.scale2", "backbone.spp.scales.2", "spp.branches.2.down_scale", _POOL_BN_CONV),
    ("dappm.scales.3", "spp.scale3", "backbone.spp.scales.3", "spp.branches.3.down_scale", _POOL_BN_CONV),
    ("dappm.scales.4", "spp.scale4", "backbone.spp.scales.4", "spp.branches.4.down_scale", _POOL_BN_CONV),
    ("dappm.processes.0", "spp.process1", "backbone.spp.processes.0", "spp.branches.1.process", _BN_CONV),
    ("dappm.processes.1", "spp.process2", "backbone.spp.processes.1", "spp.branches.2.process", _BN_CONV),
    ("dappm.processes.2", "spp.process3", "backbone.spp.processes.2", "spp.branches.3.process", _BN_CONV),
    ("dappm.processes.3", "spp.process4", "backbone.spp.processes.3", "spp.branches.4.process", _BN_CONV),
    ("dappm.compression", "spp.compression", "backbone.spp.compression", "spp.compression", _BN_CONV),
    ("dappm.shortcut", "spp.shortcut", "backbone.spp.shortcut", "spp.shortcut", _BN_CONV),
    ("head", "final_layer", "decode_head", "final_layer", _HEAD),
    ("aux_head", "seghead_extra", "decode_head", "seghead_extra", _AUX_HEAD),
    # Of classifiers, which the release alone has.
    ("head.down.convs", "down5", "", "", _TWO_CONV_BN),
    ("head.last", "last_layer", "", "", _CONV_BN),
    ("head", "", "", "", (("linear", "linear", "", ""),)),
)


def names_in(origin: str, paths: Iterable[str]) -> dict[str, str]:
    """{our path: the tensor's name in the naming of `origin`}, of all parameters and statistics of one network."""
    paths = list(paths)
    modules = _modules(ORIGINS.index(origin), _count(r"blocks\.(\d+)", paths), _count(r"stage3\.(\d+)", paths))
    ours = (path.rpartition(".") for path in paths)
    return {f"{module}.{leaf}": f"{modules[module]}.{_LEAVES[leaf]}" for module, _, leaf in ours}


def _count(number: str, paths: list[str]) -> int:
    return 1 + max((int(found) for path in paths for found in re.findall(number, path)), default=0)


@functools.cache
def _modules(column: int, blocks: int, repeats: int) -> dict[str, str]:
    """{our module: its name in a column of the table}, for as many blocks in a row and repeats of stage 3."""
    modules = {}
    for (ours, *theirs, layers), i, b in itertools.product(_PARTS, range(repeats), range(blocks)):
        numbers = {"i": i, "b": b, "_n": f"_{i + 1}" if repeats > 1 else ""}
        for our_layer, *layer in layers:
            name = f"{theirs[column]}.{layer[column]}".lstrip(".")
            modules[f"{ours}.{our_layer}".format(**numbers)] = name.format(**numbers)
    return modules
