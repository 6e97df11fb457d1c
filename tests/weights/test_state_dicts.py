"""Official state dicts in and out: complete, exact, or one message with every key that does not fit."""

import jax
import numpy as np
import parity_fixtures as fixtures
import pytest
from flax import nnx

from ddrnet_jax import DDRNet
from ddrnet_jax.models import variables
from ddrnet_jax.weights import files as weight_files
from ddrnet_jax.weights.state_dicts import (
    load_state_dict,
    official_names,
    official_shapes,
    read_checkpoint,
    to_state_dict,
)

MANIFESTS = [
    ("23_slim", "slim_seg"),
    ("23", "23_seg"),
    ("39", "39_seg"),
    ("23_slim", "slim_cls"),
    ("23", "23_cls"),
    ("39", "39_cls"),
]


def build(variant, manifest, **options):
    is_classifier = manifest.endswith("cls")
    options = {"num_classes": 1000 if is_classifier else 19, "aux_head": not is_classifier} | options
    task = "classification" if is_classifier else "segmentation"
    return lambda: DDRNet(variant, task=task, rngs=nnx.Rngs(0), **options)


@pytest.mark.parametrize(("variant", "manifest"), MANIFESTS)
def test_names_and_shapes_are_the_official_ones(variant, manifest):
    model = nnx.eval_shape(build(variant, manifest))
    shapes = fixtures.manifest_shapes(manifest)
    expected = {k: shape for k, shape in shapes.items() if not k.endswith("num_batches_tracked")}
    assert set(official_names(model).values()) == expected.keys()
    assert official_shapes(model) == expected


@pytest.mark.parametrize(("variant", "manifest"), MANIFESTS)
def test_round_trip_is_exact(variant, manifest):
    given = fixtures.state_dict(manifest)
    model = build(variant, manifest)()
    load_state_dict(model, given)
    returned = to_state_dict(model)
    assert returned.keys() == {k for k in given if not k.endswith("num_batches_tracked")}
    for key, value in returned.items():
        np.testing.assert_array_equal(value, given[key])


def test_read_checkpoint_gives_the_tensors_of_both_formats(tmp_path):
    state = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "b.running_var": np.ones(4, np.float32)}
    weight_files.write_pth(tmp_path / "w.pth", state)
    weight_files.write_safetensors(tmp_path / "w.safetensors", state)
    for name in ("w.pth", "w.safetensors"):
        read = read_checkpoint(tmp_path / name)
        assert read.keys() == state.keys()
        for key, value in state.items():
            np.testing.assert_array_equal(read[key], value)


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "ema_net", "net"])
def test_read_checkpoint_unwraps_what_trainers_save(monkeypatch, wrapper):
    state = {"a.weight": np.ones(3, np.float32)}
    monkeypatch.setattr(weight_files, "read_tensors", lambda path: {wrapper: state | {"version": 2}, "epoch": 3})
    assert read_checkpoint("w.pth").keys() == {"a.weight"}
    monkeypatch.setattr(weight_files, "read_tensors", lambda path: {"epoch": 3})
    with pytest.raises(weight_files.WeightsFileError, match="w.pth: holds no state dict"):
        read_checkpoint("w.pth")


def test_everything_that_does_not_fit_is_listed_and_nothing_is_loaded():
    given = fixtures.state_dict("slim_seg")
    del given["conv1.0.bias"]
    given["extra.weight"] = np.zeros(3, np.float32)
    given["final_layer.conv2.weight"] = np.zeros((11, 64, 1, 1), np.float32)
    model = build("23_slim", "slim_seg")()
    before = jax.tree.map(np.asarray, variables.split(model)[1])
    with pytest.raises(
        ValueError, match="1 missing: conv1.0.bias; 1 unexpected: extra.weight; 1 of another shape"
    ) as e:
        load_state_dict(model, given)
    assert "final_layer.conv2.weight (11, 64, 1, 1) where the model has (19, 64, 1, 1)" in str(e.value)
    for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(variables.split(model)[1]), strict=True):
        np.testing.assert_array_equal(a, b)


def test_another_variant_is_refused():
    with pytest.raises(ValueError, match="of another shape"):
        load_state_dict(build("23_slim", "slim_seg")(), fixtures.state_dict("23_seg"))
