"""A run as the report shows it: its config, the lines of its metrics, one evaluation with its pictures."""

import dataclasses
import json
import logging
from collections.abc import Collection
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from ddrnet_jax import build, regular_files
from ddrnet_jax.bucket import is_address
from ddrnet_jax.build import Experiment
from ddrnet_jax.config import ConfigError
from ddrnet_jax.config import files as config_files
from ddrnet_jax.data.errors import DataError
from ddrnet_jax.data.sets.specs import DatasetSpec
from ddrnet_jax.errors import UserError
from ddrnet_jax.evaluation.evaluate import evaluate_checkpoint
from ddrnet_jax.evaluation.gallery import Gallery
from ddrnet_jax.evaluation.metrics import Accuracy, Scores
from ddrnet_jax.runs import checkpoints, step_files, step_folders
from ddrnet_jax.runs import find as find_place
from ddrnet_jax.runs.metrics_file import METRICS_FILE, SCORES, is_number, read_lines, series
from ddrnet_jax.runs.step_files import CheckpointError

_log = logging.getLogger(__name__)
_EVALUATED_BY = (
    *("data.name", "data.root", "data.eval_split"),
    *("eval.scales", "eval.flip", "eval.average", "eval.size_hw", "eval.tile_hw"),
)


class ReportError(UserError):
    """There is nothing to report on; the message says where and what was expected."""


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The result of one evaluation.

    values     {"val/miou", "val/iou/<class>", ...} as in metrics.jsonl (0..1), absent classes left out
    confusion  i64[C,C], rows are labels; None of a classifier, or where only the values are recorded
    step       of the run that was evaluated, None if unknown
    origin     where the values are from, in words
    settings   {"data.eval_split", ...}: the config's keys that say what was evaluated and how
    """

    values: dict[str, float]
    confusion: np.ndarray | None
    step: int | None
    origin: str
    settings: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Run:
    """Everything the report shows of a run; what it has not is empty or None, and `notes` say why.

    name      of its workdir
    config    JSON values
    lines     of metrics.jsonl in their order, each with a whole "step"
    made_by   see provenance.made_by
    is_a_part whether the gallery saw only the first process's part of the images
    """

    name: str
    config: dict
    spec: DatasetSpec
    lines: list[dict]
    evaluation: Evaluation | None
    gallery: Gallery
    made_by: dict
    notes: list[str]
    is_a_part: bool = False

    @property
    def score_name(self) -> str:
        """The value that the best checkpoint is kept by."""
        return SCORES[self.config["task"]]

    @property
    def data_root(self) -> str:
        """The folder of the images that were evaluated, "" if there are none."""
        return self.evaluation.settings.get("data.root", "") if self.evaluation else ""

    def best_recorded(self) -> tuple[int, float] | None:
        """(step, score 0..1) of the best evaluation in metrics.jsonl, None before the first."""
        steps, values = series(self.lines, self.score_name)
        return max(zip(steps, values, strict=True), key=lambda pair: pair[1], default=None)


def of_training(
    workdir: str | Path, experiment: Experiment, step: int, result: Scores | Accuracy, gallery: Gallery, made_by: dict
) -> Run:
    """The run in `workdir` with the evaluation after its last step. Raises BucketError."""
    evaluation = _evaluation(result, experiment, step, "evaluated after the last step")
    return Run(
        name=str(workdir),
        config=experiment.config,
        spec=experiment.spec,
        lines=read_lines(_on_this_disk(workdir)),
        evaluation=evaluation,
        gallery=gallery,
        made_by=made_by,
        notes=[],
        is_a_part=jax.process_count() > 1,
    )


@dataclasses.dataclass(frozen=True)
class Found:
    """The parts of a run that a path holds, before anything is evaluated.

    name         its path, or address
    workdir      None of a step that was copied elsewhere
    step_folder  the weights to evaluate, None if there are none
    description  the checkpoint's metadata
    config       the run's own
    """

    name: str
    workdir: Path | None
    step_folder: Path | None
    description: dict
    experiment: Experiment
    notes: list[str]


def find(path: str | Path) -> Found:
    """The run of a workdir (its best, else latest step) or of one step's directory.

    path  or its address gs://...
    Raises ReportError if there is no run, BucketError.
    """
    place, path = path, _on_this_disk(path)
    workdir, notes = _workdir(path), []
    try:
        step_folder = checkpoints.find_step(path)
        description = step_files.read_description(step_folder)
    except CheckpointError as e:
        step_folder, description = None, {}
        notes.append(f"No weights to evaluate: {e}")
    name = str(place if is_address(place) else path)
    own = build.experiment(_own_config(path, workdir, description))
    return Found(name, workdir, step_folder, description, own, notes)


def read(
    found: Found,
    *,
    experiment: Experiment | None = None,
    also: Collection[str] = (),
) -> Run:
    """The run that was found, evaluated.

    experiment  to evaluate by, on whose eval split; None: the run's own
    also        short names of images whose pictures are wanted
    What cannot be had, as scores where the data set is not there, is a note and a warning.
    Raises ConfigError, DataError or CheckpointError if `experiment` does not fit.
    """
    own, notes = found.experiment, [*found.notes]
    used = experiment or own
    gallery, evaluation = Gallery(also, used.data_root), None
    if found.step_folder is not None:
        try:
            result = evaluate_checkpoint(used, found.step_folder, watch=gallery)
            step = step_folders.number(found.step_folder.name.split(".")[0])
            evaluation = _evaluation(result, used, step, "evaluated for this report")
        except (ConfigError, DataError, CheckpointError) as e:
            if experiment is not None:
                raise
            gallery.clear()
            notes.append(f"Not evaluated for this report: {e}")
    for note in notes:
        _log.warning(note)
    run = Run(
        name=found.name,
        config=own.config,
        spec=own.spec,
        lines=read_lines(found.workdir) if found.workdir else [],
        evaluation=evaluation,
        gallery=gallery,
        made_by=_made_by(found.description),
        notes=notes,
    )
    return run if evaluation else dataclasses.replace(run, evaluation=_recorded(run))


def _made_by(description: dict) -> dict:
    """As much as is there of what provenance.made_by gives; the metadata may be damaged or foreign."""
    values = description.get("made_by")
    kinds = {"command": str, "devices": str, "versions": dict}
    return {k: values[k] for k, kind in kinds.items() if isinstance(values, dict) and isinstance(values.get(k), kind)}


def workdir_of(path: str | Path) -> Path | None:
    """The workdir that a path is or lies in, None of a step that was copied elsewhere."""
    return _workdir(_on_this_disk(path))


def _on_this_disk(path: str | Path) -> Path:
    return find_place.on_this_disk(path, needs_step=False).expanduser().absolute()


def _workdir(path: Path) -> Path | None:
    inside = path.parents[1] if path.parent.name == step_folders.FOLDER else None
    return next((p for p in (path, inside) if p and any((p / n).exists() for n in ("config.json", METRICS_FILE))), None)


def _own_config(path: Path, workdir: Path | None, description: dict) -> ConfigDict:
    file = workdir / "config.json" if workdir else None
    if file is not None and file.exists():
        try:
            return config_files.from_json(json.loads(regular_files.read_text(file)))
        except (OSError, ValueError, RecursionError) as e:  # ConfigError is a ValueError
            if "config" not in description:
                raise ReportError(f"{file}: not a config of a run ({e}); restore it") from e
    if "config" not in description:
        raise ReportError(f"{path}: no run here; expected a workdir or one step's directory")
    return config_files.from_json(description["config"])


def _evaluation(result: Scores | Accuracy, experiment: Experiment, step: int | None, origin: str) -> Evaluation:
    values, confusion = result.values(experiment.spec.classes), getattr(result, "confusion", None)
    return Evaluation(values, confusion, step, origin, _settings(experiment.config))


def _settings(config: dict) -> dict[str, object]:
    flat = config_files.flatten(config)
    return {key: flat[key] for key in _EVALUATED_BY if key in flat}


def _recorded(run: Run) -> Evaluation | None:
    """The best evaluation that training has written down."""
    best = run.best_recorded()
    if best is None:
        return None
    line = next(line for line in run.lines if line["step"] == best[0] and run.score_name in line)
    values = {name: float(v) for name, v in line.items() if name.startswith("val/") and is_number(v)}
    return Evaluation(values, None, best[0], f"as recorded in {METRICS_FILE}", _settings(run.config))
