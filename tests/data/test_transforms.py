"""Augmentation: image and label share every edge; padding, crop and flip as documented."""

import cv2
import numpy as np
import pytest

from ddrnet_jax.data.labels import IGNORE
from ddrnet_jax.data.transforms import (
    AugmentImage,
    largest_share,
    nearest_pixels,
    offset_around_a_class,
    random_colours,
    random_scale_crop_flip,
    scale_and_crop,
)


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
        return random_scale_crop_flip(image, label, np.random.default_rng(seed), **options)[:2]

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


def test_a_crop_that_is_nearly_all_one_class_is_drawn_again():
    image = np.zeros((64, 64, 3), np.uint8)
    label = np.zeros((64, 64), np.uint8)
    label[:, 56:] = 1
    options = {"crop_hw": (32, 32), "scale_range": (1.0, 1.0), "flip": False}

    def share(seed, **more):
        return largest_share(random_scale_crop_flip(image, label, np.random.default_rng(seed), **options, **more)[1])

    plain, limited = ([share(seed, **more) for seed in range(200)] for more in ({}, {"max_class_share": 0.8}))
    assert np.mean(np.array(plain) > 0.8) > 0.9
    assert np.mean(np.array(limited) > 0.8) < 0.75  # at most ten times: 0.95 ** 11 of them stay
    assert largest_share(np.array([[0, 1, 1, 1, 255, 255]], np.uint8)) == 0.75
    assert largest_share(np.full((2, 2), 255, np.uint8)) == 0
    label[:, :56] = 255  # crops without labels teach nothing
    label[:32, 32:56] = 0
    plain, limited = ([share(seed, **more) for seed in range(200)] for more in ({}, {"max_class_share": 0.99}))
    assert np.mean(np.array(limited) == 0) < np.mean(np.array(plain) == 0) / 2


@pytest.mark.parametrize("scale", [0.6, 1.0, 1.7])
def test_crops_around_a_class_have_it_however_small_it_is(scale):
    image = np.zeros((96, 128, 3), np.uint8)
    label = np.zeros((96, 128), np.uint8)
    label[5, 100], label[90, 0], label[40:44, 60:64] = 1, 2, 3
    label[:20, :20] = 255
    options = {"crop_hw": (32, 40), "scale_range": (scale, scale), "flip": True}

    def crops(**more):
        return [
            random_scale_crop_flip(image, label, np.random.default_rng(s), **options, **more)[1] for s in range(200)
        ]

    around, plain = crops(rare_class_share=1.0), crops()
    for rare in (1, 2):
        assert np.mean([(crop == rare).any() for crop in around]) > np.mean([(crop == rare).any() for crop in plain])
    wanted = np.mean([np.isin(crop, (1, 2, 3)).any() for crop in around])
    assert wanted > (0.7 if scale >= 1 else 0.5)  # 3 of 4 classes; a pixel may be lost where the image shrinks
    half = crops(rare_class_share=0.5)
    assert sum((a != b).any() for a, b in zip(half, around, strict=True)) > 40


def test_around_a_class_the_pixel_is_anywhere_in_the_crop_and_the_crop_inside():
    label = np.full((100, 100), 255, np.uint8)
    label[50, 50] = 4
    rng = np.random.default_rng(0)
    offsets = np.array([offset_around_a_class(label, (100, 100), (20, 30), rng) for _ in range(300)])
    assert offsets.min(0).tolist() == [30, 20]
    assert (offsets.max(0) <= 50).all()
    assert (offsets.max(0) >= 49).all()
    label[50, 50], label[0, 99] = 255, 4
    assert offset_around_a_class(label, (100, 100), (20, 30), rng) == (0, 70)
    assert offset_around_a_class(label, (10, 10), (20, 30), rng) == (0, 0)
    assert offset_around_a_class(np.full((50, 50), 255, np.uint8), (20, 30), (20, 30), rng) == (0, 0)


COLOUR = (0.125, 0.5, 0.5, 0.1)


