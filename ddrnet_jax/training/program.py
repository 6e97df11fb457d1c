"""The training step of an experiment; also for devices that need not be there."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding

from ddrnet_jax.build import Experiment
from ddrnet_jax.config import ConfigError
from ddrnet_jax.data.teacher_logits import LOGITS
from ddrnet_jax.runtime import devices
from ddrnet_jax.training import distillation, losses, optimizer, state
from ddrnet_jax.training.distillation import Teacher
from ddrnet_jax.training.objective import Loss, Objective, loss_of_heads
from ddrnet_jax.training.step import make_step

MakeObjective = Callable[[nnx.GraphDef, str], Objective]  # of the network, for a platform


def check_batch_size(batch_size: int, accumulate_steps: int, mesh: Mesh) -> None:
    """Raises ConfigError if the batch, or a part of it, cannot be spread evenly over the devices."""
    if batch_size % (mesh.size * accumulate_steps):
        processes = len({device.process_index for device in mesh.devices.flat})
        of_processes = f" of {processes} processes" if processes > 1 else ""
        times = f" times optimizer.accumulate_steps={accumulate_steps}" if accumulate_steps > 1 else ""
        raise ConfigError(
            f"config.batch_size: {batch_size} given, expected a multiple of the {mesh.size} devices"
            f"{of_processes}{times}"
        )


def loss(experiment: Experiment, counted_weights: Sequence[float] | None = None) -> Loss:
    """The loss of one head. Raises ConfigError if it needs what the data set does not have.

    counted_weights  of the classes, where the experiment's are counted
    """
    if experiment.task == "classification":
        return functools.partial(losses.class_cross_entropy, label_smoothing=experiment.loss["label_smoothing"])
    return losses.make_loss(class_weights=experiment.class_weights(counted_weights), **experiment.loss)


def objective_maker(
    experiment: Experiment, counted_weights: Sequence[float] | None = None, teacher: Teacher | None = None
) -> MakeObjective:
    """A function of graphdef and platform that gives the objective. Errors are those of `loss`.

    counted_weights  as of `loss`
    teacher          whose weights the step is given as fixed: {"teacher": teacher.weights}
    """
    of_head = loss(experiment, counted_weights)
    options: dict[str, Any] = {"aux_weight": experiment.aux_weight, "remat": experiment.remat}

    def make(graphdef: nnx.GraphDef, platform: str) -> Objective:
        if teacher is not None:
            options["distance"] = distillation.distance(teacher, platform, experiment.distill["temperature"])
            options["distance_weight"] = experiment.distill["weight"]
        return loss_of_heads(graphdef, of_head, platform, **options)

    return make


def schedule_and_optimizer(experiment: Experiment) -> tuple[optax.Schedule, optax.GradientTransformation]:
    """The learning rate by step, and the optimiser that follows it."""
    schedule = optimizer.learning_rate_schedule(**experiment.schedule)
    return schedule, optimizer.make_optimizer(schedule=schedule, **experiment.optimizer)


def train_step(
    experiment: Experiment,
    graphdef: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    make_objective: MakeObjective,
) -> jax.stages.Wrapped:
    """The compiled step of an experiment and an objective (see `step.make_step`, `objective_maker`)."""
    return make_step(
        make_objective(graphdef, devices.platform(mesh)),
        optimizer,
        mesh,
        ema_decay=experiment.ema_decay,
        accumulate_steps=experiment.accumulate_steps,
    )


def lower_train_step(experiment: Experiment, mesh: Mesh) -> jax.stages.Lowered:
    """The training step of an experiment, ready to be compiled for a mesh of devices that need not exist.

    Raises ConfigError where the batch does not suit the devices.
    """
    check_batch_size(experiment.batch_size, experiment.accumulate_steps, mesh)
    _, sgd = schedule_and_optimizer(experiment)
    graphdef, fresh = state.abstract(experiment.network, sgd, ema_decay=experiment.ema_decay)
    fresh = _placed(fresh, devices.replicated(mesh))
    teacher = distillation.read_teacher(experiment)
    make_objective = objective_maker(experiment, [1.0] * experiment.spec.num_classes, teacher)
    step = train_step(experiment, graphdef, sgd, mesh, make_objective)
    fixed = _placed(distillation.fixed(teacher), devices.replicated(mesh))
    batch = _batch(experiment)
    if teacher is not None and teacher.graphdef is None:
        cells_hw = (n // 8 for n in experiment.crop_hw)
        shape = (experiment.batch_size, *cells_hw, experiment.spec.num_classes)
        batch[LOGITS] = jax.ShapeDtypeStruct(shape, np.float32)
    return step.lower(fresh, _placed(batch, devices.by_batch(mesh)), fixed)


def _batch(experiment: Experiment) -> dict[str, jax.ShapeDtypeStruct]:
    rows, size_hw = experiment.batch_size, experiment.crop_hw
    masks, class_numbers = ((rows, *size_hw), np.uint8), ((rows,), np.int32)
    labels = masks if experiment.task == "segmentation" else class_numbers
    return {
        "images": jax.ShapeDtypeStruct((rows, *size_hw, 3), np.uint8),
        "labels": jax.ShapeDtypeStruct(*labels),
    }


def _placed(tree, sharding: NamedSharding):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree)
