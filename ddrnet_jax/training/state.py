"""What a run is at a step: a plain nested dict of step, params, batch_stats, opt_state and, if on, ema."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from ddrnet_jax.models import variables

State = dict


def create(
    build: Callable[[nnx.Rngs], nnx.Module],
    optimizer: optax.GradientTransformation,
    *,
    seed: int,
    ema_decay: float = 0.0,
) -> tuple[nnx.GraphDef, State]:
    """A fresh state at step 0 and the graphdef that makes a model of it."""
    graphdef, params, batch_stats = variables.initialise(build, seed)
    return graphdef, from_weights(params, batch_stats, optimizer, ema_decay=ema_decay)


def from_weights(
    params: dict, batch_stats: dict, optimizer: optax.GradientTransformation, *, ema_decay: float = 0.0
) -> State:
    """A state at step 0 with these weights."""
    state = {
        "step": jnp.zeros((), jnp.int32),
        "params": params,
        "batch_stats": batch_stats,
        "opt_state": optimizer.init(params),
    }
    if ema_decay:
        # Copies: the step donates its input, and a buffer cannot be donated twice.
        state["ema"] = jax.tree.map(jnp.copy, {"params": params, "batch_stats": batch_stats})
    return state


def evaluation_weights(state: State) -> tuple[dict, dict]:
    """(params, batch_stats) to evaluate, predict and export with: the moving average where there is one."""
    weights = state.get("ema", state)
    return weights["params"], weights["batch_stats"]
