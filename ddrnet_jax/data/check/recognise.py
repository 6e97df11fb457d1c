"""How the files of a folder lie, found out from their names: the config lines that read them."""

import dataclasses
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ddrnet_jax.data import polygons
from ddrnet_jax.data.check import name_forms
from ddrnet_jax.data.check.findings import Finding
from ddrnet_jax.data.check.tree import Tree, scan, train_and_eval
from ddrnet_jax.data.decode import stored_pixels
from ddrnet_jax.data.errors import DataError
from ddrnet_jax.data.files import read_file
from ddrnet_jax.data.sets import class_files, coco_json, patterns
from ddrnet_jax.data.sets.folder import Folder

_MOST_TRIED = 12  # layouts
_MOST_COLORS = 64  # of what is taken for a mask
_MOST_READ = 500  # files of JSON whose names are looked through
_SHARES = (0.2, 0.3, 0.5)  # to hold out, the first that leaves neither side empty
_LABEL = re.compile(r"label|mask|annot|seg|gt|class|target|_l\.", re.IGNORECASE)
_OTHER = re.compile(r"object|instance|colou?r|overlay|depth|panoptic|vis", re.IGNORECASE)


class Layout(NamedTuple):
    """Patterns, the splits that have them if they name any, and how well they fit: the more the better."""

    images: str
    labels: str
    splits: tuple[str, str] | None
    fit: tuple[float, ...]


def finding(root: str | Path, spec: Folder, train_split: str, eval_split: str) -> Finding | None:
    """Lines that read the files below a root; None if they are set already, or nothing was recognised."""
    root = Path(root)
    if not root.is_dir():
        return None
    tree = scan(root, frozenset(class_files.READERS))
    found = next(_readable(root, tree, spec), None)
    if found is None:
        return None
    now = _settings_of(spec, train_split, eval_split)
    wanted = now | found | _classes(root, tree, found, spec, now)
    paste = tuple(f"config.data.{key} = {value!r}" for key, value in wanted.items() if value != now[key])
    lists = f", lists in {wanted['lists']}" if wanted["lists"] else ""
    message = f"the files lie so: images in {wanted['images']}, labels in {wanted['labels']}{lists}"
    return Finding("note", message, "to read them so, set", paste=paste) if paste else None


def _settings_of(spec: Folder, train_split: str, eval_split: str) -> dict:
    keys = [key for key, train_id in spec.values.items() if train_id < spec.num_classes]
    has_values = not (spec.has_color_masks or spec.has_polygons or keys == list(range(len(keys))))
    return {
        "images": spec.image_folder,
        "labels": spec.label_folder,
        "lists": spec.lists,
        "val_share": spec.val_share,
        "train_split": train_split,
        "eval_split": eval_split,
        "classes": spec.classes,
        "colors": tuple(keys) if spec.has_color_masks else (),
        "label_values": tuple(keys) if has_values else (),
    }


def _readable(root: Path, tree: Tree, spec: Folder) -> Iterator[dict]:
    """Settings with which both splits can be opened, the best first."""
    layouts = [layout for layout in (*_paired(root, tree), *_coco(root, tree)) if layout.fit[0] > 0]
    layouts.sort(key=lambda layout: layout.fit, reverse=True)
    for layout in layouts[:_MOST_TRIED]:
        for settings in _with_splits(tree, layout):
            ways = {"image_folder": settings["images"], "label_folder": settings["labels"], "lists": settings["lists"]}
            shares = {"val_share": settings["val_share"], "val_split": settings["eval_split"]}
            trial = dataclasses.replace(spec, **ways, **shares)
            try:
                for key in ("train_split", "eval_split"):
                    trial.find_pairs(root, settings[key])
            except DataError:
                continue
            yield settings


def _with_splits(tree: Tree, layout: Layout) -> Iterator[dict]:
    """The ways to tell training from evaluation: folders, lists, or a share."""
    settings = {"images": layout.images, "labels": layout.labels, "lists": "", "val_share": 0.0}
    if layout.splits:
        yield settings | _named(layout.splits)
        return
    for template, paths in sorted(tree.texts.items(), key=lambda item: "egmentation" not in item[0]):
        if both := train_and_eval(paths):
            yield settings | {"lists": template} | _named(both)
    for share in _SHARES:
        yield settings | {"val_share": share} | _named(("train", "val"))


def _named(both: tuple[str, str]) -> dict:
    return dict(zip(("train_split", "eval_split"), both, strict=True))


