"""Weights to start from: what moves, what stays fresh and why, what is refused and in which words."""

import dataclasses
import functools

import jax
import numpy as np
import parity_fixtures as fixtures
import pytest
from flax import nnx

from ddrnet_jax import DDRNet
from ddrnet_jax.models import variables
from ddrnet_jax.training import optimizer, state
from ddrnet_jax.weights import files as weight_files
from ddrnet_jax.weights import pretrained
from ddrnet_jax.weights.pretrained import PretrainedError, Weights, load_pretrained, transfer
from ddrnet_jax.weights.state_dicts import to_state_dict

FROM_CLASSIFIER = [
    "fresh: aux_head: the weights are of a classifier, which has none",
    "fresh: dappm: the weights are of a classifier, which has none",
    "fresh: head: the weights are of a classifier, which has another",
    "not used: head: the model is a segmenter",
]


@functools.cache
def abstract(variant="23_slim", task="segmentation", num_classes=19, aux_head=True):
    aux_head = aux_head and task == "segmentation"
    return nnx.eval_shape(
        lambda: DDRNet(variant, task=task, num_classes=num_classes, aux_head=aux_head, rngs=nnx.Rngs(0))
    )


def weights_of(model, path="w.pth"):
    """Weights of the shapes of an abstract model."""
    _, params, batch_stats = variables.split(model)
    return Weights(
        path=path,
        origin="official",
        variant=model.variant,
        task=model.task,
        num_classes=model.num_classes,
        has_aux_head=model.aux_head is not None,
        leaves=variables.paths(params) | variables.paths(batch_stats),
        left_out={},
    )


@functools.cache
def made():
    """Two classes, so that every test may load into a copy of it."""
    return DDRNet("23_slim", num_classes=2, aux_head=True, rngs=nnx.Rngs(1))


def numbers(model):
    _, params, batch_stats = variables.split(model)
    return {k: np.asarray(v) for k, v in (variables.paths(params) | variables.paths(batch_stats)).items()}


@pytest.mark.parametrize(("variant", "count"), [("23_slim", 254), ("23", 254), ("39", 422)])
def test_every_shared_tensor_moves_from_classifier_to_segmenter(variant, count):
    classifier = weights_of(abstract(variant, "classification", 1000))
    moving = transfer(classifier, abstract(variant))
    assert moving.lines() == [f"moved {count} tensors", *FROM_CLASSIFIER]
    back = transfer(weights_of(abstract(variant)), abstract(variant, "classification", 1000))
    assert back.moved.keys() == moving.moved.keys()
    assert back.lines() == [
        f"moved {count} tensors",
        "fresh: head: the weights are of a segmenter, which has another",
        "not used: aux_head: the model is a classifier",
        "not used: dappm: the model is a classifier",
        "not used: head: the model is a classifier",
    ]


def test_all_of_the_same_network_moves():
    moving = transfer(weights_of(abstract()), abstract())
    assert moving.lines() == ["moved 346 tensors"]


def test_an_auxiliary_head_on_one_side_only_is_said():
    assert transfer(weights_of(abstract(aux_head=False)), abstract()).lines() == [
        "moved 333 tensors",
        "fresh: aux_head: the weights have no auxiliary head",
    ]
    assert transfer(weights_of(abstract()), abstract(aux_head=False)).lines() == [
        "moved 333 tensors",
        "not used: aux_head: the model has no auxiliary head",
    ]


def test_other_classes_only_when_asked_for():
    weights = weights_of(abstract())
    with pytest.raises(PretrainedError) as caught:
        transfer(weights, abstract(num_classes=11))
    assert str(caught.value) == (
        "w.pth: holds 19 classes, but the model has 11; --config.init_head=fresh "
        "(fresh_head=True) moves everything but the heads"
    )
    assert transfer(weights, abstract(num_classes=11), fresh_head=True).lines() == [
        "moved 320 tensors",
        "fresh: aux_head: left out as asked (the weights have 19 classes, the model 11)",
        "fresh: head: left out as asked (the weights have 19 classes, the model 11)",
    ]


@pytest.mark.parametrize("fresh_head", [False, True])
def test_another_variant_is_refused(fresh_head):
    with pytest.raises(PretrainedError) as caught:
        transfer(weights_of(abstract("23")), abstract(), fresh_head=fresh_head)
    assert str(caught.value) == (
        "w.pth: holds DDRNet-23 segmentation, 19 classes, with auxiliary head, but the model is a DDRNet-23_slim; "
        "choose the file of this variant or set model.variant"
    )


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_classifiers_file_loads_into_a_segmenter(suffix, tmp_path):
    path = tmp_path / f"w.{suffix}"
    given = fixtures.state_dict("slim_cls")
    write = {"pth": weight_files.write_pth, "safetensors": weight_files.write_safetensors}[suffix]
    write(path, given)
    model = nnx.clone(made())
    before = to_state_dict(model)
    moving = load_pretrained(model, path)
    assert moving.lines() == ["moved 254 tensors", *FROM_CLASSIFIER]
    for name, value in to_state_dict(model).items():
        is_fresh = name.startswith(("spp.", "final_layer.", "seghead_extra."))
        np.testing.assert_array_equal(value, before[name] if is_fresh else given[name])


