"""A video to its masks and overlays, frame by frame: memory for a few frames, whatever its length."""

import array
import codecs
import contextlib
import logging
import math
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

from ddrnet_jax import regular_files
from ddrnet_jax.data.errors import DataError
from ddrnet_jax.prediction.files import LEGEND, PredictionFiles, mask_name, overlay_name
from ddrnet_jax.prediction.pipeline import ahead, behind, together

_log = logging.getLogger(__name__)
# By which videos are known in a folder; of a file that is given the decoder decides.
SUFFIXES = frozenset(
    (".mp4", ".m4v", ".mov", ".mkv", ".avi", ".webm", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".wmv", ".asf", ".flv")
    + (".3gp", ".3g2", ".ogv", ".vob", ".mxf", ".f4v", ".dv", ".y4m")
)
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # what is wrong with a file is said here, once
_FRAMES_PER_S = 25.0  # where a file does not say
_MOST_FRAMES_PER_S = 1000  # what OpenCV gives where a file has no rate
_LOST_SHARE = 0.02  # of the frames that a file announces: some announce a few too many


class Video(NamedTuple):
    """The announcements of a video file: its frames (0 if it does not say), and their rate."""

    frames: int
    frames_per_s: float


class Frame(NamedTuple):
    """A frame on its way to its results.

    image      u8[H,W,3] RGB
    arrived_s  when it was decoded, by time.monotonic
    place      among all frames that arrived
    times      that it is written: more than once where it stands for others that were dropped
    """

    image: np.ndarray
    arrived_s: float = 0.0
    place: int = 0
    times: int = 1


def predict_video(
    predictor: Callable[[np.ndarray], np.ndarray], path: Path, files: PredictionFiles, *, at_a_time: int = 1
) -> int:
    """Write OUTPUT/overlays/<stem>.mp4 and the exact train ids as OUTPUT/masks/<stem>.mkv (FFV1, lossless, grey).

    predictor  u8[H,W,3] RGB -> u8[H,W] train ids
    at_a_time  frames that it is given together, in threads of their own
    Sizes are the frames', made even as encoders need it by repeating the last row or column (255 in masks). No sound.
    Returns how many frames there were.
    Raises DataError if the file cannot be read, breaks off, or its results cannot be written; what came before is kept.
    """
    video, frames = _open(path)
    count = 0
    with (
        written(path, video.frames_per_s, files) as writers,
        writing_behind(writers, files) as writing,
        ahead(frames) as taken,
        together(lambda frame: (frame, predictor(frame)), taken, at_a_time) as predicted,
    ):
        for frame, mask in tqdm(predicted, total=video.frames or None, unit="frame", disable=None, ncols=80):
            writing(Frame(frame), mask)
            count += 1
    if not count:
        raise DataError(f"{path}: no frame can be read")
    if not is_whole(count, video):
        raise DataError(f"{path}: breaks off after frame {count} of {video.frames}; the frames before it are written")
    return count


@contextlib.contextmanager
def written(source: Path, frames_per_s: float, files: PredictionFiles) -> Iterator["Writers"]:
    """The writers of a video's results, which are closed and in their places at the end, also of an error or Ctrl-C.

    Raises DataError if not all frames could be written.
    """
    with contextlib.ExitStack() as stack:
        overlays, masks = (
            stack.enter_context(files.outputs.replacing(name, keeps_part=True)) for name in names_of(source)[1:]
        )
        writers = Writers(overlays, masks, frames_per_s, source)
        try:
            yield writers
        finally:  # a video without its end cannot be played
            writers.close()
        for target in (overlays, masks):
            _check_written(target, writers.count, source)


