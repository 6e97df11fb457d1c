"""The way of a sample into a batch.

With a mask: random scale, crop with padding, flip, of image and label together, then other colours. With a class
number, the image alone: a random resized crop, flip and other colours to train, the centre to evaluate.
"""

import math
from typing import Any

import cv2
import numpy as np

from ddrnet_jax.data.labels import IGNORE
from ddrnet_jax.data.samples import Sample
from ddrnet_jax.data.teacher_logits import LOGITS, Window, logits_in_window

_ASPECT_RANGE = (3 / 4, 4 / 3)  # width / height of a random resized crop
_CROP_TRIES = 10
_LUMA = (0.299, 0.587, 0.114)  # of RGB, ITU-R BT.601
_CENTRE_SHARE = (7, 8)  # of the shorter side that a centre crop shows: 224 of 256


class Augment:
    """Sample -> {"images", "labels"} of crop size; the random numbers come from (seed, position)."""

    # Keys of the config's group `data`, and arguments of `random_scale_crop_flip`.
    SETTINGS = ("crop_hw", "scale_range", "flip", "colour", "max_class_share", "rare_class_share")

    def __init__(self, crop_hw: tuple[int, int], scale_range: tuple[float, float], flip: bool, **others: Any):
        self.options: dict[str, Any] = {"crop_hw": tuple(crop_hw), "scale_range": tuple(scale_range), "flip": flip}
        self.options |= others

    def __call__(self, sample: Sample, rng: np.random.Generator) -> dict[str, np.ndarray]:
        image, label = sample["image"], sample["label"]
        images, labels, window = random_scale_crop_flip(image, label, rng, **self.options)
        rows = {"images": images, "labels": labels}
        if "teacher_logits" in sample:
            rows[LOGITS] = logits_in_window(sample["teacher_logits"], image.shape[:2], window, images.shape[:2])
        return rows


class AugmentImage:
    """Sample with a class number -> {"images", "labels"}; the random numbers come from (seed, position)."""

    SETTINGS = ("crop_hw", "area_range", "flip", "colour")  # as of Augment

    def __init__(self, crop_hw: tuple[int, int], area_range: tuple[float, float], flip: bool, colour: tuple = ()):
        self.options: dict[str, Any] = {"crop_hw": tuple(crop_hw), "area_range": tuple(area_range), "flip": flip}
        self.colour = tuple(colour)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> dict[str, np.ndarray | np.int32]:
        images = random_resized_crop_flip(sample["image"], rng, **self.options)
        if self.colour:
            images = cv2.transform(images, random_colours(rng, self.colour))
        return {"images": images, "labels": np.int32(sample["label"])}


class CentreCrop:
    """Sample -> the sample with the middle of its image alone, at crop size."""

    def __init__(self, crop_hw: tuple[int, int]):
        self.crop_hw = tuple(crop_hw)

    def __call__(self, sample: Sample) -> Sample:
        return {**sample, "image": centre_crop(sample["image"], self.crop_hw)}


def random_scale_crop_flip(
    image: np.ndarray,
    label: np.ndarray,
    rng: np.random.Generator,
    *,
    crop_hw: tuple[int, int],
    scale_range: tuple[float, float],
    flip: bool,
    colour: tuple[float, ...] = (),
    max_class_share: float = 1.0,
    rare_class_share: float = 0.0,
) -> tuple[np.ndarray, np.ndarray, Window]:
    """A random crop of the randomly scaled sample, padded right and below where it is smaller.

    image    u8[H,W,3]      label  u8[H,W] (train ids)
    colour            of `random_colours`; () = as they are
    max_class_share   of the labelled pixels of a crop; one with more of a class, or without labels, is drawn again, at
                      most ten times
    rare_class_share  of the crops, which lie around a class of the image: see `offset_around_a_class`
    Returns  (u8[h,w,3], u8[h,w], where they lie) with (h, w) = crop_hw; padding is 0 and IGNORE
    Source: paper section 4.2; scale uniform in `scale_range`, flip with probability 1/2. Colours are drawn last: with
    and without them the crops are the same.
    """
    scale = rng.uniform(*scale_range)
    scaled_hw = tuple(max(1, round(n * scale)) for n in image.shape[:2])
    if rare_class_share and rng.random() < rare_class_share:
        offset_yx = offset_around_a_class(label, scaled_hw, crop_hw, rng)
    else:
        offset_yx = random_offset(scaled_hw, crop_hw, rng)
        for _ in range(_CROP_TRIES if max_class_share < 1 else 0):
            if 0 < largest_share(cropped_label(label, scaled_hw, offset_yx, crop_hw)) <= max_class_share:
                break
            offset_yx = random_offset(scaled_hw, crop_hw, rng)
    image, label = scale_and_crop(image, label, scaled_hw, offset_yx, crop_hw)
    is_flipped = flip and rng.random() < 0.5
    if colour:
        height, width = (min(n, c) for n, c in zip(scaled_hw, crop_hw, strict=True))
        image[:height, :width] = cv2.transform(image[:height, :width], random_colours(rng, colour))
    if is_flipped:
        image, label = cv2.flip(image, 1), cv2.flip(label, 1)
    return image, label, Window(scaled_hw, offset_yx, is_flipped)