def test_half_precision_weights_become_float32(tmp_path):
    given = {k: v.astype(np.float16) if v.ndim else v for k, v in fixtures.state_dict("slim_cls").items()}
    weight_files.write_pth(tmp_path / "w.pth", given)
    weights = pretrained.read(tmp_path / "w.pth")
    assert {leaf.dtype for leaf in weights.leaves.values()} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(weights.leaves["stem.0.bn.scale"], given["conv1.1.weight"])


def test_a_file_that_does_not_fit_is_named_and_the_model_unchanged(tmp_path):
    path = tmp_path / "w.pth"
    given = fixtures.state_dict("slim_cls")
    del given["conv1.0.bias"]
    weight_files.write_pth(path, given)
    model = nnx.clone(made())
    before = numbers(model)
    with pytest.raises(PretrainedError) as caught:
        load_pretrained(model, path)
    assert str(caught.value) == (
        f"{path}: not a complete DDRNet-23-slim classifier (official naming, 1000 classes): "
        "1 missing in stem: conv1.0.bias"
    )
    jax.tree.map(np.testing.assert_array_equal, numbers(model), before)


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(PretrainedError, match=r"none\.pth: no such file; expected a checkpoint's folder, or a \.pth"):
        pretrained.read(tmp_path / "none.pth")


@pytest.mark.parametrize("fresh_head", [False, True])
def test_what_moves_is_what_training_starts_from(fresh_head):
    """Parameters, running statistics and the moving average: theirs where they moved, the seed's elsewhere."""
    sgd = optimizer.sgd(lambda step: 0.1, momentum=0.9, nesterov=False, weight_decay=0.0)

    def build(rngs):
        return DDRNet("23_slim", num_classes=2, rngs=rngs)

    _, fresh = state.create(build, sgd, seed=0, ema_decay=0.9)
    theirs = weights_of(abstract(num_classes=2, aux_head=False))
    numbers = {k: np.full(v.shape, i % 7 + 1, np.float32) for i, (k, v) in enumerate(theirs.leaves.items())}
    theirs = dataclasses.replace(theirs, leaves=numbers)
    moving = transfer(theirs, abstract(num_classes=2, aux_head=False), fresh_head=fresh_head)
    started = state.warm_start(fresh, moving.moved)
    for part, own in (("params", fresh["params"]), ("batch_stats", fresh["batch_stats"])):
        seeds = variables.paths(own)
        for tree in (started[part], started["ema"][part]):
            for path, leaf in variables.paths(tree).items():
                is_fresh = fresh_head and path.startswith("head.")
                np.testing.assert_array_equal(leaf, seeds[path] if is_fresh else numbers[path])


NETWORK = fixtures.state_dict("slim_seg")
AVERAGE = {name: array + 1 for name, array in NETWORK.items()}
MOMENTA = {"state": {i: {"momentum_buffer": np.ones(3, np.float32)} for i in range(5)}, "param_groups": [{"lr": 0.1}]}


@pytest.mark.parametrize(
    "content",
    [
        {"model_state_dict": NETWORK, "optimizer_state_dict": MOMENTA, "epoch": 3},
        {"network": {f"net.{name}": array for name, array in NETWORK.items()}},
        {"discriminator": {"conv.weight": np.ones((400, 9), np.float32)}, "checkpoint": {"generator": NETWORK}},
        [NETWORK, {"epoch": 3}],
        (7, [MOMENTA, NETWORK]),
        {"net": AVERAGE, "ema_net": NETWORK},  # the average before what it is of, as super-gradients means it
        {"state_dict": NETWORK, "teacher": AVERAGE},
    ],
)
def test_the_one_whole_network_of_a_file_is_found_wherever_it_is(monkeypatch, content):
    monkeypatch.setattr(weight_files, "read_tensors", lambda path: content)
    found = pretrained._of_file("w.pth")
    np.testing.assert_array_equal(found.leaves["stem.0.conv.bias"], NETWORK["conv1.0.bias"])
    assert found.left_out == {}


def test_two_whole_networks_of_a_file_are_named(monkeypatch):
    content = {"student": NETWORK, "runs": [{"teacher": AVERAGE}], "other": {f"x{i}": np.ones(1) for i in range(999)}}
    monkeypatch.setattr(weight_files, "read_tensors", lambda path: content)
    with pytest.raises(PretrainedError, match="^w.pth: holds 2 whole networks, 'student', 'runs.0.teacher'; save one"):
        pretrained._of_file("w.pth")
    del content["student"], content["runs"]
    with pytest.raises(PretrainedError, match="^w.pth: not the tensors of a DDRNet: x0, x1, x2 and 996 more"):
        pretrained._of_file("w.pth")
