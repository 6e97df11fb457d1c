"""Hostile weights files by the thousand: each must end as tensors or in one WeightsFileError, and soon.

    python tests/weights/fuzz_files.py --count 20000 --seed 0

Files are written byte by byte here, without PyTorch and without the code under test. A worker process with
little more memory than it needs reads them; an audit hook and a canary file watch that nothing is executed.
"""

import argparse
import collections
import json
import os
import pickletools
import random
import resource
import signal
import struct
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ddrnet_jax.weights.files import WeightsFileError, read_tensors

SPARE_MEMORY_BYTES = 64 * 2**20
SECONDS_PER_FILE = 20
HARMLESS_EVENTS = {"object.__getattr__", "sys._getframe", "builtins.id"}
ODD_NUMBERS = [
    True,
    False,
    None,
    -1,
    0,
    1,
    2,
    7,
    255,
    2**16,
    2**31 - 1,
    2**31,
    2**40,
    2**62,
    2**63,
    2**64,
    2**200,
    1.5,
]
WIDTHS = {
    "Double": 8,
    "Float": 4,
    "Half": 2,
    "BFloat16": 2,
    "Long": 8,
    "Int": 4,
    "Short": 2,
    "Char": 1,
    "Byte": 1,
}
WIDTHS |= {"Bool": 1}
MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03."


# --- writing files, sound and otherwise ------------------------------------------------------------------


@dataclass(frozen=True)
class Tensor:
    """One tensor of a file, as the file tells it; any part may be a lie."""

    name: str
    key: str = "0"
    kind: str = "Float"
    elements: object = 6
    offset: object = 0
    size: tuple = (2, 3)
    stride: tuple = (3, 1)
    data: bytes = bytes(range(24))


@dataclass(frozen=True)
class Member:
    """One member of a zip file; what is None is told truthfully."""

    name: str
    data: bytes
    size: int | None = None
    packed_size: int | None = None
    checksum: int | None = None
    deflated: bool = False
    header_offset: int | None = None
    local_name: str | None = None


def text(value: str) -> bytes:
    encoded = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def number(value: object) -> bytes:
    if value is None or isinstance(value, bool):
        return {None: b"N", True: b"\x88", False: b"\x89"}[value]
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    if -(2**31) <= value < 2**31:
        return b"J" + struct.pack("<i", value)
    encoded = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(encoded)]) + encoded


