"""The training step: the same mathematics on any number of devices; see float64_steps.py."""

import contextlib
import functools

import float64_convolution
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx
from float64_steps import FEW, STEPS, Run, build, build_small, difference, ohem, start, stream
from several_processes import several

from ddrnet_jax.models import batch_norm, blocks, variables
from ddrnet_jax.models.ddrnet import normalise
from ddrnet_jax.runtime import devices
from ddrnet_jax.training.step import moved_average


@pytest.fixture(scope="module")
def batches():
    with contextlib.closing(stream()) as endless:
        return [next(endless) for _ in range(STEPS)]


def first_loss(batch, device_count, dtype, loss=ohem):
    """The loss of the first step, forward only."""
    mesh = devices.data_mesh(jax.devices()[:device_count])
    _, graphdef, current = start(dtype, mesh, build_small)

    def total(current, batch):
        model = variables.merge(graphdef, current["params"], current["batch_stats"])
        model.train()
        out = model(normalise(batch["images"]))
        labels = batch["labels"].astype(jnp.int32)
        heads = [loss(blocks.upsample_x8(x, labels.shape[1:]), labels) for x in (out.logits, out.aux_logits)]
        return heads[0] + 0.4 * heads[1]

    return float(jax.jit(total)(current, devices.put_batch(batch, mesh)))


@pytest.fixture(scope="module")
def first_loss_on_one(batches):
    with jax.enable_x64(True):
        return first_loss(batches[0], 1, np.float64)


@pytest.fixture(scope="module")
def one_device(batches):
    """network -> its run on one device"""
    return functools.cache(lambda network: Run(batches, 1, network))


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(("network", "steps"), [(build_small, FEW), slow(build, STEPS)])
def test_several_devices_take_the_same_steps_as_one(network, steps, batches, one_device, monkeypatch):
    float64_convolution.use(monkeypatch)
    with jax.enable_x64(True):
        several_devices, one = Run(batches, 4, network)(steps), one_device(network)(steps)
    assert steps < STEPS or several_devices[0][-1] < 0.9 * several_devices[0][0]
    assert difference(several_devices, one) <= 0


@pytest.fixture(scope="module")
def tiny_on_one_device(batches):
    with pytest.MonkeyPatch.context() as patch, jax.enable_x64(True):
        float64_convolution.use(patch)
        return Run(batches, 1, tiny.of_scenes)(STEPS)


def steps_of_processes(count, device_count, is_tiny, folder):
    """(losses, state flattened) of each process after all steps."""
    job = {"do": "steps", "count": STEPS, "is_tiny": is_tiny}
    several(count, lambda i: job | {"output": str(folder / f"{i}.npz")}, devices=device_count)
    for i in range(count):
        with np.load(folder / f"{i}.npz") as arrays:
            final = dict(arrays)
        yield final.pop("losses").tolist(), final


def assert_same_steps(found, expected):
    assert found[1].keys() == expected[1].keys()
    assert difference(found, expected) <= 0


@pytest.mark.parametrize("count", [2, 4])
def test_several_devices_take_the_same_steps_as_one_with_a_tiny_network(
    count, batches, tiny_on_one_device, monkeypatch
):
    float64_convolution.use(monkeypatch)
    with jax.enable_x64(True):
        found = Run(batches, count, tiny.of_scenes)(STEPS)
    assert_same_steps(found, tiny_on_one_device)


@pytest.mark.parametrize(("count", "device_count"), [(2, 1), slow(1, 8), slow(4, 1)])
def test_processes_take_the_same_steps_as_one_device_with_a_tiny_network(
    count, device_count, tiny_on_one_device, tmp_path
):
    """Eight devices have one image each."""
    for found in steps_of_processes(count, device_count, True, tmp_path):
        assert_same_steps(found, tiny_on_one_device)


@pytest.mark.slow
def test_two_processes_take_the_same_steps_as_one_device(one_device, tmp_path, monkeypatch):
    float64_convolution.use(monkeypatch)
    with jax.enable_x64(True):
        one = one_device(build)(STEPS)
    for found in steps_of_processes(2, 1, False, tmp_path):
        assert_same_steps(found, one)


@pytest.mark.parametrize(("size", "stride", "use_bias"), [(3, 1, False), (3, 2, True), (1, 1, False), (1, 2, False)])
def test_the_comparisons_convolution_is_the_networks(size, stride, use_bias):
    conv = blocks.conv(5, 7, size, stride, use_bias=use_bias, dtype=None, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (2, 9, 12, 5))
    np.testing.assert_allclose(float64_convolution.convolve(conv, x), conv(x), atol=1e-5)


def test_the_comparison_would_catch_batch_norm_per_device(batches, first_loss_on_one, monkeypatch):
    """Statistics over a quarter of the batch each, as unsynchronised devices would compute them."""

    def per_quarter(x, scale, bias, sums):
        quarters = x.reshape(4, -1, *x.shape[1:])
        y, mean, var = jax.vmap(lambda quarter: batch_norm._forward(quarter, scale, bias, sums)[0])(quarters)
        return y.reshape(x.shape), mean.mean(0), var.mean(0)

    monkeypatch.setattr(batch_norm, "normalise_by_batch", per_quarter)
    with jax.enable_x64(True):
        assert abs(first_loss(batches[0], 1, np.float64) - first_loss_on_one) > 1e-6


def test_the_comparison_would_catch_ohem_per_device(batches, first_loss_on_one):
    """Hard pixels chosen within a quarter of the batch each, then averaged."""

    def per_quarter(logits, labels):
        def split(a):
            return a.reshape(4, -1, *a.shape[1:])

        return jax.vmap(ohem)(split(logits), split(labels)).mean()

    with jax.enable_x64(True):
        assert abs(first_loss(batches[0], 1, np.float64, loss=per_quarter) - first_loss_on_one) > 1e-6


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
