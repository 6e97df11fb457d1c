"""PyTorch weight files (.pth, .pt), read and written without PyTorch; nothing in a file is executed.

A .pth file is a pickle, a program for a stack machine, beside the raw bytes of its tensors. Every size in a file
is checked against the file before it is used. The parts, each on those before it:

safetensors.py         the ground: byte ranges that lie inside the file, its errors; and .safetensors itself
containers.py          other kinds of files, each with the way to one that is read
torch_tensors.py       storages and tensors, checked before they are made
torch_pickle.py        the restricted pickle machine
torch_zip.py           the container of torch.save since PyTorch 1.6
torch_legacy.py        the container before that
torch_writing.py       writing .pth
"""

import os
from typing import Any

from ddrnet_jax.weights.files import containers
from ddrnet_jax.weights.files.safetensors import (
    WeightsFile,
    WeightsFileError,
    open_weights,
    read_safetensors,
    safetensors_of,
    write_safetensors,
)
from ddrnet_jax.weights.files.torch_legacy import read_legacy
from ddrnet_jax.weights.files.torch_pickle import MAX_OPCODES, MAX_PICKLE_BYTES
from ddrnet_jax.weights.files.torch_writing import write_pth
from ddrnet_jax.weights.files.torch_zip import read_zip

__all__ = [
    "MAX_OPCODES",
    "MAX_PICKLE_BYTES",
    "WeightsFileError",
    "read_metadata",
    "read_safetensors",
    "read_tensors",
    "write_pth",
    "write_safetensors",
]


def read_tensors(path: str | os.PathLike) -> Any:
    """The content of a .pth, .pt or .safetensors file, with every tensor as an array of numpy.

    .pth and .pt give the saved object: dicts, lists, tuples, strings, numbers, None and arrays, nested as
    they were; tensors that shared memory when they were saved share it here, and a numpy scalar is a number of
    Python. safetensors gives a flat dict.
    The content decides which format it is, not the suffix. Any other content is a `WeightsFileError`.
    """
    with open_weights(path) as file:
        head = _head(file)
        if head.startswith(b"PK\x03\x04"):
            return read_zip(file)
        if _is_safetensors(head):
            return safetensors_of(file)[0]
        if head.startswith(b"\x80"):
            return read_legacy(file)
        raise containers.not_weights(file, head)


def read_metadata(path: str | os.PathLike) -> dict[str, str]:
    """The metadata of a .safetensors file; empty for the formats that have none."""
    with open_weights(path) as file:
        return safetensors_of(file)[1] if _is_safetensors(_head(file)) else {}


def _head(file: WeightsFile) -> bytes:
    return file.read(0, min(file.size, 16), "the file")


def _is_safetensors(head: bytes) -> bool:
    return head[8:9] == b"{" and head[4:8] == bytes(4)  # a header below 4 GiB; other bytes are a pickle's
