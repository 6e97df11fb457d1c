"""Rematerialisation: less is kept for the gradients, which stay the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from float64_steps import build_small, damped

from ddrnet_jax.models import variables
from ddrnet_jax.training.objective import training_forward

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 96, 96, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def parts():
    return variables.split(build_small(nnx.Rngs(0)))


def test_half_or_less_is_kept(parts):
    graphdef, params, batch_stats = parts

    def kept_bytes(remat):
        forward = training_forward(graphdef, "cpu", remat=remat)
        kept = jax.eval_shape(lambda p: jax.vjp(lambda p: forward(p, batch_stats, IMAGES)[0], p)[1], params)
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(kept) if leaf.shape[:1] == (4,))

    assert kept_bytes(True) < 0.5 * kept_bytes(False)


def test_no_convolution_is_computed_again(parts):
    graphdef, params, batch_stats = parts

    def convolutions(remat):
        forward = training_forward(graphdef, "cpu", remat=remat)
        gradient = jax.grad(lambda p: sum(x.sum() for x in forward(p, batch_stats, IMAGES)[0]))
        return jax.jit(gradient).lower(params).as_text().count("stablehlo.convolution")

    assert convolutions(True) == convolutions(False) > 80


@pytest.mark.parametrize("accelerator", ["gpu", "tpu"])
def test_on_accelerators_no_statistic_is_computed_again(parts, accelerator):
    """So that devices do not reduce it a second time; two roots a batch norm would give it away."""
    graphdef, params, batch_stats = parts

    def roots(platform, remat):
        forward = training_forward(graphdef, platform, remat=remat)
        gradient = jax.grad(lambda p: sum(x.sum() for x in forward(p, batch_stats, IMAGES)[0]))
        return jax.jit(gradient).lower(params).as_text().count("stablehlo.rsqrt")

    assert roots(accelerator, True) == roots(accelerator, False)
    assert roots("cpu", True) > roots("cpu", False)


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
def test_outputs_statistics_and_gradients_are_the_same(parts, platform):
    """In float64, where only a difference in mathematics would show."""
    graphdef, params, batch_stats = parts

    def result(remat, params, batch_stats, images):
        forward = training_forward(graphdef, platform, remat=remat)

        def loss(params):
            out, moved = forward(params, batch_stats, images)
            return jnp.square(out.logits).mean() + jnp.square(out.aux_logits).mean(), moved

        return jax.value_and_grad(loss, has_aux=True)(params)

    with jax.enable_x64(True):
        weights = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), (damped(params), batch_stats))
        found, expected = (jax.jit(result, static_argnums=0)(remat, *weights, IMAGES) for remat in (True, False))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        rounding = 1e-14  # all there is of gradients that batch norm takes away
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12 * np.abs(b).max() + rounding)
