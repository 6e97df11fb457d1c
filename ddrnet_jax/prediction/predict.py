"""Masks and overlays of an image, a folder of images, a video, or the held-out images of a run."""

import collections
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from ddrnet_jax.data import files, pictures
from ddrnet_jax.data.errors import DataError
from ddrnet_jax.data.samples import Sample, Source
from ddrnet_jax.outputs import Outputs
from ddrnet_jax.prediction import engines, streams, videos
from ddrnet_jax.prediction.files import SAMPLES, PredictionFiles, names_of
from ddrnet_jax.prediction.images import predict_images
from ddrnet_jax.prediction.pipeline import ahead, behind
from ddrnet_jax.prediction.sources import is_stream

if TYPE_CHECKING:
    from ddrnet_jax.build import Experiment

_log = logging.getLogger(__name__)
_SHEET_ROWS = 6


def predict_files(
    checkpoint: str | Path,
    source: str | Path,
    output: str | Path,
    *,
    engine: str = engines.AUTO,
    side_by_side: bool = False,
    is_live: bool = False,
) -> int:
    """Write OUTPUT/masks/<stem>.png and OUTPUT/overlays/<stem>.png for an image or every image of a folder.

    source        also a video, the number of a camera, or the address of a stream: see `videos` and `streams`
    engine        one of engines.ENGINES
    side_by_side  overlays show the image beside them
    is_live       of a camera or a stream: frames are dropped rather than late
    Masks are u8 train ids at the image's own size.
    Returns how many images or frames were written.
    Raises DataError if there is nothing to read; images that cannot be read are named at the end.
    """
    if is_stream(source):
        return _predict_stream(checkpoint, str(source), output, engine, side_by_side=side_by_side, is_live=is_live)
    if is_live:
        raise DataError(f"--live: {source} is no camera or stream, its frames can wait; leave it out")
    source = Path(source)
    is_video = source.is_file() and _is_video(source)
    paths = {} if is_video else input_files(source)
    if is_video:
        videos.check(source)
    outputs = Outputs(output, inputs=paths.values() or [source])
    outputs.require(videos.names_of(source) if is_video else names_of(paths))
    predictor = engines.load(checkpoint, engine)
    results = PredictionFiles(outputs, predictor.spec, side_by_side=side_by_side)
    if is_video:
        return videos.predict_video(predictor.predict, source, results, at_a_time=predictor.at_a_time)
    return predict_images(predictor.predict, paths, results, at_a_time=predictor.at_a_time)


def _predict_stream(
    checkpoint: str | Path, source: str, output: str | Path, engine: str, *, side_by_side: bool, is_live: bool
) -> int:
    outputs = Outputs(output)
    outputs.require(streams.names_of(source))
    predictor = engines.load(checkpoint, engine)
    results = PredictionFiles(outputs, predictor.spec, side_by_side=side_by_side)
    return streams.predict_stream(predictor.predict, source, results, is_live=is_live)


def predict_held_out(
    checkpoint: str | Path,
    output: str | Path,
    wanted: "Experiment | None" = None,
    *,
    engine: str = engines.AUTO,
    side_by_side: bool = False,
) -> int:
    """The same for held-out images, and OUTPUT/samples.png with some of them beside their labels.

    wanted  whose eval split is predicted; None: the checkpoint's own
    """
    from ddrnet_jax.build import experiment  # which loads JAX
    from ddrnet_jax.evaluation.evaluate import check_same_classes

    predictor = engines.load(checkpoint, engine)
    trained = experiment(predictor.config)
    check_same_classes(wanted or trained, checkpoint, trained)
    source = (wanted or trained).eval_source()
    _check_unique_stems(source)
    outputs = Outputs(
        output, inputs=[part for pair in getattr(source, "pairs", ()) for part in pair if isinstance(part, str)]
    )
    outputs.require([*names_of(Path(name).stem for name in source.names()), SAMPLES])
    results = PredictionFiles(outputs, trained.spec, side_by_side=side_by_side)
    rows: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    with ahead(_each(source)) as samples, behind(lambda entry: results.write(*entry)) as writing:
        for sample in tqdm(samples, total=len(source), unit="image", disable=None, ncols=80):
            mask = predictor.predict(sample["image"])
            writing.put((Path(sample["name"]).stem, sample["image"], mask))
            if len(rows) < _SHEET_ROWS:
                rows.append((sample["image"], sample["label"], mask))
    outputs.write(SAMPLES, pictures.png(pictures.contact_sheet(rows, trained.spec)))
    return len(source)


def _check_unique_stems(source: Source) -> None:
    counts = collections.Counter(Path(name).stem for name in source.names())
    stem, count = counts.most_common(1)[0]
    if count > 1:
        raise DataError(f"{count} images to predict are called {stem}; predict one split at a time")


def _each(source: Source) -> Iterator[Sample]:
    return (source[i] for i in range(len(source)))


def _is_video(source: Path) -> bool:
    """By its content; a name that is a video's or an image's is believed."""
    suffix = source.suffix.lower()
    if suffix in videos.SUFFIXES:
        return True
    return (suffix == ".gif" or suffix not in files.IMAGE_SUFFIXES) and videos.is_video(source)


def input_files(source: Path) -> dict[str, Path]:
    """{stem: path} of an image, or of the images of a folder; what else is there is warned of. Raises DataError."""
    if source.is_dir():
        _warn_of_others(source)
        return files.files_by_stem(source, "images to predict")
    if not source.is_file():
        what = "neither a regular file nor a folder" if source.exists() else "no such file or folder"
        raise DataError(f"--input {source}: {what}")
    if source.suffix.lower() not in files.IMAGE_SUFFIXES and not videos.is_picture(source):
        raise DataError(
            f"--input {source}: not an image or video that OpenCV reads; save images as PNG or JPEG, videos as MP4"
        )
    return {source.stem: source}


def _warn_of_others(folder: Path) -> None:
    others = files.unread(folder)
    films = [name for name in others if Path(name).suffix.lower() in videos.SUFFIXES]
    rest = [name for name in others if name not in films]
    if films:
        _log.warning(f"{len(films)} video(s) here are left out, first {films[0]}; give each as --input")
    if rest:
        _log.warning(
            f"{len(rest)} file(s) or folder(s) here are no images and left out, first {rest[0]}; "
            "convert them to PNG or JPEG, give a folder as --input"
        )
