"""What a run is at a step: a plain nested dict of step, params, batch_stats, opt_state and, if on, ema."""

from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from ddrnet_jax import checkpoints
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


def warm_start(state: State, checkpoint: str | Path) -> State:
    """The fresh state with the weights of a checkpoint of ours.

    Raises CheckpointError naming what differs, unless every weight has its counterpart of the same shape.
    """
    _, params, batch_stats, _ = checkpoints.load_weights(checkpoint)
    for ours, theirs in ((state["params"], params), (state["batch_stats"], batch_stats)):
        ours, theirs = variables.paths(ours), variables.paths(theirs)
        wrong = sorted(ours.keys() ^ theirs.keys())
        wrong += [
            f"{k} {theirs[k].shape} where the config's model has {ours[k].shape}"
            for k in ours.keys() & theirs.keys()
            if theirs[k].shape != ours[k].shape
        ]
        if wrong:
            raise checkpoints.CheckpointError(
                f"config.init_from: {checkpoint} does not fit the config's model (variant, classes or auxiliary head "
                f"differ), {len(wrong)} weights, first: {wrong[0]}"
            )
    state = state | {"params": params, "batch_stats": batch_stats}
    return state | {"ema": _copy(params, batch_stats)} if "ema" in state else state


def _copy(params: dict, batch_stats: dict) -> dict:
    """Copies: the step donates its input, and a buffer cannot be donated twice."""
    return jax.tree.map(jnp.array, {"params": params, "batch_stats": batch_stats})


def evaluation_weights(state: State) -> tuple[dict, dict]:
    """(params, batch_stats) to evaluate, predict and export with: the moving average where there is one."""
    weights = state.get("ema", state)
    return weights["params"], weights["batch_stats"]
