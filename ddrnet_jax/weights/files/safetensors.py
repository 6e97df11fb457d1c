"""Safetensors files, read and written with numpy alone; and the ground that every weights file stands on.

A weights file may come from anyone, so a size in it is a claim, not a fact: `WeightsFile` hands out no range
that leaves the file and reserves no more memory than the file has bytes.
"""

import contextlib
import io
import json
import math
import os
import struct
from collections.abc import Iterator

import ml_dtypes
import numpy as np

from ddrnet_jax import atomic, regular_files
from ddrnet_jax.errors import UserError

DAMAGED = "the file is cut short or damaged: download or copy it again"
MAX_RANK = 32
# A header costs up to 25 times its bytes once parsed; real ones hold some 100 bytes a tensor.
MAX_HEADER_BYTES = 2**20

DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U64": np.dtype(np.uint64),
    "U32": np.dtype(np.uint32),
    "U16": np.dtype(np.uint16),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


class WeightsFileError(UserError):
    """A weights file that cannot be used: one line with the path, what was found and what to do about it."""


def shown(text: object) -> str:
    """A name or number out of a file, fit for one line of an error message."""
    if not isinstance(text, str | int | float | None):
        return f"a {type(text).__name__}"
    text = text if isinstance(text, str) else repr(text)
    return text[:100].encode("unicode_escape").decode() + ("..." if len(text) > 100 else "")


class WeightsFile:
    """An open weights file: reads byte ranges that lie inside it, and names itself in every error."""

    def __init__(self, path: str | os.PathLike, stream: io.BufferedReader):
        self.path = path
        self.size = os.fstat(stream.fileno()).st_size
        self._stream = stream
        self._reserved_bytes = 0

    def error(self, problem: str, remedy: str = DAMAGED) -> WeightsFileError:
        return WeightsFileError(f"{self.path}: {problem}; {remedy}")

    def read(self, offset: int, count: int, what: str) -> bytes:
        self._seek(offset, count, what)
        data = self._stream.read(count)
        if len(data) != count:
            raise self.error(f"{what} ends after {len(data)} of {count} bytes")
        return data

    def reserve(self, count: int, what: str) -> np.ndarray:
        """Memory for bytes of the file, u8[count]; all that is reserved stays within the file's size."""
        self._reserved_bytes += count
        if self._reserved_bytes > self.size:
            raise self.error(f"{what} brings the data to {self._reserved_bytes} bytes, the file has {self.size}")
        return np.empty(count, np.uint8)

    def fill(self, memory: np.ndarray, offset: int, what: str) -> None:
        """Reads the bytes from `offset` on into `memory`, u8[count]."""
        self._seek(offset, memory.size, what)
        if self._stream.readinto(memory.data) != memory.size:
            raise self.error(f"{what} ends before its {memory.size} bytes")

    def element_count(self, size: tuple | list, what: str) -> int:
        """The elements of a tensor of this size, once it is sure to be a size that numpy can hold."""
        if len(size) > MAX_RANK or not all(type(length) is int and length >= 0 for length in size):
            raise self.error(f"{what} has a size that is not up to {MAX_RANK} non-negative integers")
        if math.prod(length or 1 for length in size) > 2**48:
            raise self.error(f"{what} has a size beyond any file")
        return math.prod(size)

    def check_bools(self, array: np.ndarray, what: str) -> None:
        """Raises WeightsFileError if an array [...] of type bool holds other bytes than 0 and 1."""
        if array.dtype == np.bool_ and array.view(np.uint8).max(initial=0) > 1:
            raise self.error(f"{what} is of type bool and holds bytes other than 0 and 1")

    def _seek(self, offset: int, count: int, what: str) -> None:
        if offset < 0 or count < 0 or offset + count > self.size:
            raise self.error(f"{what} is said to be {count} bytes at byte {offset}, the file has {self.size}")
        self._stream.seek(offset)


@contextlib.contextmanager
def open_weights(path: str | os.PathLike) -> Iterator[WeightsFile]:
    """Opens `path` for reading; running out of memory or a failing disk become a `WeightsFileError` too."""
    if not os.path.isfile(path):
        raise WeightsFileError(f"{path}: no such file; give the path of a .pth, .pt or .safetensors file")
    try:
        with regular_files.opened(path) as stream:
            yield WeightsFile(path, stream)
    except OSError as problem:
        raise WeightsFileError(f"{path}: cannot be read, {problem.strerror}; check the file and its disk") from problem
    except MemoryError as problem:
        raise WeightsFileError(f"{path}: does not fit into memory; free some, or use a larger machine") from problem


def data_bytes(array: np.ndarray) -> np.ndarray:
    """The elements of `array` in C order as u8[nbytes]; a copy only where it is not contiguous."""
    return np.asarray(array, order="C").reshape(-1).view(np.uint8)


