"""Crops of images with a class: as torchvision samples them, and pixel by pixel what they say they are."""

import math

import cv2
import numpy as np
import pytest

from ddrnet_jax.data.pipeline import samples_in_order, train_batches
from ddrnet_jax.data.sources import SceneImages
from ddrnet_jax.data.transforms import (
    AugmentImage,
    CentreCrop,
    centre_crop,
    random_box,
    random_resized_crop_flip,
    resize_picture,
)

FULL = (0.08, 1.0)


def slow_box(image_hw, rng, area_range):
    """RandomResizedCrop.get_params in the words of its documentation; (top, left, height, width)."""
    image_h, image_w = image_hw
    for _ in range(10):
        target = rng.uniform(*area_range) * image_h * image_w
        ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        width = int(round(math.sqrt(target * ratio)))
        height = int(round(math.sqrt(target / ratio)))
        if width <= image_w and height <= image_h:
            return rng.integers(0, image_h - height + 1), rng.integers(0, image_w - width + 1), height, width
    ratio = image_w / image_h
    if ratio < 3 / 4:
        height, width = int(round(image_w / (3 / 4))), image_w
    elif ratio > 4 / 3:
        height, width = image_h, int(round(image_h * (4 / 3)))
    else:
        height, width = image_h, image_w
    return (image_h - height) // 2, (image_w - width) // 2, height, width


def largest_difference(a, b):
    """Of two empirical distribution functions (Kolmogorov and Smirnov)."""
    at = np.concatenate([a, b])
    share_a, share_b = (np.searchsorted(np.sort(x), at, "right") / len(x) for x in (a, b))
    return np.abs(share_a - share_b).max()


@pytest.mark.parametrize("image_hw", [(375, 500), (500, 375), (96, 640), (224, 224)])
def test_boxes_are_distributed_as_torchvisions(image_hw):
    ours_rng, slow_rng, n = np.random.default_rng(0), np.random.default_rng(1), 4000
    ours = np.array([random_box(image_hw, ours_rng, FULL) for _ in range(n)], float)
    slow = np.array([slow_box(image_hw, slow_rng, FULL) for _ in range(n)], float)
    top, left, height, width = ours.T
    assert min(top.min(), left.min()) >= 0
    assert (top + height).max() <= image_hw[0]
    assert (left + width).max() <= image_hw[1]
    ours, slow = (np.column_stack([boxes, boxes[:, 2] * boxes[:, 3]]) for boxes in (ours, slow))
    for a, b in zip(ours.T, slow.T, strict=True):
        assert largest_difference(a, b) < 1.95 * math.sqrt(2 / n)  # one in a thousand


def test_area_is_uniform_and_shape_log_uniform_where_every_box_fits():
    rng = np.random.default_rng(2)
    boxes = np.array([random_box((2000, 2000), rng, (0.1, 0.5)) for _ in range(4000)])
    area, aspect = boxes[:, 2] * boxes[:, 3] / 2000**2, np.log(boxes[:, 3] / boxes[:, 2]) / math.log(4 / 3)
    for values, low, high in ((area, 0.1, 0.5), (aspect, -1, 1)):
        uniform = (np.sort(values) - low) / (high - low)
        assert np.abs(uniform - np.linspace(0, 1, len(uniform))).max() < 0.031


@pytest.mark.parametrize(("image_hw", "expected"), [((10, 1000), (0, 493, 10, 13)), ((1000, 12), (492, 0, 16, 12))])
def test_where_nothing_fits_the_centre_is_taken(image_hw, expected):
    assert random_box(image_hw, np.random.default_rng(0), (0.9, 1.0)) == expected


def test_a_crop_is_its_box_resized_and_follows_the_generator():
    image = np.random.default_rng(3).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    flipped = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        top, left, height, width = slow_box((90, 120), rng, FULL)
        expected = resize_picture(image[top : top + height, left : left + width], (32, 48))
        is_flipped = rng.random() < 0.5
        ours = random_resized_crop_flip(
            image, np.random.default_rng(seed), crop_hw=(32, 48), area_range=FULL, flip=True
        )
        np.testing.assert_array_equal(ours, expected[:, ::-1] if is_flipped else expected)
        flipped += is_flipped
    assert 10 <= flipped <= 30


