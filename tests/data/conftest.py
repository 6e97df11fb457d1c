"""Every data set's own directory layout, written small with drawn content, and what reading it must give."""

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy import io as scipy_io

from ddrnet_jax import config as config_lib

HEIGHT, WIDTH = 24, 32


@dataclasses.dataclass
class Drawn:
    """A data set on disk.

    settings  of config.data
    expected  {split: [(relative path of the image, u8[H,W,3] RGB, u8[H,W] train ids or a class number), ...]}
    """

    settings: dict
    expected: dict[str, list[tuple[str, np.ndarray, object]]]

    @property
    def root(self) -> Path:
        return Path(self.settings["root"])


class Writer:
    """Writes random images and labels below a root and remembers what they hold."""

    def __init__(self, root: Path):
        self.root, self.rng = root, np.random.default_rng(0)

    def path(self, relative: str) -> Path:
        path = self.root / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def image(self, relative: str) -> np.ndarray:
        """Writes random pixels; returns what a decoder makes of the file, RGB."""
        pixels = self.rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        suffix = ".jpg" if relative.lower().endswith((".jpg", ".jpeg")) else ".png"
        data = cv2.imencode(suffix, pixels)[1].tobytes()
        self.path(relative).write_bytes(data)
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]

    def png(self, relative: str, label: np.ndarray) -> None:
        array = label if label.ndim == 2 else label[..., ::-1]
        self.path(relative).write_bytes(cv2.imencode(".png", array)[1].tobytes())

    def choose(self, values) -> np.ndarray:
        """[H,W,...] of the values, every one of them at least once."""
        values = np.asarray(values)
        order = self.rng.permutation(np.resize(np.arange(len(values)), HEIGHT * WIDTH))
        return values[order].reshape(HEIGHT, WIDTH, *values.shape[1:])


def _each(raw: np.ndarray, train_id) -> np.ndarray:
    """u8[H,W]: train_id of every raw value, one by one."""
    flat = raw.reshape(HEIGHT * WIDTH, -1)
    return np.array([train_id(*map(int, value)) for value in flat], np.uint8).reshape(HEIGHT, WIDTH)


# By hand, apart from the tables of the package.
_CITYSCAPES = {7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12}
_CITYSCAPES |= {26: 13, 27: 14, 28: 15, 31: 16, 32: 17, 33: 18}
_COCO_REMOVED = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)


def _coco_id(label: int) -> int:
    """Label 0..182 -> train id: its rank among those that are used."""
    return 255 if label == 0 or label in _COCO_REMOVED else label - 1 - sum(r < label for r in _COCO_REMOVED)


def cityscapes(w: Writer) -> Drawn:
    expected = {}
    for split, folder, annotation in (
        ("train", "train", "gtFine"),
        ("val", "val", "gtFine"),
        ("train_extra", "train_extra", "gtCoarse"),
        ("val_coarse", "val", "gtCoarse"),
    ):
        expected[split] = []
        for stem in ("aachen/aachen_000001_000019", "aachen/aachen_000000_000019", "zurich/zurich_000000_000019"):
            name = f"leftImg8bit/{folder}/{stem}_leftImg8bit.png"
            raw = w.choose(range(34)).astype(np.uint8)
            image = w.image(name) if not (w.root / name).exists() else cv2.imread(str(w.root / name))[..., ::-1]
            w.png(f"{annotation}/{folder}/{stem}_{annotation}_labelIds.png", raw)
            w.png(f"{annotation}/{folder}/{stem}_{annotation}_instanceIds.png", raw)
            expected[split].append((name, image, _each(raw, lambda v: _CITYSCAPES.get(v, 255))))
        expected[split].sort(key=lambda sample: sample[0])
    w.path("leftImg8bit/train/.DS_Store").write_text("not a city")
    return Drawn({"name": "cityscapes"}, expected)


def camvid(w: Writer) -> Drawn:
    expected = {}
    for split in ("train", "val", "test"):
        expected[split] = []
        for stem in ("0001TP_006690", "0006R0_f00930"):
            raw = w.choose(range(12)).astype(np.uint8)
            w.png(f"{split}annot/{stem}.png", raw)
            image = w.image(f"{split}/{stem}.png")
            expected[split].append((f"{split}/{stem}.png", image, _each(raw, lambda v: 255 if v == 11 else v)))
    return Drawn({"name": "camvid"}, expected)


