"""Losses against an independent, slow implementation of their definitions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddrnet_jax.runtime import devices
from ddrnet_jax.training import losses

LOSSES = ["cross_entropy", "ohem", "dice_edge"]
WEIGHTS = np.array([0.5, 2.0, 1.0, 1.5])

# Compiled whole, each once per shape: operation by operation the same tests take three times as long.
_ohem = jax.jit(losses.ohem, static_argnames="min_kept_fraction")
_ohem_and_gradient = jax.jit(jax.value_and_grad(losses.ohem), static_argnames="min_kept_fraction")
_dice_edge = jax.jit(losses.dice_edge, static_argnames="edge_size")
_dice = jax.jit(losses.dice)
_edge_pixels = jax.jit(losses.edge_pixels, static_argnames="size")


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


def slow_ohem_gradient(logits, labels, threshold, fraction, weights):
    """The derivative of the mean over the kept pixels, whose choice is held; p is rounded to float32 to choose."""
    flat, flat_labels = logits.reshape(-1, logits.shape[-1]).astype(np.float64), labels.reshape(-1)
    softmax = [np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum() for scores in flat]
    pixels = [i for i, label in enumerate(flat_labels) if label != 255]
    p = {i: np.float32(softmax[i][flat_labels[i]]) for i in pixels}
    gradient = np.zeros_like(flat)
    if pixels:
        limit = max(np.float32(threshold), sorted(p.values())[min(round(fraction * labels.size), len(pixels) - 1)])
        kept = [i for i in pixels if p[i] < limit]
        for i in kept:
            gradient[i] = (softmax[i] - np.eye(flat.shape[1])[flat_labels[i]]) * weights[flat_labels[i]] / len(kept)
    return gradient.reshape(logits.shape)


def slow_dice(logits, labels):
    num_classes = logits.shape[-1]
    overlap, total = np.zeros(num_classes), np.zeros(num_classes)
    for scores, label in zip(logits.reshape(-1, num_classes).astype(np.float64), labels.reshape(-1), strict=True):
        if label != 255:
            probabilities = np.exp(scores - scores.max())
            probabilities /= probabilities.sum()
            overlap[label] += probabilities[label]
            total += probabilities
            total[label] += 1
    if not total.any():
        return 0.0
    return np.mean([1 - (2 * o + 1) / (t + 1 + 1e-5) for o, t in zip(overlap, total, strict=True)])


def slow_edges(labels, size, num_classes):
    """Dilation minus erosion of every class's mask, padded by repeating the border; the union over the classes."""
    reach = size // 2
    edges = np.zeros(labels.shape, bool)
    for label, edge in zip(labels, edges, strict=True):
        for c in range(num_classes):
            mask = np.pad(label == c, reach, mode="edge")
            for y, x in np.ndindex(label.shape):
                window = mask[y : y + size, x : x + size]
                edge[y, x] |= window.any() and not window.all()
    return edges


def slow_dice_edge(logits, labels, weights, dice_weight, edge_weight, edge_size):
    at_edges = np.where(slow_edges(labels, edge_size, logits.shape[-1]), labels, 255)
    everywhere, edges = (slow_cross_entropy(logits, y, weights) for y in (labels, at_edges))
    return (1 - edge_weight) * everywhere + edge_weight * edges + dice_weight * slow_dice(logits, labels)


@functools.cache
def value_and_gradient(name):
    loss = losses.make_loss(
        name, ohem_threshold=0.9, ohem_min_kept_fraction=0.1, class_weights=WEIGHTS, label_smoothing=0.0
    )
    return jax.jit(jax.value_and_grad(loss))


