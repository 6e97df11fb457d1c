"""Images in a folder: in order, few at a time, the large ones alone, and what was predicted before an error is kept."""

import threading
import time

import numpy as np
import pytest

from ddrnet_jax.data import decode, pictures
from ddrnet_jax.data.errors import DataError
from ddrnet_jax.data.sets.folder import folder_spec
from ddrnet_jax.outputs import OutputError, Outputs
from ddrnet_jax.prediction import images
from ddrnet_jax.prediction.files import PredictionFiles

SPEC = folder_spec(("ground", "car", "sky"))
COUNT = 12


def by_brightness(image):
    return np.full(image.shape[:2], image.flat[0] % 3, np.uint8)


@pytest.fixture
def paths(tmp_path):
    (tmp_path / "in").mkdir()
    made = {f"{i:02}": tmp_path / "in" / f"{i:02}.png" for i in range(COUNT)}
    for i, path in enumerate(made.values()):
        path.write_bytes(pictures.png(np.full((16, 24, 3), i, np.uint8)))
    return made


@pytest.fixture
def files(tmp_path):
    return PredictionFiles(Outputs(tmp_path / "out"), SPEC)


def masks_in(folder):
    """{stem: class}"""
    return {
        path.stem: int(decode.stored_pixels(path.read_bytes()).flat[0]) for path in sorted((folder / "masks").iterdir())
    }


def test_all_are_written_in_their_order(paths, files, tmp_path, monkeypatch):
    order = []
    write = files.outputs.write
    monkeypatch.setattr(files.outputs, "write", lambda name, data: (order.append(name), write(name, data)))
    assert images.predict_images(by_brightness, paths, files) == COUNT
    assert order == [f"{kind}/{stem}.png" for stem in paths for kind in ("masks", "overlays")]
    assert masks_in(tmp_path / "out") == {stem: i % 3 for i, stem in enumerate(paths)}


def test_few_are_decoded_before_the_network_has_them(paths, files, monkeypatch):
    decoded, seen, most = [], [], []
    decode_image = decode.decode_image

    def counting(*arguments):
        decoded.append(arguments[1])
        return decode_image(*arguments)

    def slow(image):
        time.sleep(0.01)
        most.append(len(decoded) - len(seen))
        seen.append(image)
        return by_brightness(image)

    monkeypatch.setattr(decode, "decode_image", counting)
    images.predict_images(slow, paths, files)
    assert 1 < max(most) <= 4


def test_what_is_broken_is_named_and_the_rest_written(paths, files, tmp_path):
    paths["03"].write_bytes(paths["03"].read_bytes()[:60])
    paths["07"].unlink()

    def small(image):
        if image.flat[0] == 5:
            raise MemoryError
        return by_brightness(image)

    with pytest.raises(DataError, match="3 of 12 images were left out") as error:
        images.predict_images(small, paths, files)
    lines = str(error.value).splitlines()[1:]
    assert [stem in line for stem, line in zip(("03.png", "05.png", "07.png"), lines, strict=True)] == [True] * 3
    assert "05.png: does not fit into memory; cut or shrink it" in lines[1]
    assert masks_in(tmp_path / "out").keys() == paths.keys() - {"03", "05", "07"}


@pytest.mark.parametrize("at_a_time", [1, 2])
def test_an_accelerator_gets_the_next_image_before_it_is_done_with_one(at_a_time, paths, files, tmp_path):
    """What is broken is named all the same, and all is written in order."""
    given, most = [], []

    def predictor(image):
        given.append(image)
        time.sleep(0.02)
        most.append(len(given))
        given.pop()
        if image.flat[0] == 5:
            raise MemoryError
        return by_brightness(image)

    with pytest.raises(DataError, match=r"1 of 12 images were left out:\n.*05.png: does not fit into memory"):
        images.predict_images(predictor, paths, files, at_a_time=at_a_time)
    assert max(most) == at_a_time
    assert masks_in(tmp_path / "out") == {stem: i % 3 for i, stem in enumerate(paths) if i != 5}


def test_a_large_image_is_decoded_when_all_before_it_is_written(paths, files, tmp_path, monkeypatch):
    large = np.full((64, 64, 3), 1, np.uint8)
    paths["05"].write_bytes(pictures.png(large))
    monkeypatch.setattr(decode, "_LARGE_PIXELS", 64 * 64)
    alone = []

    def predictor(image):
        if image.shape == large.shape:
            alone.append((threading.current_thread(), sorted(masks_in(tmp_path / "out"))))
        return by_brightness(image)

    assert images.predict_images(predictor, paths, files) == COUNT
    assert alone == [(threading.main_thread(), [f"{i:02}" for i in range(5)])]


@pytest.mark.parametrize("stage", ["draw", "write"])
def test_an_error_behind_the_network_ends_it_and_keeps_what_was_written(stage, paths, files, tmp_path, monkeypatch):
    def draw(image, mask):
        if image.flat[0] == 4:
            raise OutputError("a fault")
        return image

    def write(stem, *data):
        if stem == "04":
            raise OutputError("a fault")
        PredictionFiles.write_encoded(files, stem, *data)

    others = set(threading.enumerate())
    monkeypatch.setattr(files, *(("picture", draw) if stage == "draw" else ("write_encoded", write)))
    with pytest.raises(OutputError, match="a fault"):
        images.predict_images(by_brightness, paths, files)
    assert sorted(masks_in(tmp_path / "out")) == ["00", "01", "02", "03"]
    assert not [thread for thread in {*threading.enumerate()} - others if thread.is_alive()]


def test_ctrl_c_keeps_what_was_predicted(paths, files, tmp_path):
    def interrupted(image):
        if image.flat[0] == 6:
            raise KeyboardInterrupt
        return by_brightness(image)

    with pytest.raises(KeyboardInterrupt):
        images.predict_images(interrupted, paths, files)
    assert sorted(masks_in(tmp_path / "out")) == [f"{i:02}" for i in range(6)]
