"""Labels in JSON, polygons and run lengths with the name of a class each, as masks.

Two forms: labelme's, a file an image, and COCO's, which is one file for many images; `coco_part` is that of one image.
"""

import base64
import binascii
import json
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import cv2
import numpy as np

from ddrnet_jax.data.errors import DataError
from ddrnet_jax.data.labels import IGNORE

IGNORED_NAME = "__ignore__"  # labelme's
_WITHOUT_AREA = ("line", "linestrip", "point", "points")


class Region(NamedTuple):
    """A region of an image: the name of its class, and bool[H,W]."""

    name: str
    inside: np.ndarray


def is_background(name: str) -> bool:
    """True of the class of all that no region covers."""
    return name.lower().strip("_") == "background"


def decode(data: bytes, name: str, values: dict[str, int]) -> np.ndarray:
    """u8[H,W] train ids of the regions of one image; where regions overlap, the later one in the file counts.

    values  {name of a class: train id or 255}; what no region covers is the class "background", if there is one
    Raises DataError naming the file if it cannot be read or names a class that is not in `values`.
    """
    size_hw, regions = read(data, name)
    ids = np.full(size_hw, next((i for v, i in values.items() if is_background(v)), IGNORE), np.uint8)
    for region in regions:
        if region.name not in values:
            known = ", ".join(map(repr, values))
            raise DataError(f"{name}: class {region.name!r} is in neither data.classes nor data.ignore_values: {known}")
        ids[region.inside] = values[region.name]
    return ids


def read(data: bytes, name: str) -> tuple[tuple[int, int], Iterator[Region]]:
    """Height and width of the image in pixels, and its regions as they stand in the file. Raises DataError."""
    document = load(data, name)
    try:
        if "shapes" in document:
            size_hw = _size(document["imageHeight"], document["imageWidth"])
            return size_hw, iter([_of_shape(shape, size_hw) for shape in document["shapes"]])
        if "annotations" in document and "images" in document:
            (image,) = document["images"]
            size_hw = _size(image["height"], image["width"])
            names = {c["id"]: c["name"] for c in document["categories"]}
            annotations = document["annotations"]
            return size_hw, iter([Region(names[a["category_id"]], _segmented(a, size_hw)) for a in annotations])
    except KeyError as e:
        raise DataError(f"{name}: has no {e}; export it again") from e
    except (TypeError, ValueError, IndexError, OverflowError, AttributeError) as e:
        raise DataError(f"{name}: not a label in JSON that can be read ({e}); export it again") from e
    raise DataError(f"{name}: JSON of another kind, expected labelme's (shapes) or COCO's (images, annotations)")


def load(data: bytes, name: str) -> dict[str, Any]:
    """The object of a JSON file. Raises DataError if it holds none."""
    try:
        document = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as e:
        raise DataError(f"{name}: not JSON ({str(e).splitlines()[0]}); export it again") from e
    if not isinstance(document, dict):
        raise DataError(f"{name}: JSON of another kind, expected labelme's or COCO's")
    return document


def _size(height: Any, width: Any) -> tuple[int, int]:
    size_hw = int(height), int(width)
    if not (min(size_hw) > 0 and size_hw[0] * size_hw[1] <= 2**30):
        raise ValueError(f"an image of {width}x{height}")
    return size_hw


def _of_shape(shape: dict[str, Any], size_hw: tuple[int, int]) -> Region:
    kind, name = shape.get("shape_type") or "polygon", str(shape["label"])
    points = np.asarray(shape["points"], np.float64).reshape(-1, 2)
    if not np.isfinite(points).all():
        raise ValueError(f"a point of {name!r} is no number")
    if kind == "mask":
        return Region(name, _pasted(shape["mask"], points, size_hw))
    if kind == "rectangle" and len(points) == 2:
        (left, top), (right, bottom) = points
        points = np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
    if kind == "circle":
        angles = np.linspace(0, 2 * np.pi, 64, endpoint=False)
        points = points[0] + math.dist(*points) * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    if kind in _WITHOUT_AREA or len(points) < 3:
        raise ValueError(f"the {kind} {name!r} has no area: draw it as a polygon, or remove it")
    return Region(name, fill(points, size_hw))


