"""What the network sees of an image: the mean over scales, mirror images and overlapping tiles, written out slowly."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ddrnet_jax.errors import UserError
from ddrnet_jax.evaluation.evaluate import Evaluator
from ddrnet_jax.evaluation.views import View, averaged_logits, prediction_program, sure_mask_program, tile_starts
from ddrnet_jax.models import blocks, variables
from ddrnet_jax.models.ddrnet import Output, normalise
from ddrnet_jax.runtime import devices

CLASSES = 4
RNG = np.random.default_rng(1)


class Tiny(nnx.Module):
    """A stride-8 network that also sees the mean of its input, as DAPPM's global branch does."""

    traces = 0

    def __init__(self, rngs):
        self.conv = nnx.Conv(3, CLASSES, (9, 9), strides=8, padding=((4, 4), (4, 4)), rngs=rngs)

    def __call__(self, x):
        Tiny.traces += 1
        seen = self.conv(x)
        return Output(seen * jax.nn.sigmoid(seen.mean((1, 2), keepdims=True)))


@pytest.fixture(scope="module")
def model():
    return Tiny(nnx.Rngs(0))


def images_of(*size_hw, count=2):
    return RNG.integers(0, 256, (count, *size_hw, 3), dtype=np.uint8)


def slow_tiles(model, x, tile_hw, corners):
    """Cell by cell of 8x8 pixels: the mean over the tiles that see it; then at every pixel."""
    cells_hw = [-(-n // 8) for n in x.shape[1:3]]
    padded = np.zeros((x.shape[0], 8 * cells_hw[0], 8 * cells_hw[1], 3), np.float32)
    padded[:, : x.shape[1], : x.shape[2]] = x
    total, seen_by = np.zeros((x.shape[0], *cells_hw, CLASSES)), np.zeros(cells_hw)
    for top, left in corners:
        tile = np.asarray(model(padded[:, top : top + tile_hw[0], left : left + tile_hw[1]]).logits)
        assert tile.shape[1:3] == (tile_hw[0] // 8, tile_hw[1] // 8)
        for i in range(tile.shape[1]):
            for j in range(tile.shape[2]):
                total[:, top // 8 + i, left // 8 + j] += tile[:, i, j]
                seen_by[top // 8 + i, left // 8 + j] += 1
    assert seen_by.min() >= 1
    assert seen_by.max() > 1
    mean = jnp.asarray(total / seen_by[None, :, :, None], jnp.float32)
    return np.asarray(blocks.upsample_x8(mean, x.shape[1:3]))


def test_tiles_are_averaged_where_they_overlap(model):
    images = images_of(40, 59)
    corners = [(top, left) for top in (0, 16) for left in (0, 16, 32)]
    expected = slow_tiles(model, np.asarray(normalise(images)), (24, 32), corners)
    tiled = averaged_logits(model, images, View(tile_hw=(24, 32)))
    np.testing.assert_allclose(tiled, expected, atol=2e-5)
    assert np.abs(tiled - averaged_logits(model, images)).max() > 1e-2, "what the tiles do not see must matter"


def test_tiles_of_every_scale_and_mirror_image(model):
    images = images_of(32, 40)
    x = normalise(images)
    total = 0
    for scale_hw, tops, lefts in (((32, 40), (0,), (0, 8)), ((48, 64), (0, 16), (0, 16, 32))):
        scaled = np.asarray(blocks.resize(x, scale_hw))
        corners = [(top, left) for top in tops for left in lefts]
        for mirror in (1, -1):
            seen = slow_tiles(model, scaled[:, :, ::mirror], (32, 32), corners)
            total += blocks.resize(jnp.asarray(seen), (32, 40))[:, :, ::mirror]
    ours = averaged_logits(model, images, View(scales=(1.0, 1.5), flip=True, tile_hw=(32, 32)))
    np.testing.assert_allclose(ours, total / 4, atol=2e-5)


def slow_resize(x, size_hw):
    """Bilinear, half-pixel centres, one row and one column after another, in float64: [h,w,C] -> [H,W,C]"""
    for axis, length in enumerate(size_hw):
        x = np.moveaxis(x, axis, 0)
        rows = []
        for i in range(length):
            at = min(max((i + 0.5) * len(x) / length - 0.5, 0), len(x) - 1)
            low = int(at)
            high = min(low + 1, len(x) - 1)
            rows.append((1 - (at - low)) * x[low] + (at - low) * x[high])
        x = np.moveaxis(np.array(rows), 0, axis)
    return x


def slow_passes(model, image, scales_hw):
    """The logits at image size of each size and its mirror image: f64[P,H,W,C]; all sizes are multiples of 8."""
    x = slow_resize(np.asarray(normalise(image), np.float64), image.shape[:2])
    found = []
    for size_hw in scales_hw:
        scaled = slow_resize(x, size_hw)
        for mirror in (1, -1):
            logits = np.asarray(model(scaled[None, :, ::mirror].astype(np.float32)).logits[0], np.float64)
            at_size = slow_resize(slow_resize(logits, size_hw), image.shape[:2])
            found.append(at_size[:, ::mirror])
    return np.array(found)


def softmax(logits):
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


@pytest.fixture(scope="module")
def passes(model):
    """An image, the view of two scales and their mirror images, and the logits of the four"""
    image = images_of(32, 48, count=1)[0]
    return image, View(scales=(1.0, 0.5), flip=True), slow_passes(model, image, [(32, 48), (16, 24)])


def test_either_logits_or_probabilities_are_averaged(model, passes):
    image, view, passes = passes
    by_logits, by_probabilities = passes.mean(0), softmax(passes).mean(0)
    np.testing.assert_allclose(averaged_logits(model, image[None], view)[0], by_logits, atol=2e-5)
    ours = averaged_logits(model, image[None], dataclasses.replace(view, average="probabilities"))[0]
    np.testing.assert_allclose(jax.nn.softmax(ours), by_probabilities, atol=1e-5)
    assert (by_logits.argmax(-1) != by_probabilities.argmax(-1)).mean() > 0.002, "the two must differ somewhere"


def test_every_program_averages_as_its_view_says(model, passes):
    image, view, passes = passes
    graphdef, *weights = variables.split(model)
    expected, view = softmax(passes).mean(0), dataclasses.replace(view, average="probabilities")
    mask = np.asarray(prediction_program(graphdef, lambda p: p, view)(weights, image[None]))[0]
    top = np.sort(expected, -1)
    limit = np.median(top[..., -1])
    best, sure = (np.asarray(found)[0] for found in sure_mask_program(graphdef, view)(weights, image[None], limit))
    is_clear = top[..., -1] - top[..., -2] > 1e-4
    assert is_clear.mean() > 0.99
    for found in (mask, best):
        np.testing.assert_array_equal(found[is_clear], expected.argmax(-1)[is_clear])
    differ = (sure != 255) != (top[..., -1] >= limit)
    assert (np.abs(top[..., -1][differ] - limit) < 1e-4).all()


def test_of_one_pass_there_is_nothing_to_average(model):
    images = images_of(40, 51)
    np.testing.assert_array_equal(
        averaged_logits(model, images, View(average="probabilities")), averaged_logits(model, images)
    )


def test_another_average_is_refused():
    with pytest.raises(UserError, match=r"View\(average='mean'\): expected one of 'logits', 'probabilities'"):
        View(average="mean")


@pytest.mark.parametrize("tile_hw", [(40, 56), (64, 64), (40, 1024)])
def test_one_tile_that_covers_the_image_is_the_whole_image(model, tile_hw):
    images = images_of(40, 51)
    for options in ({}, {"flip": True}, {"scales": (0.5, 1.0), "flip": True}):
        whole = averaged_logits(model, images, View(**options))
        np.testing.assert_array_equal(averaged_logits(model, images, View(tile_hw=tile_hw, **options)), whole)


def test_tiles_cover_everything_evenly_with_a_third_in_common():
    for length in range(1, 200):
        for tile in (1, 2, 3, 8, 64):
            tile = min(tile, length)
            starts = tile_starts(length, tile)
            assert (starts[0], starts[-1]) == (0, length - tile)
            steps = np.diff(starts)
            assert all(step <= max(1, tile * 2 / 3) for step in steps)
            assert not len(steps) or steps.max() - steps.min() <= 1
            most = max(1, tile - -(-tile // 3))
            assert len(starts) == 1 or (len(starts) - 2) * most < length - tile, "one tile fewer would not do"


class Wide(nnx.Module):
    """Many channels at full size before stride 8: the memory is the network's."""

    def __init__(self, rngs):
        self.wide = nnx.Conv(3, 64, (3, 3), rngs=rngs)
        self.last = nnx.Conv(64, 2, (8, 8), strides=8, rngs=rngs)

    def __call__(self, x):
        return Output(self.last(jax.nn.relu(self.wide(x))))


def test_the_memory_is_that_of_one_tile():
    graphdef, *weights = variables.split(Wide(nnx.Rngs(0)))

    def temporary_bytes(tile_hw):
        program = prediction_program(graphdef, lambda p: p, View(tile_hw=tile_hw))
        lowered = program.lower(weights, jax.ShapeDtypeStruct((1, 256, 256, 3), jnp.uint8))
        return lowered.compile().memory_analysis().temp_size_in_bytes

    assert temporary_bytes((64, 64)) < temporary_bytes(None) / 4


@pytest.mark.parametrize("device_count", [1, 4])
def test_an_evaluator_with_tiles_counts_what_the_tiles_predict(model, device_count):
    sizes = [(40, 48), (24, 32), (40, 48)]
    samples = [{"image": images_of(*hw, count=1)[0], "label": RNG.integers(0, CLASSES, hw, np.uint8)} for hw in sizes]
    total = np.zeros((CLASSES, CLASSES), np.int64)
    for sample in samples:
        logits = averaged_logits(model, sample["image"][None], View(flip=True, tile_hw=(32, 32)))
        np.add.at(total, (sample["label"], np.asarray(logits).argmax(-1)[0]), 1)
    graphdef, params, stats = variables.split(model)
    mesh = devices.data_mesh(jax.devices()[:device_count])
    evaluator = Evaluator(graphdef, CLASSES, mesh, batch_size=2, view=View(flip=True, tile_hw=(32, 32)))
    np.testing.assert_array_equal(evaluator(params, stats, samples).confusion, total)


def test_with_size_hw_the_network_is_compiled_once(model):
    graphdef, *weights = variables.split(model)
    program = prediction_program(graphdef, lambda p: p, View(size_hw=(16, 24)))
    before = Tiny.traces
    for size_hw in ((24, 32), (17, 40), (24, 32)):
        assert program(weights, images_of(*size_hw)).shape == (2, *size_hw)
    assert Tiny.traces == before + 1
