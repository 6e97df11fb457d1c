"""Official PyTorch state dicts <-> ours: names, layouts, strict both ways."""

import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax import nnx

from ddrnet_jax.models import variables
from ddrnet_jax.weights import files as weight_files

# Our path -> official name, first by rules on the module, then by the leaf. Applied in order.
_MODULE_RULES = [
    (r"^stem\.0\.conv", "conv1.0"),
    (r"^stem\.0\.bn", "conv1.1"),
    (r"^stem\.1\.conv", "conv1.3"),
    (r"^stem\.1\.bn", "conv1.4"),
    (r"^stage3\.(\d)\.low", r"layer3@\1"),
    (r"^stage3\.(\d)\.high", r"layer3@\1_"),
    (r"^stage3\.(\d)\.(compression|down)", r"\g<2>3@\1"),
    (r"^stage4\.low", "layer4"),
    (r"^stage4\.high", "layer4_"),
    (r"^stage4\.(compression|down)", r"\g<1>4"),
    (r"^low5", "layer5.0"),
    (r"^high5", "layer5_.0"),
    (r"^dappm\.scales\.0\.bn", "spp.scale0.0"),
    (r"^dappm\.scales\.0\.conv", "spp.scale0.2"),
    (r"^dappm\.scales\.(\d)\.bn", r"spp.scale\1.1"),
    (r"^dappm\.scales\.(\d)\.conv", r"spp.scale\1.3"),
    (r"^dappm\.processes\.(\d)", lambda m: f"spp.process{int(m[1]) + 1}"),
    (r"^dappm", "spp"),
    (r"^(spp\.(?:process\d|compression|shortcut))\.bn", r"\1.0"),
    (r"^(spp\.(?:process\d|compression|shortcut))\.conv", r"\1.2"),
    (r"^head\.(hidden|classifier)", r"final_layer.\1"),
    (r"^aux_head", "seghead_extra"),
    (r"hidden\.(bn|conv)", r"\g<1>1"),
    (r"classifier\.(bn|conv)", r"\g<1>2"),
    (r"^head\.down", "down5"),
    (r"^head\.last", "last_layer"),
    (r"^head\.linear", "linear"),
    (r"\.convs\.(\d)\.conv", lambda m: f".{3 * int(m[1])}"),
    (r"\.convs\.(\d)\.bn", lambda m: f".{3 * int(m[1]) + 1}"),
    (r"^(compression\S+|last_layer)\.conv", r"\1.0"),
    (r"^(compression\S+|last_layer)\.bn", r"\1.1"),
    (r"\.blocks\.", "."),
    (r"shortcut\.conv", "downsample.0"),
    (r"shortcut\.bn", "downsample.1"),
    (r"conv_bn(\d)\.(conv|bn)", r"\2\1"),
]
# Under what trainers save a state dict; "ema_net", before "net", is super-gradients' average.
_WRAPPERS = ("state_dict", "model", "ema_net", "net")
_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}


def read_checkpoint(path: str | Path) -> dict[str, np.ndarray]:
    """The state dict of a .pth, .pt or .safetensors file, keys as they stand, nothing in the file executed.

    Returns  {key: array}; what lies beside the state dict ("epoch", optimiser state) is left out
    Raises   WeightsFileError (a ValueError) with one line if the file is damaged, hostile or holds no state dict.
    """
    content = weight_files.read_tensors(path)
    for wrapper in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    tensors = {k: v for k, v in content.items() if isinstance(v, np.ndarray)} if isinstance(content, dict) else {}
    if not tensors:
        keys = ", ".join(repr(k) for k in list(content)[:8]) if isinstance(content, dict) else type(content).__name__
        raise weight_files.WeightsFileError(
            f"{path}: holds no state dict; expected named tensors, found {keys[:300] or 'an empty dict'}"
        )
    return tensors


