"""Folders and drawn scenes as random-access sources; specs that contradict themselves."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from ddrnet_jax.data.errors import DataError
from ddrnet_jax.data.samples import decode_sample
from ddrnet_jax.data.scenes.scenes import image_class
from ddrnet_jax.data.sets.camvid import SPEC as CAMVID
from ddrnet_jax.data.sets.folder import folder_spec
from ddrnet_jax.data.sources import FolderPairs, SceneImages, Scenes

REAL_CAMVID = Path(os.environ.get("CAMVID_DIR", "data/camvid"))


def write_camvid(root, split="train", names=("b", "a"), suffix=".png"):
    rng = np.random.default_rng(0)
    for folder in (split, split + "annot"):
        (root / folder).mkdir(parents=True)
    for name in names:
        cv2.imwrite(str(root / split / (name + suffix)), rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        cv2.imwrite(str(root / (split + "annot") / (name + ".png")), rng.integers(0, 12, (24, 32), dtype=np.uint8))


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_camvid_layout_in_the_order_of_names(tmp_path, suffix):
    write_camvid(tmp_path, suffix=suffix)
    (tmp_path / "train" / "Thumbs.db").write_text("not an image")
    source = FolderPairs(tmp_path, "train", CAMVID)
    assert len(source) == 2
    sample = source[0]
    assert sample["name"].endswith("a" + suffix)
    assert sample["image"].shape == (24, 32, 3)
    raw = cv2.imread(str(tmp_path / "trainannot" / "a.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(sample["label"], np.where(raw == 11, 255, raw))
    if suffix == ".png":
        bgr = cv2.imread(str(tmp_path / "train" / "a.png"))
        np.testing.assert_array_equal(sample["image"], bgr[..., ::-1])


def test_own_folder_layout(tmp_path):
    write_camvid(tmp_path, "val")
    (tmp_path / "x").mkdir()
    os.rename(tmp_path / "val", tmp_path / "x" / "pictures")
    os.rename(tmp_path / "valannot", tmp_path / "x" / "val_masks")
    names = [str(i) for i in range(12)]
    spec = folder_spec(names, image_folder="x/pictures", label_folder="x/{split}_masks")
    assert FolderPairs(tmp_path, "val", spec)[1]["label"].max() == 11


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nowhere.train: no such folder, expected the images of split 'train'"):
        FolderPairs(tmp_path / "nowhere", "train", CAMVID)
    write_camvid(tmp_path)
    (tmp_path / "trainannot" / "a.png").unlink()
    with pytest.raises(DataError, match=r"1 of 2 images have no label: .*train.a.png; expected .*a\.png"):
        FolderPairs(tmp_path, "train", CAMVID)
    with pytest.raises(DataError, match="no such folder, expected the images of split 'val'"):
        FolderPairs(tmp_path, "val", CAMVID)
    (tmp_path / "train" / "b.jpg").write_bytes(b"x")
    with pytest.raises(DataError, match="have the same stem"):
        FolderPairs(tmp_path, "train", CAMVID)
    (tmp_path / "val").mkdir()
    with pytest.raises(DataError, match="no images here"):
        FolderPairs(tmp_path, "val", CAMVID)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": ()}, "data.classes is empty"),
        ({"classes": ("a",)}, "only 'a': name what is left of the image too"),
        ({"classes": ("a", "a")}, "data.classes has the same entry twice"),
        ({"classes": ("a", "b"), "colors": ((1, 2, 3),)}, "data.colors has 1 entries for 2 classes"),
        ({"classes": ("a", "b"), "label_values": (1, 1)}, "data.label_values has the same entry twice"),
        ({"classes": ("a", "b"), "ignore_values": (1,)}, "data.ignore_values has 1, which is also .* class 'b'"),
        ({"classes": ("a",), "colors": ((1, 2, 3),), "label_values": (4,)}, "both set"),
        ({"classes": tuple(map(str, range(256)))}, "at most 255"),
        ({"classes": (1, 2)}, "data.classes has 1; expected names"),
        ({"classes": ("a",), "label_values": (300,)}, "data.label_values has 300; expected integers of 0..255"),
        ({"classes": ("a",), "label_values": (-1,)}, "data.label_values has -1"),
        ({"classes": ("a",), "label_values": ("x",)}, "data.label_values has 'x'"),
        ({"classes": ("a",), "ignore_values": (1.5,)}, "data.ignore_values has 1.5; expected integers"),
        ({"classes": ("a",), "ignore_values": ((0, 0, 0),)}, r"data.ignore_values has \(0, 0, 0\); expected integers"),
        ({"classes": ("a",), "colors": ((300, 0, 0),)}, "data.colors has .*; expected RGB triples"),
        ({"classes": ("a",), "colors": ("red",)}, "data.colors has 'red'"),
        ({"classes": ("a",), "colors": ((1, 2, 3),), "ignore_values": (7,)}, "data.ignore_values has 7; expected RGB"),
        ({"classes": ("a", "b"), "colors": ((0, 0, 0), [0, 0, 0])}, "the same entry twice"),
        ({"classes": ("a",), "image_folder": "{splt}/x"}, "data.images is '{splt}/x'; the only placeholder"),
    ],
)
def test_contradicting_specs_are_refused(arguments, message):
    with pytest.raises(DataError, match=message):
        folder_spec(**arguments)


def test_scenes_are_random_access():
    source = Scenes(5, seed=1, size_hw=(64, 96))
    assert len(source) == 5
    a, b = source[3], Scenes(9, seed=1, size_hw=(64, 96))[3]
    np.testing.assert_array_equal(a["image"], b["image"])
    assert (a["image"] != Scenes(5, seed=0, size_hw=(64, 96))[3]["image"]).any()


def test_scenes_with_class_numbers_are_the_same_scenes():
    source, scenes = SceneImages(3, seed=1, size_hw=(64, 64)), Scenes(3, seed=1, size_hw=(64, 64))
    assert not source.spec.has_masks
    for index in range(3):
        sample, stored = source[index], decode_sample(source.encoded(index), source.spec)
        np.testing.assert_array_equal(sample["image"], scenes[index]["image"])
        np.testing.assert_array_equal(stored["image"], sample["image"])
        assert type(sample["label"]) is int
        assert stored["label"] == sample["label"] == image_class(scenes[index]["label"])


@pytest.mark.skipif(not REAL_CAMVID.is_dir(), reason="the CamVid images are not here (CAMVID_DIR)")
def test_real_camvid_reads():
    source = FolderPairs(REAL_CAMVID, "val", CAMVID)
    assert (len(source), len(FolderPairs(REAL_CAMVID, "train", CAMVID))) == (101, 367)
    sample = source[50]
    assert sample["image"].shape == (360, 480, 3)
    assert set(np.unique(sample["label"])) <= {*range(11), 255}
