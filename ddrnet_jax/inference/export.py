"""A checkpoint of ours as a file for others: safetensors or .pth, by anyone's naming, with a card."""

import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from ddrnet_jax import checkpoints, config_files, factory
from ddrnet_jax.checkpoints import Loaded
from ddrnet_jax.inference import fingerprint
from ddrnet_jax.models import torch_weights, variables, weight_files, weight_origins
from ddrnet_jax.models.ddrnet import IMAGENET_MEAN, IMAGENET_STD

CONFIG_ENTRY = "config"  # of a .safetensors file's metadata and of a card; import_weights reads it


class ExportError(ValueError):
    """A checkpoint cannot be written in this form; the message says why."""


def export(checkpoint: str | Path, output: str | Path, *, file_format: str, naming: str = "official") -> dict:
    """Write OUTPUT (.safetensors or .pth) and its card, OUTPUT.json; returns the card.

    file_format  "safetensors" or "pth"
    naming       one of weight_origins.ORIGINS
    Raises       ExportError, CheckpointError or WeightsFileError with one line.
    """
    output = Path(output)
    if output.suffix != f".{file_format}":
        raise ExportError(f"--output {output}: expected a name that ends in .{file_format}, the format asked for")
    for path in (output, card_path(output)):
        if os.path.lexists(path):
            raise ExportError(f"--output {path}: exists already; choose a new name")
    loaded = checkpoints.load_weights(checkpoint)
    model = variables.merge(loaded.graphdef, *jax.tree.map(jnp.asarray, (loaded.params, loaded.batch_stats)))
    try:
        tensors = weight_origins.to_origin(torch_weights.to_state_dict(model), naming, model.variant)
    except ValueError as e:
        raise ExportError(f"{checkpoint}: {e}") from e
    card = _card(loaded, naming, fingerprint.weights_sha256(model))
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        _write(output, file_format, tensors, loaded)
        card_path(output).write_text(json.dumps(card, indent=2) + "\n")
    except OSError as e:
        raise ExportError(f"--output {output}: cannot be written ({e.strerror})") from e
    return card


def card_path(weights_file: Path) -> Path:
    """Where the card of an exported file is."""
    return weights_file.with_name(weights_file.name + ".json")


def _write(output: Path, file_format: str, tensors: dict[str, np.ndarray], loaded: Loaded) -> None:
    if file_format == "safetensors":
        metadata = {CONFIG_ENTRY: json.dumps(config_files.to_json(loaded.config)), "format": "pt"}
        weight_files.write_safetensors(output, tensors, metadata)
    else:
        weight_files.write_pth(output, tensors)


def _card(loaded: Loaded, naming: str, weights_sha256: str) -> dict:
    spec = factory.dataset_spec(loaded.config)
    return {
        "network": f"DDRNet-{loaded.config.model.variant}",
        "task": loaded.config.task,
        "naming": naming,
        loaded.metric.replace("/", "_"): loaded.score,
        "classes": list(spec.classes),
        "colors": [list(color) for color in spec.colors],
        "ignore": 255,
        "input": {"channels": "RGB", "scale": 1 / 255, "mean": IMAGENET_MEAN, "std": IMAGENET_STD},
        "output_stride": 1 if naming == "super-gradients" else 8,  # its heads upsample inside
        "notes": _notes(loaded, naming),
        "weights_sha256": weights_sha256,
        "config": config_files.to_json(loaded.config),
    }


def _notes(loaded: Loaded, naming: str) -> list[str]:
    if naming == "mmsegmentation" and not loaded.config.model.aux_head:
        return ["without an auxiliary head, which mmsegmentation's always has: load it there with strict=False"]
    return []
