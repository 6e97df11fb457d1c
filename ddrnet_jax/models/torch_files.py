"""PyTorch weight files (.pth, .pt), read and written without PyTorch; nothing in a file is executed.

A .pth file is a pickle, a program for a stack machine, beside the raw bytes of its tensors. `_Pickle` runs
the few opcodes that tables of tensors need: a name in the program stays a name, nothing is ever imported, and
the only calls are the rebuilders of tensors in `_Tensors.call`. Every size in a file is checked against the
file before it is used.
"""

import itertools
import math
import os
import pickle
import pickletools
import struct
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from ddrnet_jax.models.safetensors_files import (
    DAMAGED,
    DTYPES,
    WeightsFile,
    WeightsFileError,
    data_bytes,
    open_weights,
    read_safetensors,
    replacing,
    safetensors_of,
    shown,
    write_safetensors,
)

__all__ = ["WeightsFileError", "read_safetensors", "read_tensors", "write_pth", "write_safetensors"]

RESAVE = "in PyTorch, save the tensors alone: torch.save(model.state_dict(), path)"
# What a pickle can make grows with its opcodes (some 100 bytes each) and its text (up to 4 bytes a letter).
# A tensor takes about 30 opcodes and 150 bytes, so these hold 8,000 tensors and cap the memory at some 50 MB.
MAX_OPCODES = 250_000
MAX_PICKLE_BYTES = 4 * 2**20
MAX_ZIP_DIRECTORY_BYTES = 2**20
MAX_NESTING = 64
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001

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
_STORAGE_NAMES = {dtype: name for name, dtype in _STORAGES.items()}
_STORAGES_READ = _STORAGES | {"torch.storage.UntypedStorage": np.dtype(np.uint8)}
_DTYPES = {f"torch.{dtype.name}": dtype for dtype in DTYPES.values()}
_CALLS = {
    "collections.OrderedDict",
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_tensor_v3",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_parameter_with_state",
}
_NAMES = _CALLS | _STORAGES_READ.keys() | _DTYPES.keys()


def read_tensors(path: str | os.PathLike) -> Any:
    """What was saved in a .pth, .pt or .safetensors file, with every tensor as an array of numpy.

    .pth and .pt give the saved object: dicts, lists, tuples, strings, numbers, None and arrays, nested as
    they were; tensors that shared memory when they were saved share it here. safetensors gives a flat dict.
    The content decides which format it is, not the suffix. Any other content is a `WeightsFileError`.
    """
    with open_weights(path) as file:
        head = file.read(0, min(file.size, 16), "the file")
        if head.startswith(b"PK\x03\x04"):
            return _read_zip(file)
        if head[8:9] == b"{" and head[4:8] == bytes(4):  # a header below 4 GiB; other bytes are a pickle's
            return safetensors_of(file)[0]
        if head.startswith(b"\x80"):
            return _read_legacy(file)
        raise file.error(
            f"begins with {head!r}, expected a file of torch.save or safetensors",
            "if it is a web page or a Git LFS pointer, download the weights themselves",
        )


def write_pth(path: str | os.PathLike, state: dict[str, np.ndarray]) -> None:
    """Writes a flat state dict as torch.save does; torch.load(path, weights_only=True) reads it."""
    arrays = {name: np.asarray(array) for name, array in state.items()}
    for name, array in arrays.items():
        if not isinstance(name, str) or array.dtype not in _STORAGE_NAMES:
            wanted = ", ".join(map(str, _STORAGE_NAMES))
            raise WeightsFileError(f"{path}: cannot hold {name!r} of type {array.dtype}; use a str and one of {wanted}")
    with replacing(path) as stream, zipfile.ZipFile(stream, "w") as archive:
        for member, data in (
            ("data.pkl", _state_pickle(arrays)),
            ("byteorder", b"little"),
            ("version", b"3\n"),
        ):
            archive.writestr(zipfile.ZipInfo(f"archive/{member}"), data)
        for index, array in enumerate(arrays.values()):
            archive.writestr(zipfile.ZipInfo(f"archive/data/{index}"), memoryview(data_bytes(array)))


