"""Our reader and writer of weights files against PyTorch's and safetensors' own, both ways, to the last bit."""

import os
import pickletools
import zipfile
from collections import OrderedDict

import ml_dtypes
import numpy as np
import pytest

REASON = "torch is not installed: make test-torch"
torch = pytest.importorskip("torch", reason=REASON)
safetensors_torch = pytest.importorskip("safetensors.torch", reason=REASON)

import safetensors  # noqa: E402

from ddrnet_jax.weights.files import (  # noqa: E402
    MAX_OPCODES,
    MAX_PICKLE_BYTES,
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
NEW_DTYPES = [torch.uint16, torch.uint32, torch.uint64]  # PyTorch rebuilds these from untyped storages
CONTAINERS = {"zip": {}, "legacy": {"_use_new_zipfile_serialization": False}}
CONTAINERS |= {f"zip, pickle {protocol}": {"pickle_protocol": protocol} for protocol in (3, 4, 5)}
CONTAINERS |= {"legacy, pickle 4": {"_use_new_zipfile_serialization": False, "pickle_protocol": 4}}
EVERY_CONTAINER = pytest.mark.parametrize("container", CONTAINERS)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def path(tmp_path):
    """Of a file to be written; nothing half-written may stay beside it."""
    yield tmp_path / "weights.pth"
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".partial")]


def as_numpy(tensor):
    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:
        return tensor.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def same(read, saved):
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


def trained(*layers):
    """A network and its Adam after a step, so that statistics and moments are no constants."""
    network = torch.nn.Sequential(*layers)
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.randn(2, 4, 6, 6)).square().mean().backward()
    optimizer.step()
    return network, optimizer


def conv_bn():
    return torch.nn.Conv2d(4, 4, 1), torch.nn.BatchNorm2d(4)


def saved_objects():
    """(what it is, an object that PyTorch saves and we read)."""
    base = torch.arange(-12, 12).reshape(4, 6)
    for dtype in DTYPES + NEW_DTYPES:
        yield str(dtype), {"a": base.abs().to(dtype), "scalar": torch.ones((), dtype=dtype)}
    numbers = base.float()
    views = {"transposed": numbers.t(), "columns": numbers[:, ::2], "corner": numbers[1:3, 2:5]}
    views |= {"permuted": torch.randn(2, 3, 4).permute(2, 0, 1), "diagonal": torch.randn(5, 5).diagonal()}
    views |= {"channels last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)}
    views |= {"empty": torch.empty(0), "empty rows": torch.empty(0, 3), "empty corner": numbers[2:2, 3:]}
    yield "strided views", views
    yield "tied tensors", {"a": numbers, "b": numbers, "c": numbers.detach()}
    yield "one tensor", numbers
    frozen = torch.nn.Parameter(numbers[0], requires_grad=False)
    yield "parameters", {"a": torch.nn.Parameter(numbers), "b": [frozen]}
    marked = torch.nn.Parameter(torch.randn(3))
    marked.origin = "a Python attribute"
    yield "a parameter with attributes", OrderedDict(a=marked)
    network, optimizer = trained(*conv_bn(), torch.nn.ReLU(), torch.nn.Conv2d(4, 2, 3, bias=False))
    state = network.state_dict()
    yield "a state dict", state
    nested = {"state_dict": state, "model": state, "epoch": 3, "best": 0.77, "lists": [1, (2, None, True), {}]}
    yield "a nested checkpoint", nested | {"big": [2**40, -(2**70)], "text": "é" * 300}
    meta = {"config": "x" * 100_000, "classes": ("road",)}
    yield "an optimizer", {"optimizer": optimizer.state_dict(), "meta": meta}
    yield "1,000 tensors", OrderedDict((f"layer{i}.weight", torch.randn(i % 7, 3)) for i in range(1000))


@EVERY_CONTAINER
def test_what_torch_saves_is_read_exactly(container, path):
    for name, saved in saved_objects():
        torch.save(saved, path, **CONTAINERS[container])
        assert same(read_tensors(path), saved), name


@EVERY_CONTAINER
@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: torch.zeros(2, dtype=torch.complex64), "torch.ComplexFloatStorage"),
        (lambda: torch.eye(2).to_sparse(), "_rebuild_sparse_tensor"),
        (lambda: torch.nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
        (lambda: {"device": torch.device("cpu")}, "torch.device"),
        (lambda: {"dtype": torch.float32}, "torch.float32 as a value"),
        (lambda: torch.zeros(1).expand(1000), "a tensor of storage"),
        (lambda: {"best": np.zeros(2)}, "numpy"),
    ],
)
def test_what_is_no_plain_tensor_is_refused_by_name(container, path, make, named):
    torch.save(make(), path, **CONTAINERS[container])
    with pytest.raises(WeightsFileError, match=named):
        read_tensors(path)


