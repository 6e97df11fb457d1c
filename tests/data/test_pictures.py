"""Pictures for people take every name that a file can have."""

import os

import numpy as np

from ddrnet_jax.data import decode, pictures
from ddrnet_jax.data.sets.folder import folder_spec


def test_names_that_are_no_text_can_be_written_into_pictures():
    """OpenCV ends the process on them, so that a test that fails says nothing."""
    name = os.fsdecode(b"gr\xfcn \xff")
    canvas = np.full((20, 100, 3), 255, np.uint8)
    pictures.put_text(canvas, name, (0, 14))
    assert (canvas != 255).any()
    assert pictures.legend(folder_spec((name, "b")), 100).shape[1] == 100


def test_an_overlay_mixes_colours_where_there_is_a_class_and_a_png_keeps_every_pixel():
    rng = np.random.default_rng(0)
    spec = folder_spec(("a", "b"))
    image = rng.integers(0, 256, (40, 56, 3), dtype=np.uint8)
    for values in ((0, 1), (0, 1, 255)):
        ids = rng.choice(np.array(values, np.uint8), (40, 56))
        overlay = pictures.overlay(image, ids, spec, opacity=0.5)
        for pixel, value, found in zip(image.reshape(-1, 3), ids.flat, overlay.reshape(-1, 3), strict=True):
            expected = pixel if value == 255 else (pixel.astype(float) + np.array(spec.colors[value])) / 2
            assert np.abs(found - expected).max() <= 0.5
        for is_photo in (False, True):
            png = pictures.png(overlay, is_photo=is_photo)
            np.testing.assert_array_equal(decode.decode_image(png, "a.png"), overlay)
