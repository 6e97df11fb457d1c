"""Logits of a crop are those of the image at the same places."""

import numpy as np
import pytest

from ddrnet_jax.data.teacher_logits import Window, logits_in_window


def ramp(height, width):
    """Logits that are the place of each cell's centre, in pixels: (y, x)."""
    return np.stack(np.meshgrid(*(8 * np.arange(n) + 4.0 for n in (height, width)), indexing="ij"), -1).astype(
        np.float32
    )


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.6])
@pytest.mark.parametrize("is_flipped", [False, True])
def test_places_agree_with_the_crops(scale, is_flipped):
    scaled_hw = (round(96 * scale), round(128 * scale))
    window = Window(scaled_hw, (10, 21), is_flipped)
    found = logits_in_window(ramp(12, 16), (96, 128), window, (32, 40))
    assert found.shape == (4, 5, 2)
    found = found[:, ::-1] if is_flipped else found
    for axis, (offset, count, limit) in enumerate(((10, 4, 96), (21, 5, 128))):
        centres = (offset + 8 * np.arange(count) + 4) * limit / scaled_hw[axis]
        along = found[:, 0, 0] if axis == 0 else found[0, :, 1]
        np.testing.assert_allclose(along, np.clip(centres, 4, limit - 4), rtol=1e-5)


def test_padding_has_no_class_and_sizes_need_be_no_multiples_of_8():
    logits = np.ones((3, 2, 5), np.float32)  # of an image of 20 x 11
    found = logits_in_window(logits, (20, 11), Window((20, 11), (0, 0), False), (32, 32))
    assert (found[:2, :1] == 1).all()
    assert (found[3:] == -1e4).all()
    assert (found[:, 2:] == -1e4).all()
    one_cell = logits_in_window(np.ones((1, 1, 5), np.float32), (8, 8), Window((8, 8), (0, 0), True), (8, 8))
    np.testing.assert_array_equal(one_cell, np.ones((1, 1, 5)))