def test_shrinking_averages_and_enlarging_interpolates():
    image = np.random.default_rng(4).integers(0, 256, (48, 60, 3), dtype=np.uint8)
    means = image.reshape(16, 3, 20, 3, 3).mean((1, 3))
    assert np.abs(resize_picture(image, (16, 20)) - means).max() <= 0.51
    row = np.linspace(0, 255, 16)[None, :, None].repeat(16, 0).repeat(3, 2).astype(np.uint8)
    at = np.clip((np.arange(40) + 0.5) * 16 / 40 - 0.5, 0, 15)
    expected = np.interp(at, np.arange(16), row[0, :, 0])
    assert np.abs(resize_picture(row, (40, 40))[0, :, 0] - expected).max() <= 1


@pytest.mark.parametrize(
    "image_hw", [(256, 341), (341, 256), (512, 682), (375, 500), (500, 333), (100, 150), (256, 256)]
)
def test_the_centre_crop_is_224_of_256(image_hw):
    image = np.random.default_rng(5).integers(0, 256, (*image_hw, 3), dtype=np.uint8)
    # The shorter side becomes 256, the other keeps the shape, cut to an integer.
    scaled_hw = tuple(256 if n == min(image_hw) else int(256 * n / min(image_hw)) for n in image_hw)
    method = cv2.INTER_AREA if min(image_hw) >= 256 else cv2.INTER_LINEAR
    scaled = cv2.resize(image, scaled_hw[::-1], interpolation=method)
    top, left = (int(round((n - 224) / 2.0)) for n in scaled_hw)
    ours = centre_crop(image, (224, 224))
    assert ours.shape == (224, 224, 3)
    np.testing.assert_array_equal(ours, scaled[top : top + 224, left : left + 224])
    if min(image_hw) == 256:
        np.testing.assert_array_equal(ours, image[top : top + 224, left : left + 224])


def test_a_centre_crop_of_another_shape_fits_the_tighter_side():
    image = np.random.default_rng(6).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    scaled = resize_picture(image, (128, 128))  # 112 is 7/8 of 128
    np.testing.assert_array_equal(centre_crop(image, (56, 112)), scaled[36:92, 8:120])
    np.testing.assert_array_equal(centre_crop(image, (112, 56)), scaled[8:120, 36:92])


def test_batches_of_images_are_a_function_of_seed_and_step_and_hold_class_numbers():
    source, augment = SceneImages(10, seed=0, size_hw=(48, 64)), AugmentImage((32, 40), (0.3, 1.0), True)

    def take(count, **options):
        batches = train_batches(source, augment, seed=3, batch_size=4, **options)
        try:
            return [next(batches) for _ in range(count)]
        finally:
            batches.close()

    whole = take(6)
    assert whole[0]["images"].shape == (4, 32, 40, 3)
    assert (whole[0]["images"].dtype, whole[0]["labels"].dtype) == (np.uint8, np.int32)
    assert whole[0]["labels"].shape == (4,)
    for a, b in zip(whole[4:], take(2, first_step=4, num_threads=4), strict=True):
        np.testing.assert_array_equal(a["images"], b["images"])
        np.testing.assert_array_equal(a["labels"], b["labels"])
    assert sorted(np.concatenate([b["labels"] for b in whole[:5]])) == sorted(
        2 * [source[i]["label"] for i in range(10)]
    )


def test_evaluation_sees_every_centre_once():
    source = SceneImages(5, seed=0, size_hw=(48, 64))
    seen = list(samples_in_order(source, CentreCrop((32, 32))))
    assert [s["name"] for s in seen] == source.names()
    for sample, original in zip(seen, source, strict=False):
        np.testing.assert_array_equal(sample["image"], centre_crop(original["image"], (32, 32)))
        assert sample["label"] == original["label"]
