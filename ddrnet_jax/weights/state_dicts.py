"""Official PyTorch state dicts <-> ours: names, layouts, strict both ways."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

from ddrnet_jax.models import variables
from ddrnet_jax.weights import files as weight_files
from ddrnet_jax.weights.names import names_in

# Under what trainers save a state dict; "ema_net", before "net", is super-gradients' average.
_WRAPPERS = ("state_dict", "model", "ema_net", "net")


def read_checkpoint(path: str | Path) -> dict[str, np.ndarray]:
    """The state dict of a .pth, .pt or .safetensors file, keys as they stand, nothing in the file executed.

    Returns  {key: array}; what lies beside the state dict ("epoch", optimiser state) is left out
    Raises   WeightsFileError (a ValueError) with one line if the file is damaged, hostile or holds no state dict.
    """
    return next(iter(read_state_dicts(path).values()))


def read_state_dicts(path: str | Path) -> dict[str, dict[str, np.ndarray]]:
    """Every dict of named tensors in a file, as `read_checkpoint` gives the first of them.

    Returns  {where it is in the file: {key: array}}, the most likely first: where trainers put it, then the largest
    Raises   WeightsFileError likewise.
    """
    content = weight_files.read_tensors(path)
    found = dict(_named_tensors(content, ""))
    if not found:
        keys = ", ".join(repr(k) for k in list(content)[:8]) if isinstance(content, dict) else type(content).__name__
        raise weight_files.WeightsFileError(
            f"{path}: holds no state dict; expected named tensors, found {keys[:300] or 'an empty dict'}"
        )
    usual = _usual_place(content)
    return {place: found[place] for place in sorted(found, key=lambda place: (place != usual, -len(found[place])))}


def _usual_place(content: Any) -> str:
    place = ""
    for wrapper in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content, place = content[wrapper], f"{place}.{wrapper}"
    return place


def _named_tensors(content: Any, place: str) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """(place, tensors) of every dict that holds some."""
    items = content.items() if isinstance(content, dict) else enumerate(content)
    nested = {key: value for key, value in items if isinstance(value, dict | list | tuple)}
    if isinstance(content, dict):
        tensors = {key: value for key, value in content.items() if isinstance(value, np.ndarray)}
        if tensors:
            yield place, tensors
    for key, value in nested.items():
        yield from _named_tensors(value, f"{place}.{key}")


def load_state_dict(model: nnx.Module, state_dict: dict[str, np.ndarray]) -> None:
    """Copy an official state dict into `model`, completely or not at all.

    state_dict   official names and layouts (convolutions OIHW, linear OI); num_batches_tracked is ignored
    Raises ValueError listing every missing, unexpected and mis-shaped key.
    """
    given = {k: v for k, v in state_dict.items() if not k.endswith("num_batches_tracked")}
    _check_complete(given, official_shapes(model))
    ours = {path: from_official_layout(path, given[name]) for path, name in official_names(model).items()}
    variables.replace_leaves(model, ours)


def to_state_dict(model: nnx.Module) -> dict[str, np.ndarray]:
    """The exact inverse of `load_state_dict`: official names and layouts, without num_batches_tracked."""
    names = official_names(model)
    return {names[path]: to_official_layout(path, np.asarray(v)) for path, v in variables.leaves(model).items()}


def official_names(model: nnx.Module) -> dict[str, str]:
    """{our dotted path: official name} of every parameter and running statistic."""
    return names_in("official", variables.leaves(model))


def official_shapes(model: nnx.Module) -> dict[str, tuple[int, ...]]:
    """{official name: shape in the official layout} of every parameter and running statistic."""
    names = official_names(model)
    return {names[path]: official_shape(path, leaf.shape) for path, leaf in variables.leaves(model).items()}


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


def official_shape(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that `to_official_layout` gives."""
    if not path.endswith("kernel"):
        return tuple(shape)
    return (shape[3], shape[2], shape[0], shape[1]) if len(shape) == 4 else tuple(shape[::-1])


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
