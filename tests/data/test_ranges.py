"""The range that an image of more than 8 bits uses: what lies far away is no part of it."""

import numpy as np
import pytest

from ddrnet_jax.data import ranges

RNG = np.random.default_rng(0)
THERMAL = RNG.integers(22000, 22900, (90, 100)).astype(np.uint16)


def changed(pixels, where, value):
    pixels = pixels.copy()
    pixels[where] = value
    return pixels


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        (THERMAL, (22000, 22899)),
        (changed(THERMAL, (0, 0), 65535), (22000, 22899)),  # a hot pixel
        (changed(changed(THERMAL, (0, 0), 60000), (3, 3), 0), (22000, 22899)),  # a hot one and a dead one
        (changed(THERMAL / 65536, slice(0, 9), -9999), (22000 / 65536, 22899 / 65536)),  # rows without data
        (changed(changed(THERMAL / 1.0, (0, 0), np.inf), (1, 1), np.nan), (22000, 22899)),
        (np.arange(2.0**16), (0, 2**16 - 1)),
        (np.full((3, 3), 7), (7, 7)),
    ],
)
def test_what_lies_far_away_is_no_part_of_the_range(pixels, expected):
    assert ranges.used(pixels) == expected


def test_no_finite_value_is_no_range():
    assert ranges.used(np.full((3, 3), np.nan)) is None