# --- the pickle ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Global:
    """A name that a pickle asked for; it stands for itself, nothing is imported."""

    name: str


@dataclass(frozen=True, slots=True)
class _Storage:
    """The memory behind tensors: `data`, u8[count * dtype.itemsize]."""

    key: str
    dtype: np.dtype
    count: int
    data: np.ndarray


class _Tensors:
    """Makes the storages and tensors a pickle describes, each one checked before it is made."""

    def __init__(self, file: WeightsFile, open_storage: Callable[[str, int], np.ndarray]):
        self.storages: dict[str, _Storage] = {}
        self._file = file
        self._open_storage = open_storage
        self._views: dict[tuple, np.ndarray] = {}
        self._view_bytes = 0

    def storage(self, description: object) -> _Storage:
        """The storage of a persistent id ("storage", type, key, location, elements[, None])."""
        match description:
            case (str("storage"), _Global(kind), str(key), str(), count, *view) if all(v is None for v in view):
                dtype = _STORAGES_READ.get(kind)
            case _:
                raise self._file.error("it refers to something other than a whole storage", RESAVE)
        if dtype is None or type(count) is not int or not 0 <= count <= self._file.size:
            raise self._file.error(f"storage {shown(key)} has {shown(count)} elements of {shown(kind)}")
        if key not in self.storages:
            memory = self._open_storage(key, count * dtype.itemsize)
            self.storages[key] = _Storage(key, dtype, count, memory)
        storage = self.storages[key]
        if (storage.dtype, storage.count) != (dtype, count):
            raise self._file.error(f"storage {shown(key)} is described twice, differently")
        return storage

    def call(self, name: str, arguments: tuple) -> OrderedDict | np.ndarray:
        """What the pickle's call of `name` gives; hooks, requires_grad and Python attributes are left out."""
        match name.rpartition(".")[2], arguments:
            case "OrderedDict", ():
                return OrderedDict()
            case "_rebuild_tensor", (_Storage() as storage, offset, size, stride):
                return self._tensor(storage, storage.dtype, offset, size, stride)
            case "_rebuild_tensor_v2", (_Storage() as storage, offset, size, stride, _, _):
                return self._tensor(storage, storage.dtype, offset, size, stride)
            case "_rebuild_tensor_v3", (_Storage() as storage, offset, size, stride, _, _, _Global(dtype)):
                if dtype in _DTYPES:
                    return self._tensor(storage, _DTYPES[dtype], offset, size, stride)
            case "_rebuild_parameter", (np.ndarray() as tensor, _, _):
                return tensor
            case "_rebuild_parameter_with_state", (np.ndarray() as tensor, _, _, _):
                return tensor
        raise self._file.error(f"refusing {shown(name)} with arguments that make no plain tensor", RESAVE)

    def check_bools(self) -> None:
        """To be called once the storages are filled."""
        for (key, *_), array in self._views.items():
            self._file.check_bools(array, f"a tensor of storage {shown(key)}")

    def _tensor(self, storage: _Storage, dtype: np.dtype, offset: object, size: object, stride: object) -> np.ndarray:
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
        self, storage: _Storage, dtype: np.dtype, offset: int, size: tuple, stride: tuple, count: int
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


