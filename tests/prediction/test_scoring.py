"""An engine's mIoU is counted as every other, and two engines are compared pixel by pixel."""

import numpy as np
import pytest

from ddrnet_jax import main as main_lib
from ddrnet_jax.build import experiment
from ddrnet_jax.config import files as config_files
from ddrnet_jax.data.sets.scenes import SPEC
from ddrnet_jax.exports.onnx_engine import EngineError
from ddrnet_jax.prediction import scoring
from ddrnet_jax.prediction.segmenter import Segmenter

SMALL = ["data.scenes_hw=(32, 48)", "data.scenes_eval=3", "data.num_threads=1"]


def by_red(image):
    return (image[..., 0] // 29).astype(np.uint8)


def but_one(image):
    """The class 8 in one place, where `by_red` has another."""
    mask = by_red(image)
    place = tuple(np.argwhere(mask != 8)[0])
    mask[place] = 8
    return mask


PREDICT = {"red.onnx": by_red, "onnxruntime": by_red, "jax": by_red, "other.onnx": but_one, "openvino": but_one}


@pytest.fixture(autouse=True)
def loaded(monkeypatch, repo):
    """(checkpoint, engine) that were loaded; a file predicts by its name, a run by its engine."""
    config, found = config_files.load(str(repo / "configs" / "demo.py"), SMALL), []

    def load(checkpoint, engine):
        found.append((checkpoint, engine))
        return Segmenter(PREDICT[checkpoint if checkpoint in PREDICT else engine], SPEC, config=config)

    monkeypatch.setattr(scoring.engines, "load", load)
    return found


@pytest.fixture
def wanted(repo):
    return experiment(config_files.load(str(repo / "configs" / "demo.py"), SMALL))


def test_an_engine_is_scored_by_the_counter_of_all(wanted):
    found = scoring.evaluate(wanted, "run", "onnxruntime")
    counts = np.zeros((9, 9), np.int64)
    for i in range(3):
        sample = wanted.eval_source()[i]
        is_labelled = sample["label"] != 255
        np.add.at(counts, (sample["label"][is_labelled], by_red(sample["image"])[is_labelled]), 1)
    np.testing.assert_array_equal(found.confusion, counts)


def test_two_engines_are_compared_at_every_pixel(wanted):
    compared = scoring.compare(wanted, ("run", "onnxruntime"), ("other.onnx", "auto"))
    assert compared.pairs.sum() == 3 * 32 * 48
    assert compared.differing == 3
    assert compared.pairs[:8, 8].sum() == 3
    assert set(compared.differing_in.values()) == {1}
    assert scoring.compare(wanted, ("run", "onnxruntime"), ("red.onnx", "auto")).differing == 0


def test_evaluate_from_the_command_line(repo, loaded, capsys):
    flags = ["--mode", "evaluate", "--config", str(repo / "configs" / "demo.py"), *(f"--config.{s}" for s in SMALL)]
    assert main_lib.main([*flags, "--checkpoint", "red.onnx"]) == 0
    table = capsys.readouterr().out
    assert table.splitlines()[-1].startswith("mIoU ")
    assert main_lib.main([*flags, "--checkpoint", "run", "--engine", "onnxruntime", "--compare", "openvino"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(table.rstrip())
    assert "3 of 4608 pixels differ, 0.065%" in out
    assert loaded == [("red.onnx", "auto"), ("run", "onnxruntime"), ("run", "openvino")]


def test_views_that_an_engine_does_not_have(repo, wanted, said):
    flipped = experiment(config_files.load(str(repo / "configs" / "demo.py"), [*SMALL, "eval.flip=True"]))
    with pytest.raises(EngineError, match=r"eval.flip=True: an engine sees an image once"):
        scoring.evaluate(flipped, "run", "onnxruntime")
    scoring.evaluate(flipped, "red.onnx", "auto")
    assert "warning: the file sees an image once, as it was exported to: without eval.flip of the config" in said


@pytest.mark.parametrize("key", ["size_hw", "tile_hw"])
def test_an_engine_is_not_scored_by_another_size_than_the_configs(key, repo, said):
    """It would be the mIoU of another view, and nothing would say so."""
    resized = experiment(config_files.load(str(repo / "configs" / "demo.py"), [*SMALL, f"eval.{key}=(16, 24)"]))
    expected = rf"eval.{key}=\(16, 24\): an engine sees an image as the checkpoint's config says \(eval.{key}=None\)"
    for engine in ("jax", "onnxruntime"):
        with pytest.raises(EngineError, match=expected):
            scoring.evaluate(resized, "run", engine)
    scoring.evaluate(resized, "red.onnx", "auto")
    assert said[-1].endswith(f"as it was exported to: without eval.{key} of the config")
