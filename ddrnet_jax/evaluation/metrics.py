"""Confusion counts -> IoU: the only mIoU in the project."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

IGNORE = 255


def confusion(labels: jax.Array, predictions: jax.Array, num_classes: int) -> jax.Array:
    """Counts of (label, prediction) over the labelled pixels of one batch.

    labels i32[...] (0..C-1 or 255), predictions i32[...] (0..C-1) -> i32[C,C], rows are labels
    """
    is_labelled = labels != IGNORE
    cell = jnp.where(is_labelled, labels * num_classes + predictions, num_classes**2)
    counts = jnp.bincount(cell.reshape(-1), length=num_classes**2 + 1)
    return counts[:-1].reshape(num_classes, num_classes).astype(jnp.int32)


@dataclasses.dataclass(frozen=True)
class Scores:
    """What the confusion counts of a whole split say.

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


def table(result: Scores, class_names: tuple[str, ...]) -> str:
    """Per-class IoU for the terminal, at most 80 columns; a dash where a class is absent."""
    width = min(max(map(len, class_names)), 30)
    lines = [f"{'class':<{width}}  {'IoU':>6}  {'of labels':>9}"]
    for name, iou, share in zip(class_names, result.iou, result.label_share, strict=True):
        value = "-" if np.isnan(iou) else f"{100 * iou:.2f}"
        bar = "" if np.isnan(iou) else "#" * round(20 * iou)
        lines.append(f"{name[:width]:<{width}}  {value:>6}  {100 * share:>8.2f}%  {bar}".rstrip())
    lines.append(f"{'mIoU':<{width}}  {100 * result.miou:>6.2f}  pixel accuracy {100 * result.pixel_accuracy:.2f}")
    return "\n".join(lines)
