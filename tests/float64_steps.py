"""Training steps of DDRNet in float64, to be compared between topologies.

A network at its random start amplifies rounding: in float64 a relative change of 1e-15 in one kernel grows to 1e-6
within 20 steps on a single device. The comparison therefore starts with damped residual branches (scale 0.1) and
96x96 images, where the difference is a fifteenth of the limit and only a difference in mathematics would show.
"""

import jax
import jax.numpy as jnp
import numpy as np
import small

from ddrnet_jax import DDRNet
from ddrnet_jax.data.pipeline import Shard, train_batches
from ddrnet_jax.data.sources import Scenes
from ddrnet_jax.data.transforms import Augment
from ddrnet_jax.models import variables
from ddrnet_jax.runtime import devices
from ddrnet_jax.training import losses, optimizer, state
from ddrnet_jax.training.step import make_train_step

WHOLE = Shard()
STEPS = 20
FEW = 3  # in the fast tests
EMA_DECAY = 0.9


def build(rngs):
    return DDRNet("23_slim", num_classes=9, aux_head=True, rngs=rngs)


def build_small(rngs):
    with small.in_place_of_23_slim():
        return build(rngs)


def stream(shard=WHOLE):
    """Batches of eight drawn scenes at 96x96, or a process's part of them."""
    scenes, augment = Scenes(40, seed=0, size_hw=(96, 128)), Augment((96, 96), (0.5, 1.5), True)
    return train_batches(scenes, augment, seed=0, batch_size=8, shard=shard)


def ohem(logits, labels):
    return losses.ohem(logits, labels, threshold=0.9, min_kept_fraction=1 / 24)


def damped(params):
    """The parameters with the last batch norm of every residual branch at a tenth."""
    flat = variables.paths(params)
    last = ("conv_bn3.bn.scale", "conv_bn2.bn.scale")
    return variables.from_paths({k: v * 0.1 if k.endswith(last) else v for k, v in flat.items()})


def start(dtype, mesh, network=build):
    """(optimiser, graphdef, first state in `dtype` on the mesh)"""
    sgd = optimizer.sgd(lambda step: 0.01, momentum=0.9, nesterov=False, weight_decay=5e-4)
    graphdef, fresh = state.create(network, sgd, seed=0, ema_decay=EMA_DECAY)
    fresh["params"] = damped(fresh["params"])

    def to_dtype(leaf):
        return np.asarray(leaf, dtype if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf.dtype)

    return sgd, graphdef, devices.put_replicated(jax.tree.map(to_dtype, fresh), mesh)


def flattened(current):
    """Every array of a state by its path."""
    parts = {k: current[k] for k in ("params", "batch_stats", "ema", "opt_state")}
    return {jax.tree_util.keystr(k): np.asarray(v) for k, v in jax.tree_util.tree_leaves_with_path(parts)}


class Run:
    """Training in float64 on that many devices, as far as somebody asked for."""

    def __init__(self, batches, device_count, network=build):
        self.batches, self.mesh = batches, devices.data_mesh(jax.devices()[:device_count])
        sgd, graphdef, self.current = start(np.float64, self.mesh, network)
        self.train_step = make_train_step(graphdef, sgd, ohem, self.mesh, aux_weight=0.4, ema_decay=EMA_DECAY)
        self.losses, self.after = [], {}

    def __call__(self, steps):
        """(the losses, the state flattened) after FEW or STEPS steps."""
        while steps not in self.after:
            batch = devices.put_batch(self.batches[len(self.losses)], self.mesh)
            self.current, metrics = self.train_step(self.current, batch)
            self.losses.append(float(metrics["loss"]))
            if len(self.losses) in (FEW, STEPS):
                self.after[len(self.losses)] = list(self.losses), flattened(self.current)
        return self.after[steps]


def difference(a, b):
    """The largest excess of |a-b| over 1e-9 max|b| + 1e-12; at most 0 where they agree."""
    losses_a, final_a = a
    losses_b, final_b = b
    pairs = [(np.array(losses_a), np.array(losses_b))] + [(final_a[k], final_b[k]) for k in final_b]
    assert all(np.isfinite(x).all() and np.isfinite(y).all() for x, y in pairs)
    return max(np.abs(x - y).max() - (1e-9 * np.abs(y).max() + 1e-12) for x, y in pairs)
