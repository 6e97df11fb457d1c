"""The classifier's loss and its step against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ddrnet_jax.models.ddrnet import Output, normalise
from ddrnet_jax.runtime import devices
from ddrnet_jax.training import optimizer, state
from ddrnet_jax.training.losses import class_cross_entropy
from ddrnet_jax.training.step import make_train_step

CLASSES = 300  # more than the 255 that marks ignored pixels


def slow_loss(logits, labels, smoothing):
    """Image by image in float64: what each class should have, against the log of what it gets."""
    losses = []
    for scores, label in zip(np.asarray(logits, np.float64), labels, strict=True):
        log_p = scores - scores.max() - np.log(np.exp(scores - scores.max()).sum())
        wanted = [smoothing / len(scores) + (1 - smoothing) * (c == label) for c in range(len(scores))]
        losses.append(-sum(w * p for w, p in zip(wanted, log_p, strict=True)))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_equals_its_definition_and_255_is_a_class(smoothing):
    rng = np.random.default_rng(0)
    logits = (4 * rng.standard_normal((6, CLASSES))).astype(np.float32)
    labels = np.array([0, 255, 255, 299, 17, 254], np.int32)
    loss_and_gradient = jax.jit(jax.value_and_grad(class_cross_entropy))
    loss, gradient = loss_and_gradient(jnp.asarray(logits), labels, label_smoothing=smoothing)
    assert loss == pytest.approx(slow_loss(logits, labels, smoothing), rel=1e-5)
    softmax = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    targets = (1 - smoothing) * np.eye(CLASSES)[labels] + smoothing / CLASSES
    np.testing.assert_allclose(gradient, (softmax - targets) / 6, atol=1e-6)


class Tiny(nnx.Module):
    """The mean of the image, and a linear layer."""

    def __init__(self, rngs):
        self.linear = nnx.Linear(3, CLASSES, rngs=rngs)
        self.seen = nnx.BatchStat(jnp.zeros(()))

    def __call__(self, x):
        self.seen[...] += 1
        return Output(self.linear(x.mean((1, 2))))


@pytest.mark.parametrize("device_count", [1, 4])
def test_a_step_takes_class_numbers_without_upsampling(device_count):
    mesh = devices.data_mesh(jax.devices()[:device_count])
    sgd = optimizer.sgd(lambda step: 0.5, momentum=0.0, nesterov=False, weight_decay=0.0)
    graphdef, first = state.create(Tiny, sgd, seed=0)
    rng = np.random.default_rng(1)
    batch = {
        "images": rng.integers(0, 256, (8, 8, 8, 3), dtype=np.uint8),
        "labels": rng.integers(0, CLASSES, 8).astype(np.int32),
    }
    kernel, bias = (np.asarray(first["params"]["linear"][name]) for name in ("kernel", "bias"))
    logits = np.asarray(normalise(batch["images"])).mean((1, 2)) @ kernel + bias
    step = make_train_step(graphdef, sgd, class_cross_entropy, mesh)
    new, metrics = step(jax.device_put(first, devices.replicated(mesh)), devices.put_batch(batch, mesh))
    assert metrics["loss"] == pytest.approx(slow_loss(logits, batch["labels"], 0.0), rel=1e-5)
    assert metrics["loss_aux"] == 0
    softmax = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    gradient = (softmax - np.eye(CLASSES)[batch["labels"]]).mean(0)
    np.testing.assert_allclose(new["params"]["linear"]["bias"], bias - 0.5 * gradient, atol=1e-6)
    assert new["batch_stats"]["seen"] == 1
