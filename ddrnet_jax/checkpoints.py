"""All of Orbax: save, resume, best, restore anywhere.

A checkpoint is one directory per step with a nested dict {step, params, batch_stats, opt_state, [ema]};
the config travels in its metadata, so that the directory alone is enough to rebuild the model.
"""

from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict
from orbax.checkpoint import v1 as ocp

from ddrnet_jax import config_files, factory
from ddrnet_jax.config import ConfigError
from ddrnet_jax.data.errors import DataError
from ddrnet_jax.models import variables
from ddrnet_jax.models.ddrnet import DDRNet

FOLDER = "checkpoints"
# What the best of a run is best by.
_METRICS = {"segmentation": "val/miou", "classification": "val/top1"}


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged or does not fit; the message names it and says what to do."""


class Checkpoints:
    """The checkpoints of one run: the best by its evaluations (mIoU, of a classifier top-1) and the latest few."""

    def __init__(self, workdir: str | Path, config: ConfigDict):
        self._metadata = {"config": config_files.to_json(config)}
        self._metric = _METRICS[config.task]
        self._root = Path(workdir).absolute() / FOLDER
        policies = ocp.training.preservation_policies
        self._checkpointer = ocp.training.Checkpointer(
            self._root,
            preservation_policy=policies.AnyPreservationPolicy(
                [
                    policies.LatestN(config.checkpoint.keep),
                    policies.BestN(get_metric_fn=_score, reverse=False, n=1, keep_checkpoints_without_metrics=False),
                ]
            ),
        )

    def latest_step(self) -> int | None:
        """The newest complete step, None before the first."""
        latest = self._checkpointer.latest
        return None if latest is None else latest.step

    def save(self, step: int, state: dict, score: float | None = None) -> None:
        """Start saving; returns once the state is copied. A step that exists is replaced only to give it its score.

        score  of this step's evaluation, by which the best is kept; None if it had none
        """
        exists = step == self.latest_step()
        if exists and score is None:
            return
        metrics = None if score is None else {self._metric: score}
        metadata = self._metadata | (metrics or {})  # a step's own copy, for whoever has only its directory
        self._checkpointer.save_async(
            step, state, force=True, overwrite=exists, metrics=metrics, custom_metadata=metadata
        )

    def restore(self, step: int, like: dict) -> dict:
        """The state of a step, with the shapes, dtypes and shardings of `like`. Raises CheckpointError."""
        abstract = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), like)
        try:
            return self._checkpointer.load(step, abstract)
        except Exception as e:  # Orbax raises many kinds for damaged files
            folder = self._root / str(step)
            raise CheckpointError(
                f"{folder}: the checkpoint cannot be read ({_first_line(e)}); "
                "remove this directory to resume from the step before it"
            ) from e

    def close(self) -> None:
        """Wait for the last save and release Orbax's threads."""
        self._checkpointer.close()


class Loaded(NamedTuple):
    """What a checkpoint holds, the leaves as numpy arrays."""

    graphdef: nnx.GraphDef
    params: dict
    batch_stats: dict
    config: ConfigDict
    metric: str  # what the score is: "val/miou", "val/top1"
    score: float | None  # 0..1, on the config's eval split; None if it was not evaluated there

    @property
    def miou(self) -> float | None:
        """The score of a segmenter, None of a classifier."""
        return self.score if self.metric == _METRICS["segmentation"] else None


def load_checkpoint(path: str | Path) -> tuple[DDRNet, ConfigDict]:
    """A trained model on whatever devices this machine has, however many it was saved on.

    path     a workdir (its best, else latest step), or one step's directory, anywhere it was copied to
    Returns  (model in eval mode, its config); the moving average of the weights where the run kept one
    Raises   CheckpointError if there is no checkpoint or it cannot be read.
    """
    loaded = load_weights(path)
    model = variables.merge(loaded.graphdef, *jax.tree.map(jnp.asarray, (loaded.params, loaded.batch_stats)))
    model.eval()
    return model, loaded.config


