"""Which engine predicts, and that an exported network is found, whole and the right one, or not used."""

import ctypes
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx_files import red_channel, write_red_channel

from ddrnet_jax import config
from ddrnet_jax.config import files as config_files
from ddrnet_jax.data.sets import of_config
from ddrnet_jax.exports import cached, onnx_engine
from ddrnet_jax.exports.onnx_engine import EngineError
from ddrnet_jax.prediction import engines
from ddrnet_jax.prediction.segmenter import Segmenter
from ddrnet_jax.runs import checkpoints, find
from ddrnet_jax.runs.checkpoints import CheckpointError
from ddrnet_jax.runtime import cpu, signal_stack
from ddrnet_jax.weights import files as weight_files
from ddrnet_jax.weights.card import CONFIG_ENTRY

IMAGE = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)


def saved(folder, weight=1.0, task="segmentation", **view):
    """A checkpoint's folder whose config has this view."""
    ours = config.base()
    if task == "classification":
        ours.task, ours.model.aux_head, ours.loss.name = task, False, "cross_entropy"
    ours.eval.update(view)
    tree = {"weight": np.full((4,), weight, np.float32)}
    checkpoints.save_weights(folder, tree, tree, config_files.to_json(ours))
    return folder


def skip_without_openvino():
    if importlib.util.find_spec("openvino") is None:
        pytest.skip("pip install 'ddrnet-jax[openvino]'")


