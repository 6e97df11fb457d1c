"""docs/api.md, run as a person would; and what a person gets wrong there."""

import contextlib
import json
import re
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
import small
import tiny
from flax import nnx

import ddrnet_jax
from ddrnet_jax.config import ConfigError, base
from ddrnet_jax.data.errors import DataError
from ddrnet_jax.data.own import OwnSamples
from ddrnet_jax.data.sets.folder import folder_spec
from ddrnet_jax.errors import UserError
from ddrnet_jax.models.ddrnet import Output
from ddrnet_jax.prediction.segmenter import Segmenter


@pytest.fixture(scope="module")
def page(repo):
    return (repo / "docs" / "api.md").read_text()


@pytest.mark.parametrize("network", ["small", pytest.param("23-slim", marks=(pytest.mark.slow, pytest.mark.as_users))])
def test_every_example_runs(page, tmp_path, monkeypatch, network):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 9
    namespace = {"__name__": "examples"}
    with small.in_place_of_23_slim() if network == "small" else contextlib.nullcontext():
        for block in blocks:
            with monkeypatch.context() as patch:
                if "runs/stripes" in block:  # the first block trains a DDRNet
                    tiny.use(patch.setattr)
                exec(compile(block, "docs/api.md", "exec"), namespace)
    lines = [json.loads(line) for line in (tmp_path / "runs/squares/metrics.jsonl").read_text().splitlines()]
    logged = next(line for line in lines if "loss" in line)
    assert logged["root_mean_square"] >= logged["loss"] > 0  # the objective's own metric is in the log


def test_the_page_names_everything(page):
    names = re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)
    assert sorted([*names, "Segmenter"]) == sorted(ddrnet_jax.__all__)
    for name in ddrnet_jax.__all__:
        assert getattr(ddrnet_jax, name).__doc__


def test_the_package_itself_loads_no_jax():
    code = "import sys, ddrnet_jax, ddrnet_jax.config; sys.exit('jax' in sys.modules or 'cv2' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_name_that_is_not_offered_is_an_attribute_error():
    with pytest.raises(AttributeError, match="it offers DDRNet, Segmenter"):
        ddrnet_jax.predict  # noqa: B018


def bright(image):
    """A segmenter of two classes: dark and bright."""
    return (image.mean(-1) > 127).astype(np.uint8)


@pytest.fixture
def segmenter():
    return Segmenter(bright, folder_spec(("dark", "bright")))


IMAGE = np.random.default_rng(0).integers(0, 256, (12, 20, 3), np.uint8)


def test_one_a_list_and_a_batch_are_predicted_alike(segmenter):
    mask = segmenter.predict(IMAGE)
    np.testing.assert_array_equal(mask, bright(IMAGE))
    of_list = segmenter.predict([IMAGE, IMAGE[:8]])
    assert [m.shape for m in of_list] == [(12, 20), (8, 20)]
    np.testing.assert_array_equal(segmenter.predict(np.stack([IMAGE, IMAGE])), [mask, mask])
    assert segmenter.overlay(IMAGE, mask).shape == IMAGE.shape


@pytest.mark.parametrize("wrong", [IMAGE / 255, IMAGE[..., 0], IMAGE[..., :2], IMAGE[:0], "street.jpg"])
def test_what_is_no_image_is_refused(segmenter, wrong):
    with pytest.raises(UserError, match=r"given, expected RGB as u8\[H,W,3\]"):
        segmenter.predict(wrong)


def test_masks_alone_have_no_logits_but_scores(segmenter):
    with pytest.raises(UserError, match="masks, not logits"):
        segmenter.logits(IMAGE)
    label = bright(IMAGE)
    label[0] = 255
    wrong = 1 - bright(IMAGE)
    assert ddrnet_jax.evaluate(segmenter, [(IMAGE, label)]).miou == 1
    assert ddrnet_jax.evaluate(segmenter, iter([{"image": IMAGE, "label": wrong}])).miou == 0
    assert ddrnet_jax.evaluate(segmenter, [(IMAGE, label), (IMAGE, wrong)]).confusion.sum() == 12 * 20 + 11 * 20


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ((IMAGE / 255, bright(IMAGE)), r"sample 0: image of float64\[12, 20, 3\] given"),
        ((IMAGE, bright(IMAGE)[:4]), r"sample 0: label of uint8\[4, 20\] given, expected train ids \(or 255\)"),
        ((IMAGE, bright(IMAGE) / 1.0), "label of float64"),
        ({"image": IMAGE, "name": "a.png"}, r"a.png: label of object\[\] given"),
    ],
)
def test_what_is_no_sample_is_named(segmenter, sample, message):
    with pytest.raises(UserError, match=message):
        ddrnet_jax.evaluate(segmenter, [sample])


def test_other_classes_than_the_configs_are_refused(segmenter):
    with pytest.raises(UserError, match="the network has 2 classes, the config's data 9"):
        ddrnet_jax.evaluate(segmenter, base())