@contextlib.contextmanager
def writing_behind(
    writers: "Writers", files: PredictionFiles, when_written: Callable[[Frame], object] = lambda frame: None
) -> Iterator[Callable[[Frame, np.ndarray], None]]:
    """A function (frame, mask u8[H,W]) that draws in one thread and writes in another, in order."""

    def write(entry: tuple[Frame, Future, np.ndarray]) -> None:
        frame, drawn, mask = entry
        for _ in range(frame.times):
            writers.write(drawn.result(), mask)
        when_written(frame)

    with ThreadPoolExecutor(1) as drawer, behind(write) as writing:
        yield lambda frame, mask: writing.put((frame, drawer.submit(files.picture, frame.image, mask), mask))


def is_whole(count: int, video: Video) -> bool:
    """True if so many frames are about as many as a video announces."""
    return count >= (1 - _LOST_SHARE) * video.frames


def names_of(path: Path) -> list[str]:
    """The files of a video below OUTPUT: the legend, the overlays, the masks."""
    return [LEGEND, overlay_name(path.stem, ".mp4"), mask_name(path.stem, ".mkv")]


def _open(path: Path) -> tuple[Video, Iterator[np.ndarray]]:
    capture = _captured(path)
    video = announced(capture, str(path))
    return video, _frames(capture, path, video.frames_per_s)


def announced(capture: cv2.VideoCapture, name: str) -> Video:
    """The number of frames and the rate that an opened capture gives, and a warning where it does not say its rate."""
    rate = capture.get(cv2.CAP_PROP_FPS)
    count = max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
    if not (math.isfinite(rate) and 0 < rate < _MOST_FRAMES_PER_S):
        _log.warning(f"{name} does not say its frame rate; {_FRAMES_PER_S:g} a second are written")
        rate, count = _FRAMES_PER_S, 0  # the count is an estimate by the rate
    return Video(count, writable_rate(rate))


def writable_rate(frames_per_s: float) -> float:
    """The nearest rate that MPEG-4 can hold: a fraction whose denominator, and a second's ticks, fit 16 bits."""
    return round(frames_per_s, 3 if frames_per_s < 65 else 2 if frames_per_s < 655 else 0)


def check(path: Path) -> None:
    """Raises DataError if the file cannot be read as a video."""
    _captured(path).release()


def _captured(path: Path) -> cv2.VideoCapture:
    capture = cv2.VideoCapture(_utf_8(path))
    if not capture.isOpened():
        raise DataError(f"{path}: cannot be read as a video (damaged, or of a codec that OpenCV lacks)")
    return capture


def _utf_8(path: Path) -> str:
    """The path as a text. Raises DataError where it is none: OpenCV crashes on it."""
    try:
        return str(path).encode().decode()
    except UnicodeEncodeError as e:
        raise DataError(f"{path}: its name is not UTF-8, and OpenCV opens no such video; rename it") from e


def is_video(path: Path) -> bool:
    """True if OpenCV reads a file as a video, and not as a picture; a text that it would draw is none."""
    if _is_text(path):
        return False
    capture = cv2.VideoCapture(_utf_8(path))
    is_film, frames = capture.isOpened(), capture.get(cv2.CAP_PROP_FRAME_COUNT)
    capture.release()
    return is_film and (frames > 1 or not is_picture(path))


def is_picture(path: Path) -> bool:
    """True if OpenCV knows the first bytes of a file as a picture's."""
    return cv2.haveImageReader(_utf_8(path))


def _is_text(path: Path) -> bool:
    with regular_files.opened(path) as file:
        head = file.read(1024)
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return b"\0" not in head


def _warn_of_uneven(times_ms: np.ndarray, path: Path, frames_per_s: float) -> None:
    """OpenCV's writers know one rate; where the frames of a file have another, their times differ from it."""
    intervals = np.diff(times_ms)
    if not len(intervals) or (intervals <= 0).any():  # a stream without times
        return
    late_ms = np.abs(times_ms - times_ms[0] - np.arange(len(times_ms)) * 1000 / frames_per_s).max()
    if late_ms > 1000 / frames_per_s:
        _log.warning(
            f"{path}: its frames are {intervals.min():.0f} to {intervals.max():.0f} ms apart; all of them are written, "
            f"at {frames_per_s:.3g} a second: some are shown up to {late_ms / 1000:.2g} s early or late"
        )


