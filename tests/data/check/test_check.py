"""check_data: every kind of damage planted and found by name, nothing found where nothing is wrong, exit codes."""

import dataclasses
import re
import shutil
import struct
import zlib

import cv2
import numpy as np
import pytest

from ddrnet_jax import build
from ddrnet_jax import main as main_lib
from ddrnet_jax.data import decode
from ddrnet_jax.data.check import check
from ddrnet_jax.data.check import files as check_files
from ddrnet_jax.data.check import report as check_report
from ddrnet_jax.data.errors import DataError
from ddrnet_jax.data.records import prepare
from ddrnet_jax.data.records.array_records import ArrayRecords
from ddrnet_jax.data.sets.folder import folder_spec
from ddrnet_jax.data.sources import FolderPairs, Scenes
from ddrnet_jax.outputs import OutputError

HEIGHT, WIDTH = 48, 64
CLASSES = ("background", "road", "car")
COLORS = ((0, 0, 0), (128, 64, 128), (0, 0, 142))


def mask(rng, values=(0, 1, 2)):
    """u8[H,W,...] blocks of the values, all of them."""
    blocks = np.resize(np.arange(len(values)), (HEIGHT // 8) * (WIDTH // 8))
    blocks = rng.permutation(blocks).reshape(HEIGHT // 8, WIDTH // 8)
    return np.asarray(values, np.uint8)[blocks.repeat(8, 0).repeat(8, 1)]


def write_png(path, rgb):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", rgb if rgb.ndim == 2 else rgb[..., ::-1])[1].tobytes())


def write_folder(root, values=(0, 1, 2), count=4):
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for i in range(count):
            write_png(root / "images" / split / f"{i}.png", rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8))
            write_png(root / "labels" / split / f"{i}.png", mask(rng, values))
    return root


@pytest.fixture
def data(tmp_path):
    return write_folder(tmp_path / "data")


def look(root, crop_hw=(HEIGHT, WIDTH), splits=("train", "val"), eval_size_hw=None, classes=CLASSES, **settings):
    """The report on a folder of the user's own, with these settings of config.data."""
    spec = folder_spec(classes, **settings)
    return check.check(
        [
            check.Split(role, split, lambda split=split: FolderPairs(root, split, spec))
            for role, split in zip(("training", "evaluation"), splits, strict=True)
        ],
        spec,
        root=root,
        crop_hw=crop_hw,
        scale_range=(0.5, 2.0),
        eval_size_hw=eval_size_hw,
    )


def assert_found(report, severity, *parts, names=(), paste=()):
    """One finding of this severity has all the parts, and the names; nothing else is as severe."""
    found = [f for f in report.findings if all(part in f.message for part in parts)]
    assert len(found) == 1, report.findings
    assert found[0].severity == severity
    assert found[0].what_to_do
    assert len(found[0].names) == len(names), found[0].names
    for text, name in zip(found[0].names, names, strict=True):
        assert name in text
    assert found[0].paste == tuple(paste)
    if severity == "error":
        assert report.count("error") == 1, report.findings
    return found[0]


def pasted(finding, **settings):
    """The settings of config.data with the lines of a finding."""
    for line in finding.paste:
        key, _, value = line.removeprefix("config.data.").partition(" = ")
        settings[key] = eval(value)  # what a user would paste
    return settings


# One function a kind of damage: plants it, returns (severity, part of the message, what the names hold).


def empty_image(data):
    (data / "images/train/1.png").write_bytes(b"")
    return "error", "1 file(s) damaged", ["images/train/1.png: the file is empty"]


def truncated_png(data):
    path = data / "images/train/1.png"
    path.write_bytes(path.read_bytes()[:-300])
    return "error", "1 file(s) damaged", ["images/train/1.png: truncated PNG"]


def truncated_jpeg(data):
    (data / "images/train/1.png").unlink()
    jpeg = cv2.imencode(".jpg", mask(np.random.default_rng(1), COLORS))[1].tobytes()
    (data / "images/train/1.jpg").write_bytes(jpeg[:-40])
    return "error", "1 file(s) damaged", ["images/train/1.jpg: truncated JPEG"]


def jpeg_with_a_hole(data, damage=lambda jpeg, middle: jpeg[:middle] + jpeg[middle + 400 :]):
    (data / "images/train/1.png").unlink()
    pixels = cv2.resize(np.random.default_rng(1).integers(0, 256, (12, 16, 3), np.uint8), (WIDTH, HEIGHT))
    jpeg = cv2.imencode(".jpg", pixels, (cv2.IMWRITE_JPEG_QUALITY, 100))[1].tobytes()
    (data / "images/train/1.jpg").write_bytes(damage(jpeg, len(jpeg) // 2))
    return "warning", "1 JPEG(s) that a decoder complains about", ["images/train/1.jpg: Corrupt JPEG data: "]


def jpeg_overwritten_with_zeros(data):
    return jpeg_with_a_hole(data, lambda jpeg, middle: jpeg[:middle] + bytes(400) + jpeg[middle + 400 :])


def jpeg_cut_and_ended(data):
    return jpeg_with_a_hole(data, lambda jpeg, middle: jpeg[:middle] + b"\xff\xd9")


def flipped_bit(data):
    path = data / "labels/val/2.png"
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 4
    path.write_bytes(damaged)
    return "error", "1 file(s) damaged", ["labels/val/2.png: damaged PNG"]


def a_page_instead_of_an_image(data):
    (data / "images/val/0.png").write_text("<html>404</html>")
    return "error", "1 file(s) damaged", ["images/val/0.png: not a readable image"]


def float_label(data):
    (data / "labels/val/0.png").unlink()
    (data / "labels/val/0.tif").write_bytes(cv2.imencode(".tif", np.eye(HEIGHT, WIDTH, dtype=np.float32))[1].tobytes())
    return "error", "1 label(s) of other than 8 bits", ["labels/val/0.tif: float32"]


def a_link_to_nowhere(data):
    (data / "labels/train/3.png").unlink()
    (data / "labels/train/3.png").symlink_to(data / "moved.png")
    return "error", "1 file(s) damaged", ["labels/train/3.png: cannot be read (No such file"]


def label_of_another_size(data):
    write_png(data / "labels/train/3.png", np.zeros((HEIGHT, WIDTH + 8), np.uint8))
    return "error", "1 label(s) of another size", ["labels/train/3.png: label 72x48, image 64x48"]


def turned_label(data):
    write_png(data / "labels/train/3.png", np.zeros((WIDTH, HEIGHT), np.uint8))
    return "error", "1 label(s) turned", ["labels/train/3.png: label 48x64, image 64x48"]


def jpeg_label(data):
    (data / "labels/val/1.png").write_bytes(cv2.imencode(".jpg", np.zeros((HEIGHT, WIDTH), np.uint8))[1].tobytes())
    return "error", "1 label(s) in JPEG", ["labels/val/1.png"]


def deep_label(data):
    write_png(data / "labels/train/0.png", np.ones((HEIGHT, WIDTH), np.uint16))
    return "error", "1 label(s) of other than 8 bits", ["labels/train/0.png: uint16"]


def three_equal_channels(data):
    write_png(data / "labels/train/0.png", np.ones((HEIGHT, WIDTH, 3), np.uint8))
    return "error", "1 index label(s) saved with equal colour channels, or with alpha", ["labels/train/0.png: values 1"]


def blended_colors(data):
    ramp = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH)
    write_png(data / "labels/train/0.png", np.stack([ramp % 251, ramp % 7, ramp // 99], -1).astype(np.uint8))
    return "error", "1 label(s) with blended colours", ["labels/train/0.png: 3,072 colours"]


def two_images_of_a_stem(data):
    (data / "images/train/0.jpg").write_bytes((data / "images/train/0.png").read_bytes())
    return "error", "images/train/0.png and 0.jpg have the same stem", []


def no_evaluation_folder(data):
    shutil.rmtree(data / "images/val")
    return "error", "images/val: no such folder, expected the images of split 'val'", []


def nothing_labelled(data):
    for i in range(4):
        write_png(data / f"labels/train/{i}.png", np.full((HEIGHT, WIDTH), 255, np.uint8))
    return "error", "training: every pixel of every label is ignored", []


def label_without_image(data):
    shutil.copy(data / "labels/train/0.png", data / "labels/train/9.png")
    return "warning", "training: 1 label(s) without image", ["labels/train/9.png"]


def images_of_other_kinds(data):
    (data / "images/train/4.heic").write_bytes(b"x")
    (data / "images/train/more").mkdir()
    return "warning", "2 file(s) or folder(s) beside the images", ["train/4.heic", "train/more/"]


def unlabelled(data):
    write_png(data / "labels/train/2.png", np.full((HEIGHT, WIDTH), 255, np.uint8))
    return "warning", "1 label(s) with no labelled pixel", ["labels/train/2.png"]


def blank_image(data):
    write_png(data / "images/val/2.png", np.full((HEIGHT, WIDTH, 3), 7, np.uint8))
    return "warning", "1 image(s) of one single colour", ["images/val/2.png: RGB (7, 7, 7)"]


def the_same_image_twice(data):
    shutil.copy(data / "images/train/2.png", data / "images/val/3.png")
    return "warning", "1 image(s) both trained and evaluated on", ["images/val/3.png"]


def mostly_ignored(data):
    for i in range(4):
        label = np.full((HEIGHT, WIDTH), 255, np.uint8)
        label[:6, :9] = np.arange(9) % 3
        write_png(data / f"labels/train/{i}.png", label)
    return "warning", "training: 98% of the labels' pixels are ignored", []


def turned_otherwise_than_its_label(data):
    path = data / "images/train/2.png"
    data, exif = path.read_bytes(), b"eXIfMM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x112, 3, 1, 3, 0, 0)
    chunk = struct.pack(">I", len(exif) - 4) + exif + struct.pack(">I", zlib.crc32(exif))
    path.write_bytes(data[:33] + chunk + data[33:])
    return "warning", "1 image(s) with an EXIF orientation that their label does not have", ["images/train/2.png"]


def grey_image(data):
    write_png(data / "images/train/2.png", np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH).astype(np.uint8))
    return "note", "1 grey image(s)", ["images/train/2.png"]


def grey_jpeg(data):
    (data / "images/train/2.png").unlink()
    ramp = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH).astype(np.uint8)
    (data / "images/train/2.jpg").write_bytes(cv2.imencode(".jpg", ramp)[1].tobytes())
    return "note", "1 grey image(s)", ["images/train/2.jpg"]


def image_with_alpha(data):
    pixels = np.random.default_rng(2).integers(0, 256, (HEIGHT, WIDTH, 4), dtype=np.uint8)
    (data / "images/train/2.png").write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
    return "note", "1 image(s) with an alpha channel", ["images/train/2.png: 4 channels"]


def deep_image(data):
    pixels = np.random.default_rng(2).integers(0, 2**16, (HEIGHT, WIDTH, 3), dtype=np.uint16)
    (data / "images/train/2.png").unlink()
    (data / "images/train/2.tif").write_bytes(cv2.imencode(".tif", pixels)[1].tobytes())
    return "note", "1 image(s) of 16 bits", ["images/train/2.tif: 16 bits"]


KINDS = (
    *(empty_image, truncated_png, truncated_jpeg, flipped_bit, a_page_instead_of_an_image, a_link_to_nowhere),
    float_label,
    *(label_of_another_size, turned_label, jpeg_label, deep_label, three_equal_channels, blended_colors),
    *(two_images_of_a_stem, no_evaluation_folder, nothing_labelled),
    *(jpeg_with_a_hole, jpeg_overwritten_with_zeros, jpeg_cut_and_ended),
    *(label_without_image, images_of_other_kinds, unlabelled, blank_image, the_same_image_twice, mostly_ignored),
    turned_otherwise_than_its_label,
    *(grey_image, grey_jpeg, image_with_alpha, deep_image),
)


@pytest.mark.parametrize("plant", KINDS)
def test_every_kind_of_damage_is_found_by_name(plant, data):
    severity, message, names = plant(data)
    report = look(data)
    assert_found(report, severity, message, names=names)
    text = check_report.lines(report)
    assert max(map(len, text)) <= 80
    assert any(message[:30] in line for line in text)


def test_images_of_floats_are_read_by_the_range_that_is_printed(data):
    path = data / "images/val/0.tif"
    path.with_suffix(".png").unlink()
    path.write_bytes(cv2.imencode(".tif", np.eye(HEIGHT, WIDTH, dtype=np.float32))[1].tobytes())
    kind, names = "1 file(s) of numbers that are not 8 or 16 bits", ["images/val/0.tif: holds values of float32 (0..1)"]
    lines = ["config.data.value_range = (0.0, 1.0)"]
    found = assert_found(look(data), "error", kind, names=names, paste=lines)
    assert "label" not in found.message + found.what_to_do
    image = decode.decode_image(path.read_bytes(), "0.tif", (0.0, 1.0))
    np.testing.assert_array_equal(image, 255 * np.repeat(np.eye(HEIGHT, WIDTH, dtype=np.uint8)[..., None], 3, axis=2))


def test_a_link_to_itself_is_one_file_that_cannot_be_read(data):
    (data / "images" / "train" / "9.png").symlink_to("9.png")
    shutil.copy(data / "labels" / "train" / "0.png", data / "labels" / "train" / "9.png")
    (finding,) = (f for f in look(data).findings if f.severity == "error")
    assert [name.split(":")[0].endswith("images/train/9.png") for name in finding.names] == [True]


@pytest.mark.parametrize(("value_range", "is_narrow"), [((), True), ((0, 65535), True), ((22000, 22900), False)])
def test_a_range_that_leaves_few_grey_levels_is_said(value_range, is_narrow, data):
    pixels = np.random.default_rng(2).integers(22000, 22901, (HEIGHT, WIDTH), dtype=np.uint16)
    pixels[0, :3] = 22000, 22900, 65535  # a hot pixel
    (data / "images/train/2.png").write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
    spec = dataclasses.replace(folder_spec(CLASSES), value_range=value_range)
    splits = [
        check.Split(role, "train", lambda: FolderPairs(data, "train", spec)) for role in ("training", "evaluation")
    ]
    report = check.check(splits, spec, root=data, crop_hw=(HEIGHT, WIDTH), scale_range=(1, 1), eval_size_hw=None)
    found = [f.paste for f in report.findings if "little of their range" in f.message]
    assert found == ([("config.data.value_range = (22000, 22900)",)] if is_narrow else [])


def test_several_kinds_at_once_are_all_found(data):
    planted = [p(data) for p in (truncated_png, label_of_another_size, jpeg_label, grey_image, label_without_image)]
    report = look(data)
    assert [f.severity for f in report.findings] == ["error"] * 3 + ["warning", "note"]
    for _, message, _ in planted:
        assert any(message in f.message for f in report.findings)
    assert report.tallies[0].counts.sum() == 4 * HEIGHT * WIDTH + 8 * HEIGHT  # a label counts whatever its image


def test_the_range_of_narrow_images_is_there_to_paste_and_mends_them(data):
    pixels = np.random.default_rng(2).integers(22100, 22950, (HEIGHT, WIDTH), dtype=np.uint16)
    (data / "images/train/2.png").write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
    (finding,) = (f for f in look(data).findings if f.severity == "warning")
    assert "1 16-bit image(s) that use little of their range" in finding.message
    assert f"values {pixels.min()}..{pixels.max()}, 4 of 256 grey levels" in finding.names[0]
    low, high = int(pixels.min()), int(pixels.max())
    assert finding.paste == (f"config.data.value_range = ({low}, {high})",)
    spec = dataclasses.replace(folder_spec(CLASSES), value_range=(low, high))
    image = FolderPairs(data, "train", spec)[2]["image"]
    assert (image.min(), image.max()) == (0, 255)
    plain = FolderPairs(data, "train", folder_spec(CLASSES))
    (line,) = check.quick(plain, plain, crop_hw=(HEIGHT, WIDTH), scale_range=(1, 1))[1:]
    assert "16-bit image(s) use little of their range" in line


def test_what_is_erased_in_colour_masks_is_noted(tmp_path):
    colors = ((0, 0, 0), (9, 9, 9), (0, 0, 255))
    data = write_folder(tmp_path / "data", colors)
    path = data / "labels/train/1.png"
    pixels = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2BGRA)
    pixels[:, : WIDTH // 2, 3] = 0
    cv2.imwrite(str(path), pixels)
    report = look(data, colors=colors)
    assert_found(report, "note", "1 colour label(s) with transparent pixels", names=["labels/train/1.png: 50.0% of it"])
    assert report.tallies[0].counts[-1] == HEIGHT * (WIDTH // 2)


def test_clean_data_gives_no_finding(data):
    report = look(data)
    assert report.findings == ()
    assert not report.has_errors
    assert len(report.samples) == 8
    for tally in report.tallies:
        assert tally.sizes == {(WIDTH, HEIGHT): 4}
        np.testing.assert_array_equal(tally.counts, [4 * HEIGHT * WIDTH // 3] * 3 + [0])


@pytest.mark.parametrize(
    "name",
    ["cityscapes", "camvid", "camvid_original", "coco_stuff_10k", "coco_stuff_164k", "imagenet", "folder"],
)
def test_every_data_set_as_it_is_unzipped_gives_no_finding(name, draw):
    drawn = draw(name)
    report = look_at_config(draw.configure(drawn))
    assert report.findings == ()
    settings = {"train_split": "train", "eval_split": "val"} | drawn.settings
    for tally, key in zip(report.tallies, ("train_split", "eval_split"), strict=True):
        expected = drawn.expected[settings[key]]
        assert tally.count == len(expected)
        labels = np.concatenate([np.ravel(label) for _, _, label in expected])
        counts = np.bincount(np.where(labels == 255, len(tally.counts) - 1, labels), minlength=len(tally.counts))
        np.testing.assert_array_equal(tally.counts, counts)


def look_at_config(config):
    d = config.data
    splits = (
        check.Split("training", d.train_split, lambda: build.experiment(config).train_source()),
        check.Split("evaluation", d.eval_split, lambda: build.experiment(config).eval_source()),
    )
    return check.check(splits, build.dataset_spec(config), root=d.root, crop_hw=(24, 32), scale_range=(1.0, 1.0))


def test_array_records_are_checked_too(draw, tmp_path):
    drawn = draw("camvid")
    config = draw.configure(drawn)
    prepare.prepare(build.sources_to_prepare(config), tmp_path / "records", name="camvid")
    config = draw.configure(drawn, storage="array_record", root=str(tmp_path / "records"))
    report = look_at_config(config)
    assert report.findings == ()
    assert [tally.count for tally in report.tallies] == [2, 2]
    shard = next((tmp_path / "records").glob("*val*array_record*"))
    shard.write_bytes(shard.read_bytes()[:-1])
    assert_found(look_at_config(config), "error", str(shard), "bytes, expected")


def test_names_in_two_forms_of_unicode_pair_and_a_folder_is_no_image(tmp_path):
    """macOS takes letters apart: they look the same. A folder may be called like an image."""
    for folder, name in (("images", "mu\u0308nchen"), ("labels", "m\u00fcnchen"), ("labels", "alone")):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / f"{name}.png").touch()
    (tmp_path / "images" / "alone.png").mkdir()
    pair = tuple(str(next((tmp_path / folder).glob("m*"))) for folder in ("images", "labels"))
    assert check_files.labels_without_image([pair]) == [str(tmp_path / "labels" / "alone.png")]


def test_labels_without_image_in_the_layouts_of_the_releases(draw):
    for name, label in (
        ("cityscapes", "gtFine/train/aachen/aachen_000009_000019_gtFine_labelIds.png"),
        ("camvid_original", "LabeledApproved_full/0001TP_006999_L.png"),
        ("coco_stuff_10k", "annotations/COCO_train2014_000000000099.mat"),
    ):
        drawn = draw(name)
        (drawn.root / label).write_bytes(b"")
        report = look_at_config(draw.configure(drawn))
        assert not report.has_errors
        assert all(f.names == (str(drawn.root / label),) for f in report.findings)
        assert report.findings


def test_images_without_label_are_all_named_and_the_others_are_checked_still(data):
    for i in (0, 3):
        (data / f"labels/train/{i}.png").rename(data / f"labels/train/{i}_mask.png")
    write_png(data / "labels/train/1.png", np.full((HEIGHT, WIDTH), 9, np.uint8))
    report = look(data)
    missing, values, orphans = report.findings
    assert missing.message == "training: 2 of 4 images have no label"
    assert [n.split(": no ")[0] for n in missing.names] == [str(data / f"images/train/{i}.png") for i in (0, 3)]
    assert "labels/train/1.png: value 9 on 3,072 pixel(s)" in values.names[0]
    assert orphans.severity == "warning"
    assert [n[-10:] for n in orphans.names] == ["0_mask.png", "3_mask.png"]


@pytest.mark.parametrize(("gone", "missing"), [("gtFine/train/zurich", 1), ("gtFine", 3)])
def test_missing_labels_of_cityscapes_are_all_named_and_the_others_are_checked(draw, gone, missing):
    drawn = draw("cityscapes")
    shutil.rmtree(drawn.root / gone)
    report = look_at_config(draw.configure(drawn))
    first = report.findings[0]
    assert first.message == f"training: {missing} of 3 images have no label"
    assert [n.split(": no ")[0] for n in first.names] == [str(drawn.root / e[0]) for e in drawn.expected["train"]][
        -missing:
    ]
    assert "unzip the gtFine archive" in first.what_to_do
    assert [t.count for t in report.tallies if t.role == "training"] == ([3 - missing] if missing < 3 else [])


def test_no_image_has_a_label(data):
    for i in range(4):
        (data / f"labels/train/{i}.png").rename(data / f"labels/train/{i}_mask.png")
    report = look(data)
    assert "4 of 4 images have no label" in report.findings[0].message
    assert len(report.findings[1].names) == 4
    assert len(report.tallies) == 1


def test_unknown_values_are_counted_by_value_and_file(data):
    label = np.zeros((HEIGHT, WIDTH), np.uint8)
    label[0, :5], label[1, :2] = 7, 200
    write_png(data / "labels/train/1.png", label)
    found = assert_found(
        look(data),
        *("error", "1 label(s) with values that no class has: 7, 200"),
        names=["labels/train/1.png: value 7 on 5 pixel(s), value 200 on 2 pixel(s)"],
        paste=["config.data.ignore_values = (255, 7, 200)"],
    )
    assert look(data, **pasted(found)).findings == ()


def test_what_few_labels_have_is_no_reason_to_change_the_config(data):
    write_png(data / "labels/val/1.png", np.array(COLORS, np.uint8)[mask(np.random.default_rng(1))])
    found = assert_found(look(data), "error", "1 label(s) are colour masks", names=["labels/val/1.png: 3 colour(s)"])
    assert "export these as those" in found.what_to_do
    write_png(data / "labels/val/1.png", mask(np.random.default_rng(1), (0, 1, 9)))
    lines = ["config.data.ignore_values = (255, 9)"]
    assert_found(look(data), "error", "values that no class has: 9", names=["labels/val/1.png"], paste=lines)


@pytest.mark.parametrize(
    ("values", "paste"),
    [
        ((1, 2, 3), ["config.data.label_values = (1, 2, 3)"]),
        ((0, 1, 2, 3), ["config.data.label_values = (1, 2, 3)", "config.data.ignore_values = (0, 255)"]),
        ((0, 100, 200), ["config.data.label_values = (0, 100, 200)"]),
    ],
)
def test_values_of_other_conventions_are_recognised(values, paste, tmp_path):
    root = write_folder(tmp_path / "d", values)
    found = assert_found(look(root), "error", "8 label(s) with values", names=[".png: value "] * 8, paste=paste)
    assert look(root, **pasted(found)).findings == ()


def test_a_class_of_value_255_is_recognised(tmp_path):
    root = write_folder(tmp_path / "d", (0, 255))
    report = look(root, classes=("not", "road"))
    lines = ["config.data.label_values = (0, 255)", "config.data.ignore_values = ()"]
    found = assert_found(report, "warning", "training: 1 of 2 classes never seen: road", paste=lines)
    assert look(root, classes=("not", "road"), **pasted(found)).findings == ()


def test_colours_are_inferred_from_colour_masks(tmp_path):
    root = write_folder(tmp_path / "d", COLORS)
    report = look(root)
    found = [f for f in report.findings if "8 label(s) are colour masks, but no colours are set" in f.message][0]
    settings = pasted(found)
    assert sorted(settings["colors"]) == sorted(COLORS)
    assert f"{COLORS[0]} 33.3%" in found.what_to_do
    assert look(root, colors=COLORS).findings == ()
    assert look(root, **settings).findings == ()
    assert np.ndim(report.samples[0]["label"]) == 3  # the picture shows the colours as they are
    assert check_report.sheet(report).shape[2] == 3


def test_black_is_taken_for_no_class_where_there_is_a_colour_too_many(tmp_path):
    root = write_folder(tmp_path / "d", (*COLORS, (70, 70, 70)))
    found = [f for f in look(root).findings if f.paste][0]
    settings = pasted(found)
    assert settings["ignore_values"] == ((0, 0, 0),)
    assert sorted(settings["colors"]) == sorted((*COLORS[1:], (70, 70, 70)))
    assert look(root, **settings).findings == ()


def test_colours_that_are_not_in_the_config_are_listed(data, tmp_path):
    root = write_folder(tmp_path / "d", (*COLORS, (70, 70, 70)))
    found = assert_found(
        look(root, colors=COLORS),
        *("error", "8 label(s) with colours that no class has: (70, 70, 70)"),
        names=["colour (70, 70, 70) on 768 pixel(s)"] * 8,
        paste=["config.data.ignore_values = ((70, 70, 70),)"],
    )
    assert look(root, colors=COLORS, **pasted(found)).findings == ()
    found = assert_found(
        look(data, colors=COLORS),
        *("error", "8 label(s) are index masks, but colours are set"),
        names=["one channel, values 0, 1, 2"] * 8,
        paste=["config.data.colors = ()"],
    )
    assert look(data).findings == ()


def test_crops_sizes_and_splits(data):
    found = assert_found(
        look(data, crop_hw=(256, 256)),
        *("warning", "92% of the average crop is padding"),
        paste=["config.data.crop_hw = (48, 64)"],
    )
    assert look(data, **pasted(found)).findings == ()
    same = look(data, splits=("train", "train"))
    assert_found(same, "warning", "4 image(s) both trained and evaluated on", names=[f"{i}.png" for i in range(4)])
    assert look(data, splits=("train+val", "val")).count("warning") == 1
    for i in range(20):
        write_png(
            data / f"images/val/{i}.png", np.random.default_rng(99 + i).integers(0, 256, (48, 64 + i, 3), np.uint8)
        )
        write_png(data / f"labels/val/{i}.png", (np.arange(48 * (64 + i)).reshape(48, -1) % 3).astype(np.uint8))
    assert_found(look(data), "warning", "evaluation images of 20 sizes")
    assert look(data, eval_size_hw=(48, 64)).findings == ()


def test_a_class_of_the_training_labels_alone_is_only_a_note(data):
    for i in range(4):
        write_png(data / f"labels/val/{i}.png", (np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) % 2).astype(np.uint8))
    assert_found(look(data), "note", "evaluation: 1 of 3 classes never seen: car")


def test_folders_of_classes(draw):
    drawn = draw("imagenet")
    config = draw.configure(drawn)
    for path in (drawn.root / "train/n01443537").iterdir():
        path.unlink()
    broken = drawn.root / "val/n01440764/n01440764_0.JPEG"
    broken.write_bytes(broken.read_bytes()[:-9])
    report = look_at_config(config)
    unreadable, unseen = report.findings
    assert f"{broken}: truncated JPEG" in unreadable.names[0]
    assert unseen.message == "training: 1 of 3 classes never seen: n01443537"
    np.testing.assert_array_equal(report.tallies[0].counts, [2, 0, 2, 0])
    assert check_report.sheet(report).shape[2] == 3
    assert any("share of images" in line for line in check_report.lines(report))


def test_long_lists_are_cut_on_the_screen_and_whole_in_the_file(tmp_path):
    root = write_folder(tmp_path / "d", count=40)
    for i in range(30):
        (root / f"images/train/{i}.png").write_bytes(b"")
    report = look(root)
    screen = check_report.write(report, tmp_path / "out")
    assert "    and 25 more, all of them in findings.txt" in screen
    assert len(screen) < 40
    text = (tmp_path / "out/findings.txt").read_text()
    assert all(f"images/train/{i}.png: the file is empty" in text for i in range(30))
    assert cv2.imread(str(tmp_path / "out/samples.png")) is not None
    with pytest.raises(OutputError, match="cannot be written"):
        check_report.write(report, root / "images/train/31.png")


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from ddrnet_jax.config import base\n"
        "def get_config():\n"
        "    config = base()\n"
        "    config.data.name = 'folder'\n"
        f"    config.data.classes = {CLASSES}\n"
        f"    config.data.crop_hw = {HEIGHT, WIDTH}\n"
        "    return config\n"
    )
    return path


@pytest.mark.parametrize(
    ("plant", "code", "end"),
    [
        (lambda data: None, 0, "fine: nothing is wrong"),
        (blank_image, 0, "no errors, 1 warning(s): this data can be trained on"),
        (truncated_png, 1, "1 error(s), 0 warning(s): training would stop or go wrong"),
        (two_images_of_a_stem, 1, "1 error(s), 0 warning(s): training would stop or go wrong"),
    ],
)
def test_exit_codes(plant, code, end, data, config_file, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plant(data)
    flags = ["--config", str(config_file), f"--config.data.root={data}", "--mode", "check_data"]
    assert main_lib.main(flags) == code
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == end
    assert "Traceback" not in out + err
    assert max(map(len, out.splitlines())) <= 80
    assert (tmp_path / "runs/check_data/mine/samples.png").exists()
    assert main_lib.main([*flags, "--output", "elsewhere"]) == code
    assert (tmp_path / "elsewhere/findings.txt").exists()


@pytest.mark.parametrize("plant", [truncated_png, label_of_another_size, jpeg_label, deep_label, flipped_bit])
def test_the_quick_part_names_the_file(plant, data):
    _, _, (name,) = plant(data)
    sources = [FolderPairs(data, split, folder_spec(CLASSES)) for split in ("train", "val")]
    with pytest.raises(DataError, match=name.split(":")[0]) as caught:
        check.quick(*sources, crop_hw=(48, 64), scale_range=(1.0, 1.0))
    assert len(str(caught.value).splitlines()) == 1
    assert "--mode check_data" in str(caught.value)


def test_the_quick_part_refuses_other_classes_in_evaluation(data):
    names = (CLASSES, (*CLASSES[:-1], "zebra"))
    sources = [FolderPairs(data, split, folder_spec(c)) for split, c in zip(("train", "val"), names, strict=True)]
    with pytest.raises(DataError, match="the classes of the training and evaluation data differ: .*'zebra'"):
        check.quick(*sources, crop_hw=(48, 64), scale_range=(1.0, 1.0))


def test_the_quick_part_warns(data):
    sources = [FolderPairs(data, split, folder_spec(CLASSES)) for split in ("train", "val")]
    assert check.quick(*sources, crop_hw=(48, 64), scale_range=(1.0, 1.0)) == []
    (line,) = check.quick(*sources, crop_hw=(256, 256), scale_range=(1.0, 1.0))
    assert "95% of the average crop is padding" in line
    label_without_image(data)
    (line,) = check.quick(*sources, crop_hw=(48, 64), scale_range=(1.0, 1.0))
    assert "training: 1 label(s) without image, first " in line
    assert str(data / "labels/train/9.png") in line
    (data / "labels/train/9.png").unlink()
    mostly_ignored(data)
    (line,) = check.quick(*sources, crop_hw=(48, 64), scale_range=(1.0, 1.0))
    assert "98% of the labels' pixels are ignored" in line
    nothing_labelled(data)
    (line,) = check.quick(*sources, crop_hw=(48, 64), scale_range=(1.0, 1.0))
    assert "every pixel of the 4 labels looked at is ignored" in line


@pytest.mark.parametrize(
    ("train", "held_out", "expected"),
    [
        (("train",), ("val",), None),
        (("val",), ("val",), "all evaluation images are trained on too"),
        (("train+val",), ("val",), "all evaluation images are trained on too"),
        (("train",), ("train+val",), "4 of the 8 evaluation images are trained on too"),
    ],
)
def test_training_on_what_is_evaluated_is_a_warning(train, held_out, expected, data, tmp_path):
    folders = [FolderPairs(data, split, folder_spec(CLASSES)) for (split,) in (train, held_out)]
    parts = {split: FolderPairs(data, split, folder_spec(CLASSES)) for split in ("train", "val")}
    prepare.prepare(parts, tmp_path / "records", name="folder", shard_bytes=1)
    records = [ArrayRecords(tmp_path / "records", split, folder_spec(CLASSES)) for (split,) in (train, held_out)]
    for sources in (folders, records):
        lines = check.quick(*sources, crop_hw=(48, 64), scale_range=(1.0, 1.0))
        assert [line.split(" (")[0] for line in lines] == ([f"warning: {expected}"] if expected else [])


def test_parts_of_one_split_of_records_share_what_overlaps(data, tmp_path):
    prepare.prepare({"train": Scenes(10, 0, (32, 64))}, tmp_path / "records", name="scenes", shard_bytes=1)

    def lines(train, held_out):
        sources = [ArrayRecords(tmp_path / "records", split, Scenes.spec) for split in (train, held_out)]
        return check.quick(*sources, crop_hw=(32, 64), scale_range=(1.0, 1.0))

    assert lines("train[:80%]", "train[80%:]") == []
    (line,) = lines("train[:80%]", "train[70%:]")
    assert "1 of the 3 evaluation images are trained on too" in line
    same, other = Scenes(4, 0, (32, 64)), Scenes(4, 1, (32, 64))
    assert check.quick(same, other, crop_hw=(32, 64), scale_range=(1.0, 1.0)) == []
    assert len(check.quick(same, Scenes(4, 0, (32, 64)), crop_hw=(32, 64), scale_range=(1.0, 1.0))) == 1


class Recording(Scenes):
    """Scenes that remember who was read."""

    def __getitem__(self, index):
        self.__dict__.setdefault("read", []).append(index)
        return super().__getitem__(index)


def test_the_quick_part_is_short(monkeypatch):
    train, held_out = Recording(1000, 0, (32, 64)), Recording(3, 1, (32, 64))
    check.quick(train, held_out, crop_hw=(32, 64), scale_range=(1.0, 1.0))
    assert train.read == [0, 142, 285, 428, 570, 713, 856, 999]
    assert held_out.read == [0, 1, 2]
    monkeypatch.setattr(check, "QUICK_SECONDS", 0.0)
    train.read.clear()
    held_out.read.clear()
    check.quick(train, held_out, crop_hw=(32, 64), scale_range=(1.0, 1.0))
    assert (train.read, held_out.read) == ([0], [0])


def test_an_exif_rotation_is_told(data):
    path = data / "images/train/1.png"
    image = cv2.imread(str(path))
    path.unlink()
    jpeg = cv2.imencode(".jpg", image)[1].tobytes()
    body = b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHIHH", 0x112, 3, 1, 6, 0) + bytes(4)
    exif = b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body
    (data / "images/train/1.jpg").write_bytes(jpeg[:2] + exif + jpeg[2:])
    assert_found(look(data), "error", "1 label(s) turned", names=["label 64x48, image 48x64"])


def test_no_range_is_proposed_that_shows_one_image_and_hides_the_others(data):
    rng = np.random.default_rng(2)
    for stem, (low, high) in {"1": (0, 65536), "2": (22100, 22950)}.items():
        pixels = rng.integers(low, high, (HEIGHT, WIDTH)).astype(np.uint16)
        (data / f"images/train/{stem}.png").write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
    (finding,) = (f for f in look(data).findings if "little of their range" in f.message)
    assert finding.paste == ()
    assert re.search(r"no one data.value_range .*2\.png uses 221\d\d to 229\d\d, .*1\.png uses", finding.what_to_do)


def test_pixels_that_are_no_numbers_are_said(data):
    pixels = np.eye(HEIGHT, WIDTH, dtype=np.float32)
    pixels[: HEIGHT // 4] = np.nan
    (data / "images/train/2.png").unlink()
    (data / "images/train/2.tif").write_bytes(cv2.imencode(".tif", pixels)[1].tobytes())
    spec = dataclasses.replace(folder_spec(CLASSES), value_range=(0.0, 1.0))
    splits = [
        check.Split(role, "train", lambda: FolderPairs(data, "train", spec)) for role in ("training", "evaluation")
    ]
    report = check.check(splits, spec, root=data, crop_hw=(HEIGHT, WIDTH), scale_range=(1, 1), eval_size_hw=None)
    (finding,) = (f for f in report.findings if "no finite numbers" in f.message)
    assert "2.tif: 25.0% of the pixels" in finding.names[0]


def test_a_grey_index_mask_with_alpha_is_named(data):
    grey = cv2.imread(str(data / "labels/train/0.png"), cv2.IMREAD_UNCHANGED)
    rgba = np.dstack([grey, grey, grey, np.full_like(grey, 255)])
    (data / "labels/train/0.png").write_bytes(cv2.imencode(".png", rgba)[1].tobytes())
    (finding,) = (f for f in look(data).findings if f.severity == "error")
    assert "equal colour channels, or with alpha" in finding.message
