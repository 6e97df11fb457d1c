"""Streams: a server of JPEGs in a thread, which breaks, comes back, is too fast; and Ctrl-C."""

import contextlib
import http.server
import logging
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from ddrnet_jax.data.errors import DataError
from ddrnet_jax.data.sets.folder import folder_spec
from ddrnet_jax.outputs import Outputs
from ddrnet_jax.prediction import predict, streams
from ddrnet_jax.prediction.files import PredictionFiles
from ddrnet_jax.prediction.sources import is_stream

SPEC = folder_spec(("ground", "car", "sky"))
SIZE_HW = (48, 64)


def by_brightness(frame):
    return np.full(frame.shape[:2], round(frame.mean() / 20) % 3, np.uint8)


def jpeg(i):
    return cv2.imencode(".jpg", np.full((*SIZE_HW, 3), 20 * (i % 12), np.uint8))[1].tobytes()


@contextlib.contextmanager
def served(*connections, every_s=0.0):
    """The address of a stream: each connection gets so many frames, numbered through; later ones are refused."""
    waiting, numbers = list(connections), iter(range(10**6))

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            if not waiting:
                return self.send_error(404)
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            with contextlib.suppress(OSError):  # who reads may go away
                for _ in range(waiting.pop(0)):
                    data = jpeg(next(numbers))
                    head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
                    self.wfile.write(head.encode() + data + b"\r\n")
                    time.sleep(every_s)
            return None

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/video"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(streams, "_RETRIES_S", (0.01, 0.02))


@pytest.fixture
def files(tmp_path):
    return PredictionFiles(Outputs(tmp_path), SPEC)


def masks_in(folder):
    """The class of each frame of the written masks, and their rate."""
    capture = cv2.VideoCapture(str(folder / "masks" / "stream.mkv"))
    capture.set(cv2.CAP_PROP_CONVERT_RGB, 0)
    rate, classes = capture.get(cv2.CAP_PROP_FPS), []
    while (read := capture.read())[0]:
        assert (read[1] == read[1].flat[0]).all()
        classes.append(int(read[1].flat[0]))
    return classes, rate


def overlays_in(folder):
    capture, count = cv2.VideoCapture(str(folder / "overlays" / "stream.mp4")), 0
    while capture.read()[0]:
        count += 1
    return count


def test_every_frame_is_predicted_and_an_end_that_lasts_is_one_line(files, tmp_path):
    with served(12) as address, pytest.raises(DataError) as error:
        streams.predict_stream(by_brightness, address, files)
    assert str(error.value) == (
        f"{address}: broke after frame 12 and did not come back in 0.03 s; the frames before it are written"
    )
    assert masks_in(tmp_path)[0] == [i % 12 % 3 for i in range(12)]
    assert overlays_in(tmp_path) == 12


def test_a_stream_that_breaks_comes_back(files, tmp_path, caplog):
    with served(5, 7) as address, pytest.raises(DataError, match="broke after frame 12 and did not come back"):
        streams.predict_stream(by_brightness, address, files)
    assert masks_in(tmp_path)[0] == [i % 12 % 3 for i in range(12)]
    assert f"{address}: broke after frame 5; trying to come back" in caplog.text


def test_live_frames_are_dropped_rather_than_late(files, tmp_path, caplog):
    seen = []

    def slow(frame):
        time.sleep(0.08)
        seen.append(round(frame.mean() / 20))
        return by_brightness(frame)

    caplog.set_level(logging.INFO)
    with served(100, every_s=0.02) as address, pytest.raises(DataError, match=r"broke after frame 100"):
        streams.predict_stream(slow, address, files, is_live=True)
    assert 5 < len(seen) < 60, "a network this slow cannot see them all"
    (line,) = [r.message for r in caplog.records if "from decoder to file" in r.message]
    words = line.replace(",", "").split()
    p95_ms, dropped = float(words[words.index("p95") + 1]), int(words[words.index("dropped") - 1])
    assert dropped > 30
    assert p95_ms < 600, "ten frames that wait would be 800 ms late"
    classes, rate = masks_in(tmp_path)
    assert len(classes) / rate == pytest.approx(0.09 * len(seen), rel=0.6), "the file lasts as long as it took"
    assert overlays_in(tmp_path) == len(classes)


