"""How people's tools lay files out: each is recognised, and the lines that are printed read every image and label."""

import json

import cv2
import numpy as np
import pytest

from ddrnet_jax import main as main_lib
from ddrnet_jax.data.check import check, recognise
from ddrnet_jax.data.sets.folder import folder_spec
from ddrnet_jax.data.sources import FolderPairs

HEIGHT, WIDTH = 24, 32
CLASSES = ("background", "road", "car")
COLORS = np.array([(0, 0, 0), (128, 64, 128), (0, 0, 142)], np.uint8)
SPLITS = {"train": range(4), "val": range(4, 6)}
MANY = range(12)


class Writer:
    """Writes files below a root and remembers what the label of each image holds."""

    def __init__(self, root):
        self.root, self.rng, self.labels = root, np.random.default_rng(0), {}

    def file(self, path, data):
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_bytes(data if isinstance(data, bytes) else data.encode())

    def image(self, path):
        pixels = self.rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        self.file(path, cv2.imencode(path[path.rindex(".") :], pixels)[1].tobytes())

    def pair(self, image, label, colored=False):
        self.image(image)
        ids = self.rng.integers(0, 3, (HEIGHT // 8, WIDTH // 8), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
        self.labels[image] = ids
        self.file(label, cv2.imencode(".png", COLORS[ids][..., ::-1] if colored else ids)[1].tobytes())

    def drawn(self, image):
        """Shapes of labelme for an image: a car on a road."""
        self.image(image)
        self.labels[image] = ids = np.zeros((HEIGHT, WIDTH), np.uint8)
        ids[12:], ids[8:16, 4:20] = 1, 2
        road = {"label": "road", "points": [[0, 12], [WIDTH, 12], [WIDTH, HEIGHT], [0, HEIGHT]]}
        car = {"label": "car", "shape_type": "rectangle", "points": [[20, 16], [4, 8]]}
        return json.dumps({"shapes": [road, car], "imageHeight": HEIGHT, "imageWidth": WIDTH})

    def coco(self, path, images, folder):
        """COCO's file of images: a road as a polygon, a car as run lengths."""
        entries, annotations = [], []
        for number, name in enumerate(images):
            self.image(f"{folder}{name}")
            self.labels[f"{folder}{name}"] = ids = np.zeros((HEIGHT, WIDTH), np.uint8)
            ids[12:], ids[:, 0] = 1, 2
            entries.append({"id": number, "file_name": name, "height": HEIGHT, "width": WIDTH})
            of = {"image_id": number}
            road = [[0, 12, WIDTH, 12, WIDTH, HEIGHT, 0, HEIGHT]]
            car = {"size": [HEIGHT, WIDTH], "counts": [0, HEIGHT, HEIGHT * (WIDTH - 1)]}
            annotations += [of | {"category_id": 1, "segmentation": road}, of | {"category_id": 2, "segmentation": car}]
        names = [{"id": i, "name": name} for i, name in enumerate(("things", "road", "car"))]
        self.file(path, json.dumps({"images": entries, "annotations": annotations, "categories": names}))


def camvid_copy(w):
    for split, numbers in SPLITS.items():
        for i in numbers:
            w.pair(f"{split}/0001TP_00669{i}.png", f"{split}_labels/0001TP_00669{i}_L.png", colored=True)
    w.file("class_dict.csv", "name,r,g,b\nbackground,0,0,0\nroad,128,64,128\ncar,0,0,142\n")
    return {"labels": "{split}_labels/{stem}_L.png", "images": "{split}", "colors": tuple(map(tuple, COLORS.tolist()))}


def roboflow(w):
    for split, numbers in (("train", range(4)), ("valid", range(4, 6))):
        for i in numbers:
            w.pair(f"{split}/{i}_jpg.rf.0a.jpg", f"{split}/{i}_jpg.rf.0a_mask.png")
        w.file(f"{split}/_classes.csv", "Pixel Value, Class\n0, background\n1, road\n2, car\n")
    return {"images": "{split}", "labels": "{split}/{stem}_mask.png", "eval_split": "valid"}


def pascal_voc(w):
    for i in range(6):
        w.pair(f"JPEGImages/{i}.jpg", f"SegmentationClass/{i}.png", colored=True)
        w.file(f"SegmentationObject/{i}.png", (w.root / f"SegmentationClass/{i}.png").read_bytes())
    for split, numbers in (*SPLITS.items(), ("trainval", range(6))):
        for kind in ("Main", "Segmentation"):
            w.file(f"ImageSets/{kind}/{split}.txt", "".join(f"{i}\n" for i in numbers))
    w.file("labelmap.txt", "# label:color_rgb:parts:actions\nbackground:0,0,0::\nroad:128,64,128::\ncar:0,0,142::\n")
    return {"images": "JPEGImages", "labels": "SegmentationClass", "lists": "ImageSets/Segmentation/{split}.txt"}


def paddle(w):
    for split, numbers in SPLITS.items():
        for i in numbers:
            w.pair(f"pictures/{i}.jpg", f"truth/{i}.png")
        w.file(f"{split}.txt", "".join(f"pictures/{i}.jpg truth/{i}.png\n" for i in numbers))
    return {"lists": "{split}.txt"}


def nested(w):
    for split, numbers in SPLITS.items():
        for i in numbers:
            name = f"{split}/city_{i % 2}/{i}"
            w.pair(f"leftImg8bit/{name}_leftImg8bit.png", f"gtFine/{name}_gtFine_labelIds.png")
            w.file(
                f"gtFine/{name}_gtFine_instanceIds.png", (w.root / f"gtFine/{name}_gtFine_labelIds.png").read_bytes()
            )
    return {"images": "leftImg8bit/{split}/{stem}_leftImg8bit", "labels": "gtFine/{split}/{stem}_gtFine_labelIds.png"}


def prefixes(w):
    for split, numbers in (("training", range(4)), ("testing", range(4, 6))):
        for i in numbers:
            w.pair(f"{split}/image_2/um_{i:06d}.png", f"{split}/gt_image_2/um_road_{i:06d}.png")
    return {"labels": "{split}/gt_image_2/um_road_{stem}.png", "train_split": "training", "eval_split": "testing"}


def one_folder_without_splits(w):
    for i in MANY:
        w.pair(f"all/{i}.png", f"all/{i}_mask.png")
    return {"images": "all", "labels": "all/{stem}_mask.png", "val_share": 0.2}


def one_folder_of_equal_stems(w):
    for i in MANY:
        w.pair(f"{i}.jpg", f"{i}.png")
    return {"images": "{stem}.jpg", "labels": "{stem}.png", "val_share": 0.2}


def labelme(w):
    for i in MANY:
        w.file(f"{i}.json", w.drawn(f"{i}.jpg"))
    return {"labels": "{stem}.json", "classes": ("background", "car", "road")}


def coco(w):
    for split, numbers in SPLITS.items():
        w.coco(f"annotations/instances_{split}2017.json", [f"{i}.jpg" for i in numbers], f"{split}2017/")
    return {"images": "{split}2017", "labels": "annotations/instances_{split}2017.json"}


def coco_of_roboflow(w):
    for split in ("train", "valid"):
        w.coco(f"{split}/_annotations.coco.json", [f"{i}.jpg" for i in range(3)], f"{split}/")
    return {"images": "{split}", "labels": "{split}/_annotations.coco.json", "eval_split": "valid"}


def coco_of_cvat(w):
    w.coco("annotations/instances_default.json", [f"{i}.jpg" for i in MANY], "images/")
    return {"images": "images", "labels": "annotations/instances_default.json", "val_share": 0.2}


def coco_as_lists(w):
    for split, numbers in SPLITS.items():
        w.coco(f"{split}.json", [f"{i}.jpg" for i in numbers], "pool/")
    return {"images": "pool", "labels": "{split}.json"}


LAYOUTS = (
    *(camvid_copy, roboflow, pascal_voc, paddle, nested, prefixes, one_folder_without_splits, labelme, coco),
    *(one_folder_of_equal_stems, coco_of_roboflow, coco_of_cvat, coco_as_lists),
)


@pytest.mark.parametrize("write", LAYOUTS)
def test_layouts_are_recognised_and_read(write, tmp_path):
    w = Writer(tmp_path)
    expected = write(w)
    found = recognise.finding(tmp_path, folder_spec(("one", "two")), "train", "val")
    pasted = {"classes": CLASSES}
    for line in found.paste:
        key, _, value = line.removeprefix("config.data.").partition(" = ")
        pasted[key] = eval(value)  # what a user would paste
    assert pasted == pasted | expected
    assert found.severity == "note"

    splits = [pasted.pop("train_split", "train"), pasted.pop("eval_split", "val")]
    ways = {"images": "image_folder", "labels": "label_folder"}
    spec = folder_spec(**{ways.get(key, key): value for key, value in pasted.items()}, val_split=splits[1])
    seen = []
    for split in splits:
        source = FolderPairs(tmp_path, split, spec)
        for index, name in enumerate(source.names()):
            ids = np.array([CLASSES.index(c) for c in pasted["classes"]], np.uint8)[source[index]["label"]]
            np.testing.assert_array_equal(ids, w.labels[name])
            seen.append(name)
    assert sorted(seen) == sorted(w.labels)  # every image once
    both = [
        check.Split(role, split, lambda split=split: FolderPairs(tmp_path, split, spec))
        for role, split in zip(("training", "evaluation"), splits, strict=True)
    ]
    report = check.check(both, spec, root=tmp_path, crop_hw=(HEIGHT, WIDTH), scale_range=(1.0, 1.0))
    assert report.findings == ()
    assert recognise.finding(tmp_path, spec, *splits) is None  # nothing is left to set
    sources = [FolderPairs(tmp_path, split, spec) for split in splits]
    assert check.quick(*sources, crop_hw=(HEIGHT, WIDTH), scale_range=(1.0, 1.0)) == []


def test_what_is_no_data_set_is_not_recognised(tmp_path):
    assert recognise.finding(tmp_path / "nowhere", folder_spec(CLASSES), "train", "val") is None
    w = Writer(tmp_path)
    for i in range(3):
        w.image(f"holidays/{i}.jpg")
        w.image(f"work/{i}.jpg")
    w.file("train.json", "{}")
    w.file("val.txt", "\n")
    assert recognise.finding(tmp_path, folder_spec(CLASSES), "train", "val") is None


def test_check_data_prints_the_lines_before_the_classes_are_known(tmp_path, capsys):
    coco_of_cvat(Writer(tmp_path / "data"))
    config = "from ddrnet_jax.config import base\ndef get_config():\n    c = base()\n    c.data.name = 'folder'\n"
    (tmp_path / "mine.py").write_text(f"{config}    c.data.root = {str(tmp_path / 'data')!r}\n    return c\n")
    assert main_lib.main(["--config", str(tmp_path / "mine.py"), "--mode", "check_data"]) == 1
    out, err = capsys.readouterr()
    assert "    config.data.labels = 'annotations/instances_default.json'" in out
    assert "    config.data.classes = ('background', 'road', 'car')" in out
    assert "data.classes is empty" in err
