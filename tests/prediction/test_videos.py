"""Videos in and out: every frame, its exact train ids, the rate, and what is said where a file is not whole."""

import struct
import tracemalloc

import cv2
import numpy as np
import pytest

from ddrnet_jax import build
from ddrnet_jax.config import base
from ddrnet_jax.data import decode, pictures
from ddrnet_jax.data.errors import DataError
from ddrnet_jax.data.sets.folder import folder_spec
from ddrnet_jax.outputs import OutputError, Outputs
from ddrnet_jax.prediction import predict, videos
from ddrnet_jax.prediction.files import PredictionFiles
from ddrnet_jax.prediction.segmenter import Segmenter

SPEC = folder_spec(("ground", "car", "sky"))
RATE = 12.5


def write_video(path, count=12, size_hw=(96, 128), codec="mp4v", rate=RATE):
    """Frames of one grey each, brighter from one to the next."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), rate, size_hw[::-1])
    assert writer.isOpened()
    for i in range(count):
        writer.write(np.full((*size_hw, 3), 20 * (i % 12), np.uint8))
    writer.release()
    return path


def by_brightness(frame):
    """The class of a frame by its grey, in blocks that a lossy codec would blur."""
    mask = np.full(frame.shape[:2], round(frame.mean() / 20) % 3, np.uint8)
    mask[::7] = 1
    return mask


def read_video(path, channels=3):
    capture = cv2.VideoCapture(str(path))
    capture.set(cv2.CAP_PROP_CONVERT_RGB, int(channels == 3))
    rate, frames = capture.get(cv2.CAP_PROP_FPS), []
    while (read := capture.read())[0]:
        frames.append(read[1])
    return rate, np.array(frames)


@pytest.mark.parametrize("at_a_time", [1, 2])
def test_every_frame_has_its_exact_mask_and_its_overlay(tmp_path, at_a_time):
    source = write_video(tmp_path / "drive.mp4")
    files = PredictionFiles(Outputs(tmp_path / "out"), SPEC)
    assert videos.predict_video(by_brightness, source, files, at_a_time=at_a_time) == 12
    rate, masks = read_video(tmp_path / "out" / "masks" / "drive.mkv", channels=1)
    assert rate == RATE
    expected = np.array([by_brightness(np.full((96, 128, 3), 20 * i)) for i in range(12)])
    np.testing.assert_array_equal(masks.reshape(expected.shape), expected)
    rate, overlays = read_video(tmp_path / "out" / "overlays" / "drive.mp4")
    assert rate == RATE
    assert overlays.shape == (12, 96, 128, 3)
    first = pictures.overlay(np.zeros((96, 128, 3), np.uint8), expected[0], SPEC)[..., ::-1]
    assert abs(overlays[0].astype(int) - first).mean() < 12  # lossy
    assert decode.decode_image((tmp_path / "out" / "legend.png").read_bytes(), "legend.png").shape[1] == 640


@pytest.mark.parametrize("size_hw", [(95, 127)])
def test_odd_sizes_are_made_even(size_hw, tmp_path):
    picture = np.arange(95 * 127, dtype=np.uint8).reshape(size_hw)
    even = videos._even(picture, 255)
    assert even.shape == (96, 128)
    np.testing.assert_array_equal(even[:95, :127], picture)
    assert set(even[95]) == set(even[:, 127]) == {255}
    assert videos._even(np.dstack([picture] * 3)).shape == (96, 128, 3)


@pytest.mark.parametrize("rate", [239.7631, 240.123, 65.536789, 29.97002997, 59.94005994, 14.9873])
def test_every_frame_rate_can_be_written(rate, tmp_path):
    writers = videos.Writers(tmp_path / "a.mp4", tmp_path / "a.mkv", videos.writable_rate(rate), tmp_path)
    for _ in range(3):
        writers.write(np.zeros((16, 16, 3), np.uint8), np.zeros((16, 16), np.uint8))
    writers.close()
    for name in ("a.mp4", "a.mkv"):
        written, frames = read_video(tmp_path / name)
        assert len(frames) == 3
        assert written == pytest.approx(rate, rel=2e-3)


def test_frames_of_another_size_are_refused(tmp_path):
    writers = videos.Writers(tmp_path / "a.mp4", tmp_path / "a.mkv", RATE, tmp_path)
    writers.write(np.zeros((16, 16, 3), np.uint8), np.zeros((16, 16), np.uint8))
    with pytest.raises(DataError, match="the frames change their size"):
        writers.write(np.zeros((16, 32, 3), np.uint8), np.zeros((16, 32), np.uint8))
    writers.close()


def test_side_by_side_shows_image_overlay_and_legend(tmp_path):
    image, mask = np.full((96, 128, 3), 200, np.uint8), np.zeros((96, 128), np.uint8)
    files = PredictionFiles(Outputs(tmp_path), SPEC, side_by_side=True)
    picture = files.picture(image, mask)
    assert picture.shape[1] > 2 * 128
    assert picture.shape[0] > 96
    np.testing.assert_array_equal(picture[:96, :128], image)
    np.testing.assert_array_equal(picture[:96, -128:], pictures.overlay(image, mask, SPEC))


def test_memory_does_not_grow_with_the_length(tmp_path):
    peaks = []
    for count in (16, 60):  # of which a dozen are on their way at a time
        source = write_video(tmp_path / f"{count}.mp4", count, (240, 320))
        tracemalloc.start()
        videos.predict_video(by_brightness, source, PredictionFiles(Outputs(tmp_path / "out"), SPEC))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


def test_a_file_that_is_no_video_or_breaks_off_is_named(tmp_path):
    files = PredictionFiles(Outputs(tmp_path / "out"), SPEC)
    broken = tmp_path / "text.mp4"
    broken.write_text("no video")
    with pytest.raises(DataError, match=r"text\.mp4: cannot be read as a video"):
        videos.predict_video(by_brightness, broken, files)
    whole = write_video(tmp_path / "whole.avi", 60, codec="MJPG").read_bytes()
    cut = tmp_path / "cut.avi"
    cut.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"cut\.avi: breaks off after frame \d+ of \d+; the frames before it are"):
        videos.predict_video(by_brightness, cut, files)
    assert len(read_video(tmp_path / "out" / "overlays" / "cut.mp4")[1]) > 5


def test_frames_that_are_not_written_are_noticed(tmp_path, monkeypatch):
    source = write_video(tmp_path / "drive.mp4")

    class Full(videos.Writers):
        """A disk that is full after the first frame."""

        def write(self, picture, mask):
            if not self._writers:
                super().write(picture, mask)
            else:
                self.count += 1

    monkeypatch.setattr(videos, "Writers", Full)
    with pytest.raises(DataError, match="only 1 of its 12 frames could be written; is the disk full"):
        videos.predict_video(by_brightness, source, PredictionFiles(Outputs(tmp_path / "out"), SPEC))


def test_the_source_is_never_written_over(tmp_path):
    files = PredictionFiles(Outputs(tmp_path), SPEC)
    (tmp_path / "overlays").mkdir()
    source = write_video(tmp_path / "overlays" / "drive.mp4")
    before = source.read_bytes()
    with pytest.raises(OutputError, match=r"drive\.mp4: is not of this program"):
        videos.predict_video(by_brightness, source, files)
    assert source.read_bytes() == before


def test_predict_takes_a_video_and_warns_of_those_in_a_folder(tmp_path, monkeypatch, said):
    config = base()
    config.data.name, config.data.classes = "folder", SPEC.classes
    monkeypatch.setattr(
        predict.engines, "load", lambda checkpoint, engine: Segmenter(by_brightness, build.dataset_spec(config))
    )
    source = write_video(tmp_path / "drive.MP4")
    assert predict.predict_files("run", source, tmp_path / "out") == 12
    (tmp_path / "a.png").write_bytes(pictures.png(np.zeros((8, 8, 3), np.uint8)))
    assert predict.predict_files("run", tmp_path, tmp_path / "out") == 1
    assert "warning: 1 video(s) here are left out, first drive.MP4; give each as --input" in said


def with_times(data, ticks):
    """The bytes of an MP4 whose frames last as long as said: another table stts, and the boxes around it larger."""
    table = b"".join(struct.pack(">II", 1, count) for count in ticks)
    at = data.index(b"stts") - 4
    old = int.from_bytes(data[at : at + 4], "big")
    new = struct.pack(">I4sII", 16 + len(table), b"stts", 0, len(ticks)) + table
    out = bytearray(data[:at] + new + data[at + old :])
    for name in (b"moov", b"trak", b"mdia", b"minf", b"stbl"):
        place = data.index(name) - 4
        out[place : place + 4] = (int.from_bytes(data[place : place + 4], "big") + len(new) - old).to_bytes(4, "big")
    return bytes(out)


def test_frames_at_uneven_times_are_warned_of(tmp_path, caplog):
    even = write_video(tmp_path / "even.mp4").read_bytes()
    (tick,) = struct.unpack_from(">I", even, even.index(b"stts") + 16)
    (tmp_path / "phone.mp4").write_bytes(with_times(even, [tick // 2] * 6 + [3 * tick // 2] * 6))
    files = PredictionFiles(Outputs(tmp_path / "out"), SPEC)
    assert videos.predict_video(by_brightness, tmp_path / "even.mp4", files) == 12
    assert caplog.text == ""
    assert videos.predict_video(by_brightness, tmp_path / "phone.mp4", files) == 12
    assert "phone.mp4: its frames are 40 to 120 ms apart; all of them are written, at 12.5 a second" in caplog.text
    assert "some are shown up to 0.24 s early or late" in caplog.text


def test_the_decoder_decides_what_a_file_is(tmp_path, monkeypatch):
    config = base()
    config.data.name, config.data.classes = "folder", SPEC.classes
    segmenter = Segmenter(by_brightness, build.dataset_spec(config))
    monkeypatch.setattr(predict.engines, "load", lambda checkpoint, engine: segmenter)

    def predicted(name, data):
        (tmp_path / name).write_bytes(data)
        return predict.predict_files("run", tmp_path / name, tmp_path / "out")

    film = write_video(tmp_path / "a.avi", codec="MJPG").read_bytes()
    for name in ("stream.ts", "clip.wmv", "flash.flv", "phone.3gp", "download", "clip.mp4.part"):
        assert predicted(name, film) == 12
    picture = cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    for name in ("camera.jfif", "download2", "still.JPE"):
        assert predicted(name, picture) == 1
    frames = cv2.Animation()
    frames.frames, frames.durations = [np.full((8, 8, 3), 9 * i, np.uint8) for i in range(5)], np.full(5, 100)
    assert cv2.imwriteanimation(str(tmp_path / "moving.gif"), frames)
    assert predicted("moving2.gif", (tmp_path / "moving.gif").read_bytes()) == 5
    assert predicted("still.gif", cv2.imencode(".gif", np.zeros((8, 8, 3), np.uint8))[1].tobytes()) == 1
    others = {"notes.txt": b"no film\n" * 999, "notes.md": "déjà vu\n".encode() * 999, "noise": bytes(range(256))}
    for name, data in others.items():
        with pytest.raises(DataError, match=f"--input .*{name}: not an image or video that OpenCV reads; save images"):
            predicted(name, data)
