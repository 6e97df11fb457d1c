"""The zip container of torch.save, its format since PyTorch 1.6: a pickle and one stored member per storage."""

import struct
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from ddrnet_jax.weights.files import containers
from ddrnet_jax.weights.files.safetensors import DAMAGED, WeightsFile, shown
from ddrnet_jax.weights.files.torch_pickle import MAX_PICKLE_BYTES, PickleMachine
from ddrnet_jax.weights.files.torch_tensors import RESAVE, Tensors

MAX_ZIP_DIRECTORY_BYTES = 2**20

_ZIP_ENTRY = struct.Struct("<4s4xHH4xLLLHHH8xL")


def read_zip(file: WeightsFile) -> Any:
    """The content of the zip file `file`."""
    archive = Zip(file)
    pickles = [name for name in archive.members if name.rpartition("/")[2] == "data.pkl"]
    if other := containers.other_zip(file, archive.members):
        raise other
    if len(pickles) != 1:
        raise file.error(f"it is a zip file with {len(pickles)} members data.pkl, expected 1", RESAVE)
    root = pickles[0].removesuffix("data.pkl")
    if root + "byteorder" in archive.members and archive.read(root + "byteorder", 16) != b"little":
        raise file.error("it was saved in big-endian byte order", "save it again on a little-endian machine")
    tensors = Tensors(file, lambda key, size: archive.storage(root + "data/" + key, size))
    value = PickleMachine(file, archive.read(pickles[0], MAX_PICKLE_BYTES), tensors).load()
    tensors.check_bools()
    return value


class _Member(NamedTuple):
    """One entry of a zip file's directory."""

    header_offset: int
    size: int
    checksum: int
    plain: bool


class Zip:
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
        self._check(name, member, memory.data)
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

    def _check(self, name: str, member: _Member, data: bytes | memoryview) -> None:
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
