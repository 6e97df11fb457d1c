"""The network against numbers from the official implementation. A failure here means: no longer DDRNet."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import parity_fixtures as fixtures
import pytest
from flax import nnx

from ddrnet_jax import DDRNet
from ddrnet_jax.models import variables
from ddrnet_jax.weights.state_dicts import load_state_dict, official_names, to_official_layout

pytestmark = pytest.mark.as_users

EVALUATIONS = [
    ("seg_slim_eval_128x256", "23_slim", "slim_seg"),
    ("seg_slim_eval_72x584", "23_slim", "slim_seg"),
    ("seg_39_eval_128x256", "39", "39_seg"),
    ("cls_23_eval_224", "23", "23_cls"),
]
# Mathematically zero: a bias before a batch norm, or before the constant-removing end of a branch.
ZERO_GRADIENTS = (
    "conv1.0.bias",
    "conv1.3.bias",
    "layer5_.0.bn3.bias",
    "layer5_.0.downsample.1.bias",
)


def build(variant, manifest):
    task = "classification" if manifest.endswith("cls") else "segmentation"
    num_classes = 1000 if task == "classification" else 19
    model = DDRNet(variant, task=task, num_classes=num_classes, aux_head=task == "segmentation", rngs=nnx.Rngs(0))
    load_state_dict(model, fixtures.state_dict(manifest))
    return model


def error(ours, theirs):
    """max|a-b| / max|b|, the measure of fixtures/README.md"""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


def nchw(x):
    return np.asarray(x).transpose(0, 3, 1, 2)


@pytest.mark.parametrize(("name", "variant", "manifest"), EVALUATIONS)
def test_eval_outputs_equal_the_official_ones(name, variant, manifest):
    fixture = fixtures.load(name)
    assert fixtures.sha256(fixtures.state_dict(manifest)) == fixture["meta"]["params_sha256"]
    model = build(variant, manifest)
    model.eval()
    graphdef, params, stats = variables.split(model)
    forward = jax.jit(lambda p, s, x: variables.merge(graphdef, p, s)(x))
    out = forward(params, stats, fixtures.images(fixture["meta"]["input_shape"]))
    assert out.logits.dtype == jnp.float32
    if "logits" in fixture:
        assert error(out.logits, fixture["logits"]) < 2e-5
    else:
        assert error(nchw(out.logits), fixture["main"]) < 2e-5
        assert error(nchw(out.aux_logits), fixture["aux"]) < 2e-5


@pytest.fixture(scope="module")
def train_step():
    """One forward and backward in train mode: (fixture, model, outputs, losses, gradients, statistics)."""
    fixture = fixtures.load("seg_slim_train_128x256")
    images = fixtures.images(fixture["meta"]["input_shape"])
    labels = fixtures.labels((2, 16, 32))
    model = build("23_slim", "slim_seg")
    model.train()
    graphdef, params, stats = variables.split(model)

    def mean_cross_entropy(logits):
        per_pixel = optax.softmax_cross_entropy_with_integer_labels(logits, np.where(labels == 255, 0, labels))
        return jnp.where(labels == 255, 0, per_pixel).sum() / (labels != 255).sum()

    def loss(params):
        model = variables.merge(graphdef, params, stats)
        out = model(images)
        main, aux = mean_cross_entropy(out.logits), mean_cross_entropy(out.aux_logits)
        return main + 0.4 * aux, (out, jnp.stack([main + 0.4 * aux, main, aux]), variables.batch_stats(model))

    (_, (out, losses, new_stats)), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    names = official_names(model)
    gradients = {names[p]: to_official_layout(p, np.asarray(g)) for p, g in variables.paths(gradients).items()}
    statistics = {names[p]: np.asarray(s) for p, s in variables.paths(new_stats).items()}
    return fixture, out, losses, gradients, statistics


def test_train_outputs_and_losses_equal_the_official_ones(train_step):
    fixture, out, losses, _, _ = train_step
    assert error(nchw(out.logits), fixture["main"]) < 1e-4
    assert error(nchw(out.aux_logits), fixture["aux"]) < 1e-4
    np.testing.assert_allclose(losses, fixture["losses"], rtol=1e-4)


def test_running_statistics_after_a_step_equal_the_official_ones(train_step):
    fixture, _, _, _, statistics = train_step
    keys = [k for k in fixture if k.startswith("after/")]
    assert len(keys) == 48
    for key in keys:
        assert error(statistics[key.removeprefix("after/")], fixture[key]) < 1e-4, key


def test_gradients_equal_the_official_ones(train_step):
    fixture, _, _, gradients, _ = train_step
    assert set(gradients) == set(fixture["grad_keys"].tolist())
    for key, norm in zip(fixture["grad_keys"].tolist(), fixture["grad_norms"], strict=True):
        ours = np.linalg.norm(gradients[key])
        if key in ZERO_GRADIENTS:
            assert ours < 1e-5, key
        else:
            assert ours == pytest.approx(norm, rel=5e-3), key
    for key in (k for k in fixture if k.startswith("grad/")):
        name = key.removeprefix("grad/")
        if name not in ZERO_GRADIENTS:
            assert error(gradients[name], fixture[key]) < 1e-2, key


@pytest.mark.parametrize(
    ("variant", "task", "aux_head", "count"),
    [
        ("23_slim", "segmentation", False, 5_695_987),
        ("23_slim", "segmentation", True, 5_734_342),
        ("23", "segmentation", False, 20_148_947),
        ("23", "segmentation", True, 20_299_366),
        ("39", "segmentation", False, 32_360_275),
        ("39", "segmentation", True, 32_660_838),
        ("23_slim", "classification", False, 7_574_664),
        ("23", "classification", False, 28_216_616),
        ("39", "classification", False, 40_130_344),
    ],
)
def test_parameter_counts(variant, task, aux_head, count):
    num_classes = 19 if task == "segmentation" else 1000
    model = nnx.eval_shape(
        lambda: DDRNet(variant, task=task, num_classes=num_classes, aux_head=aux_head, rngs=nnx.Rngs(0))
    )
    _, params, _ = variables.split(model)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count
