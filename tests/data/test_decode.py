"""Decoding: exact values for every kind of mask, one clear error for every kind of damage."""

import struct
import zlib

import cv2
import numpy as np
import pytest

from ddrnet_jax.data import decode
from ddrnet_jax.data.errors import DataError, UnreadKind
from ddrnet_jax.data.labels import IGNORE
from ddrnet_jax.data.sets.camvid import SPEC as CAMVID
from ddrnet_jax.data.sets.folder import folder_spec

RNG = np.random.default_rng(0)


def png(array):
    return cv2.imencode(".png", array)[1].tobytes()


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def raw_png(rows, bits, color_type, palette=b""):
    """A PNG written by hand: `rows` are the packed bytes of each line."""
    height, width = len(rows), len(rows[0]) * 8 // bits
    header = struct.pack(">IIBBBBB", width, height, bits, color_type, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + bytes(row) for row in rows))
    parts = [chunk(b"IHDR", header), chunk(b"PLTE", palette) if palette else b""]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def test_index_mask_is_mapped_through_the_table():
    mask = RNG.integers(0, 12, (20, 30), dtype=np.uint8)
    ids = decode.decode_label(png(mask), "a.png", CAMVID)
    np.testing.assert_array_equal(ids, np.where(mask == 11, IGNORE, mask))


def test_erased_pixels_of_colour_masks_count_nowhere():
    spec = folder_spec(["a", "b"], colors=[(0, 0, 0), (0, 0, 255)])
    mask = np.zeros((2, 3, 4), np.uint8)
    mask[..., 3] = 255
    mask[0, 0] = (255, 0, 0, 0)  # class b lies underneath
    mask[0, 1] = (1, 2, 3, 0)  # no class does
    mask[1, 1] = (255, 0, 0, 255)
    ids = decode.decode_label(png(mask), "a.png", spec)
    np.testing.assert_array_equal(ids, [[IGNORE, IGNORE, 0], [0, 1, 0]])


def test_deep_images_take_the_range_that_they_are_given():
    raw = np.linspace(22000, 23000, 101).astype(np.uint16).reshape(1, -1)
    seen = decode.decode_image(png(raw), "a.png", (22100, 22900))
    expected = np.rint(np.clip((raw.astype(float) - 22100) * 255 / 800, 0, 255))
    np.testing.assert_array_equal(seen, np.repeat(expected[..., None], 3, 2).astype(np.uint8))
    assert decode.deep_range(png(raw)) == (22000, 23000)
    assert len(np.unique(decode.decode_image(png(raw), "a.png"))) == decode.grey_levels(22000, 23000) == 5
    small = RNG.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    np.testing.assert_array_equal(decode.decode_image(png(small), "a.png", (22100, 22900)), small[..., ::-1])
    assert decode.deep_range(png(small)) is None


def test_palette_mask_gives_indices_not_colours():
    spec = folder_spec(["a", "b", "c"])
    rows = [[0, 1, 2, 255], [2, 1, 0, 0]]
    palette = bytes([9, 9, 9] * 3 + [200, 0, 0] * 253)  # the same colour thrice: colours could not tell
    ids = decode.decode_label(raw_png(rows, 8, 3, palette), "p.png", spec)
    np.testing.assert_array_equal(ids, rows)


