"""Augmentation: image and label share every edge; padding, crop and flip as documented."""

import cv2
import numpy as np
import pytest

from ddrnet_jax.data.labels import IGNORE
from ddrnet_jax.data.transforms import nearest_pixels, random_scale_crop_flip, scale_and_crop


def stripes(axis, height=40, width=60, size=5):
    """Black and white stripes as (image, label): the image is white exactly where the label is 1."""
    pattern = (np.arange((height, width)[axis]) // size % 2).astype(np.uint8)
    label = np.ascontiguousarray(np.broadcast_to(pattern[:, None] if axis == 0 else pattern, (height, width)))
    return np.repeat(label[..., None] * 255, 3, axis=2), label


@pytest.mark.parametrize("scaled_hw", [(40, 60), (80, 120), (53, 79), (97, 143), (31, 47), (20, 30)])
@pytest.mark.parametrize("offset_yx", [(0, 0), (3, 7)])
@pytest.mark.parametrize("axis", [0, 1])
def test_no_edge_moves(scaled_hw, offset_yx, axis):
    """Across a straight edge the interpolated image passes grey exactly where the nearest pixel changes."""
    image, label = stripes(axis)
    crop_hw = (scaled_hw[0] - offset_yx[0], scaled_hw[1] - offset_yx[1])
    new_image, new_label = scale_and_crop(image, label, scaled_hw, offset_yx, crop_hw)
    value = new_image[..., 0].astype(int)
    is_clear = np.abs(value - 127.5) > 8  # cv2 interpolates in steps of 1/32 pixel
    assert is_clear.mean() > 0.75
    assert ((value > 127.5) == (new_label == 1))[is_clear].all()
    assert 0.3 < (new_label == 1).mean() < 0.7


def test_label_sampling_equals_the_definition_pixel_by_pixel():
    rng = np.random.default_rng(1)
    label = rng.integers(0, 9, (37, 53), dtype=np.uint8)
    image = np.zeros((37, 53, 3), np.uint8)
    for scaled_hw in [(74, 106), (19, 30), (61, 40)]:
        _, ours = scale_and_crop(image, label, scaled_hw, (0, 0), scaled_hw)
        for y in range(scaled_hw[0]):
            for x in range(scaled_hw[1]):
                source_y = int((y + 0.5) * 37 / scaled_hw[0])
                source_x = int((x + 0.5) * 53 / scaled_hw[1])
                assert ours[y, x] == label[source_y, source_x]


def test_image_equals_resize_then_crop():
    rng = np.random.default_rng(2)
    image = cv2.GaussianBlur(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8), (5, 5), 2)
    label = np.zeros((60, 80), np.uint8)
    for scaled_hw in [(90, 120), (45, 60), (60, 80)]:
        reference = cv2.resize(image, scaled_hw[::-1], interpolation=cv2.INTER_LINEAR)[5:37, 8:56]
        ours, _ = scale_and_crop(image, label, scaled_hw, (5, 8), (32, 48))
        # warpAffine interpolates in fixed point, in steps of 1/32 pixel
        assert np.abs(ours.astype(int) - reference).max() <= 4
        assert np.abs(ours.astype(int) - reference).mean() < 0.5


def test_padding_is_black_and_ignored_and_only_right_and_below():
    image, label = stripes(axis=1)
    image = np.maximum(image, 1)
    new_image, new_label = scale_and_crop(image, label, (20, 30), (0, 0), (32, 32))
    assert (new_image[20:] == 0).all()
    assert (new_image[:, 30:] == 0).all()
    assert (new_label[20:] == IGNORE).all()
    assert (new_label[:, 30:] == IGNORE).all()
    assert (new_image[:20, :30] > 0).all()
    assert (new_label[:20, :30] != IGNORE).all()


def test_random_crops_cover_scales_positions_and_flips_and_follow_the_generator():
    image = np.dstack([np.tile(np.arange(60, dtype=np.uint8), (40, 1))] * 3)
    label = image[..., 0] // 30
    options = {"crop_hw": (32, 32), "scale_range": (0.5, 2.0), "flip": True}

    def draw(seed):
        return random_scale_crop_flip(image, label, np.random.default_rng(seed), **options)

    results = [draw(seed) for seed in range(64)]
    assert all(i.shape == (32, 32, 3) and lab.shape == (32, 32) for i, lab in results)
    flipped = sum(int(i[0, 0, 0]) > int(i[0, 8, 0]) for i, _ in results)
    assert 16 <= flipped <= 48
    padded = sum((lab == IGNORE).any() for _, lab in results)
    assert 5 <= padded <= 59
    for a, b in zip(draw(7), results[7], strict=True):
        np.testing.assert_array_equal(a, b)
    for new_image, new_label in results:  # the label of a pixel is still what its colour says
        inside = new_label != IGNORE
        value = new_image[..., 0].astype(int)
        clear = inside & (np.abs(value - 29.5) > 1.5)
        assert ((value > 29.5) == (new_label == 1))[clear].all()


def test_nearest_pixels_stay_inside():
    assert nearest_pixels(100, 0, 0.77, 77).max() == 76
    assert nearest_pixels(5, 0, 1.0, 5).tolist() == [0, 1, 2, 3, 4]
