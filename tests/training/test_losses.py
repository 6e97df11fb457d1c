"""Losses against an independent, slow implementation of their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddrnet_jax.training import losses

WEIGHTS = np.array([0.5, 2.0, 1.0, 1.5])


def slow_probabilities(logits, labels):
    """The softmax probability of the true class of every labelled pixel, in float64, as a list."""
    kept = []
    for scores, label in zip(logits.reshape(-1, logits.shape[-1]).astype(np.float64), labels.reshape(-1), strict=True):
        if label != 255:
            exponentials = np.exp(scores - scores.max())
            kept.append((exponentials[label] / exponentials.sum(), label))
    return kept


def slow_cross_entropy(logits, labels, weights=None):
    weights = np.ones(logits.shape[-1]) if weights is None else weights
    pixels = slow_probabilities(logits, labels)
    if not pixels:
        return 0.0
    return sum(-np.log(p) * weights[c] for p, c in pixels) / sum(weights[c] for _, c in pixels)


def slow_ohem(logits, labels, threshold, fraction, weights=None):
    weights = np.ones(logits.shape[-1]) if weights is None else weights
    pixels = slow_probabilities(logits, labels)
    if not pixels:
        return 0.0
    ordered = sorted(p for p, _ in pixels)
    limit = max(threshold, ordered[min(round(fraction * labels.size), len(ordered) - 1)])
    kept = [-np.log(p) * weights[c] for p, c in pixels if p < limit]
    return sum(kept) / len(kept) if kept else 0.0


def example(seed, ignored=0.3, classes=4, spread=3.0):
    rng = np.random.default_rng(seed)
    logits = (spread * rng.standard_normal((2, 6, 7, classes))).astype(np.float32)
    labels = rng.integers(0, classes, (2, 6, 7)).astype(np.int32)
    labels[rng.random(labels.shape) < ignored] = 255
    return logits, labels


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("seed", range(3))
def test_cross_entropy_equals_its_definition(seed, weights):
    logits, labels = example(seed)
    ours = losses.cross_entropy(logits, labels, class_weights=weights)
    assert ours == pytest.approx(slow_cross_entropy(logits, labels, weights), rel=1e-5)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("fraction", [0.0, 1 / 24, 0.5, 1.0])
def test_ohem_equals_its_definition(threshold, fraction, weights):
    for seed in range(3):
        logits, labels = example(seed)
        ours = losses.ohem(logits, labels, threshold=threshold, min_kept_fraction=fraction, class_weights=weights)
        assert ours == pytest.approx(slow_ohem(logits, labels, threshold, fraction, weights), rel=1e-5)


def test_ohem_with_ties_at_the_limit_drops_them_strictly():
    logits, labels = np.zeros((1, 4, 4, 4), np.float32), np.zeros((1, 4, 4), np.int32)
    logits[0, 0, :, 0] = -2.0  # four hard pixels; twelve tie at probability 1/4
    ours = losses.ohem(logits, labels, threshold=0.1, min_kept_fraction=0.5)
    hard = np.exp(-2) / (np.exp(-2) + 3)
    assert ours == pytest.approx(-np.log(hard), rel=1e-6)


def test_ohem_where_every_pixel_is_certain_is_zero():
    logits = np.full((1, 4, 4, 2), -200.0, np.float32)
    logits[..., 0] = 200.0
    labels = np.zeros((1, 4, 4), np.int32)
    assert losses.ohem(logits, labels, threshold=0.9, min_kept_fraction=0.5) == 0


def test_one_class_has_loss_zero():
    logits, labels = np.ones((1, 4, 4, 1), np.float32), np.zeros((1, 4, 4), np.int32)
    assert losses.ohem(logits, labels, threshold=0.9, min_kept_fraction=0.5) == 0
    assert losses.cross_entropy(logits, labels) == 0


@pytest.mark.parametrize("name", ["cross_entropy", "ohem"])
def test_nothing_labelled_gives_zero_and_zero_gradients(name):
    loss = losses.make_loss(
        name, ohem_threshold=0.9, ohem_min_kept_fraction=0.1, class_weights=WEIGHTS, label_smoothing=0.0
    )
    logits, labels = example(0, ignored=2.0)
    value, gradient = jax.value_and_grad(loss)(jnp.asarray(logits), labels)
    assert value == 0
    assert (np.asarray(gradient) == 0).all()


def test_ignored_pixels_have_zero_gradient():
    logits, labels = example(1)
    gradient = jax.grad(lambda x: losses.ohem(x, labels, threshold=0.9, min_kept_fraction=0.1))(jnp.asarray(logits))
    assert (np.asarray(gradient)[labels == 255] == 0).all()
    assert (np.asarray(gradient)[labels != 255] != 0).any()


def test_label_smoothing_mixes_in_the_uniform_distribution():
    logits, labels = example(2)
    log_p = np.asarray(jax.nn.log_softmax(logits))
    is_labelled = labels != 255
    target = 0.9 * np.eye(4)[np.where(is_labelled, labels, 0)] + 0.1 / 4
    expected = -(target * log_p).sum(-1)[is_labelled].mean()
    assert losses.cross_entropy(logits, labels, label_smoothing=0.1) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("count", [1, 2, 97])
def test_hardness_limit_equals_sorting_bit_for_bit(count):
    rng = np.random.default_rng(count)
    p = rng.random(100).astype(np.float32) ** 4
    p[:20] = p[20]
    is_labelled = np.zeros(100, bool)
    is_labelled[rng.permutation(100)[:count]] = True
    for min_kept in (0, 1, 5, 50, 1000):
        ordered = np.sort(p[is_labelled])
        expected = max(np.float32(0.01), ordered[min(min_kept, count - 1)])
        assert losses.hardness_limit(jnp.asarray(p), is_labelled, 0.01, min_kept) == expected