# PyTorch retires quantised tensors and TorchScript; files that hold them are still about.
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor.*deprecated:UserWarning")
@EVERY_CONTAINER
def test_quantized_tensors_are_refused_by_name(container, path):
    torch.save(torch.quantize_per_tensor(torch.zeros(2), 1.0, 0, torch.qint8), path, **CONTAINERS[container])
    with pytest.raises(WeightsFileError, match="torch._utils._rebuild_qtensor"):
        read_tensors(path)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is:DeprecationWarning")
def test_torchscript_is_refused_by_name(path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(path)
    with pytest.raises(WeightsFileError, match="__torch__"):
        read_tensors(path)


@pytest.mark.parametrize("mmap", [False, True])
def test_torch_loads_what_we_write_exactly(path, mmap):
    arrays = {str(dtype): as_numpy(torch.arange(-12, 12).reshape(4, 6).to(dtype)) for dtype in DTYPES}
    arrays |= {"transposed": arrays["torch.float32"].T, "backwards": arrays["torch.int64"][::-1, ::-1][:1]}
    arrays |= {"scalar": np.array(3), "empty": np.zeros((0, 3), np.float32), "é": np.ones((2, 1, 3), np.float32)}
    write_pth(path, arrays)
    loaded = torch.load(path, weights_only=True, mmap=mmap)
    assert isinstance(loaded, OrderedDict)
    assert same({name: as_numpy(tensor) for name, tensor in loaded.items()}, arrays)


def test_a_state_dict_survives_us_and_torch_in_turn(path):
    network, _ = trained(*conv_bn())
    state = network.state_dict()
    write_pth(path, {name: as_numpy(tensor) for name, tensor in state.items()})
    torch.save(torch.load(path, weights_only=True), path)
    assert same(read_tensors(path), state)


def test_safetensors_reads_what_we_write_and_we_what_it_writes(path):
    tensors = {str(dtype): torch.arange(-12, 12).reshape(4, 6).abs().to(dtype) for dtype in DTYPES + NEW_DTYPES}
    tensors |= {"scalar": torch.ones(()), "empty": torch.empty(0, 3), "é": torch.ones(3, dtype=torch.uint8)}
    metadata = {"format": "pt", "note": "é"}
    safetensors_torch.save_file(tensors, path, metadata)
    read, read_metadata = read_safetensors(path)
    assert read.keys() == tensors.keys()
    assert all(same(read[name], tensors[name]) for name in tensors)
    assert read_metadata == metadata
    assert read_tensors(path).keys() == tensors.keys()

    arrays = {name: as_numpy(tensor) for name, tensor in tensors.items()}
    write_safetensors(path, arrays, metadata)
    loaded = safetensors_torch.load_file(path)
    assert same({name: as_numpy(loaded[name]) for name in arrays}, arrays)
    with safetensors.safe_open(path, "numpy") as file:
        assert file.metadata() == metadata


def test_an_empty_safetensors_file(path):
    write_safetensors(path, {})
    assert safetensors_torch.load_file(path) == {} == read_tensors(path)


def test_a_large_training_checkpoint_is_far_from_our_limits(path):
    network, optimizer = trained(*(layer for _ in range(100) for layer in conv_bn()))
    state = network.state_dict()
    torch.save({"state_dict": state, "ema": state, "optimizer": optimizer.state_dict()}, path)
    assert same(read_tensors(path)["state_dict"], state)
    opcodes = list(pickletools.genops(zipfile.ZipFile(path).read("weights/data.pkl")))
    assert opcodes[-1][2] < MAX_PICKLE_BYTES / 10
    assert len(opcodes) < MAX_OPCODES / 2
