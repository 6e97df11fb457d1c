"""Class weights that are counted: the pixels, the formula, the parts of several processes."""

import numpy as np
import pytest

from ddrnet_jax.data.class_balance import class_weights, count_pixels
from ddrnet_jax.data.own import OwnSamples
from ddrnet_jax.data.pipeline import Shard
from ddrnet_jax.data.sets.folder import folder_spec

SPEC = folder_spec(("road", "car", "pole", "ghost"), (), (), (255,))


def source(*rows):
    """Images of one row of labels each."""
    labels = [np.array([row], np.uint8) for row in rows]
    return OwnSamples([(np.zeros((*label.shape, 3), np.uint8), label) for label in labels], SPEC)


LABELS = source([0, 0, 0, 0, 1, 255], [0, 0, 2, 255, 255, 255], [0, 0, 0, 0, 0, 0])


def test_pixels_and_those_of_the_images_that_have_the_class():
    np.testing.assert_array_equal(count_pixels(LABELS), [[12, 1, 1, 0], [14, 5, 3, 0]])


def test_parts_of_several_processes_add_up():
    parts = [count_pixels(LABELS, Shard(index, 2)) for index in range(2)]
    np.testing.assert_array_equal(sum(parts), count_pixels(LABELS))
    assert all(part.any() for part in parts)


def test_the_weights_are_the_root_of_median_frequency():
    """f = 12/14, 1/5, 1/3; their median is 1/3; the class that nobody labelled counts in no loss, and in no median."""
    expected = [(1 / 3 / (12 / 14)) ** 0.5, (1 / 3 / (1 / 5)) ** 0.5, 1, 1]
    assert class_weights(count_pixels(LABELS)) == pytest.approx(expected, abs=1e-4)
    assert class_weights(count_pixels(source([255, 255]))) == (1, 1, 1, 1)
