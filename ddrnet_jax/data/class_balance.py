"""How many pixels of a data set each class has, and weights that even them out."""

import contextlib

import numpy as np

from ddrnet_jax.data import pipeline
from ddrnet_jax.data.labels import IGNORE
from ddrnet_jax.data.samples import Source

_WHOLE = pipeline.Shard()


def count_pixels(source: Source, shard: pipeline.Shard = _WHOLE, num_threads: int = 2) -> np.ndarray:
    """Labelled pixels of each class in this process's part of a source, and those of the images that have the class.

    Returns  i64[2,C]
    Raises DataError naming the file that cannot be read.
    """
    num_classes = source.spec.num_classes
    counts = np.zeros((2, num_classes), np.int64)
    with contextlib.closing(pipeline.samples_in_order(source, shard=shard, num_threads=num_threads)) as samples:
        for sample in samples:
            of_image = np.bincount(sample["label"].ravel(), minlength=IGNORE + 1)[:num_classes]
            counts += of_image, (of_image > 0) * of_image.sum()
    return counts


def class_weights(counts: np.ndarray) -> tuple[float, ...]:
    """The weight of each class in a loss, from the counts i64[2,C] of `count_pixels`; 1 for a class without pixels.

    Source: the square root of median-frequency balancing (Eigen and Fergus, ICCV 2015), sqrt(median(f) / f) with
    f = its pixels / the pixels of the images that have it. The whole of it buys rare classes with frequent ones.
    """
    pixels, of_images = counts
    is_there = pixels > 0
    frequency = pixels[is_there] / of_images[is_there]
    weights = np.ones(len(pixels))
    weights[is_there] = np.sqrt(np.median(frequency) / frequency) if is_there.any() else 1
    return tuple(weights.round(4).tolist())
