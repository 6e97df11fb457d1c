"""Evaluation: every labelled pixel once, whatever the batch size, the sizes of images and the devices."""

import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ddrnet_jax.evaluation import metrics
from ddrnet_jax.evaluation.batches import batches_by_size
from ddrnet_jax.evaluation.evaluate import Evaluator
from ddrnet_jax.evaluation.views import View, averaged_logits
from ddrnet_jax.models import blocks, variables
from ddrnet_jax.models.ddrnet import Output, normalise
from ddrnet_jax.runtime import devices

CLASSES = 4
SIZES = [(24, 32), (24, 32), (17, 40), (24, 32), (17, 40), (24, 32), (24, 32)]


class Tiny(nnx.Module):
    """A stride-8 network with one convolution: quick to compile, sensitive to every pixel."""

    def __init__(self, rngs):
        self.conv = nnx.Conv(3, CLASSES, (9, 9), strides=8, padding=((4, 4), (4, 4)), rngs=rngs)
        self.bn = blocks.BatchNorm(CLASSES)

    def __call__(self, x):
        return Output(self.bn(self.conv(x)))


@pytest.fixture(scope="module")
def samples():
    rng = np.random.default_rng(0)
    return [
        {
            "image": rng.integers(0, 256, (*size, 3), dtype=np.uint8),
            "label": rng.choice([0, 1, 3, 255], size).astype(np.uint8),
            "name": str(i),
        }
        for i, size in enumerate(SIZES)
    ]


@pytest.fixture(scope="module")
def model():
    tiny = Tiny(nnx.Rngs(0))
    tiny.eval()
    return tiny


@pytest.fixture(scope="module")
def expected(model, samples):
    """Confusion counts by a loop over images and classes in NumPy."""
    total = np.zeros((CLASSES, CLASSES), np.int64)
    for sample in samples:
        logits = model(normalise(sample["image"][None])).logits
        prediction = np.asarray(blocks.upsample_x8(logits, sample["label"].shape)).argmax(-1)[0]
        for truth in range(CLASSES):
            for guess in range(CLASSES):
                total[truth, guess] += ((sample["label"] == truth) & (prediction == guess)).sum()
    return total


@pytest.mark.parametrize("device_count", [1, 4])
@pytest.mark.parametrize("batch_size", [1, 3, 5])
def test_counts_are_exact_over_partial_batches_sizes_and_devices(
    model, samples, expected, batch_size, device_count, said
):
    graphdef, params, stats = variables.split(model)
    mesh = devices.data_mesh(jax.devices()[:device_count])
    evaluator = Evaluator(graphdef, CLASSES, mesh, batch_size=batch_size)
    result = evaluator(params, stats, samples)
    np.testing.assert_array_equal(result.confusion, expected)
    assert result.miou == metrics.scores(expected).miou
    assert sorted(said) == [f"compiling evaluation for {s} (HxW) images" for s in ("17x40", "24x32")]


@pytest.mark.parametrize("view", [View(), View(size_hw=(16, 24))])
@pytest.mark.parametrize("device_count", [1, 4])
def test_a_watch_sees_every_image_once_with_its_own_counts_and_prediction(model, samples, device_count, view):
    graphdef, params, stats = variables.split(model)
    mesh = devices.data_mesh(jax.devices()[:device_count])
    seen = {}

    def watch(sample, counts, prediction):
        assert sample["name"] not in seen
        seen[sample["name"]] = counts, prediction

    result = Evaluator(graphdef, CLASSES, mesh, batch_size=3, view=view, watch=watch)(params, stats, samples)
    assert seen.keys() == {sample["name"] for sample in samples}
    for sample in samples:
        counts, prediction = seen[sample["name"]]
        slow = np.zeros((CLASSES, CLASSES), int)
        for truth, guess in zip(sample["label"].flat, prediction.flat, strict=True):
            if truth != 255:
                slow[truth, guess] += 1
        np.testing.assert_array_equal(counts, slow)
    np.testing.assert_array_equal(sum(counts for counts, _ in seen.values()), result.confusion)


