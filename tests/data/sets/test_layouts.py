"""Every data set as it is unzipped: the files in their order, labels value by value, one line for every mistake."""

import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy import io as scipy_io

from ddrnet_jax import build
from ddrnet_jax.data import decode
from ddrnet_jax.data.check import check
from ddrnet_jax.data.errors import DataError, MissingLabels
from ddrnet_jax.data.pipeline import Shard, samples_in_order, train_batches
from ddrnet_jax.data.records import prepare
from ddrnet_jax.data.sets.cityscapes import SPEC as CITYSCAPES
from ddrnet_jax.data.sets.coco_stuff_10k import SPEC as COCO_STUFF_10K
from ddrnet_jax.data.sets.coco_stuff_164k import SPEC as COCO_STUFF_164K
from ddrnet_jax.data.sets.imagenet import SPEC as IMAGENET
from ddrnet_jax.data.sets.known import SPECS
from ddrnet_jax.data.sets.layouts import find_pairs
from ddrnet_jax.data.sets.specs import DatasetSpec
from ddrnet_jax.data.sources import FolderPairs
from ddrnet_jax.data.transforms import Augment

NAMES = ("cityscapes", "camvid", "camvid_original", "coco_stuff_10k", "coco_stuff_164k", "imagenet", "folder")


@pytest.mark.parametrize("name", NAMES)
def test_every_split_reads_as_it_was_drawn(draw, check_samples, name):
    drawn = draw(name)
    for split, expected in drawn.expected.items():
        config = draw.configure(drawn, train_split=split, eval_split=split)
        check_samples(build.experiment(config).train_source(), expected)
        check_samples(build.experiment(config).eval_source(), expected)


@pytest.mark.parametrize("name", ["cityscapes", "camvid_original", "coco_stuff_10k", "imagenet"])
def test_splits_are_joined_with_a_plus(draw, check_samples, name):
    drawn = draw(name)
    splits = list(drawn.expected)
    config = draw.configure(drawn, train_split="+".join(splits[:2]))
    check_samples(build.experiment(config).train_source(), drawn.expected[splits[0]] + drawn.expected[splits[1]])
    for wrong in ("train+", "train+train", ""):
        with pytest.raises(DataError, match="names joined by"):
            build.experiment(draw.configure(drawn, train_split=wrong)).train_source()


def with_train_ids(root, ending):
    """The labels of Cityscapes as train ids, in files of this ending."""
    for path in root.rglob("*_labelIds.png"):
        ids = decode.decode_label(path.read_bytes(), path.name, CITYSCAPES)
        cv2.imwrite(str(path).replace("_labelIds.png", ending), ids)
        if ending != "_labelIds.png":
            path.unlink()


@pytest.mark.parametrize("is_prepared", [False, True])
def test_cityscapes_of_train_ids_alone_reads_as_it_was_drawn(draw, check_samples, tmp_path, is_prepared):
    drawn = draw("cityscapes")
    with_train_ids(drawn.root, "_labelTrainIds.png")
    config = draw.configure(drawn)
    if is_prepared:
        prepare.prepare(build.sources_to_prepare(config), tmp_path / "records", name="cityscapes")
        config.data.root, config.data.storage = str(tmp_path / "records"), "array_record"
    check_samples(build.experiment(config).train_source(), drawn.expected["train"])


def test_train_ids_under_the_name_of_label_ids_are_refused(draw):
    drawn = draw("cityscapes")
    with_train_ids(drawn.root, "_labelIds.png")
    e = build.experiment(draw.configure(drawn))
    with pytest.raises(DataError, match="_labelIds.png: holds train ids, not label ids; rename all such files"):
        check.quick(e.train_source(), e.eval_source(), crop_hw=(16, 16), scale_range=(1, 1))


