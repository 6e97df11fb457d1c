"""Checkpoints between PyTorch and us: read without PyTorch to the last bit, written so that it loads them strictly."""

import json
import math
import pickle
import subprocess
import sys
import zlib
from collections import OrderedDict

import jax
import numpy as np
import parity_fixtures as fixtures
import pytest
from flax import nnx

torch = pytest.importorskip("torch", reason="torch is not installed: make test-torch")

import ddrnet_jax  # noqa: E402
from ddrnet_jax.benchmark import torch_twin  # noqa: E402
from ddrnet_jax.models import variables  # noqa: E402
from ddrnet_jax.weights.files import write_pth  # noqa: E402
from ddrnet_jax.weights.state_dicts import load_state_dict, read_checkpoint, to_state_dict  # noqa: E402

# manifest: (variant, the other arguments of both networks)
SEGMENTER = {"num_classes": 19, "aux_head": True}
CLASSIFIER = {"num_classes": 1000, "task": "classification"}
NETWORKS = {
    "slim_seg": ("23_slim", SEGMENTER),
    "23_seg": ("23", SEGMENTER),
    "39_seg": ("39", SEGMENTER),
    "slim_cls": ("23_slim", CLASSIFIER),
    "23_cls": ("23", CLASSIFIER),
    "39_cls": ("39", CLASSIFIER),
}
KEY_LISTS = [*NETWORKS, "mmseg_slim_seg", "mmseg_23_seg"]
CONTAINERS = {"zip": {}, "legacy": {"_use_new_zipfile_serialization": False}}
WITHOUT_TORCH = """
import json, pickle, sys
sys.modules["torch"] = None  # makes `import torch` an ImportError
from ddrnet_jax.models.torch_weights import read_checkpoint
pickle.dump({path: read_checkpoint(path) for path in json.load(sys.stdin)}, sys.stdout.buffer)
"""


def random_bits(manifest, prefix):
    """The keys and ranks of a manifest, sizes up to 4, the values any bits: infinities and NaNs among them."""
    arrays = OrderedDict()
    for key, shape in fixtures.manifest_shapes(manifest).items():
        dtype = np.int64 if key.endswith("num_batches_tracked") else np.float32
        shape = tuple(min(size, 4) for size in shape)
        bits = np.random.default_rng(zlib.crc32(key.encode())).bytes(np.dtype(dtype).itemsize * math.prod(shape))
        arrays[prefix + key] = np.frombuffer(bits, dtype).reshape(shape)
    return arrays


def as_tensors(arrays):
    return OrderedDict((key, torch.from_numpy(value.copy())) for key, value in arrays.items())


def momenta():
    """The state of an optimizer after a step."""
    layer = torch.nn.Linear(3, 2)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return optimizer.state_dict()


@pytest.mark.parametrize("container", CONTAINERS)
def test_checkpoints_are_read_without_torch_to_the_last_bit(container, tmp_path):
    wanted = {}
    for manifest in KEY_LISTS:
        for wrapper in (None, "state_dict", "model"):
            for prefix in ("", "model.", "module."):
                arrays = random_bits(manifest, prefix)
                saved = as_tensors(arrays)
                if wrapper:
                    saved = {"epoch": 3, wrapper: saved, "optimizer": momenta(), "best_miou": 0.77}
                path = str(tmp_path / f"{manifest} {wrapper} {prefix}.pth")
                torch.save(saved, path, **CONTAINERS[container])
                wanted[path] = arrays

    command = [sys.executable, "-c", WITHOUT_TORCH]
    done = subprocess.run(command, input=json.dumps([*wanted]).encode(), stdout=subprocess.PIPE, check=True)
    read = pickle.loads(done.stdout)
    assert read.keys() == wanted.keys()
    for path, arrays in wanted.items():
        assert list(read[path]) == list(arrays), path
        for key, array in arrays.items():
            ours = read[path][key]
            assert (ours.dtype, ours.shape, ours.tobytes()) == (array.dtype, array.shape, array.tobytes()), (path, key)


@pytest.mark.parametrize("manifest", NETWORKS)
def test_both_networks_agree_through_each_others_files(manifest, tmp_path):
    variant, options = NETWORKS[manifest]
    official = fixtures.state_dict(manifest)
    twin = torch_twin.DDRNet(variant, **options)
    twin.load_state_dict(as_tensors(official), strict=True)
    torch.save(twin.state_dict(), tmp_path / "theirs.pth")

    model = ddrnet_jax.DDRNet(variant, **options, rngs=nnx.Rngs(0))
    load_state_dict(model, read_checkpoint(tmp_path / "theirs.pth"))
    ours = to_state_dict(model)
    write_pth(tmp_path / "ours.pth", ours)

    twin = torch_twin.DDRNet(variant, **options).eval()
    twin.load_state_dict(torch.load(tmp_path / "ours.pth", weights_only=True), strict=True)
    state = twin.state_dict()
    assert list(state) == list(official)
    assert all(np.array_equal(state[key].numpy(), official[key]) for key in official)
    for size in [(64, 96), (61, 97)] if manifest == "slim_seg" else [(64, 96)]:
        assert_outputs_agree(model, twin, fixtures.images((1, 3, *size)))


def assert_outputs_agree(model, twin, images):
    model.eval()
    graphdef, params, stats = variables.split(model)
    out = jax.jit(lambda p, s, x: variables.merge(graphdef, p, s)(x))(params, stats, images)
    with torch.inference_mode():
        outputs = twin(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous())
    for ours, theirs in zip(out, outputs, strict=True):
        assert (ours is None) == (theirs is None)
        if theirs is not None:
            theirs = (theirs.permute(0, 2, 3, 1) if theirs.ndim == 4 else theirs).numpy()
            assert ours.shape == theirs.shape
            assert np.abs(ours - theirs).max() < 2e-5 * np.abs(theirs).max()


@pytest.mark.parametrize("with_counters", [True, False])
def test_counters_may_be_written_or_left_out(with_counters, tmp_path):
    official = fixtures.state_dict("slim_seg")
    given = {k: v for k, v in official.items() if with_counters or not k.endswith("num_batches_tracked")}
    write_pth(tmp_path / "ours.pth", given)
    read = torch.load(tmp_path / "ours.pth", weights_only=True)
    assert list(read) == list(given)
    twin = torch_twin.DDRNet("23_slim", **SEGMENTER)
    twin.load_state_dict(read, strict=True)
    assert all(np.array_equal(value.numpy(), official[key]) for key, value in twin.state_dict().items())
