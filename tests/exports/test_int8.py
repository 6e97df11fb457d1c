"""A quantised file predicts almost what the float one does, and says how much it loses, or is not written."""

import json

import numpy as np
import onnx
import pytest
from flax import nnx

from ddrnet_jax import DDRNet
from ddrnet_jax import main as main_lib
from ddrnet_jax.build import experiment
from ddrnet_jax.config import files as config_files
from ddrnet_jax.exports import int8, onnx_graph
from ddrnet_jax.exports.onnx_engine import CARD, OnnxPredictor
from ddrnet_jax.models.folding import fold
from ddrnet_jax.runtime import cpu

SMALL = ["data.scenes_hw=(64, 96)", "data.scenes_train=6", "data.scenes_eval=3", "data.num_threads=1"]


@pytest.fixture(scope="module")
def demo(repo):
    return config_files.load(str(repo / "configs" / "demo.py"), SMALL)


@pytest.fixture(scope="module")
def floats(demo):
    """The float file of a network as it begins."""
    model = DDRNet("23_slim", num_classes=9, rngs=nnx.Rngs(0))
    model.eval()
    proto = onnx_graph.program(onnx, fold(model), None)
    onnx.helper.set_model_props(proto, {CARD: json.dumps({"config": config_files.to_json(demo)})})
    return proto.SerializeToString()


@pytest.fixture(scope="module")
def result(floats, demo):
    return int8.quantised(floats, int8.Int8(images=2), experiment(demo))


def test_only_the_body_is_quantised(result, floats):
    nodes = onnx.load_from_string(result[0]).graph.node
    made_of = {name: node for node in nodes for name in node.output}
    convolutions = [node for node in nodes if node.op_type == "Conv"]
    in_int8 = {c.name for c in convolutions if made_of[c.input[0]].op_type == "DequantizeLinear"}
    assert in_int8 == {c.name for c in convolutions if c.name.startswith(onnx_graph.BODY)}
    assert 0.3 < len(in_int8) / len(convolutions) < 1
    assert len(result[0]) < 0.6 * len(floats)


def test_it_predicts_nearly_the_same_at_any_size(result, floats, demo):
    theirs, ours = OnnxPredictor("", file=result[0]), OnnxPredictor("", file=floats)
    image = experiment(demo).eval_source()[0]["image"]
    for seen in (image, image[:41, :77]):
        assert theirs(seen).shape == seen.shape[:2]
        assert (theirs(seen) == ours(seen)).mean() > 0.8
    np.testing.assert_array_equal(theirs.batch(np.stack([image, image]))[1], theirs(image))


def test_what_it_loses_is_measured(result):
    measured = result[1]
    assert 0 < measured.changed_pixels < 0.2
    assert (measured.calibration_images, measured.latency_size) == (2, "64x96")
    first, second = measured._replace(latency_float_ms=2.0, latency_int8_ms=3.0).lines()
    assert first.endswith("of the pixels changed")
    assert second == f"2.0 ms in float32, 3.0 ms in int8 (1.50) at 64x96 on {cpu.name()}; int8 is slower here"


def test_beyond_the_limit_nothing_is_written(floats, demo, monkeypatch):
    monkeypatch.setattr(int8, "_quantised", lambda model, images: floats)
    with pytest.raises(int8.Int8Error, match=r"int8 loses 0.00 points of mIoU .* limit -100; nothing was written"):
        int8.quantised(floats, int8.Int8(images=1, largest_loss=-100.0), experiment(demo))


def test_the_card_is_inside(result):
    model = onnx.load_from_string(int8.with_card(result[0], {"int8": 1}))
    assert {p.key: p.value for p in model.metadata_props}[CARD] == '{"int8": 1}'


def test_flags_of_int8(tmp_path, capsys):
    for flags, message in (
        (["--format", "stablehlo", "--int8"], "--int8: stablehlo given, expected --format onnx"),
        (["--format", "onnx", "--calibrate", "4"], "--calibrate: says how to quantise; add --int8"),
        (["--format", "onnx", "--int8", "--max_loss", "x"], "--max_loss x: expected a number above 0"),
    ):
        output = tmp_path / f"a.{flags[1]}"
        assert main_lib.main(["--mode", "export", "--checkpoint", "run", "--output", str(output), *flags]) == 1
        assert capsys.readouterr().err.startswith(f"error: {message}")
