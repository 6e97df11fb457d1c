"""All of Orbax: save, resume, best, restore anywhere.

A checkpoint is one directory per step with a nested dict {step, params, batch_stats, opt_state, [ema]};
the config travels in its metadata, so that the directory alone is enough to rebuild the model.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict
from orbax.checkpoint import v1 as ocp

from ddrnet_jax import checkpoint_files, config_files, devices, factory
from ddrnet_jax.checkpoint_files import CheckpointError, first_line
from ddrnet_jax.config import ConfigError
from ddrnet_jax.data.errors import DataError
from ddrnet_jax.models import variables
from ddrnet_jax.models.ddrnet import DDRNet

__all__ = ["CheckpointError", "Checkpoints", "Loaded", "find_step", "load_checkpoint", "load_weights", "save_weights"]

FOLDER = "checkpoints"
# What the best of a run is best by.
_METRICS = {"segmentation": "val/miou", "classification": "val/top1"}
_REPLACED = ".replaced"


class Resumed(NamedTuple):
    """What a run goes on from."""

    step: int
    state: dict
    warnings: list[str]  # one line for each damaged step that was passed over


class Checkpoints:
    """The checkpoints of one run: the best by its evaluations (mIoU, of a classifier top-1) and the latest few."""

    def __init__(self, workdir: str | Path, config: ConfigDict, made_by: dict | None = None):
        """
        made_by  JSON values to keep with every step, see provenance.made_by
        """
        self._description = {"config": config_files.to_json(config), "made_by": made_by or {}}
        self._metric = _METRICS[config.task]
        self._keep = config.checkpoint.keep
        self._root = Path(workdir).absolute() / FOLDER
        self._checkpointer: ocp.training.Checkpointer | None = None  # reads every step's files when it is made
        self._saving: tuple[int, object] | None = None
        self._has_failed = False

    def latest_step(self) -> int | None:
        """The newest complete step, None before the first."""
        latest = self._orbax().latest
        return None if latest is None else latest.step

    def resume(self, like: dict) -> Resumed | None:
        """The newest step that every process can read, in the structure, shapes and dtypes of `like`.

        None before the first step. Damaged steps are passed over with a warning and set aside as <step>.damaged;
        call it before the first save.
        Raises CheckpointError if there are steps and none can be read; all of them then stay as they are.
        """
        is_first = jax.process_index() == 0
        if is_first:
            self._tidy()
        problems: dict[Path, CheckpointError] = {}
        for step in _agreed(checkpoint_files.steps(self._root)):
            folder = self._root / str(step)
            state, problem = None, None
            try:
                checkpoint_files.check_description(folder, self._metric)  # Orbax reads the score at the next save
                state = checkpoint_files.read(folder, like)
                checkpoint_files.check_number(folder, state)
            except CheckpointError as e:
                problem = e
            unreadable = devices.sum_over_processes(np.array([problem is not None]).astype(np.int64))[0]
            if not unreadable:
                break
            problems[folder] = problem or CheckpointError(f"{folder}: cannot be read by {unreadable} other process(es)")
        else:
            if problems:
                first = next(iter(problems.values()))
                raise CheckpointError(
                    f"{self._root}: none of its {len(problems)} checkpoint(s) can be read, the newest: {first}; "
                    "put back a copy, or start anew in another --workdir"
                ) from first
            return None
        warnings = []
        if is_first:
            problems |= self._damaged_before(step)
            for path, problem in problems.items():
                kept = checkpoint_files.set_aside(path).name
                warnings.append(f"warning: {problem}; kept as {kept}, going on from step {step}")
        devices.wait_for_all("checkpoints")  # nobody makes Orbax's list of steps before this
        return Resumed(step, state, warnings)

    def save(self, step: int, state: dict, score: float | None = None) -> None:
        """Start saving; returns once the state is copied. A step that exists is replaced only to give it its score.

        score  of this step's evaluation, by which the best is kept; None if it had none
        Raises CheckpointError, now or from a later call, if the disk is full or cannot be written.
        """
        self._wait()
        with self._explained(step):
            exists = step == self.latest_step()
        if exists and score is None:
            return
        metrics = None if score is None else {self._metric: score}
        # A step's own copy of what it is, for whoever has only its directory.
        description = checkpoint_files.described(state, self._description | (metrics or {}))
        with self._explained(step), self._moved_away(step) if exists else contextlib.nullcontext():
            saving = self._orbax().save_async(step, state, force=True, metrics=metrics, custom_metadata=description)
            if exists:
                saving.result()
            else:
                self._saving = step, saving

    def check(self) -> bool:
        """Whether a save is still being written. Raises CheckpointError if it has failed; costs next to nothing."""
        self._wait(timeout_s=0)
        return self._saving is not None

    def close(self) -> None:
        """Wait for the last save and release Orbax's threads. Raises CheckpointError if that save failed."""
        try:
            if not self._has_failed:
                self._wait()
        finally:
            checkpointer, self._checkpointer = self._checkpointer, None
            if checkpointer is not None:
                with contextlib.suppress(Exception) if self._has_failed else contextlib.nullcontext():
                    checkpointer.close()  # says a second time why a save failed
            if self._has_failed and jax.process_index() == 0:
                checkpoint_files.remove_unfinished(self._root)  # a full disk has use for the space

    def _wait(self, timeout_s: float | None = None) -> None:
        if self._saving is None:
            return
        step, saving = self._saving
        with self._explained(step):
            try:
                saving.result(timeout_s)
            except TimeoutError:
                if timeout_s is None:
                    raise
                return
        self._saving = None

    def _orbax(self) -> ocp.training.Checkpointer:
        if self._checkpointer is None:
            policies = ocp.training.preservation_policies
            best = policies.BestN(get_metric_fn=_score, reverse=False, n=1, keep_checkpoints_without_metrics=False)
            self._checkpointer = ocp.training.Checkpointer(
                self._root,
                preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(self._keep), best]),
            )
        return self._checkpointer

    def _tidy(self) -> None:
        """Finish what a kill has cut short: saves, and the replacement of a step."""
        checkpoint_files.remove_unfinished(self._root)
        for path in self._root.glob(f"*{_REPLACED}"):
            step = path.with_suffix("")
            if checkpoint_files.is_step(step):
                shutil.rmtree(path)
            else:
                shutil.rmtree(step, ignore_errors=True)  # what there is of the replacement
                os.replace(path, step)

    def _damaged_before(self, step: int) -> dict[Path, CheckpointError]:
        """Older steps whose description is damaged: Orbax could not rank them. Their arrays are not read."""
        problems = {}
        for folder in checkpoint_files.steps(self._root):
            if int(folder.name) < step:
                try:
                    checkpoint_files.check_description(folder, self._metric)
                except CheckpointError as e:
                    problems[folder] = e
        return problems

    @contextlib.contextmanager
    def _moved_away(self, step: int) -> Iterator[None]:
        """The step under another name until its replacement is complete: a kill in between loses neither."""
        folder = self._root / str(step)
        aside = folder.with_name(f"{step}{_REPLACED}")
        if jax.process_index() == 0:
            os.replace(folder, aside)
        devices.wait_for_all("moved away")
        self._orbax().reload()
        yield
        if jax.process_index() == 0:
            shutil.rmtree(aside)

    @contextlib.contextmanager
    def _explained(self, step: int) -> Iterator[None]:
        try:
            yield
        except Exception as e:  # Orbax raises many kinds for a disk that is full or gone
            self._saving, self._has_failed = None, True
            raise CheckpointError(
                f"{self._root / str(step)}: the checkpoint cannot be saved ({first_line(e)}; {_free(self._root)}); "
                "the checkpoints before it are intact: make room, then run the same command again"
            ) from e