def load_state_dict(model: nnx.Module, state_dict: dict[str, np.ndarray]) -> None:
    """Copy an official state dict into `model`, completely or not at all.

    state_dict   official names and layouts (convolutions OIHW, linear OI); num_batches_tracked is ignored
    Raises ValueError listing every missing, unexpected and mis-shaped key.
    """
    given = {k: v for k, v in state_dict.items() if not k.endswith("num_batches_tracked")}
    _check_complete(given, official_shapes(model))
    _, params, stats = variables.split(model)
    names = official_names(model)
    for part, kind in ((params, nnx.Param), (stats, nnx.BatchStat)):
        ours = {
            path: jnp.asarray(from_official_layout(path, given[names[path]]), leaf.dtype)
            for path, leaf in variables.paths(part).items()
        }
        state = nnx.state(model, kind)
        nnx.replace_by_pure_dict(state, variables.from_paths(ours))
        nnx.update(model, state)


def to_state_dict(model: nnx.Module) -> dict[str, np.ndarray]:
    """The exact inverse of `load_state_dict`: official names and layouts, without num_batches_tracked."""
    _, params, stats = variables.split(model)
    names = official_names(model)
    leaves = variables.paths(params) | variables.paths(stats)
    return {names[path]: to_official_layout(path, np.asarray(leaf)) for path, leaf in leaves.items()}


def official_names(model: nnx.Module) -> dict[str, str]:
    """{our dotted path: official name} of every parameter and running statistic."""
    _, params, stats = variables.split(model)
    has_repeats = len(model.stage3) > 1
    return {path: _official_name(path, has_repeats) for path in variables.paths(params) | variables.paths(stats)}


def official_shapes(model: nnx.Module) -> dict[str, tuple[int, ...]]:
    """{official name: shape in the official layout} of every parameter and running statistic."""
    _, params, stats = variables.split(model)
    names = official_names(model)
    leaves = variables.paths(params) | variables.paths(stats)
    return {names[path]: _official_shape(path, leaf) for path, leaf in leaves.items()}


def to_official_layout(path: str, array: np.ndarray) -> np.ndarray:
    """Kernels [H,W,I,O] -> [O,I,H,W], linear [I,O] -> [O,I], the rest unchanged."""
    if not path.endswith("kernel"):
        return array
    return np.ascontiguousarray(array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T)


def from_official_layout(path: str, array: np.ndarray) -> np.ndarray:
    """Kernels [O,I,H,W] -> [H,W,I,O], linear [O,I] -> [I,O], the rest unchanged."""
    array = np.asarray(array)
    if not path.endswith("kernel"):
        return array
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T


def _official_name(path: str, has_repeats: bool) -> str:
    module, leaf = path.rsplit(".", 1)
    for pattern, replacement in _MODULE_RULES:
        module = re.sub(pattern, replacement, module)
    # "@r" marks the repeat of stage 3: the reference numbers repeats only where there are several.
    module = re.sub(r"@(\d)", lambda m: f"_{int(m[1]) + 1}" if has_repeats else "", module)
    return f"{module}.{_LEAVES[leaf]}"


def _official_shape(path: str, leaf) -> tuple[int, ...]:
    shape = tuple(leaf.shape)
    if not path.endswith("kernel"):
        return shape
    return (shape[3], shape[2], shape[0], shape[1]) if len(shape) == 4 else shape[::-1]


def _check_complete(given: dict[str, np.ndarray], expected: dict[str, tuple[int, ...]]) -> None:
    missing = sorted(expected.keys() - given.keys())
    unexpected = sorted(given.keys() - expected.keys())
    misshaped = [
        f"{k} {tuple(np.shape(given[k]))} where the model has {expected[k]}"
        for k in sorted(expected.keys() & given.keys())
        if tuple(np.shape(given[k])) != expected[k]
    ]
    problems = [
        f"{len(found)} {kind}: {', '.join(found)}"
        for kind, found in (("missing", missing), ("unexpected", unexpected), ("of another shape", misshaped))
        if found
    ]
    if problems:
        raise ValueError("state dict and model differ; " + "; ".join(problems))
