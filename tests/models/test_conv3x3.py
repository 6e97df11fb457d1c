"""The 3x3 convolution equals XLA's own, its gradients too, for even and odd sizes."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ddrnet_jax import DDRNet
from ddrnet_jax.models import platforms
from ddrnet_jax.models.conv3x3 import conv3x3, convolve
from ddrnet_jax.runtime import devices

PADDING = ((1, 1), (1, 1))
OPTIONS = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size_hw", [(8, 12), (7, 12), (8, 11), (9, 5), (1, 2)])
def test_outputs_and_gradients_are_those_of_the_plain_convolution(size_hw, stride):
    ours, plain = (vjp(f, size_hw, stride, jnp.float32) for f in (conv3x3, jax.lax.conv_general_dilated))
    for a, b in zip(ours, plain, strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, atol=2e-5)


@pytest.mark.parametrize("stride", [1, 2])
def test_gradients_of_a_batch_on_four_devices_are_those_on_one(stride):
    rng = np.random.default_rng(0)
    x, kernel = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((4, 6, 8, 3), (3, 3, 3, 5)))

    def total(x, kernel):
        return jnp.sin(conv3x3(x, kernel, (stride, stride), PADDING, **OPTIONS)).sum()

    gradients = jax.jit(jax.grad(total, (0, 1)))
    mesh = devices.data_mesh(jax.devices()[:4])
    spread = jax.device_put(x, devices.by_batch(mesh)), jax.device_put(kernel, devices.replicated(mesh))
    for one, four in zip(gradients(x, kernel), gradients(*spread), strict=True):
        np.testing.assert_allclose(four, one, atol=2e-5)


@pytest.mark.parametrize("stride", [1, 2])
def test_bfloat16_gradients_are_summed_in_float32(stride):
    exact = vjp(jax.lax.conv_general_dilated, (16, 24), stride, jnp.float32)[2]
    ours = vjp(conv3x3, (16, 24), stride, jnp.bfloat16)[2]
    assert ours.dtype == jnp.bfloat16
    assert np.abs(ours.astype(jnp.float32) - exact).max() < 0.01 * np.abs(exact).max()


def vjp(convolution, size_hw, stride, dtype):
    """The output, and the gradients of x and of the kernel, for the same random numbers of few bits."""
    rng = np.random.default_rng(0)

    def draw(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.bfloat16).astype(dtype)

    x, kernel = draw(2, *size_hw, 3), draw(3, 3, 3, 5)
    dy = draw(2, *(-(-n // stride) for n in size_hw), 5)
    y, gradients = jax.vjp(lambda x, kernel: convolution(x, kernel, (stride, stride), PADDING, **OPTIONS), x, kernel)
    return y, *gradients(dy)


@pytest.mark.parametrize("stride", [1, 2])
def test_the_gradients_are_no_convolution_with_zeros_between_pixels(stride):
    def gradients(x, kernel):
        return jax.grad(lambda *a: (conv3x3(*a, (stride, stride), PADDING, **OPTIONS) ** 2).sum(), (0, 1))(x, kernel)

    text = jax.jit(gradients).lower(jnp.ones((2, 8, 8, 3)), jnp.ones((3, 3, 3, 5))).as_text()
    assert "dot_general" in text
    assert "lhs_dilate = [2, 2]" not in text


@pytest.mark.parametrize("told", [("cpu",), ("gpu",), ("tpu",), ("cpu", "gpu"), ("gpu", "cpu")])
@pytest.mark.parametrize(("size", "stride"), [(3, 1), (3, 2), (1, 1), (1, 2), (3, 3)])
def test_convolutions_use_it_on_cpus_where_it_fits(told, size, stride):
    """What is told last counts."""
    x, kernel, padding = jnp.ones((2, 9, 9, 3)), jnp.ones((size, size, 3, 5)), ((size // 2,) * 2,) * 2
    with contextlib.ExitStack() as contexts:
        for platform in told:
            contexts.enter_context(platforms.compiled_for(platform))
        text = str(jax.make_jaxpr(lambda *a: convolve(*a, (stride, stride), padding, **OPTIONS))(x, kernel))
    assert ("custom_vjp" in text) is (told[-1] == "cpu" and size == 3 and stride < 3)


def test_the_network_uses_it_unasked():
    model = nnx.eval_shape(lambda: DDRNet("23_slim", num_classes=19, rngs=nnx.Rngs(0)))
    assert {m.conv_general_dilated for _, m in nnx.iter_modules(model) if isinstance(m, nnx.Conv)} == {convolve}
    assert platforms.current() == jax.default_backend() == "cpu"


@pytest.mark.parametrize(
    ("stride", "padding", "options"),
    [(3, PADDING, {}), (1, ((0, 0), (0, 0)), {}), (2, PADDING, {"rhs_dilation": (2, 2)})],
)
def test_other_convolutions_are_refused(stride, padding, options):
    with pytest.raises(ValueError, match="expected a 3x3 convolution of stride 1 or 2 and padding 1"):
        conv3x3(jnp.ones((1, 8, 8, 3)), jnp.ones((3, 3, 3, 5)), (stride, stride), padding, **OPTIONS, **options)
