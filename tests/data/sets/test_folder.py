"""The user's own folder: patterns, lists, shares, labels in JSON, and one line for what does not fit."""

import json
import unicodedata

import cv2
import numpy as np
import pytest

from ddrnet_jax.data.errors import DataError, MissingLabels
from ddrnet_jax.data.records import prepare
from ddrnet_jax.data.records.array_records import ArrayRecords
from ddrnet_jax.data.sets.folder import folder_spec
from ddrnet_jax.data.sources import FolderPairs

CLASSES = ("background", "road", "car")


def write(root, path, value=0):
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((8, 16) if value else (8, 16, 3), value, np.uint8)
    (root / path).write_bytes(cv2.imencode((root / path).suffix, pixels)[1].tobytes())


def source(root, split="train", classes=CLASSES, **settings):
    return FolderPairs(root, split, folder_spec(classes, **settings))


def names(root, split="train", **settings):
    return source(root, split, **settings).names()


def test_subfolders_are_part_of_the_stem(tmp_path):
    for path in ("b/0", "a/0", "1", "a/deep/2"):
        write(tmp_path, f"images/train/{path}.jpg")
        write(tmp_path, f"labels/train/{path}.png", 1)
    (tmp_path / "images/train/a/back").symlink_to("..", target_is_directory=True)  # must not go round
    assert names(tmp_path) == [f"images/train/{path}.jpg" for path in ("1", "a/0", "a/deep/2", "b/0")]
    (tmp_path / "labels/train/a/0.png").unlink()
    with pytest.raises(
        MissingLabels, match=r"1 of 4 images have no label: .*train.a.0.jpg; expected .*labels.train.a.0"
    ):
        names(tmp_path)


def test_names_in_two_unicode_forms_pair(tmp_path):
    write(tmp_path, "images/train/" + unicodedata.normalize("NFD", "Köln.jpg"))
    write(tmp_path, "labels/train/" + unicodedata.normalize("NFC", "Köln.png"), 1)
    assert len(names(tmp_path)) == 1


def test_masks_beside_their_images(tmp_path):
    for i in range(3):
        write(tmp_path, f"train/{i}.png")
        write(tmp_path, f"train/{i}_mask.png", 1)
    assert names(tmp_path, image_folder="{split}", label_folder="{split}/{stem}_mask.png") == [
        f"train/{i}.png" for i in range(3)
    ]
    with pytest.raises(
        DataError, match="images and labels of split 'train' are the same files; tell their names apart"
    ):
        names(tmp_path, image_folder="{split}", label_folder="{split}")
    with pytest.raises(DataError, match="no images here by '{stem}_L.png', expected the labels .*: it has train/"):
        names(tmp_path, image_folder=".", label_folder="{stem}_L.png")


def test_what_lies_in_an_empty_folder_is_said(tmp_path):
    for name in ("a.heic", "b.heic", "c.txt"):
        (tmp_path / "images/train").mkdir(parents=True, exist_ok=True)
        (tmp_path / "images/train" / name).write_text("")
    with pytest.raises(DataError, match=r"images/train: no images here .*: it has 2 .heic, 1 .txt$"):
        names(tmp_path)
    with pytest.raises(DataError, match=r"images/val: no such folder, .*; .*/images has train/: check data.root"):
        names(tmp_path, "val")


@pytest.mark.parametrize(
    "line", ["a/{i}", "a/{i}.jpg", "./a/{i}.jpg", "pool/a/{i}.jpg", "/pool/a/{i}", "pool/a/{i}.jpg truth/a/{i}.png"]
)
def test_lists_name_images_in_every_usual_way(line, tmp_path):
    for i in range(4):
        write(tmp_path, f"pool/a/{i}.jpg")
        write(tmp_path, f"truth/a/{i}.png", 1)
    ways = {"image_folder": "pool", "label_folder": "truth", "lists": "{split}.txt"}
    text = "\ufeff# of mine\r\n" + "".join(line.format(i=i) + "\r\n" for i in (3, 1)) + "\r\n"
    (tmp_path / "train.txt").write_bytes(text.encode())
    assert names(tmp_path, **ways) == ["pool/a/3.jpg", "pool/a/1.jpg"]
    with pytest.raises(DataError, match=r"val.txt: no such file, expected the list of split 'val'; .* and 1 .txt"):
        names(tmp_path, "val", **ways)
    (tmp_path / "train.txt").write_text("a/1\na/7\n")
    with pytest.raises(DataError, match=r"train.txt: names a/7, but there is no such image .* 1 of 2 are missing"):
        names(tmp_path, **ways)


def test_a_share_is_held_out_and_stays_as_it_is_when_images_are_added(tmp_path):
    def both():
        held_out, rest = (set(names(tmp_path, split, **ways)) for split in ("val", "train"))
        assert not held_out & rest
        return held_out, rest

    ways = {"image_folder": "images", "label_folder": "labels", "val_share": 0.3}
    for i in range(60):
        write(tmp_path, f"images/{i}.jpg")
        write(tmp_path, f"labels/{i}.png", 1)
        if i == 29:
            before = both()
    after = both()
    assert len(after[0] | after[1]) == 60
    assert 9 <= len(after[0]) <= 27  # 18 expected
    assert all(old < new for old, new in zip(before, after, strict=True))
    assert set(names(tmp_path, "train+val", **ways)) == after[0] | after[1]
    with pytest.raises(DataError, match="val_share = 0.001 leaves one side of 60 images empty: set it at least 0.0"):
        names(tmp_path, **ways | {"val_share": 0.001})
    with pytest.raises(DataError, match="val_share = 0.9999 leaves one side .*: set it below 0.9"):
        names(tmp_path, **ways | {"val_share": 0.9999})
    with pytest.raises(
        DataError, match="data.images is 'images/{split}' and data.val_share 0.3: a share is held out of"
    ):
        names(tmp_path, **ways | {"image_folder": "images/{split}"})


