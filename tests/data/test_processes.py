"""Several processes read one data set: together every step's global batch, and every evaluation sample once."""

import json
import subprocess
import sys

import numpy as np
import pytest

from ddrnet_jax.data.pipeline import train_batches
from ddrnet_jax.data.records.prepare import prepare
from ddrnet_jax.data.sets.cityscapes import SPEC as CITYSCAPES
from ddrnet_jax.data.sources import FolderPairs
from ddrnet_jax.data.transforms import Augment

SPLITS = ("train", "train_extra", "val")
STEPS, BATCH_SIZE, CROP_HW = 6, 8, (16, 24)

READER = """
import json, sys
import numpy as np
from ddrnet_jax.data.records.array_records import ArrayRecords
from ddrnet_jax.data.pipeline import Shard, samples_in_order, train_batches
from ddrnet_jax.data.transforms import Augment
from ddrnet_jax.data.sources import FolderPairs
from ddrnet_jax.data.sets.cityscapes import SPEC as CITYSCAPES

given = json.loads(sys.argv[1])
read = {}
for storage, source_class in (("folder", FolderPairs), ("records", ArrayRecords)):
    source, shard = source_class(given[storage], given["split"], CITYSCAPES), Shard(given["index"], given["count"])
    augment = Augment(given["crop_hw"], (0.5, 2.0), True)
    batches = train_batches(
        source, augment, seed=5, batch_size=given["batch_size"], first_step=given["first_step"], shard=shard
    )
    taken = [next(batches) for _ in range(given["steps"])]
    batches.close()
    for key in ("images", "labels"):
        read[f"{storage}_{key}"] = np.stack([batch[key] for batch in taken])
    samples = list(samples_in_order(source, shard=shard))
    for key in ("name", "image", "label"):
        read[f"{storage}_eval_{key}"] = np.stack([sample[key] for sample in samples])
np.savez(given["output"], **read)
if "jax" in sys.modules:
    from jax._src import xla_bridge
    assert not xla_bridge._backends, "a JAX backend was initialised"
"""


@pytest.fixture
def stored(draw, tmp_path):
    """(Drawn, {storage: path}): Cityscapes as unzipped, and as ArrayRecords of several shards a split."""
    drawn = draw("cityscapes")
    sources = {split: FolderPairs(drawn.root, split, CITYSCAPES) for split in SPLITS}
    prepare(sources, tmp_path / "records", name="cityscapes", shard_bytes=3000)
    return drawn, {"folder": str(drawn.root), "records": str(tmp_path / "records")}


@pytest.fixture
def start(stored, tmp_path):
    """start(index, count, first_step) starts a reader, a process of its own; the function returned gives its arrays."""
    processes = []

    def start(index, count, first_step):
        output = tmp_path / f"{index}_of_{count}.npz"
        about = {"split": "+".join(SPLITS), "index": index, "count": count, "first_step": first_step}
        about |= {"steps": STEPS - first_step, "batch_size": BATCH_SIZE, "crop_hw": CROP_HW, "output": str(output)}
        command = [sys.executable, "-c", READER, json.dumps(about | stored[1])]
        processes.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))

        def finish(process=processes[-1]):
            errors = process.communicate(timeout=300)[1]
            assert process.returncode == 0, errors
            with np.load(output) as arrays:
                return dict(arrays)

        return finish

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def crops(images, labels):
    """{an image's bytes: its label}; the crops of a step differ, so none is lost."""
    by_image = {image.tobytes(): label for image, label in zip(images, labels, strict=True)}
    assert len(by_image) == len(images)
    return by_image


def assert_same_crops(found, expected):
    """The same images, and for each of them the same label, value by value."""
    assert found.keys() == expected.keys()
    for image, label in expected.items():
        np.testing.assert_array_equal(found[image], label)


def test_processes_read_the_batches_of_one_and_share_the_evaluation(stored, start):
    """Two processes from the first step; then four that go on at step 2, as after a change of topology."""
    drawn, paths = stored
    readers = {(count, first): [start(i, count, first) for i in range(count)] for count, first in ((2, 0), (4, 2))}
    source = FolderPairs(paths["folder"], "+".join(SPLITS), CITYSCAPES)
    whole = train_batches(source, Augment(CROP_HW, (0.5, 2.0), True), seed=5, batch_size=BATCH_SIZE)
    steps = [next(whole) for _ in range(STEPS)]
    whole.close()
    truth = {name: (image, label) for split in SPLITS for name, image, label in drawn.expected[split]}
    assert len(truth) == 9  # no multiple of 2 or 4: the shards differ in length

    for (count, first), finishes in readers.items():
        parts = [finish() for finish in finishes]
        for storage in ("folder", "records"):
            for step, batch in enumerate(steps[first:]):
                shares = [crops(part[f"{storage}_images"][step], part[f"{storage}_labels"][step]) for part in parts]
                assert [len(share) for share in shares] == [BATCH_SIZE // count] * count
                together = {image: label for share in shares for image, label in share.items()}
                assert_same_crops(together, crops(batch["images"], batch["labels"]))
            for index, part in enumerate(parts):
                names = [str(name).removeprefix(f"{paths[storage]}/") for name in part[f"{storage}_eval_name"]]
                assert names == source.names()[index::count]
                for row, name in enumerate(names):
                    np.testing.assert_array_equal(part[f"{storage}_eval_image"][row], truth[name][0])
                    np.testing.assert_array_equal(part[f"{storage}_eval_label"][row], truth[name][1])
