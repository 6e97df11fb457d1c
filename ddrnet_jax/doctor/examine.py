"""The examination: settings, data and checkpoint, one after another, as findings with what to do."""

import collections
import dataclasses
import logging
from pathlib import Path

import numpy as np

from ddrnet_jax.bucket import BucketError
from ddrnet_jax.build import Experiment
from ddrnet_jax.config import ConfigError
from ddrnet_jax.data.check import check
from ddrnet_jax.data.check import report as check_report
from ddrnet_jax.data.check.findings import SEVERITIES, Finding
from ddrnet_jax.data.labels import IGNORE
from ddrnet_jax.data.samples import Sample, Source
from ddrnet_jax.doctor import checkpoint_causes, config_causes, prediction_causes
from ddrnet_jax.downloads import DownloadError
from ddrnet_jax.evaluation import metrics
from ddrnet_jax.evaluation.evaluate import check_same_classes
from ddrnet_jax.evaluation.views import View
from ddrnet_jax.models import variables
from ddrnet_jax.runs.checkpoints import CheckpointError
from ddrnet_jax.weights import loading, pretrained
from ddrnet_jax.weights.files import WeightsFileError

_log = logging.getLogger(__name__)
_IMAGES = 8  # of each split; every one is seen by the network about eight times
_DARK, _BRIGHT = 20, 235  # mean of an image set, of 255


@dataclasses.dataclass(frozen=True)
class Examination:
    """Everything looked at, and the causes found.

    scores    on the held-out images looked at; None without a checkpoint, or where they could not be compared
    recorded  mIoU (0..1) that the run itself measured on its whole eval split; None if it did not
    images    how many held-out images were looked at
    """

    findings: tuple[Finding, ...]
    scores: metrics.Scores | None = None
    recorded: float | None = None
    images: int = 0

    @property
    def has_errors(self) -> bool:
        return any(finding.severity == "error" for finding in self.findings)

    def lines(self) -> list[str]:
        """For people, at most 80 columns."""
        out = []
        if self.scores is not None:
            out.append(f"{self.scores.line()} on {self.images} held-out images")
        if self.recorded is not None:
            out.append(f"mIoU {100 * self.recorded:.2f} when it was saved, on all images that its run evaluated")
        for finding in self.findings:
            out += check_report.finding_lines(finding, rest="")
        counts = {severity: sum(f.severity == severity for f in self.findings) for severity in SEVERITIES}
        if not counts["error"] + counts["warning"]:
            return [*out, "no known cause of a low mIoU was found; --mode check_data reads every file"]
        told = f"{counts['error']} error(s), {counts['warning']} warning(s)"
        return [*out, f"{told}; --mode check_data reads every file of the data"]


def examine(experiment: Experiment, checkpoint: str | Path | None) -> Examination:
    """Look for the known causes of a low mIoU.

    experiment  the data set, and how it is evaluated; without a checkpoint also how it is to be trained
    checkpoint  a workdir or step; None: what config and data tell alone
    Raises ConfigError for a classifier, DataError or CheckpointError where something cannot be read at all.
    """
    if experiment.task != "segmentation":
        raise ConfigError(f"config.task: {experiment.task!r} given, but --mode doctor examines segmenters")
    train_source, eval_source = experiment.train_source(), experiment.eval_source()
    loaded = None if checkpoint is None else loading.load_weights(checkpoint)
    if checkpoint is not None and loaded is not None:
        check_same_classes(experiment, checkpoint, loaded.experiment)
    _log.info(
        f"reading {min(_IMAGES, len(train_source))} training and {min(_IMAGES, len(eval_source))} held-out images"
    )
    trained_on, held_out = _some(train_source), _some(eval_source)
    shared = check.lines_about_shared(train_source, eval_source)
    found = [Finding("warning", line, "evaluate on images that no training has seen") for line in shared]
    found += _of_samples(trained_on, held_out, train_source.spec.classes)
    sizes = [collections.Counter(s["image"].shape[1::-1] for s in samples) for samples in (trained_on, held_out)]
    found += config_causes.of_evaluation(experiment, sizes[1])
    if checkpoint is None or loaded is None:
        found += _initial_weights(experiment) + config_causes.of_training(experiment, len(train_source), *sizes)
        return Examination(_sorted(found))
    if loaded.step is not None:  # imported weights were trained by no config of ours
        found += config_causes.of_training(_as_trained(experiment, loaded.experiment), len(train_source), *sizes)
    found += checkpoint_causes.findings(experiment, loaded)
    held_out = prediction_causes.of_one_size(held_out)
    if not held_out:
        found.append(Finding("warning", "only one held-out image", "predictions were not examined: it takes two"))
    if checkpoint_causes.not_finite(loaded) or not held_out:
        return Examination(_sorted(found), recorded=loaded.miou)
    _log.info("compiling the network, twice, to see the same images in several ways")
    raw = loading.load_weights(checkpoint, averaged=False) if loaded.is_averaged else None
    scores, of_predictions = prediction_causes.findings(
        loaded,
        raw,
        eval_source.spec.classes,
        View(**experiment.view),
        held_out,
        prediction_causes.of_one_size(trained_on, held_out[0]["label"].shape),
    )
    return Examination(_sorted(found + of_predictions), scores, loaded.miou, len(held_out))


