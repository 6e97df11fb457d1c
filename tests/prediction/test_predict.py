"""Predictions never take the place of what is the user's: labels, pictures, the input itself."""

import shutil

import numpy as np
import pytest

from ddrnet_jax import build
from ddrnet_jax.config import base
from ddrnet_jax.data import pictures
from ddrnet_jax.outputs import OutputError
from ddrnet_jax.prediction import predict
from ddrnet_jax.prediction.segmenter import Segmenter


@pytest.fixture(autouse=True)
def loaded(monkeypatch):
    """The checkpoints that were loaded; each predicts one class everywhere."""
    config, names = base(), []
    config.data.name, config.data.classes = "folder", ("ground", "car")

    def load(checkpoint, engine):
        names.append(checkpoint)
        return Segmenter(lambda image: np.full(image.shape[:2], int(checkpoint), np.uint8), build.dataset_spec(config))

    monkeypatch.setattr(predict.engines, "load", load)
    return names


@pytest.fixture
def data(tmp_path):
    """A data set of the user's: images and their masks."""
    for kind in ("images", "masks"):
        (tmp_path / "D" / kind).mkdir(parents=True)
        for i in range(2):
            (tmp_path / "D" / kind / f"{i}.png").write_bytes(pictures.png(np.full((8, 8, 3), i, np.uint8)))
    (tmp_path / "D" / "legend.png").write_bytes(pictures.png(np.zeros((8, 8), np.uint8)))
    return tmp_path / "D"


def content(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    ("source", "output", "named"),
    [
        ("images", ".", "legend.png"),
        (".", ".", "legend.png"),
        ("masks", ".", "legend.png"),
        ("images/1.png", ".", "legend"),
    ],
)
def test_labels_pictures_and_inputs_are_refused_before_a_checkpoint_is_loaded(data, source, output, named, loaded):
    before = content(data)
    with pytest.raises(OutputError, match=named):
        predict.predict_files("1", data / source, data / output)
    (data / "legend.png").unlink()
    if source != ".":
        with pytest.raises(OutputError, match=r"masks/[01]\.png: is "):
            predict.predict_files("1", data / source, data / output)
    assert content(data).items() <= before.items()
    assert loaded == []


def test_the_same_folder_takes_the_predictions_of_another_checkpoint(data, tmp_path):
    for checkpoint in ("0", "1"):
        assert predict.predict_files(checkpoint, data / "images", tmp_path / "out") == 2
        mask = pictures.png(np.full((8, 8), int(checkpoint), np.uint8))
        assert (tmp_path / "out" / "masks" / "0.png").read_bytes() == mask


def test_a_mask_that_was_mended_by_hand_stays(data, tmp_path):
    predict.predict_files("0", data / "images", tmp_path / "out")
    shutil.copy(data / "masks" / "1.png", tmp_path / "out" / "masks" / "1.png")
    with pytest.raises(OutputError, match=r"masks/1\.png: is not of this program, or was changed since"):
        predict.predict_files("1", data / "images", tmp_path / "out")
    assert (tmp_path / "out" / "masks" / "1.png").read_bytes() == (data / "masks" / "1.png").read_bytes()


def test_predictions_of_predictions_go_elsewhere(data, tmp_path):
    predict.predict_files("0", data / "images", tmp_path / "out")
    with pytest.raises(OutputError, match=r"overlays/0\.png: is read as an input"):
        predict.predict_files("0", tmp_path / "out" / "overlays", tmp_path / "out")
