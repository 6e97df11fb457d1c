"""The pickles of PyTorch, run by a machine of our own; nothing in them is executed.

A pickle is a program for a stack machine. `PickleMachine` runs the few opcodes that tables of tensors need: a
name in the program stays a name, nothing is ever imported, and the only calls are those of `Tensors.call`.
"""

import itertools
import pickle
import pickletools
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ddrnet_jax.weights.files import containers
from ddrnet_jax.weights.files.safetensors import WeightsFile, WeightsFileError
from ddrnet_jax.weights.files.torch_tensors import CALLS, NAMES, RESAVE, Global, Storage, Tensors

# What a pickle can make grows with its opcodes (some 100 bytes each) and its text (up to 4 bytes a letter).
# A tensor takes about 30 opcodes and 150 bytes, so these hold 8,000 tensors and cap the memory at some 50 MB.
MAX_OPCODES = 250_000
MAX_PICKLE_BYTES = 4 * 2**20
MAX_NESTING = 64


class PickleMachine:
    """Runs the pickles in `data`, one after the other; `load` gives the value of the next."""

    def __init__(self, file: WeightsFile, data: bytes, tensors: Tensors):
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
        if f"{module}.{name}" not in NAMES:
            raise containers.refused_name(self.file, f"{module}.{name}", is_whole=not self.stack and not self.marks)
        self.push(Global(f"{module}.{name}"))

    def instance(self) -> None:
        self.name(self.line(), self.line())
        raise self.malformed()

    def call(self) -> None:
        function, arguments = self.pops(2)
        if not isinstance(function, Global) or function.name not in CALLS or type(arguments) is not tuple:
            what = function.name if isinstance(function, Global) else "what is no function"
            raise self.file.error(f"refusing to call {what}", RESAVE)
        self.push(self.tensors.call(function.name, arguments))

    def ignore_attributes(self) -> None:
        """Python attributes of a state dict (`_metadata`, versions of modules) or tensor are no weights."""
        attributes, target = self.pop(), self.top()
        match target, attributes:
            case np.dtype(), (int(3), str("<" | "|"), None, None, None, int(-1), int(-1), int(0)):
                return  # little-endian and without fields: what it is already
        if type(attributes) is not dict or not isinstance(target, OrderedDict | np.ndarray):
            raise self.malformed()


def _opcode_name(opcode: bytes) -> str:
    known = pickletools.code2op.get(opcode.decode("latin-1"))  # type: ignore[attr-defined]
    return known.name if known else repr(opcode)


_OPCODES: dict[bytes, Callable[[PickleMachine], Any]] = {
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
    pickle.SHORT_BINBYTES: lambda machine: machine.push(machine.take(machine.number("<B"))),
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
    if isinstance(value, Global | Storage | np.dtype | bytes):
        what = "bytes" if isinstance(value, bytes) else getattr(value, "name", "a storage")
        raise file.error(f"refusing {what} as a value: it is no tensor", RESAVE)
    if isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            _check_plain(file, item, visits, depth + 1)
