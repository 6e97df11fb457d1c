"""StableHLO files between versions of JAX: read by later ones for a time, and one line where they are not."""

import datetime
import json
import shutil

import cv2
import exported_files
import jax
import numpy as np
import pytest

from ddrnet_jax.config import base
from ddrnet_jax.config import files as config_files
from ddrnet_jax.evaluation.views import mask_program
from ddrnet_jax.exports import export, load_stablehlo
from ddrnet_jax.exports.onnx_engine import EngineError
from ddrnet_jax.models import variables
from ddrnet_jax.prediction import segmenter

FILES = sorted(exported_files.FOLDER.glob("small_jax_*.stablehlo"))


def numbers_of(version):
    return tuple(map(int, version.split(".")[:2]))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_files_of_both_generations_of_jax_are_read_by_the_same_and_by_later_ones(path):
    """Where a later jax refuses one, its generation is no longer supported: write that of the next."""
    if numbers_of(json.loads(load_text(path))["jax"]) > numbers_of(jax.__version__):
        with pytest.raises(load_stablehlo.Unreadable, match="export again from the checkpoint"):
            load_stablehlo.load(path)
        return
    graphdef, *weights = variables.split(exported_files.Small())
    masks = load_stablehlo.load(path)
    for size_hw in ((32, 48), (37, 41)):
        drawn = np.random.default_rng(1).integers(0, 256, (2, 5, 6, 3), dtype=np.uint8)
        images = np.stack([cv2.resize(image, size_hw[::-1]) for image in drawn])
        expected = mask_program(graphdef)(weights, images)
        np.testing.assert_array_equal(masks(images), expected)
        assert len(np.unique(expected)) > 2


def load_text(path):
    return path.with_name(f"{path.name}.json").read_text()


def test_there_is_a_file_of_each_generation():
    assert [path.stem for path in FILES] == ["small_jax_0.10", "small_jax_0.12"]


def test_a_file_that_jax_refuses_is_to_be_exported_again(tmp_path, monkeypatch):
    path = tmp_path / "old.stablehlo"
    shutil.copy(FILES[0], path)
    card = json.loads(load_text(FILES[0])) | {"jax": "0.1.0", "config": config_files.to_json(base())}
    path.with_name(f"{path.name}.json").write_text(json.dumps(card))

    def expired(data):
        raise ValueError("The Exported uses serialization version 3.")

    monkeypatch.setattr(jax.export, "deserialize", expired)
    with pytest.raises(EngineError) as error:
        segmenter.load(path)
    assert str(error.value) == (
        f"{path}: written by jax 0.1.0, jax {jax.__version__} does not read it (it reads what versions of the last six "
        "months wrote, if it is not damaged); export again from the checkpoint"
    )


def test_a_damaged_program_is_named_when_it_is_loaded(tmp_path):
    path = tmp_path / "cut.stablehlo"
    path.write_bytes(FILES[0].read_bytes()[:-3000])
    card = json.loads(load_text(FILES[0])) | {"config": config_files.to_json(base())}
    path.with_name(f"{path.name}.json").write_text(json.dumps(card))
    with pytest.raises(EngineError, match="does not read it"):
        segmenter.load(path)


@pytest.mark.parametrize(
    ("day", "later"),
    [
        ("2026-11-29", "2027-05-29"),
        ("2026-08-31", "2027-02-28"),
        ("2027-06-30", "2027-12-30"),
        ("2027-07-01", "2028-01-01"),
    ],
)
def test_six_months_after_a_day(day, later):
    assert str(export.six_months_after(datetime.date.fromisoformat(day))) == later