def areas(seed, classes=4):
    """Labels of rectangles, some of them ignored, as segments are, and logits that half agree."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes + 1, (2, 3, 4)).repeat(6, 1).repeat(5, 2).astype(np.int32)
    labels[labels == classes] = 255
    logits = rng.standard_normal((*labels.shape, classes)) + 2 * (labels[..., None] == np.arange(classes))
    return logits.astype(np.float32), labels


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
        ours = _ohem(logits, labels, threshold=threshold, min_kept_fraction=fraction, class_weights=weights)
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


def corner_case(name):
    """(logits, labels) of one of the cases in which a choice by rank goes wrong."""
    logits, labels = example(7)
    if name == "all ignored":
        labels[...] = 255
    elif name == "n at most K":
        labels[1:] = 255
        labels[0, 2:] = 255
    elif name == "one labelled pixel":
        labels.reshape(-1)[1:] = 255
        labels[0, 0, 0] = 2
    elif name == "ties at the limit":
        logits[...] = np.where(np.arange(7)[None, None, :, None] < 2, logits, 0.5)
    elif name == "probability 1":
        logits[..., 0], labels[labels != 255] = 200, 0
    elif name == "half of them certain":
        logits[:, :3, :, 0], labels[:, :3] = 200, 0
    elif name == "one class":
        logits, labels = logits[..., :1], np.minimum(labels, 0) | (labels & 255 == 255) * 255
    return logits, labels.astype(np.int32)


CORNER_CASES = ["all ignored", "n at most K", "one labelled pixel", "ties at the limit", "probability 1"]
CORNER_CASES += ["half of them certain", "one class"]


@pytest.mark.parametrize("name", CORNER_CASES)
@pytest.mark.parametrize(("threshold", "fraction"), [(0.9, 1 / 24), (0.1, 0.5), (0.0, 1.0), (0.3, 0.0)])
def test_ohem_equals_its_definition_in_corner_cases(name, threshold, fraction):
    logits, labels = corner_case(name)
    options = {"threshold": threshold, "min_kept_fraction": fraction, "class_weights": WEIGHTS[: logits.shape[-1]]}
    value, gradient = _ohem_and_gradient(logits, labels, **options)
    arguments = (threshold, fraction, WEIGHTS)
    assert value == pytest.approx(slow_ohem(logits, labels, *arguments), rel=1e-5, abs=1e-7)
    np.testing.assert_allclose(gradient, slow_ohem_gradient(logits, labels, *arguments), rtol=1e-4, atol=1e-7)


@functools.partial(jax.jit, static_argnames="fraction")
def selection(logits, labels, threshold, fraction):
    """(the limit, which pixels are kept, the gradient of OHEM)"""
    known = jnp.where(labels == 255, 0, labels)
    p = jnp.take_along_axis(jax.nn.softmax(logits), known[..., None], -1)[..., 0]
    limit = losses.hardness_limit(p, labels != 255, threshold, round(labels.size * fraction))
    gradient = jax.grad(losses.ohem)(logits, labels, threshold=threshold, min_kept_fraction=fraction)
    return limit, (gradient != 0).any(-1), gradient


@pytest.mark.parametrize("name", [None, *CORNER_CASES])
@pytest.mark.parametrize("threshold", [0.01, 0.9])
def test_ohem_on_four_devices_keeps_the_same_pixels(name, threshold):
    """Bit for bit, in float32: the selection counts pixels, and counts add up to the same in any order."""
    logits, labels = corner_case(name) if name else example(3)
    logits, labels = (np.concatenate([a, a[::-1] if a.ndim == 3 else a[::-1] + 0.1]) for a in (logits, labels))
    results = []
    for count in (1, 4):
        mesh = devices.data_mesh(jax.devices()[:count])
        batch = devices.put_batch({"logits": logits, "labels": labels}, mesh)
        results.append(jax.device_get(selection(**batch, threshold=threshold, fraction=1 / 24)))
    for one, four in zip(*results, strict=True):
        np.testing.assert_array_equal(four, one)


def test_one_class_has_loss_zero():
    logits, labels = np.ones((1, 4, 4, 1), np.float32), np.zeros((1, 4, 4), np.int32)
    assert losses.ohem(logits, labels, threshold=0.9, min_kept_fraction=0.5) == 0
    assert losses.cross_entropy(logits, labels) == 0


@pytest.mark.parametrize("name", LOSSES)
def test_nothing_labelled_gives_zero_and_zero_gradients(name):
    logits, labels = example(0, ignored=2.0)
    value, gradient = value_and_gradient(name)(logits, labels)
    assert value == 0
    assert (np.asarray(gradient) == 0).all()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("content", [0.0, np.inf, np.nan])
def test_ignored_pixels_have_zero_gradient_whatever_they_hold(name, content):
    logits, labels = example(1)
    expected, expected_gradient = value_and_gradient(name)(logits, labels)
    logits[labels == 255] = content
    value, gradient = value_and_gradient(name)(logits, labels)
    assert value == expected
    np.testing.assert_array_equal(gradient, expected_gradient)
    assert (np.asarray(gradient)[labels == 255] == 0).all()
    assert (np.asarray(gradient)[labels != 255] != 0).any()


def test_label_smoothing_mixes_in_the_uniform_distribution():
    logits, labels = example(2)
    log_p = np.asarray(jax.nn.log_softmax(logits))
    is_labelled = labels != 255
    target = 0.9 * np.eye(4)[np.where(is_labelled, labels, 0)] + 0.1 / 4
    expected = -(target * log_p).sum(-1)[is_labelled].mean()
    assert losses.cross_entropy(logits, labels, label_smoothing=0.1) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("size", [1, 3, 5])
@pytest.mark.parametrize("seed", range(3))
def test_edges_are_dilation_minus_erosion_of_every_class(seed, size):
    _, labels = areas(seed)
    np.testing.assert_array_equal(_edge_pixels(labels, size), slow_edges(labels, size, num_classes=4))


def test_one_area_has_no_edge_even_at_the_border_of_the_image():
    assert not losses.edge_pixels(jnp.full((1, 7, 9), 3), 5).any()
    assert not losses.edge_pixels(jnp.full((1, 7, 9), 255), 5).any()


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("seed", range(3))
def test_dice_edge_equals_its_definition(seed, weights):
    logits, dense = areas(seed)
    sparse = np.where(np.random.default_rng(seed).random(dense.shape) < 0.97, 255, dense)
    for labels in (dense, sparse):
        assert _dice(logits, labels) == pytest.approx(slow_dice(logits, labels), rel=1e-5)
        for options in ((1.0, 0.5, 5), (0.3, 1.0, 5), (0.0, 0.0, 5)):
            names = dict(zip(("dice_weight", "edge_weight", "edge_size"), options, strict=True))
            ours = _dice_edge(logits, labels, class_weights=weights, **names)
            assert ours == pytest.approx(slow_dice_edge(logits, labels, weights, *options), rel=1e-5)


def test_the_gradient_of_dice_edge_is_that_of_its_definition():
    logits, labels = areas(0)
    gradient = np.asarray(jax.jit(jax.grad(losses.dice_edge))(logits, labels))
    rng = np.random.default_rng(0)
    for _ in range(3):
        direction = rng.standard_normal(logits.shape)
        above, below = (slow_dice_edge(logits + sign * 1e-4 * direction, labels, None, 1.0, 0.5, 5) for sign in (1, -1))
        assert (gradient * direction).sum() == pytest.approx((above - below) / 2e-4, rel=1e-3)


def test_dice_is_0_for_a_perfect_prediction_and_near_1_for_a_wrong_one():
    labels = np.repeat(np.arange(4), 64).reshape(1, 16, 16)
    perfect = 200.0 * (labels[..., None] == np.arange(4)) - 100
    assert _dice(perfect, labels) == pytest.approx(0, abs=1e-6)
    assert _dice(perfect, (labels + 1) % 4) > 0.99


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


@pytest.mark.parametrize("name", LOSSES)
def test_a_label_that_no_class_has_is_not_finite(name):
    """The backstop where labels were not checked: such a loss stops training."""
    loss = losses.make_loss(
        name, ohem_threshold=0.9, ohem_min_kept_fraction=0.1, class_weights=None, label_smoothing=0.0
    )
    labels = jnp.array([[[1, 3, 255, 0]]])  # three classes
    logits = jax.random.normal(jax.random.key(0), (1, 1, 4, 3))
    assert not jnp.isfinite(loss(logits, labels))
    assert jnp.isfinite(loss(logits, labels.at[0, 0, 1].set(2)))