def test_several_processes_read_each_sample_once(draw):
    drawn = draw("cityscapes")
    source = build.experiment(draw.configure(drawn, train_split="train+train_extra")).train_source()
    parts = [[s["name"] for s in samples_in_order(source, shard=Shard(i, 2))] for i in range(2)]
    assert sorted(sum(parts, [])) == sorted(str(image) for image, _ in source.pairs)
    batches = train_batches(source, Augment((16, 16), (0.5, 2.0), True), seed=0, batch_size=4, shard=Shard(1, 2))
    assert next(batches)["images"].shape == (2, 16, 16, 3)
    batches.close()


def test_imagenet_counts_a_thousand_classes(tmp_path, draw):
    for i in range(1000):
        (tmp_path / "val" / f"n{i:08d}").mkdir(parents=True)
    image = cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    (tmp_path / "val" / "n00000999" / "a.JPEG").write_bytes(image)
    pairs, spec = find_pairs(tmp_path, "val", IMAGENET)
    assert [number for _, number in pairs] == [999]
    assert spec.classes[999] == "n00000999"
    (tmp_path / "val" / "n00000007").rmdir()
    with pytest.raises(DataError, match="has 999 class folders, ImageNet has 1000"):
        find_pairs(tmp_path, "val", IMAGENET)


def test_tables():
    assert {name: spec.num_classes for name, spec in SPECS.items()} == {
        "scenes": 9,
        "camvid": 11,
        "cityscapes": 19,
        "coco_stuff_10k": 171,
        "coco_stuff_164k": 171,
        "imagenet": 1000,
    }
    assert CITYSCAPES.classes[0] == "road"
    assert CITYSCAPES.classes[18] == "bicycle"
    assert len(CITYSCAPES.class_weights) == 19
    assert COCO_STUFF_10K.classes == COCO_STUFF_164K.classes
    assert (COCO_STUFF_10K.classes[0], COCO_STUFF_10K.classes[80], COCO_STUFF_10K.classes[170]) == (
        "person",
        "banner",
        "wood",
    )
    for spec in SPECS.values():
        assert len(set(spec.colors)) == len(spec.colors)
        assert set(spec.values.values()) - {255} == (set(range(spec.num_classes)) if spec.has_masks else set())
        assert spec.palette().shape == (256, 3)


@pytest.mark.parametrize(
    ("name", "gone", "message"),
    [
        ("cityscapes", "leftImg8bit", "leftImg8bit.train: no such folder, expected the cities"),
        ("cityscapes", "leftImg8bit/train", r"leftImg8bit.train: no such folder.*has train_extra/, val/"),
        (
            "cityscapes",
            "gtFine",
            "3 of 3 images have no label: .*; expected .*labelIds.png of the first: unzip the gtFine",
        ),
        ("cityscapes", "gtFine/train/zurich/zurich_000000_000019_gtFine_labelIds.png", "1 of 3 images have no label"),
        ("camvid_original", "LabeledApproved_full/0006R0_f00930_L.png", "1 of 5 images .*0006R0_f00930_L.png: unzip"),
        ("coco_stuff_10k", "imageLists", "imageLists.train.txt: no such file"),
        (
            "coco_stuff_10k",
            "images/COCO_train2014_000000000077.jpg",
            "names COCO_train2014_000000000077, but .* 1 of 2",
        ),
        ("coco_stuff_10k", "annotations/COCO_train2014_000000000025.mat", "1 of 2 images have no label"),
        ("coco_stuff_164k", "images/train2017", "train2017: no such folder, expected the images"),
        ("coco_stuff_164k", "stuffthingmaps", "has neither stuffthingmaps/train2017 nor annotations/train2017"),
        ("coco_stuff_164k", "stuffthingmaps/train2017/000000000009.png", "1 of 2 images have no label"),
        ("imagenet", "train", "train: no such folder, expected the class folders.*has val/"),
        ("imagenet", "train/n01443537", "n01443537: no such folder, expected the images of a class"),
    ],
)
def test_what_is_missing_is_named(draw, name, gone, message):
    drawn = draw(name)
    path = drawn.root / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(DataError, match=message) as caught:
        build.experiment(draw.configure(drawn)).train_source()
    assert "\n" not in str(caught.value)


