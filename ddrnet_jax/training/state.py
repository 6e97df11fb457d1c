"""The state of a run at a step: a plain nested dict of step, params, batch_stats, opt_state and, if on, ema."""

from collections.abc import Callable, Mapping
from typing import Any

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
    graphdef, params, batch_stats = variables.split(build(nnx.Rngs(seed)))
    state = {
        "step": jnp.zeros((), jnp.int32),
        "params": params,
        "batch_stats": batch_stats,
        "opt_state": optimizer.init(params),
    }
    if ema_decay:
        state["ema"] = _copy(params, batch_stats)
    return graphdef, state


def abstract(
    build: Callable[[nnx.Rngs], nnx.Module], optimizer: optax.GradientTransformation, *, ema_decay: float = 0.0
) -> tuple[nnx.GraphDef, State]:
    """The result of `create`, with shapes and types in place of arrays; nothing is computed."""
    graphdef, params, batch_stats = variables.shapes(build)
    state = {
        "step": jax.ShapeDtypeStruct((), jnp.int32),
        "params": params,
        "batch_stats": batch_stats,
        "opt_state": jax.eval_shape(optimizer.init, params),
    }
    return graphdef, state | ({"ema": {"params": params, "batch_stats": batch_stats}} if ema_decay else {})


def warm_start(state: State, leaves: Mapping[str, Any]) -> State:
    """The fresh state with these parameters and running statistics, by our dotted paths, in the place of its own."""

    def replaced(tree: dict) -> dict:
        return variables.from_paths({k: leaves.get(k, v) for k, v in variables.paths(tree).items()})

    params, batch_stats = replaced(state["params"]), replaced(state["batch_stats"])
    state = state | {"params": params, "batch_stats": batch_stats}
    return state | {"ema": _copy(params, batch_stats)} if "ema" in state else state


def _copy(params: dict, batch_stats: dict) -> dict:
    """Copies: the step donates its input, and a buffer cannot be donated twice."""
    return jax.tree.map(jnp.array, {"params": params, "batch_stats": batch_stats})


def evaluation_weights(state: State) -> tuple[dict, dict]:
    """(params, batch_stats) to evaluate, predict and export with: the moving average where there is one."""
    weights = state.get("ema", state)
    return weights["params"], weights["batch_stats"]