class _Tracked(dict):
    """A sample that can be seen to be gone."""

    __hash__ = object.__hash__


@pytest.mark.parametrize("is_watched", [False, True])
def test_only_a_watch_keeps_samples_in_flight(model, is_watched):
    graphdef, params, stats = variables.split(model)
    alive, most = weakref.WeakSet(), []

    def made():
        for i in range(8):
            most.append(len(alive))
            sample = _Tracked(image=np.zeros((8, 8, 3), np.uint8), label=np.zeros((8, 8), np.uint8), name=str(i))
            alive.add(sample)
            yield sample
            del sample

    watch = (lambda *seen: None) if is_watched else None
    mesh = devices.data_mesh(jax.devices()[:1])
    Evaluator(graphdef, CLASSES, mesh, batch_size=1, watch=watch)(params, stats, made())
    assert (max(most) > 2) == is_watched


def test_batches_hold_every_sample_once_and_ignored_filling(samples):
    batches = list(batches_by_size(samples, 3))
    assert all(len(b["images"]) == 3 for b in batches)
    rows = [(i, lab) for b in batches for i, lab in zip(b["images"], b["labels"], strict=True)]
    filled = [lab for _, lab in rows if (lab == 255).all()]
    assert len(rows) - len(filled) == len(samples)
    seen = {i.tobytes() for i, lab in rows if not (lab == 255).all()}
    assert seen == {s["image"].tobytes() for s in samples}


def test_more_than_sixteen_sizes_warn_once_and_name_the_key(model, said):
    graphdef, params, stats = variables.split(model)
    evaluator = Evaluator(graphdef, CLASSES, devices.data_mesh(jax.devices()[:1]), batch_size=1)
    images = [np.zeros((8, 8 + i, 3), np.uint8) for i in range(18)]
    evaluator(params, stats, [{"image": i, "label": np.zeros(i.shape[:2], np.uint8)} for i in images])
    warnings = [s for s in said if s.startswith("warning")]
    assert len(warnings) == 1
    assert "eval.size_hw" in warnings[0]


def test_flip_and_scales_average_logits_at_label_size(model):
    images = np.random.default_rng(1).integers(0, 256, (2, 24, 32, 3), dtype=np.uint8)
    x = normalise(images)

    def at(scaled):
        return blocks.resize(blocks.upsample_x8(model(scaled).logits, scaled.shape[1:3]), (24, 32))

    flipped = (at(x) + at(x[:, :, ::-1])[:, :, ::-1]) / 2
    np.testing.assert_allclose(averaged_logits(model, images, View(flip=True)), flipped, atol=1e-5)
    half, double = blocks.resize(x, (16, 16)), blocks.resize(x, (48, 64))
    several = (at(half) + at(x) + at(double)) / 3
    ours = averaged_logits(model, images, View(scales=(0.5, 1.0, 2.0)))
    np.testing.assert_allclose(ours, several, atol=1e-5)


def test_size_hw_shows_the_network_one_size_and_leaves_labels_alone(model, samples):
    graphdef, params, stats = variables.split(model)
    mesh = devices.data_mesh(jax.devices()[:1])
    evaluator = Evaluator(graphdef, CLASSES, mesh, batch_size=2, view=View(size_hw=(16, 24)))
    total = np.zeros((CLASSES, CLASSES), np.int64)
    for sample in samples:
        small = blocks.resize(jnp.asarray(sample["image"][None], jnp.float32), (16, 24))
        logits = blocks.upsample_x8(model(normalise(small)).logits, (16, 24))
        prediction = np.asarray(blocks.resize(logits, sample["label"].shape)).argmax(-1)[0]
        is_labelled = sample["label"] != 255
        np.add.at(total, (sample["label"][is_labelled], prediction[is_labelled]), 1)
    np.testing.assert_array_equal(evaluator(params, stats, samples).confusion, total)
