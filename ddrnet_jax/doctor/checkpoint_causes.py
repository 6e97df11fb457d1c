"""Causes of a low mIoU that stand in a checkpoint: its numbers, and the config it was trained with."""

import numpy as np

from ddrnet_jax.build import Experiment
from ddrnet_jax.data.check.findings import Finding
from ddrnet_jax.evaluation.evaluate import other_network
from ddrnet_jax.models import variables
from ddrnet_jax.runs.checkpoints import Loaded

_SHARE_OF_LAYERS = 0.5


def findings(experiment: Experiment, loaded: Loaded) -> list[Finding]:
    """Finds odd weights, and where the experiment asks for something else than was trained."""
    found = [not_finite(loaded), _untouched_statistics(loaded), _unfinished(loaded), _other_network(experiment, loaded)]
    return [finding for finding in found if finding]


def not_finite(loaded: Loaded) -> Finding | None:
    """Weights that predict nothing."""
    leaves = variables.paths(loaded.params) | variables.paths(loaded.batch_stats)
    names = tuple(path for path, leaf in leaves.items() if not np.isfinite(leaf).all())
    if not names:
        return None
    return Finding(
        "error",
        f"{len(names)} of {len(leaves)} tensors of the checkpoint hold values that are no numbers",
        "the training diverged: begin again from an earlier checkpoint with a lower optimizer.learning_rate",
        names,
    )


def _untouched_statistics(loaded: Loaded) -> Finding | None:
    leaves = variables.paths(loaded.batch_stats)
    initial = {"mean": 0.0, "var": 1.0}
    names = tuple(path for path, leaf in leaves.items() if (np.asarray(leaf) == initial[path.rsplit(".", 1)[1]]).all())
    if len(names) < _SHARE_OF_LAYERS * len(leaves):
        return None
    return Finding(
        "error",
        f"{len(names)} of {len(leaves)} running statistics of the batch norms are as they were made, 0 and 1",
        "the weights came without them, or were never trained: import the whole state dict, running_mean and "
        "running_var included",
    )


def _unfinished(loaded: Loaded) -> Finding | None:
    total = loaded.experiment.total_steps
    if loaded.step is None or loaded.step >= total:
        return None
    return Finding(
        "note",
        f"the checkpoint is of step {loaded.step:,} of {total:,}",
        "if it is not the best of a whole run: the last steps, at a small learning rate, gain the most; run the "
        "training again to go on",
    )


def _other_network(experiment: Experiment, loaded: Loaded) -> Finding | None:
    for line in other_network(experiment, loaded.experiment):
        return Finding("warning", line, "is it the network that you meant?")
    return None
