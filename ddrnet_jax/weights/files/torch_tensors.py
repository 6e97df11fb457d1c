"""Storages, tensors and numpy numbers as PyTorch pickles describe them, each checked before it is made.

A description is a storage (the raw bytes of the file), an offset, a size and strides; any of them may be a lie,
so a view is made only once all that it can reach is known to lie inside its storage.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from ddrnet_jax.weights.files.safetensors import DTYPES, WeightsFile, shown

RESAVE = (
    "in PyTorch, save the tensors alone: torch.save(model.state_dict(), path), or, of a file that you trust, "
    "torch.save(torch.load(path, weights_only=False)['state_dict'], path)"
)

_STORAGES = {
    "torch.DoubleStorage": np.dtype(np.float64),
    "torch.FloatStorage": np.dtype(np.float32),
    "torch.HalfStorage": np.dtype(np.float16),
    "torch.BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "torch.LongStorage": np.dtype(np.int64),
    "torch.IntStorage": np.dtype(np.int32),
    "torch.ShortStorage": np.dtype(np.int16),
    "torch.CharStorage": np.dtype(np.int8),
    "torch.ByteStorage": np.dtype(np.uint8),
    "torch.BoolStorage": np.dtype(np.bool_),
}
STORAGE_NAMES = {dtype: name for name, dtype in _STORAGES.items()}
_STORAGES_READ = _STORAGES | {"torch.storage.UntypedStorage": np.dtype(np.uint8)}
_DTYPES = {f"torch.{dtype.name}": dtype for dtype in DTYPES.values()}
CALLS = {
    "collections.OrderedDict",
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_tensor_v3",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_parameter_with_state",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
    "_codecs.encode",  # how protocol 2 spells bytes
}
_NUMBER_TYPES = {"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"}
NAMES = CALLS | _STORAGES_READ.keys() | _DTYPES.keys()


@dataclass(frozen=True, slots=True)
class Global:
    """A name that a pickle asked for; it stands for itself, nothing is imported."""

    name: str


@dataclass(frozen=True, slots=True)
class Storage:
    """The memory behind tensors: `data`, u8[count * dtype.itemsize]."""

    key: str
    dtype: np.dtype
    count: int
    data: np.ndarray


class Tensors:
    """Makes the storages, tensors and numpy numbers a pickle describes, each one checked before it is made."""

    def __init__(self, file: WeightsFile, open_storage: Callable[[str, int], np.ndarray]):
        self.storages: dict[str, Storage] = {}
        self._file = file
        self._open_storage = open_storage
        self._views: dict[tuple, np.ndarray] = {}
        self._view_bytes = 0

    def storage(self, description: object) -> Storage:
        """The storage of a persistent id ("storage", type, key, location, elements[, None])."""
        match description:
            case (str("storage"), Global(kind), str(key), str(), count, *view) if all(v is None for v in view):
                dtype = _STORAGES_READ.get(kind)
            case _:
                raise self._file.error("it refers to something other than a whole storage", RESAVE)
        if dtype is None or type(count) is not int or not 0 <= count <= self._file.size:
            raise self._file.error(f"storage {shown(key)} has {shown(count)} elements of {shown(kind)}")
        if key not in self.storages:
            memory = self._open_storage(key, count * dtype.itemsize)
            self.storages[key] = Storage(key, dtype, count, memory)
        storage = self.storages[key]
        if (storage.dtype, storage.count) != (dtype, count):
            raise self._file.error(f"storage {shown(key)} is described twice, differently")
        return storage

    def call(self, name: str, arguments: tuple) -> OrderedDict | np.ndarray | np.dtype | bytes | bool | int | float:
        """The result of the pickle's call of `name`; hooks, requires_grad and Python attributes are left out.

        A tensor comes as [...], of its own shape.
        """
        match name.rpartition(".")[2], arguments:
            case "OrderedDict", ():
                return OrderedDict()
            case "_rebuild_tensor", (Storage() as storage, offset, size, stride):
                return self._tensor(storage, storage.dtype, offset, size, stride)
            case "_rebuild_tensor_v2", (Storage() as storage, offset, size, stride, _, _):
                return self._tensor(storage, storage.dtype, offset, size, stride)
            case "_rebuild_tensor_v3", (Storage() as storage, offset, size, stride, _, _, Global(dtype)):
                if dtype in _DTYPES:
                    return self._tensor(storage, _DTYPES[dtype], offset, size, stride)
            case "_rebuild_parameter", (np.ndarray() as tensor, _, _):
                return tensor
            case "_rebuild_parameter_with_state", (np.ndarray() as tensor, _, _, _):
                return tensor
            case "scalar", (np.dtype() as dtype, bytes(data)) if len(data) == dtype.itemsize:
                number = np.frombuffer(data, dtype)
                self._file.check_bools(number, "a numpy number")
                return number[0].item()
            case "dtype", (str(code), int(), int()) if code in _NUMBER_TYPES:
                return np.dtype(code)
            case "encode", (str(text), str("latin1")) if len(text) <= 8 and max(text, default="") <= "\xff":
                return text.encode("latin1")  # of a number: a long text could be encoded again and again
        raise self._file.error(f"refusing {shown(name)} with arguments that make no plain tensor", RESAVE)

    def check_bools(self) -> None:
        """To be called once the storages are filled."""
        for (key, *_), array in self._views.items():
            self._file.check_bools(array, f"a tensor of storage {shown(key)}")

    def _tensor(self, storage: Storage, dtype: np.dtype, offset: Any, size: Any, stride: Any) -> np.ndarray:
        """The view of `storage`, counted in elements, once all that it can reach is known to be inside."""
        what = f"a tensor of storage {shown(storage.key)}"
        if type(size) is not tuple or type(stride) is not tuple or len(size) != len(stride):
            raise self._file.error(f"{what} has no size and stride of the same length")
        count = self._file.element_count(size, what)
        if not all(type(number) is int and number >= 0 for number in (offset, *stride)):
            raise self._file.error(f"{what} has an offset or stride that is not a non-negative integer")
        reach = sum((length - 1) * step for length, step in zip(size, stride, strict=True)) + 1 if count else 0
        available = storage.data.size // dtype.itemsize
        if count > available or offset + reach > available:
            raise self._file.error(
                f"{what} has {count} elements up to {shown(offset + reach)}, its storage has {available}",
                "if PyTorch reads it, save tensors that are not expanded: {k: v.clone() for k, v in ...}",
            )
        view = (storage.key, dtype, offset, size, stride)
        if view not in self._views:
            self._views[view] = self._new_view(storage, dtype, offset, size, stride, count)
        return self._views[view]

    def _new_view(
        self, storage: Storage, dtype: np.dtype, offset: int, size: tuple, stride: tuple, count: int
    ) -> np.ndarray:
        self._view_bytes += count * dtype.itemsize
        if self._view_bytes > self._file.size:
            raise self._file.error(
                f"its tensors come to {self._view_bytes} bytes, the file has {self._file.size}",
                "if PyTorch reads it, save tensors that do not overlap: {k: v.clone() for k, v in ...}",
            )
        if count == 0:
            return np.empty(size, dtype)
        # The stride of a length of 1 is never used, and may be too large for numpy.
        steps = [step if length > 1 else 0 for length, step in zip(size, stride, strict=True)]
        strides = [step * dtype.itemsize for step in steps]
        return np.ndarray(size, dtype, storage.data, offset * dtype.itemsize, strides)
