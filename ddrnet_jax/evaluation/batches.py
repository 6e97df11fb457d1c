"""Samples -> batches of one image size, the last ones filled up; and the exact sum of what they count."""

import collections
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np

from ddrnet_jax.data.labels import IGNORE
from ddrnet_jax.data.sources import Sample
from ddrnet_jax.evaluation import metrics
from ddrnet_jax.runtime import devices

_IN_FLIGHT = 2


def batches_by_size(samples: Iterable[Sample], batch_size: int) -> Iterator[dict[str, np.ndarray]]:
    """Batches of equal image size, every sample once; short batches are filled with rows that count nowhere.

    Yields {"images": u8[B,H,W,3], "labels": u8[B,H,W] or, of class numbers, i32[B]} with B = batch_size, and
    {"samples": those of the first rows}
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


def _stack(group: list[Sample], batch_size: int) -> dict[str, Any]:
    first = group[0]
    images = np.zeros((batch_size, *first["image"].shape), np.uint8)
    if isinstance(first["label"], int):
        labels = np.full(batch_size, metrics.NO_CLASS, np.int32)
    else:
        labels = np.full((batch_size, *first["label"].shape), IGNORE, np.uint8)
    for row, sample in enumerate(group):
        images[row], labels[row] = sample["image"], sample["label"]
    return {"images": images, "labels": labels, "samples": group}


def arrays(batch: dict) -> dict[str, np.ndarray]:
    """The part of a batch that goes to the devices."""
    return {name: batch[name] for name in ("images", "labels")}


def in_flight(launched: Iterable) -> Iterator:
    """The same items, each handed out while a few after it are still being computed."""
    waiting: collections.deque = collections.deque()
    for item in launched:
        waiting.append(item)
        if len(waiting) > _IN_FLIGHT:
            yield waiting.popleft()
    yield from waiting


def total(counts: Iterable[jax.Array | np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """i64[shape], the sum of counts i32[shape] over all processes, each of which calls this with its own."""
    result = np.zeros(shape, np.int64)
    for count in counts:
        result += np.asarray(count)
    return devices.sum_over_processes(result)
