"""The network as one program: the fast mask is the plain one, and exported files predict what `Predictor` does."""

import datetime
import json
import subprocess
import sys

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import parity_fixtures as fixtures
import pytest
from flax import nnx

from ddrnet_jax import DDRNet, config
from ddrnet_jax import main as main_lib
from ddrnet_jax.config import files as config_files
from ddrnet_jax.data import pictures
from ddrnet_jax.exports import onnx as to_onnx
from ddrnet_jax.exports import onnx_engine
from ddrnet_jax.models import blocks, variables
from ddrnet_jax.models.ddrnet import normalise
from ddrnet_jax.prediction.segmenter import Predictor
from ddrnet_jax.runs import checkpoints
from ddrnet_jax.weights.state_dicts import load_state_dict

SIZES = [(64, 96), (72, 83)]
RNG = np.random.default_rng(0)


def run(capsys, *arguments):
    """(exit code, stdout, stderr)"""
    code = main_lib.main([str(a) for a in arguments])
    return code, *capsys.readouterr()


@pytest.fixture(scope="module")
def model(images):
    """A network that finds many classes in `images`: each class is as likely as the next."""
    model = DDRNet("23_slim", num_classes=19, aux_head=True, rngs=nnx.Rngs(0))
    load_state_dict(model, fixtures.state_dict("slim_seg"))
    model.eval()
    model.head.classifier.conv.bias[...] -= stride_8_logits(model, images[0]).mean((0, 1, 2))
    return model


@pytest.fixture(scope="module")
def checkpoint(model, tmp_path_factory):
    ours = config.base()
    ours.data.name, ours.model.variant, ours.model.aux_head = "cityscapes", "23_slim", True
    folder = tmp_path_factory.mktemp("programs") / "checkpoint"
    checkpoints.save_weights(folder, *variables.split(model)[1:], config_files.to_json(ours))
    return folder


