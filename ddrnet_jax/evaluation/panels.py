"""Evaluated images as pictures: label, prediction and errors in colour, small enough to embed."""

import base64

import cv2
import numpy as np

from ddrnet_jax.data import pictures
from ddrnet_jax.data.labels import IGNORE
from ddrnet_jax.data.sets.specs import DatasetSpec
from ddrnet_jax.evaluation.gallery import Seen

_SIDE = 480  # pixels of a panel at most, both ways
_STRIP_SIDE = 384
_GAP = 4
_MOST_CLASSES = 40  # a legend of more would be larger than the pictures
WRONG = (225, 45, 30)


def data_uri(picture: np.ndarray, *, is_photo: bool) -> str:
    """u8[H,W,3] RGB -> "data:image/...", a photo as JPEG, flat colours as PNG."""
    kind, options = ("jpeg", (cv2.IMWRITE_JPEG_QUALITY, 82)) if is_photo else ("png", (cv2.IMWRITE_PNG_COMPRESSION, 9))
    data = cv2.imencode(f".{kind}", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), options)[1]
    return f"data:image/{kind};base64,{base64.b64encode(data.data).decode()}"


def photo(seen: Seen) -> str:
    """The image itself, as a data URI."""
    return data_uri(shrunk(seen.image, _SIDE), is_photo=True)


def classes(ids: np.ndarray, spec: DatasetSpec) -> str:
    """Train ids u8[H,W] in the colours of the data set, as a data URI."""
    return data_uri(pictures.colorize(shrunk_ids(ids, _SIDE), spec), is_photo=False)


def errors(seen: Seen) -> str:
    """Wrong pixels in red on the darkened image, ignored ones black, as a data URI."""
    return data_uri(shrunk(error_map(seen.image, seen.label, seen.prediction), _SIDE), is_photo=True)


def error_map(image: np.ndarray, label: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """image u8[H,W,3] RGB, label u8[H,W] (0..C-1 or 255), prediction u8[H,W] (0..C-1) -> u8[H,W,3] RGB"""
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) // 2 + 40
    return np.select(  # the first that holds
        [(label == IGNORE)[..., None], (label != prediction)[..., None]],
        [np.zeros(3, np.uint8), np.array(WRONG, np.uint8)],
        np.repeat(gray[..., None], 3, -1),
    )


def strip(seen: Seen, spec: DatasetSpec) -> np.ndarray:
    """Image, label and prediction laid over it side by side, the legend below -> u8[h,w,3] RGB"""
    image = shrunk(seen.image, _STRIP_SIDE)
    ids = (shrunk_ids(ids, _STRIP_SIDE) for ids in (seen.label, seen.prediction))
    row = [image, *(pictures.overlay(image, each, spec) for each in ids)]
    gap = np.full((row[0].shape[0], _GAP, 3), 255, np.uint8)
    picture = np.hstack([row[0], gap, row[1], gap, row[2]])
    if spec.num_classes > _MOST_CLASSES:
        return picture
    return np.vstack([picture, pictures.legend(spec, picture.shape[1])])


def jpeg(picture: np.ndarray) -> bytes:
    """u8[H,W,3] RGB -> the bytes of a JPEG file"""
    return cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), (cv2.IMWRITE_JPEG_QUALITY, 90))[1].tobytes()


def shrunk(picture: np.ndarray, side: int) -> np.ndarray:
    """u8[H,W,3] -> u8[h,w,3] of the same shape, at most `side` pixels high and wide"""
    return _shrunk(picture, side, cv2.INTER_AREA)


def shrunk_ids(ids: np.ndarray, side: int) -> np.ndarray:
    """u8[H,W] -> u8[h,w], the same of train ids: none that was not there before"""
    return _shrunk(ids, side, cv2.INTER_NEAREST_EXACT)


def _shrunk(picture: np.ndarray, side: int, interpolation: int) -> np.ndarray:
    height, width = picture.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return picture
    size = (max(1, round(scale * width)), max(1, round(scale * height)))
    return cv2.resize(picture, size, interpolation=interpolation)
