"""Labels for frames that have none: the masks of a trained network, where it is sure."""

import dataclasses
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from ddrnet_jax.build import Experiment, experiment
from ddrnet_jax.data import decode, files, pictures
from ddrnet_jax.data.errors import DataError
from ddrnet_jax.data.labels import IGNORE
from ddrnet_jax.data.pseudo_labels import CARD, SPLIT, write_card
from ddrnet_jax.data.remarks import Remarks
from ddrnet_jax.evaluation.evaluate import check_same_classes
from ddrnet_jax.evaluation.views import View, sure_mask_program
from ddrnet_jax.models import variables
from ddrnet_jax.outputs import Outputs
from ddrnet_jax.prediction import segmenter
from ddrnet_jax.prediction.predict import input_files
from ddrnet_jax.runs.checkpoints import CheckpointError

_log = logging.getLogger(__name__)


class Kept(NamedTuple):
    """Counts of each class in the masks: pixels predicted, and those of them that are labelled, i64[C]."""

    classes: Sequence[str]
    predicted: np.ndarray
    kept: np.ndarray

    def lines(self) -> list[str]:
        """For people: the share of each class that was kept."""
        width = max(map(len, self.classes))
        names = (*self.classes, "all")
        of, kept = (np.append(counts, counts.sum()) for counts in (self.predicted, self.kept))
        shares = [f"{k / n:6.1%}" if n else "     -" for n, k in zip(of, kept, strict=True)]
        return [f"{name:{width}}  {share} kept" for name, share in zip(names, shares, strict=True)]


def pseudo_label(
    checkpoint: str | Path,
    source: str | Path,
    output: str | Path,
    *,
    confidence: float,
    wanted: Experiment | None = None,
) -> tuple[int, Kept]:
    """Write OUTPUT/images/pseudo and OUTPUT/labels/pseudo of an image or a folder of images.

    confidence  least probability of a pixel's class; a pixel that has less becomes 255
    wanted      whose evaluation says at what sizes, scales and mirror images the network looks; None: the checkpoint's
    Masks are u8 train ids at the image's own size. OUTPUT/pseudo_labels.json says what made them.
    Returns how many images there are, and what was kept.
    Raises DataError if there is nothing to read or something is there already; broken images are named at the end.
    """
    paths = input_files(Path(source))
    trained = segmenter.load(checkpoint)
    if trained.model is None or trained.config is None:
        raise CheckpointError(f"{checkpoint}: an exported file gives no probabilities; give its checkpoint")
    if wanted is not None:
        check_same_classes(wanted, checkpoint, experiment(trained.config))
    view = View(**wanted.view) if wanted else trained.view or View()
    outputs = Outputs(output, inputs=paths.values())
    images = _new_folder(outputs)
    graphdef, *weights = variables.split(trained.model)
    program = sure_mask_program(graphdef, view)
    counts = np.zeros((2, len(trained.classes)), np.int64)
    broken: list[str] = []
    remarks = Remarks(trained.spec)
    for stem, path in tqdm(paths.items(), unit="image", disable=None, ncols=80):
        try:
            data = files.read_file(path)
            image = decode.decode_image(data, str(path), trained.spec.value_range)
        except DataError as e:
            broken.append(str(e))
            continue
        remarks.add(data, str(path))
        best, mask = (np.asarray(found)[0] for found in program(tuple(weights), image[None], confidence))
        counts += [np.bincount(each.ravel(), minlength=IGNORE + 1)[: counts.shape[1]] for each in (best, mask)]
        _copy(path, images / path.name)
        outputs.write(f"labels/{SPLIT}/{stem}.png", pictures.png(mask))
    for line in remarks.lines():
        _log.warning(line)
    kept = Kept(trained.classes, *counts)
    _write_card(outputs, checkpoint, confidence, view, kept)
    for line in kept.lines():
        print(line)
    if broken:
        raise DataError(f"{len(broken)} of {len(paths)} images were left out:\n  " + "\n  ".join(broken))
    return len(paths), kept


def _new_folder(outputs: Outputs) -> Path:
    """The folder of the images, made and empty, as that of the labels is."""
    images, labels = (outputs.folder / kind / SPLIT for kind in ("images", "labels"))
    for folder in (images, labels):
        if folder.is_dir() and any(folder.iterdir()):
            raise DataError(
                f"--output {outputs.folder}: {folder} has files already, none is overwritten; choose a new folder"
            )
    outputs.require([CARD, f"images/{SPLIT}/any", f"labels/{SPLIT}/any"])
    return images


def _copy(source: Path, target: Path) -> None:
    try:
        shutil.copyfile(source, target)
    except OSError as e:
        raise DataError(f"{target}: cannot be written ({e.strerror})") from e


def _write_card(outputs: Outputs, checkpoint: str | Path, confidence: float, view: View, kept: Kept) -> None:
    card = {
        "checkpoint": str(checkpoint),
        "confidence": confidence,
        "view": dataclasses.asdict(view),
        "classes": list(kept.classes),
        "predicted_pixels": kept.predicted.tolist(),
        "kept_pixels": kept.kept.tolist(),
    }
    write_card(outputs, card)
