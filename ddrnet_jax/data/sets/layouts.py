"""The layout of each data set's files: (root, split) -> the image and the label of every sample, in order."""

import dataclasses
import os
from pathlib import Path

from ddrnet_jax.data import files
from ddrnet_jax.data.errors import DataError, MissingLabels
from ddrnet_jax.data.sets.specs import CAMVID_COLOR, IMAGENET_CLASSES, DatasetSpec
from ddrnet_jax.text import first_few

Pair = tuple[str, str | int]  # the image's path; the path of its mask, or its class number

_CITYSCAPES_ENDING = "_leftImg8bit.png"

# The frames of the original CamVid in SegNet's split of 367 / 101 / 233; all others are for training.
_CAMVID_VAL = ("0016E5_07959", "0016E5_08159")
_CAMVID_TEST = (("0001TP_008550", "0001TP_999999"), ("Seq05VD", "Seq05VD_~"))


def find_pairs(root: str | Path, split: str, spec: DatasetSpec) -> tuple[list[Pair], DatasetSpec]:
    """The samples of a split, or of several joined by "+", and the spec that their labels follow.

    Raises DataError if a folder is missing or empty, MissingLabels if images have no label.
    """
    root, spec = Path(root), spec_of_files(root, spec)
    find = _LAYOUTS.get(spec.name, _equal_stems)
    if spec is CAMVID_COLOR:
        find = _camvid_original
    if spec.classes == IMAGENET_CLASSES:
        spec = dataclasses.replace(spec, classes=_imagenet_classes(root, split_parts(split)))
    pairs, missing, advice = [], [], ""
    for part in split_parts(split):
        try:
            pairs += find(root, part, spec)
        except MissingLabels as e:
            pairs += e.pairs
            missing += e.missing
            advice = advice or e.advice
    if missing:
        raise MissingLabels(pairs, missing, advice)
    return pairs, spec


def spec_of_files(root: str | Path, spec: DatasetSpec) -> DatasetSpec:
    """The spec that the label files below a root follow: CamVid has two forms."""
    has_colors = spec.name == "camvid" and (Path(root) / CAMVID_COLOR.image_folder).is_dir()
    return CAMVID_COLOR if has_colors else spec


def split_parts(split: str) -> list[str]:
    """The splits of "train+val". Raises DataError if one is empty or named twice."""
    parts = split.split("+")
    if not all(parts) or len(set(parts)) != len(parts):
        raise DataError(f"split {split!r}: expected names joined by '+', each once, like 'train+val'")
    return parts


def _equal_stems(root: Path, split: str, spec: DatasetSpec) -> list[Pair]:
    label_folder = root / spec.label_folder.format(split=split)
    images = files.files_by_stem(root / spec.image_folder.format(split=split), f"images of split {split!r}")
    labels = files.files_by_stem(label_folder, f"labels of split {split!r}")
    return files.require_labels(
        ((images[stem], labels.get(stem, label_folder / f"{stem}.png")) for stem in sorted(images)),
        "add the labels or remove the images; stems must be equal",
    )


def _cityscapes(root: Path, split: str, spec: DatasetSpec) -> list[Pair]:
    """train_extra, and a name that ends in _coarse, has the coarse annotations."""
    is_coarse = split == "train_extra" or split.endswith("_coarse")
    annotation = "gtCoarse" if is_coarse else "gtFine"
    folder = split.removesuffix("_coarse")

    def label_of(image: Path) -> Path:
        name = f"{image.name.removesuffix(_CITYSCAPES_ENDING)}_{annotation}_labelIds.png"
        return root / annotation / folder / image.parent.name / name

    pairs = ((image, label_of(image)) for image in cityscapes_images(root, folder))
    return files.require_labels(pairs, f"unzip the {annotation} archive of the release into {root}")


def cityscapes_images(root: str | Path, split: str) -> list[Path]:
    """The images of a folder of Cityscapes' leftImg8bit, in order, with or without labels. Raises DataError."""
    images = files.require_folder(Path(root) / "leftImg8bit" / split, f"the cities of Cityscapes' split {split!r}")
    found = [
        images / city / name
        for city in files.subfolders(images)
        for name in sorted(os.listdir(images / city))
        if name.endswith(_CITYSCAPES_ENDING) and not name.startswith(".")
    ]
    _require_some(found, images, f"CITY/*{_CITYSCAPES_ENDING}")
    return found