def group(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def named(name: str) -> bytes:
    module, _, last = name.rpartition(".")
    return f"c{module}\n{last}\n".encode()


EMPTY_ORDERED_DICT = named("collections.OrderedDict") + b")R"


def tensor_opcodes(tensor: Tensor, legacy: bool = False) -> bytes:
    storage = [text("storage"), named(f"torch.{tensor.kind}Storage"), text(tensor.key), text("cpu")]
    storage += [number(tensor.elements)] + [b"N"] * legacy
    size, stride = group(*map(number, tensor.size)), group(*map(number, tensor.stride))
    arguments = [group(*storage) + b"Q", number(tensor.offset), size, stride, b"\x89", EMPTY_ORDERED_DICT]
    return named("torch._utils._rebuild_tensor_v2") + group(*arguments) + b"R"


def state_opcodes(tensors: list[Tensor], legacy: bool = False) -> bytes:
    items = [text(tensor.name) + tensor_opcodes(tensor, legacy) for tensor in tensors]
    return b"\x80\x02" + EMPTY_ORDERED_DICT + b"(" + b"".join(items) + b"u."


def zip_file(members: list[Member], count: int | None = None, zip64: bool = False) -> bytes:
    body, directory = b"", b""
    for member in members:
        name = member.name.encode()
        local_name = name if member.local_name is None else member.local_name.encode()
        packed = zlib.compress(member.data, wbits=-15) if member.deflated else member.data
        size = len(member.data) if member.size is None else member.size
        packed_size = len(packed) if member.packed_size is None else member.packed_size
        checksum = zlib.crc32(member.data) if member.checksum is None else member.checksum
        offset = len(body) if member.header_offset is None else member.header_offset
        method = 8 if member.deflated else 0
        body += struct.pack("<4sHHH4sLLLHH", b"PK\3\4", 20, 0, method, bytes(4), 0, 0, 0, len(local_name), 0)
        body += local_name + packed
        sizes = [packed_size, size, offset]
        extra = b""
        if zip64:
            extra = struct.pack("<HHQQQ", 1, 24, size, packed_size, offset)
            sizes = [0xFFFFFFFF] * 3
        entry = struct.pack("<4sHHHH4sL", b"PK\1\2", 20, 20, 0, method, bytes(4), checksum)
        entry += struct.pack("<LLHHHHHLL", *sizes[:2], len(name), len(extra), 0, 0, 0, 0, sizes[2])
        directory += entry + name + extra
    count = len(members) if count is None else count
    end = struct.pack("<4sHHHHLLH", b"PK\5\6", 0, 0, count % 2**16, count % 2**16, len(directory), len(body), 0)
    if zip64:
        record = struct.pack("<4sQHHLLQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, count, count, len(directory), len(body))
        end = record + struct.pack("<4sLQL", b"PK\6\7", 0, len(body) + len(directory), 1) + end
    return body + directory + end


def pth_members(tensors: list[Tensor], opcodes: bytes | None = None, byteorder: bytes = b"little") -> list[Member]:
    storages = {tensor.key: tensor.data for tensor in tensors}
    members = [Member("archive/data.pkl", state_opcodes(tensors) if opcodes is None else opcodes)]
    members += [Member("archive/byteorder", byteorder), Member("archive/version", b"3\n")]
    return members + [Member(f"archive/data/{key}", data) for key, data in storages.items()]


@dataclass(frozen=True)
class Legacy:
    """The parts of a file in the format before PyTorch 1.6; what is None follows from the tensors."""

    tensors: list[Tensor]
    opcodes: bytes | None = None
    keys: list[str] | None = None
    counts: dict = field(default_factory=dict)
    little_endian: bool = True

    def to_bytes(self) -> bytes:
        storages = {tensor.key: tensor for tensor in self.tensors}
        keys = sorted(storages) if self.keys is None else self.keys
        system = b"\x80\x02}(" + text("protocol_version") + number(1001)
        system += text("little_endian") + number(self.little_endian) + b"u."
        opcodes = state_opcodes(self.tensors, legacy=True) if self.opcodes is None else self.opcodes
        listed = b"\x80\x02](" + b"".join(map(text, keys)) + b"e."
        data = b""
        for key in keys:
            content = storages[key].data if key in storages else b""
            count = self.counts.get(key, len(content) // WIDTHS.get(storages[key].kind, 1) if key in storages else 0)
            data += (count % 2**64).to_bytes(8, "little") + content
        return MAGIC + system + opcodes + listed + data


def safetensors_file(header: object, data: bytes, header_size: int | None = None) -> bytes:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", (len(encoded) if header_size is None else header_size) % 2**64) + encoded + data


# --- what is wrong with a file ---------------------------------------------------------------------------


def sound_tensors(rng: random.Random) -> list[Tensor]:
    """A few tensors of every kind, some strided, some that share a storage."""
    tensors = []
    for index in range(rng.randint(1, 5)):
        kind = rng.choice(list(WIDTHS))
        rows, columns = rng.randint(0, 5), rng.randint(1, 5)
        count = rows * columns
        data = bytes(rng.randrange(2) if kind == "Bool" else rng.randrange(256) for _ in range(count * WIDTHS[kind]))
        view = rng.choice([((rows, columns), (columns, 1)), ((columns, rows), (1, columns)), ((count,), (1,))])
        tensor = Tensor(f"layer{index}.weight", str(index), kind, count, 0, *view, data)
        tensors += [tensor, replace(tensor, name=f"tied{index}")] if rng.random() < 0.2 else [tensor]
    return tensors


def containers(rng: random.Random, tensors: list[Tensor], opcodes: bytes | None = None) -> bytes:
    """The tensors, or the given pickle, in either of PyTorch's formats."""
    if rng.random() < 0.5:
        return zip_file(pth_members(tensors, opcodes), zip64=rng.random() < 0.3)
    return Legacy(tensors, opcodes).to_bytes()


def sound_safetensors(rng: random.Random) -> tuple[dict, bytes]:
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for index in range(rng.randint(1, 5)):
        dtype, width = rng.choice([("F32", 4), ("F64", 8), ("BF16", 2), ("I64", 8), ("U8", 1), ("F16", 2)])
        shape = [rng.randint(0, 4) for _ in range(rng.randint(0, 3))]
        size = int(np.prod(shape)) * width
        header[f"layer{index}"] = {
            "dtype": dtype,
            "shape": shape,
            "data_offsets": [len(data), len(data) + size],
        }
        data += rng.randbytes(size)
    return header, data


def sound(rng: random.Random) -> bytes:
    if rng.random() < 0.3:
        return safetensors_file(*sound_safetensors(rng))
    return containers(rng, sound_tensors(rng))


def header(rng: random.Random) -> bytes:
    content = bytearray(sound(rng))
    for _ in range(rng.randint(1, 8)):
        content[rng.randrange(min(len(content), 64))] = rng.randrange(256)
    return bytes(content)


def bit_flips(rng: random.Random) -> bytes:
    content = bytearray(sound(rng))
    for _ in range(rng.choice([1, 1, 2, 8, 64])):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    return bytes(content)


def truncation(rng: random.Random) -> bytes:
    content = sound(rng)
    content = content[: rng.randrange(len(content) + 1)]
    return content + rng.randbytes(rng.choice([0, 0, 1, 30, 1000]))


def opcodes(rng: random.Random) -> bytes:
    """A sound pickle with opcodes taken out, put in, moved, doubled and overwritten; checksums are right."""
    tensors = sound_tensors(rng)
    program = state_opcodes(tensors, legacy=rng.random() < 0.5)
    starts = [position for _, _, position in pickletools.genops(program)]
    steps = [program[start:end] for start, end in zip(starts, [*starts[1:], len(program)], strict=True)]
    plain = [bytes([code]) for code in b".)]}N\x88\x89(RbQtuesa\x81\x85\x86\x87\x93\x94o0122l"]
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        place, length = rng.randrange(len(steps)), rng.choice([0, 1, 1, 2])
        piece = rng.choice([[rng.choice(steps)], [rng.choice(plain)], [], [rng.choice([b"q\0", b"h\0"])]])
        steps[place : place + length] = piece
        steps = steps or [b"."]
    content = bytearray(b"".join(steps))
    if rng.random() < 0.2:
        content[rng.randrange(len(content))] = rng.randrange(256)
    return containers(rng, tensors, bytes(content))


def lengths(rng: random.Random) -> bytes:
    """Opcodes that announce much: texts, frames, memo places, long integers."""
    big = rng.choice([0xFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF])
    piece = rng.choice(
        [
            b"X" + struct.pack("<I", big),
            b"T" + struct.pack("<i", rng.choice([-1, 0x7FFFFFFF])),
            b"\x8d" + struct.pack("<Q", 2 ** rng.choice([30, 40, 63])),
            b"\x95" + struct.pack("<Q", 2 ** rng.choice([30, 40, 63])),
            b"\x8b" + struct.pack("<i", rng.choice([-1, 0x7FFFFFFF])),
            b"\x8e" + struct.pack("<Q", 2**40),
            b"\x96" + struct.pack("<Q", 2**40),
            b"]r" + struct.pack("<I", big),
            b"j" + struct.pack("<I", big),
            b"p" + str(10**12).encode() + b"\n",
            b"I" + b"9" * 5000 + b"\n",
        ]
    )
    tensors = sound_tensors(rng)
    return containers(rng, tensors, b"\x80\x02" + piece + rng.choice([b"", b".", state_opcodes(tensors)[2:]]))


def with_odd(rng: random.Random, numbers: object) -> tuple:
    numbers = list(numbers) or [1]
    numbers[rng.randrange(len(numbers))] = rng.choice([*ODD_NUMBERS, rng.randint(-9, 99)])
    return tuple(numbers + [rng.choice(ODD_NUMBERS)] * rng.choice([0] * 16 + [1, 40]))


def view_lie(part: str) -> Callable[[random.Random], bytes]:
    """A file whose tensors are sound but for this one part of one of them."""

    def make(rng: random.Random) -> bytes:
        tensors = sound_tensors(rng)
        place = rng.randrange(len(tensors))
        told = getattr(tensors[place], part)
        lie = rng.choice([*ODD_NUMBERS, rng.randint(-9, 99)])
        if isinstance(told, tuple):
            lie = with_odd(rng, told)
        elif isinstance(told, str):
            lie = rng.choice([*WIDTHS, "Complex", "QInt8", ""])
        tensors[place] = replace(tensors[place], **{part: lie})
        return containers(rng, tensors)

    return make


def zero_strides(rng: random.Random) -> bytes:
    """A tensor that claims to repeat one element of its storage many times."""
    size = tuple(rng.choice([1, 2, 1000, 2**20, 2**31]) for _ in range(rng.randint(1, 6)))
    tensors = sound_tensors(rng)
    tensors[0] = replace(tensors[0], size=size, stride=(0,) * len(size))
    return containers(rng, tensors)


def many_views(rng: random.Random) -> bytes:
    """One storage seen so often that its views together outgrow the file."""
    shapes = [((rows, 4096 // rows), (4096 // rows, 1)) for rows in (1, 2, 4, 8, 16, 32, 64, 128)]
    offsets = [(offset, (4000,), (1,)) for offset in range(rng.randint(0, 20))]
    views = [(0, *shape) for shape in shapes[: rng.randint(1, 8)]] + offsets
    return containers(rng, [Tensor(f"v{i}", "0", "Float", 4096, *view, bytes(16384)) for i, view in enumerate(views)])


def nesting(rng: random.Random) -> bytes:
    depth = rng.choice([10, 60, 70, 1000, 50_000, 200_000])
    if rng.random() < 0.2:
        opening = rng.choice([b"[", b'{"a":'])
        return safetensors_file(opening * depth + rng.choice([b"", b"]" * depth, b"}" * depth]), b"")
    program = rng.choice(
        [
            b"]" * depth + b"a" * (depth - 1),
            b")" + b"\x85" * depth,
            b"(" * depth + b"t" * depth,
            (b"}" + text("a")) * depth + b"N" + b"s" * depth,
            b"}" + b")" + b"\x85" * depth + b"Ns",
            b"]q\x00h\x00a",
            b"}q\x00" + text("me") + b"h\x00s",
            b"]q\x00" + b"(h\x00h\x00lq\x00" * 3 + b"a",
            b"N" + b"q\x00h\x00\x86" * min(depth, 1000),
            b"]" * depth,
        ]
    )
    return containers(rng, [], b"\x80\x02" + program + b".")


def zip_bomb(rng: random.Random) -> bytes:
    tensors = sound_tensors(rng)
    members = pth_members(tensors)
    place = rng.randrange(len(members))
    lie = rng.choice(
        [
            {"deflated": True, "data": bytes(2**20)},
            {"deflated": True, "data": bytes(2**20), "size": 10},
            {"deflated": True},
            {"size": rng.choice([0, 1, 2**31, 2**32 - 1])},
            {"packed_size": rng.choice([0, 1, 2**31])},
            {"size": 2**32 - 1, "packed_size": 2**32 - 1},
            {"checksum": 0},
            {"header_offset": rng.choice([1, 2**31, 2**32 - 1, 40])},
        ]
    )
    members[place] = replace(members[place], **lie)
    count = rng.choice([None, None, None, 0, 2**16 - 1])
    return zip_file(members, count, zip64=rng.random() < 0.5)


def overlap(rng: random.Random) -> bytes:
    """Many members that all point at the same bytes."""
    data = rng.randbytes(4096)
    tensors = [Tensor(f"t{i}", str(i), "Byte", 4096, 0, (4096,), (1,), data) for i in range(rng.randint(2, 40))]
    members = [Member("archive/data.pkl", state_opcodes(tensors)), Member("archive/data/0", data)]
    shared = len(zip_file(members[:1])) - len("archive/data.pkl") - 46 - 22
    members += [
        Member(f"archive/data/{i}", b"", 4096, 4096, zlib.crc32(data), header_offset=shared) for i in range(1, 40)
    ]
    return zip_file(members)


def duplicates(rng: random.Random) -> bytes:
    tensors = sound_tensors(rng)
    choice = rng.randrange(4)
    if choice == 0:
        members = pth_members(tensors)
        return zip_file(members + [rng.choice(members)])
    if choice == 1:
        key = rng.choice(tensors).key
        return Legacy(tensors, keys=[*sorted({tensor.key for tensor in tensors}), key]).to_bytes()
    if choice == 2:
        return containers(rng, tensors + [replace(tensors[0], name="again", kind="Byte")])
    entry = '"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}'
    return safetensors_file(f"{{{entry},{entry}}}".encode(), b"1")


def names(rng: random.Random) -> bytes:
    """Members, keys and storages with names that reach for other places."""
    odd = rng.choice(["../../etc/passwd", "/etc/passwd", "..\\x", "a\0b", "", "\n", "\x1b[31m", "é" * 100, "x" * 5000])
    tensors = [replace(tensor, key=odd + tensor.key, name=odd + tensor.name) for tensor in sound_tensors(rng)]
    if rng.random() < 0.3:
        members = [replace(member, name=odd[:3000] + member.name) for member in pth_members(tensors)]
        return zip_file([replace(member, local_name=rng.choice([None, None, "x"])) for member in members])
    return containers(rng, tensors)


def legacy_lists(rng: random.Random) -> bytes:
    tensors = sound_tensors(rng)
    keys = sorted({tensor.key for tensor in tensors})
    changed = rng.choice([keys[1:], keys[::-1], [*keys, "none"], [], ["x"] * 1000])
    counts = {rng.choice(keys): rng.choice([-1, 0, 2**31, 2**61, 2**63])} if rng.random() < 0.7 else {}
    chosen = rng.choice([keys, keys, changed])
    return Legacy(tensors, keys=chosen, counts=counts, little_endian=rng.random() < 0.9).to_bytes()


def safetensors_lies(rng: random.Random) -> bytes:
    header, data = sound_safetensors(rng)
    entry = header[rng.choice([name for name in header if name.startswith("layer")])]
    part = rng.choice(["shape", "data_offsets", "dtype", "extra", "metadata", "size", "data", "type"])
    if part in ("shape", "data_offsets"):
        entry[part] = list(with_odd(rng, entry[part]))
    elif part == "dtype":
        entry["dtype"] = rng.choice(["F8_E4M3", "f32", "", None, 3, [], "BOOL", "F32", "U8"])
    elif part == "extra":
        entry.pop(rng.choice(list(entry)))
    elif part == "metadata":
        header["__metadata__"] = rng.choice([None, [], {"a": 1}, "x", {"a": {}}, {"a": "b"}])
    elif part == "type":
        header = rng.choice([[], None, 1, "x", [header], {"a": header}, {"a": None}, {"a": 1e999}])
    elif part == "size":
        return safetensors_file(header, data, rng.choice([0, 1, 7, 2**20, 2**31, 2**32 - 1, 2**63, 2**64 - 1]))
    elif part == "data":
        data = rng.choice([b"", data + b"x", data[:-1], data * 3])
    return safetensors_file(header, data)


def code(rng: random.Random) -> bytes:
    """Pickles that would run a command, each in its own way; the command would make the canary file."""
    command = rng.choice(["touch canary", "open('canary', 'w')", "__import__('os').system('touch canary')"])
    name = rng.choice(["os.system", "posix.system", "builtins.eval", "builtins.exec", "subprocess.call", "nt.system"])
    module, _, last = name.rpartition(".")
    argument = text(command)
    program = rng.choice(
        [
            named(name) + argument + b"\x85R",
            text(module) + text(last) + b"\x93" + argument + b"\x85R",
            b"(" + argument + f"i{module}\n{last}\n".encode(),
            b"(" + named(name) + argument + b"o",
            named(name) + argument + b"\x85\x81",
            named(name) + argument + b"\x85}\x92",
            f"(S'{command}'\ni{module}\n{last}\n".encode(),
            EMPTY_ORDERED_DICT + b"(" + text("__reduce__") + named(name) + b"ub",
            named("torch.FloatStorage") + argument + b"\x85R",
            named("torch._utils._rebuild_tensor_v2") + group(named(name), argument) + b"R",
            named("torch._utils._rebuild_parameter_with_state") + group(b"N", b"N", b"N", argument) + b"R",
            group(text("module"), named(name), text("x"), argument) + b"Q",
            argument + b"Q",
            f"P{command}\n".encode(),
            b"\x82\x01",
            named("collections.OrderedDict") + group(group(argument)) + b"R",
            named("torch.load"),
            named("numpy.core.multiarray.scalar"),
            named("torch.storage._load_from_bytes") + argument + b"\x85R",
            b"c" + module.encode() + b"." + last.encode() + b"\n\n",
        ]
    )
    tensors = sound_tensors(rng)
    rest = rng.choice([b".", b"0" + state_opcodes(tensors)[2:]])
    return containers(rng, tensors, b"\x80" + bytes([rng.choice([2, 4, 0])]) + program + rest)


HOSTILE = {
    "sound": sound,
    "header": header,
    "bit flips": bit_flips,
    "truncation": truncation,
    "opcodes": opcodes,
    "lengths": lengths,
    "sizes": view_lie("size"),
    "offsets": view_lie("offset"),
    "strides": view_lie("stride"),
    "element counts": view_lie("elements"),
    "storage types": view_lie("kind"),
    "zero strides": zero_strides,
    "many views": many_views,
    "nesting": nesting,
    "zip bomb": zip_bomb,
    "overlap": overlap,
    "duplicates": duplicates,
    "names": names,
    "legacy lists": legacy_lists,
    "safetensors lies": safetensors_lies,
    "code": code,
}
OUTCOMES = ("ok", "refused", "failed")


def hostile_file(seed: int, index: int) -> tuple[str, bytes]:
    """(what is wrong with it, the file) number `index` of the fuzz `seed`."""
    kind = list(HOSTILE)[index % len(HOSTILE)]
    return kind, HOSTILE[kind](random.Random(f"{seed} {index}"))


# --- reading them ----------------------------------------------------------------------------------------


def arrays_in(value: object) -> list[np.ndarray]:
    if isinstance(value, np.ndarray):
        return [value]
    if isinstance(value, dict | list | tuple):
        return [array for item in (value.values() if isinstance(value, dict) else value) for array in arrays_in(item)]
    assert value is None or isinstance(value, str | int | float), type(value)
    return []


def check_arrays(value: object, file_size: int) -> None:
    """Every array lies inside the memory it was made on, and all of them inside the file's size."""
    arrays = {id(array): array for array in arrays_in(value)}.values()
    assert sum(array.nbytes for array in arrays) <= file_size, "more tensor bytes than the file has"
    for array in arrays:
        low, high = np.lib.array_utils.byte_bounds(array)
        base = array if array.base is None else array.base
        base_low, base_high = np.lib.array_utils.byte_bounds(base)
        assert base_low <= low, "an array begins before its memory"
        assert high <= base_high or array.size == 0, "an array ends beyond its memory"
        array.copy()


class Watch:
    """Notes what the interpreter is asked to do, beyond opening the file, while it is on."""

    def __init__(self, path: str):
        self.on, self.path, self.events = False, path, []
        sys.addaudithook(self.hook)

    def hook(self, event: str, arguments: tuple) -> None:
        if not self.on or event in HARMLESS_EVENTS:
            return
        reads_the_file = event == "open" and arguments[0] == self.path and not arguments[2] & os.O_ACCMODE
        if not reads_the_file:
            self.events.append(event)


def outcome_of(path: str, watch: Watch) -> tuple[str, str]:
    watch.events.clear()
    try:
        signal.alarm(SECONDS_PER_FILE)
        watch.on = True
        value = read_tensors(path)
        watch.on = False
        check_arrays(value, os.path.getsize(path))
        outcome = ("ok", "")
    except WeightsFileError as problem:
        message = str(problem)
        clear = "\n" not in message and message.startswith(path) and not isinstance(problem.__cause__, MemoryError)
        outcome = ("refused" if clear else "failed", message)
    except BaseException as problem:
        outcome = ("failed", f"{type(problem).__name__}: {problem}"[:300])
    finally:
        watch.on = False
        signal.alarm(0)
    return outcome if not watch.events else ("failed", f"asked for {sorted(set(watch.events))}")


def limit_memory() -> None:
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + SPARE_MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def too_slow(*_: object) -> None:
    raise TimeoutError(f"over {SECONDS_PER_FILE} s")


def work(seed: int, start: int, count: int) -> None:
    """Reads the files `start` to `count` in this process; one line of outcomes.jsonl each."""
    path = str(Path.cwd() / "hostile.pth")
    signal.signal(signal.SIGALRM, too_slow)
    watch = Watch(path)
    with open("outcomes.jsonl", "a") as outcomes:
        for index in range(start, count):
            kind, content = hostile_file(seed, index)
            Path(path).write_bytes(content)
            if index == start:
                outcome_of(path, watch)  # imports what reading imports late
                limit_memory()
            outcomes.write(json.dumps([index, kind, *outcome_of(path, watch)]) + "\n")
            outcomes.flush()


def fuzz(seed: int, count: int) -> tuple[collections.Counter, list[str]]:
    """({(kind, outcome): files}, failures) of `count` files; a worker that dies is a failure of its file."""
    counts: collections.Counter = collections.Counter()
    failures = []
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "outcomes.jsonl")
        log.touch()
        done = 0
        while done < count:
            command = [
                sys.executable,
                str(Path(__file__).resolve()),
                "--seed",
                str(seed),
                "--count",
                str(count),
            ]
            worker = subprocess.run([*command, "--start", str(done)], cwd=folder, capture_output=True, text=True)
            lines = log.read_text().splitlines()
            if len(lines) == done and worker.returncode != 0 or done < len(lines) < count:
                kind = hostile_file(seed, len(lines))[0]
                with log.open("a") as outcomes:
                    end = f"the process ended with {worker.returncode}: {worker.stderr[-300:]}"
                    outcomes.write(json.dumps([len(lines), kind, "failed", end]) + "\n")
            done = len(log.read_text().splitlines())
        for index, kind, outcome, message in map(json.loads, log.read_text().splitlines()):
            counts[kind, outcome] += 1
            if outcome == "failed":
                failures.append(f"file {index} of seed {seed} ({kind}): {message}")
        if Path(folder, "canary").exists():
            failures.append("a file was executed: the canary exists")
    if counts["sound", "refused"]:
        failures.append(f"{counts['sound', 'refused']} sound files were refused")
    return counts, failures


def table(counts: collections.Counter) -> str:
    lines = [f"{'':18}" + "".join(f"{outcome:>10}" for outcome in OUTCOMES)]
    for kind in HOSTILE:
        lines.append(f"{kind:18}" + "".join(f"{counts[kind, outcome]:10}" for outcome in OUTCOMES))
    totals = [sum(counts[kind, outcome] for kind in HOSTILE) for outcome in OUTCOMES]
    return "\n".join([*lines, f"{'all':18}" + "".join(f"{total:10}" for total in totals)])


def main() -> int:
    parser = argparse.ArgumentParser(description="Reads hostile weights files and counts how that ends.")
    parser.add_argument("--count", type=int, default=20_000, help="files to read")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=int, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.start is not None:
        work(flags.seed, flags.start, flags.count)
        return 0
    counts, failures = fuzz(flags.seed, flags.count)
    print(table(counts))
    print("\n".join(failures[:50]) or "no failures; nothing was executed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