@pytest.fixture(scope="module")
def images():
    """Of two sizes, with areas and edges: u8[64,96,3], u8[72,83,3]"""
    drawn = [RNG.integers(0, 256, (h // 8, w // 8, 3)).astype(np.uint8) for h, w in SIZES]
    return [cv2.resize(x, size_hw[::-1]) for x, size_hw in zip(drawn, SIZES, strict=True)]


@pytest.fixture(scope="module")
def masks(model, images):
    predictor = Predictor(model)
    return [predictor(image) for image in images]


def stride_8_logits(model, image):
    """Of the network as it was trained."""
    graphdef, *weights = variables.split(model)
    program = jax.jit(lambda w, x: variables.merge(graphdef, *w)(normalise(x)).logits)
    return program(weights, image[None])


def plain_logits(model, image):
    """The same at image size, step by step."""
    return np.asarray(blocks.upsample_x8(stride_8_logits(model, image), image.shape[:2]))[0]


def test_the_fast_mask_is_the_plain_one(model, images, masks):
    for image, mask in zip(images, masks, strict=True):
        logits = plain_logits(model, image)
        differ = mask != logits.argmax(-1)
        best = np.sort(logits, -1)
        assert (best[differ][:, -1] - best[differ][:, -2] < 1e-4 * np.abs(logits).max()).all()
        assert differ.mean() <= 1e-4
        assert len(np.unique(mask)) > 2, "a mask of one class proves nothing"


def test_bfloat16_computes_in_bfloat16(model, images, masks):
    rounded = Predictor(model, dtype=jnp.bfloat16)(images[0])
    assert 0.8 < (rounded == masks[0]).mean() < 1


def test_stablehlo_runs_with_jax_alone(checkpoint, images, masks, tmp_path, capsys):
    path = tmp_path / "street.stablehlo"
    flags = ("--mode", "export", "--checkpoint", checkpoint, "--format", "stablehlo", "--output", path)
    code, out, err = run(capsys, *flags)
    assert code == 0, err
    assert "load_stablehlo.py" in out
    card = json.loads((tmp_path / "street.stablehlo.json").read_text())
    assert f"so none after {card['expires']}: the checkpoint is the archive, export again from it" in out
    assert 181 <= (datetime.date.fromisoformat(card["expires"]) - datetime.date.today()).days <= 184
    assert (card["classes"][0], card["colors"][0]) == ("road", [128, 64, 128])
    assert card["platforms"] == ["cpu", "cuda", "tpu"]
    assert len(card["weights_sha256"]) == 64
    np.save(tmp_path / "0.npy", np.stack([images[0], images[0][::-1]]))  # any batch, any size
    np.save(tmp_path / "1.npy", images[1][None])
    program = (
        "import sys, numpy as np; from load_stablehlo import load; masks = load('street.stablehlo')\n"
        "for i in '01': np.save(f'{i}.mask.npy', masks(np.load(f'{i}.npy')))\n"
        "assert not {'ddrnet_jax', 'flax', 'orbax', 'cv2'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", program], cwd=tmp_path, check=True)
    for i in range(2):
        theirs = np.load(tmp_path / f"{i}.mask.npy")
        assert theirs.dtype == np.uint8
        np.testing.assert_array_equal(theirs[0], masks[i])
    code, _, err = run(capsys, *flags)
    assert code == 1
    assert err == f"error: --output {path}: exists already; choose a new name\n"


@pytest.fixture
def onnxruntime():
    pytest.importorskip("onnx", reason="needs onnx: pip install 'ddrnet-jax[onnx]'")
    return pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install 'ddrnet-jax[onnx]'")


def test_onnx_predicts_through_onnxruntime(onnxruntime, checkpoint, images, masks, tmp_path, capsys):
    path = tmp_path / "street.onnx"
    flags = ("--mode", "export", "--checkpoint", checkpoint, "--format", "onnx", "--output", path)
    code, _, err = run(capsys, *flags)
    assert code == 1
    assert err.endswith("say which: --size HEIGHTxWIDTH\n")
    code, out, err = run(capsys, *flags, "--size", "72x83")
    assert code == 0, err
    assert "ONNX Runtime agrees" in out
    card = json.loads((tmp_path / "street.onnx.json").read_text())
    assert card["agreement"]["relative_logit_difference"] < 1e-5
    (tmp_path / "in").mkdir()
    for i, image in enumerate(images):
        (tmp_path / "in" / f"{i}.png").write_bytes(pictures.png(image))
    flags = ("--mode", "predict", "--checkpoint", path, "--input", tmp_path / "in", "--output", tmp_path / "out")
    code, _, err = run(capsys, *flags, "--engine", "onnxruntime")
    assert code == 0, err
    assert "images of 64x96 (HxW) are resized to the file's 72x83" in err
    theirs = [cv2.imread(str(tmp_path / f"out/masks/{i}.png"), cv2.IMREAD_UNCHANGED) for i in range(2)]
    np.testing.assert_array_equal(theirs[1], masks[1])
    rows, columns = (np.floor((np.arange(n) + 0.5) * m / n).astype(int) for n, m in zip(*SIZES, strict=True))
    resized = onnx_engine.OnnxPredictor(path)(cv2.resize(images[0], SIZES[1][::-1]))
    np.testing.assert_array_equal(theirs[0], resized[rows][:, columns])
    code, _, err = run(capsys, *flags)
    assert code == 1
    assert err == f"error: --checkpoint {path}: an exported file; add --engine onnxruntime\n"


def test_an_onnx_file_that_computes_something_else_is_not_written(onnxruntime, model, monkeypatch):
    def without_padding(g, x, size, stride):  # as jax2onnx would have it
        padded = g.add("Pad", x.name, np.array([0, 0, *[size // 2] * 2] * 2), np.float32(7))
        pooled = g.add("AveragePool", padded, kernel_shape=[size, size], strides=[stride, stride])
        return to_onnx._Map(pooled, to_onnx._strided(x.size_hw, stride))

    monkeypatch.setattr(to_onnx, "_average_pool", without_padding)
    with pytest.raises(onnx_engine.EngineError, match="ONNX Runtime differs from our network: logits by"):
        to_onnx.to_onnx(model, (64, 96))


def test_what_is_no_exported_file_is_named(onnxruntime, checkpoint, tmp_path, capsys):
    (tmp_path / "other.onnx").write_bytes(b"not a model")
    (tmp_path / "a.png").write_bytes(pictures.png(np.zeros((64, 64, 3), np.uint8)))
    for path in (tmp_path / "other.onnx", tmp_path / "none.onnx", checkpoint):
        flags = ("--mode", "predict", "--checkpoint", path, "--input", tmp_path / "a.png", "--output", tmp_path / "o")
        code, _, err = run(capsys, *flags, "--engine", "onnxruntime")
        assert code == 1
        assert err.startswith(f"error: --checkpoint {path}: not a file of export --format onnx (")
        assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--format", "onnx", "--size", "12"), "--size 12: expected HEIGHTxWIDTH in pixels, as in 1024x2048"),
        (("--format", "onnx", "--naming", "official"), "--naming official: onnx files have no tensor names"),
        (("--format", "pth", "--size", "64x64"), "--size 64x64: weights in pth files have no image size"),
    ],
)
def test_flags_that_do_not_go_together(flags, message, checkpoint, tmp_path, capsys):
    path = tmp_path / f"w.{flags[1]}"
    code, _, err = run(capsys, "--mode", "export", "--checkpoint", checkpoint, "--output", path, *flags)
    assert code == 1
    assert err.startswith(f"error: {message}")
    assert not path.exists()
