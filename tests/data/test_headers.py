"""The size that a file's header says is that of the decoded picture; what does not fit is not decoded."""

import struct

import cv2
import numpy as np
import pytest

from ddrnet_jax import memory
from ddrnet_jax.data import decode, headers
from ddrnet_jax.data.errors import DataError
from ddrnet_jax.data.sets.folder import folder_spec

PICTURE = np.random.default_rng(0).integers(0, 256, (37, 501, 3), np.uint8)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif", "webp", "ppm", "gif"])
def test_the_header_says_the_size(suffix):
    try:
        data = cv2.imencode(f".{suffix}", PICTURE)[1].tobytes()
    except cv2.error:
        pytest.skip(f"this OpenCV writes no {suffix}")
    assert headers.size_hw(data) == (37, 501)
    assert all(headers.size_hw(data[:length]) in (None, (37, 501)) for length in range(min(len(data), 200)))


def test_lossless_webp_and_what_is_no_picture():
    data = cv2.imencode(".webp", PICTURE, (cv2.IMWRITE_WEBP_QUALITY, 101))[1].tobytes()
    assert data[12:16] == b"VP8L"
    assert headers.size_hw(data) == (37, 501)
    assert headers.size_hw(b"<html>404</html>") is headers.size_hw(b"") is None


def tiff_of_two_widths():
    """A grey TIFF of 2x3 (HxW) whose directory names its width again, as 1."""
    entries = [(256, 3), (257, 2), (258, 8), (259, 1), (262, 1), (273, 8), (278, 2), (279, 6), (256, 1)]
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    return b"II*\0" + struct.pack("<I", 14) + b"abcdef" + struct.pack("<H", len(entries)) + directory + bytes(4)


@pytest.mark.parametrize("data", [tiff_of_two_widths(), b"P5\n# a\r3 2 255\nabcdef", b"P5\n# a\r# b\n3 2 255\nabcdef"])
def test_a_header_that_says_two_sizes_is_read_as_the_decoder_reads_it(data):
    assert decode.decode_image(data, "a").shape == (2, 3, 3)
    assert headers.size_hw(data) == (2, 3)


@pytest.mark.parametrize("read", [decode.decode_image, lambda *a: decode.decode_label(*a, folder_spec(("a", "b")))])
def test_a_picture_larger_than_the_memory_is_refused_before_it_is_decoded(read, monkeypatch):
    data = cv2.imencode(".png", np.zeros((8, 30000, 1), np.uint8))[1].tobytes()
    monkeypatch.setattr(decode, "_LARGE_PIXELS", 2**16)
    assert read(data, "a.png").shape[:2] == (8, 30000)
    monkeypatch.setattr(memory, "available_bytes", lambda: 2**20)
    monkeypatch.setattr(cv2, "imdecode", None)
    with pytest.raises(DataError, match=r"a.png: 30000x8 pixels \(WxH\) take 0.0 GiB to decode, 0.0 GiB of memory"):
        read(data, "a.png")
