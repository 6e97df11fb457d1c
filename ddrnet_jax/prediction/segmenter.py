"""The prediction object: images in, masks out, by a checkpoint, an exported file, or a model in hand.

Loads JAX where a network of ours is run by it.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, overload

import numpy as np
from ml_collections import ConfigDict

from ddrnet_jax import regular_files
from ddrnet_jax.config import files as config_files
from ddrnet_jax.data import pictures
from ddrnet_jax.data.sets import of_config
from ddrnet_jax.data.sets.specs import DatasetSpec
from ddrnet_jax.errors import UserError
from ddrnet_jax.exports.onnx_engine import EngineError, OnnxPredictor
from ddrnet_jax.runs.step_files import CheckpointError
from ddrnet_jax.weights import places
from ddrnet_jax.weights.card import card_path

if TYPE_CHECKING:
    from flax import nnx

    from ddrnet_jax.evaluation.views import View


class Segmenter:
    """A trained network to predict with.

    classes    names by train id
    colors     RGB (0..255) by train id
    config     of the run that made the weights, None of a model in hand
    model      the network in eval mode, None of an exported file
    engine     what runs it, in words
    at_a_time  images that threads should give it together, so that an accelerator never waits for the next
    """

    def __init__(
        self,
        predict_one: Callable[[np.ndarray], np.ndarray],
        spec: DatasetSpec,
        *,
        config: ConfigDict | None = None,
        model: "nnx.Module | None" = None,
        view: "View | None" = None,
        engine: str = "jax",
    ):
        """
        predict_one  u8[H,W,3] RGB -> u8[H,W] train ids
        view         that the model is evaluated by; None: whole images
        """
        self._predict_one, self.spec = predict_one, spec
        self.classes, self.colors = spec.classes, spec.colors
        self.config, self.model, self.view, self.engine = config, model, view, engine
        self.at_a_time: int = getattr(predict_one, "at_a_time", 1)
        self._logits: Callable | None = None

    @overload
    def predict(self, images: np.ndarray) -> np.ndarray:
        """u8[H,W,3] -> u8[H,W], u8[B,H,W,3] -> u8[B,H,W]"""

    @overload
    def predict(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """of u8[H,W,3] -> of u8[H,W]"""

    def predict(self, images: np.ndarray | Sequence[np.ndarray]) -> np.ndarray | list[np.ndarray]:
        """Train ids of one image, of a batch, or of a list of images of any sizes.

        images   u8[H,W,3] RGB, u8[B,H,W,3], or a list of u8[H,W,3]
        Returns  u8[H,W], u8[B,H,W], or a list of u8[H,W]
        Raises   UserError for anything else.
        """
        if isinstance(images, list | tuple):
            return [self.predict(image) for image in images]
        images = _checked(images)
        if images.ndim == 3:
            return self._predict_one(images)
        batch = getattr(self._predict_one, "batch", None)
        return batch(images) if batch else np.stack([self._predict_one(image) for image in images])

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Logits at an eighth of the size: u8[H,W,3] RGB or u8[B,H,W,3] -> f32[h,w,C] or f32[B,h,w,C].

        Raises UserError for an exported file, which holds the way to the mask alone.
        """
        if self.model is None:
            raise UserError("an exported file gives masks, not logits; load the checkpoint that it was made from")
        from ddrnet_jax.models import variables
        from ddrnet_jax.models.inference import logits_program

        images = _checked(images)
        graphdef, *weights = variables.split(self.model)
        self._logits = self._logits or logits_program(graphdef)
        found = np.asarray(self._logits(weights, images[None] if images.ndim == 3 else images))
        return found[0] if images.ndim == 3 else found

    def overlay(self, image: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """The classes in their colours over the image: u8[H,W,3] RGB, u8[H,W] train ids -> u8[H,W,3]"""
        return pictures.overlay(image, mask, self.spec)


def load(place: str | Path, *, network: "Callable[[nnx.Rngs], nnx.Module] | None" = None) -> Segmenter:
    """A segmenter of a workdir (its best, else latest step), a step's directory, or a file.

    place    its path: of a weights file, an .onnx or a .stablehlo file too; or the address of a weights file
    network  makes what the weights are of, for a network of your own; None: that of the checkpoint's config
    Raises   CheckpointError, EngineError, WeightsFileError, PretrainedError or DownloadError with one line.
    """
    path = places.local(place)
    kind = path.suffix
    if kind == ".onnx":
        return load_onnx(path)
    if kind == ".stablehlo":
        return _of_stablehlo(path)
    return _of_checkpoint(path, network)


def not_a_segmenter(path: Path) -> CheckpointError:
    """The error of a classifier that is to predict masks."""
    return CheckpointError(
        f"{path}: a classifier, expected a segmenter, which alone predicts masks; "
        "train one from it with config.init_from"
    )


def _of_checkpoint(path: Path, network: "Callable[[nnx.Rngs], nnx.Module] | None") -> Segmenter:
    import jax

    from ddrnet_jax.evaluation.views import View, prediction_view
    from ddrnet_jax.models import variables
    from ddrnet_jax.prediction.predictor import Predictor
    from ddrnet_jax.weights import loading

    loaded = loading.load_weights(path, network=network)
    if loaded.experiment.task != "segmentation":
        raise not_a_segmenter(path)
    model = variables.merge(loaded.graphdef, *jax.device_put((loaded.params, loaded.batch_stats)))
    model.eval()
    view, settings = prediction_view(loaded.experiment.view), View(**loaded.experiment.view)
    return Segmenter(Predictor(model, view), loaded.experiment.spec, config=loaded.config, model=model, view=settings)


def load_onnx(path: str | Path) -> Segmenter:
    """A segmenter of a file of `export --format onnx`, by ONNX Runtime. Raises EngineError with one line."""
    return of_onnx(OnnxPredictor(places.local(path)))


def of_onnx(predictor: OnnxPredictor) -> Segmenter:
    """A segmenter of an exported file that an engine has made ready."""
    spec = of_config.dataset_spec(predictor.config)
    return Segmenter(predictor, spec, config=predictor.config, engine=predictor.engine)


def _of_stablehlo(path: Path) -> Segmenter:
    from ddrnet_jax.exports import load_stablehlo

    try:
        for file in (path, card_path(path)):
            regular_files.require(file)
        masks = load_stablehlo.load(path)
        config = config_files.from_json(json.loads(regular_files.read_text(card_path(path)))["config"])
    except load_stablehlo.Unreadable as e:
        raise EngineError(str(e)) from e
    except Exception as e:  # damaged files raise many kinds
        reason = (str(e).splitlines() or [type(e).__name__])[0]
        raise EngineError(f"{path}: not a file of export --format stablehlo with its card ({reason})") from e
    return Segmenter(lambda image: np.asarray(masks(image[None]))[0], of_config.dataset_spec(config), config=config)


def _checked(images: np.ndarray | Sequence[np.ndarray]) -> np.ndarray:
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or images.shape[-1] != 3 or not images.size:
        raise UserError(
            f"images of {images.dtype}{list(images.shape)} given, expected RGB as u8[H,W,3], a batch u8[B,H,W,3] or a "
            "list of images"
        )
    return images
