"""docs/api.md, run as a person would; and what a person gets wrong there."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest

import ddrnet_jax
from ddrnet_jax import api
from ddrnet_jax.config import ConfigError, base
from ddrnet_jax.data.sets.folder import folder_spec
from ddrnet_jax.errors import UserError
from ddrnet_jax.prediction.segmenter import Segmenter


@pytest.fixture(scope="module")
def page(repo):
    return (repo / "docs" / "api.md").read_text()


def test_every_example_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 9
    namespace = {"__name__": "examples"}
    for block in blocks:
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


def test_samples_of_ones_own_are_a_source():
    config = base()
    config.data.name, config.data.classes = "folder", ("dark", "bright")
    own = api.OwnSamples([(IMAGE, bright(IMAGE))] * 2, api._experiment(config))
    assert len(own) == 2
    assert own.names() == ["sample 0", "sample 1"]
    assert own.spec.classes == ("dark", "bright")
    assert len(set(own.places())) == 2
    assert own[1]["name"] == "sample 1"