def _camvid_original(root: Path, split: str, spec: DatasetSpec) -> list[Pair]:
    if split not in ("train", "val", "test"):
        raise DataError(f"split {split!r}: the original CamVid has 'train', 'val' and 'test'")
    images = files.files_by_stem(root / spec.image_folder, "original CamVid images")
    stems = sorted(stem for stem in images if _camvid_split(stem) == split)
    _require_some(stems, root / spec.image_folder, f"frames of split {split!r}")
    return files.require_labels(
        ((images[stem], root / spec.label_folder / f"{stem}_L.png") for stem in stems),
        f"unzip LabeledApproved_full.zip into {root / spec.label_folder}",
    )


def _camvid_split(stem: str) -> str:
    if _CAMVID_VAL[0] <= stem <= _CAMVID_VAL[1]:
        return "val"
    return "test" if any(first <= stem <= last for first, last in _CAMVID_TEST) else "train"


def _coco_stuff_10k(root: Path, split: str, spec: DatasetSpec) -> list[Pair]:
    path = root / "imageLists" / f"{split}.txt"
    if not path.is_file():
        raise DataError(f"{path}: no such file, expected the list of split {split!r}; the release has train and test")
    stems = files.read_file(path).decode(errors="replace").split()
    _require_some(stems, path, "names of images")
    images = files.files_by_stem(root / "images", "images of COCO-Stuff 10k")
    unknown = [stem for stem in stems if stem not in images]
    if unknown:
        raise DataError(
            f"{path}: names {first_few(unknown)}, but {root / 'images'} has no such image(s), {len(unknown)} of "
            f"{len(stems)} are missing; unzip it again"
        )
    return files.require_labels(
        ((images[stem], root / "annotations" / f"{stem}.mat") for stem in stems),
        f"unzip the annotations of the release into {root}",
    )


def _coco_stuff_164k(root: Path, split: str, spec: DatasetSpec) -> list[Pair]:
    image_folder = root / split if (root / split).is_dir() else root / "images" / split
    images = files.files_by_stem(image_folder, f"images of split {split!r} (COCO's are train2017 and val2017)")
    label_folder = root / "stuffthingmaps" / split
    if not label_folder.is_dir():
        label_folder = root / "annotations" / split
    if not label_folder.is_dir():
        raise DataError(
            f"{root}: has neither stuffthingmaps/{split} nor annotations/{split}, expected the labels; "
            "unzip stuffthingmaps_trainval2017.zip into one of them"
        )
    return files.require_labels(
        ((images[stem], label_folder / f"{stem}.png") for stem in sorted(images)),
        f"unzip stuffthingmaps_trainval2017.zip into {label_folder.parent}",
    )


def _imagenet(root: Path, split: str, spec: DatasetSpec) -> list[Pair]:
    folder = files.require_folder(root / split, f"the class folders of split {split!r}")
    names = files.subfolders(folder)
    pairs = [
        (os.path.join(folder, name, file), number)
        for name, number in _class_numbers(folder, names, spec).items()
        for file in sorted(os.listdir(folder / name))
        if files.is_image(file)
    ]
    _require_some(pairs, folder, "CLASS/*.JPEG")
    return pairs


def _imagenet_classes(root: Path, parts: list[str]) -> tuple[str, ...]:
    """ImageNet's 1000 folders in their own order. Raises DataError if one part has others than the first."""
    first = None
    for part in parts:
        folder = files.require_folder(root / part, f"the class folders of split {part!r}")
        names = tuple(files.subfolders(folder))
        if len(names) != len(IMAGENET_CLASSES):
            raise DataError(
                f"{folder}: has {len(names)} class folders, ImageNet has {len(IMAGENET_CLASSES)}; sort the images into "
                "one folder a class (n01440764, ...), or name your own classes in data.classes"
            )
        first = first or names
        odd = sorted(set(names) ^ set(first))
        if odd:
            raise DataError(
                f"{folder}: its class folders are not those of {root / parts[0]}, only one has {first_few(odd)}; the "
                "order of the folders numbers the classes, so they must be the same"
            )
    return first


def _class_numbers(folder: Path, names: list[str], spec: DatasetSpec) -> dict[str, int]:
    numbers = {name: number for number, name in enumerate(spec.classes)}
    unknown = [name for name in names if name not in numbers]
    if unknown:
        raise DataError(f"{folder / unknown[0]}: this folder is no class of data.classes; add it there or move it away")
    absent = [name for name in spec.classes if name not in names]
    if absent:
        raise DataError(f"{folder / absent[0]}: no such folder, expected the images of a class of data.classes")
    return {name: numbers[name] for name in names}


def _require_some(found: list, place: Path, expected: str) -> None:
    if not found:
        raise DataError(f"{place}: nothing to read here, expected {expected}; check data.root and the splits")


_LAYOUTS = {
    "cityscapes": _cityscapes,
    "coco_stuff_10k": _coco_stuff_10k,
    "coco_stuff_164k": _coco_stuff_164k,
    "imagenet": _imagenet,
}