class _Pickle:
    """Runs the pickles in `data`, one after the other; `load` gives the value of the next."""

    def __init__(self, file: WeightsFile, data: bytes, tensors: _Tensors):
        self.file, self.data, self.tensors = file, data, tensors
        self.position = 0
        self.opcode_count = 0

    def load(self) -> Any:
        self.stack: list = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        while (opcode := self.take(1)) != pickle.STOP:
            self.opcode_count += 1
            if self.opcode_count > MAX_OPCODES:
                raise self.file.error(f"its pickle has over {MAX_OPCODES} opcodes", RESAVE)
            if opcode not in _OPCODES:
                raise self.file.error(f"refusing the pickle opcode {_opcode_name(opcode)}", RESAVE)
            _OPCODES[opcode](self)
        value = self.pop()
        _check_plain(self.file, value, itertools.count())
        return value

    def malformed(self) -> WeightsFileError:
        return self.file.error(f"its pickle makes no sense at byte {self.position}")

    def take(self, count: int) -> bytes:
        if count < 0 or self.position + count > len(self.data):
            raise self.file.error(f"its pickle does not end within {len(self.data)} bytes")
        self.position += count
        return self.data[self.position - count : self.position]

    def number(self, layout: str) -> Any:
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def long(self) -> int:
        return int.from_bytes(self.take(self.number("<B")), "little", signed=True)

    def text(self, length_layout: str) -> str:
        return self.decoded(self.take(self.number(length_layout)))

    def line(self) -> str:
        end = self.data.find(b"\n", self.position, self.position + 200)
        return self.decoded(self.take(end + 1 - self.position)[:-1])

    def decoded(self, text: bytes) -> str:
        try:
            return text.decode("utf-8")
        except UnicodeDecodeError as problem:
            raise self.file.error("its pickle has text that is not UTF-8") from problem

    def push(self, value: object) -> None:
        self.stack.append(value)

    def top(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise self.malformed()
        return self.stack[-1]

    def pop(self) -> Any:
        value = self.top()
        self.stack.pop()
        return value

    def pops(self, count: int) -> list:
        """The topmost `count` values, the topmost last."""
        return [self.pop() for _ in range(count)][::-1]

    def pop_to_mark(self) -> list:
        if not self.marks:
            raise self.malformed()
        mark = self.marks.pop()
        values = self.stack[mark:]
        del self.stack[mark:]
        return values

    def memoize(self, index: int) -> None:
        self.memo[index] = self.top()

    def recall(self, index: int) -> None:
        if index not in self.memo:
            raise self.malformed()
        self.push(self.memo[index])

    def extend(self, values: list) -> None:
        target = self.top()
        if type(target) is not list:
            raise self.malformed()
        target.extend(values)

    def set_items(self, values: list) -> None:
        target, keys = self.top(), values[::2]
        if not isinstance(target, dict) or len(values) % 2:
            raise self.malformed()
        # Keys of other types can be built to collide, or to hash without end.
        if not all(type(key) is str or (type(key) is int and key.bit_length() < 61) for key in keys):
            raise self.file.error("a dict in its pickle has a key that is neither a string nor an integer", RESAVE)
        target.update(zip(keys, values[1::2], strict=True))

    def name(self, module: object, name: object) -> None:
        if type(module) is not str or type(name) is not str:
            raise self.malformed()
        if f"{module}.{name}" not in _NAMES:
            raise self.file.error(
                f"refusing {shown(f'{module}.{name}')}: only tensors are read, nothing is run", RESAVE
            )
        self.push(_Global(f"{module}.{name}"))

    def instance(self) -> None:
        self.name(self.line(), self.line())
        raise self.malformed()

    def call(self) -> None:
        function, arguments = self.pops(2)
        if not isinstance(function, _Global) or function.name not in _CALLS or type(arguments) is not tuple:
            what = function.name if isinstance(function, _Global) else "what is no function"
            raise self.file.error(f"refusing to call {what}", RESAVE)
        self.push(self.tensors.call(function.name, arguments))

    def ignore_attributes(self) -> None:
        """Python attributes of a state dict (`_metadata`, versions of modules) or tensor are no weights."""
        attributes, target = self.pop(), self.top()
        if type(attributes) is not dict or not isinstance(target, OrderedDict | np.ndarray):
            raise self.malformed()


def _opcode_name(opcode: bytes) -> str:
    known = pickletools.code2op.get(opcode.decode("latin-1"))
    return known.name if known else repr(opcode)


_OPCODES: dict[bytes, Callable[[_Pickle], Any]] = {
    pickle.PROTO: lambda machine: machine.take(1),
    pickle.FRAME: lambda machine: machine.take(8),
    pickle.NONE: lambda machine: machine.push(None),
    pickle.NEWTRUE: lambda machine: machine.push(True),
    pickle.NEWFALSE: lambda machine: machine.push(False),
    pickle.BININT: lambda machine: machine.push(machine.number("<i")),
    pickle.BININT1: lambda machine: machine.push(machine.number("<B")),
    pickle.BININT2: lambda machine: machine.push(machine.number("<H")),
    pickle.LONG1: lambda machine: machine.push(machine.long()),
    pickle.BINFLOAT: lambda machine: machine.push(machine.number(">d")),
    pickle.BINUNICODE: lambda machine: machine.push(machine.text("<I")),
    pickle.SHORT_BINUNICODE: lambda machine: machine.push(machine.text("<B")),
    pickle.BINSTRING: lambda machine: machine.push(machine.text("<i")),
    pickle.SHORT_BINSTRING: lambda machine: machine.push(machine.text("<B")),
    pickle.MARK: lambda machine: machine.marks.append(len(machine.stack)),
    pickle.EMPTY_TUPLE: lambda machine: machine.push(()),
    pickle.TUPLE1: lambda machine: machine.push(tuple(machine.pops(1))),
    pickle.TUPLE2: lambda machine: machine.push(tuple(machine.pops(2))),
    pickle.TUPLE3: lambda machine: machine.push(tuple(machine.pops(3))),
    pickle.TUPLE: lambda machine: machine.push(tuple(machine.pop_to_mark())),
    pickle.EMPTY_LIST: lambda machine: machine.push([]),
    pickle.APPEND: lambda machine: machine.extend(machine.pops(1)),
    pickle.APPENDS: lambda machine: machine.extend(machine.pop_to_mark()),
    pickle.EMPTY_DICT: lambda machine: machine.push({}),
    pickle.SETITEM: lambda machine: machine.set_items(machine.pops(2)),
    pickle.SETITEMS: lambda machine: machine.set_items(machine.pop_to_mark()),
    pickle.BINPUT: lambda machine: machine.memoize(machine.number("<B")),
    pickle.LONG_BINPUT: lambda machine: machine.memoize(machine.number("<I")),
    pickle.MEMOIZE: lambda machine: machine.memoize(len(machine.memo)),
    pickle.BINGET: lambda machine: machine.recall(machine.number("<B")),
    pickle.LONG_BINGET: lambda machine: machine.recall(machine.number("<I")),
    pickle.GLOBAL: lambda machine: machine.name(machine.line(), machine.line()),
    pickle.STACK_GLOBAL: lambda machine: machine.name(*machine.pops(2)),
    pickle.INST: lambda machine: machine.instance(),
    pickle.REDUCE: lambda machine: machine.call(),
    pickle.BUILD: lambda machine: machine.ignore_attributes(),
    pickle.BINPERSID: lambda machine: machine.push(machine.tensors.storage(machine.pop())),
}


def _check_plain(file: WeightsFile, value: object, visits: Iterator[int], depth: int = 0) -> None:
    """Refuses what is no plain value or tensor, and nesting that would outlast whoever walks the result."""
    if depth > MAX_NESTING or next(visits) > MAX_OPCODES:
        raise file.error(f"its pickle nests values more than {MAX_NESTING} deep, or within themselves", RESAVE)
    if isinstance(value, _Global | _Storage):
        raise file.error(f"refusing {getattr(value, 'name', 'a storage')} as a value: it is no tensor", RESAVE)
    if isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            _check_plain(file, item, visits, depth + 1)


# --- the two containers of torch.save ------------------------------------------------------------------


_ZIP_ENTRY = struct.Struct("<4s4xHH4xLLLHHH8xL")


class _Member(NamedTuple):
    """One entry of a zip file's directory."""

    header_offset: int
    size: int
    checksum: int
    plain: bool


class _Zip:
    """The members of a zip file; sizes and places come from its directory and are checked when used."""

    def __init__(self, file: WeightsFile):
        self._file = file
        count, size, offset = self._directory_place()
        if size > MAX_ZIP_DIRECTORY_BYTES:
            raise file.error(f"its zip directory of {size} bytes is over {MAX_ZIP_DIRECTORY_BYTES}", RESAVE)
        self.members: dict[str, _Member] = {}
        self._read_directory(file.read(offset, size, "the zip directory"), count)

    def read(self, name: str, limit: int) -> bytes:
        """The content of a small member."""
        member, offset = self._locate(name)
        if member.size > limit:
            raise self._file.error(f"its {shown(name)} of {member.size} bytes is over {limit}", RESAVE)
        data = self._file.read(offset, member.size, shown(name))
        self._check(name, member, data)
        return data

    def storage(self, name: str, size: int) -> np.ndarray:
        """The content of a member that must have `size` bytes, u8[size]."""
        member, offset = self._locate(name)
        if member.size != size:
            raise self._file.error(f"its {shown(name)} has {member.size} bytes, its tensors need {size}")
        memory = self._file.reserve(size, shown(name))
        self._file.fill(memory, offset, shown(name))
        self._check(name, member, memory)
        return memory

    def _directory_place(self) -> tuple[int, int, int]:
        """(entries, bytes, offset) of the directory, from the record that ends the file."""
        what = "the end of the zip directory"
        end = self._file.read(self._file.size - 22, 22, what)
        if end[:4] != b"PK\x05\x06":
            raise self._file.error("it begins as a zip file and does not end as one")
        count, size, offset = struct.unpack("<HLL", end[10:20])
        locator = self._file.read(max(self._file.size - 42, 0), 20, what)
        if locator[:4] == b"PK\x06\x07":
            record = self._file.read(struct.unpack("<Q", locator[8:16])[0], 56, what)
            if record[:4] != b"PK\x06\x06":
                raise self._file.error("its zip64 record is not where it is said to be")
            count, size, offset = struct.unpack("<QQQ", record[32:56])
        return count, size, offset

    def _read_directory(self, data: bytes, count: int) -> None:
        position = 0
        while position < len(data):
            if position + _ZIP_ENTRY.size > len(data) or data[position : position + 4] != b"PK\x01\x02":
                raise self._file.error("its zip directory is malformed")
            _, flags, method, checksum, *numbers = _ZIP_ENTRY.unpack_from(data, position)
            packed, size, name_size, extra_size, comment_size, offset = numbers
            position += _ZIP_ENTRY.size
            name = data[position : position + name_size].decode("utf-8", "replace")
            extra = data[position + name_size : position + name_size + extra_size]
            position += name_size + extra_size + comment_size
            size, packed, offset = _zip64_sizes(extra, size, packed, offset)
            if name in self.members:
                raise self._file.error(f"it has two members named {shown(name)}")
            plain = method == 0 and packed == size and not flags & 1
            self.members[name] = _Member(offset, size, checksum, plain)
        if position != len(data) or len(self.members) != count:
            raise self._file.error(f"its zip directory lists {len(self.members)} members, announced {count}")

    def _locate(self, name: str) -> tuple[_Member, int]:
        """A member and where its content begins."""
        what = shown(name)
        if name not in self.members:
            raise self._file.error(f"it has no member {what}")
        member = self.members[name]
        if not member.plain:
            raise self._file.error(f"its {what} is compressed or encrypted; torch.save does neither", RESAVE)
        header = self._file.read(member.header_offset, 30, what)
        name_size, extra_size = struct.unpack("<HH", header[26:30])
        found = self._file.read(member.header_offset + 30, name_size, what).decode("utf-8", "replace")
        if header[:4] != b"PK\x03\x04" or found != name:
            raise self._file.error(f"its {what} is not where the zip directory says")
        return member, member.header_offset + 30 + name_size + extra_size

    def _check(self, name: str, member: _Member, data: bytes | np.ndarray) -> None:
        if zlib.crc32(data) != member.checksum:
            remedy = f"{DAMAGED}, or save it again with torch.serialization.set_crc32_options(True)"
            raise self._file.error(f"the checksum of its {shown(name)} is wrong", remedy)


def _zip64_sizes(extra: bytes, *sizes: int) -> list[int]:
    """`sizes`, with those too large for 32 bits (all ones) taken from the entry's zip64 field."""
    fields: Iterator[int] = iter(())
    position = 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, position)
        field = extra[position + 4 : position + 4 + length]
        if kind == 1:
            fields = iter(struct.unpack_from(f"<{len(field) // 8}Q", field))
        position += 4 + length
    return [next(fields, size) if size == 0xFFFFFFFF else size for size in sizes]


