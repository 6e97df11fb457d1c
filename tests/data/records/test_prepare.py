"""ArrayRecords: what comes out is what went in; a killed run goes on; damage is named; TFDS's own are read too."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import filelock
import numpy as np
import pytest
import tensorflow_datasets as tfds
from scipy import io as scipy_io

from ddrnet_jax import build
from ddrnet_jax.data.errors import DataError
from ddrnet_jax.data.pipeline import Shard, samples_in_order, train_batches
from ddrnet_jax.data.records import folders
from ddrnet_jax.data.records.array_records import ArrayRecords
from ddrnet_jax.data.records.manifest import Manifest
from ddrnet_jax.data.records.prepare import prepare
from ddrnet_jax.data.sets.camvid import SPEC as CAMVID
from ddrnet_jax.data.sets.cityscapes import SPEC as CITYSCAPES
from ddrnet_jax.data.sets.folder import folder_spec
from ddrnet_jax.data.sets.imagenet import imagenet_spec
from ddrnet_jax.data.sources import FolderPairs, Scenes
from ddrnet_jax.data.transforms import Augment

NAMES = ("cityscapes", "camvid", "camvid_original", "coco_stuff_10k", "coco_stuff_164k", "imagenet", "folder")
SMALL = 3000  # bytes: a shard holds one or two drawn samples


@pytest.mark.parametrize("name", NAMES)
def test_every_data_set_comes_back_from_array_records(draw, check_samples, tmp_path, name):
    drawn = draw(name)
    config = draw.configure(drawn)
    sources = build.sources_to_prepare(config)
    counts = prepare(sources, tmp_path / "records", name=config.data.name, shard_bytes=SMALL)
    splits = (config.data.train_split, config.data.eval_split)
    assert counts == {split: len(drawn.expected[split]) for split in splits}
    shutil.rmtree(drawn.root)
    config = draw.configure(drawn, root=str(tmp_path / "records"), storage="array_record")
    check_samples(build.experiment(config).train_source(), drawn.expected[splits[0]])
    check_samples(build.experiment(config).eval_source(), drawn.expected[splits[1]])
    both = draw.configure(drawn, root=str(tmp_path / "records"), storage="array_record", train_split="+".join(splits))
    check_samples(build.experiment(both).train_source(), drawn.expected[splits[0]] + drawn.expected[splits[1]])
    assert "tensorflow" not in sys.modules


def test_a_name_that_is_no_text_is_spelt_out(tmp_path):
    for kind, pixels in (("images", np.zeros((8, 8, 3), np.uint8)), ("labels", np.zeros((8, 8), np.uint8))):
        (tmp_path / kind / "train").mkdir(parents=True)
        data = cv2.imencode(".png", pixels)[1].tobytes()
        (tmp_path / kind / "train" / os.fsdecode(b"stra\xdfe.png")).write_bytes(data)
    spec = folder_spec(("a", "b"))
    prepare({"train": FolderPairs(tmp_path, "train", spec)}, tmp_path / "records", name="folder")
    (sample,) = samples_in_order(ArrayRecords(tmp_path / "records", "train", spec))
    assert sample["name"].endswith("stra\\udcdfe.png")


def test_batches_are_those_of_the_folder_for_any_number_of_processes(draw, tmp_path):
    drawn = draw("cityscapes")
    config = draw.configure(drawn, train_split="train+train_extra+val")
    prepare(build.sources_to_prepare(config), tmp_path / "records", name="cityscapes", shard_bytes=SMALL)
    folder = build.experiment(config).train_source()
    records = ArrayRecords(tmp_path / "records", "train+train_extra+val", CITYSCAPES)
    augment = Augment((16, 16), (0.5, 2.0), True)

    def take(source, **options):
        batches = train_batches(source, augment, seed=1, batch_size=4, **options)
        try:
            return [next(batches) for _ in range(5)]
        finally:
            batches.close()

    whole = take(folder)
    for a, b in zip(whole, take(records, num_threads=3), strict=True):
        np.testing.assert_array_equal(a["images"], b["images"])
        np.testing.assert_array_equal(a["labels"], b["labels"])
    parts = [take(records, shard=Shard(i, 2)) for i in range(2)]
    for step, batch in enumerate(whole):
        rows = {row.tobytes() for part in parts for row in part[step]["labels"]}
        assert rows == {row.tobytes() for row in batch["labels"]}
    names = [[s["name"] for s in samples_in_order(records, shard=Shard(i, 2))] for i in range(2)]
    assert sorted(sum(names, [])) == sorted(str(tmp_path / "records" / name) for name in folder.names())


def test_images_may_be_stored_as_jpegs_but_labels_may_not(draw, tmp_path):
    drawn = draw("cityscapes")
    config = draw.configure(drawn, jpeg_quality=90)
    sources, quality = build.sources_to_prepare(config), config.data.jpeg_quality
    prepare(sources, tmp_path / "records", name=config.data.name, jpeg_quality=quality)
    records = ArrayRecords(tmp_path / "records", "train", CITYSCAPES)
    for index, (_, image, ids) in enumerate(drawn.expected["train"]):
        assert records.encoded(index).image[:2] == b"\xff\xd8"
        assert np.abs(records[index]["image"].astype(int) - image).mean() < 60  # noise, the worst for a JPEG
        np.testing.assert_array_equal(records[index]["label"], ids)


def test_scenes_and_jpegs_are_stored_without_loss(tmp_path, draw):
    scenes = Scenes(3, seed=0, size_hw=(48, 64))
    prepare({"train": scenes}, tmp_path / "scenes", name="scenes")
    records = ArrayRecords(tmp_path / "scenes", "train[1:]", Scenes.spec)
    assert len(records) == 2
    np.testing.assert_array_equal(records[1]["image"], scenes[2]["image"])
    np.testing.assert_array_equal(records[1]["label"], scenes[2]["label"])
    source = build.experiment(draw.configure(draw("imagenet"), jpeg_quality=50)).train_source()
    prepare({"train": source}, tmp_path / "imagenet", name="imagenet", jpeg_quality=50)
    stored = ArrayRecords(tmp_path / "imagenet", "train", source.spec)
    assert stored.encoded(4).image == source.encoded(4).image
    assert stored.names() == source.names()


def write_times(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("[a-z]*.array_record*")}


@pytest.mark.parametrize("name", ["features.json", "dataset_info.json", "mine-train.array_record-00000-of-00001"])
def test_another_data_set_is_not_written_over(draw, tmp_path, name):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / name).write_text("of another data set")
    sources = build.sources_to_prepare(draw.configure(draw("camvid_original")))
    with pytest.raises(DataError, match=f"{name}: is not of prepare_data and is not written over; choose another"):
        prepare(sources, tmp_path / "other", name="camvid")
    assert sorted(p.name for p in (tmp_path / "other").iterdir()) == [".prepare.lock", name]


def test_a_second_run_writes_only_what_is_missing_or_damaged(draw, tmp_path):
    drawn = draw("camvid_original")
    sources, records = build.sources_to_prepare(draw.configure(drawn)), tmp_path / "records"
    prepare(sources, records, name="camvid", shard_bytes=SMALL)
    before = write_times(records)
    assert len(before) >= 6
    prepare(sources, records, name="camvid")
    assert write_times(records) == before
    gone, cut, flipped, *_ = sorted(before)
    (records / gone).unlink()
    (records / cut).write_bytes((records / cut).read_bytes()[:-10])
    data = bytearray((records / flipped).read_bytes())
    data[len(data) // 2] ^= 1
    (records / flipped).write_bytes(data)
    (records / ".camvid-x.partial").write_text("what a killed run leaves")
    prepare(sources, records, name="camvid")
    after = write_times(records)
    assert {name for name in before if after[name] != before[name]} == {gone, cut, flipped}
    assert not list(records.glob(".*.partial"))
    entries = Manifest.read(folders.at(records)).values["splits"]["train"]["files"]
    assert all(entry["bytes"] == (records / name).stat().st_size for name, entry in entries.items())


def touch(path):
    stat = os.stat(path)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1_000_000_000))


@pytest.mark.parametrize("change", ["label", "image", "touched"])
def test_what_was_made_of_other_files_is_written_again(draw, tmp_path, change, said):
    drawn, records = draw("camvid_original"), tmp_path / "records"
    config = draw.configure(drawn)
    sources = build.sources_to_prepare(config)
    prepare(sources, records, name="camvid", shard_bytes=SMALL)
    before, manifest = write_times(records), Manifest.read(folders.at(records))
    image, label = sources["train"].pairs[2]
    if change == "label":
        size = os.path.getsize(label)
        cv2.imwrite(label, np.zeros((24, 32, 3), np.uint8))
        Path(label).write_bytes(Path(label).read_bytes().ljust(size, b"\0"))  # as long as before
    elif change == "image":
        cv2.imwrite(image, np.zeros((24, 32, 3), np.uint8))
    touch(label if change == "label" else image)
    assert said == []
    prepare(build.sources_to_prepare(config), records, name="camvid")
    after = write_times(records)
    (shard,) = (file for file in manifest.files("train") if 2 in file.indices)
    assert {name for name in before if after[name] != before[name]} == {shard.path.name}
    assert len(said) == 1
    assert said[0].startswith(f"1 of {len(before)} files are written again: images or labels of train have other ")
    stored, source = ArrayRecords(records, "train", CAMVID), sources["train"]
    np.testing.assert_array_equal(stored[2]["label"], source[2]["label"])
    np.testing.assert_array_equal(stored[2]["image"], source[2]["image"])
    prepare(build.sources_to_prepare(config), records, name="camvid")
    assert write_times(records) == after


def test_classes_in_another_order_are_other_sources(draw, tmp_path, said):
    drawn = draw("imagenet")
    for classes in (drawn.settings["classes"], drawn.settings["classes"][::-1]):
        source = build.experiment(draw.configure(drawn, classes=classes)).train_source()
        prepare({"train": source}, tmp_path / "records", name="imagenet")
        stored = ArrayRecords(tmp_path / "records", "train", source.spec)
        assert {stored[i]["name"]: stored[i]["label"] for i in range(len(stored))} == {
            str(tmp_path / "records" / name): source[i]["label"] for i, name in enumerate(source.names())
        }
    assert len(said) == 1


def test_a_changed_file_that_cannot_be_prepared_leaves_no_stale_split(draw, tmp_path):
    drawn = draw("camvid")
    source = build.experiment(draw.configure(drawn)).train_source()
    prepare({"train": source}, tmp_path / "records", name="camvid")
    cv2.imwrite(source.pairs[0][1], np.full((24, 32), 77, np.uint8))
    with pytest.raises(DataError, match="label value 77"):
        prepare({"train": source}, tmp_path / "records", name="camvid")
    with pytest.raises(DataError, match="a shard that prepare_data did not finish"):
        ArrayRecords(tmp_path / "records", "train", CAMVID)


def test_other_splits_are_added_and_other_data_is_refused(draw, check_samples, tmp_path):
    drawn, records = draw("camvid"), tmp_path / "records"
    splits = {split: FolderPairs(drawn.root, split, CAMVID) for split in drawn.expected}
    for split, source in splits.items():
        prepare({split: source}, records, name="camvid")
    for split, expected in drawn.expected.items():
        check_samples(ArrayRecords(records, split, CAMVID), expected)
    with pytest.raises(DataError, match="jpeg_quality=0, now jpeg_quality=80; choose another --output"):
        prepare(splits, records, name="camvid", jpeg_quality=80)
    (drawn.root / "train" / "0006R0_f00930.png").unlink()
    with pytest.raises(DataError, match="split 'train' was prepared from 2 .* 1 given now"):
        prepare({"train": FolderPairs(drawn.root, "train", CAMVID)}, records, name="camvid")


def test_a_run_killed_in_the_middle_goes_on(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, time\n"
        "from ddrnet_jax.data.records.prepare import prepare\n"
        "from ddrnet_jax.data.sources import Scenes\n"
        "class Slow(Scenes):\n"
        "    def encoded(self, index):\n"
        "        time.sleep(0.05 if index < 12 else 60)\n"
        "        return super().encoded(index)\n"
        "import ddrnet_jax.data.records.prepare as module\n"
        "module._samples_per_shard = lambda *_: 4\n"
        "prepare({'train': Slow(24, 0, (48, 64))}, sys.argv[1], name='scenes')\n"
    )
    records = tmp_path / "records"
    process = subprocess.Popen([sys.executable, script, records], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while len(list(records.glob("scenes-*"))) < 3 and time.monotonic() < deadline:
            time.sleep(0.05)
        while process.poll() is None and not _is_noted(records, 3):
            time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    with pytest.raises(DataError, match="records: has no dataset_info.json; prepare_data did not finish"):
        ArrayRecords(records, "train", Scenes.spec)
    before = write_times(records)
    scenes = Scenes(24, 0, (48, 64))
    prepare({"train": scenes}, records, name="scenes")
    after = write_times(records)
    assert len(after) == 6
    assert all(after[name] == before[name] for name in before)
    source = ArrayRecords(records, "train", Scenes.spec)
    for index in range(24):
        np.testing.assert_array_equal(source[index]["label"], scenes[index]["label"])


def _is_noted(records, count):
    manifest = Manifest.read(folders.at(records))
    return manifest is not None and len(manifest.values["splits"]["train"]["files"]) >= count


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("camvid", "label value 77 is not one of"),
        ("coco_stuff_10k", "S holds 777..777"),
        ("cityscapes", "value 77"),
    ],
)
def test_bad_samples_stop_the_run_by_name(draw, tmp_path, name, message):
    drawn = draw(name)
    source = build.experiment(draw.configure(drawn)).train_source()
    image, label = source.pairs[1]
    if name == "coco_stuff_10k":
        scipy_io.savemat(label, {"S": np.full((24, 32), 777)})
    else:
        cv2.imwrite(label, np.full((24, 32), 77, np.uint8))
    with pytest.raises(DataError, match=message) as caught:
        prepare({"train": source}, tmp_path / "records", name=name, shard_bytes=SMALL)
    assert str(caught.value).startswith(label)
    assert not list((tmp_path / "records").glob(".*.partial"))
    shutil.copy(source.pairs[0][1], label)
    prepare({"train": source}, tmp_path / "records", name=name)
    assert len(ArrayRecords(tmp_path / "records", "train", source.spec)) == len(source)


def test_a_jpeg_damaged_inside_is_stored_and_told(draw, tmp_path, said):
    source = build.experiment(draw.configure(draw("imagenet"))).train_source()
    path = Path(source.pairs[1][0])
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 3 // 4] + b"\xff\xd9")
    prepare({"train": source}, tmp_path / "records", name="imagenet")
    (line,) = said
    assert line.startswith(f"warning: {path}: Corrupt JPEG data: ")
    assert line.endswith("; the decoder filled in the rest, and so it is stored")
    assert len(ArrayRecords(tmp_path / "records", "train", source.spec)) == len(source)


def test_splits_of_different_classes_are_refused(draw, tmp_path):
    drawn, other = draw("imagenet"), draw("camvid")
    train = build.experiment(draw.configure(drawn)).train_source()
    for path in (drawn.root / "val").iterdir():
        path.rename(path.with_name(f"x{path.name}"))
    val = FolderPairs(drawn.root, "val", imagenet_spec([f"x{name}" for name in drawn.settings["classes"]]))
    for second in (val, FolderPairs(other.root, "val", CAMVID)):
        with pytest.raises(DataError, match="imagenet: the splits differ in their classes"):
            prepare({"train": train, "val": second}, tmp_path / "records", name="imagenet")


def test_where_it_cannot_write_is_named(draw, tmp_path):
    source = FolderPairs(draw("camvid").root, "train", CAMVID)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="--output .*file: cannot be written"):
        prepare({"train": source}, tmp_path / "file", name="camvid")
    with filelock.FileLock(tmp_path / ".prepare.lock"), pytest.raises(DataError, match="another prepare_data"):
        prepare({"train": source}, tmp_path, name="camvid")
    with pytest.raises(DataError, match="split 'a-b': expected letters"):
        prepare({"a-b": source}, tmp_path, name="camvid")
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(DataError, match="manifest.json: damaged"):
        prepare({"train": source}, tmp_path, name="camvid")


@pytest.fixture
def records(draw, tmp_path):
    """CamVid, prepared: three splits of two samples, a shard each."""
    drawn, folder = draw("camvid"), tmp_path / "records"
    prepare({s: FolderPairs(drawn.root, s, CAMVID) for s in drawn.expected}, folder, name="camvid", shard_bytes=1)
    return folder


def test_damaged_records_are_named(records, tmp_path):
    def is_refused(split, message, spec=CAMVID):
        with pytest.raises(DataError, match=message) as caught:
            ArrayRecords(records, split, spec)[0]
        assert "\n" not in str(caught.value)

    is_refused("trian", "records: has no split 'trian'; it has test, train, val")
    is_refused("train[", "has no split 'train\\['|cannot")
    is_refused("train", "holds 'camvid', but data.name is 'cityscapes'", CITYSCAPES)
    shard = records / "camvid-train.array_record-00000-of-00002"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    is_refused("train", f"{shard.name}: {len(whole) - 1} bytes, expected {len(whole)} bytes; copy it again")
    data = bytearray(whole)
    data[data.index(b"IDAT") + 100] ^= 1
    shard.write_bytes(data)
    is_refused("train", f"{shard.name}: cannot be read")
    source = ArrayRecords(records, "train", CAMVID)
    assert source[1]["label"].shape == (24, 32)
    with pytest.raises(IndexError):
        source[2]
    shard.unlink()
    is_refused("train", f"{shard.name}: no such file, expected {len(whole)} bytes")
    ArrayRecords(records, "val", CAMVID)[1]
    (records / "manifest.json").unlink()
    is_refused("train", f"{shard.name}: no such file, expected a shard of split 'train'")
    (records / "features.json").write_text("{}")
    is_refused("train", "records: its TFDS metadata cannot be read|features")
    (records / "dataset_info.json").unlink()
    is_refused("train", "records: has no dataset_info.json; expected what prepare_data or TFDS wrote")


def test_other_classes_and_kinds_are_refused(draw, tmp_path):
    drawn = draw("imagenet")
    source = build.experiment(draw.configure(drawn)).train_source()
    prepare({"train": source}, tmp_path / "records", name="imagenet")
    for classes, message in (
        ((), "has 3 classes, but 'imagenet' has 1000; set data.classes"),
        (("a", "b", "c"), "its classes are n01440764, n01443537, n02105855, ...; data.classes names others"),
    ):
        with pytest.raises(DataError, match=message):
            ArrayRecords(tmp_path / "records", "train", imagenet_spec(classes))
    (tmp_path / "records" / "manifest.json").unlink()
    with pytest.raises(DataError, match="its labels are class numbers, but those of 'camvid' are masks"):
        ArrayRecords(tmp_path / "records", "train", CAMVID)


def _tfds_directory(folder, features, examples, file_format="array_record"):
    """What TFDS itself prepares from {split: [example, ...]}."""

    class Drawn(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")
        code_path = None  # TFDS looks for it with a package that it does not declare (Python 3.11)

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {split: enumerate(given) for split, given in examples.items()}

        def _generate_examples(self):
            raise AssertionError("the split generators have the examples")

    builder = Drawn(data_dir=folder, file_format=file_format)
    builder.download_and_prepare()
    return Path(builder.data_dir)


def test_tfds_prepared_cityscapes(draw, tmp_path):
    drawn = draw("cityscapes")
    features = {
        "image_id": tfds.features.Text(),
        "image_left": tfds.features.Image(shape=(24, 32, 3), encoding_format="png"),
        "segmentation_label": tfds.features.Image(shape=(24, 32, 1), encoding_format="png", use_colormap=True),
    }
    examples = {
        tfds_split: [
            {
                "image_id": name.rsplit("/")[-1].removesuffix("_leftImg8bit.png"),
                "image_left": str(drawn.root / name),
                "segmentation_label": str(drawn.root / name.replace("leftImg8bit", "gtFine", 1)).replace(
                    "leftImg8bit.png", "gtFine_labelIds.png"
                ),
            }
            for name, _, _ in drawn.expected[split]
        ]
        for split, tfds_split in (("train", "train"), ("val", "validation"))
    }
    root = _tfds_directory(tmp_path / "tfds", features, examples)
    config = draw.configure(drawn, root=str(root), storage="array_record", eval_split="validation")
    for split, source in (
        ("train", build.experiment(config).train_source()),
        ("val", build.experiment(config).eval_source()),
    ):
        expected = {os.path.basename(n).removesuffix("_leftImg8bit.png"): (i, t) for n, i, t in drawn.expected[split]}
        found = {os.path.basename(sample["name"]): sample for sample in (source[i] for i in range(len(source)))}
        assert found.keys() == expected.keys()
        for name, (image, ids) in expected.items():
            np.testing.assert_array_equal(found[name]["image"], image)
            np.testing.assert_array_equal(found[name]["label"], ids)
    assert "tensorflow" not in sys.modules


def test_tfds_prepared_imagenet(draw, tmp_path):
    drawn = draw("imagenet")
    features = {
        "image": tfds.features.Image(encoding_format="jpeg"),
        "label": tfds.features.ClassLabel(names=drawn.settings["classes"]),
        "file_name": tfds.features.Text(),
    }
    examples = [
        {"image": str(drawn.root / name), "label": name.split("/")[1], "file_name": os.path.basename(name)}
        for name, _, _ in drawn.expected["train"]
    ]
    root = _tfds_directory(tmp_path / "tfds", features, {"train": examples})
    source = build.experiment(draw.configure(drawn, root=str(root), storage="array_record")).train_source()
    expected = {os.path.basename(name): (image, number) for name, image, number in drawn.expected["train"]}
    assert len(source) == len(expected) == 6
    for sample in (source[i] for i in range(6)):
        image, number = expected[os.path.basename(sample["name"])]
        np.testing.assert_array_equal(sample["image"], image)
        assert sample["label"] == number


def test_tfds_directories_that_cannot_be_used_are_named(draw, tmp_path):
    root = _tfds_directory(tmp_path / "tfds", {"text": tfds.features.Text()}, {"train": [{"text": "x"}]})
    with pytest.raises(DataError, match="has the features text; expected one of image, image_left"):
        ArrayRecords(root, "train", CAMVID)
    path = root / "dataset_info.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "fileFormat": "tfrecord"}))
    with pytest.raises(DataError, match="holds tfrecord files; only array_record"):
        ArrayRecords(root, "train", CAMVID)
    path.write_text("{")
    with pytest.raises(DataError, match="its TFDS metadata cannot be read"):
        ArrayRecords(root, "train", CAMVID)
