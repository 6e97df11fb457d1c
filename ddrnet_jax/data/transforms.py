"""Joint augmentation of image and label: random scale, crop with padding, flip."""

import cv2
import numpy as np

from ddrnet_jax.data.specs import IGNORE


def random_scale_crop_flip(
    image: np.ndarray,
    label: np.ndarray,
    rng: np.random.Generator,
    *,
    crop_hw: tuple[int, int],
    scale_range: tuple[float, float],
    flip: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """A random crop of the randomly scaled sample, padded right and below where it is smaller.

    image    u8[H,W,3]      label  u8[H,W] (train ids)
    Returns  (u8[h,w,3], u8[h,w]) with (h, w) = crop_hw; padding is 0 and IGNORE
    Source: paper section 4.2; scale uniform in `scale_range`, flip with probability 1/2.
    """
    scale = rng.uniform(*scale_range)
    scaled_hw = tuple(max(1, round(n * scale)) for n in image.shape[:2])
    offset_yx = tuple(int(rng.integers(0, max(n - c, 0) + 1)) for n, c in zip(scaled_hw, crop_hw, strict=True))
    image, label = scale_and_crop(image, label, scaled_hw, offset_yx, crop_hw)
    if flip and rng.random() < 0.5:
        return cv2.flip(image, 1), cv2.flip(label, 1)
    return image, label


def scale_and_crop(
    image: np.ndarray,
    label: np.ndarray,
    scaled_hw: tuple[int, int],
    offset_yx: tuple[int, int],
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
    rows = nearest_pixels(inner_hw[0], top, step_y, image.shape[0])
    columns = nearest_pixels(inner_hw[1], left, step_x, image.shape[1])
    inner_label = label[rows[:, None], columns[None, :]]
    if inner_hw == tuple(crop_hw):
        return inner, inner_label
    padded = np.zeros((*crop_hw, 3), np.uint8)
    padded_label = np.full(crop_hw, IGNORE, np.uint8)
    padded[: inner_hw[0], : inner_hw[1]] = inner
    padded_label[: inner_hw[0], : inner_hw[1]] = inner_label
    return padded, padded_label


def nearest_pixels(count: int, offset: int, step: float, size: int) -> np.ndarray:
    """i64[count]: which of `size` source pixels contains the centre of each output pixel."""
    centres = (np.arange(count) + offset + 0.5) * step
    return np.minimum(centres.astype(np.int64), size - 1)