def _read_zip(file: WeightsFile) -> Any:
    archive = _Zip(file)
    pickles = [name for name in archive.members if name.rpartition("/")[2] == "data.pkl"]
    if len(pickles) != 1:
        raise file.error(f"it is a zip file with {len(pickles)} members data.pkl, expected 1", RESAVE)
    root = pickles[0].removesuffix("data.pkl")
    if root + "byteorder" in archive.members and archive.read(root + "byteorder", 16) != b"little":
        raise file.error("it was saved in big-endian byte order", "save it again on a little-endian machine")
    tensors = _Tensors(file, lambda key, size: archive.storage(root + "data/" + key, size))
    value = _Pickle(file, archive.read(pickles[0], MAX_PICKLE_BYTES), tensors).load()
    tensors.check_bools()
    return value


def _read_legacy(file: WeightsFile) -> Any:
    """The format before PyTorch 1.6: five pickles, then each storage as its element count and its bytes."""
    tensors = _Tensors(file, lambda key, size: file.reserve(size, f"storage {shown(key)}"))
    pickles = _Pickle(file, file.read(0, min(file.size, MAX_PICKLE_BYTES), "the pickle"), tensors)
    if not _is_int(pickles.load(), LEGACY_MAGIC) or not _is_int(pickles.load(), LEGACY_PROTOCOL):
        raise file.error("it is a pickle and not a file of torch.save", RESAVE)
    system = pickles.load()
    if type(system) is not dict or system.get("little_endian") is not True:
        raise file.error("it is not from a little-endian machine", "save it again on one")
    value, keys = pickles.load(), pickles.load()
    if type(keys) is not list or not all(type(key) is str for key in keys):
        raise file.error("its list of storages is not a list of names")
    if len(set(keys)) != len(keys) or set(keys) != tensors.storages.keys():
        raise file.error("its list of storages is not that of its tensors")
    _fill_storages(file, [tensors.storages[key] for key in keys], pickles.position)
    tensors.check_bools()
    return value


def _is_int(value: object, expected: int) -> bool:
    return type(value) is int and value == expected


def _fill_storages(file: WeightsFile, storages: list[_Storage], position: int) -> None:
    for storage in storages:
        what = f"storage {shown(storage.key)}"
        count = int.from_bytes(file.read(position, 8, what), "little", signed=True)
        if count != storage.count:
            raise file.error(f"{what} has {count} elements, its tensors were told {storage.count}")
        file.fill(storage.data, position + 8, what)
        position += 8 + storage.data.size


# --- writing -------------------------------------------------------------------------------------------


def _state_pickle(arrays: dict[str, np.ndarray]) -> bytes:
    """The pickle that torch.save would write: an OrderedDict of calls that rebuild one tensor each."""
    items = b"".join(
        _text(name) + _tensor_pickle(str(index), array) for index, (name, array) in enumerate(arrays.items())
    )
    return pickle.PROTO + b"\x02" + _EMPTY_ORDERED_DICT + pickle.MARK + items + pickle.SETITEMS + pickle.STOP


def _tensor_pickle(key: str, array: np.ndarray) -> bytes:
    kind = _name(_STORAGE_NAMES[array.dtype])
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