def _agreed(folders: list[Path]) -> Iterator[int]:
    """The steps of the first process's folders on every process: a network file system may show each others."""
    for i in range(devices.from_first_process(len(folders))):
        yield devices.from_first_process(int(folders[i].name) if i < len(folders) else 0)


def _free(folder: Path) -> str:
    try:
        return f"{shutil.disk_usage(folder).free / 1e9:.2f} GB free"
    except OSError as e:
        return f"{folder} is gone: {e.strerror}"


class Loaded(NamedTuple):
    """What a checkpoint holds, the leaves as numpy arrays."""

    graphdef: nnx.GraphDef
    params: dict
    batch_stats: dict
    config: ConfigDict
    metric: str  # what the score is: "val/miou", "val/top1"
    score: float | None  # 0..1, on the config's eval split; None if it was not evaluated there
    step: int | None  # of the run; None of weights that no run of ours made
    is_averaged: bool  # whether the weights are the run's moving average

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


def load_weights(path: str | Path, *, averaged: bool = True) -> Loaded:
    """The weights of a checkpoint and what they are the weights of; see load_checkpoint.

    averaged  the moving average where the run kept one; False: the weights themselves
    """
    folder = find_step(path)
    metadata = checkpoint_files.read_metadata(folder)
    tree = metadata.metadata
    is_averaged = averaged and "ema" in tree
    names = ("ema",) if is_averaged else ("params", "batch_stats")
    try:
        loaded = checkpoint_files.read(folder, {name: tree[name] for name in (*names, "step") if name in tree})
    except CheckpointError as e:
        raise CheckpointError(f"{e}{checkpoint_files.beside(folder)}") from e
    weights = loaded["ema"] if is_averaged else loaded
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
        int(loaded["step"]) if "step" in loaded else None,
        is_averaged,
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
        state = {"params": params, "batch_stats": batch_stats}
        description = checkpoint_files.described(state, {"config": config_files.to_json(config)})
        ocp.save(folder, state, overwrite=True, custom_metadata=description)  # over the empty folder
    except OSError as e:
        raise CheckpointError(f"--output {folder}: cannot be written ({e.strerror or first_line(e)})") from e


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

    Raises CheckpointError if there is none, or if a damaged one may be the best: another model must not
    take its place unnoticed.
    """
    path = Path(path).expanduser().absolute()
    if checkpoint_files.is_step(path):
        return path
    root = path / FOLDER if (path / FOLDER).is_dir() else path
    steps = {int(p.name): p for p in checkpoint_files.steps(root) if checkpoint_files.is_step(p)}
    for aside in root.glob(f"[0-9]*{_REPLACED}"):  # whose replacement a kill may have cut short
        steps.setdefault(int(aside.name.removesuffix(_REPLACED)), aside)
    ranked = {}
    for number, step in steps.items():
        try:
            ranked[step] = (_score(checkpoint_files.read_metadata(step).custom_metadata), number)
        except CheckpointError as e:
            if step.exists():  # a run that goes on may have removed it meanwhile
                raise CheckpointError(f"{e}, and it may be the best{checkpoint_files.beside(step)}") from e
    if not ranked:
        raise CheckpointError(f"{path}: no checkpoint here; expected a workdir or one step's directory")
    return max(ranked, key=ranked.get)


def _score(metrics) -> float:
    """Of the steps of one run, which have the same metric."""
    return max((float(metrics[name]) for name in _METRICS.values() if name in (metrics or {})), default=-1.0)
