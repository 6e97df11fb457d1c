"""The training step: the same mathematics on any number of devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddrnet_jax import DDRNet, devices
from ddrnet_jax.data.pipeline import Augment, train_batches
from ddrnet_jax.data.sources import Scenes
from ddrnet_jax.models import blocks, variables
from ddrnet_jax.training import losses, optimizer, state
from ddrnet_jax.training.step import make_train_step, moved_average

STEPS = 20
EMA_DECAY = 0.9


def build(rngs):
    return DDRNet("23_slim", num_classes=9, aux_head=True, rngs=rngs)


@pytest.fixture(scope="module")
def batches():
    """Twenty batches of eight drawn scenes at 64x96."""
    stream = train_batches(
        Scenes(40, seed=0, size_hw=(64, 128)), Augment((64, 96), (0.5, 1.5), True), seed=0, batch_size=8
    )
    try:
        return [next(stream) for _ in range(STEPS)]
    finally:
        stream.close()


def ohem(logits, labels):
    return losses.ohem(logits, labels, threshold=0.2, min_kept_fraction=1 / 24)


def run(batches, device_count, dtype, loss=ohem):
    """Losses, and the final state flattened, of training in `dtype` on that many devices."""
    mesh = devices.data_mesh(jax.devices()[:device_count])
    sgd = optimizer.sgd(lambda step: 0.01, momentum=0.9, nesterov=False, weight_decay=5e-4)
    graphdef, fresh = state.create(build, sgd, seed=0, ema_decay=EMA_DECAY)

    def to_dtype(leaf):
        return np.asarray(leaf, dtype if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf.dtype)

    current = jax.device_put(jax.tree.map(to_dtype, fresh), devices.replicated(mesh))
    train_step = make_train_step(graphdef, sgd, loss, mesh, aux_weight=0.4, ema_decay=EMA_DECAY)
    values = []
    for batch in batches:
        current, metrics = train_step(current, devices.put_batch(batch, mesh))
        values.append(float(metrics["loss"]))
    parts = {k: current[k] for k in ("params", "batch_stats", "ema")}
    return values, {k: np.asarray(v) for k, v in variables.paths(parts).items()}


def difference(a, b):
    """The largest excess of |a-b| over 1e-9 max|b| + 1e-12; at most 0 where they agree."""
    losses_a, final_a = a
    losses_b, final_b = b
    pairs = [(np.array(losses_a), np.array(losses_b))] + [(final_a[k], final_b[k]) for k in final_b]
    assert all(np.isfinite(x).all() and np.isfinite(y).all() for x, y in pairs)
    return max(np.abs(x - y).max() - (1e-9 * np.abs(y).max() + 1e-12) for x, y in pairs)


@pytest.fixture(scope="module")
def reference(batches):
    """One device, float64."""
    with jax.enable_x64(True):
        return run(batches, 1, np.float64)


def test_four_devices_take_the_same_steps_as_one(batches, reference):
    with jax.enable_x64(True):
        sharded = run(batches, 4, np.float64)
    assert all(np.isfinite(sharded[0]))
    assert sharded[0][-1] < 0.9 * sharded[0][0]
    assert difference(sharded, reference) <= 0


def test_the_comparison_would_catch_batch_norm_per_device(batches, reference, monkeypatch):
    """Statistics over a quarter of the batch each, as unsynchronised devices would compute them."""

    def per_quarter(x, scale, bias):
        quarters = x.reshape(4, -1, *x.shape[1:])
        y, mean, var = jax.vmap(blocks._normalise_forward, in_axes=(0, None, None))(quarters, scale, bias)[0]
        return y.reshape(x.shape), mean.mean(0), var.mean(0)

    monkeypatch.setattr(blocks, "normalise_by_batch", per_quarter)
    with jax.enable_x64(True):
        local = run(batches[:2], 1, np.float64)
    assert abs(local[0][1] - reference[0][1]) > 1e-6


def test_the_comparison_would_catch_ohem_per_device(batches, reference):
    """Hard pixels chosen within a quarter of the batch each, then averaged."""

    def per_quarter(logits, labels):
        def split(a):
            return a.reshape(4, -1, *a.shape[1:])

        return jax.vmap(ohem)(split(logits), split(labels)).mean()

    with jax.enable_x64(True):
        local = run(batches[:2], 1, np.float64, loss=per_quarter)
    assert abs(local[0][0] - reference[0][0]) > 1e-6


def test_first_loss_in_float32_is_the_same_on_one_and_four_devices(batches):
    one, four = (run(batches[:1], count, np.float32)[0][0] for count in (1, 4))
    assert four == pytest.approx(one, rel=1e-6)


def test_moving_average_ramps_and_follows():
    weights = {"params": {"w": jnp.array([0.0])}, "batch_stats": {"m": jnp.array([0.0])}}
    expected = 0.0
    for t in range(1, 60):
        new = {
            "step": jnp.array(t),
            "params": {"w": jnp.array([float(t)])},
            "batch_stats": {"m": jnp.array([2.0 * t])},
        }
        weights = moved_average(weights, new, 0.8)
        decay = min(0.8, (1 + t) / (10 + t))
        expected = decay * expected + (1 - decay) * t
        assert weights["params"]["w"][0] == pytest.approx(expected, rel=1e-5)
        assert weights["batch_stats"]["m"][0] == pytest.approx(2 * expected, rel=1e-5)