def camvid_original(w: Writer) -> Drawn:
    groups = {
        (128, 128, 128): 0,
        (64, 192, 0): 1,
        (0, 0, 64): 2,
        (128, 0, 192): 3,
        (128, 128, 192): 4,
        (192, 192, 0): 5,
        (0, 64, 64): 6,
        (64, 64, 128): 7,
        (192, 128, 192): 8,
        (192, 128, 64): 9,
        (192, 0, 192): 10,
        (0, 0, 0): 255,
    }
    expected = {"train": [], "val": [], "test": []}
    for stem, split in (
        ("0001TP_006690", "train"),
        ("0001TP_008520", "train"),
        ("0001TP_008550", "test"),
        ("0006R0_f00930", "train"),
        ("0016E5_07920", "train"),
        ("0016E5_07959", "val"),
        ("0016E5_08159", "val"),
        ("0016E5_08190", "train"),
        ("Seq05VD_f05100", "test"),
    ):
        raw = w.choose(list(groups)).astype(np.uint8)
        w.png(f"LabeledApproved_full/{stem}_L.png", raw)
        name = f"701_StillsRaw_full/{stem}.png"
        expected[split].append((name, w.image(name), _each(raw, lambda *rgb: groups[rgb])))
    return Drawn({"name": "camvid"}, expected)


def coco_stuff_10k(w: Writer) -> Drawn:
    expected = {}
    for split, stems in (("train", ("COCO_train2014_000000000077", "COCO_train2014_000000000025")), ("test", ("x_1",))):
        expected[split] = []
        w.path(f"imageLists/{split}.txt").write_text("\n".join(stems) + "\n")
        for number, stem in enumerate(stems):
            raw = w.choose([v for v in range(183) if v not in _COCO_REMOVED])
            variables = {"S": raw.astype((np.float64, np.uint8)[number]), "names": np.array(["person"], object)}
            scipy_io.savemat(w.path(f"annotations/{stem}.mat"), variables, do_compression=bool(number))
            name = f"images/{stem}.jpg"
            expected[split].append((name, w.image(name), _each(raw, _coco_id)))
    return Drawn({"name": "coco_stuff_10k", "eval_split": "test"}, expected)


def coco_stuff_164k(w: Writer) -> Drawn:
    expected = {}
    for split, labels in (("train2017", "stuffthingmaps"), ("val2017", "annotations")):
        expected[split] = []
        for stem in ("000000000009", "000000000025"):
            raw = w.choose([*range(182), 255]).astype(np.uint8)
            w.png(f"{labels}/{split}/{stem}.png", raw)
            name = f"images/{split}/{stem}.jpg"
            ids = _each(raw, lambda v: 255 if v == 255 else _coco_id(v + 1))
            expected[split].append((name, w.image(name), ids))
    return Drawn({"name": "coco_stuff_164k", "train_split": "train2017", "eval_split": "val2017"}, expected)


def imagenet(w: Writer) -> Drawn:
    classes = ("n01440764", "n01443537", "n02105855")
    expected = {}
    for split in ("train", "val"):
        expected[split] = []
        for number, wnid in enumerate(classes):
            for i in range(2 if split == "train" else 1):
                name = f"{split}/{wnid}/{wnid}_{i}.JPEG"
                expected[split].append((name, w.image(name), number))
    return Drawn({"name": "imagenet", "classes": classes}, expected)


def folder(w: Writer) -> Drawn:
    colors = ((128, 64, 128), (0, 0, 142))
    expected = {}
    for split in ("train", "val"):
        expected[split] = []
        for stem in ("a", "b"):
            ids = w.choose([0, 1, 255]).astype(np.uint8)
            w.png(f"labels/{split}/{stem}.png", np.array([*colors, (0, 0, 0)], np.uint8)[np.minimum(ids, 2)])
            expected[split].append((f"images/{split}/{stem}.jpg", w.image(f"images/{split}/{stem}.jpg"), ids))
    settings = {"name": "folder", "classes": ("road", "car"), "colors": colors, "ignore_values": ((0, 0, 0),)}
    return Drawn(settings, expected)


DATA_SETS = {
    f.__name__: f for f in (cityscapes, camvid, camvid_original, coco_stuff_10k, coco_stuff_164k, imagenet, folder)
}


@pytest.fixture
def draw(tmp_path):
    """draw(name) writes a data set and returns it, as Drawn; draw.configure(drawn, ...) is the config that reads it."""

    class Draw:
        def __call__(self, name: str) -> Drawn:
            root = tmp_path / name
            drawn = DATA_SETS[name](Writer(root))
            drawn.settings["root"] = str(root)
            return drawn

        def configure(self, drawn: Drawn, **changes):
            config = config_lib.base()
            if drawn.settings.get("name", changes.get("name")) == "imagenet":
                config.task, config.model.aux_head, config.loss.name = "classification", False, "cross_entropy"
            for key, value in {**drawn.settings, **changes}.items():
                config.data[key] = value
            config_lib.validate(config)
            return config

    return Draw()


@pytest.fixture
def check_samples():
    """check_samples(source, expected): every sample as it was drawn, pixel by pixel."""

    def check(source, expected):
        assert len(source) == len(expected)
        for index, (name, image, label) in enumerate(expected):
            sample = source[index]
            assert sample["name"].endswith(name)
            np.testing.assert_array_equal(sample["image"], image)
            np.testing.assert_array_equal(sample["label"], label)
            assert type(sample["label"]) is type(label)
            if not isinstance(label, int):
                assert sample["label"].dtype == np.uint8

    return check
