"""The training step: the same mathematics on any number of devices.

A network at its random start amplifies rounding: in float64 a relative change of 1e-15 in one kernel grows to 1e-6
within 20 steps on a single device. The comparison therefore starts with damped residual branches (scale 0.1) and
96x96 images, where the difference is a fifteenth of the limit and only a difference in mathematics would show.
"""

import float64_convolution
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ddrnet_jax import DDRNet, devices
from ddrnet_jax.data.pipeline import Augment, train_batches
from ddrnet_jax.data.sources import Scenes
from ddrnet_jax.models import blocks, variables
from ddrnet_jax.models.ddrnet import normalise
from ddrnet_jax.training import losses, optimizer, state
from ddrnet_jax.training.step import make_train_step, moved_average

STEPS = 20
EMA_DECAY = 0.9


def build(rngs):
    return DDRNet("23_slim", num_classes=9, aux_head=True, rngs=rngs)


@pytest.fixture(scope="module")
def batches():
    """Twenty batches of eight drawn scenes at 96x96."""
    stream = train_batches(
        Scenes(40, seed=0, size_hw=(96, 128)), Augment((96, 96), (0.5, 1.5), True), seed=0, batch_size=8
    )
    try:
        return [next(stream) for _ in range(STEPS)]
    finally:
        stream.close()


def ohem(logits, labels):
    return losses.ohem(logits, labels, threshold=0.9, min_kept_fraction=1 / 24)


def damped(params):
    """The parameters with the last batch norm of every residual branch at a tenth."""
    flat = variables.paths(params)
    last = ("conv_bn3.bn.scale", "conv_bn2.bn.scale")
    return variables.from_paths({k: v * 0.1 if k.endswith(last) else v for k, v in flat.items()})


def start(dtype, mesh):
    """(optimiser, graphdef, first state in `dtype` on the mesh)"""
    sgd = optimizer.sgd(lambda step: 0.01, momentum=0.9, nesterov=False, weight_decay=5e-4)
    graphdef, fresh = state.create(build, sgd, seed=0, ema_decay=EMA_DECAY)
    fresh["params"] = damped(fresh["params"])

    def to_dtype(leaf):
        return np.asarray(leaf, dtype if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf.dtype)

    return sgd, graphdef, jax.device_put(jax.tree.map(to_dtype, fresh), devices.replicated(mesh))


def run(batches, device_count):
    """Losses, and the final state flattened, of training in float64 on that many devices."""
    mesh = devices.data_mesh(jax.devices()[:device_count])
    sgd, graphdef, current = start(np.float64, mesh)
    train_step = make_train_step(graphdef, sgd, ohem, mesh, aux_weight=0.4, ema_decay=EMA_DECAY)
    values = []
    for batch in batches:
        current, metrics = train_step(current, devices.put_batch(batch, mesh))
        values.append(float(metrics["loss"]))
    parts = {k: current[k] for k in ("params", "batch_stats", "ema", "opt_state")}
    return values, {jax.tree_util.keystr(k): np.asarray(v) for k, v in jax.tree_util.tree_leaves_with_path(parts)}


def first_loss(batch, device_count, dtype, loss=ohem):
    """The loss of the first step, forward only."""
    mesh = devices.data_mesh(jax.devices()[:device_count])
    _, graphdef, current = start(dtype, mesh)

    def total(current, batch):
        model = variables.merge(graphdef, current["params"], current["batch_stats"])
        model.train()
        out = model(normalise(batch["images"]))
        labels = batch["labels"].astype(jnp.int32)
        heads = [loss(blocks.upsample_x8(x, labels.shape[1:]), labels) for x in (out.logits, out.aux_logits)]
        return heads[0] + 0.4 * heads[1]

    return float(jax.jit(total)(current, devices.put_batch(batch, mesh)))


def difference(a, b):
    """The largest excess of |a-b| over 1e-9 max|b| + 1e-12; at most 0 where they agree."""
    losses_a, final_a = a
    losses_b, final_b = b
    pairs = [(np.array(losses_a), np.array(losses_b))] + [(final_a[k], final_b[k]) for k in final_b]
    assert all(np.isfinite(x).all() and np.isfinite(y).all() for x, y in pairs)
    return max(np.abs(x - y).max() - (1e-9 * np.abs(y).max() + 1e-12) for x, y in pairs)


def test_four_devices_take_the_same_steps_as_one(batches, monkeypatch):
    float64_convolution.use(monkeypatch)
    with jax.enable_x64(True):
        one, four = (run(batches, count) for count in (1, 4))
    assert four[0][-1] < 0.9 * four[0][0]
    assert difference(four, one) <= 0


@pytest.mark.parametrize(("size", "stride", "use_bias"), [(3, 1, False), (3, 2, True), (1, 1, False), (1, 2, False)])
def test_the_comparisons_convolution_is_the_networks(size, stride, use_bias):
    conv = blocks.conv(5, 7, size, stride, use_bias=use_bias, dtype=None, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (2, 9, 12, 5))
    np.testing.assert_allclose(float64_convolution.convolve(conv, x), conv(x), atol=1e-5)


def test_the_comparison_would_catch_batch_norm_per_device(batches, monkeypatch):
    """Statistics over a quarter of the batch each, as unsynchronised devices would compute them."""

    def per_quarter(x, scale, bias):
        quarters = x.reshape(4, -1, *x.shape[1:])
        y, mean, var = jax.vmap(blocks._normalise_forward, in_axes=(0, None, None))(quarters, scale, bias)[0]
        return y.reshape(x.shape), mean.mean(0), var.mean(0)

    with jax.enable_x64(True):
        whole = first_loss(batches[0], 1, np.float64)
        monkeypatch.setattr(blocks, "normalise_by_batch", per_quarter)
        assert abs(first_loss(batches[0], 1, np.float64) - whole) > 1e-6


def test_the_comparison_would_catch_ohem_per_device(batches):
    """Hard pixels chosen within a quarter of the batch each, then averaged."""

    def per_quarter(logits, labels):
        def split(a):
            return a.reshape(4, -1, *a.shape[1:])

        return jax.vmap(ohem)(split(logits), split(labels)).mean()

    with jax.enable_x64(True):
        whole = first_loss(batches[0], 1, np.float64)
        assert abs(first_loss(batches[0], 1, np.float64, loss=per_quarter) - whole) > 1e-6


def test_first_loss_in_float32_is_the_same_on_one_and_four_devices(batches):
    one, four = (first_loss(batches[0], count, np.float32) for count in (1, 4))
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
