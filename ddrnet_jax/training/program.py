"""What the training step of a config is made of; and the step for devices that need not be there."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from ml_collections import ConfigDict

from ddrnet_jax import build
from ddrnet_jax.config import ConfigError
from ddrnet_jax.runtime import devices
from ddrnet_jax.training import losses, optimizer, state
from ddrnet_jax.training.step import Loss, make_train_step


def check_batch_size(config: ConfigDict, mesh: Mesh) -> None:
    """Raises ConfigError if the batch, or a part of it, cannot be spread evenly over the devices."""
    parts = config.optimizer.accumulate_steps
    if config.batch_size % (mesh.size * parts):
        processes = len({device.process_index for device in mesh.devices.flat})
        of_processes = f" of {processes} processes" if processes > 1 else ""
        times = f" times optimizer.accumulate_steps={parts}" if parts > 1 else ""
        raise ConfigError(
            f"config.batch_size: {config.batch_size} given, expected a multiple of the {mesh.size} devices"
            f"{of_processes}{times}"
        )


def loss(config: ConfigDict) -> Loss:
    """The loss of one head. Raises ConfigError if it needs what the data set does not have."""
    if config.task == "classification":
        return functools.partial(losses.class_cross_entropy, label_smoothing=config.loss.label_smoothing)
    weights = build.class_weights(config)
    return losses.make_loss(
        config.loss.name,
        ohem_threshold=config.loss.ohem_threshold,
        ohem_min_kept_fraction=config.loss.ohem_min_kept_fraction,
        class_weights=None if weights is None else jnp.array(weights),
        label_smoothing=config.loss.label_smoothing,
        dice_weight=config.loss.dice_weight,
        edge_weight=config.loss.edge_weight,
        edge_size=config.loss.edge_size,
    )


def schedule_and_optimizer(config: ConfigDict) -> tuple[optax.Schedule, optax.GradientTransformation]:
    """The learning rate by step, and the optimiser that follows it."""
    schedule = optimizer.learning_rate_schedule(
        config.optimizer.schedule,
        peak=config.optimizer.learning_rate,
        total_steps=config.total_steps,
        warmup_steps=config.optimizer.warmup_steps,
        poly_power=config.optimizer.poly_power,
        step_fractions=config.optimizer.step_fractions,
    )
    return schedule, optimizer.sgd(
        schedule,
        momentum=config.optimizer.momentum,
        nesterov=config.optimizer.nesterov,
        weight_decay=config.optimizer.weight_decay,
        decay_norms_and_biases=config.optimizer.decay_norms_and_biases,
        trunk_lr_factor=config.optimizer.trunk_lr_factor,
    )


def train_step(
    config: ConfigDict, graphdef: nnx.GraphDef, sgd: optax.GradientTransformation, mesh: Mesh
) -> jax.stages.Wrapped:
    """The compiled step of the config (see `step.make_train_step`)."""
    return make_train_step(
        graphdef,
        sgd,
        loss(config),
        mesh,
        aux_weight=config.loss.aux_weight,
        ema_decay=config.ema_decay,
        accumulate_steps=config.optimizer.accumulate_steps,
        remat=config.model.remat,
    )


def lower_train_step(config: ConfigDict, mesh: Mesh) -> jax.stages.Lowered:
    """The training step of a config, ready to be compiled for a mesh of devices that need not exist.

    Raises ConfigError where the batch does not suit the devices.
    """
    check_batch_size(config, mesh)
    _, sgd = schedule_and_optimizer(config)
    graphdef, fresh = state.abstract(build.model_builder(config), sgd, ema_decay=config.ema_decay)
    fresh = _placed(fresh, devices.replicated(mesh))
    return train_step(config, graphdef, sgd, mesh).lower(fresh, _placed(_batch(config), devices.by_batch(mesh)))


def _batch(config: ConfigDict) -> dict[str, jax.ShapeDtypeStruct]:
    rows, size_hw = config.batch_size, config.data.crop_hw
    masks, class_numbers = ((rows, *size_hw), np.uint8), ((rows,), np.int32)
    labels = masks if config.task == "segmentation" else class_numbers
    return {
        "images": jax.ShapeDtypeStruct((rows, *size_hw, 3), np.uint8),
        "labels": jax.ShapeDtypeStruct(*labels),
    }


def _placed(tree, sharding: NamedSharding):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree)
