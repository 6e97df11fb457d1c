"""Our reader and writer of weights files against PyTorch's and safetensors' own, both ways, to the last bit.

    python benchmarks/check_weight_files.py

Needs torch and safetensors beside ddrnet_jax; prints a line per check and exits non-zero if one fails.
"""

import os
import pickletools
import sys
import tempfile
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np
import safetensors.numpy
import safetensors.torch
import torch

from ddrnet_jax.models import weight_files
from ddrnet_jax.models.weight_files import (
    WeightsFileError,
    read_safetensors,
    read_tensors,
    write_pth,
    write_safetensors,
)

DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
]
NEW_DTYPES = [torch.uint16, torch.uint32, torch.uint64]
CONTAINERS = {"zip": {}, "legacy": {"_use_new_zipfile_serialization": False}}
CONTAINERS |= {f"zip, pickle {protocol}": {"pickle_protocol": protocol} for protocol in (3, 4, 5)}
CONTAINERS |= {"legacy, pickle 4": {"_use_new_zipfile_serialization": False, "pickle_protocol": 4}}


def as_numpy(tensor: torch.Tensor) -> np.ndarray:
    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:
        return tensor.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def same(read: object, saved: object) -> bool:
    """Whether `read` is `saved` with arrays for tensors: same containers, order, types, shapes, bytes."""
    if isinstance(saved, torch.Tensor | np.ndarray):
        wanted = as_numpy(saved) if isinstance(saved, torch.Tensor) else saved
        return (read.dtype, read.shape, read.tobytes()) == (wanted.dtype, wanted.shape, wanted.tobytes())
    if type(read) is not type(saved):
        return False
    if isinstance(saved, dict):
        return list(read) == list(saved) and all(same(read[key], saved[key]) for key in saved)
    if isinstance(saved, list | tuple):
        return len(read) == len(saved) and all(map(same, read, saved))
    return read == saved


class Network(torch.nn.Module):
    """The layers whose state dicts this project reads."""

    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3),
            torch.nn.BatchNorm2d(8),
            torch.nn.ReLU(),
            torch.nn.Conv2d(8, 4, 1, bias=False),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images)


def trained() -> tuple[Network, torch.optim.Optimizer]:
    """A network and an optimizer after a step, so that statistics and moments are no constants."""
    network = Network()
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.randn(2, 3, 8, 8)).square().mean().backward()
    optimizer.step()
    return network, optimizer