def load_weights(path: str | Path) -> Loaded:
    """The weights of a checkpoint and what they are the weights of; see load_checkpoint."""
    folder = find_step(path)
    metadata = _read_metadata(folder)
    tree = metadata.metadata
    part = "ema" if "ema" in tree else None
    names = ("params", "batch_stats")
    wanted = {part: {n: tree[part][n] for n in names}} if part else {n: tree[n] for n in names}
    templates = jax.tree.map(lambda m: np.broadcast_to(np.zeros((), m.dtype), m.shape), wanted)
    context = ocp.Context()
    context.pytree_options.loading.partial_load = True
    try:
        with context:
            loaded = ocp.load(folder, templates)
    except Exception as e:
        raise CheckpointError(f"{folder}: the checkpoint cannot be read ({_first_line(e)})") from e
    weights = loaded[part] if part else loaded
    try:
        config = config_files.from_json(metadata.custom_metadata["config"])
        model = variables.split(nnx.eval_shape(lambda: factory.model_builder(config)(nnx.Rngs(0))))
    except (ConfigError, DataError) as e:
        raise CheckpointError(f"{folder}: its config cannot be used ({e})") from e
    _check_fits(folder, weights, {"params": model[1], "batch_stats": model[2]})
    metric = _METRICS[config.task]
    return Loaded(
        model[0],
        weights["params"],
        weights["batch_stats"],
        config,
        metric,
        metadata.custom_metadata.get(metric),
    )


def save_weights(folder: str | Path, params: dict, batch_stats: dict, config: ConfigDict) -> None:
    """Write weights alone as one step's directory that load_checkpoint reads.

    Raises CheckpointError if there is something already, or it cannot be written.
    """
    folder = Path(folder).resolve()
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise CheckpointError(f"--output {folder}: exists already; choose a new folder")
        folder.mkdir(parents=True, exist_ok=True)  # Orbax would find out late, and wait for itself
        (folder / ".writable").touch()
        (folder / ".writable").unlink()
        ocp.save(
            folder,
            {"params": params, "batch_stats": batch_stats},
            overwrite=True,  # the empty folder
            custom_metadata={"config": config_files.to_json(config)},
        )
    except OSError as e:
        raise CheckpointError(f"--output {folder}: cannot be written ({e.strerror or _first_line(e)})") from e


def _check_fits(folder: Path, weights: dict, model: dict) -> None:
    found, wanted = (
        {k: tuple(v.shape) for part in ("params", "batch_stats") for k, v in variables.paths(tree[part]).items()}
        for tree in (weights, model)
    )
    wrong = sorted(k for k in found.keys() | wanted.keys() if found.get(k) != wanted.get(k))
    if wrong:
        raise CheckpointError(
            f"{folder}: its weights are not those of its config's model, {len(wrong)} differ, first {wrong[0]}: "
            f"{found.get(wrong[0], 'missing')} where {wanted.get(wrong[0], 'nothing')} is expected"
        )


def find_step(path: str | Path) -> Path:
    """The step directory that a workdir or step directory stands for: the best, else the latest.

    Raises CheckpointError if there is none.
    """
    path = Path(path).absolute()
    if _is_step(path):
        return path
    root = path / FOLDER if (path / FOLDER).is_dir() else path
    steps = sorted((p for p in root.glob("*") if p.name.isdigit() and _is_step(p)), key=lambda p: int(p.name))
    if not steps:
        raise CheckpointError(f"{path}: no checkpoint here; expected a workdir or one step's directory")
    ranked = {}
    for step in steps:
        try:
            ranked[step] = (_score(_read_metadata(step).custom_metadata), int(step.name))
        except CheckpointError:  # a damaged step must not hide the sound ones beside it
            continue
    if not ranked:
        raise CheckpointError(f"{path}: none of its {len(steps)} checkpoint(s) can be read")
    return max(ranked, key=ranked.get)


def _is_step(path: Path) -> bool:
    return (path / "_CHECKPOINT_METADATA").is_file() and ".orbax-checkpoint-tmp" not in path.name


def _read_metadata(folder: Path):
    try:
        metadata = ocp.metadata(folder)
    except Exception as e:  # Orbax raises many kinds for damaged files
        raise CheckpointError(f"{folder}: the checkpoint cannot be read ({_first_line(e)})") from e
    if not metadata.metadata or "config" not in (metadata.custom_metadata or {}):
        raise CheckpointError(f"{folder}: the checkpoint cannot be read (its description is damaged or not ours)")
    return metadata


def _score(metrics) -> float:
    """Of the steps of one run, which have the same metric."""
    return max((float(metrics[name]) for name in _METRICS.values() if name in (metrics or {})), default=-1.0)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
