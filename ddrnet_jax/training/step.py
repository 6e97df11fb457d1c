"""One training step as one compiled function."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh

from ddrnet_jax import compilation, devices
from ddrnet_jax.models import variables
from ddrnet_jax.models.blocks import upsample_x8
from ddrnet_jax.models.ddrnet import normalise
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
):
    """The compiled step (state, batch) -> (state, metrics); the given state is consumed.

    batch    {"images": u8[B,H,W,3], "labels": u8[B,H,W]}, sharded by batch
    metrics  {"loss": f32[], "loss_main": f32[], "loss_aux": f32[], "grad_norm": f32[]}
    Source: batch norm and losses are written over the whole batch, so under jit they are global
    whatever the number of devices.
    """

    def losses(params, batch_stats, batch):
        model = variables.merge(graphdef, params, batch_stats)
        model.train()
        out = model(normalise(batch["images"]))
        labels = batch["labels"].astype(jnp.int32)
        main = loss(upsample_x8(out.logits, labels.shape[1:]), labels)
        aux = jnp.zeros_like(main)
        if out.aux_logits is not None:
            aux = loss(upsample_x8(out.aux_logits, labels.shape[1:]), labels)
        total = main + aux_weight * aux
        return total, (variables.batch_stats(model), {"loss": total, "loss_main": main, "loss_aux": aux})

    def train_step(state: State, batch):
        gradient = jax.value_and_grad(losses, has_aux=True)
        (_, (batch_stats, metrics)), grads = gradient(state["params"], state["batch_stats"], batch)
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
        compiler_options=compilation.options(),
    )


def moved_average(ema: dict, new: State, decay: float) -> dict:
    """The moving average of parameters and running statistics after a step.

    Source: the decay ramps as min(decay, (1 + t) / (10 + t)), so that the random start is forgotten.
    """
    t = new["step"].astype(jnp.float32)
    rate = 1 - jnp.minimum(decay, (1 + t) / (10 + t))
    current = {"params": new["params"], "batch_stats": new["batch_stats"]}
    return jax.tree.map(lambda e, c: e + rate.astype(e.dtype) * (c - e), ema, current)
