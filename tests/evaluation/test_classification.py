"""Top-1 and top-5 against sorting image by image, whatever the batch size and the devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ddrnet_jax.evaluation import metrics
from ddrnet_jax.evaluation.classification import ClassEvaluator
from ddrnet_jax.models import variables
from ddrnet_jax.models.ddrnet import Output, normalise
from ddrnet_jax.runtime import devices

CLASSES, COUNT = 12, 11


class Tiny(nnx.Module):
    """The mean of the image, and a linear layer."""

    def __init__(self, rngs):
        self.linear = nnx.Linear(3, CLASSES, rngs=rngs)

    def __call__(self, x):
        return Output(self.linear(x.mean((1, 2))))


def slow_hits(logits, labels, k):
    """How many labels are among the k largest logits; of equal ones the lower class comes first."""
    hits = 0
    for scores, label in zip(logits, labels, strict=True):
        ordered = sorted(range(len(scores)), key=lambda c: (-scores[c], c))
        hits += label in ordered[:k]
    return hits


@pytest.fixture(scope="module")
def model():
    tiny = Tiny(nnx.Rngs(0))
    tiny.eval()
    return tiny


@pytest.fixture(scope="module")
def samples():
    rng = np.random.default_rng(0)
    return [
        {"image": rng.integers(0, 256, (8, 16, 3), dtype=np.uint8) // (1 + i % 3), "label": int(rng.integers(CLASSES))}
        for i in range(COUNT)
    ]


@pytest.mark.parametrize("device_count", [1, 4])
@pytest.mark.parametrize("batch_size", [1, 4, 11, 16])
def test_every_image_counts_once_in_partial_batches_too(model, samples, batch_size, device_count, said):
    logits = np.stack([np.asarray(model(normalise(s["image"][None])).logits)[0] for s in samples])
    labels = [s["label"] for s in samples]
    graphdef, params, stats = variables.split(model)
    evaluator = ClassEvaluator(graphdef, devices.data_mesh(jax.devices()[:device_count]), batch_size=batch_size)
    result = evaluator(params, stats, samples)
    first, among = slow_hits(logits, labels, 1), slow_hits(logits, labels, 5)
    assert 0 < first < among < COUNT  # else the test would show little
    assert result == metrics.Accuracy(COUNT, first / COUNT, among / COUNT)
    assert evaluator(params, stats, samples) == result
    assert said == ["compiling evaluation for 8x16 (HxW) images"]


def test_ties_few_classes_and_filling_rows():
    rng = np.random.default_rng(1)
    hits = jax.jit(metrics.class_hits)
    for classes in (2, 5, 9):
        logits = rng.integers(0, 3, (40, classes)).astype(np.float32)
        labels = rng.integers(-1, classes, 40).astype(np.int32)
        is_image = labels != metrics.NO_CLASS
        expected = [is_image.sum(), *(slow_hits(logits[is_image], labels[is_image], k) for k in (1, 5))]
        assert hits(jnp.asarray(logits), labels).tolist() == expected


def test_a_network_without_finite_logits_is_not_right():
    logits = jnp.full((10, 10), jnp.nan)
    assert jax.jit(metrics.class_hits)(logits, jnp.arange(10)).tolist() == [10, 1, 5]


def test_accuracy_speaks_for_itself():
    result = metrics.accuracy(np.array([8, 2, 6]))
    assert result.score == 0.25
    assert result.values(("a", "b")) == {"val/top1": 0.25, "val/top5": 0.75}
    assert result.line() == "top-1 25.00  top-5 75.00"
    lines = result.table(("a", "b")).splitlines()
    assert lines[0] == "8 images, 2 classes"
    assert lines[2].split() == ["top-1", "25.00", "75.00"]
    assert max(map(len, lines)) <= 80
    assert metrics.accuracy(np.zeros(3, np.int64)).top1 == 0