@pytest.fixture
def exports(tmp_path, monkeypatch):
    """The steps that were exported, each a program that gives the red channel; JAX is the engine of zeros."""
    found = []

    def export(step):
        found.append(Path(step).name)
        return red_channel(json.dumps({"config": config_files.to_json(config.base())}))

    monkeypatch.setenv("DDRNET_JAX_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(engines, "_export", export)
    monkeypatch.setattr(engines, "_has_accelerator", lambda: False)
    monkeypatch.setattr(engines, "_fastest", lambda: "onnxruntime")
    monkeypatch.setattr(
        engines.segmenter,
        "load",
        lambda path: Segmenter(lambda image: 0 * image[..., 0], of_config.dataset_spec(config.base())),
    )
    return found


def test_a_checkpoint_is_exported_once(exports, tmp_path, said):
    one, other = saved(tmp_path / "one"), saved(tmp_path / "other", weight=2.0)
    for _ in range(2):
        np.testing.assert_array_equal(engines.load(one).predict(IMAGE), IMAGE[..., 0])
    engines.load(other, "onnxruntime")
    assert exports == ["one", "other"]
    (tmp_path / "one").rename(tmp_path / "moved")
    engines.load(tmp_path / "moved")
    assert exports == ["one", "other"], "its weights are the same wherever it lies"
    assert said.count("exporting the network for onnxruntime, once a checkpoint") == 2
    assert sum(line.startswith("engine: onnxruntime 1.") for line in said) == 4


def test_a_file_in_the_cache_that_has_changed_is_made_again(exports, tmp_path):
    step = saved(tmp_path / "one")
    engines.load(step)
    (path,) = (tmp_path / "cache" / "exported").iterdir()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    engines.load(step)
    assert exports == ["one", "one"]


def test_the_cache_keeps_the_files_of_the_last_checkpoints(exports, tmp_path, monkeypatch):
    monkeypatch.setattr(cached, "_MOST_FILES", 2)
    entries = [cached.Entry(saved(tmp_path / name, weight=i), cached.folder()) for i, name in enumerate("abc", start=1)]
    for entry in entries:
        entry.write(red_channel())
    assert [entry.read() is None for entry in entries] == [True, False, False]


def test_what_an_exported_file_does_not_know_is_run_by_jax(exports, tmp_path, said, monkeypatch):
    resized, plain = saved(tmp_path / "resized", size_hw=(64, 64)), saved(tmp_path / "plain")
    assert not engines.load(resized).predict(IMAGE).any()
    assert said[-1] == "engine: jax (eval.size_hw, which an exported file does not know)"
    with pytest.raises(EngineError, match=r"--engine onnxruntime: cannot run .*resized \(eval.size_hw"):
        engines.load(resized, "onnxruntime")
    engines.load(plain, "jax")
    assert said[-1] == "engine: jax"
    monkeypatch.setattr(engines, "_has_accelerator", lambda: True)
    engines.load(plain)
    assert said[-1] == "engine: jax (for the accelerator that is asked for, or installed)"
    monkeypatch.setenv("DDRNET_JAX_CACHE_DIR", "off")
    engines.load(plain)
    assert said[-1] == "engine: jax (no cache folder to keep an exported file in)"
    assert exports == []


@pytest.mark.parametrize(("asked", "has"), [("cpu", False), ("cuda", True), ("cuda,cpu", True), ("tpu", True)])
def test_an_accelerator_that_is_asked_for_is_not_passed_over(asked, has, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", asked)
    assert engines._has_accelerator() is has


def test_a_classifier_and_an_engine_that_is_not_there(exports, tmp_path, monkeypatch):
    with pytest.raises(CheckpointError, match="a classifier, expected a segmenter"):
        engines.load(saved(tmp_path / "classifier", task="classification"))
    monkeypatch.setattr(onnx_engine.importlib, "import_module", lambda name: __import__("not_" + name))
    with pytest.raises(EngineError, match=r"openvino is not installed: pip install 'ddrnet-jax\[openvino\]'"):
        engines.load(saved(tmp_path / "one"), "openvino")
    assert exports == []


def test_an_export_that_differs_leaves_jax(exports, tmp_path, said, monkeypatch):
    def fails(step):
        raise EngineError("ONNX Runtime differs from our network")

    monkeypatch.setattr(engines, "_export", fails)
    assert not engines.load(saved(tmp_path / "one")).predict(IMAGE).any()
    assert said[-1] == "engine: jax (ONNX Runtime differs from our network)"


def test_test_time_views_are_no_part_of_a_prediction(exports, tmp_path):
    engines.load(saved(tmp_path / "one", scales=(0.5, 1.0), flip=True))
    assert exports == ["one"]


def test_a_weights_file_is_exported_once(exports, tmp_path, said):
    (tmp_path / "anyones.pth").write_bytes(b"weights")
    ours, resized = config.base(), config.base()
    resized.eval.size_hw = (64, 64)
    for name, of in (("ours", ours), ("resized", resized)):
        metadata = {CONFIG_ENTRY: json.dumps(config_files.to_json(of))}
        weight_files.write_safetensors(tmp_path / f"{name}.safetensors", {"a": IMAGE}, metadata)
    for name in ("anyones.pth", "ours.safetensors", "ours.safetensors"):
        np.testing.assert_array_equal(engines.load(tmp_path / name).predict(IMAGE), IMAGE[..., 0])
    assert exports == ["anyones.pth", "ours.safetensors"]
    engines.load(tmp_path / "resized.safetensors")
    assert said[-1] == "engine: jax (eval.size_hw, which an exported file does not know)"


@pytest.mark.parametrize("engine", onnx_engine.ENGINES)
def test_every_engine_runs_a_file(exports, engine, tmp_path, said):
    if engine == "openvino":
        skip_without_openvino()
    card = json.dumps({"config": config_files.to_json(config.base())})
    (tmp_path / "any.onnx").write_bytes(red_channel(card))
    (tmp_path / "fixed.onnx").write_bytes(red_channel(card, (1, 4, 5)))
    for name in ("any.onnx", "fixed.onnx"):
        segmenter = engines.load(tmp_path / name, engine)
        assert said[-1].startswith(f"engine: {engine} ")
        both = np.stack([IMAGE, IMAGE + 1])
        first = segmenter.predict(both[0])
        np.testing.assert_array_equal(segmenter.predict(both), both[..., 0])
        np.testing.assert_array_equal(first, IMAGE[..., 0], "a result is not overwritten by the next")
        np.testing.assert_array_equal(segmenter.predict(IMAGE[::2]).shape, (2, 5))
    with pytest.raises(EngineError, match=r"any.onnx: an exported file; add --engine onnxruntime"):
        engines.load(tmp_path / "any.onnx", "jax")


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="cores can be chosen on Linux alone")
@pytest.mark.skipif(cpu.cores() < 2, reason="one core cannot be left out")
def test_threads_of_onnxruntime_stay_on_the_cores_that_are_allowed(tmp_path):
    code = """
import os, sys
first = {min(os.sched_getaffinity(0))}
os.sched_setaffinity(0, first)
import numpy as np
from ddrnet_jax.exports import onnx_engine
ready = onnx_engine.session(sys.argv[1])
ready.run(None, {"images": np.zeros((1, 4, 5, 3), np.uint8)})
assert {os.sched_getaffinity(int(thread)) == first for thread in os.listdir("/proc/self/task")} == {True}
"""
    path = write_red_channel(tmp_path / "a.onnx")
    subprocess.run([sys.executable, "-c", code, path], check=True)


@pytest.mark.skipif(sys.platform != "linux", reason="signal stacks are looked at on Linux alone")
def test_openvino_leaves_signal_handlers_the_ordinary_stack(tmp_path):
    """Its own is unmapped with its last object, and the next signal would be a crash."""
    skip_without_openvino()
    libc, own = ctypes.CDLL(None), ctypes.create_string_buffer(2**14)
    libc.sigaltstack(ctypes.byref(signal_stack._Stack(ctypes.addressof(own), 0, len(own))), None)
    engines.load(write_red_channel(tmp_path / "a.onnx"), "openvino")
    found = signal_stack._Stack()
    libc.sigaltstack(None, ctypes.byref(found))
    assert found.flags == signal_stack._DISABLE


def test_openvino_runs_no_int8_file(tmp_path):
    skip_without_openvino()
    card = {"config": config_files.to_json(config.base()), "int8": {}}
    (tmp_path / "a.onnx").write_bytes(red_channel(json.dumps(card)))
    with pytest.raises(EngineError, match=r"--checkpoint .*a.onnx: an int8 file, which OpenVINO computes wrongly"):
        engines.load(tmp_path / "a.onnx", "openvino")
    assert (engines.load(tmp_path / "a.onnx").predict(IMAGE) == IMAGE[..., 0]).all()


def test_what_openvino_says_of_a_file_is_its_reason_not_its_source(tmp_path):
    skip_without_openvino()
    (tmp_path / "a.onnx").write_bytes(b"none")
    with pytest.raises(EngineError, match="not a file of export --format onnx") as error:
        engines.load(tmp_path / "a.onnx", "openvino")
    assert ".cpp" not in str(error.value)


def test_openvino_reports_to_nobody():
    skip_without_openvino()
    script = (
        "import os, sys; os.register_at_fork(before=lambda: print('forked'))\n"
        "from ddrnet_jax.exports import onnx_engine; onnx_engine.installed('openvino').Core()\n"
        "print(sys.modules['openvino_telemetry'])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "None\n", done.stderr


def test_bfloat16_decides_which_engine_is_fastest(monkeypatch):
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: object())
    for flags, fastest in (("avx2 avx512_bf16", "openvino"), ("avx2", "onnxruntime")):
        monkeypatch.setattr(
            engines.cpu.regular_files, "read_text", lambda path, flags=flags: f"model: 1\nflags : {flags}\n"
        )
        assert engines._fastest() == fastest


def test_a_step_is_known_by_its_content(tmp_path):
    one, same, other = (saved(tmp_path / name, weight) for name, weight in (("a", 1.0), ("b", 1.0), ("c", 2.0)))
    assert find.fingerprint(one) != find.fingerprint(other)
    assert find.fingerprint(one) == find.fingerprint(one)
    with pytest.raises(CheckpointError, match="no checkpoint here"):
        engines.load(tmp_path / "none")
