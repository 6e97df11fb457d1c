"""Pseudo-labels: sure pixels are labelled, unsure ones are not, nothing is overwritten, and the folder trains."""

import json

import cv2
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ddrnet_jax import build
from ddrnet_jax.config import ConfigError, base
from ddrnet_jax.data.errors import DataError
from ddrnet_jax.data.pseudo_labels import CARD, SPLIT
from ddrnet_jax.data.sets.folder import folder_spec
from ddrnet_jax.data.sources import FolderPairs
from ddrnet_jax.evaluation.views import View
from ddrnet_jax.main import main
from ddrnet_jax.models.ddrnet import Output
from ddrnet_jax.prediction import pseudo_labels, segmenter
from ddrnet_jax.prediction.segmenter import Segmenter
from ddrnet_jax.runs.checkpoints import CheckpointError

SPEC = folder_spec(("red", "green", "blue"))


class Strongest(nnx.Module):
    """The logits of each 8x8 cell are its colour: the stronger one channel is, the surer."""

    def __init__(self):
        self.scale = nnx.Param(jnp.full(3, 2.0))

    def __call__(self, images):
        batch, height, width, _ = images.shape
        return Output(images.reshape(batch, height // 8, 8, width // 8, 8, 3).mean((2, 4)) * self.scale)


@pytest.fixture
def frames(tmp_path, monkeypatch):
    """Two images, each one strong red field beside one that is grey with a little blue; and the network for them."""
    made = tmp_path / "frames"
    made.mkdir()
    for name in ("a.png", "b.jpg"):
        image = np.full((32, 64, 3), 100, np.uint8)
        image[:, :32] = (250, 20, 20)
        image[:, 32:, 2] += 2
        cv2.imwrite(str(made / name), image[..., ::-1])
    trained = Segmenter(lambda image: None, SPEC, config=base(), model=Strongest(), view=View())
    monkeypatch.setattr(segmenter, "load", lambda path: trained)
    return made


def test_sure_pixels_are_labelled_and_the_folder_is_a_data_set(tmp_path, frames):
    output = tmp_path / "pseudo"
    count, kept = pseudo_labels.pseudo_label("checkpoint", frames, output, confidence=0.9)
    assert count == 2
    source = FolderPairs(output, SPLIT, SPEC)
    assert [name.split("/")[-1] for name in source.names()] == ["a.png", "b.jpg"]
    for sample in (source[0], source[1]):
        assert (sample["label"][:, :24] == 0).all()
        assert (sample["label"][:, 40:] == 255).all()  # a little bluer, and unsure
    assert (output / "images" / "pseudo" / "b.jpg").read_bytes() == (frames / "b.jpg").read_bytes()
    labelled = sum(int((source[i]["label"] == 0).sum()) for i in range(2))
    assert kept.kept.tolist() == [labelled, 0, 0]
    assert kept.predicted.sum() == 2 * 32 * 64
    assert kept.predicted[2] >= 2 * 32 * 24
    assert kept.lines()[1:3] == ["green       - kept", "blue     0.0% kept"]
    card = json.loads((output / CARD).read_text())
    assert (card["confidence"], card["classes"]) == (0.9, list(SPEC.classes))
    assert card["kept_pixels"] == kept.kept.tolist()


def test_a_config_trains_on_it_whatever_the_values_of_its_own_labels(tmp_path, frames):
    pseudo_labels.pseudo_label("checkpoint", frames, tmp_path / "pseudo", confidence=0.9)
    config = base()
    config.data.name, config.data.classes, config.data.label_values = "folder", SPEC.classes, (7, 8, 9)
    assert build.experiment(config).pseudo_source is None
    config.data.pseudo_root = str(tmp_path / "pseudo")
    assert set(np.unique(build.experiment(config).pseudo_source()[0]["label"])) == {0, 255}
    config.data.classes = ("red", "blue", "green")
    with pytest.raises(ConfigError, match=r"data.pseudo_root: .* has masks of the classes red, green, blue"):
        build.experiment(config).pseudo_source()
    config.data.pseudo_root = str(frames)
    with pytest.raises(DataError, match=r"pseudo_labels.json: cannot be read; expected a folder that --mode"):
        build.experiment(config).pseudo_source()


def test_with_no_confidence_asked_for_every_pixel_is_labelled(tmp_path, frames):
    _, kept = pseudo_labels.pseudo_label("checkpoint", frames, tmp_path / "all", confidence=1e-6)
    np.testing.assert_array_equal(kept.kept, kept.predicted)


def test_their_images_of_16_bits_are_read_as_the_data_sets_are(tmp_path, frames):
    cv2.imwrite(str(frames / "c.png"), np.full((32, 64, 3), 2048, np.uint16))
    pseudo_labels.pseudo_label("checkpoint", frames, tmp_path / "pseudo", confidence=0.9)
    config = base()
    config.data.name, config.data.root, config.data.classes = "folder", str(tmp_path), SPEC.classes
    config.data.pseudo_root, config.data.value_range = str(tmp_path / "pseudo"), (0.0, 4096.0)
    assert build.experiment(config).pseudo_source()[2]["image"].mean() == pytest.approx(127.5, abs=1)


def test_check_data_reads_them_too(tmp_path, frames, capsys):
    pseudo_labels.pseudo_label("checkpoint", frames, tmp_path / "pseudo", confidence=0.9)
    for split in ("train", "val"):
        for kind, pixels in (("images", np.zeros((32, 64, 3), np.uint8)), ("labels", np.ones((32, 64), np.uint8))):
            folder = tmp_path / "mine" / kind / split
            folder.mkdir(parents=True)
            cv2.imwrite(str(folder / f"{split}.png"), pixels)
    mine = (f"--config.data.root={tmp_path / 'mine'}", f"--config.data.classes={SPEC.classes}")
    flags = ["--mode", "check_data", "--config", "configs/folder.py", *mine, "--output", str(tmp_path / "report")]
    assert main(flags) == 0
    assert main([*flags, f"--config.data.pseudo_root={tmp_path / 'pseudo'}"]) == 0
    (tmp_path / "pseudo" / "labels" / SPLIT / "b.png").write_bytes(b"no mask")
    assert main([*flags, f"--config.data.pseudo_root={tmp_path / 'pseudo'}"]) == 1
    assert "b.png" in capsys.readouterr().err
    assert main([*flags, "--config.data.pseudo_root=/no/such"]) == 1


def test_nothing_is_overwritten(tmp_path, frames, monkeypatch):
    output = tmp_path / "pseudo"
    (output / "labels" / "pseudo").mkdir(parents=True)
    mine = output / "labels" / "pseudo" / "a.png"
    mine.write_bytes(b"by hand")
    with pytest.raises(DataError, match=r"pseudo has files already, none is overwritten; choose a new folder"):
        pseudo_labels.pseudo_label("checkpoint", frames, output, confidence=0.9)
    assert mine.read_bytes() == b"by hand"
    assert not (output / "images").exists()


def test_broken_frames_are_named_and_the_others_labelled(tmp_path, frames):
    (frames / "c.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"1 of 3 images were left out:\n.*c.png"):
        pseudo_labels.pseudo_label("checkpoint", frames, tmp_path / "pseudo", confidence=0.9)
    assert len(FolderPairs(tmp_path / "pseudo", "pseudo", SPEC)) == 2


def test_an_exported_file_has_no_probabilities(tmp_path, frames, monkeypatch):
    monkeypatch.setattr(segmenter, "load", lambda path: Segmenter(lambda image: None, SPEC))
    with pytest.raises(CheckpointError, match=r"net.onnx: an exported file gives no probabilities"):
        pseudo_labels.pseudo_label("net.onnx", frames, tmp_path / "pseudo", confidence=0.9)
