"""A PyTorch or safetensors file -> a checkpoint of ours, and a report that two people can compare."""

import dataclasses
import hashlib
import json
import math
from pathlib import Path

from flax import nnx
from ml_collections import ConfigDict

from ddrnet_jax import build, config, regular_files
from ddrnet_jax.config import files as config_files
from ddrnet_jax.data.sets.known import SPECS
from ddrnet_jax.models import variables
from ddrnet_jax.runs import checkpoints
from ddrnet_jax.weights import files as weight_files
from ddrnet_jax.weights import fingerprint, places, pretrained
from ddrnet_jax.weights.card import CONFIG_ENTRY, card_path
from ddrnet_jax.weights.pretrained import PretrainedError, Weights


def import_weights(source: str | Path, output: str | Path, wanted: ConfigDict | None = None) -> dict:
    """Write the weights of a file as a checkpoint, and describe them.

    source   .pth, .pt or .safetensors, or its address
    output   a new folder, one step's directory for --checkpoint
    wanted   what network the weights are for; None: what the file itself says, with the data set of that many classes
    Returns  the report, plain JSON values
    Raises   PretrainedError, WeightsFileError or CheckpointError with one line, before anything is written.
    """
    path = places.local(source)
    if path.is_dir():
        raise PretrainedError(f"--input {path}: a folder; expected a .pth, .pt or .safetensors file")
    weights = dataclasses.replace(pretrained.read(path), path=str(source))
    known = wanted or config_in(path)
    ours = (known or config_of(weights)).copy_and_resolve_references()
    fresh_head = wanted is not None and wanted.init_head == "fresh"
    if weights.task == ours.task:
        ours.model.aux_head = weights.has_aux_head
    elif not fresh_head:
        raise PretrainedError(
            f"{source}: holds {weights.describe()}, but the config's task is {ours.task!r}; import it without --config "
            "and train with config.init_from, or --config.init_head=fresh fills what is missing with random weights"
        )
    experiment = build.experiment(ours)
    model = experiment.network(nnx.Rngs(experiment.seed))
    moving = pretrained.load_into(model, weights, fresh_head=fresh_head)
    report = {
        "file": str(source),
        "file_sha256": _file_sha256(path),
        "origin": weights.origin,
        "network": weights.describe(),
        "data_set": ours.data.name + ("" if known else f", by its {weights.num_classes} classes"),
        "tensors_moved": pretrained.count_tensors(moving.moved),
        "fresh": moving.fresh,
        "not_used": moving.unused,
        "weights_sha256": fingerprint.weights_sha256(model),
        "forward": fingerprint.forward_digest(model),
        "checkpoint": str(output),
    }
    ours.init_from, ours.init_head = "", "load"  # of the run that made the file, no longer of the weights
    _, params, batch_stats = variables.split(model)
    checkpoints.save_weights(output, params, batch_stats, config_files.to_json(ours))
    return report


def report_lines(report: dict) -> list[str]:
    """The report for people, one line a fact."""
    forward = report["forward"]
    samples = " ".join(f"{v:g}" for v in forward["samples"])
    return [
        f"{report['file']}: {report['origin']}, {report['network']}",
        f"moved {report['tensors_moved']} tensors; data set of the checkpoint: {report['data_set']}",
        *(f"fresh (random): {part}: {why}" for part, why in report["fresh"].items()),
        *(f"not used: {part}: {why}" for part, why in report["not_used"].items()),
        f"file     sha256 {report['file_sha256']}",
        f"weights  sha256 {report['weights_sha256']}",
        f"logits on the fixed input: mean {forward['mean']:g}, std {forward['std']:g}, "
        f"min {forward['min']:g}, max {forward['max']:g}",
        f"  samples {samples}",
        *(["warning: the logits are not finite"] if not math.isfinite(forward["mean"]) else []),
        f"checkpoint: {report['checkpoint']}",
    ]


def config_in(path: Path) -> ConfigDict | None:
    """The config that a .safetensors file of our `export` carries, or its card FILE.json; None where there is none."""
    text = weight_files.read_metadata(path).get(CONFIG_ENTRY)
    card = card_path(path)
    try:
        if text is None and card.is_file():
            text = json.dumps(json.loads(regular_files.read_bytes(card))[CONFIG_ENTRY])
        if text is None:
            return None
        ours = config_files.from_json(json.loads(text))
        build.dataset_spec(ours)
    except (ValueError, TypeError, KeyError, RecursionError, OSError) as e:
        raise PretrainedError(f"{path}: the config in it or in {card.name} cannot be used ({e}); give --config") from e
    return ours


def config_of(weights: Weights) -> ConfigDict:
    """A config of the network that the weights are of, with the known data set of its number of classes.

    Raises PretrainedError if no data set, or more than one, has that many classes.
    """
    is_segmenter = weights.task == "segmentation"
    names = [
        name
        for name, spec in SPECS.items()
        if spec.num_classes == weights.num_classes and spec.has_masks == is_segmenter
    ]
    if len(names) != 1:
        known = ", ".join(f"{spec.num_classes} ({name})" for name, spec in SPECS.items())
        raise PretrainedError(
            f"{weights.path}: {weights.describe()}; which data set that is cannot be told (known: {known}); "
            "say it with --mode import_weights --config"
        )
    ours = config.base()
    ours.task, ours.model.variant, ours.model.aux_head = weights.task, weights.variant, weights.has_aux_head
    ours.data.name = names[0]
    if not is_segmenter:
        ours.loss.name = "cross_entropy"  # the only one that a classifier's config may have
    return ours


def _file_sha256(path: Path) -> str:
    with regular_files.opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
