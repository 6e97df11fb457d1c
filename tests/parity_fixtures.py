"""The parity fixtures: parameters, inputs and labels regenerated from their recipe (fixtures/README.md)."""

import hashlib
import json
import re
import zlib
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).resolve().parent / "fixtures"
_RESIDUAL = re.compile(r"^(layer(1|2|3|3_1|3_2|4|3_|3_1_|3_2_|4_)\.\d\.bn2|layer5_?\.\d\.bn3)\.weight$")


def load(name: str) -> dict:
    """The arrays of fixtures/<name>.npz, its `meta` decoded."""
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as file:
        arrays = {k: file[k] for k in file.files}
    arrays["meta"] = json.loads(str(arrays["meta"]))
    return arrays


def state_dict(manifest: str, salt: str = "") -> dict[str, np.ndarray]:
    """The official state dict of the recipe, for fixtures/state_dict_<manifest>.json."""
    return {key: _value(key, shape, salt) for key, shape in manifest_shapes(manifest).items()}


def manifest_shapes(manifest: str) -> dict[str, tuple[int, ...]]:
    """{official key: shape} in PyTorch's order."""
    entries = json.loads((FOLDER / f"state_dict_{manifest}.json").read_text())["entries"]
    return {entry["key"]: tuple(entry["shape"]) for entry in entries}


def sha256(state: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for key, value in state.items():
        if not key.endswith("num_batches_tracked"):
            digest.update(key.encode() + b"\0" + value.astype("<f4").tobytes())
    return digest.hexdigest()


def images(shape_nchw, salt: str = "") -> np.ndarray:
    """f32[B,H,W,3]"""
    x = _rng("input" + salt).standard_normal(shape_nchw).astype(np.float32)
    return x.transpose(0, 2, 3, 1)


def labels(shape, salt: str = "") -> np.ndarray:
    """i64[B,H/8,W/8] (0..18 or 255)"""
    rng = _rng("labels" + salt)
    values = rng.integers(0, 19, size=shape, dtype=np.int64)
    values[rng.random(shape) < 0.1] = 255
    return values


def _rng(text: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(text.encode("utf-8")))


def _value(key: str, shape: tuple[int, ...], salt: str) -> np.ndarray:
    rng = _rng(key + salt)
    if key.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    if key.endswith("running_mean") or key.endswith("bias"):
        value = 0.1 * rng.standard_normal(shape)
    elif key.endswith("running_var"):
        value = rng.uniform(0.5, 1.5, shape)
    elif len(shape) == 1:
        value = rng.uniform(0.5, 1.5, shape) * (0.25 if _RESIDUAL.match(key) else 1.0)
    else:
        value = np.sqrt(2 / np.prod(shape[1:])) * rng.standard_normal(shape)
    return value.astype(np.float32)
