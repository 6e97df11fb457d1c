"""Masks and overlays of an image, a folder of images, or the held-out images of a run."""

import collections
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict
from tqdm import tqdm

from ddrnet_jax import checkpoints, compilation, factory
from ddrnet_jax.data import decode, pictures
from ddrnet_jax.data.errors import DataError
from ddrnet_jax.data.sources import IMAGE_SUFFIXES, files_by_stem, read_file
from ddrnet_jax.data.specs import DatasetSpec
from ddrnet_jax.evaluation.evaluate import averaged_logits, check_same_classes, to_size
from ddrnet_jax.models import variables
from ddrnet_jax.models.blocks import resize
from ddrnet_jax.models.folding import fold

_SHEET_ROWS = 6


class Predictor:
    """Images u8[H,W,3] -> masks u8[H,W] by the folded network, compiled once per image size."""

    def __init__(
        self,
        graphdef: nnx.GraphDef,
        params: dict,
        batch_stats: dict,
        *,
        size_hw: tuple[int, int] | None = None,
        say: Callable[[str], None] = lambda message: None,
    ):
        """
        size_hw  what the network sees; None: each image at its own size
        say      where announcements of compilations go
        """
        folded = fold(variables.merge(graphdef, params, batch_stats))
        graphdef, *weights = variables.split(folded)
        self._weights = jax.device_put(weights)
        self._say = say
        self._seen_sizes: set[tuple[int, int]] = set()

        def logits(weights, images):
            return averaged_logits(variables.merge(graphdef, *weights), images)

        def masks(logits, image_hw):
            return jnp.argmax(resize(logits, image_hw), -1).astype(jnp.uint8)

        def masks_at_image_size(weights, images):
            return masks(logits(weights, images), images.shape[1:3])

        def masks_by_way_of_size(weights, images):
            # Programs of their own: the network compiles once, only the two resizes for every image size.
            seen = network(weights, shrink(images))
            return enlarge(seen, images.shape[1:3])

        options = compilation.options()
        network = jax.jit(logits, compiler_options=options)
        shrink = jax.jit(lambda images: to_size(images, size_hw), compiler_options=options)
        enlarge = jax.jit(masks, static_argnums=1, compiler_options=options)
        self._masks = masks_by_way_of_size if size_hw else jax.jit(masks_at_image_size, compiler_options=options)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """u8[H,W,3] RGB -> u8[H,W] train ids"""
        if image.shape[:2] not in self._seen_sizes:
            self._seen_sizes.add(image.shape[:2])
            self._say(f"compiling for {image.shape[0]}x{image.shape[1]} (HxW) images")
        return np.asarray(self._masks(self._weights, image[None]))[0]


def predict_files(checkpoint: str | Path, source: str | Path, output: str | Path) -> int:
    """Write OUTPUT/masks/<stem>.png and OUTPUT/overlays/<stem>.png for an image or every image of a folder.

    Masks are u8 train ids at the image's own size. Returns how many were written.
    Raises DataError if there is nothing to read; images that cannot be read are named at the end.
    """
    paths = _input_files(Path(source))
    predictor, spec = _predictor(_load_segmenter(checkpoint))
    folders = _output_folders(Path(output))
    broken = []
    for stem, path in tqdm(paths.items(), unit="image", disable=None, ncols=80):
        try:
            image = decode.decode_image(read_file(path), str(path))
        except DataError as e:
            broken.append(str(e))
            continue
        _write(folders, stem, image, predictor(image), spec)
    if broken:
        raise DataError(f"{len(broken)} of {len(paths)} images were left out:\n  " + "\n  ".join(broken))
    return len(paths)


def predict_held_out(checkpoint: str | Path, output: str | Path, config: ConfigDict | None = None) -> int:
    """The same for held-out images, and OUTPUT/samples.png with some of them beside their labels.

    config  whose eval split is predicted; None: the checkpoint's own
    """
    loaded = _load_segmenter(checkpoint)
    check_same_classes(config or loaded.config, checkpoint, loaded.config)
    source = factory.eval_source(config or loaded.config)
    _check_unique_stems(source)
    predictor, spec = _predictor(loaded)
    folders = _output_folders(Path(output))
    rows = []
    for sample in tqdm(_each(source), total=len(source), unit="image", disable=None, ncols=80):
        mask = predictor(sample["image"])
        _write(folders, Path(sample["name"]).stem, sample["image"], mask, spec)
        if len(rows) < _SHEET_ROWS:
            rows.append((sample["image"], sample["label"], mask))
    pictures.write_png(Path(output) / "samples.png", pictures.contact_sheet(rows, spec))
    return len(source)


def _check_unique_stems(source) -> None:
    counts = collections.Counter(Path(name).stem for name in source.names())
    stem, count = counts.most_common(1)[0]
    if count > 1:
        raise DataError(f"{count} images to predict are called {stem}; predict one split at a time")


def _load_segmenter(checkpoint: str | Path) -> checkpoints.Loaded:
    loaded = checkpoints.load_weights(checkpoint)
    if loaded.config.task != "segmentation":
        raise checkpoints.CheckpointError(
            f"{checkpoint}: a classifier, expected a segmenter, which alone predicts masks; "
            "train one from it with config.init_from"
        )
    return loaded


def _predictor(loaded: checkpoints.Loaded) -> tuple[Predictor, DatasetSpec]:
    size_hw = loaded.config.eval.size_hw
    predictor = Predictor(loaded.graphdef, loaded.params, loaded.batch_stats, size_hw=size_hw, say=_say)
    return predictor, factory.dataset_spec(loaded.config)


def _each(source) -> Iterator:
    return (source[i] for i in range(len(source)))


def _input_files(source: Path) -> dict[str, Path]:
    if source.is_dir():
        return files_by_stem(source, "images to predict")
    if not source.is_file():
        raise DataError(f"--input {source}: no such file or folder")
    if source.suffix.lower() not in IMAGE_SUFFIXES:
        raise DataError(f"--input {source}: not an image; expected one of {', '.join(sorted(IMAGE_SUFFIXES))}")
    return {source.stem: source}


def _output_folders(output: Path) -> tuple[Path, Path]:
    folders = (output / "masks", output / "overlays")
    try:
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise DataError(f"--output {output}: cannot be written ({e.strerror})") from e
    return folders


def _write(folders: tuple[Path, Path], stem: str, image: np.ndarray, mask: np.ndarray, spec: DatasetSpec) -> None:
    pictures.write_png(folders[0] / f"{stem}.png", mask)
    pictures.write_png(folders[1] / f"{stem}.png", pictures.overlay(image, mask, spec))


def _say(message: str) -> None:
    tqdm.write(message, file=sys.stderr)