def read_safetensors(path: str | os.PathLike) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The tensors of a .safetensors file by name, in the file's order, and its metadata."""
    with open_weights(path) as file:
        return safetensors_of(file)


def safetensors_of(file: WeightsFile) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """As `read_safetensors`, from a file already open."""
    header_bytes = int.from_bytes(file.read(0, 8, "the header's length"), "little")
    if header_bytes > MAX_HEADER_BYTES:
        raise file.error(f"its header is said to have {header_bytes} bytes, at most {MAX_HEADER_BYTES} are read")
    header = _parse_header(file, file.read(8, header_bytes, "the header"))
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise file.error("its __metadata__ is not a table of strings")
    entries = {name: _parse_entry(file, name, entry) for name, entry in header.items()}
    _check_layout(file, entries, file.size - 8 - header_bytes)
    return {name: _read_tensor(file, name, 8 + header_bytes, *entry) for name, entry in entries.items()}, metadata


def write_safetensors(
    path: str | os.PathLike, tensors: dict[str, np.ndarray], metadata: dict[str, str] | None = None
) -> None:
    """Writes a .safetensors file: widest elements first, then by name, so that every tensor is aligned."""
    arrays = {name: np.asarray(tensor) for name, tensor in tensors.items()}
    _check_writable(path, arrays, metadata or {})
    names = sorted(arrays, key=lambda name: (-arrays[name].itemsize, name))
    header: dict = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for name in names:
        array = arrays[name]
        span = [offset, offset := offset + array.nbytes]
        header[name] = {"dtype": _NAMES[array.dtype], "shape": list(array.shape), "data_offsets": span}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with atomic.replacing(path, is_synced=True) as partial, regular_files.opened(partial, "wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        for name in names:
            stream.write(data_bytes(arrays[name]).data)


def _check_writable(path: str | os.PathLike, arrays: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    for name, array in arrays.items():
        if not isinstance(name, str) or name == "__metadata__" or array.dtype not in _NAMES:
            wanted = ", ".join(map(str, _NAMES))
            raise WeightsFileError(f"{path}: cannot hold {name!r} of type {array.dtype}; use a str and one of {wanted}")
    if not all(isinstance(text, str) for item in metadata.items() for text in item):
        raise WeightsFileError(f"{path}: cannot hold metadata other than strings; use str(...) or json.dumps(...)")


def _parse_header(file: WeightsFile, text: bytes) -> dict:
    def unique(pairs: list[tuple]) -> dict:
        table = dict(pairs)
        if len(table) != len(pairs):
            raise ValueError("a name appears twice")
        return table

    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=unique)
    except RecursionError as problem:
        raise file.error("its header is nested without end") from problem
    except ValueError as problem:
        raise file.error(f"its header is not JSON ({shown(str(problem))})") from problem
    if not isinstance(header, dict):
        raise file.error("its header is not a table")
    return header


def _parse_entry(file: WeightsFile, name: str, entry: object) -> tuple[np.dtype, list[int], int, int]:
    """(type, shape, first byte, byte after the last), counted from the end of the header."""
    what = f"tensor {shown(name)}"
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise file.error(f"{what} is not described by dtype, shape and data_offsets")
    dtype, shape, span = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise file.error(f"{what} is of type {shown(dtype)}, not one of {', '.join(DTYPES)}", "convert it first")
    if not isinstance(shape, list) or not isinstance(span, list) or len(span) != 2:
        raise file.error(f"{what} has no list for its shape or no pair of data_offsets")
    begin, end = span
    if not all(type(position) is int and 0 <= position <= file.size for position in span):
        raise file.error(f"{what} has data_offsets {shown(begin)}..{shown(end)}, the file has {file.size} bytes")
    wanted = file.element_count(shape, what) * DTYPES[dtype].itemsize
    if end - begin != wanted:
        raise file.error(f"{what} needs {wanted} bytes, its data_offsets {begin}..{end} span {end - begin}")
    return DTYPES[dtype], shape, begin, end


def _check_layout(file: WeightsFile, entries: dict[str, tuple], data_size: int) -> None:
    """The tensors must tile the data: no hole, no overlap, nothing behind the last."""
    position = 0
    for begin, end, name in sorted((entry[2], entry[3], name) for name, entry in entries.items()):
        if begin != position:
            raise file.error(f"tensor {shown(name)} begins at data byte {begin}, expected {position}")
        position = end
    if position != data_size:
        raise file.error(f"its tensors need {position} bytes of data, the file has {data_size}")


def _read_tensor(
    file: WeightsFile, name: str, data_start: int, dtype: np.dtype, shape: list[int], begin: int, end: int
) -> np.ndarray:
    what = f"tensor {shown(name)}"
    memory = file.reserve(end - begin, what)
    file.fill(memory, data_start + begin, what)
    array = memory.view(dtype).reshape(shape)
    file.check_bools(array, what)
    return array