@pytest.mark.parametrize("color_type", [0, 3])
@pytest.mark.parametrize("bits", [1, 2, 4])
def test_masks_of_few_bits_keep_their_values(bits, color_type):
    count = 2**bits
    spec = folder_spec([str(i) for i in range(count)])
    values = RNG.integers(0, count, (6, 16))
    packed = [
        [sum(int(v) << (8 - bits * (j + 1)) for j, v in enumerate(group)) for group in row.reshape(-1, 8 // bits)]
        for row in values
    ]
    palette = bytes(3 * count) if color_type == 3 else b""
    np.testing.assert_array_equal(decode.decode_label(raw_png(packed, bits, color_type, palette), "b", spec), values)


def test_colour_mask_is_mapped_by_colour():
    colors = ((128, 64, 128), (0, 0, 142), (70, 70, 70))
    spec = folder_spec(["road", "car", "building"], colors, ignore_values=((0, 0, 0),))
    ids = RNG.integers(0, 4, (16, 16))
    rgb = np.array([*colors, (0, 0, 0)], np.uint8)[ids]
    decoded = decode.decode_label(png(rgb[..., ::-1]), "c.png", spec)
    np.testing.assert_array_equal(decoded, np.where(ids == 3, IGNORE, ids))


def test_palette_and_grey_colour_masks_are_mapped_by_colour():
    spec = folder_spec(["road", "dark"], ((128, 64, 128), (0, 0, 0)))
    rows = [[0, 1, 1, 0], [1, 0, 0, 0]]
    data = raw_png(rows, 8, 3, bytes([128, 64, 128, 0, 0, 0]))
    np.testing.assert_array_equal(decode.decode_label(data, "v.png", spec), rows)
    grey = folder_spec(["black", "white"], ((0, 0, 0), (255, 255, 255)))
    mask = np.array([[0, 255], [255, 0]], np.uint8)
    np.testing.assert_array_equal(decode.decode_label(png(mask), "g.png", grey), mask // 255)


def test_data_after_the_end_of_a_jpeg_is_no_truncation_but_a_thumbnail_is_no_end():
    data = cv2.imencode(".jpg", RNG.integers(0, 256, (24, 24, 3), dtype=np.uint8))[1].tobytes()
    assert decode.decode_image(data + bytes(100_000), "motion.jpg").shape == (24, 24, 3)
    thumbnail = b"\xff\xe1" + (2 + len(data)).to_bytes(2, "big") + data
    with pytest.raises(DataError, match="truncated JPEG"):
        decode.decode_image(data[:2] + thumbnail + data[2:-40], "cut.jpg")


def test_fill_bytes_between_the_segments_of_a_jpeg_are_allowed():
    data = cv2.imencode(".jpg", RNG.integers(0, 256, (24, 24, 3), dtype=np.uint8))[1].tobytes()
    table = data.index(b"\xff\xdb")
    filled = data[:table] + b"\xff\xff" + data[table:]
    np.testing.assert_array_equal(decode.decode_image(filled, "filled"), decode.decode_image(data, "plain"))
    for length in range(3, len(filled) - 1):
        with pytest.raises(DataError, match="cut.jpg: "):
            decode.decode_image(filled[:length], "cut.jpg")


def test_a_png_that_is_only_an_end_or_lies_about_its_size_is_an_error():
    end_only = b"\x89PNG\r\n\x1a\n" + chunk(b"IEND", b"")
    huge = bytearray(png(np.zeros((4, 4), np.uint8)))
    huge[16:24] = struct.pack(">II", 2**30, 2**30)
    huge[29:33] = struct.pack(">I", zlib.crc32(huge[12:29]))
    for data in (end_only, bytes(huge)):
        with pytest.raises(DataError, match="odd.png: "):
            decode.decode_label(data, "odd.png", CAMVID)
        with pytest.raises(DataError, match="odd.png: "):
            decode.decode_image(data, "odd.png")


def test_raw_values_with_holes():
    spec = folder_spec(["a", "b"], label_values=(7, 33), ignore_values=(0, 255))
    ids = decode.decode_label(png(np.array([[7, 33, 0, 255]], np.uint8)), "h.png", spec)
    np.testing.assert_array_equal(ids, [[0, 1, IGNORE, IGNORE]])


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.full((4, 4), 12, np.uint8), "bad.png: label value 12 is not one of camvid's: 0, 1,"),
        (np.full((4, 4, 3), 3, np.uint8), "bad.png: the label has more than one channel"),
        (np.full((4, 4), 300, np.uint16), "bad.png: the label is uint16"),
    ],
)
def test_wrong_index_masks_are_named(mask, message):
    with pytest.raises(DataError, match=message.replace("(", r"\(")):
        decode.decode_label(png(mask), "bad.png", CAMVID)