def _pasted(png_base64: str, points: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """bool[H,W] of labelme's masks: a PNG whose corners are the two points."""
    try:
        part = cv2.imdecode(np.frombuffer(base64.b64decode(png_base64), np.uint8), cv2.IMREAD_GRAYSCALE)
    except (binascii.Error, cv2.error):
        part = None
    left, top = points[0].astype(int)
    inside = np.zeros(size_hw, bool)
    if part is None or min(left, top) < 0 or inside[top:, left:][: len(part), : part.shape[1]].shape != part.shape:
        raise ValueError("a mask that is damaged or reaches beyond the image")
    inside[top : top + part.shape[0], left : left + part.shape[1]] = part > 0
    return inside


def _segmented(annotation: dict[str, Any], size_hw: tuple[int, int]) -> np.ndarray:
    """bool[H,W] of COCO's polygons, whose union counts, or its run lengths."""
    segmentation = annotation.get("segmentation")
    if not segmentation:
        raise ValueError("an annotation without segmentation: boxes alone are no labels of pixels")
    if isinstance(segmentation, dict):
        return _of_runs(segmentation["counts"], _size(*segmentation["size"]), size_hw)
    inside = np.zeros(size_hw, bool)
    for polygon in segmentation:
        inside |= fill(np.asarray(polygon, np.float64).reshape(-1, 2), size_hw)
    return inside


def _of_runs(counts: str | list[int], given_hw: tuple[int, int], size_hw: tuple[int, int]) -> np.ndarray:
    runs = np.asarray(_runs_of_text(counts) if isinstance(counts, str) else counts, np.int64)
    if given_hw != size_hw or (runs < 0).any() or runs.sum() != size_hw[0] * size_hw[1]:
        raise ValueError("run lengths that do not fill the image")
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(size_hw, order="F")


def _runs_of_text(text: str) -> list[int]:
    """Run lengths of COCO's compressed text.

    Source: the format of COCO's masks: five bits a letter from the lowest on, a sixth says that more follow; from the
    third on each number is the difference to the last but one.
    """
    runs: list[int] = []
    value = shift = 0
    for letter in text.encode():
        code = letter - 48
        value |= (code & 31) << shift
        shift += 5
        if not code & 32:
            value -= (1 << shift) if code & 16 else 0
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    return runs


def fill(points: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """bool[H,W]: the pixels whose centre is inside a polygon; polygons that share an edge share no pixel.

    points  f64[N,2] of x, y in pixels from the upper left corner; the first follows the last
    """
    start, end = points, np.roll(points, -1, axis=0)
    top, bottom = (np.clip(np.ceil(f(start[:, 1], end[:, 1]) - 0.5), 0, size_hw[0]) for f in (np.minimum, np.maximum))
    rows_of_edge = (bottom - top).astype(int)
    edge = np.repeat(np.arange(len(points)), rows_of_edge)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(rows_of_edge) - rows_of_edge, rows_of_edge) + top[edge].astype(int)
    (x, y), (run, rise) = start[edge].T, (end - start)[edge].T
    column = np.clip(np.ceil(x + (row + 0.5 - y) * run / rise - 0.5), 0, size_hw[1]).astype(int)
    crossings = np.zeros((size_hw[0], size_hw[1] + 1), np.uint8)
    np.add.at(crossings, (row, column), 1)
    return np.bitwise_xor.accumulate(crossings & 1, axis=1)[:, :-1] == 1


def coco_part(document: dict[str, Any], image: dict[str, Any], annotations: list[dict[str, Any]]) -> bytes:
    """COCO's file of one image alone."""
    part = {"images": [image], "annotations": annotations, "categories": document["categories"]}
    return json.dumps(part).encode()
