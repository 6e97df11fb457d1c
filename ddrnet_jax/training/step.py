"""One training step as one compiled function."""

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh

from ddrnet_jax.runtime import compilation, devices
from ddrnet_jax.training.objective import Loss, Objective, loss_of_heads
from ddrnet_jax.training.state import State


def make_train_step(
    graphdef: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    loss: Loss,
    mesh: Mesh,
    *,
    aux_weight: float = 0.4,
    ema_decay: float = 0.0,
    accumulate_steps: int = 1,
    remat: bool = True,
) -> jax.stages.Wrapped:
    """The compiled step of a network and the loss of its heads: see `make_step` and `loss_of_heads`."""
    objective = loss_of_heads(graphdef, loss, devices.platform(mesh), aux_weight=aux_weight, remat=remat)
    return make_step(objective, optimizer, mesh, ema_decay=ema_decay, accumulate_steps=accumulate_steps)


def make_step(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    *,
    ema_decay: float = 0.0,
    accumulate_steps: int = 1,
) -> jax.stages.Wrapped:
    """The compiled step (state, batch, fixed={}) -> (state, metrics); the given state is consumed.

    objective         what is minimised; its metrics come back with "grad_norm" beside them
    fixed             what the objective finds in its batch beside the rows, the same at each step: {} or a teacher's
                      weights
    batch             {"images": u8[B,H,W,3], "labels": u8[B,H,W] or, of class numbers, i32[B]}, sharded by batch
    accumulate_steps  parts of the batch that pass one after another, each over all devices, for less memory.
                      The step takes the mean of their gradients; batch norm and loss see one part, running
                      statistics move with each.
    Source: batch norm and losses are written over the whole batch (or part), so under jit they are global
    whatever the number of devices.
    """

    gradient = jax.value_and_grad(objective, has_aux=True)

    def train_step(state: State, batch, fixed=None):
        def gradients(params, batch_stats, rows):
            with_fixed = rows | (fixed or {})
            (loss, (batch_stats, metrics)), grads = gradient(params, batch_stats, with_fixed)
            return batch_stats, (grads, {"loss": loss} | metrics)

        if accumulate_steps == 1:
            batch_stats, (grads, metrics) = gradients(state["params"], state["batch_stats"], batch)
        else:
            parts = in_parts(batch, accumulate_steps, mesh)
            batch_stats, (grads, metrics) = _mean_over_parts(
                gradients, state["params"], state["batch_stats"], parts, devices.platform(mesh)
            )
        updates, opt_state = optimizer.update(grads, state["opt_state"], state["params"])
        new = {
            "step": state["step"] + 1,
            "params": optax.apply_updates(state["params"], updates),
            "batch_stats": batch_stats,
            "opt_state": opt_state,
        }
        if ema_decay:
            new["ema"] = moved_average(state["ema"], new, ema_decay)
        return new, metrics | {"grad_norm": optax.tree.norm(grads)}

    return jax.jit(
        train_step,
        donate_argnums=0,
        out_shardings=devices.replicated(mesh),
        compiler_options=compilation.options(devices.platform(mesh), is_training=True),
    )


def in_parts(batch: dict[str, jax.Array], count: int, mesh: Mesh) -> dict[str, jax.Array]:
    """[B,...] -> [count,B/count,...], every part spread over all devices.

    Source: part i has the rows i, i + count, ... of every process: for any number of devices the same, and none has
    to move. For any number of processes too, since `pipeline.train_batches` deals the samples out that way.
    """

    def split(rows):
        parts = rows.reshape(-1, count, *rows.shape[1:]).swapaxes(0, 1)
        return jax.lax.with_sharding_constraint(parts, devices.by_batch(mesh, axis=1))

    return jax.tree.map(split, batch)


def _mean_over_parts(gradients, params, batch_stats, parts, platform: str):
    """The result of `gradients` over the parts: the last running statistics, and the mean of all else.

    Source: on CPUs the loop is unrolled, since XLA computes convolutions inside a loop nine times as slowly there;
    unrolled it saves no memory. Without rematerialisation the loop of 2 parts needs 0.53 of the whole batch's, that of
    4 parts 0.29.
    """
    count = jax.tree.leaves(parts)[0].shape[0]
    _, shapes = jax.eval_shape(gradients, params, batch_stats, jax.tree.map(lambda part: part[0], parts))

    def add(carry, part):
        batch_stats, total = carry
        batch_stats, of_part = gradients(params, batch_stats, part)
        return (batch_stats, jax.tree.map(jnp.add, total, of_part)), None

    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    unroll = count if platform == "cpu" else 1
    (batch_stats, total), _ = jax.lax.scan(add, (batch_stats, zeros), parts, unroll=unroll)
    return batch_stats, jax.tree.map(lambda leaf: leaf / count, total)


def moved_average(ema: dict, new: State, decay: float) -> dict:
    """The moving average of parameters and running statistics after a step.

    Source: the decay ramps as min(decay, (1 + t) / (10 + t)), so that the random start is forgotten.
    """
    t = new["step"].astype(jnp.float32)
    rate = 1 - jnp.minimum(decay, (1 + t) / (10 + t))
    current = {"params": new["params"], "batch_stats": new["batch_stats"]}
    return jax.tree.map(lambda e, c: e + rate.astype(e.dtype) * (c - e), ema, current)
