"""Class weights counted from the training labels, once a run."""

import json
import logging
from pathlib import Path

import jax
import numpy as np

from ddrnet_jax import atomic, regular_files
from ddrnet_jax.config import ConfigError
from ddrnet_jax.data import class_balance, pipeline
from ddrnet_jax.data.errors import DataError
from ddrnet_jax.data.samples import Source
from ddrnet_jax.runs.workdir import CLASS_PIXELS
from ddrnet_jax.runtime import devices

_log = logging.getLogger(__name__)
FILE = CLASS_PIXELS


def counted(workdir: Path, source: Source, *, is_resumed: bool, num_threads: int) -> tuple[float, ...]:
    """The weights of `class_balance.class_weights`; a resumed run has those it began with, kept in its workdir.

    Every process calls it, each counts its part. Raises DataError of labels that cannot be read or have no class,
    ConfigError if what is kept cannot be read.
    """
    path = workdir / FILE
    if is_resumed and path.exists():
        return class_balance.class_weights(_kept(path, source.spec.num_classes))
    _log.info(f"counting the pixels of each class in {len(source)} labels ...")
    shard = pipeline.Shard(jax.process_index(), jax.process_count())
    counts = devices.sum_over_processes(class_balance.count_pixels(source, shard, num_threads))
    if not counts[0].any():
        raise DataError(f"no pixel of the {len(source)} training labels is of a class; --mode check_data says why")
    if absent := [name for name, pixels in zip(source.spec.classes, counts[0], strict=True) if not pixels]:
        _log.warning(f"in no training label, and with a weight of 1: {', '.join(absent)}")
    weights = class_balance.class_weights(counts)
    if jax.process_index() == 0:
        pixels, of_images = counts.tolist()
        kept = {"classes": source.spec.classes, "pixels": pixels, "pixels_of_images": of_images, "weights": weights}
        atomic.write_text(path, json.dumps(kept, indent=2) + "\n")
    return weights


def _kept(path: Path, num_classes: int) -> np.ndarray:
    try:
        kept = json.loads(regular_files.read_text(path))
        counts = np.array([kept["pixels"], kept["pixels_of_images"]], np.int64)
        if counts.shape != (2, num_classes) or (counts < 0).any() or (counts[0] > counts[1]).any():
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as e:
        raise ConfigError(f"{path}: not the counts of {num_classes} classes; delete it, they are counted again") from e
    return counts
