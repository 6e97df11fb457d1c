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


@pytest.mark.parametrize("cells_hw", [(3, 4), (1, 1), (1, 5), (2, 1)])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, np.array([0.5, 2.0, 1.0, 1.5, 3.0])])
@pytest.mark.parametrize("name", LOSSES)
def test_value_and_gradient_are_the_same(name, weights, label_smoothing, cells_hw):
    """In float64, where only a difference in mathematics would show."""
    loss = functools.partial(LOSSES[name], class_weights=weights, label_smoothing=label_smoothing)
    with jax.enable_x64(True):
        value, gradient = value_and_gradient(loss, "gpu", *example(0, cells_hw))
        expected, expected_gradient = value_and_gradient(loss, "cpu", *example(0, cells_hw))
    assert value == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=0, atol=1e-12 * np.abs(expected_gradient).max())


@pytest.mark.parametrize("name", LOSSES)
def test_the_form_is_taken_for_gpus_and_whole_cells_alone(name):
    def takes(platform, labels):
        with platforms.compiled_for(platform):
            return "take" in str(jax.make_jaxpr(LOSSES[name])(*map(jnp.asarray, (logits, labels))))

    logits, labels = example(0)
    assert takes("gpu", labels)
    assert not takes("cpu", labels)
    assert not takes("tpu", labels)
    assert not takes("gpu", labels[:, :-1])


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
