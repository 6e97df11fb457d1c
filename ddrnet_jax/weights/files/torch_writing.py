"""State dicts written as torch.save writes them, without PyTorch."""

import math
import os
import pickle
import struct
import zipfile

import numpy as np

from ddrnet_jax import atomic
from ddrnet_jax.weights.files.safetensors import WeightsFileError, data_bytes
from ddrnet_jax.weights.files.torch_tensors import STORAGE_NAMES


def write_pth(path: str | os.PathLike, state: dict[str, np.ndarray]) -> None:
    """Writes a flat state dict as torch.save does; torch.load(path, weights_only=True) reads it."""
    arrays = {name: np.asarray(array) for name, array in state.items()}
    for name, array in arrays.items():
        if not isinstance(name, str) or array.dtype not in STORAGE_NAMES:
            wanted = ", ".join(map(str, STORAGE_NAMES))
            raise WeightsFileError(f"{path}: cannot hold {name!r} of type {array.dtype}; use a str and one of {wanted}")
    with atomic.replacing(path, is_synced=True) as partial, zipfile.ZipFile(partial, "w") as archive:
        for member, data in (
            ("data.pkl", _state_pickle(arrays)),
            ("byteorder", b"little"),
            ("version", b"3\n"),
        ):
            archive.writestr(zipfile.ZipInfo(f"archive/{member}"), data)
        for index, array in enumerate(arrays.values()):
            archive.writestr(zipfile.ZipInfo(f"archive/data/{index}"), data_bytes(array).data)


def _state_pickle(arrays: dict[str, np.ndarray]) -> bytes:
    """The pickle that torch.save would write: an OrderedDict of calls that rebuild one tensor each."""
    items = b"".join(
        _text(name) + _tensor_pickle(str(index), array) for index, (name, array) in enumerate(arrays.items())
    )
    return pickle.PROTO + b"\x02" + _EMPTY_ORDERED_DICT + pickle.MARK + items + pickle.SETITEMS + pickle.STOP


def _tensor_pickle(key: str, array: np.ndarray) -> bytes:
    kind = _name(STORAGE_NAMES[array.dtype])
    storage = _tuple(_text("storage"), kind, _text(key), _text("cpu"), _integer(array.size))
    stride = [math.prod(array.shape[axis + 1 :]) for axis in range(array.ndim)]
    arguments = (
        storage + pickle.BINPERSID,
        _integer(0),
        _tuple(*map(_integer, array.shape)),
        _tuple(*map(_integer, stride)),
        pickle.NEWFALSE,
        _EMPTY_ORDERED_DICT,
    )
    return _name("torch._utils._rebuild_tensor_v2") + _tuple(*arguments) + pickle.REDUCE


def _text(text: str) -> bytes:
    encoded = text.encode()
    return pickle.BINUNICODE + struct.pack("<I", len(encoded)) + encoded


def _integer(number: int) -> bytes:
    if number < 2**31:
        return pickle.BININT + struct.pack("<i", number)
    return pickle.LONG1 + struct.pack("<Bq", 8, number)


def _name(name: str) -> bytes:
    return pickle.GLOBAL + "{}\n{}\n".format(*name.rsplit(".", 1)).encode()


def _tuple(*items: bytes) -> bytes:
    return pickle.MARK + b"".join(items) + pickle.TUPLE


_EMPTY_ORDERED_DICT = _name("collections.OrderedDict") + pickle.EMPTY_TUPLE + pickle.REDUCE
