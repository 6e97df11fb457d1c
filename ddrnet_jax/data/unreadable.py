"""Why OpenCV makes no picture of a file: damaged, of another kind than its name says, or intact and beyond it."""

import cv2
import numpy as np

from ddrnet_jax.data import ranges
from ddrnet_jax.data.errors import DataError, UnreadKind

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# (what a file has at a place, the place): what it is.
_KINDS = {
    (b"ftypheic", 4): "HEIC, as telephones take pictures",
    (b"ftypmif1", 4): "HEIF, as telephones take pictures",
    (b"ftypavif", 4): "AVIF",
    (b"8BPS", 0): "a file of Photoshop",
    (b"%PDF", 0): "a PDF",
    (b"SIMPLE  =", 0): "FITS",
    (b"DICM", 128): "DICOM",
    (b"<svg", 0): "SVG",
    (b"<?xml", 0): "a text in XML, as SVG",
}


def error(data: bytes, name: str, what: str = "image") -> DataError:
    """The error for the bytes of a picture that cannot be read: UnreadKind where the file is not damaged."""
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as e:
        if "CV_IO_MAX_IMAGE" in str(e):
            remedy = "cut it into parts, or start with OPENCV_IO_MAX_IMAGE_PIXELS=4294967296 set"
            return UnreadKind(f"{name}: has more pixels than OpenCV reads, 2^30; {remedy}")
        pixels = None
    if pixels is not None:
        low, high = (float(f"{v:.6g}") for v in ranges.used(pixels) or (0, 1))
        remedy = f"set data.value_range = ({low:g}, {high:g}), of all images; or save them with 8 or 16 bits"
        values = f"{low:g}..{high:g}"
        return UnreadKind(
            f"{name}: holds values of {pixels.dtype} ({values}), 8 and 16 bits are read; {remedy}", (low, high)
        )
    for (mark, place), kind in _KINDS.items():
        if data[place : place + len(mark)] == mark:
            return UnreadKind(f"{name}: not a readable {what} but {kind}; save it as PNG")
    if data.startswith(_TIFF):
        reason = "a TIFF that is damaged, or of a kind or compression that OpenCV does not read"
        return DataError(f"{name}: {reason}; open it in another program, and save it as PNG")
    return DataError(f"{name}: not a readable {what}; replace the file")