def gif(indices, palette, transparent=None):
    """A GIF written by hand: each code of three bits is an index or, before each, clears the table."""
    codes = [code for index in indices.ravel() for code in (4, int(index))] + [5]
    bits = sum(code << 3 * i for i, code in enumerate(codes))
    data = bits.to_bytes((3 * len(codes) + 7) // 8, "little")
    height, width = (n.to_bytes(2, "little") for n in indices.shape)
    blocks = b"".join(bytes([len(data[i : i + 255])]) + data[i : i + 255] for i in range(0, len(data), 255))
    control = b"" if transparent is None else b"\x21\xf9\x04\x01\0\0" + bytes([transparent, 0])
    header = b"GIF89a" + width + height + b"\x81\0\0" + np.asarray(palette, np.uint8).tobytes()
    return header + control + b"\x2c\0\0\0\0" + width + height + b"\0\x02" + blocks + b"\0;"


def test_gif_masks_are_read_by_index_or_by_colour(tmp_path):
    write(tmp_path, "images/train/a.jpg")
    (tmp_path / "labels/train").mkdir(parents=True)
    ids = (np.arange(8 * 16).reshape(8, 16) // 5 % 3).astype(np.uint8)
    colors = ((255, 255, 255), (0, 0, 0), (9, 99, 200))
    for transparent in (None, 0):
        (tmp_path / "labels/train/a.gif").write_bytes(gif(ids, (*colors, (0, 0, 0)), transparent))
        np.testing.assert_array_equal(source(tmp_path)[0]["label"], ids)
    (tmp_path / "labels/train/a.gif").write_bytes(gif(ids, (*colors, (0, 0, 0))))
    np.testing.assert_array_equal(source(tmp_path, colors=colors)[0]["label"], ids)
    data = (tmp_path / "labels/train/a.gif").read_bytes()
    for length in range(6, len(data) - 30, 7):
        (tmp_path / "labels/train/a.gif").write_bytes(data[:length])
        with pytest.raises(DataError, match="a.gif: "):
            source(tmp_path)[0]


def road(root, path, label="road"):
    shape = {"label": label, "points": [[0, 4], [16, 4], [16, 8], [0, 8]]}
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(json.dumps({"shapes": [shape], "imageHeight": 8, "imageWidth": 16}))


def test_polygons_become_records_of_train_ids(tmp_path):
    write(tmp_path, "images/train/a.jpg")
    road(tmp_path, "images/train/a.json")
    spec = folder_spec(CLASSES, label_folder="images/{split}/{stem}.json")
    folder = FolderPairs(tmp_path, "train", spec)
    expected = np.repeat([[0] * 16, [1] * 16], 4, axis=0)
    np.testing.assert_array_equal(folder[0]["label"], expected)
    prepare.prepare({"train": folder}, tmp_path / "records", name="folder")
    np.testing.assert_array_equal(ArrayRecords(tmp_path / "records", "train", spec)[0]["label"], expected)
    road(tmp_path, "images/train/a.json", "rail")
    with pytest.raises(DataError, match=r"a.json: class 'rail' is in neither"):
        folder[0]
    ignored = source(tmp_path, label_folder="images/{split}/{stem}.json", ignore_values=("rail",))
    assert ignored[0]["label"].max() == 255
    for wrong in ({"colors": ((0, 0, 0),) * 3}, {"label_values": (1, 2, 3)}):
        with pytest.raises(DataError, match="data.labels is JSON, which names its classes"):
            folder_spec(CLASSES, label_folder="{stem}.json", **wrong)
    with pytest.raises(DataError, match="data.ignore_values has 7; expected names of classes"):
        folder_spec(CLASSES, label_folder="{stem}.json", ignore_values=(7,))


def test_one_file_in_the_form_of_coco(tmp_path):
    def annotate(*file_names):
        images = [{"id": i, "file_name": name, "height": 8, "width": 16} for i, name in enumerate(file_names)]
        road = {"image_id": 1, "category_id": 5, "segmentation": [[0, 4, 16, 4, 16, 8, 0, 8]]}
        document = {"images": images, "annotations": [road], "categories": [{"id": 5, "name": "road"}]}
        (tmp_path / "train.json").write_text(json.dumps(document))

    ways = {"image_folder": "images", "label_folder": "train.json"}
    for name in ("a/0", "b/0", "b/1"):
        write(tmp_path, f"images/{name}.jpg")
    annotate("a/0.jpg", "b/0.jpg", "b\\1.jpg")
    found = source(tmp_path, **ways)
    assert [sample["label"].max() for sample in found] == [0, 1, 0]
    assert found.encoded(1).label_name.endswith("train.json#0.jpg")
    annotate("a/0.jpg", "b/0.jpg")
    with pytest.raises(MissingLabels, match=r"1 of 3 images have no label: .*b/1.jpg; expected .*train.json#1.jpg"):
        names(tmp_path, **ways)
    annotate("a/0.jpg", "b/0.jpg", "c/9.jpg")
    with pytest.raises(
        DataError, match="train.json: names 3 images, but 2 of them are there by data.images = 'images'"
    ):
        names(tmp_path, **ways)
    annotate("0.jpg")  # of a, or of b?
    with pytest.raises(DataError, match="train.json: names 1 images, but 2 of them are there"):
        names(tmp_path, **ways)
    (tmp_path / "train.json").write_text('{"images": 3}')
    with pytest.raises(DataError, match="train.json: not COCO's JSON"):
        names(tmp_path, **ways)
