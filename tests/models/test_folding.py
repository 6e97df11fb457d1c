"""The inference network computes what the training network does in eval mode, with fewer operations."""

import jax
import jax.numpy as jnp
import numpy as np
import parity_fixtures as fixtures
import pytest
from flax import nnx

from ddrnet_jax import DDRNet
from ddrnet_jax.models import variables
from ddrnet_jax.models.batch_norm import BatchNorm
from ddrnet_jax.models.folding import fold
from ddrnet_jax.weights.state_dicts import load_state_dict

pytestmark = pytest.mark.as_users


def logits(model, images):
    graphdef, params, batch_stats = variables.split(model)
    return np.asarray(jax.jit(lambda *w: variables.merge(graphdef, *w)(images).logits)(params, batch_stats))


def batch_norms(model):
    return [path for path, module in nnx.iter_modules(model) if isinstance(module, BatchNorm)]


@pytest.fixture(scope="module")
def trained():
    model = DDRNet("23_slim", num_classes=19, aux_head=True, rngs=nnx.Rngs(0))
    load_state_dict(model, fixtures.state_dict("slim_seg"))
    model.eval()
    return model


def test_folded_gives_the_same_logits(trained):
    images = np.random.default_rng(0).standard_normal((1, 64, 96, 3)).astype(np.float32)
    before = logits(trained, images)
    np.testing.assert_allclose(logits(fold(trained), images), before, atol=1e-5 * np.abs(before).max())


def test_what_follows_a_convolution_is_gone_and_the_model_given_is_untouched(trained):
    folded = fold(trained)
    assert {str(path[0]) for path in batch_norms(folded)} == {"dappm", "head"}
    assert len(batch_norms(folded)) == 11 + 1  # 5 scales, 4 processes, compression, shortcut; the head's first
    assert folded.aux_head is None
    assert trained.aux_head is not None
    assert len(batch_norms(trained)) == 57


@pytest.mark.parametrize(("dtype", "error"), [(jnp.bfloat16, 0.04), (jnp.float16, 0.004)])
def test_kernels_are_rounded_to_the_type_computed_in(trained, dtype, error):
    wide, rounded = fold(trained), fold(trained, dtype)
    params, expected = (variables.paths(variables.split(model)[1]) for model in (rounded, wide))
    for path, leaf in params.items():
        is_rounded = ".conv." in path
        assert leaf.dtype == (dtype if is_rounded else jnp.float32), path
        np.testing.assert_array_equal(leaf, expected[path].astype(leaf.dtype))
    images = np.random.default_rng(0).standard_normal((1, 64, 96, 3)).astype(np.float32)
    of_float32 = logits(wide, images)
    np.testing.assert_allclose(logits(rounded, images), of_float32, atol=error * np.abs(of_float32).max())


def test_rounded_kernels_give_what_rounding_in_every_call_gave(trained):
    rounded, in_every_call = fold(trained, jnp.bfloat16), fold(trained)
    for _, module in nnx.iter_modules(in_every_call):
        if hasattr(module, "dtype"):
            module.dtype = jnp.bfloat16
    images = np.random.default_rng(0).standard_normal((1, 64, 96, 3)).astype(np.float32)
    np.testing.assert_array_equal(logits(rounded, images), logits(in_every_call, images))