def objects() -> Iterator[tuple[str, object]]:
    """(what it is, an object that PyTorch saves and we read)."""
    base = torch.arange(-12, 12).reshape(4, 6)
    for dtype in DTYPES + NEW_DTYPES:
        yield (
            str(dtype).removeprefix("torch."),
            {"a": base.abs().to(dtype), "scalar": torch.ones((), dtype=dtype)},
        )
    numbers = base.float()
    views = {"transposed": numbers.t(), "columns": numbers[:, ::2], "corner": numbers[1:3, 2:5]}
    views |= {"permuted": torch.randn(2, 3, 4).permute(2, 0, 1), "diagonal": torch.randn(5, 5).diagonal()}
    views |= {"channels last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)}
    views |= {"empty": torch.empty(0), "empty rows": torch.empty(0, 3), "empty corner": numbers[2:2, 3:]}
    yield "strided views", views
    yield "tied tensors", {"a": numbers, "b": numbers, "c": numbers.detach()}
    yield "one tensor", numbers
    yield (
        "parameters",
        {"a": torch.nn.Parameter(numbers), "b": [torch.nn.Parameter(numbers[0], requires_grad=False)]},
    )
    marked = torch.nn.Parameter(torch.randn(3))
    marked.origin = "a Python attribute"
    yield "a parameter with attributes", OrderedDict(a=marked)
    network, optimizer = trained()
    state = network.state_dict()
    yield "a state dict", state
    nested = {
        "state_dict": state,
        "model": state,
        "epoch": 3,
        "best": 0.77,
        "lists": [1, (2, None, True), {}],
    }
    yield "a nested checkpoint", nested | {"big": [2**40, -(2**70)], "text": "é" * 300}
    yield (
        "an optimizer",
        {"optimizer": optimizer.state_dict(), "meta": {"config": "x" * 100_000, "classes": ("road",)}},
    )
    yield (
        "1,000 tensors",
        OrderedDict((f"layer{index}.weight", torch.randn(index % 7, 3)) for index in range(1000)),
    )


def check_reading(folder: Path) -> Iterator[tuple[str, bool]]:
    for container, options in CONTAINERS.items():
        for name, saved in objects():
            path = folder / "weights.pth"
            torch.save(saved, path, **options)
            yield f"torch.save ({container}) -> read_tensors: {name}", same(read_tensors(path), saved)


def check_refusals(folder: Path) -> Iterator[tuple[str, bool]]:
    """What PyTorch saves and we refuse, by name."""
    refused = {
        "torch.ComplexFloatStorage": torch.zeros(2, dtype=torch.complex64),
        "torch._utils._rebuild_qtensor": torch.quantize_per_tensor(torch.zeros(2), 1.0, 0, torch.qint8),
        "_rebuild_sparse_tensor": torch.eye(2).to_sparse(),
        "__main__.Network": Network(),
        "torch.device": {"device": torch.device("cpu")},
        "torch.float32 as a value": {"dtype": torch.float32},
        "a tensor of storage": torch.zeros(1).expand(1000),
        "numpy": {"best": np.zeros(2)},
    }
    for container, options in CONTAINERS.items():
        for name, saved in refused.items():
            path = folder / "weights.pth"
            torch.save(saved, path, **options)
            yield f"torch.save ({container}) -> refused: {name}", refuses(path, name)
    torch.jit.script(torch.nn.Linear(2, 2)).save(path)
    yield "TorchScript -> refused", refuses(path, "__torch__")


def refuses(path: Path, name: str) -> bool:
    try:
        read_tensors(path)
    except WeightsFileError as problem:
        return name in str(problem)
    return False


def check_writing(folder: Path) -> Iterator[tuple[str, bool]]:
    arrays = {str(dtype): as_numpy(torch.arange(-12, 12).reshape(4, 6).to(dtype)) for dtype in DTYPES}
    arrays |= {
        "transposed": arrays["torch.float32"].T,
        "scalar": np.array(3),
        "empty": np.zeros((0, 3), np.float32),
    }
    arrays |= {"backwards": arrays["torch.int64"][::-1, ::-1][:1], "layer.é": np.ones((2, 1, 3), np.float32)}
    path = folder / "ours.pth"
    write_pth(path, arrays)
    for mapped in (False, True):
        loaded = torch.load(path, weights_only=True, mmap=mapped)
        good = isinstance(loaded, OrderedDict) and same({name: as_numpy(loaded[name]) for name in loaded}, arrays)
        yield f"write_pth -> torch.load(weights_only=True, mmap={mapped})", good
    yield "write_pth -> read_tensors", same(dict(read_tensors(path)), arrays)
    network, _ = trained()
    write_pth(path, {name: as_numpy(tensor) for name, tensor in network.state_dict().items()})
    fresh = Network()
    fresh.load_state_dict(torch.load(path, weights_only=True), strict=True)
    yield "write_pth -> load_state_dict", same({**map_numpy(fresh)}, {**map_numpy(network)})
    torch.save(torch.load(path, weights_only=True), folder / "again.pth")
    yield "write_pth -> torch -> read_tensors", same(read_tensors(folder / "again.pth"), network.state_dict())


def map_numpy(network: Network) -> dict[str, np.ndarray]:
    return {name: as_numpy(tensor) for name, tensor in network.state_dict().items()}


def check_safetensors(folder: Path) -> Iterator[tuple[str, bool]]:
    tensors = {str(dtype): torch.arange(-12, 12).reshape(4, 6).abs().to(dtype) for dtype in DTYPES + NEW_DTYPES}
    tensors |= {"scalar": torch.ones(()), "empty": torch.empty(0, 3), "é": torch.ones(3, dtype=torch.uint8)}
    metadata = {"format": "pt", "note": "é"}
    path = folder / "a.safetensors"
    safetensors.torch.save_file(tensors, path, metadata)
    read, read_metadata = read_safetensors(path)
    yield "safetensors -> read_safetensors", all(same(read[name], tensors[name]) for name in tensors)
    yield "safetensors -> read_tensors", read_tensors(path).keys() == tensors.keys()
    yield "safetensors metadata", read_metadata == metadata
    arrays = {name: as_numpy(tensor) for name, tensor in tensors.items()}
    write_safetensors(path, arrays, metadata)
    loaded = safetensors.torch.load_file(path)
    yield "write_safetensors -> safetensors", same({name: as_numpy(loaded[name]) for name in arrays}, arrays)
    with safetensors.safe_open(path, "numpy") as file:
        yield "write_safetensors metadata", file.metadata() == metadata
    write_safetensors(path, {})
    yield "an empty file", safetensors.numpy.load_file(path) == {} == read_tensors(path)


def check_limits(folder: Path) -> Iterator[tuple[str, bool]]:
    """How much of the reader's limits a large training checkpoint takes."""
    layers = [torch.nn.Sequential(torch.nn.Conv2d(4, 4, 1), torch.nn.BatchNorm2d(4)) for _ in range(100)]
    network = torch.nn.Sequential(*layers)
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.randn(2, 4, 2, 2)).mean().backward()
    optimizer.step()
    saved = {
        "state_dict": network.state_dict(),
        "ema": network.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    torch.save(saved, folder / "large.pth")
    read = read_tensors(folder / "large.pth")
    yield "100 convolutions with Adam and EMA", same(read["state_dict"], saved["state_dict"])
    opcodes = list(pickletools.genops(zipfile.ZipFile(folder / "large.pth").read("large/data.pkl")))
    print(f"     its pickle takes {opcodes[-1][2] / weight_files.MAX_PICKLE_BYTES:.0%} of MAX_PICKLE_BYTES")
    print(f"     its pickle takes {len(opcodes) / weight_files.MAX_OPCODES:.0%} of MAX_OPCODES")


def main() -> int:
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    failed = count = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for check in (check_reading, check_refusals, check_writing, check_safetensors, check_limits):
            for what, good in check(folder):
                count, failed = count + 1, failed + (not good)
                print("ok  " if good else "FAIL", what)
        leftovers = [file for file in os.listdir(folder) if file.endswith(".partial")]
    print(f"{count} checks, {failed} failed, {len(leftovers)} partial files left; torch {torch.__version__}")
    return 1 if failed or leftovers else 0


if __name__ == "__main__":
    sys.exit(main())