def test_many_missing_labels_are_counted_over_all_parts_and_the_first_few_named(draw):
    drawn = draw("cityscapes")
    for split in ("train", "val"):
        shutil.rmtree(drawn.root / "gtFine" / split / "aachen")
    with pytest.raises(MissingLabels) as caught:
        build.experiment(draw.configure(drawn, train_split="train+val")).train_source()
    images = [str(drawn.root / name) for split in ("train", "val") for name, _, _ in drawn.expected[split][:2]]
    message = str(caught.value)
    assert message.startswith(f"4 of 6 images have no label: {', '.join(images[:3])} and 1 more; expected ")
    label = "gtFine/train/aachen/aachen_000000_000019_gtFine_labelIds.png"
    assert f"expected {drawn.root / label} of the first: unzip the gtFine archive" in message
    assert [image for image, _ in caught.value.missing] == images
    assert len(caught.value.pairs) == 2

    coco = draw("coco_stuff_10k")
    for path in (coco.root / "images").glob("COCO*"):
        path.rename(path.with_name(f"x{path.name}"))
    with pytest.raises(DataError, match="names COCO_train2014_000000000077, COCO_.*025, but .* 2 of 2 are missing"):
        build.experiment(draw.configure(coco)).train_source()


def test_parts_of_imagenet_with_other_class_folders_are_refused(tmp_path):
    for part in ("train", "val"):
        for i in range(1000):
            (tmp_path / part / f"n{i:08d}").mkdir(parents=True)
        (tmp_path / part / "n00000999/a.JPEG").write_bytes(b"")
    pairs, spec = find_pairs(tmp_path, "train+val", IMAGENET)
    assert [number for _, number in pairs] == [999, 999]
    (tmp_path / "val/n00000007").rename(tmp_path / "val/n00001000")  # every class behind it would move down
    with pytest.raises(DataError, match="val: its class folders are not those of .*train, .* n00000007, n00001000;"):
        find_pairs(tmp_path, "train+val", IMAGENET)
    assert find_pairs(tmp_path, "val", IMAGENET)[0][0][1] == 998


def test_unknown_splits_and_classes_are_named(draw):
    camvid = draw("camvid_original")
    with pytest.raises(DataError, match="split 'all': the original CamVid has"):
        build.experiment(draw.configure(camvid, train_split="all")).train_source()
    imagenet = draw("imagenet")
    with pytest.raises(DataError, match="n02105855: this folder is no class of data.classes"):
        build.experiment(draw.configure(imagenet, classes=("n01440764", "n01443537"))).train_source()
    with pytest.raises(DataError, match="train: has 3 class folders, ImageNet has 1000"):
        build.experiment(draw.configure(imagenet, classes=())).train_source()
    with pytest.raises(DataError, match="data.classes has the same entry twice"):
        build.experiment(draw.configure(imagenet, classes=("a", "a"))).train_source()


@pytest.mark.parametrize("name", ["cityscapes", "imagenet"])
def test_a_split_without_images_is_an_error(draw, name):
    drawn = draw(name)
    folder = drawn.root / ("leftImg8bit/train" if name == "cityscapes" else "train")
    for path in folder.rglob("*.*"):
        if path.is_file():
            path.unlink()
    with pytest.raises(DataError, match="train: nothing to read here, expected"):
        build.experiment(draw.configure(drawn)).train_source()


def break_label(path, how):
    if how == "truncated":
        path.write_bytes(path.read_bytes()[:-30])
    elif path.suffix == ".mat":
        scipy_io.savemat(path, {"S": np.full((24, 32), 183)})
    else:
        value = (1, 2, 3) if path.name.endswith("_L.png") else (34 if "labelIds" in path.name else 182)
        cv2.imwrite(str(path), np.full((24, 32, 3) if isinstance(value, tuple) else (24, 32), value, np.uint8))


