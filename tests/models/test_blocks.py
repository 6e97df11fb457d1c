"""Blocks against independent, slow implementations; any input size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ddrnet_jax import DDRNet
from ddrnet_jax.models import batch_norm, blocks, platforms, variables
from ddrnet_jax.models.ddrnet import normalise
from ddrnet_jax.models.relu import relu
from ddrnet_jax.models.variants import VARIANTS, Variant

RNG = np.random.default_rng(0)


def slow_resize(x, size_hw):
    """Half-pixel bilinear, written as a loop over output pixels. x [h,w]"""
    h, w = x.shape
    out = np.zeros(size_hw)
    for i in range(size_hw[0]):
        for j in range(size_hw[1]):
            y = min(max((i + 0.5) * h / size_hw[0] - 0.5, 0), h - 1)
            z = min(max((j + 0.5) * w / size_hw[1] - 0.5, 0), w - 1)
            a, b = int(y), int(z)
            c, d = min(a + 1, h - 1), min(b + 1, w - 1)
            top = x[a, b] * (1 - z + b) + x[a, d] * (z - b)
            bottom = x[c, b] * (1 - z + b) + x[c, d] * (z - b)
            out[i, j] = top * (1 - y + a) + bottom * (y - a)
    return out


@pytest.mark.parametrize(
    ("shape", "size_hw"), [((2, 3), (4, 6)), ((8, 12), (15, 23)), ((1, 1), (5, 4)), ((3, 5), (24, 40))]
)
def test_resize_equals_its_definition(shape, size_hw):
    x = RNG.standard_normal(shape).astype(np.float32)
    ours = blocks.resize(x[None, :, :, None], size_hw)[0, :, :, 0]
    np.testing.assert_allclose(ours, slow_resize(x, size_hw), atol=1e-5)


@pytest.mark.parametrize("size_hw", [(24, 40), (23, 33), (17, 40), (24, 35)])
def test_upsample_x8_is_the_resize_by_eight_cropped(size_hw):
    x = RNG.standard_normal((3, 5)).astype(np.float32)
    ours = blocks.upsample_x8(jnp.asarray(x)[None, :, :, None], size_hw)
    assert ours.shape == (1, *size_hw, 1)
    expected = slow_resize(x, (24, 40))[: size_hw[0], : size_hw[1]]
    np.testing.assert_allclose(ours[0, :, :, 0], expected, atol=1e-5)


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
def test_relu_and_its_slope(platform):
    x, gradient = np.array([-2.5, -0.0, 0.0, 1e-30, 3.0], np.float32), np.array([2.0, 3.0, 4.0, 5.0, -6.0], np.float32)
    with platforms.compiled_for(platform):
        y, backward = jax.vjp(relu, x)
    np.testing.assert_array_equal(y, np.maximum(x, 0))
    np.testing.assert_array_equal(backward(gradient)[0], [0, 0, 0, 5, -6])
    with platforms.compiled_for(platform):
        assert ("sign" in str(jax.make_jaxpr(jax.grad(relu))(1.0))) == (platform == "gpu")


@pytest.mark.parametrize(("size", "stride"), [(5, 2), (9, 4), (17, 8)])
def test_average_pool_counts_the_padding(size, stride):
    x = RNG.standard_normal((1, 7, 10, 2)).astype(np.float32)
    ours = np.asarray(blocks.average_pool(jnp.asarray(x), size, stride))
    padded = np.pad(x, ((0, 0), (size // 2,) * 2, (size // 2,) * 2, (0, 0)))
    rows, columns = ((n - 1) // stride + 1 for n in (7, 10))
    assert ours.shape == (1, rows, columns, 2)
    for i in range(rows):
        for j in range(columns):
            window = padded[0, i * stride : i * stride + size, j * stride : j * stride + size]
            np.testing.assert_allclose(ours[0, i, j], window.sum((0, 1)) / size**2, atol=1e-5)


def plain_normalise(x, scale, bias):
    mean = x.mean((0, 1, 2))
    var = jnp.square(x - mean).mean((0, 1, 2))
    return (x - mean) / jnp.sqrt(var + 1e-5) * scale + bias


SUMS = pytest.mark.parametrize("sums", [batch_norm.channel_sums, batch_norm.channel_sums_by_product])


@SUMS
def test_batch_norm_gradients_equal_automatic_differentiation(sums):
    x = jnp.asarray(RNG.standard_normal((3, 4, 5, 6)) * 3 + 100, jnp.float32)
    scale, bias = (jnp.asarray(RNG.standard_normal(6), jnp.float32) for _ in range(2))
    weight = jnp.asarray(RNG.standard_normal(x.shape), jnp.float32)

    def written_out(*arguments):
        return (weight * batch_norm.normalise_by_batch(*arguments, sums)[0]).sum()

    def automatic(*arguments):
        return (weight * plain_normalise(*arguments)).sum()

    for a, b in zip(
        jax.grad(written_out, (0, 1, 2))(x, scale, bias), jax.grad(automatic, (0, 1, 2))(x, scale, bias), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4)


def test_batch_norm_keeps_pytorchs_statistics():
    layer = batch_norm.BatchNorm(1)
    layer.train()
    x = jnp.asarray([1.0, 2.0, 4.0]).reshape(3, 1, 1, 1)
    layer(x)
    assert layer.mean[...][0] == pytest.approx(0.1 * 7 / 3)
    assert layer.var[...][0] == pytest.approx(0.9 + 0.1 * np.var([1, 2, 4], ddof=1))
    layer.eval()
    y = layer(x)
    expected = (1 - 0.1 * 7 / 3) / np.sqrt(0.9 + 0.1 * np.var([1, 2, 4], ddof=1) + 1e-5)
    assert y[0, 0, 0, 0] == pytest.approx(expected, rel=1e-5)


@SUMS
def test_sums_keep_the_digits_of_float32(sums):
    x = RNG.standard_normal((2, 128, 128, 3)).astype(np.float32) + 1
    np.testing.assert_allclose(jax.jit(sums)(x), x.sum((0, 1, 2), np.float64), rtol=2e-6)


@pytest.mark.parametrize(("platform", "is_product"), [("cpu", True), ("gpu", False), ("tpu", False)])
def test_batch_norm_sums_by_products_on_cpus(platform, is_product):
    with platforms.compiled_for(platform):
        text = str(jax.make_jaxpr(lambda x: batch_norm.BatchNorm(5)(x))(jnp.ones((2, 3, 4, 5))))
    assert ("dot_general" in text) is is_product


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_variance_does_not_cancel_and_bfloat16_keeps_float32_statistics(platform):
    layer = batch_norm.BatchNorm(1, dtype=jnp.bfloat16)
    layer.train()
    x = jnp.asarray(RNG.standard_normal((4, 8, 8, 1)) + 1e4, jnp.float32)
    with platforms.compiled_for(platform):
        layer(x)
    assert layer.var[...].dtype == jnp.float32
    assert layer.var[...][0] == pytest.approx(0.9 + 0.1 * float(np.var(np.asarray(x), ddof=1)), rel=1e-3)
    assert layer(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16


def test_one_value_per_channel_is_refused():
    layer = batch_norm.BatchNorm(3)
    layer.train()
    with pytest.raises(ValueError, match="batch of at least 2 images"):
        layer(jnp.zeros((1, 1, 1, 3)))


@pytest.mark.parametrize("size_hw", [(64, 64), (67, 71), (100, 180), (8, 8), (33, 95)])
def test_any_size_gives_ceil_of_an_eighth(size_hw):
    model = nnx.eval_shape(lambda: DDRNet("23_slim", num_classes=5, aux_head=True, rngs=nnx.Rngs(0)))
    model.eval()
    out = nnx.eval_shape(lambda m, x: m(x), model, jax.ShapeDtypeStruct((1, *size_hw, 3), jnp.float32))
    expected = (1, -(-size_hw[0] // 8), -(-size_hw[1] // 8), 5)
    assert out.logits.shape == out.aux_logits.shape == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"variant": "23-slim"}, "unknown variant '23-slim'; one of 23_slim, 23, 39"),
        ({"task": "detection"}, "unknown task"),
        ({"num_classes": 0}, "num_classes is 0"),
        ({"task": "classification", "aux_head": True}, "a classifier has no auxiliary head"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    options = {"variant": "23_slim", "num_classes": 3, "rngs": nnx.Rngs(0)} | arguments
    with pytest.raises(ValueError, match=message):
        DDRNet(options.pop("variant"), **options)


def test_a_line_in_the_table_is_a_network(monkeypatch):
    monkeypatch.setitem(VARIANTS, "24", Variant(8, 1, 2, 1, 3, 1, head_width=16, last_width=32))
    model = nnx.eval_shape(lambda: DDRNet("24", num_classes=5, aux_head=True, rngs=nnx.Rngs(0)))
    assert len(model.stage3) == 3
    out = nnx.eval_shape(lambda m, x: m(x), model, jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32))
    assert out.logits.shape == out.aux_logits.shape == (2, 8, 8, 5)


def test_bfloat16_keeps_float32_parameters_statistics_and_logits():
    def build():
        return DDRNet("23_slim", num_classes=5, aux_head=True, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))

    model = nnx.eval_shape(build)
    _, params, stats = variables.split(model)
    assert {leaf.dtype for leaf in jax.tree.leaves((params, stats))} == {jnp.dtype("float32")}
    out = nnx.eval_shape(lambda m, x: m(x), model, jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32))
    assert out.logits.dtype == out.aux_logits.dtype == jnp.float32


def test_initialisation_is_the_references_and_the_same_under_jit():
    model = DDRNet("23_slim", num_classes=5, rngs=nnx.Rngs(0))
    _, params, _ = variables.split(model)
    flat = variables.paths(params)
    for path, leaf in flat.items():
        if path.endswith("kernel") and leaf.size > 10_000:
            height, width, _, cout = leaf.shape
            assert np.std(leaf) == pytest.approx(np.sqrt(2 / (height * width * cout)), rel=0.03), path
            assert np.abs(leaf).max() > 3.5 * np.std(leaf)  # untruncated
    bound = (3 * 9) ** -0.5
    stem_bias = np.asarray(flat["stem.0.conv.bias"])
    assert np.abs(stem_bias).max() <= bound
    assert np.abs(stem_bias).max() > 0.8 * bound
    traced = jax.jit(lambda: variables.split(DDRNet("23_slim", num_classes=5, rngs=nnx.Rngs(0)))[1])()
    for path, leaf in variables.paths(traced).items():
        np.testing.assert_array_equal(leaf, flat[path])
    other = variables.paths(variables.split(DDRNet("23_slim", num_classes=5, rngs=nnx.Rngs(1)))[1])
    assert (
        np.asarray(other["layer2.blocks.0.conv_bn1.conv.kernel"]) != flat["layer2.blocks.0.conv_bn1.conv.kernel"]
    ).any()


def test_normalise_is_the_imagenet_statistics():
    images = RNG.integers(0, 256, (1, 2, 2, 3), dtype=np.uint8)
    expected = (images / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(normalise(images), expected, rtol=1e-5, atol=1e-6)
