"""What a decoder says of a JPEG is known, and of which, from several threads too; a process that is gone is told."""

import concurrent.futures

import cv2
import numpy as np
import pytest

from ddrnet_jax.data.check.jpegs import Decoders
from ddrnet_jax.data.errors import DataError


@pytest.fixture(scope="module")
def sound():
    pixels = cv2.resize(np.random.default_rng(1).integers(0, 256, (12, 16, 3), np.uint8), (64, 48))
    return cv2.imencode(".jpg", pixels, (cv2.IMWRITE_JPEG_QUALITY, 100))[1].tobytes()


def test_each_file_has_its_own_complaint(sound):
    middle = len(sound) // 2
    cut, overwritten = sound[:middle] + b"\xff\xd9", sound[:middle] + bytes(400) + sound[middle + 400 :]
    with Decoders() as decoders, concurrent.futures.ThreadPoolExecutor(2) as pool:
        said = list(pool.map(decoders.complaint, [sound, cut, sound, overwritten, b"\xff\xd8 no more"] * 3))
    assert said[0] == said[2] == said[4] == ""
    assert said[1] == "Corrupt JPEG data: premature end of data segment"
    assert said[3].startswith("Corrupt JPEG data: ")
    assert said[3] != said[1]
    assert said[5:] == said[:5] * 2


def test_no_process_starts_for_nothing_and_none_is_left(sound):
    with Decoders() as decoders:
        assert decoders._idle == []
        decoders.complaint(sound)
        (process,) = decoders._idle
        decoders.complaint(sound)
        assert decoders._idle == [process]
        assert process.poll() is None
    assert process.poll() == 0


def test_a_process_that_is_gone_is_told(sound):
    with Decoders() as decoders:
        decoders.complaint(sound)
        decoders._idle[0].kill()
        decoders._idle[0].wait()
        with pytest.raises(DataError, match="a process that decodes JPEGs has ended .killed.; run again"):
            decoders.complaint(sound)
