"""The losses' form for GPUs, of logits at stride 8, gives what the logits at image size give."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddrnet_jax.models import platforms
from ddrnet_jax.runtime import devices
from ddrnet_jax.training import losses, softmax_x8

CLASSES = 5
LOSSES = {
    "cross_entropy": losses.cross_entropy,
    "ohem": functools.partial(losses.ohem, threshold=0.3, min_kept_fraction=0.2),
}


def example(seed, cells_hw=(3, 4), batch=2, ignored=0.3):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, (batch, *(8 * n for n in cells_hw))).astype(np.int32)
    labels[rng.random(labels.shape) < ignored] = 255
    return 3 * rng.standard_normal((batch, *cells_hw, CLASSES)), labels


def value_and_gradient(loss, platform, logits, labels):
    def traced(logits, labels):
        with platforms.compiled_for(platform):
            return loss(logits, labels)

    return jax.device_get(jax.jit(jax.value_and_grad(traced))(logits, labels))


def assert_the_same(loss, logits, labels, within=1e-12):
    """In float64, where only a difference in mathematics would show."""
    with jax.enable_x64(True):
        value, gradient = value_and_gradient(loss, "gpu", logits, labels)
        expected, expected_gradient = value_and_gradient(loss, "cpu", logits, labels)
    assert value == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=0, atol=within * np.abs(expected_gradient).max())


@pytest.mark.parametrize("cells_hw", [(3, 4), (1, 1), (1, 5), (2, 1)])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, np.array([0.5, 2.0, 1.0, 1.5, 3.0])])
@pytest.mark.parametrize("name", LOSSES)
def test_value_and_gradient_are_the_same(name, weights, label_smoothing, cells_hw):
    loss = functools.partial(LOSSES[name], class_weights=weights, label_smoothing=label_smoothing)
    assert_the_same(loss, *example(0, cells_hw))


@pytest.mark.parametrize("fraction", [0.1, 0.3, 0.7, 1.0])
def test_as_many_of_the_hardest_pixels_are_kept(fraction):
    """Where no two are alike: among those rounding may decide."""
    assert_the_same(functools.partial(losses.ohem, threshold=0.0, min_kept_fraction=fraction), *example(0))


@pytest.mark.parametrize("name", LOSSES)
def test_large_logits_are_no_overflow(name):
    logits, labels = example(0)
    assert_the_same(LOSSES[name], 400 * logits, labels, within=1e-10)


@pytest.mark.parametrize("name", LOSSES)
def test_the_form_is_taken_for_gpus_and_whole_cells_alone(name):
    def takes(platform, logits, labels):
        with platforms.compiled_for(platform):
            return "take" in str(jax.make_jaxpr(LOSSES[name])(*map(jnp.asarray, (logits, labels))))

    logits, labels = example(0)
    assert takes("gpu", logits, labels)
    assert not takes("cpu", logits, labels)
    assert not takes("tpu", logits, labels)
    assert not takes("gpu", logits, labels[:, :-1])


def test_the_form_keeps_no_sum_in_half_precision():
    logits, labels = example(0)
    with platforms.compiled_for("gpu"):
        assert softmax_x8.suits(jnp.asarray(logits, jnp.float32), labels)
        assert not softmax_x8.suits(jnp.asarray(logits, jnp.bfloat16), labels)


@pytest.mark.parametrize("num_classes", [254, 255, 256, 300])
@pytest.mark.parametrize("label", [3, 254, 256])
def test_many_classes_are_those_that_other_platforms_see(num_classes, label):
    logits, labels = np.zeros((1, 1, 1, num_classes), np.float32), np.zeros((1, 8, 8), np.int32)
    labels[0, 0, 0] = label
    value, expected = (value_and_gradient(losses.cross_entropy, p, logits, labels)[0] for p in ("gpu", "cpu"))
    assert np.isfinite(expected) == (label < num_classes)
    np.testing.assert_allclose(value, expected, rtol=1e-6)


def test_labels_of_another_batch_are_refused():
    logits, labels = example(0)
    with pytest.raises((TypeError, ValueError)):
        value_and_gradient(losses.cross_entropy, "gpu", logits[:1], labels)


def test_nothing_of_all_classes_at_image_size_is_kept():
    logits, labels = map(jnp.asarray, example(0, (8, 8)))

    def kept(loss):
        with platforms.compiled_for("gpu"):
            _, gradient = jax.vjp(lambda x: loss(x, labels), logits)
        return max(leaf.size for leaf in jax.tree.leaves(gradient))

    for loss in LOSSES.values():
        assert kept(loss) < labels.size * CLASSES


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("content", [np.inf, np.nan])
def test_a_cell_among_ignored_pixels_has_no_gradient_whatever_it_holds(name, content):
    logits, labels = example(1, (4, 4))
    labels[0, :20, :20] = 255  # all that take of the cells 0 and 1
    expected, expected_gradient = value_and_gradient(LOSSES[name], "gpu", logits, labels)
    logits[0, 0, 0], logits[0, 1, 1, 2] = content, content
    value, gradient = value_and_gradient(LOSSES[name], "gpu", logits, labels)
    assert value == expected
    np.testing.assert_array_equal(gradient, expected_gradient)
    assert (gradient[0, :2, :2] == 0).all()
    assert (gradient[0, 2:, 2:] != 0).all()


@pytest.mark.parametrize("name", LOSSES)
def test_nothing_labelled_gives_zero_and_zero_gradients(name):
    value, gradient = value_and_gradient(LOSSES[name], "gpu", *example(0, ignored=2.0))
    assert value == 0
    assert (gradient == 0).all()


@pytest.mark.parametrize("label", [-1, CLASSES, 254, 256])
@pytest.mark.parametrize("name", LOSSES)
def test_a_label_that_no_class_has_is_not_finite(name, label):
    logits, labels = example(0)
    labels[1, 9, 9] = label
    assert not np.isfinite(value_and_gradient(LOSSES[name], "gpu", logits, labels)[0])


@pytest.mark.parametrize("name", LOSSES)
def test_four_devices_find_what_one_finds(name):
    logits, labels = example(0, batch=4)
    mesh = devices.data_mesh(jax.devices()[:4])
    with jax.enable_x64(True):
        value, gradient = value_and_gradient(LOSSES[name], "gpu", logits, labels)
        spread = jax.device_put((logits, labels), devices.by_batch(mesh))
        of_four, gradient_of_four = value_and_gradient(LOSSES[name], "gpu", *spread)
    assert of_four == pytest.approx(value, rel=1e-12)
    np.testing.assert_allclose(gradient_of_four, gradient, rtol=0, atol=1e-12 * np.abs(gradient).max())


def test_blocks_hold_the_pixels_between_four_cells():
    labels = jnp.arange(16 * 24).reshape(1, 16, 24) % CLASSES
    blocks = np.asarray(softmax_x8.in_blocks(labels)).reshape(3, 4, 8, 8)
    np.testing.assert_array_equal(blocks[1, 2], labels[0, 4:12, 12:20])
    np.testing.assert_array_equal(blocks[0, 0, 4:, 4:], labels[0, :4, :4])
    assert (blocks[0, :, :4] == 255).all()
    assert (blocks == 255).sum() == blocks.size - labels.size