_STOPPED_AT_THE_EIGHTH = """
import sys, time
sys.path.insert(0, sys.argv[3])
from pathlib import Path
from ddrnet_jax.outputs import Outputs
from ddrnet_jax.prediction import streams
from ddrnet_jax.prediction.files import PredictionFiles
from test_streams import SPEC, by_brightness
count = 0
def predictor(frame):
    global count
    count += 1
    if count == 8:
        print("eight", flush=True)
        for _ in range(6000):  # not one long sleep: a signal on its way into it is seen at its end
            time.sleep(0.01)
    return by_brightness(frame)
try:
    streams.predict_stream(predictor, sys.argv[1], PredictionFiles(Outputs(Path(sys.argv[2])), SPEC))
except KeyboardInterrupt:
    print("stopped", flush=True)
"""


def test_ctrl_c_leaves_playable_files(tmp_path):
    with served(1000, every_s=0.005) as address:
        command = [sys.executable, "-c", _STOPPED_AT_THE_EIGHTH, address, str(tmp_path), str(Path(__file__).parent)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout.readline() == "eight\n"
            process.send_signal(signal.SIGINT)
            assert process.communicate(timeout=30) == ("stopped\n", None)
    assert process.returncode == 0
    assert masks_in(tmp_path)[0] == [i % 12 % 3 for i in range(7)]
    assert overlays_in(tmp_path) == 7


@pytest.mark.parametrize("stage", ["picture", "network"])
def test_an_error_in_any_thread_ends_it_and_keeps_what_was_written(stage, files, tmp_path, monkeypatch):
    count = 0

    def failing(*arguments):
        nonlocal count
        count += 1
        if count == 4:
            raise DataError("a fault")
        return arguments[0] if stage == "picture" else by_brightness(arguments[0])

    if stage == "picture":
        monkeypatch.setattr(files, "picture", failing)
    predictor = failing if stage == "network" else by_brightness
    with served(1000, every_s=0.005) as address, pytest.raises(DataError, match="a fault"):
        streams.predict_stream(predictor, address, files)
    assert overlays_in(tmp_path) == len(masks_in(tmp_path)[0]) == 3


def test_what_cannot_be_opened_is_one_line_without_its_password(files):
    with served() as address:
        secret = address.replace("http://", "http://me:secret@")
        with pytest.raises(DataError, match="--input http://127.* cannot be opened") as error:
            streams.predict_stream(by_brightness, secret, files)
    assert "secret" not in str(error.value)
    with pytest.raises(DataError, match="--input camera 97: cannot be opened"):
        streams.predict_stream(by_brightness, "97", files)


def test_a_file_at_an_address_is_a_video(files, tmp_path, monkeypatch):
    folder = tmp_path / "www"
    folder.mkdir()
    writer = cv2.VideoWriter(str(folder / "a.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 10, SIZE_HW[::-1])
    for i in range(9):
        writer.write(np.full((*SIZE_HW, 3), 20 * i, np.uint8))
    writer.release()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(folder))

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}/a.mp4"
    try:
        assert streams.predict_stream(by_brightness, address, files) == 9
        with pytest.raises(DataError, match="--live: http.* is a file of 9 frames, which can wait; leave it out"):
            streams.predict_stream(by_brightness, address, files, is_live=True)
    finally:
        server.shutdown()
        server.server_close()
    assert len(masks_in(tmp_path)[0]) == 9


def test_a_file_keeps_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_stream("0")
    assert is_stream("rtsp://camera/1")
    assert is_stream("97")
    assert not is_stream("20261130")
    assert not is_stream("1" * 300)
    assert not is_stream("gs://bucket/a.mp4")
    (tmp_path / "0").mkdir()
    assert not is_stream("0")
    with pytest.raises(DataError, match="--live: 0 is no camera or stream, its frames can wait"):
        predict.predict_files("run", "0", tmp_path / "out", is_live=True)