def test_a_wrong_config_ends_before_any_work(tmp_path):
    config = base()
    config.batch_size = 1
    for call in (lambda: ddrnet_jax.train(config, tmp_path / "run"), lambda: ddrnet_jax.batches(config)):
        with pytest.raises(ConfigError, match="config.batch_size: 1 given"):
            call()
    assert not (tmp_path / "run").exists()


SPEC = folder_spec(("dark", "bright"))


def test_samples_of_ones_own_are_a_source():
    own = OwnSamples([(IMAGE, bright(IMAGE))] * 2, SPEC)
    assert len(own) == 2
    assert own.names() == ["sample 0", "sample 1"]
    assert own.spec.classes == ("dark", "bright")
    assert len(set(own.places())) == 2
    assert own[1]["name"] == "sample 1"


def test_minus_one_and_255_count_nowhere():
    label = bright(IMAGE).astype(np.int64)
    label[0], label[1] = -1, 255
    assert (OwnSamples([(IMAGE, label)], SPEC)[0]["label"][:2] == 255).all()


class Broken:
    def __len__(self):
        return 1

    def __getitem__(self, index):
        raise KeyError("no such file")


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([], "without samples"),
        (iter([]), "a source of type list_iterator given"),
        (Broken(), "sample 0: cannot be read .KeyError: 'no such file'.$"),
        ([(IMAGE, bright(IMAGE) + 2)], "sample 0: the label has [23], expected 0..1, or 255"),
        ([(IMAGE, bright(IMAGE) - 100)], "sample 0: the label has 15[67], expected 0..1"),
        ([(IMAGE, 1)], r"label of int64\[\] given, expected train ids"),
        ([(IMAGE, bright(IMAGE), "a.png")], "sample 0: tuple given, expected"),
    ],
)
def test_what_is_no_source_is_refused(samples, message):
    with pytest.raises(DataError, match=message):
        OwnSamples(samples, SPEC)[0]


class Network(nnx.Module):
    """Logits of `classes` classes at 1/stride of the size."""

    def __init__(self, rngs, classes=2, stride=8):
        self.conv = nnx.Conv(3, classes, (stride, stride), strides=stride, rngs=rngs)

    def __call__(self, images):
        return Output(self.conv(images))


def own_config():
    config = base()
    config.data.name, config.data.classes, config.data.crop_hw = "folder", ("dark", "bright"), (64, 64)
    return config


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": lambda rngs: Network(rngs, classes=3)}, "model: has 3 classes, the config's data 2"),
        ({"model": lambda rngs: Network(rngs, stride=4)}, r"logits \[1, 16, 18, 2\] for an image of \[64, 72\]"),
        ({"model": Network(nnx.Rngs(0))}, "model: expected a function of nnx.Rngs"),
        ({"train_source": []}, "a source without samples"),
        ({"model": Network, "objective": lambda params, stats, batch: 0.0}, "objective: expected"),
        ({"model": Network, "objective": lambda p, s, b: (jnp.zeros(()), (s, {"step": jnp.ones(())}))}, "objective: "),
        ({"model": Network, "objective": lambda p, s, b: (jnp.zeros(3), (s, {}))}, "objective: expected"),
    ],
)
def test_what_does_not_fit_the_training_is_refused_before_it(tmp_path, options, message):
    samples = {name: [(IMAGE, bright(IMAGE))] for name in ("train_source", "eval_source")}
    with pytest.raises(UserError, match=message):
        ddrnet_jax.train(own_config(), tmp_path / "run", **samples | options)
    assert not (tmp_path / "run").exists()


def test_a_model_in_hand_needs_no_number_of_classes():
    scores = ddrnet_jax.evaluate(Network(nnx.Rngs(0)), [(IMAGE, bright(IMAGE))])
    assert scores.confusion.shape == (2, 2)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("runs/demo", []), {}, "str given, expected a segmenter"),
        ((Network(nnx.Rngs(0)), "configs/demo.py"), {}, "'configs/demo.py' given, expected samples or a config"),
        ((Network(nnx.Rngs(0)), []), {}, "no samples to evaluate"),
        ((Network(nnx.Rngs(0)), [(IMAGE, bright(IMAGE))]), {"num_classes": 3}, "the network has 2 classes"),
        ((Network(nnx.Rngs(0)), [(IMAGE, bright(IMAGE))]), {"batch_size": 0}, "batch_size: 0 given"),
        ((Segmenter(bright, folder_spec(("a", "b"))), own_config()), {}, "trained on other classes than those"),
    ],
)
def test_what_cannot_be_evaluated_is_said(arguments, options, message):
    with pytest.raises(UserError, match=message):
        ddrnet_jax.evaluate(*arguments, **options)


def test_a_path_is_no_config(tmp_path):
    with pytest.raises(UserError, match="'configs/demo.py' given, expected a config"):
        ddrnet_jax.train("configs/demo.py", tmp_path)


def test_a_format_that_is_none_is_refused(tmp_path):
    with pytest.raises(UserError, match="format 'tflite' given, expected one of safetensors, pth, stablehlo, onnx"):
        ddrnet_jax.export(tmp_path, tmp_path / "q.tflite", file_format="tflite")
