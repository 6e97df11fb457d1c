"""Batches are a pure function of (seed, step), for any number of processes and threads."""

import subprocess
import sys

import numpy as np
import pytest

from ddrnet_jax.data.errors import DataError
from ddrnet_jax.data.pipeline import Shard, samples_in_order, train_batches
from ddrnet_jax.data.sources import Scenes
from ddrnet_jax.data.transforms import Augment

SOURCE = Scenes(10, seed=0, size_hw=(48, 64))
AUGMENT = Augment((32, 32), (0.5, 2.0), True)


def take(count, **options):
    batches = train_batches(SOURCE, AUGMENT, seed=3, batch_size=4, **options)
    try:
        return [next(batches) for _ in range(count)]
    finally:
        batches.close()


def rows(batches):
    """The samples of each step as a set of bytes."""
    return [{i.tobytes() + lab.tobytes() for i, lab in zip(b["images"], b["labels"], strict=True)} for b in batches]


def test_shapes_and_dtypes():
    batch = take(1)[0]
    assert batch["images"].shape == (4, 32, 32, 3)
    assert batch["labels"].shape == (4, 32, 32)
    assert batch["images"].dtype == batch["labels"].dtype == np.uint8


def test_starting_at_a_step_continues_the_sequence():
    whole = take(8)
    for a, b in zip(whole[5:], take(3, first_step=5), strict=True):
        np.testing.assert_array_equal(a["images"], b["images"])
        np.testing.assert_array_equal(a["labels"], b["labels"])


def test_threads_change_nothing():
    for a, b in zip(take(4, num_threads=1), take(4, num_threads=4), strict=True):
        np.testing.assert_array_equal(a["images"], b["images"])


@pytest.mark.parametrize("count", [2, 4])
def test_processes_together_see_the_same_global_batches(count):
    parts = [rows(take(6, shard=Shard(i, count))) for i in range(count)]
    together = [set().union(*step) for step in zip(*parts, strict=True)]
    assert together == rows(take(6))


@pytest.mark.parametrize("count", [1, 2])
def test_each_part_of_a_batch_is_the_same_samples_for_any_number_of_processes(count):
    """As the accumulating step takes them: part k is the rows k, k + 2, ... of every process."""
    of_processes = [take(6, shard=Shard(i, count), accumulate_steps=2) for i in range(count)]
    for part in (0, 1):
        halves = [[{k: v[part::2] for k, v in b.items()} for b in batches] for batches in of_processes]
        together = [set().union(*step) for step in zip(*map(rows, halves), strict=True)]
        assert together == rows([{k: v[part::2] for k, v in b.items()} for b in take(6)])


class Numbered:
    """Images of one grey, which is their number."""

    def __init__(self, first, count):
        self.first, self.count = first, count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        grey = np.full((32, 32, 3), self.first + index, np.uint8)
        return {"image": grey, "label": np.zeros((32, 32), np.uint8)}


def test_a_second_source_has_its_share_and_all_of_its_samples():
    def numbers(count, **options):
        plain = Augment((32, 32), (1.0, 1.0), False)
        mixed = {"beside": Numbered(100, 6), "share_beside": 0.25}
        batches = train_batches(Numbered(0, 18), plain, seed=3, batch_size=8, **mixed, **options)
        found = [next(batches)["images"][:, 0, 0, 0].tolist() for _ in range(count)]
        batches.close()
        return found

    whole = numbers(6)
    assert [sum(number >= 100 for number in step) for step in whole] == [2] * 6
    for first, last in ((0, 17), (100, 105)):
        seen = [number for step in whole for number in step if first <= number <= last]
        epoch = last - first + 1
        assert sorted(seen[:epoch]) == sorted(seen[epoch : 2 * epoch]) == list(range(first, last + 1))
        assert seen[:epoch] != seen[epoch : 2 * epoch]
    assert numbers(2, first_step=4) == whole[4:]
    parts = [numbers(6, shard=Shard(i, 2)) for i in range(2)]
    assert [sorted(a + b) for a, b in zip(*parts, strict=True)] == [sorted(step) for step in whole]


def test_every_epoch_sees_every_sample_in_a_new_order():
    batches = train_batches(Numbered(0, 8), Augment((32, 32), (1.0, 1.0), False), seed=0, batch_size=8)
    orders = [next(batches)["images"][:, 0, 0, 0].tolist() for _ in range(3)]
    batches.close()
    assert all(sorted(order) == list(range(8)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3


def test_evaluation_reads_everything_once_in_order():
    names = [s["name"] for s in samples_in_order(SOURCE, num_threads=3)]
    assert names == [SOURCE[i]["name"] for i in range(10)]
    parts = [[s["name"] for s in samples_in_order(SOURCE, shard=Shard(i, 3))] for i in range(3)]
    assert sorted(sum(parts, [])) == sorted(names)


def test_an_error_in_a_worker_thread_arrives_as_it_was_raised():
    class Broken:
        def __len__(self):
            return 4

        def __getitem__(self, index):
            raise DataError("broken.png: truncated PNG")

    batches = train_batches(Broken(), AUGMENT, seed=0, batch_size=2)
    with pytest.raises(DataError) as caught:
        next(batches)
    batches.close()
    assert str(caught.value) == "broken.png: truncated PNG"


def test_importing_the_data_package_starts_no_backend():
    code = (
        "import ddrnet_jax.data.pipeline, ddrnet_jax.data.sources, sys\n"
        "if 'jax' in sys.modules:\n"
        "    from jax._src import xla_bridge\n"
        "    assert not xla_bridge._backends, 'a JAX backend was initialised'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
