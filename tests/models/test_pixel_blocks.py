"""Maps in blocks of pixels: the convolution's, the batch norm's and the whole network's numbers stay the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from flax import nnx

from ddrnet_jax import DDRNet
from ddrnet_jax.models import pixel_blocks, platforms, variables
from ddrnet_jax.models.batch_norm import BatchNorm
from ddrnet_jax.models.ddrnet import VARIANTS
from ddrnet_jax.models.folding import fold

RNG = np.random.default_rng(0)


def out_of_blocks(x, side):
    batch, h, w, channels = x.shape
    pixels = x.reshape(batch, h, w, side, side, channels // side**2).transpose(0, 1, 3, 2, 4, 5)
    return pixels.reshape(batch, h * side, w * side, -1)


def test_blocks_hold_the_pixels_by_row_and_column():
    x = jnp.asarray(RNG.standard_normal((2, 8, 12, 3)), jnp.float32)
    np.testing.assert_array_equal(out_of_blocks(pixel_blocks.in_blocks(x, 4), 4), x)


@pytest.mark.parametrize("sides", [(4, 2), (2, 2), (2, 1), (1, 2)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [1, 3])
def test_the_convolution_of_blocks_is_the_convolution(size, stride, sides):
    side, out = sides
    if out * stride % side:
        pytest.skip("the result's blocks are no whole blocks of the input")
    x = jnp.asarray(RNG.standard_normal((2, 8, 16, 3)), jnp.float32)
    kernel = jnp.asarray(RNG.standard_normal((size, size, 3, 5)), jnp.float32)
    padding = ((size // 2, size // 2),) * 2
    numbers = ("NHWC", "HWIO", "NHWC")
    expected = jax.lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=numbers)
    ours = pixel_blocks.blocked_conv(pixel_blocks.in_blocks(x, side), kernel, stride=stride, sides=sides)
    np.testing.assert_allclose(out_of_blocks(ours, out), expected, atol=2e-5)


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
@pytest.mark.parametrize("is_training", [True, False])
def test_batch_norm_of_blocks_is_batch_norm_with_its_gradients(platform, is_training):
    """Whichever way the plain one sums."""
    x = jnp.asarray(RNG.standard_normal((3, 4, 6, 5)) * 3 + 10, jnp.float32)
    scale, bias = (jnp.asarray(RNG.standard_normal(5), jnp.float32) for _ in range(2))
    weight = jnp.asarray(RNG.standard_normal(x.shape), jnp.float32)

    def result(layer, into, out_of):
        def loss(x, scale, bias):
            bn = BatchNorm(5)
            bn.scale[...], bn.bias[...], bn.use_running_average = scale, bias, not is_training
            y = out_of(layer(bn)(into(x)))
            return (weight * y).sum(), (y, bn.mean[...], bn.var[...])

        with platforms.compiled_for(platform):
            return jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)(x, scale, bias)

    plain = result(lambda bn: bn, lambda x: x, lambda y: y)
    in_blocks = result(
        lambda bn: pixel_blocks._BatchNormOfBlocks(bn, 2),
        lambda x: pixel_blocks.in_blocks(x, 2),
        lambda y: out_of_blocks(y, 2),
    )
    for a, b in zip(jax.tree.leaves(in_blocks), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5)


def network():
    with small.in_place_of_23_slim():
        model = DDRNet("23_slim", num_classes=19, rngs=nnx.Rngs(0))
    for _, module in nnx.iter_modules(model):
        if isinstance(module, BatchNorm):
            module.mean[...] = jnp.asarray(RNG.normal(0, 0.1, module.mean.shape), jnp.float32)
            module.bias[...] = jnp.asarray(RNG.normal(0, 0.1, module.bias.shape), jnp.float32)
    return model


def test_the_folded_network_for_tpus_has_the_same_logits():
    model, images = network(), jnp.asarray(RNG.standard_normal((2, 64, 128, 3)), jnp.float32)

    def logits(platform):
        with platforms.compiled_for(platform):
            return nnx.jit(lambda folded, x: folded(x).logits)(fold(model), images)

    plain, in_blocks = logits("cpu"), logits("tpu")
    assert 0 < jnp.abs(in_blocks - plain).max() < 1e-5 * jnp.abs(plain).max()


def test_training_in_blocks_moves_the_same_statistics_and_has_the_same_gradients():
    """In float64, so that what is not rounding would be seen; images of 1/64 have 8 pixels, enough for statistics."""
    model = network()
    graphdef, *state = variables.split(model)
    images = RNG.standard_normal((2, 128, 128, 3))

    def result(platform, params, batch_stats):
        def loss(params):
            trunk = variables.merge(graphdef, params, batch_stats)
            trunk.train()
            with platforms.compiled_for(platform):
                form = pixel_blocks.form(trunk) if platform == "tpu" else trunk
                eighth = form._to_eighth(jnp.asarray(images))
            return jnp.square(eighth).mean() + eighth.mean(), (eighth, variables.batch_stats(trunk))

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(params)

    with jax.enable_x64(True):
        state = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), state)
        plain, in_blocks = (jax.tree.leaves(result(platform, *state)) for platform in ("cpu", "tpu"))
    for a, b in zip(in_blocks, plain, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_only_tpus_and_only_the_slim_network_take_blocks_and_only_of_sizes_that_suit():
    def takes(variant, platform, height=64, width=128):
        model = models[variant]
        with platforms.compiled_for(platform):
            return used(model, jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)) is not model

    used = pixel_blocks.in_blocks_on_tpus(lambda model, images: model)
    models = {v: nnx.eval_shape(lambda v=v: DDRNet(v, num_classes=19, rngs=nnx.Rngs(0))) for v in VARIANTS}
    taken = {(v, p) for v in VARIANTS for p in ("cpu", "gpu", "tpu") if takes(v, p)}
    assert taken == {("23_slim", "tpu")}
    assert not takes("23_slim", "tpu", 60, 72)
    assert not takes("23_slim", "tpu", *jax.export.symbolic_shape("h, w"))
    with platforms.compiled_for("tpu"):
        assert fold(network())(jnp.zeros((1, 60, 72, 3))).logits.shape == (1, 8, 9, 19)


def test_a_loop_that_knows_of_no_platform_takes_the_form_of_the_default_backend(monkeypatch):
    graphdef, *state = variables.split(nnx.eval_shape(lambda: DDRNet("23_slim", num_classes=19, rngs=nnx.Rngs(0))))
    images = jax.ShapeDtypeStruct((2, 128, 64, 3), jnp.float32)

    def channels_of_first_convolution():
        jaxpr = jax.make_jaxpr(lambda state, x: variables.merge(graphdef, *state)(x).logits)(state, images)
        names = ("conv_general_dilated", "custom_vjp_call")
        return next(e for e in jaxpr.eqns if e.primitive.name in names).invars[0].aval.shape[-1]

    assert channels_of_first_convolution() == 3
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert channels_of_first_convolution() == 16 * 3


def test_a_program_for_one_platform_is_not_taken_for_another():
    model, images = network(), jnp.asarray(RNG.standard_normal((1, 64, 64, 3)), jnp.float32)
    model.eval()
    program = jax.jit(lambda images: model(images).logits)
    texts = []
    for platform in ("cpu", "tpu", "cpu"):
        with platforms.compiled_for(platform):
            texts.append(program.lower(images).as_text())
    assert texts[0] == texts[2] != texts[1]


def test_the_form_shares_the_weights_of_a_network_that_stays_as_it_is():
    model = network()
    graphdef = nnx.split(model)[0]
    form = pixel_blocks.form(model)
    assert nnx.split(model)[0] == graphdef
    theirs = {id(leaf) for leaf in jax.tree.leaves(nnx.state(form), is_leaf=lambda x: isinstance(x, nnx.Variable))}
    ours = {id(leaf) for leaf in jax.tree.leaves(nnx.state(model), is_leaf=lambda x: isinstance(x, nnx.Variable))}
    assert theirs == ours