def random_offset(scaled_hw: tuple[int, ...], crop_hw: tuple[int, ...], rng: np.random.Generator) -> tuple[int, ...]:
    """(top, left) of a crop, all that lie inside alike; (0, 0) where the image is smaller."""
    return tuple(int(rng.integers(0, max(n - c, 0) + 1)) for n, c in zip(scaled_hw, crop_hw, strict=True))


def offset_around_a_class(
    label: np.ndarray, scaled_hw: tuple[int, ...], crop_hw: tuple[int, ...], rng: np.random.Generator
) -> tuple[int, ...]:
    """(top, left) of a crop with a pixel of one of the image's classes, all of which are alike, however few pixels.

    label  u8[H,W] (train ids) of the image before it is scaled; with nothing labelled the crop lies anywhere
    The pixel is any of the class's, and anywhere in the crop.
    """
    classes = np.flatnonzero(np.bincount(label.ravel(), minlength=IGNORE + 1)[:IGNORE])
    if not len(classes):
        return random_offset(scaled_hw, crop_hw, rng)
    places = np.flatnonzero(label.ravel() == rng.choice(classes))
    pixel_yx = np.unravel_index(rng.choice(places), label.shape)
    offsets = []
    for place, old, new, crop in zip(pixel_yx, label.shape, scaled_hw, crop_hw, strict=True):
        wanted = int((place + 0.5) * new / old - rng.random() * crop)
        offsets.append(min(max(wanted, 0), max(new - crop, 0)))
    return tuple(offsets)


def largest_share(label: np.ndarray) -> float:
    """The share (0..1) that the most frequent class of a label u8[H,W] has of its labelled pixels; 0 where none is."""
    counts = np.bincount(label.ravel(), minlength=IGNORE + 1)[:IGNORE]
    return float(counts.max() / max(counts.sum(), 1))


def random_colours(rng: np.random.Generator, ranges: tuple[float, ...]) -> np.ndarray:
    """Another brightness, contrast, saturation and hue, each in half of the cases, as one matrix of RGB.

    ranges   largest change: brightness as a share of 255, contrast and saturation as shares of themselves, hue as a
             share of the circle; each uniform in -range..range
    Returns  f64[3,4], for `cv2.transform`, which rounds and clips once
    Source: the order and the usual ranges (0.125, 0.5, 0.5, 0.1) are those of mmsegmentation's PhotoMetricDistortion.
    It goes through HSV; here saturation is the distance from grey and hue the turn around it, both linear in RGB, so
    that all of it is one product a pixel.
    """
    brightness, contrast, saturation, hue = (rng.uniform(-r, r) * (rng.random() < 0.5) for r in ranges)
    grey = np.tile(_LUMA, (3, 1))
    chroma = np.eye(3) - grey
    colours = grey + (1 + saturation) * chroma @ _turn_around_grey(2 * np.pi * hue) @ chroma
    return (1 + contrast) * np.column_stack([colours, np.full(3, 255 * brightness)])


def _turn_around_grey(angle: float) -> np.ndarray:
    """f64[3,3]: the rotation of RGB about the axis of the greys, by Rodrigues' formula."""
    axis = np.full(3, 3**-0.5)
    return np.cos(angle) * np.eye(3) + np.sin(angle) * np.cross(np.eye(3), axis) + (1 - np.cos(angle)) / 3