def _frames(capture: cv2.VideoCapture, path: Path, frames_per_s: float) -> Iterator[np.ndarray]:
    """u8[H,W,3] RGB, one after another; warns at the end if their times are uneven."""
    times_ms = array.array("d")
    try:
        while True:
            is_read, frame = capture.read()
            if not is_read:
                _warn_of_uneven(np.array(times_ms), path, frames_per_s)
                return
            times_ms.append(capture.get(cv2.CAP_PROP_POS_MSEC))
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
    finally:
        capture.release()


class Writers:
    """Both results of a video, made once the size of the first frame is known.

    count  of the frames that were written
    """

    def __init__(self, overlays: Path, masks: Path, frames_per_s: float, source: Path):
        """source is the video's own file, for messages"""
        self._source = source
        self._targets = {overlays: ("mp4v", True), masks: ("FFV1", False)}
        self._frames_per_s = frames_per_s
        self._writers: dict[Path, cv2.VideoWriter] = {}
        self._sizes: dict[Path, tuple[int, ...]] = {}
        self.count = 0
        self._lock, self._is_closed = threading.Lock(), False  # OpenCV crashes on a writer that is closed meanwhile

    def write(self, picture: np.ndarray, mask: np.ndarray) -> None:
        """picture u8[h,w,3] RGB, mask u8[H,W] of one frame; after `close` nothing"""
        with self._lock:
            if not self._is_closed:
                self._write(picture, mask)

    def _write(self, picture: np.ndarray, mask: np.ndarray) -> None:
        frames = (cv2.cvtColor(_even(picture), cv2.COLOR_RGB2BGR), _even(mask, 255))
        for (path, (codec, has_color)), frame in zip(self._targets.items(), frames, strict=True):
            if path not in self._writers:
                self._sizes[path] = frame.shape
                self._writers[path] = self._opened(path, codec, frame.shape[1::-1], has_color)
            if frame.shape != self._sizes[path]:
                raise DataError(
                    f"{self._source}: the frames change their size from {self._sizes[path]} to {frame.shape}; "
                    "the frames before it are written"
                )
            self._writers[path].write(frame)
        self.count += 1

    def _opened(self, path: Path, codec: str, size_wh: tuple[int, int], has_color: bool) -> cv2.VideoWriter:
        code = cv2.VideoWriter.fourcc(*codec)
        writer = cv2.VideoWriter(_utf_8(path), code, self._frames_per_s, size_wh, has_color)
        if not writer.isOpened():
            what = f"{codec}, {size_wh[0]}x{size_wh[1]}, {self._frames_per_s:g} frames a second"
            raise DataError(f"{self._source}: its results cannot be written as a video ({what})")
        return writer

    def close(self) -> None:
        """Makes files of what was written."""
        with self._lock:
            self._is_closed = True
            for writer in self._writers.values():
                writer.release()


def _even(picture: np.ndarray, fill: int | None = None) -> np.ndarray:
    """Even height and width: encoders drop an odd row or column."""
    height, width = picture.shape[:2]
    edge = (cv2.BORDER_REPLICATE, 0) if fill is None else (cv2.BORDER_CONSTANT, fill)
    if height % 2 == width % 2 == 0:
        return picture
    return cv2.copyMakeBorder(picture, 0, height % 2, 0, width % 2, edge[0], value=edge[1])


def _check_written(path: Path, count: int, source: Path) -> None:
    """OpenCV's writer does not say that a disk is full."""
    if not count:
        return
    capture = cv2.VideoCapture(str(path))
    written = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
    capture.release()
    if written < count:
        raise DataError(f"{source}: only {written} of its {count} frames could be written; is the disk full?")
