"""Weights to start from: a checkpoint of ours or a PyTorch file, and what of it fits a model."""

import contextlib
import dataclasses
import logging
from collections.abc import Collection
from pathlib import Path

import numpy as np

from ddrnet_jax.errors import UserError
from ddrnet_jax.models import variables
from ddrnet_jax.models.ddrnet import SEGMENTER_LAYERS, DDRNet
from ddrnet_jax.runs import checkpoints
from ddrnet_jax.weights import origins, places, state_dicts
from ddrnet_jax.weights.origins import Recognised, WeightsMismatch, recognise

_log = logging.getLogger(__name__)

OUR_CHECKPOINT = "ddrnet_jax"
_HEADS = ("head", "aux_head")


class PretrainedError(UserError):
    """Weights do not fit the model they are meant for; the message names the file and says what differs."""


@dataclasses.dataclass(frozen=True)
class Weights:
    """The weights of a file or checkpoint by our paths, and what network they are of.

    origin    OUR_CHECKPOINT or one of names.ORIGINS
    classes   their names, None where only their number is known
    leaves    {our dotted path: array} of every parameter and running statistic
    left_out  what else the file holds, with the reason it is not used
    """

    path: str
    origin: str
    variant: str
    task: str
    num_classes: int
    has_aux_head: bool
    leaves: dict[str, np.ndarray]
    left_out: dict[str, str]
    classes: tuple[str, ...] | None = None

    def describe(self) -> str:
        """A few words for people: "DDRNet-23_slim segmentation, 19 classes, with auxiliary head"."""
        aux = {"segmentation": f", {'with' if self.has_aux_head else 'without'} auxiliary head"}.get(self.task, "")
        return f"DDRNet-{self.variant} {self.task}, {self.num_classes} classes{aux}"


@dataclasses.dataclass(frozen=True)
class Transfer:
    """The weights that move into a model, and the rest.

    moved   {our path: array}
    fresh   {part of the model: why it keeps its own initial weights}
    unused  {part of the weights: why it has no place in the model}
    """

    moved: dict[str, np.ndarray]
    fresh: dict[str, str]
    unused: dict[str, str]

    def lines(self) -> list[str]:
        """For people, one line each: how many tensors moved, what stayed fresh and why, what was not used."""
        return [
            f"moved {count_tensors(self.moved)} tensors",
            *(f"fresh: {part}: {why}" for part, why in self.fresh.items()),
            *(f"not used: {part}: {why}" for part, why in self.unused.items()),
        ]


def count_tensors(leaves: Collection[str]) -> int:
    """The number of entries that the official state dict has for these paths.

    Each batch norm there also counts its batches (num_batches_tracked), which nothing here needs.
    """
    return len(leaves) + sum(path.endswith(".mean") for path in leaves)


def read(place: str | Path) -> Weights:
    """The weights of a workdir, of one step's directory, or of a .pth, .pt or .safetensors file, or of its address.

    Raises CheckpointError, WeightsFileError, PretrainedError or DownloadError with one line that names the place.
    """
    path = places.local(place)
    if path.is_dir():
        return dataclasses.replace(_of_checkpoint(path), path=str(place))
    if not path.exists():
        raise PretrainedError(f"{path}: no such file; expected a checkpoint's folder, or a .pth or .safetensors file")
    return dataclasses.replace(_of_file(path), path=str(place))


def transfer(weights: Weights, model: DDRNet, *, fresh_head: bool = False) -> Transfer:
    """The part of the weights that moves into `model`; everything the two have in common must fit.

    model       made, or abstract from nnx.eval_shape
    fresh_head  leave the heads out: for another number of classes
    Raises PretrainedError if the variants differ, or the classes and not `fresh_head`.
    """
    _check_same_network(weights, model, fresh_head)
    wanted = variables.leaves(model)
    skipped = _HEADS if fresh_head else ()
    if weights.task != model.task:
        skipped = SEGMENTER_LAYERS
    moved = {k: v for k, v in weights.leaves.items() if k in wanted and _part(k) not in skipped}
    fresh, unused = ({_part(k) for k in leaves if k not in moved} for leaves in (wanted, weights.leaves))
    if weights.task == model.task:
        unused -= fresh  # said once
    return Transfer(
        moved,
        {part: _why_fresh(part, weights, model) for part in sorted(fresh)},
        {part: _why_unused(part, weights, model) for part in sorted(unused)} | weights.left_out,
    )


