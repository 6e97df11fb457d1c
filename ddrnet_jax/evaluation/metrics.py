"""Confusion counts -> IoU: the only mIoU in the project. Hits -> top-1 and top-5 accuracy.

What comes out, Scores or Accuracy, can say itself: `score`, by which the best checkpoint is kept, `values` for files,
`line` and `table` for people.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

NO_CLASS = -1  # an image that counts nowhere
_TOP = 5


def confusion(labels: jax.Array | np.ndarray, predictions: jax.Array | np.ndarray, num_classes: int) -> jax.Array:
    """Counts of (label, prediction) over the labelled pixels of one batch.

    labels i32[...] (0..C-1, any other is not counted), predictions i32[...] (0..C-1) -> i32[C,C], rows are labels
    """
    return confusion_by_image(labels[None], predictions[None], num_classes)[0]


def confusion_by_image(
    labels: jax.Array | np.ndarray, predictions: jax.Array | np.ndarray, num_classes: int
) -> jax.Array:
    """The same of each image: labels i32[B,...], predictions i32[B,...] -> i32[B,C,C]"""
    count, cells = len(labels), num_classes**2
    first_cell = cells * jnp.arange(count).reshape(-1, *[1] * (labels.ndim - 1))
    is_labelled = (labels >= 0) & (labels < num_classes)
    cell = jnp.where(is_labelled, first_cell + labels * num_classes + predictions, count * cells)
    counts = jnp.bincount(cell.reshape(-1), length=count * cells + 1)
    return counts[:-1].reshape(count, num_classes, num_classes).astype(jnp.int32)


@dataclasses.dataclass(frozen=True)
class Scores:
    """The scores that follow from the confusion counts of a whole split.

    confusion       i64[C,C], rows are labels
    iou             f64[C] (0..1), nan where a class is absent from labels and predictions
    miou            mean of the iou of the classes present
    pixel_accuracy  share of labelled pixels predicted right
    label_share     f64[C] (0..1), share of each class among the labelled pixels
    """

    confusion: np.ndarray
    iou: np.ndarray
    miou: float
    pixel_accuracy: float
    label_share: np.ndarray

    @property
    def score(self) -> float:
        return self.miou

    def values(self, classes: tuple[str, ...]) -> dict[str, float]:
        """{"val/miou", "val/pixel_accuracy", "val/iou/<class>"} as fractions; absent classes are left out."""
        present = [(c, float(v)) for c, v in zip(classes, self.iou, strict=True) if not np.isnan(v)]
        overall = {"val/miou": self.miou, "val/pixel_accuracy": float(self.pixel_accuracy)}
        return overall | {f"val/iou/{name}": value for name, value in present}

    def line(self) -> str:
        """A few words for people, in percent."""
        return f"mIoU {100 * self.miou:.2f}  pixel accuracy {100 * self.pixel_accuracy:.2f}"

    def table(self, classes: tuple[str, ...]) -> str:
        """Per-class IoU for the terminal, at most 80 columns; a dash where a class is absent."""
        width = min(max(map(len, classes)), 30)
        lines = [f"{'class':<{width}}  {'IoU':>6}  {'of labels':>9}"]
        for name, iou, share in zip(classes, self.iou, self.label_share, strict=True):
            value = "-" if np.isnan(iou) else f"{100 * iou:.2f}"
            bar = "" if np.isnan(iou) else "#" * round(20 * iou)
            lines.append(f"{name[:width]:<{width}}  {value:>6}  {100 * share:>8.2f}%  {bar}".rstrip())
        lines.append(f"{'mIoU':<{width}}  {100 * self.miou:>6.2f}  pixel accuracy {100 * self.pixel_accuracy:.2f}")
        return "\n".join(lines)


def scores(counts: np.ndarray) -> Scores:
    """Scores of confusion counts i64[C,C].

    Source: a class absent from labels and predictions says nothing and is left out of the mean; one
    that is predicted but never labelled counts 0.
    """
    counts = np.asarray(counts, np.int64)
    hits, labelled, predicted = np.diag(counts), counts.sum(1), counts.sum(0)
    union = labelled + predicted - hits
    iou = np.where(union > 0, hits / np.maximum(union, 1), np.nan)
    total = max(int(counts.sum()), 1)
    present = iou[union > 0]
    return Scores(counts, iou, float(present.mean()) if present.size else 0.0, hits.sum() / total, labelled / total)


def class_hits(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """The number of images in a batch, of those with their class first, and of those with it among the first five.

    logits f32[B,C], labels i32[B] (0..C-1 or NO_CLASS) -> i32[3]; of equal logits the lower class comes first
    """
    _, best = jax.lax.top_k(logits, min(_TOP, logits.shape[-1]))
    hits = best == labels[:, None]
    return jnp.stack([(labels != NO_CLASS).sum(), hits[:, 0].sum(), hits.sum()]).astype(jnp.int32)


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """The accuracy of a classifier.

    images  how many were counted
    top1    share of them (0..1) whose class got the largest logit
    top5    share of them (0..1) whose class is among the five largest logits
    """

    images: int
    top1: float
    top5: float

    @property
    def score(self) -> float:
        return self.top1

    def values(self, classes: tuple[str, ...]) -> dict[str, float]:
        """{"val/top1", "val/top5"} as fractions."""
        return {"val/top1": self.top1, "val/top5": self.top5}

    def line(self) -> str:
        """A few words for people, in percent."""
        return f"top-1 {100 * self.top1:.2f}  top-5 {100 * self.top5:.2f}"

    def table(self, classes: tuple[str, ...]) -> str:
        """Accuracy and error for the terminal."""
        rows = [(f"top-{n}", 100 * v) for n, v in ((1, self.top1), (_TOP, self.top5))]
        lines = [f"{name}  {value:>8.2f}  {100 - value:>6.2f}" for name, value in rows]
        about = f"{self.images} images, {len(classes)} classes"
        return "\n".join([about, f"{'':5}  accuracy   error", *lines])


def accuracy(counts: np.ndarray) -> Accuracy:
    """Accuracy of summed hits i64[3], as `class_hits` counts them."""
    images, first, among = map(int, counts)
    return Accuracy(images, first / max(images, 1), among / max(images, 1))
