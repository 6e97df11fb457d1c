"""The network as one program: the fast mask is the plain one, and exported files predict what `Predictor` does."""

import datetime
import importlib.util
import json
import subprocess
import sys

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import onnx
import parity_fixtures as fixtures
import pytest
from flax import nnx

from ddrnet_jax import DDRNet, config
from ddrnet_jax import main as main_lib
from ddrnet_jax.config import files as config_files
from ddrnet_jax.data import pictures
from ddrnet_jax.exports import onnx as to_onnx
from ddrnet_jax.exports import onnx_engine, onnx_graph
from ddrnet_jax.exports.export import export
from ddrnet_jax.exports.onnx_engine import OnnxPredictor
from ddrnet_jax.models import blocks, variables
from ddrnet_jax.models.ddrnet import normalise
from ddrnet_jax.models.folding import fold
from ddrnet_jax.prediction.predictor import Predictor
from ddrnet_jax.prediction.segmenter import load
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


def test_onnx_predicts_through_onnxruntime(checkpoint, images, masks, tmp_path, capsys):
    path = tmp_path / "street.onnx"
    flags = ("--mode", "export", "--checkpoint", checkpoint, "--format", "onnx", "--output", path)
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
    code, _, err = run(capsys, *flags, "--engine", "jax")
    assert code == 1
    assert err == f"error: --checkpoint {path}: an exported file; add --engine onnxruntime\n"


def between(pixels):
    """f64[pixels,ceil(pixels/8)], the bilinear weights of the stride-8 values at every pixel's centre"""
    cells = -(-pixels // 8)
    place = np.clip((np.arange(pixels) + 0.5) / 8 - 0.5, 0, cells - 1)
    return np.maximum(0, 1 - np.abs(place[:, None] - np.arange(cells)))


@pytest.mark.parametrize("num_classes", [2, 19])
def test_the_sparse_tail_is_the_plain_one(num_classes):
    """Of any number of images of any size: from areas of one class, noise, and classes that are equal everywhere."""
    g = onnx_graph._Nodes(onnx)
    onnx_graph._masks(g, "logits")
    value, float32, uint8 = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT, onnx.TensorProto.UINT8
    inputs = [value("images", uint8, ["B", "H", "W", 3]), value("logits", float32, ["B", num_classes, "h", "w"])]
    graph = onnx.helper.make_graph(g.nodes, "tail", inputs, [value("masks", uint8, ["B", "H", "W"])], g.constants)
    opset = onnx.helper.make_opsetid("", onnx_graph.OPSET)
    session = onnx_engine.session(onnx.helper.make_model(graph, opset_imports=[opset]).SerializeToString())
    rng = np.random.default_rng(0)
    for batch, height, width in ((1, 64, 96), (2, 77, 101), (1, 8, 8), (3, 1, 9)):
        hw = (-(-height // 8), -(-width // 8))
        noise = rng.normal(size=(batch, *hw, num_classes)).astype(np.float32)
        areas = np.eye(num_classes, dtype=np.float32)[np.arange(hw[0])[:, None] // 3 % num_classes] + 0.1 * noise
        for logits in (noise, areas, np.zeros_like(noise)):
            feed = {"images": np.zeros((batch, height, width, 3), np.uint8), "logits": logits.transpose(0, 3, 1, 2)}
            theirs = session.run(["masks"], feed)[0]
            plain = np.einsum("yr,xc,brck->byxk", between(height), between(width), logits, optimize=True)
            differ = theirs != plain.argmax(-1)
            best = np.sort(plain[differ], -1)
            assert theirs.shape == (batch, height, width)
            assert (best[:, -1] - best[:, -2] < 1e-6).all()
            assert differ.mean() < 1e-3


def test_an_onnx_file_of_any_size(checkpoint, model, images, masks, tmp_path):
    path = tmp_path / "any.onnx"
    export(checkpoint, path, file_format="onnx", size_hw="any")
    segmenter = load(path)
    for image, mask in zip(images, masks, strict=True):
        np.testing.assert_array_equal(segmenter.predict(image), mask)
    two = np.stack([images[1], images[1][::-1]])
    np.testing.assert_array_equal(segmenter.predict(two), np.stack([segmenter.predict(image) for image in two]))
    np.testing.assert_array_equal(segmenter.predict(two)[1], Predictor(model)(two[1]))


def test_a_narrow_image_has_its_classes_by_openvino(model):
    """In bfloat16, of one column at 1/64, OpenVINO's were those of memory that is not the image's."""
    if importlib.util.find_spec("openvino") is None:
        pytest.skip("pip install 'ddrnet-jax[openvino]'")
    card = json.dumps({"config": config_files.to_json(config.base())})
    proto = onnx_graph.program(onnx, fold(model), None)
    onnx.helper.set_model_props(proto, {onnx_engine.CARD: card})
    exact, other = (OnnxPredictor("", name, proto.SerializeToString()) for name in ("onnxruntime", "openvino"))
    for size_hw in ((128, 8), (333, 63), (256, 64)):
        image = cv2.resize(RNG.integers(0, 256, (16, 8, 3)).astype(np.uint8), size_hw[::-1])
        assert (other(image) == exact(image)).mean() > 0.999, size_hw


def test_predict_by_an_exported_network_loads_no_jax(checkpoint, images, masks, tmp_path, monkeypatch):
    monkeypatch.setenv("DDRNET_JAX_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    (tmp_path / "a.png").write_bytes(pictures.png(images[1]))
    program = (
        "import sys; from ddrnet_jax.main import main\n"
        f"code = main(['--mode', 'predict', '--checkpoint', {str(checkpoint)!r}, '--input', 'a.png', *sys.argv[1:]])\n"
        "sys.exit(code or 10 + any(name in sys.modules for name in ('jax', 'flax', 'orbax', 'grain')))"
    )
    for out, code in (("first", 11), ("second", 10)):
        flags = ("--engine", "onnxruntime", "--output", out)
        done = subprocess.run([sys.executable, "-c", program, *flags], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == code, done.stderr
        mask = cv2.imread(str(tmp_path / out / "masks" / "a.png"), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(mask, masks[1])
        assert ("exporting the network" in done.stderr) == (out == "first")


def test_an_onnx_file_that_computes_something_else_is_not_written(model, monkeypatch):
    def without_padding(g, x, size, stride):  # as jax2onnx would have it
        padded = g.add("Pad", x, np.array([0, 0, *[size // 2] * 2] * 2), np.float32(7))
        return g.add("AveragePool", padded, kernel_shape=[size, size], strides=[stride, stride])

    monkeypatch.setattr(onnx_graph, "_average_pool", without_padding)
    with pytest.raises(onnx_engine.EngineError, match="ONNX Runtime differs from our network: logits by"):
        to_onnx.to_onnx(model, (64, 96))


def test_what_is_no_exported_file_is_named(tmp_path, capsys):
    (tmp_path / "other.onnx").write_bytes(b"not a model")
    (tmp_path / "a.png").write_bytes(pictures.png(np.zeros((64, 64, 3), np.uint8)))
    for path in (tmp_path / "other.onnx", tmp_path / "none.onnx"):
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
