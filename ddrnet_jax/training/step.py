"""One training step as one compiled function."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.extend.core import Primitive
from jax.sharding import Mesh

from ddrnet_jax.models import platforms, variables
from ddrnet_jax.models.blocks import upsample_x8
from ddrnet_jax.models.ddrnet import normalise
from ddrnet_jax.runtime import compilation, devices
from ddrnet_jax.training.state import State

Loss = Callable[[jax.Array, jax.Array], jax.Array]


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
    """The compiled step (state, batch) -> (state, metrics); the given state is consumed.

    loss     of logits and labels: of a segmenter f32[B,H,W,C] and i32[B,H,W], of a classifier f32[B,C] and i32[B]
    batch    {"images": u8[B,H,W,3], "labels": u8[B,H,W] or, of class numbers, i32[B]}, sharded by batch
    metrics  {"loss": f32[], "loss_main": f32[], "loss_aux": f32[], "grad_norm": f32[]}
    accumulate_steps  parts of the batch that pass one after another, each over all devices, for less memory.
                      The step takes the mean of their gradients; batch norm and loss see one part, running
                      statistics move with each.
    remat             gradients compute batch norm and ReLU again, from the outputs of the convolutions, instead of
                      keeping them: less memory
    Source: batch norm and losses are written over the whole batch (or part), so under jit they are global
    whatever the number of devices.
    """

    forward = training_forward(graphdef, devices.platform(mesh), remat=remat)

    def losses(params, batch_stats, batch):
        out, batch_stats = forward(params, batch_stats, batch["images"])
        labels = batch["labels"].astype(jnp.int32)

        def at_labels(logits):
            return loss(logits if labels.ndim == 1 else upsample_x8(logits, labels.shape[1:]), labels)

        main = at_labels(out.logits)
        aux = jnp.zeros_like(main) if out.aux_logits is None else at_labels(out.aux_logits)
        total = main + aux_weight * aux
        return total, (batch_stats, {"loss": total, "loss_main": main, "loss_aux": aux})

    def gradients(params, batch_stats, batch):
        (_, (batch_stats, metrics)), grads = jax.value_and_grad(losses, has_aux=True)(params, batch_stats, batch)
        return batch_stats, (grads, metrics)

    def train_step(state: State, batch):
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


def training_forward(graphdef: nnx.GraphDef, platform: str, *, remat: bool) -> Callable:
    """The network in train mode: (params, batch_stats, images u8[B,H,W,3]) -> (Output, new batch_stats).

    remat    as of `make_train_step`
    Source: computing again from what the convolutions returned costs no convolution. As compiled for a TPU v5e the step
    needs half of the memory and accesses a fifth fewer bytes (benchmarks/tpu_bytes.py); on CPUs it takes 0.99 of the
    time (benchmarks/train_step.py).
    """

    def forward(params, batch_stats, images):
        model = variables.merge(graphdef, params, batch_stats)
        model.train()
        with platforms.compiled_for(platform):
            out = model(normalise(images))
        return out, variables.batch_stats(model)

    return jax.checkpoint(forward, policy=_is_convolution) if remat else forward


def _is_convolution(primitive: Primitive, *_, **__) -> bool:
    return primitive is jax.lax.conv_general_dilated_p


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
    """What `gradients` returns: the last running statistics, and the mean over the parts of all else.

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
