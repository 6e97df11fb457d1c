"""Label maps in MATLAB files, as COCO-Stuff 10k has them."""

import io
import struct

import numpy as np

from ddrnet_jax.data.errors import DataError

MAGIC = b"MATLAB "
_HEADER_BYTES = 128


def read_label_map(data: bytes, name: str) -> np.ndarray:
    """u8[H,W] raw values of the matrix S of a MATLAB 5 file.

    Raises DataError naming the file if it is damaged, or S is missing or no 8-bit label map.
    """
    try:
        from scipy import io as scipy_io
    except ImportError as e:
        raise DataError(f"{name}: reading MATLAB labels needs SciPy: pip install scipy") from e
    if not _is_complete(data):
        raise DataError(f"{name}: truncated MATLAB file (its end is missing); replace it")
    try:
        variables = scipy_io.loadmat(io.BytesIO(data), variable_names=["S"])
    except Exception as e:  # a damaged file may raise anything in there
        raise DataError(f"{name}: damaged, or not a MATLAB 5 file; replace it") from e
    if "S" not in variables:
        raise DataError(f"{name}: has no matrix S, expected the label map of COCO-Stuff 10k; replace the file")
    values = variables["S"]
    if not (isinstance(values, np.ndarray) and values.ndim == 2 and values.dtype.kind in "uif" and values.size):
        raise DataError(f"{name}: matrix S is no label map (height x width numbers); replace the file")
    with np.errstate(invalid="ignore"):  # NaN
        labels = values.astype(np.uint8)
    if not np.array_equal(labels, values):
        raise DataError(f"{name}: matrix S holds {values.min()}..{values.max()}, expected whole numbers of 0..255")
    return labels


def _is_complete(data: bytes) -> bool:
    """True if the last variable ends where the file ends; the reader stops at S and would not notice."""
    order = ">" if data[126:128] == b"MI" else "<"
    at = _HEADER_BYTES
    while at + 8 <= len(data):
        _, size = struct.unpack_from(f"{order}II", data, at)
        at += 8 + size
    return at == len(data)
