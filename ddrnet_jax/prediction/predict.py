"""Masks and overlays of an image, a folder of images, a video, or the held-out images of a run."""

import collections
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from ml_collections import ConfigDict
from tqdm import tqdm

from ddrnet_jax import build
from ddrnet_jax.data import decode, files, pictures
from ddrnet_jax.data.errors import DataError
from ddrnet_jax.data.samples import Sample, Source
from ddrnet_jax.evaluation.evaluate import check_same_classes
from ddrnet_jax.evaluation.views import WHOLE_IMAGES, View, mask_program, prediction_view
from ddrnet_jax.export.onnx_engine import OnnxPredictor
from ddrnet_jax.models import variables
from ddrnet_jax.models.folding import fold
from ddrnet_jax.prediction import videos
from ddrnet_jax.prediction.files import PredictionFiles
from ddrnet_jax.runs import checkpoints

_SHEET_ROWS = 6


class Predictor:
    """Images u8[H,W,3] -> masks u8[H,W] by the folded network, compiled once per image size."""

    def __init__(
        self,
        graphdef: nnx.GraphDef,
        params: dict,
        batch_stats: dict,
        *,
        view: View = WHOLE_IMAGES,
        dtype: DTypeLike | None = None,
        say: Callable[[str], None] = lambda message: None,
    ):
        """
        dtype  to compute in; None: the network's own
        say    where announcements of compilations go
        """
        folded = fold(variables.merge(graphdef, params, batch_stats), dtype)
        graphdef, *weights = variables.split(folded)
        self._weights = jax.device_put(weights)
        self._say = say
        self._seen_sizes: set[tuple[int, int]] = set()

        self._masks = mask_program(graphdef, view)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """u8[H,W,3] RGB -> u8[H,W] train ids"""
        if image.shape[:2] not in self._seen_sizes:
            self._seen_sizes.add(image.shape[:2])
            self._say(f"compiling for {image.shape[0]}x{image.shape[1]} (HxW) images")
        return np.asarray(self._masks(self._weights, image[None]))[0]


def predict_files(
    checkpoint: str | Path, source: str | Path, output: str | Path, *, engine: str = "jax", side_by_side: bool = False
) -> int:
    """Write OUTPUT/masks/<stem>.png and OUTPUT/overlays/<stem>.png for an image or every image of a folder.

    engine        "jax", or "onnxruntime": the checkpoint is then a file of `export --format onnx`
    side_by_side  overlays show the image beside them
    Masks are u8 train ids at the image's own size. Of a video: see `videos.predict_video`.
    Returns how many images or frames were written.
    Raises DataError if there is nothing to read; images that cannot be read are named at the end.
    """
    source = Path(source)
    is_video = source.is_file() and source.suffix.lower() in videos.SUFFIXES
    paths = {} if is_video else _input_files(source)
    if is_video:
        videos.check(source)
    predictor, config = _ENGINES[engine](checkpoint)
    results = PredictionFiles(output, build.dataset_spec(config), side_by_side=side_by_side)
    if is_video:
        return videos.predict_video(predictor, source, results)
    broken = []
    for stem, path in tqdm(paths.items(), unit="image", disable=None, ncols=80):
        try:
            image = decode.decode_image(files.read_file(path), str(path))
        except DataError as e:
            broken.append(str(e))
            continue
        results.write(stem, image, predictor(image))
    if broken:
        raise DataError(f"{len(broken)} of {len(paths)} images were left out:\n  " + "\n  ".join(broken))
    return len(paths)


def predict_held_out(
    checkpoint: str | Path,
    output: str | Path,
    config: ConfigDict | None = None,
    *,
    engine: str = "jax",
    side_by_side: bool = False,
) -> int:
    """The same for held-out images, and OUTPUT/samples.png with some of them beside their labels.

    config  whose eval split is predicted; None: the checkpoint's own
    """
    predictor, trained = _ENGINES[engine](checkpoint)
    check_same_classes(config or trained, checkpoint, trained)
    source = build.eval_source(config or trained)
    _check_unique_stems(source)
    spec = build.dataset_spec(trained)
    results = PredictionFiles(output, spec, side_by_side=side_by_side)
    rows = []
    for sample in tqdm(_each(source), total=len(source), unit="image", disable=None, ncols=80):
        mask = predictor(sample["image"])
        results.write(Path(sample["name"]).stem, sample["image"], mask)
        if len(rows) < _SHEET_ROWS:
            rows.append((sample["image"], sample["label"], mask))
    pictures.write_png(Path(output) / "samples.png", pictures.contact_sheet(rows, spec))
    return len(source)


def _check_unique_stems(source: Source) -> None:
    counts = collections.Counter(Path(name).stem for name in source.names())
    stem, count = counts.most_common(1)[0]
    if count > 1:
        raise DataError(f"{count} images to predict are called {stem}; predict one split at a time")


def _jax_engine(checkpoint: str | Path) -> tuple[Predictor, ConfigDict]:
    if Path(checkpoint).suffix == ".onnx":
        raise checkpoints.CheckpointError(f"--checkpoint {checkpoint}: an exported file; add --engine onnxruntime")
    loaded = checkpoints.load_weights(checkpoint)
    if loaded.config.task != "segmentation":
        raise checkpoints.CheckpointError(
            f"{checkpoint}: a classifier, expected a segmenter, which alone predicts masks; "
            "train one from it with config.init_from"
        )
    view = prediction_view(loaded.config)
    predictor = Predictor(loaded.graphdef, loaded.params, loaded.batch_stats, view=view, say=_say)
    return predictor, loaded.config


def _onnxruntime_engine(checkpoint: str | Path) -> tuple[OnnxPredictor, ConfigDict]:
    predictor = OnnxPredictor(checkpoint, say=_say)
    return predictor, predictor.config


_ENGINES = {"jax": _jax_engine, "onnxruntime": _onnxruntime_engine}


def _each(source: Source) -> Iterator[Sample]:
    return (source[i] for i in range(len(source)))


def _input_files(source: Path) -> dict[str, Path]:
    if source.is_dir():
        _warn_of_others(source)
        return files.files_by_stem(source, "images to predict")
    if not source.is_file():
        raise DataError(f"--input {source}: no such file or folder")
    if source.suffix.lower() not in files.IMAGE_SUFFIXES:
        raise DataError(
            f"--input {source}: not an image or video; expected one of "
            f"{', '.join(sorted(files.IMAGE_SUFFIXES | videos.SUFFIXES))}"
        )
    return {source.stem: source}


def _warn_of_others(folder: Path) -> None:
    others = files.unread(folder)
    films = [name for name in others if Path(name).suffix.lower() in videos.SUFFIXES]
    rest = [name for name in others if name not in films]
    if films:
        _say(f"warning: {len(films)} video(s) here are left out, first {films[0]}; give each as --input")
    if rest:
        _say(
            f"warning: {len(rest)} file(s) or folder(s) here are no images and left out, first {rest[0]}; "
            "convert them to PNG or JPEG, give a folder as --input"
        )


def _say(message: str) -> None:
    tqdm.write(message, file=sys.stderr)
