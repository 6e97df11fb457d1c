"""Samples -> batches of one image size, the last ones filled up; and the exact sum of what they count."""

import collections
from collections.abc import Iterable, Iterator

import jax
import numpy as np

from ddrnet_jax import devices
from ddrnet_jax.data.sources import Sample
from ddrnet_jax.evaluation import metrics

_IN_FLIGHT = 2


def batches_by_size(samples: Iterable[Sample], batch_size: int) -> Iterator[dict[str, np.ndarray]]:
    """Batches of equal image size, every sample once; short batches are filled with rows that count nowhere.

    Yields {"images": u8[B,H,W,3], "labels": u8[B,H,W] or, of class numbers, i32[B]} with B = batch_size
    """
    waiting: dict[tuple[int, int], list[Sample]] = {}
    for sample in samples:
        size_hw = sample["image"].shape[:2]
        group = waiting.setdefault(size_hw, [])
        group.append(sample)
        if len(group) == batch_size:
            yield _stack(waiting.pop(size_hw), batch_size)
    for group in waiting.values():
        yield _stack(group, batch_size)


def _stack(group: list[Sample], batch_size: int) -> dict[str, np.ndarray]:
    first = group[0]
    images = np.zeros((batch_size, *first["image"].shape), np.uint8)
    if isinstance(first["label"], int):
        labels = np.full(batch_size, metrics.NO_CLASS, np.int32)
    else:
        labels = np.full((batch_size, *first["label"].shape), metrics.IGNORE, np.uint8)
    for row, sample in enumerate(group):
        images[row], labels[row] = sample["image"], sample["label"]
    return {"images": images, "labels": labels}


def total(counts: Iterable[jax.Array], shape: tuple[int, ...]) -> np.ndarray:
    """i64[shape], the sum of counts i32[shape] over all processes, each of which calls this with its own.

    Takes the next while a few before it are still being computed.
    """
    result = np.zeros(shape, np.int64)
    in_flight = collections.deque()
    for count in counts:
        in_flight.append(count)
        if len(in_flight) > _IN_FLIGHT:
            result += np.asarray(in_flight.popleft())
    for count in in_flight:
        result += np.asarray(count)
    return devices.sum_over_processes(result)
