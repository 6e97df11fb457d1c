"""Pictures for people take every name that a file can have."""

import os

import numpy as np

from ddrnet_jax.data import pictures
from ddrnet_jax.data.sets.folder import folder_spec


def test_names_that_are_no_text_can_be_written_into_pictures():
    """OpenCV ends the process on them, so that a test that fails says nothing."""
    name = os.fsdecode(b"gr\xfcn \xff")
    canvas = np.full((20, 100, 3), 255, np.uint8)
    pictures.put_text(canvas, name, (0, 14))
    assert (canvas != 255).any()
    assert pictures.legend(folder_spec((name, "b")), 100).shape[1] == 100
