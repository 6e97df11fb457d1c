"""COCO's JSON: one file with the labels of many images."""

import collections
import functools
import os
from typing import Any, NamedTuple

from ddrnet_jax.data import polygons
from ddrnet_jax.data.errors import DataError
from ddrnet_jax.data.files import read_file


class _File(NamedTuple):
    document: dict[str, Any]
    images: dict[str, list[dict]]  # by the last part of their names
    annotations: dict[int, list[dict]]  # by image


def has_image(path: str, image: str) -> bool:
    """True if the file at `path` has labels of this image. Raises DataError if it is no such file."""
    return _entry(path, image) is not None


def image_names(path: str) -> list[str]:
    """The images that a file has labels of. Raises DataError if it is no such file."""
    return [_name(entry) for entries in _open(path).images.values() for entry in entries]


def label_of(path: str, image: str) -> bytes:
    """The labels of one image, as a file of its own. Raises DataError if there are none."""
    entry, file = _entry(path, image), _open(path)
    if entry is None:
        raise DataError(f"{path}: names no image {os.path.basename(image)!r}; export it again")
    return polygons.coco_part(file.document, entry, file.annotations.get(entry["id"], []))


def used_names(path: str) -> list[str]:
    """The names of the categories that annotations have, as the file orders them."""
    file = _open(path)
    used = {a.get("category_id") for of_image in file.annotations.values() for a in of_image}
    return [str(c["name"]) for c in file.document["categories"] if c.get("id") in used]


def _entry(path: str, image: str) -> dict | None:
    """The entry of the image whose path ends as the file names it."""
    place = image.replace(os.sep, "/")
    for entry in _open(path).images.get(os.path.basename(place), ()):
        if f"/{place}".endswith("/" + _name(entry)):
            return entry
    return None


def _name(entry: dict) -> str:
    return str(entry["file_name"]).replace("\\", "/").removeprefix("./").lstrip("/")


def _open(path: str) -> _File:
    try:
        return _parsed(path, os.stat(path).st_mtime_ns)
    except OSError as e:
        raise DataError(f"{path}: cannot be read ({e.strerror})") from e


@functools.lru_cache(maxsize=8)
def _parsed(path: str, changed_ns: int) -> _File:
    document = polygons.load(read_file(path), path)
    images, annotations = collections.defaultdict(list), collections.defaultdict(list)
    try:
        for entry in document["images"]:
            images[os.path.basename(_name(entry))].append({k: entry[k] for k in ("id", "file_name", "height", "width")})
        for annotation in document["annotations"]:
            annotations[annotation["image_id"]].append(annotation)
        document["categories"] = [{"id": c["id"], "name": c["name"]} for c in document["categories"]]
    except (KeyError, TypeError, AttributeError) as e:
        raise DataError(f"{path}: not COCO's JSON ({type(e).__name__}: {e}); export it again") from e
    return _File({"categories": document["categories"]}, dict(images), dict(annotations))
