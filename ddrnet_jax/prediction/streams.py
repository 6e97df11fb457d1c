"""A camera or a stream to its masks and overlays, until it ends, breaks for good, or Ctrl-C."""

import collections
import logging
import time
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from ddrnet_jax.data.errors import DataError
from ddrnet_jax.prediction import videos
from ddrnet_jax.prediction.files import PredictionFiles
from ddrnet_jax.prediction.pipeline import DEPTH, ahead
from ddrnet_jax.prediction.videos import Frame

_log = logging.getLogger(__name__)
_ANSWER_MS = 10_000  # for a server to answer, and to send the next frame
_RETRIES_S = (0.5, 1, 2, 4, 8)  # waits before each attempt to come back to a stream that broke
_RECENT = 1000  # frames whose latencies are looked at


def names_of(source: str) -> list[str]:
    """The files of a stream below OUTPUT."""
    return videos.names_of(_stem(source))


def predict_stream(
    predictor: Callable[[np.ndarray], np.ndarray], source: str, files: PredictionFiles, *, is_live: bool = False
) -> int:
    """Write OUTPUT/overlays/<stem>.mp4 and OUTPUT/masks/<stem>.mkv of a camera or a stream, as `videos` does of a file.

    predictor  u8[H,W,3] RGB -> u8[H,W] train ids
    source     the number of a camera, or an address; <stem> is camera_<number> or stream
    is_live    frames that come while the network computes are dropped, so that none gets late; each that is predicted
               is written until the next one's time. Else each is predicted, and written once.
    Returns how many frames were predicted.
    Raises DataError if it cannot be opened, or breaks and does not come back; what came before is kept.
    """
    stream = _Stream(source)
    if is_live and stream.video.frames:
        stream.release()
        raise DataError(
            f"--live: {stream.name} is a file of {stream.video.frames} frames, which can wait; leave it out"
        )
    meter = _Meter()
    with ahead(stream.frames(), depth=1 if is_live else DEPTH, drops=is_live) as taken:
        pace = _Pace(predictor, taken, stream.video.frames_per_s) if is_live else None
        rate = pace.frames_per_s if pace else stream.video.frames_per_s
        try:
            with (
                videos.written(_stem(source), rate, files) as writers,
                videos.writing_behind(writers, files, meter.written) as writing,
                tqdm(total=stream.video.frames or None, unit="frame", disable=None, ncols=100) as bar,
            ):
                for frame in taken:
                    mask = predictor(frame.image)
                    writing(pace.timed(frame) if pace else frame, mask)
                    bar.set_postfix_str(meter.latencies(), refresh=False)
                    bar.update()
        finally:
            for line in meter.lines():
                _log.info(line)
    return meter.count


def _stem(source: str) -> Path:
    return Path(f"camera_{source}" if source.isdecimal() else "stream")


class _Stream:
    """Opened once when it is made, and again each time it breaks.

    name   without a password
    video  what it announces; of a file at an address its frames too
    """

    def __init__(self, source: str):
        """Raises DataError if it cannot be opened."""
        self._source = source
        self.name = f"camera {source}" if source.isdecimal() else _without_password(source)
        self._capture = self._opened()
        if not self._capture.isOpened():
            raise DataError(f"--input {self.name}: cannot be opened; is it there, and does nobody else use it?")
        self.video = videos.announced(self._capture, self.name)
        self._next = self._capture.read()

    def release(self) -> None:
        self._capture.release()

    def frames(self) -> Iterator[Frame]:
        """Raises DataError where it breaks and does not come back, or a file ends early."""
        place = 0
        try:
            while True:
                for image in self._images():
                    yield Frame(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), time.monotonic(), place)
                    place += 1
                if self.video.frames and videos.is_whole(place, self.video):
                    return
                if self.video.frames or not place:
                    raise DataError(f"{self.name}: breaks off after frame {place}{self._total()}; {_kept(place)}")
                _log.warning(f"{self.name}: broke after frame {place}; trying to come back")
                if not self._is_back():
                    gone = f"broke after frame {place} and did not come back in {sum(_RETRIES_S):g} s"
                    raise DataError(f"{self.name}: {gone}; {_kept(place)}")
        finally:
            self.release()

    def _total(self) -> str:
        return f" of {self.video.frames}" if self.video.frames else ""

    def _images(self) -> Iterator[np.ndarray]:
        """u8[H,W,3] BGR, until there is none."""
        while self._next[0]:
            yield self._next[1]
            self._next = self._capture.read()

    def _is_back(self) -> bool:
        for wait_s in _RETRIES_S:
            time.sleep(wait_s)
            self._capture.release()
            self._capture = self._opened()
            self._next = self._capture.read()
            if self._next[0]:
                return True
        return False

    def _opened(self) -> cv2.VideoCapture:
        if self._source.isdecimal():
            return cv2.VideoCapture(int(self._source))
        limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, _ANSWER_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, _ANSWER_MS]
        return cv2.VideoCapture(self._source, cv2.CAP_FFMPEG, limits)


def _kept(place: int) -> str:
    return "the frames before it are written" if place else "no frame came"


def _without_password(address: str) -> str:
    parts = urllib.parse.urlsplit(address)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


class _Pace:
    """How often a live frame is written, so that the file lasts as long as what it shows.

    frames_per_s  of the file: twice what the network alone predicts, at most what the stream announces
    """

    def __init__(self, predictor: Callable, frames: Iterator[Frame], announced_per_s: float):
        """Predicts the first frame twice: the first time compiles."""
        first = next(frames, None)
        self.frames_per_s, self._written = announced_per_s, 0
        self._began_s: float | None = None
        if first is None:
            return
        predictor(first.image)
        start = time.monotonic()
        predictor(first.image)
        self.frames_per_s = videos.writable_rate(min(announced_per_s, 2 / max(1e-3, time.monotonic() - start)))

    def timed(self, frame: Frame) -> Frame:
        """The frame, to be written until its time in the file; not at all where that has one already."""
        if self._began_s is None:
            self._began_s = frame.arrived_s
        due = 1 + round((frame.arrived_s - self._began_s) * self.frames_per_s)
        frame = frame._replace(times=max(0, due - self._written))
        self._written = max(self._written, due)
        return frame


class _Meter:
    """Counts frames and what they took from the decoder to the files, in the thread that writes."""

    def __init__(self) -> None:
        self.count = 0
        self._dropped = 0
        self._next_place: int | None = None
        self._seconds: collections.deque[float] = collections.deque(maxlen=_RECENT)
        self._first_s = self._last_s = 0.0

    def written(self, frame: Frame) -> None:
        self._last_s = time.monotonic()
        self._first_s = self._first_s or self._last_s
        self._seconds.append(self._last_s - frame.arrived_s)
        self._dropped += 0 if self._next_place is None else frame.place - self._next_place
        self._next_place = frame.place + 1
        self.count += 1

    def latencies(self) -> str:
        """p50 and p95 of the recent frames, and how many were dropped."""
        if not self._seconds:
            return ""
        p50, p95 = 1000 * np.percentile(list(self._seconds), (50, 95))
        return f"p50 {p50:.0f} ms, p95 {p95:.0f} ms, {self._dropped} dropped"

    def lines(self) -> list[str]:
        """One for the end; none where nothing was written."""
        if self.count < 2:
            return []
        rate = (self.count - 1) / (self._last_s - self._first_s)
        return [f"{self.count} frames, {rate:.1f} a second; from decoder to file {self.latencies()}"]