def _initial_weights(experiment: Experiment) -> list[Finding]:
    """Finds out if the weights to start from are there, and fit the network that is to be trained."""
    if not experiment.init_from:
        return []
    try:
        weights = pretrained.read(experiment.init_from)
        model = variables.merge(*variables.shapes(experiment.network))
        pretrained.transfer(weights, model, fresh_head=experiment.fresh_head)
    except (pretrained.PretrainedError, CheckpointError, WeightsFileError, DownloadError, BucketError) as e:
        return [Finding("error", f"config.init_from: {e}", "training ends with this line")]
    return []


def _as_trained(wanted: Experiment, trained: Experiment) -> Experiment:
    """The settings of the checkpoint's training with the evaluation that is asked for."""
    return dataclasses.replace(trained, view=wanted.view)


def _sorted(findings: list[Finding]) -> tuple[Finding, ...]:
    return tuple(sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity)))


def _some(source: Source) -> list[Sample]:
    return [source[i] for i in check.spread(len(source), _IMAGES)]


def _of_samples(trained_on: list[Sample], held_out: list[Sample], classes: tuple[str, ...]) -> list[Finding]:
    """Finds causes in a few images and labels."""
    found = []
    for role, samples in (("training", trained_on), ("held-out", held_out)):
        ignored = sum(int((s["label"] == IGNORE).sum()) for s in samples)
        share = ignored / max(1, sum(s["label"].size for s in samples))
        if share > 0.5:
            message = f"{share:.0%} of the pixels of the {len(samples)} {role} labels looked at are ignored"
            severity = "error" if share == 1 else "warning"
            found.append(Finding(severity, message, "nothing is learnt or scored there: is a class among them?"))
        mean = sum(float(s["image"].mean()) for s in samples) / max(1, len(samples))
        if not _DARK <= mean <= _BRIGHT:
            kind = "dark" if mean < _DARK else "bright"
            message = f"the {role} images are nearly all {kind}: {mean:.0f} of 255 on average"
            found.append(Finding("warning", message, "were they saved with their own scale, as 0..1 or 12 bits?"))
    return found + _of_classes(trained_on, held_out, classes)


def _of_classes(trained_on: list[Sample], held_out: list[Sample], classes: tuple[str, ...]) -> list[Finding]:
    seen = [{int(v) for s in samples for v in np.unique(s["label"])} for samples in (trained_on, held_out)]
    untrained = sorted(seen[1] - seen[0] - {IGNORE})
    if len(untrained) <= max(1, len(classes) / 4):
        return []
    named = ", ".join(classes[i] for i in untrained)
    message = f"labelled in the {len(held_out)} held-out images looked at, but in none of the training ones: {named}"
    return [Finding("warning", message, "do both splits number the classes alike? --mode check_data counts all")]
