"""The form for GPUs against jax.image.resize, and the network in it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from flax import nnx

from ddrnet_jax import DDRNet
from ddrnet_jax.models import blocks, interpolation, platforms, variables
from ddrnet_jax.models.folding import fold

RNG = np.random.default_rng(0)
SIZES = [((8, 16), (16, 32)), ((1, 1), (5, 4)), ((9, 7), (17, 23)), ((23, 33), (11, 40)), ((4, 8), (32, 64))]


def by_jax(x, size_hw):
    return jax.image.resize(x, (x.shape[0], *size_hw, x.shape[3]), "bilinear", antialias=False)


@pytest.mark.parametrize(("shape", "size_hw"), SIZES)
def test_values_and_gradients_are_those_of_jax(shape, size_hw):
    x = jnp.asarray(RNG.standard_normal((2, *shape, 3)), jnp.float32)
    weight = jnp.asarray(RNG.standard_normal((2, *size_hw, 3)), jnp.float32)
    found, of_input = jax.vjp(lambda x: interpolation.by_constants(x, size_hw), x)
    expected, of_input_by_jax = jax.vjp(lambda x: by_jax(x, size_hw), x)
    np.testing.assert_allclose(found, expected, atol=1e-5)  # whose positions are float32
    np.testing.assert_allclose(of_input(weight)[0], of_input_by_jax(weight)[0], rtol=1e-5, atol=1e-5)


def test_bfloat16_is_rounded_once():
    x = jnp.asarray(RNG.standard_normal((1, 5, 6, 2)), jnp.bfloat16)
    found = interpolation.by_constants(x, (20, 24))
    expected = interpolation.by_constants(x.astype(jnp.float32), (20, 24)).astype(jnp.bfloat16)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("platform", "is_constant"), [("cpu", False), ("gpu", True), ("tpu", False)])
def test_gpus_alone_resize_by_constants(platform, is_constant):
    def traced(size_hw):
        with platforms.compiled_for(platform):
            return str(jax.make_jaxpr(lambda x: blocks.resize(x, size_hw))(jnp.ones((1, 4, 6, 2))))

    assert ("gather" in traced((8, 12))) is is_constant
    assert "gather" not in traced((4, 6)), "of its own size a map stays as it is"


def test_a_size_that_is_a_symbol_is_left_to_jax():
    shape = jax.ShapeDtypeStruct(jax.export.symbolic_shape("1, h, w, 2"), jnp.float32)

    def doubled(x):
        with platforms.compiled_for("gpu"):
            return blocks.resize(x, (2 * x.shape[1], 2 * x.shape[2]))

    exported = jax.export.export(jax.jit(doubled))(shape)
    x = RNG.standard_normal((1, 3, 4, 2)).astype(np.float32)
    np.testing.assert_allclose(exported.call(x), by_jax(x, (6, 8)), atol=1e-6)


def test_the_network_has_the_same_logits_and_gradients():
    """In float64, where only a difference in mathematics would show; positions of jax.image.resize are float32."""
    with small.in_place_of_23_slim():
        model = DDRNet("23_slim", num_classes=5, rngs=nnx.Rngs(0))
    model.eval()
    graphdef, params, batch_stats = variables.split(fold(model))

    def result(platform, params, batch_stats, images):
        def loss(params):
            with platforms.compiled_for(platform):
                return jnp.square(variables.merge(graphdef, params, batch_stats)(images).logits).mean()

        return jax.value_and_grad(loss)(params)

    with jax.enable_x64(True):
        weights = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), (params, batch_stats))
        images = jnp.asarray(RNG.standard_normal((1, 128, 192, 3)), jnp.float64)
        found, expected = (jax.jit(result, static_argnums=0)(platform, *weights, images) for platform in ("gpu", "cpu"))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6 * np.abs(b).max())