def test_as_many_classes_as_a_byte_holds():
    """All 256 values are known; with one class fewer, the value that is not is found, once and as the only one."""
    mask = np.arange(256, dtype=np.uint8).reshape(16, 16)
    names = [f"class {i}" for i in range(255)]
    np.testing.assert_array_equal(decode.decode_label(png(mask), "all.png", folder_spec(names)), mask)
    with pytest.raises(DataError, match=r"one\.png: label value 254 is not one of folder's: 0, 1,"):
        decode.decode_label(png(mask), "one.png", folder_spec(names[:-1]))


def test_unknown_colour_is_named():
    spec = folder_spec(["a", "b"], ((1, 2, 3), (4, 5, 6)))
    bgr = np.full((4, 4, 3), (3, 2, 1), np.uint8)
    bgr[0, 0] = (30, 20, 10)
    with pytest.raises(DataError, match=r"m.png: colour \(10, 20, 30\) on 6.2% of the label"):
        decode.decode_label(png(bgr), "m.png", spec)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_truncated_files_are_errors_at_every_length(suffix):
    data = cv2.imencode(suffix, RNG.integers(0, 256, (24, 24, 3), dtype=np.uint8))[1].tobytes()
    decode.decode_image(data, "whole")
    for length in [0, 1, 10, 40, len(data) // 2, len(data) - 20, len(data) - 1]:
        with pytest.raises(DataError, match="cut: "):
            decode.decode_image(data[:length], "cut")


def test_a_flipped_bit_in_a_png_is_an_error():
    data = bytearray(png(RNG.integers(0, 256, (24, 24, 3), dtype=np.uint8)))
    data[len(data) // 2] ^= 4
    with pytest.raises(DataError, match="flipped: damaged PNG"):
        decode.decode_image(bytes(data), "flipped")


def test_jpeg_labels_and_other_sizes_are_refused():
    jpeg = cv2.imencode(".jpg", np.zeros((8, 8), np.uint8))[1].tobytes()
    with pytest.raises(DataError, match="labels must be lossless"):
        decode.decode_label(jpeg, "l.jpg", CAMVID)
    with pytest.raises(DataError, match=r"l.png: the label is 9x8 \(WxH\), its image 8x8"):
        decode.check_pair(np.zeros((8, 8, 3), np.uint8), np.zeros((8, 9), np.uint8), "l.png")


def giant_png(width, height):
    """The header of a picture that nobody decodes."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def tiff(dtype):
    return cv2.imencode(".tif", np.linspace(0, 8, 96).reshape(8, 12).astype(dtype))[1].tobytes()


@pytest.mark.parametrize(
    ("data", "what", "remedy"),
    [
        (
            tiff(np.float32),
            "holds values of float32 (0..8), 8 and 16 bits are read",
            "set data.value_range = (0, 8), of all images; or save them with 8 or 16 bits",
        ),
        (
            tiff(np.int32),
            "holds values of int32 (0..8), 8 and 16 bits are read",
            "set data.value_range = (0, 8), of all images; or save them with 8 or 16 bits",
        ),
        (
            giant_png(40000, 30000),
            "has more pixels than OpenCV reads, 2^30",
            "cut it into parts, or start with OPENCV_IO",
        ),
        (
            b"\0\0\0\x18ftypheic" + bytes(99),
            "not a readable image but HEIC, as telephones take pictures",
            "save it as PNG",
        ),
        (b"<svg></svg>", "not a readable image but SVG", "save it as PNG"),
    ],
)
def test_what_is_not_damaged_is_not_called_so(data, what, remedy):
    with pytest.raises(UnreadKind) as caught:
        decode.decode_image(data, "a.tif")
    assert str(caught.value).startswith(f"a.tif: {what}; {remedy}")
    assert "label" not in str(caught.value)


def test_a_tiff_that_is_cut_short_may_be_damaged():
    with pytest.raises(DataError, match="a.tif: a TIFF that is damaged, or of a kind .*; open it in another program"):
        decode.decode_image(tiff(np.uint8)[:30], "a.tif")
