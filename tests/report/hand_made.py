"""Images, counts, lines and configs made by hand."""

import numpy as np

from ddrnet_jax.config import base
from ddrnet_jax.config import files as config_files
from ddrnet_jax.data.labels import IGNORE
from ddrnet_jax.data.sets.specs import DatasetSpec
from ddrnet_jax.evaluation.gallery import Gallery

# The third class is in no label and no prediction; the fourth is only ever predicted.
CLASSES = ("road", "<b>side & walk</b>", "absent", 'po"le', "sky")
SPEC = DatasetSpec(
    name="folder",
    classes=CLASSES,
    colors=((128, 64, 128), (244, 35, 232), (70, 70, 70), (250, 170, 30), (70, 130, 180)),
    values={i: i for i in range(len(CLASSES))},
)
SETTINGS = {"data.root": "/data", "data.eval_split": "val", "eval.flip": False}
LABELS, PREDICTIONS = (0, 1, 4, IGNORE), (0, 1, 3, 4)


def confusion_of(label, prediction):
    """i64[C,C] by a loop over pixels."""
    counts = np.zeros((len(CLASSES), len(CLASSES)), np.int64)
    for truth, guess in zip(label.flat, prediction.flat, strict=True):
        if truth != IGNORE:
            counts[truth, guess] += 1
    return counts


def _in_squares(array):
    """Each value as 16x16 pixels, which JPEG keeps."""
    return array.repeat(16, 0).repeat(16, 1).astype(np.uint8)


def shown_gallery(count=12, also=(), seed=0, root="/data"):
    """(a Gallery that has seen `count` images, their confusions)"""
    rng = np.random.default_rng(seed)
    gallery, counts = Gallery(also, root), []
    for i in range(count):
        label = rng.choice(LABELS, (3, 5))
        is_right = (rng.random(label.shape) < i / count) & (label != IGNORE)
        prediction = np.where(is_right, label, rng.choice(PREDICTIONS, label.shape))
        image = rng.integers(0, 256, (3, 5, 3))
        label, prediction, image = (_in_squares(a) for a in (label, prediction, image))
        counts.append(confusion_of(label, prediction))
        gallery({"name": f"{root}/val/<i>{i}.png", "image": image, "label": label}, counts[-1], prediction)
    return gallery, counts


def metric_lines(score=0.4):
    """Lines of metrics.jsonl: 20 of training, two of evaluation, one with a loss that is no number."""
    training = [
        {"step": 10 * i, "loss": 3 / i, "learning_rate": 0.01 * (1 - i / 20), "images_per_s": 8.0} for i in range(1, 21)
    ]
    training[2]["loss"] = float("nan")
    evaluations = [{"step": 100, "val/miou": score - 0.1}, {"step": 200, "val/miou": score, "val/iou/road": 0.9}]
    return sorted(training + evaluations, key=lambda line: line["step"])


def config_json(**changes):
    """A config as a workdir has it, of the user's own folder."""
    config = base()
    config.data.name = "folder"
    config.data.root = "/data"
    config.data.classes = CLASSES
    config.total_steps = 200
    config.batch_size = 4
    config.update_from_flattened_dict(changes)
    return config_files.to_json(config)
