"""The weights that come with the project: whole, small enough, found by name, and as good as their card says."""

import hashlib
import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

import ddrnet_jax
from ddrnet_jax import build
from ddrnet_jax import main as main_lib
from ddrnet_jax.config import files as config_files
from ddrnet_jax.evaluation import evaluate
from ddrnet_jax.prediction import engines
from ddrnet_jax.prediction.segmenter import Segmenter
from ddrnet_jax.weights import places, pretrained, shipped
from ddrnet_jax.weights.card import card_path

CAMVID = Path(os.environ.get("CAMVID_DIR", "data/camvid"))


def card(name):
    return json.loads(card_path(shipped.path(name)).read_text())


@pytest.mark.parametrize("name", shipped.NAMES)
def test_a_file_is_what_its_card_says(name):
    path = shipped.path(name)
    assert path.stat().st_size <= 12 * 2**20
    assert hashlib.sha256(path.read_bytes()).hexdigest() == card(name)["file_sha256"]
    weights = pretrained.read(name)
    assert f"DDRNet-{weights.variant}" == card(name)["network"]
    assert weights.num_classes == len(card(name)["classes"])
    assert card(name)["val_miou"] == max(e["val/miou"] for e in card(name)["evaluations"])
    for text in (card_path(path).read_text(), path.with_name("README.md").read_text()):
        assert "for research" in text
        assert "Not for driving" in text
        assert str(Path.home()) not in text


def test_a_path_of_that_name_is_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert places.local(shipped.DEFAULT) == shipped.path(shipped.DEFAULT)
    (tmp_path / shipped.DEFAULT).mkdir()
    assert places.local(shipped.DEFAULT) == Path(shipped.DEFAULT)


def test_predict_without_a_checkpoint_says_by_what(repo, tmp_path, monkeypatch, capsys):
    spec, given = build.experiment(config_of_camvid(repo)).spec, []
    sevens = Segmenter(lambda image: np.full(image.shape[:2], 7, np.uint8), spec)
    monkeypatch.setattr(engines, "load", lambda place, engine: given.append(place) or sevens)
    cv2.imwrite(str(tmp_path / "street.jpg"), np.zeros((20, 30, 3), np.uint8))
    flags = ("--mode", "predict", "--input", str(tmp_path / "street.jpg"), "--output", str(tmp_path / "out"))
    assert main_lib.main(list(flags)) == 0
    assert given == [shipped.DEFAULT]
    assert capsys.readouterr().err.splitlines()[0] == (
        "no --checkpoint: by camvid_23_slim, DDRNet-23_slim of CamVid's streets, 11 classes, for research"
    )
    assert (cv2.imread(str(tmp_path / "out" / "masks" / "street.png"), cv2.IMREAD_UNCHANGED) == 7).all()


def test_the_page_is_of_them_too(monkeypatch, capsys):
    serve, given = pytest.importorskip("ddrnet_jax.serving.serve"), []
    monkeypatch.setattr(serve, "serve", lambda place, **_: given.append(place))
    assert main_lib.main(["--mode", "serve"]) == 0
    assert given == [shipped.DEFAULT]
    assert capsys.readouterr().err.startswith("no --checkpoint: by camvid_23_slim")


def config_of_camvid(repo):
    return config_files.load(str(repo / "configs" / "camvid_small.py"), [f"data.root={CAMVID}"])


@pytest.mark.slow
@pytest.mark.as_users
@pytest.mark.skipif(not (CAMVID / "val").is_dir(), reason=f"CamVid is not in {CAMVID}")
def test_its_miou_on_camvid_is_that_of_its_card(repo):
    scores = evaluate.evaluate_checkpoint(build.experiment(config_of_camvid(repo)), shipped.DEFAULT)
    assert scores.miou == pytest.approx(card(shipped.DEFAULT)["val_miou"], abs=0.001)


@pytest.mark.slow
@pytest.mark.as_users
def test_it_predicts_and_is_fine_tuned_by_its_name(tmp_path):
    segmenter = ddrnet_jax.load(shipped.DEFAULT)
    assert segmenter.classes == tuple(card(shipped.DEFAULT)["classes"])
    mask = segmenter.predict(np.zeros((96, 128, 3), np.uint8))
    assert (mask.shape, mask.dtype) == ((96, 128), np.uint8)
    assert mask.max() < 11
