"""Gradient accumulation: a batch in parts, against the gradients of the parts computed one by one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from flax import nnx

from ddrnet_jax import DDRNet
from ddrnet_jax.models import blocks, variables
from ddrnet_jax.models.ddrnet import Output, normalise
from ddrnet_jax.runtime import devices
from ddrnet_jax.training import losses, optimizer, state
from ddrnet_jax.training.step import in_parts, make_train_step

CLASSES, RATE, DECAY = 5, 0.1, 0.01


class Tiny(nnx.Module):
    """The smallest network that the step takes: one convolution to stride 8, batch norm, two heads."""

    def __init__(self, rngs):
        self.trunk = nnx.Conv(3, 6, (8, 8), strides=8, rngs=rngs)
        self.bn = blocks.BatchNorm(6)
        self.head = nnx.Conv(6, CLASSES, (1, 1), rngs=rngs)
        self.aux_head = nnx.Conv(6, CLASSES, (1, 1), rngs=rngs)

    def __call__(self, images):
        features = self.bn(self.trunk(images))
        return Output(self.head(features), self.aux_head(features))


def ohem(logits, labels):
    return losses.ohem(logits, labels, threshold=0.2, min_kept_fraction=1 / 24)


def make_batch():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES + 1, (16, 16, 24), dtype=np.uint8)
    labels[labels == CLASSES] = 255
    return {"images": rng.integers(0, 256, (16, 16, 24, 3), dtype=np.uint8), "labels": labels}


BATCH = make_batch()


@functools.cache
def step(device_count, accumulate_steps):
    """(the state after one step, metrics, the first state)"""
    mesh = devices.data_mesh(jax.devices()[:device_count])
    sgd = optimizer.sgd(lambda step: RATE, momentum=0.9, nesterov=False, weight_decay=DECAY)
    graphdef, first = state.create(Tiny, sgd, seed=0)
    first = jax.device_get(first)
    train_step = make_train_step(graphdef, sgd, ohem, mesh, aux_weight=0.4, accumulate_steps=accumulate_steps)
    after, metrics = train_step(jax.device_put(first, devices.replicated(mesh)), devices.put_batch(BATCH, mesh))
    return jax.device_get(after), jax.device_get(metrics), first


def part_by_part(first, parts):
    """(mean gradients, last running statistics, mean loss) with one backward pass a part."""
    graphdef = variables.split(nnx.eval_shape(lambda: Tiny(nnx.Rngs(0))))[0]

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def of_part(params, batch_stats, images, labels):
        model = variables.merge(graphdef, params, batch_stats)
        model.train()
        out = model(normalise(images))
        main, aux = (ohem(blocks.upsample_x8(x, (16, 24)), labels) for x in out)
        return main + 0.4 * aux, variables.batch_stats(model)

    batch_stats, gradients, values = first["batch_stats"], [], []
    for part in range(parts):
        images, labels = (BATCH[k][part::parts] for k in ("images", "labels"))
        (value, batch_stats), gradient = of_part(first["params"], batch_stats, images, labels.astype(np.int32))
        gradients.append(gradient)
        values.append(value)
    return jax.tree.map(lambda *g: sum(g) / parts, *gradients), batch_stats, sum(values) / parts


def assert_close(ours, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), ours, expected)


@pytest.mark.parametrize("parts", [1, 2])
def test_a_step_takes_the_mean_gradient_of_the_parts(parts):
    after, metrics, first = step(1, parts)
    gradients, batch_stats, loss = part_by_part(first, parts)
    assert_close(after["params"], jax.tree.map(lambda p, g: p - RATE * (g + DECAY * p), first["params"], gradients))
    assert_close(after["batch_stats"], batch_stats)
    assert metrics["loss"] == pytest.approx(float(loss), rel=1e-5)
    norm = np.sqrt(sum(np.square(g).sum() for g in jax.tree.leaves(gradients)))
    assert metrics["grad_norm"] == pytest.approx(norm, rel=1e-4)
    assert after["step"] == 1


def test_batch_norm_sees_the_part():
    whole, parts = (step(1, count)[0]["batch_stats"]["bn"]["mean"] for count in (1, 2))
    assert np.abs(whole - parts).max() > 1e-3


def test_accumulation_on_four_devices_is_that_on_one():
    one, four = (step(count, 2)[:2] for count in (1, 4))
    assert_close(four, one)


def test_every_part_is_spread_over_all_devices_without_moving_a_row():
    mesh = devices.data_mesh()
    sharded = devices.put_batch(BATCH, mesh)
    split = jax.jit(lambda batch: in_parts(batch, 2, mesh))
    parts = split(sharded)
    for name, rows in BATCH.items():
        np.testing.assert_array_equal(parts[name], np.stack([rows[0::2], rows[1::2]]))
        assert parts[name].sharding.is_equivalent_to(devices.by_batch(mesh, axis=1), parts[name].ndim)
    program = split.lower(sharded).compile().as_text()
    assert not any(word in program for word in ("all-to-all", "all-gather", "collective-permute", "all-reduce"))


def test_the_network_accumulates_with_the_types_it_has():
    mesh = devices.data_mesh(jax.devices()[:1])
    sgd = optimizer.sgd(lambda step: RATE, momentum=0.9, nesterov=False, weight_decay=DECAY)

    def build(rngs):
        with small.in_place_of_23_slim():
            return DDRNet("23_slim", num_classes=CLASSES, aux_head=True, dtype=jnp.bfloat16, rngs=rngs)

    graphdef = variables.split(nnx.eval_shape(lambda: build(nnx.Rngs(0))))[0]
    first = jax.eval_shape(lambda: state.create(build, sgd, seed=0, ema_decay=0.9)[1])
    train_step = make_train_step(graphdef, sgd, ohem, mesh, ema_decay=0.9, accumulate_steps=2)
    images = jax.ShapeDtypeStruct((4, 64, 64, 3), jnp.uint8)
    labels = jax.ShapeDtypeStruct((4, 64, 64), jnp.uint8)
    after, _ = jax.eval_shape(train_step, first, {"images": images, "labels": labels})
    assert jax.tree.all(jax.tree.map(lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype), after, first))