@pytest.mark.parametrize("name", ["cityscapes", "camvid_original", "coco_stuff_10k", "coco_stuff_164k"])
@pytest.mark.parametrize(
    ("how", "message"), [("truncated", "truncated"), ("unknown", "label value (34|183|182) is not one|colour .* is in")]
)
def test_broken_labels_are_named(draw, name, how, message):
    drawn = draw(name)
    source = build.experiment(draw.configure(drawn)).train_source()
    path = Path(source.pairs[1][1])
    break_label(path, how)
    source[0]
    with pytest.raises(DataError, match=message) as caught:
        source[1]
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_broken_and_vanished_images_are_named(draw, name):
    source = build.experiment(draw.configure(draw(name))).train_source()
    path = Path(source.pairs[1][0])
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DataError, match=f"{path.name}: truncated"):
        source[1]
    path.unlink()
    with pytest.raises(DataError, match=f"{path.name}: cannot be read"):
        source[1]


def test_sizes_of_matlab_labels_are_compared(draw):
    source = build.experiment(draw.configure(draw("coco_stuff_10k"))).train_source()
    scipy_io.savemat(source.pairs[0][1], {"S": np.ones((24, 31))})
    with pytest.raises(DataError, match=r"mat: the label is 31x24 \(WxH\), its image 32x24"):
        source[0]


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"T": np.ones((4, 4))}, "has no matrix S"),
        ({"S": "text"}, "S is no label map"),
        ({"S": np.ones((4, 4, 3))}, "S is no label map"),
        ({"S": np.full((4, 4), 1.5)}, "S holds 1.5..1.5, expected whole numbers"),
        ({"S": np.full((4, 4), -1)}, "S holds -1..-1"),
        ({"S": np.full((4, 4), np.nan)}, "S holds nan..nan"),
    ],
)
def test_other_matlab_files_are_refused(tmp_path, variables, message):
    scipy_io.savemat(tmp_path / "a.mat", variables)
    with pytest.raises(DataError, match=f"a.mat: .*{message}"):
        decode.decode_label((tmp_path / "a.mat").read_bytes(), str(tmp_path / "a.mat"), COCO_STUFF_10K)


def test_matlab_labels_without_scipy_say_what_to_install(draw, monkeypatch):
    source = build.experiment(draw.configure(draw("coco_stuff_10k"))).train_source()
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(DataError, match="mat: reading MATLAB labels needs SciPy: pip install scipy"):
        source[0]


@pytest.mark.parametrize("do_compression", [False, True])
def test_truncated_matlab_files_are_errors_at_every_length(tmp_path, do_compression):
    values = np.random.default_rng(0).integers(0, 183, (12, 16)).astype(np.uint8)
    scipy_io.savemat(tmp_path / "a.mat", {"S": values}, do_compression=do_compression)
    data = (tmp_path / "a.mat").read_bytes()
    for length in range(7, len(data)):
        with pytest.raises(DataError, match="cut.mat: "):
            decode.decode_label(data[:length], "cut.mat", COCO_STUFF_10K)


class Numbered(DatasetSpec):
    """Label n.png belongs to photo_n.png."""

    def find_pairs(self, root, split):
        return [(str(root / f"photo_{n}.png"), str(root / f"{n}.png")) for n in (2, 1)]


def test_a_data_set_finds_its_own_files(tmp_path):
    images = {n: np.full((8, 8, 3), n, np.uint8) for n in (1, 2)}
    for n, image in images.items():
        cv2.imwrite(str(tmp_path / f"photo_{n}.png"), image)
        cv2.imwrite(str(tmp_path / f"{n}.png"), np.full((8, 8), n - 1, np.uint8))
    spec = Numbered("numbered", ("a", "b"), ((0, 0, 0), (9, 9, 9)), {0: 0, 1: 1})
    source = FolderPairs(tmp_path, "all", spec)
    assert source.spec is spec
    assert [(s["image"][0, 0, 0], s["label"][0, 0]) for s in (source[0], source[1])] == [(2, 1), (1, 0)]