class Drawn:
    """A generator that draws what it is told: the change as a share of its range, and whether it takes place."""

    def __init__(self, *shares):
        self.shares = list(shares)

    def uniform(self, low, high):
        return (low + high) / 2 + self.shares[0] * (high - low) / 2

    def random(self):
        return 0.0 if self.shares.pop(0) else 0.9


def recoloured(pixels, *shares):
    image = np.array([pixels], np.uint8)
    return cv2.transform(image, random_colours(Drawn(*shares), COLOUR))[0].tolist()


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ((0, 0, 0, 0), [[200, 100, 50], [90, 90, 90]]),
        ((1, 0, 0, 0), [[232, 132, 82], [122, 122, 122]]),  # 0.125 * 255 = 31.9 brighter
        ((-1, 0, 0, 0), [[168, 68, 18], [58, 58, 58]]),
        ((0, 1, 0, 0), [[255, 150, 75], [135, 135, 135]]),  # times 1.5, clipped
        ((0, 0, -1, 0), [[162, 112, 87], [90, 90, 90]]),  # half as far from its grey, 124.2
        ((1, -1, 0, 0), [[116, 66, 41], [61, 61, 61]]),  # first brighter, then times 0.5
    ],
)
def test_colours_are_the_formulas(shares, expected):
    assert recoloured([[200, 100, 50], [90, 90, 90]], *shares) == expected


@pytest.mark.parametrize("share", [-1, 0.5, 1])
def test_the_hue_turns_and_grey_and_luma_stay(share):
    rgb = np.array([[[140, 110, 100], [100, 150, 120], [77, 77, 77]]], np.uint8)
    turned = cv2.transform(rgb, random_colours(Drawn(0, 0, 0, share), COLOUR))
    assert turned[0, 2].tolist() == [77, 77, 77]
    luma = np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(turned @ luma, rgb @ luma, atol=1)
    before, after = (cv2.cvtColor(a, cv2.COLOR_RGB2HSV)[0, :2, 0].astype(int) * 2 for a in (rgb, turned))
    change = (after - before + 180) % 360 - 180
    np.testing.assert_allclose(np.abs(change), 36 * abs(share), atol=8)  # HSV's hexagon against the circle
    assert len(set(np.sign(change))) == 1


def test_colours_change_neither_the_crops_nor_the_padding_and_follow_the_generator():
    rng = np.random.default_rng(3)
    image = rng.integers(1, 255, (20, 30, 3), dtype=np.uint8)
    label = rng.integers(0, 9, (20, 30), dtype=np.uint8)

    def draw(seed, colour):
        generator = np.random.default_rng(seed)
        return random_scale_crop_flip(
            image, label, generator, crop_hw=(32, 40), scale_range=(0.5, 1.5), flip=True, colour=colour
        )[:2]

    changed = 0
    for seed in range(30):
        (plain, labels), (ours, same_labels) = draw(seed, ()), draw(seed, COLOUR)
        np.testing.assert_array_equal(labels, same_labels)
        assert (ours[labels == IGNORE] == 0).all()
        np.testing.assert_array_equal(draw(seed, COLOUR)[0], ours)
        changed += (plain != ours).any()
    assert 20 <= changed < 30  # each of four in half of the cases: one in 16 stays


def test_a_classifiers_images_have_the_same_colours():
    image = np.random.default_rng(4).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    options = {"crop_hw": (32, 32), "area_range": (0.1, 1.0), "flip": True}
    plain, ours = (
        AugmentImage(**options, colour=colour)({"image": image, "label": 3}, np.random.default_rng(1))
        for colour in ((), COLOUR)
    )
    after_the_crop = np.random.default_rng(1)
    AugmentImage(**options)({"image": image, "label": 3}, after_the_crop)
    np.testing.assert_array_equal(
        cv2.transform(plain["images"], random_colours(after_the_crop, COLOUR)), ours["images"]
    )
    assert (plain["images"] != ours["images"]).any()