def _paired(root: Path, tree: Tree) -> Iterator[Layout]:
    """Images and labels with a file each, by the names that they share."""
    for images, labels in itertools.product(tree.collections, repeat=2):
        common = [split for split in tree.collections[images] if split in tree.collections[labels]]
        if not common:
            continue
        both = train_and_eval(common)
        split = both[0] if both else common[0]
        of_split = (tree.collections[images][split], tree.collections[labels][split])
        for form, *examples in name_forms.common_forms(*of_split, is_same=images == labels):
            names = (form.image_pattern(), form.label_pattern())
            places = [collection.replace("{split}", split) for collection in (images, labels)]
            image_pattern, label_pattern = map(_joined, (images, labels) if both else places, names)
            paths = [root / place / "".join(file) for place, file in zip(places, examples, strict=True)]
            count = sum(len(tree.collections[images][s]) for s in (both or [split]))
            fit = _likeness(*paths) + _hint(label_pattern) - _hint(image_pattern)
            depth = sum(len(collection.split("/")) for collection in (images, labels) if collection)
            yield Layout(
                image_pattern, label_pattern, both, (fit, bool(both), count, depth, -len(image_pattern + label_pattern))
            )


def _joined(collection: str, name: str) -> str:
    return "/".join(part for part in (collection, name) if part) or "."


def _likeness(image: Path, label: Path) -> float:
    """1 if the label looks like one and the image does not; 0 if they look alike, -1 if it is the other way round."""
    if label.suffix.lower() == ".json":
        try:
            return float("shapes" in polygons.load(read_file(label), str(label)))
        except DataError:
            return -1.0
    return float(_looks_like_a_mask(label)) - float(_looks_like_a_mask(image))


def _looks_like_a_mask(path: Path) -> bool:
    try:
        pixels = stored_pixels(read_file(path))
    except DataError:
        return False
    if pixels is None or pixels.dtype != np.uint8 or path.suffix.lower() in (".jpg", ".jpeg"):
        return False
    flat = pixels[::4, ::4].reshape(-1, 1 if pixels.ndim == 2 else pixels.shape[2])
    return len(np.unique(flat, axis=0)) <= _MOST_COLORS


def _hint(pattern: str) -> float:
    return 0.25 * bool(_LABEL.search(pattern)) - 0.1 * bool(_OTHER.search(pattern))


def _coco(root: Path, tree: Tree) -> Iterator[Layout]:
    """Images, and the files in COCO's form that name them."""
    for labels, paths in tree.jsons.items():
        both = train_and_eval(paths)
        split = both[0] if both else next(iter(paths))
        try:
            named = coco_json.image_names(str(root / paths[split]))
        except DataError:
            continue
        for images, of_split in tree.collections.items():
            here = split if split in of_split else next(iter(of_split))
            if both and not (set(both) <= set(of_split) or here == ""):
                continue
            folder = images.replace("{split}", here)
            places = (str(root / folder / (file.folder + file.stem + file.suffix)) for file in of_split[here])
            count = sum(coco_json.has_image(str(root / paths[split]), place) for place in places)
            if count and count >= len(named):
                pattern = labels if both else paths[split]
                fit = (2.0, bool(both), here == split, count, len(images))
                yield Layout((images if both else folder) or ".", pattern, both, fit)


def _classes(root: Path, tree: Tree, found: dict, spec: Folder, now: dict) -> dict:
    """The classes that a tool has written down, in a file of them or in the labels; nothing if they are set."""
    if found["labels"].endswith(".json"):
        names = _names_in(root, found)
        if spec.classes and set(names) <= set(spec.values):
            return {}
        rest = () if any(map(polygons.is_background, names)) else ("background",)
        return {"classes": (*rest, *names), "colors": (), "label_values": ()}
    classes = next(filter(None, (class_files.read(root / path) for path in tree.class_files)), None)
    if classes is None or (set(classes.names), set(classes.colors)) == (set(now["classes"]), set(now["colors"])):
        return {}
    values = () if classes.values == tuple(range(len(classes.values))) else classes.values
    return {"classes": classes.names, "colors": classes.colors, "label_values": values}


def _names_in(root: Path, found: dict) -> tuple[str, ...]:
    """The names of classes in labels in JSON, sorted; of those in COCO's form as the file orders them."""
    names: dict[str, None] = {}
    for split in (found["train_split"], found["eval_split"]):
        if "{stem}" not in found["labels"]:
            path = root / found["labels"].replace("{split}", split)
            names |= dict.fromkeys(coco_json.used_names(str(path)))
            continue
        paths = patterns.find(root, found["labels"], split, "labels").values()
        for path in list(paths)[:_MOST_READ]:
            shapes = polygons.load(read_file(path), str(path)).get("shapes", ())
            names |= dict.fromkeys(sorted(str(shape["label"]) for shape in shapes))
    names.pop(polygons.IGNORED_NAME, None)
    return tuple(names)
