"""Train ids as pictures for people: colours, overlays, legend, contact sheet."""

from collections.abc import Sequence

import cv2
import numpy as np

from ddrnet_jax.data.sets.specs import DatasetSpec
from ddrnet_jax.text import printable

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_GAP = 6
_INK = (40, 40, 40)
_FOR_PHOTOS = (cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE)
if hasattr(cv2, "IMWRITE_PNG_FILTER"):  # not in all versions of OpenCV 4
    _FOR_PHOTOS += (cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP)


def colorize(ids: np.ndarray, spec: DatasetSpec) -> np.ndarray:
    """Train ids u8[H,W] -> u8[H,W,3] RGB in the colours of the data set, black where ignored."""
    return np.take(spec.palette(), ids, axis=0)  # a quarter of the time of palette[ids]


def overlay(image: np.ndarray, ids: np.ndarray, spec: DatasetSpec, opacity: float = 0.55) -> np.ndarray:
    """The classes' colours laid over the image; ignored pixels show the image.

    image u8[H,W,3] RGB, ids u8[H,W], opacity 0..1 -> u8[H,W,3] RGB
    """
    mixed = cv2.addWeighted(image, 1 - opacity, colorize(ids, spec), opacity, 0)
    has_class = ids < spec.num_classes
    return mixed if has_class.all() else np.where(has_class[..., None], mixed, image)


def legend(spec: DatasetSpec, width: int) -> np.ndarray:
    """u8[h,width,3] RGB: a swatch and the name of every class, in as many rows as they need."""
    places, x, y = [], _GAP, _GAP
    for name in spec.classes:
        (text_width, _), _ = cv2.getTextSize(printable(name), _FONT, 0.4, 1)
        needed = 18 + text_width + 14
        if x + needed > width and x > _GAP:
            x, y = _GAP, y + 18
        places.append((x, y))
        x += needed
    canvas = np.full((y + 18 + _GAP, width, 3), 255, np.uint8)
    for (x, y), name, color in zip(places, spec.classes, spec.colors, strict=True):
        cv2.rectangle(canvas, (x, y), (x + 13, y + 12), color, -1)
        cv2.rectangle(canvas, (x, y), (x + 13, y + 12), _INK, 1)
        put_text(canvas, name, (x + 18, y + 11))
    return canvas


def side_by_side(image: np.ndarray, overlay: np.ndarray, spec: DatasetSpec) -> np.ndarray:
    """Two pictures u8[H,W,3] beside each other, above the legend where that takes less room than they do."""
    spacer = np.full((image.shape[0], _GAP, 3), 255, np.uint8)
    row = np.hstack([image, spacer, overlay])
    names = legend(spec, row.shape[1])
    return np.vstack([row, names]) if names.shape[0] < image.shape[0] else row


def contact_sheet(rows: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], spec: DatasetSpec) -> np.ndarray:
    """Rows of (image u8[H,W,3], label u8[H,W], prediction u8[H,W]), titled, with the legend -> u8[h,w,3] RGB."""
    width = min(384, rows[0][0].shape[1])
    lines = []
    for image, label, prediction in rows:
        height = round(width * image.shape[0] / image.shape[1])
        panels = (image, colorize(label, spec), colorize(prediction, spec))
        row = [cv2.resize(p, (width, height), interpolation=cv2.INTER_AREA) for p in panels]
        spacer = np.full((height, _GAP, 3), 255, np.uint8)
        lines.append(np.hstack([spacer, row[0], spacer, row[1], spacer, row[2], spacer]))
        lines.append(np.full((_GAP, lines[0].shape[1], 3), 255, np.uint8))
    total_width = lines[0].shape[1]
    title = np.full((24, total_width, 3), 255, np.uint8)
    for column, text in enumerate(("image", "label", "prediction")):
        x = _GAP + column * (width + _GAP)
        put_text(title, text, (x, 17), scale=0.5)
    return np.vstack([title, *lines, legend(spec, total_width)])


def put_text(canvas: np.ndarray, text: str, place_xy: tuple[int, int], *, scale: float = 0.4) -> None:
    """Write a line into u8[H,W,3]; OpenCV crashes on the bytes of a file's name that are no text."""
    cv2.putText(canvas, printable(text), place_xy, _FONT, scale, _INK, 1, cv2.LINE_AA)


def png(picture: np.ndarray, *, is_photo: bool = False) -> bytes:
    """u8[H,W] or u8[H,W,3] RGB -> the bytes of a PNG file

    is_photo  half the time and about as many bytes for what was photographed, several times as many for what was drawn
    """
    pixels = picture if picture.ndim == 2 else cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    options = (cv2.IMWRITE_PNG_COMPRESSION, 1, *(_FOR_PHOTOS if is_photo else ()))
    return cv2.imencode(".png", pixels, options)[1].tobytes()
