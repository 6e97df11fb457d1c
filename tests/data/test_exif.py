"""Images and labels are turned by their own EXIF orientation, whatever the format; a disagreement is said."""

import struct
import zlib

import cv2
import numpy as np
import pytest

from ddrnet_jax.data import decode, exif
from ddrnet_jax.data.remarks import Remarks
from ddrnet_jax.data.sets.folder import folder_spec

SPEC = folder_spec(("a", "b", "c"))
IMAGE = np.kron(np.arange(180, dtype=np.uint8).reshape(6, 10, 3), np.ones((8, 8, 1), np.uint8))
LABEL = (np.arange(60, dtype=np.uint8).reshape(6, 10) % 3).copy()


def block(orientation, order=">"):
    """EXIF with one entry."""
    head = b"MM\0*" if order == ">" else b"II*\0"
    return head + struct.pack(f"{order}IHHHIHHI", 8, 1, 0x112, 3, 1, orientation, 0, 0)


def jpeg(pixels, orientation):
    data, body = cv2.imencode(".jpg", pixels, (cv2.IMWRITE_JPEG_QUALITY, 100))[1].tobytes(), b"Exif\0\0"
    body += block(orientation, "<")
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + data[2:]


def png(pixels, orientation):
    data, body = cv2.imencode(".png", pixels)[1].tobytes(), b"eXIf" + block(orientation)
    return data[:33] + struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body)) + data[33:]


def webp(pixels, orientation):
    data = cv2.imencode(".webp", pixels, (cv2.IMWRITE_WEBP_QUALITY, 101))[1].tobytes()
    height, width = pixels.shape[:2]
    size = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    chunks = b"VP8X" + struct.pack("<IBBH", 10, 8, 0, 0) + size + data[12:]
    chunks += b"\0" * (len(chunks) % 2) + b"EXIF" + struct.pack("<I", 26) + block(orientation)
    return b"RIFF" + struct.pack("<I", len(chunks) + 4) + b"WEBP" + chunks


def tiff(pixels, orientation):
    """Uncompressed, one strip at byte 200; the bits of each channel at byte 180."""
    rgb = pixels[..., ::-1] if pixels.ndim == 3 else pixels
    (height, width), channels = rgb.shape[:2], rgb.shape[2] if rgb.ndim == 3 else 1
    short, long = 3, 4
    tags = [
        (256, long, 1, width),
        (257, long, 1, height),
        (258, short, channels, 180 if channels == 3 else 8),
        (259, short, 1, 1),
        (262, short, 1, 2 if channels == 3 else 1),
        (273, long, 1, 200),
        (274, short, 1, orientation),
        (277, short, 1, channels),
        (278, long, 1, height),
        (279, long, 1, rgb.size),
    ]
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    data = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0)
    return data.ljust(180, b"\0") + struct.pack("<HHH", 8, 8, 8).ljust(20, b"\0") + rgb.tobytes()


@pytest.mark.parametrize("kind", [jpeg, png, webp, tiff])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_as_its_file_says(kind, orientation):
    data = kind(IMAGE, orientation)
    assert exif.orientation(data) == orientation
    seen = decode.decode_image(data, "a").astype(int)
    expected = exif.turned(IMAGE[..., ::-1], orientation)
    assert seen.shape == expected.shape
    assert abs(seen - expected).mean() < 6


@pytest.mark.parametrize("kind", [png, tiff])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_label_is_turned_as_its_file_says(kind, orientation):
    ids = decode.decode_label(kind(LABEL, orientation), "a", SPEC)
    np.testing.assert_array_equal(ids, exif.turned(LABEL, orientation))


def test_six_is_a_quarter_clockwise_and_eight_undoes_it():
    np.testing.assert_array_equal(exif.turned(LABEL, 6), np.rot90(LABEL, -1))
    np.testing.assert_array_equal(exif.turned(exif.turned(LABEL, 6), 8), LABEL)


@pytest.mark.parametrize("data", [b"", b"\xff\xd8\xff", b"RIFF", b"II*\0\xff\xff\xff\xff", png(LABEL, 9), b"{}"])
def test_what_names_no_orientation_is_as_stored(data):
    assert exif.orientation(data) == 1
    assert exif.orientation(jpeg(IMAGE, 6)[:30]) == 1


def test_only_an_orientation_that_the_label_lacks_is_said():
    remarks = Remarks(SPEC)
    remarks.add(jpeg(IMAGE, 3), "same.jpg", png(LABEL, 3))
    remarks.add(jpeg(IMAGE, 1), "plain.jpg")
    assert remarks.lines() == []
    remarks.add(jpeg(IMAGE, 3), "turned.jpg", png(LABEL, 1))
    (line,) = remarks.lines()
    assert "1 image(s) are turned as their EXIF orientation says" in line
    assert "turned.jpg (EXIF orientation 3, its label 1)" in line