def scale_and_crop(
    image: np.ndarray,
    label: np.ndarray,
    scaled_hw: tuple[int, ...],
    offset_yx: tuple[int, ...],
    crop_hw: tuple[int, int],
) -> tuple[np.ndarray, np.ndarray]:
    """The window at `offset_yx` of the sample resized to `scaled_hw`, without computing the rest.

    image u8[H,W,3], label u8[H,W] -> u8[h,w,3], u8[h,w]
    Source: both are sampled at the same half-pixel coordinates, the image bilinearly, the label at the
    nearest pixel. cv2.resize with INTER_NEAREST would sample the label at pixel corners, half a pixel off.
    """
    inner_hw = tuple(min(c, n - o) for c, n, o in zip(crop_hw, scaled_hw, offset_yx, strict=True))
    step_y, step_x = (n / s for n, s in zip(image.shape[:2], scaled_hw, strict=True))
    top, left = offset_yx
    matrix = np.array([[step_x, 0, (left + 0.5) * step_x - 0.5], [0, step_y, (top + 0.5) * step_y - 0.5]], np.float64)
    inner = cv2.warpAffine(
        image,
        matrix,
        inner_hw[::-1],
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    inner_label = cropped_label(label, scaled_hw, offset_yx, crop_hw)
    if inner_hw == tuple(crop_hw):
        return inner, inner_label
    padded = np.zeros((*crop_hw, 3), np.uint8)
    padded_label = np.full(crop_hw, IGNORE, np.uint8)
    padded[: inner_hw[0], : inner_hw[1]] = inner
    padded_label[: inner_hw[0], : inner_hw[1]] = inner_label
    return padded, padded_label


def cropped_label(
    label: np.ndarray, scaled_hw: tuple[int, ...], offset_yx: tuple[int, ...], crop_hw: tuple[int, ...]
) -> np.ndarray:
    """The label u8[H,W] in the window of `scale_and_crop`, without padding."""
    rows, columns = (
        nearest_pixels(min(crop, new - offset), offset, old / new, old)
        for crop, new, offset, old in zip(crop_hw, scaled_hw, offset_yx, label.shape, strict=True)
    )
    return label[rows].take(columns, axis=1)  # several times faster than both at once


def nearest_pixels(count: int, offset: int, step: float, size: int) -> np.ndarray:
    """i64[count]: which of `size` source pixels contains the centre of each output pixel."""
    centres = (np.arange(count) + offset + 0.5) * step
    return np.minimum(centres.astype(np.int64), size - 1)


def random_resized_crop_flip(
    image: np.ndarray,
    rng: np.random.Generator,
    *,
    crop_hw: tuple[int, int],
    area_range: tuple[float, float],
    flip: bool,
) -> np.ndarray:
    """A random part of the image, of random shape, resized to the crop.

    image    u8[H,W,3]
    Returns  u8[h,w,3] with (h, w) = crop_hw
    Source: torchvision's RandomResizedCrop; `resize_picture` says how it is resized. Flip with probability 1/2.
    """
    top, left, height, width = random_box(image.shape[:2], rng, area_range)
    image = resize_picture(image[top : top + height, left : left + width], crop_hw)
    return cv2.flip(image, 1) if flip and rng.random() < 0.5 else image


def random_box(
    image_hw: tuple[int, int], rng: np.random.Generator, area_range: tuple[float, float]
) -> tuple[int, int, int, int]:
    """(top, left, height, width) of a random part of an image.

    area_range  share of the image's area, uniform between the two
    Source: torchvision: width / height log-uniform in 3/4..4/3; ten tries to fit it into the image, then the
    largest centred part with such a shape.
    """
    image_h, image_w = image_hw
    for _ in range(_CROP_TRIES):
        area = image_h * image_w * rng.uniform(*area_range)
        aspect = math.exp(rng.uniform(math.log(_ASPECT_RANGE[0]), math.log(_ASPECT_RANGE[1])))
        height, width = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 0 < height <= image_h and 0 < width <= image_w:
            return int(rng.integers(image_h - height + 1)), int(rng.integers(image_w - width + 1)), height, width
    height = min(image_h, round(image_w / _ASPECT_RANGE[0]))
    width = min(image_w, round(image_h * _ASPECT_RANGE[1]))
    return (image_h - height) // 2, (image_w - width) // 2, height, width


def centre_crop(image: np.ndarray, crop_hw: tuple[int, ...]) -> np.ndarray:
    """The middle of the image, shrunk or enlarged until the crop is 7/8 of it along the shorter side.

    image    u8[H,W,3]
    Returns  u8[h,w,3] with (h, w) = crop_hw
    Source: for 224x224 the usual test of ImageNet, the shorter side to 256 and the centre 224.
    """
    image_h, image_w = image.shape[:2]
    share, whole = _CENTRE_SHARE
    target_h, target_w = (n * whole // share for n in crop_hw)
    if image_h * target_w <= image_w * target_h:
        scaled_hw = target_h, image_w * target_h // image_h
    else:
        scaled_hw = image_h * target_w // image_w, target_w
    top, left = (round((n - c) / 2) for n, c in zip(scaled_hw, crop_hw, strict=True))
    return resize_picture(image, scaled_hw)[top : top + crop_hw[0], left : left + crop_hw[1]]


def resize_picture(image: np.ndarray, size_hw: tuple[int, ...]) -> np.ndarray:
    """u8[H,W,3] -> u8[*size_hw,3]: the mean of the pixels that each new one covers, bilinear where it covers few.

    Source: averaging areas (cv2.INTER_AREA) keeps a shrunk image free of aliasing; cv2 does that only where both
    sides shrink, and enlarging needs none.
    """
    shrinks = all(new <= old for new, old in zip(size_hw, image.shape[:2], strict=True))
    return cv2.resize(image, size_hw[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