def load_pretrained(model: DDRNet, path: str | Path, *, fresh_head: bool = False) -> Transfer:
    """Copy the weights of a checkpoint or file into `model`, all that the two networks have in common.

    path        a workdir, one step's directory, a .pth, .pt or .safetensors file, or its address
    fresh_head  leave the heads out: for another number of classes
    Returns     what moved, what stayed fresh and what was not used, with the reasons
    Raises      PretrainedError, CheckpointError, WeightsFileError or DownloadError; `model` is then unchanged.
    """
    return load_into(model, read(path), fresh_head=fresh_head)


def load_into(model: DDRNet, weights: Weights, *, fresh_head: bool = False) -> Transfer:
    """As `load_pretrained`, from weights already read."""
    result = transfer(weights, model, fresh_head=fresh_head)
    variables.replace_leaves(model, result.moved)
    return result


def _of_checkpoint(path: Path) -> Weights:
    loaded = checkpoints.load_weights(path)
    model = variables.merge(loaded.graphdef, loaded.params, loaded.batch_stats)
    return Weights(
        path=str(path),
        origin=OUR_CHECKPOINT,
        variant=model.variant,
        task=model.task,
        num_classes=model.num_classes,
        has_aux_head=model.aux_head is not None,
        leaves=variables.paths(loaded.params) | variables.paths(loaded.batch_stats),
        left_out={},
        classes=loaded.experiment.spec.classes,
    )


def _of_file(path: Path) -> Weights:
    found = _recognised(path, state_dicts.read_state_dicts(path))
    leaves = {
        our_path: _as_float32(path, name, state_dicts.from_official_layout(our_path, found.state_dict[name]))
        for our_path, name in origins.official_names(found.variant, found.task).items()
        if name in found.state_dict  # which lacks the auxiliary head where the file does
    }
    return Weights(
        path=str(path),
        origin=found.origin,
        variant=found.variant,
        task=found.task,
        num_classes=found.num_classes,
        has_aux_head=found.aux_head,
        leaves=leaves,
        left_out=found.left_out,
    )


def _recognised(path: Path, state_dicts_found: dict[str, dict[str, np.ndarray]]) -> Recognised:
    """The first of them if it is a whole network, else the only one that is."""
    (first, given), *others = state_dicts_found.items()
    try:
        return recognise(given)
    except WeightsMismatch as e:
        error = e
    whole = {}
    for place, other in others:
        with contextlib.suppress(WeightsMismatch):
            whole[place] = recognise(other)
    if len(whole) > 1:
        places = ", ".join(repr(place.removeprefix(".")) for place in whole)
        raise PretrainedError(f"{path}: holds {len(whole)} whole networks, {places}; save one of them alone")
    if not whole:
        raise PretrainedError(f"{path}: {error}") from error
    ((place, found),) = whole.items()
    _log.info(f"{path}: the weights are those of {place.removeprefix('.')!r}")
    return found


def _as_float32(path: Path, name: str, array: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        values = array.astype(np.float32)
    if not np.isfinite(values).all():
        raise PretrainedError(f"{path}: {name} holds values beyond the range of float32")
    return values


def _check_same_network(weights: Weights, model: DDRNet, fresh_head: bool) -> None:
    if weights.variant != model.variant:
        raise PretrainedError(
            f"{weights.path}: holds {weights.describe()}, but the model is a DDRNet-{model.variant}; "
            "choose the file of this variant or set model.variant"
        )
    if weights.task == model.task and weights.num_classes != model.num_classes and not fresh_head:
        raise PretrainedError(
            f"{weights.path}: holds {weights.num_classes} classes, but the model has {model.num_classes}; "
            "--config.init_head=fresh (fresh_head=True) moves everything but the heads"
        )


def _why_fresh(part: str, weights: Weights, model: DDRNet) -> str:
    if weights.task != model.task:
        return f"the weights are of a {_noun(weights.task)}, which has {'another' if part == 'head' else 'none'}"
    if part == "aux_head" and not weights.has_aux_head:
        return "the weights have no auxiliary head"
    return f"left out as asked (the weights have {weights.num_classes} classes, the model {model.num_classes})"


def _why_unused(part: str, weights: Weights, model: DDRNet) -> str:
    if weights.task != model.task:
        return f"the model is a {_noun(model.task)}"
    return "the model has no auxiliary head"


def _noun(task: str) -> str:
    return {"segmentation": "segmenter", "classification": "classifier"}[task]


def _part(path: str) -> str:
    return path.split(".", 1)[0]
