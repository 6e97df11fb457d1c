"""(seed, step) -> this host's rows of the global batch; and a data set in order, for evaluation."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol, TypeVar

import cv2
import grain
import numpy as np

from ddrnet_jax.data.samples import Sample, Source
from ddrnet_jax.data.sources import Images

_PREFETCH_BATCHES = 4  # grain's default of 500 would hold gigabytes
_PREFETCH_SAMPLES = 16


class Shard(NamedTuple):
    """The part of the data that this process reads."""

    index: int = 0  # type: ignore[assignment]  # hides tuple's method
    count: int = 1  # type: ignore[assignment]  # hides tuple's method


_WHOLE = Shard()
T = TypeVar("T", covariant=True)


class Closing(Iterator[T], Protocol[T]):
    """Items that other threads make ready until it is closed."""

    def close(self) -> None:
        """End the threads."""


def train_batches(
    source: Source,
    augment: Callable[[Sample, np.random.Generator], dict],
    *,
    seed: int,
    batch_size: int,
    accumulate_steps: int = 1,
    first_step: int = 0,
    shard: Shard = _WHOLE,
    num_threads: int = 2,
    beside: Source | None = None,
    share_beside: float = 0.5,
) -> Closing[dict[str, np.ndarray]]:
    """Endless batches; batch number `step` is a pure function of (seed, step), for any number of processes.

    batch_size        of all processes together, a multiple of shard.count * accumulate_steps
    accumulate_steps  parts that the step makes of a batch: part k is the rows k, k + accumulate_steps, ... of every
                      process, and the same samples for any number of processes
    beside            a second source, with share_beside of the samples, evenly spread
    Yields {"images": u8[b,h,w,3], "labels": u8[b,h,w] or, of class numbers, i32[b]} with b = batch_size / shard.count.
    Close it when done.
    Source: shuffle -> repeat -> augment -> slice by process -> batch. With the slice after the repeat every
    step sees the same global batch, so a resumed run needs only the step. Dealt out are groups of accumulate_steps
    samples, so that a sample's number in its group, which says its part, is the same wherever it goes.
    """
    cv2.setNumThreads(0)  # grain's threads are the parallelism
    samples = grain.MapDataset.source(source).seed(seed).shuffle().repeat()
    if beside is not None:
        others = grain.MapDataset.source(beside).seed(seed).shuffle().repeat()
        samples = grain.MapDataset.mix([samples, others], weights=[1 - share_beside, share_beside]).seed(seed)
    dataset = (
        samples.random_map(augment)
        .batch(accumulate_steps, drop_remainder=True, batch_fn=list)[shard.index :: shard.count]
        .batch(batch_size // (shard.count * accumulate_steps), drop_remainder=True, batch_fn=_rows_of_groups)
        .to_iter_dataset(grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=_PREFETCH_BATCHES))
    )
    batches = iter(dataset)
    batches.set_state({"next_index": first_step})
    return batches


def _rows_of_groups(groups: Sequence[list[dict]]) -> dict[str, np.ndarray]:
    rows = [row for group in groups for row in group]
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def samples_in_order(
    source: Source | Images,
    transform: Callable[[Sample], Sample] | None = None,
    *,
    shard: Shard = _WHOLE,
    num_threads: int = 2,
) -> Closing[Sample]:
    """Every sample of this process's part, once, in order; whole unless transformed. Close it when done."""
    cv2.setNumThreads(0)
    options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=_PREFETCH_SAMPLES)
    dataset = grain.MapDataset.source(source)[shard.index :: shard.count]
    return iter((dataset.map(transform) if transform else dataset).to_iter_dataset(options))
