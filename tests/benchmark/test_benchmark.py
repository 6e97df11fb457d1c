"""`--mode benchmark`: programs that compute what their protocol says, rows for what fails, one-line errors."""

import importlib.util
import json
import re
import types

import cv2
import jax
import numpy as np
import pytest
from flax import nnx

from ddrnet_jax import DDRNet, build, config, memory
from ddrnet_jax import main as main_lib
from ddrnet_jax.benchmark import device, exported, files, ours, run
from ddrnet_jax.benchmark.cases import PROTOCOLS, Case
from ddrnet_jax.benchmark.published import CITYSCAPES_HW, GMACS
from ddrnet_jax.benchmark.timing import Program
from ddrnet_jax.config import files as config_files
from ddrnet_jax.data import decode
from ddrnet_jax.exports.onnx_engine import EngineError
from ddrnet_jax.models import blocks, variables
from ddrnet_jax.models.ddrnet import IMAGENET_MEAN, IMAGENET_STD
from ddrnet_jax.models.variants import VARIANTS, Variant
from ddrnet_jax.outputs import Outputs
from ddrnet_jax.runs import checkpoints

SIZE_HW = (64, 96)
PEAKS = {"matmul_size": 1, "matmul_flops_per_s": dict.fromkeys(("float32", "bfloat16"), 1e12), "copy_bytes_per_s": 1e9}


def command(capsys, *arguments):
    """(exit code, stdout, stderr)"""
    code = main_lib.main(["--mode", "benchmark", *(str(a) for a in arguments)])
    return code, *capsys.readouterr()


@pytest.fixture(scope="module")
def model():
    """Random weights, and logits that differ between the classes."""
    model = DDRNet("23_slim", num_classes=19, rngs=nnx.Rngs(0))
    model.eval()
    return model


@pytest.fixture(scope="module")
def network(model):
    return ours.OurNetwork(model, SIZE_HW)


@pytest.fixture(scope="module")
def plain_logits(model):
    """f32[2,8,12,19] of the network as it was trained, for the image that is measured, twice."""
    image = files.image_to_measure(SIZE_HW)
    images = (np.stack([image] * 2) / 255 - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD)
    graphdef, *weights = variables.split(model)
    return np.asarray(jax.jit(lambda w, x: variables.merge(graphdef, *w)(x).logits)(weights, images.astype(np.float32)))


def output_of(program):
    output = program.start()
    program.wait(output)
    return np.asarray(output)


def assert_close(found, expected, relative=2e-5):
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= relative * np.abs(expected).max()


def test_each_protocol_times_what_it_says(network, plain_logits, tmp_path):
    assert_close(output_of(network.program(PROTOCOLS["logits"], 1)), plain_logits[:1])
    at_image_size = np.asarray(blocks.upsample_x8(plain_logits, SIZE_HW))
    paper = network.program(PROTOCOLS["paper"], 1)
    assert_close(output_of(paper), at_image_size[:1])
    assert paper.compile_s > 0
    assert paper.memory["output_bytes"] == 4 * 64 * 96 * 19
    masks = network.program(PROTOCOLS["mask"], 1)
    mask = output_of(masks)
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, at_image_size[:1].argmax(-1))
    assert network.program(PROTOCOLS["file"], 1) is masks, "compiled once"
    path = files.write_image(tmp_path, SIZE_HW)
    np.testing.assert_array_equal(decode.decode_image(path.read_bytes(), "it"), files.image_to_measure(SIZE_HW))
    files.file_program(masks, path).start()
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "mask.png"), cv2.IMREAD_UNCHANGED), mask[0])


def test_operations_are_those_of_the_network(model):
    """Twice the multiply-adds that the authors count, and a little for what is none."""
    flops = ours.OurNetwork(model, CITYSCAPES_HW).flops()
    assert 1.0 < flops / (2e9 * GMACS["23_slim"]) < 1.05


def test_precisions(model):
    """float32 multiplies at the highest precision; on accelerators others have rows of their own."""
    assert [p.name for p in device.precisions("cpu")] == ["float32"]
    assert [p.name for p in device.precisions("gpu")] == ["float32", "tf32", "bfloat16", "float16"]
    assert [p.name for p in device.precisions("tpu")] == ["float32", "default", "bfloat16"]
    assert [p.name for p in device.precisions("gpu", "7.5")] == ["float32", "float16"], "Turing has no TF32"
    for compute_capability in ("8.0", "12.0", "gfx942"):
        assert device.precisions("gpu", compute_capability) == device.precisions("gpu")
    images = np.zeros((1, *SIZE_HW, 3), np.float32)
    texts = {}
    for precision in {p for platform in ("gpu", "tpu") for p in device.precisions(platform)}:
        found = ours.OurNetwork(model, SIZE_HW, precision)
        text = found._lower(found._logits(True), images).as_text()
        texts[precision.name] = [line for line in text.splitlines() if "stablehlo.convolution" in line]
    words = {"float32": "precision HIGHEST>", "tf32": "precision HIGH>", "default": "xf32>"}
    words |= {"bfloat16": "xbf16>", "float16": "xf16>"}
    for name, word in words.items():
        assert len(texts[name]) == 55
        assert all(word in line for line in texts[name]), name
        assert all(("precision HIGH" in line) == (name in ("float32", "tf32")) for line in texts[name])


def test_a_program_from_the_cache_says_so(network):
    first, again = (network.program(PROTOCOLS["logits"], 1) for _ in range(2))
    assert again.is_from_cache
    assert first.memory == again.memory


def test_a_program_without_cuda_graphs_is_the_same(model, plain_logits):
    """That the option exists; it means something to GPUs alone."""
    network = ours.OurNetwork(model, SIZE_HW, options=run._WITHOUT_GRAPHS)
    assert_close(output_of(network.program(PROTOCOLS["logits"], 1)), plain_logits[:1])
    with pytest.raises(jax.errors.JaxRuntimeError, match="xla_gpu_enable_command_bufer"):
        ours.OurNetwork(model, SIZE_HW, options={"xla_gpu_enable_command_bufer": ""}).program(PROTOCOLS["logits"], 1)


def test_onnxruntime_times_the_same(model, plain_logits, network):
    theirs = exported.OnnxNetwork(model, SIZE_HW)
    assert_close(np.moveaxis(output_of(theirs.program(PROTOCOLS["logits"], 1)), 1, -1), plain_logits[:1], 1e-4)
    at_image_size = np.asarray(blocks.upsample_x8(plain_logits[:1], SIZE_HW))
    assert_close(output_of(theirs.program(PROTOCOLS["paper"], 1)), at_image_size, 1e-4)
    masks = theirs.program(PROTOCOLS["mask"], 1)
    assert (output_of(masks) == output_of(network.program(PROTOCOLS["mask"], 1))).mean() > 0.999
    flipped = files.image_to_measure(SIZE_HW)[None, ::-1]
    assert (masks.start(flipped) != output_of(masks)).any(), "`file` gives it the image that was read"
    with pytest.raises(EngineError, match="one image at a time"):
        theirs.program(PROTOCOLS["mask"], 2)


@pytest.mark.parametrize(("name", "least"), [("int8", 0.9), ("openvino", 0.97)])
def test_engines_that_give_masks_alone(name, least, model, network):
    if name == "openvino" and importlib.util.find_spec(name) is None:  # its import is ours to do: see onnx_engine
        pytest.skip("openvino is not installed")
    engine = run.engines([name])[-1]
    theirs = engine.network(model, SIZE_HW)
    ours = output_of(network.program(PROTOCOLS["mask"], 1))
    assert (output_of(theirs.program(PROTOCOLS["mask"], 1)) == ours).mean() > least
    with pytest.raises(EngineError, match="masks alone: its protocols are mask and file"):
        theirs.program(PROTOCOLS["logits"], 1)


class FakeNetwork:
    """Instead of a compiled one, where only what happens around it is tested."""

    made = []

    def __init__(self, model, size_hw, precision=device.FLOAT32, options=None):
        self.made.append((model.variant, size_hw))
        self._size_hw = size_hw

    def flops(self):
        return 1e9

    def program(self, protocol, batch):
        masks = np.zeros((batch, *self._size_hw), np.uint8)
        return Program(lambda images=None: masks, compile_s=0.1, memory={"argument_bytes": 1}, bytes_accessed=1e6)


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr(run, "OurNetwork", FakeNetwork)
    monkeypatch.setattr(
        run, "_random", lambda variant, classes: types.SimpleNamespace(variant=variant, num_classes=classes)
    )
    monkeypatch.setattr(FakeNetwork, "made", [])
    monkeypatch.setattr(device, "practical_peaks", lambda precisions: PEAKS)
    return FakeNetwork


FAST = ("--seconds", "0.01")


def test_a_benchmark_from_the_command_line(fake, tmp_path, capsys):
    flags = ("--sizes", "1024x2048,64x96", "--batch_sizes", "1,3", *FAST, "--output", tmp_path / "new" / "out")
    code, out, err = command(capsys, *flags)
    assert code == 0, err
    assert fake.made == [(v, s) for v in ("23_slim", "23", "39") for s in ((1024, 2048), SIZE_HW)]
    result = json.loads((tmp_path / "new" / "out" / "benchmark.json").read_text())
    assert result["finished"]
    assert result["weights"] == "random"
    assert len(result["rows"]) == 3 * 2 * 7  # three protocols by two batches, and file
    assert {row["batch"] for row in result["rows"] if row["protocol"] == "file"} == {1}
    assert result["files"] == ["benchmark.json", "benchmark.txt", "benchmark.html"]
    assert {p.name for p in (tmp_path / "new" / "out").iterdir()} == {*result["files"], ".ddrnet_jax"}
    assert (tmp_path / "new" / "out" / "benchmark.txt").read_text() in out
    announcement = next(line for line in err.splitlines() if "roughly" in line)
    assert err.index(announcement) < err.index("[1/42] paper 1024x2048 23_slim: about")
    assert "42 cases by jax float32" in announcement
    assert "--variants" in announcement
    assert "file: one image at a time, whatever --batch_sizes says" in err


def test_a_variant_of_ones_own(fake, tmp_path, capsys, monkeypatch):
    """Of which nobody has counted or published anything: a line in the table of variants is enough."""
    monkeypatch.setitem(VARIANTS, "24", Variant(8, 1, 1, 1, 1, 1, head_width=8, last_width=8))
    flags = ("--variants", "23_slim,24", "--sizes", "1024x2048", "--protocols", "paper,mask")
    code, out, err = command(capsys, *flags, *FAST, "--output", tmp_path)
    assert code == 0, err
    assert [variant for variant, _ in fake.made] == ["23_slim", "24"]
    assert "[3/4] paper 1024x2048 24: about" in err
    rows = json.loads((tmp_path / "benchmark.json").read_text())["rows"]
    assert [row["published"] and row["published"]["fps"] for row in rows] == [101.6, None, None, None]
    paper = [line.split() for line in out[: out.index("mask:")].splitlines() if line.startswith("1024x2048")]
    assert [(line[1], line[-1]) for line in paper] == [("23_slim", "102"), ("24", "-")]
    assert re.findall(r"<title>([^,<]*), measured here", (tmp_path / "benchmark.html").read_text()) == ["23-slim"]


def test_random_networks_have_the_classes_of_the_papers_data_set(fake):
    by_size = run._random_models(["39"])["39"]
    sizes_hw = ((1024, 2048), (720, 960), (640, 640), SIZE_HW)
    assert [by_size(size_hw).num_classes for size_hw in sizes_hw] == [19, 11, 171, 19]


def test_engines_are_interleaved_with_ours(fake, tmp_path, monkeypatch):
    monkeypatch.setitem(run.OTHER_ENGINES, "torch", lambda: run.Engine("torch", FakeNetwork, packages=("torch",)))
    options = {"variants": ["39"], "sizes_hw": [SIZE_HW], "protocols": ["mask"], "other_engines": ["torch"]}
    result = run.benchmark(tmp_path, seconds=0.01, **options)
    first, second = result["rows"]
    assert (first["engine"], second["engine"]) == ("jax float32", "torch")
    assert len(first["turn_ms"]) == len(second["turn_ms"]) == 10
    pairs = zip(second["turn_ms"], first["turn_ms"], strict=True)
    assert second["ratio"] == pytest.approx(np.median([b / a for b, a in pairs]))
    assert first["ratio"] == 1


def test_what_does_not_fit_is_a_row(fake, tmp_path, monkeypatch, capsys):
    class Greedy(FakeNetwork):
        def program(self, protocol, batch):
            if batch > 1:
                raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 99 bytes.\nmore")
            return super().program(protocol, batch)

    monkeypatch.setattr(run, "OurNetwork", Greedy)
    monkeypatch.setitem(run.OTHER_ENGINES, "torch", lambda: run.Engine("torch", FakeNetwork))
    flags = (
        "--variants",
        "39",
        "--sizes",
        "64x96",
        "--protocols",
        "mask",
        "--batch_sizes",
        "1,16",
        "--engines",
        "torch",
    )
    code, out, err = command(capsys, *flags, *FAST, "--output", tmp_path)
    assert code == 0, err
    errors = [row["error"] for row in json.loads((tmp_path / "benchmark.json").read_text())["rows"]]
    assert errors[:2] == [None, None]
    assert errors[2] == "does not fit in memory: RESOURCE_EXHAUSTED: Out of memory allocating 99 bytes."
    assert errors[3] == "not tried: jax float32 does not fit", "on CPUs the system would end the process"
    assert "does not fit in memory" in out


def test_what_does_not_fit_while_it_is_measured_is_a_row(fake, tmp_path, monkeypatch):
    """The others are measured again without it."""

    class Leaking(FakeNetwork):
        def program(self, protocol, batch):
            calls = iter(range(15))  # ten warm-ups, and some

            def start():
                if next(calls, None) is None:
                    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

            return Program(start)

    monkeypatch.setitem(run.OTHER_ENGINES, "torch", lambda: run.Engine("torch", Leaking))
    options = {"variants": ["39"], "sizes_hw": [SIZE_HW], "protocols": ["paper", "mask"], "other_engines": ["torch"]}
    rows = run.benchmark(tmp_path, seconds=0.01, **options)["rows"]
    assert [row["error"] for row in rows] == [None, "does not fit in memory: RESOURCE_EXHAUSTED: Out of memory"] * 2
    assert [len(row["turn_ms"]) for row in rows[::2]] == [1, 1], "alone: one turn"
    assert rows[0]["ratio"] == 1


def test_a_fault_while_it_is_measured_is_none(fake, tmp_path, monkeypatch):
    programs = {"a": Program(lambda: 1 / 0)}
    with pytest.raises(ZeroDivisionError):
        run._turns(programs, {"a": 1.0}, PROTOCOLS["mask"], 1.0, lambda: None)


def test_more_than_the_free_memory_is_not_run(network, monkeypatch):
    monkeypatch.setattr(device, "available_bytes", lambda: 2**20)
    monkeypatch.setattr(ours, "image_to_measure", lambda size_hw: pytest.fail("took memory before it was checked"))
    with pytest.raises(device.OutOfMemory, match=r"needs 0.0\d GiB, 0.00 are free"):
        network.program(PROTOCOLS["logits"], 1)


def test_two_outputs_must_fit(network, monkeypatch):
    """That of a forward is let go when the next has begun."""
    memory = network.program(PROTOCOLS["paper"], 1).memory
    needed = sum(memory.values()) + memory["output_bytes"]
    monkeypatch.setattr(device, "available_bytes", lambda: needed)
    network.program(PROTOCOLS["paper"], 1)
    monkeypatch.setattr(device, "available_bytes", lambda: needed - 1)
    with pytest.raises(device.OutOfMemory):
        network.program(PROTOCOLS["paper"], 1)


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (MemoryError(), True),
        (RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("Failed to allocate memory for requested buffer of size 5"), True),
        (RuntimeError("INVALID_ARGUMENT: shapes"), False),
    ],
)
def test_out_of_memory_is_known_in_every_engines_words(error, is_one):
    assert memory.is_out_of_memory(error) is is_one
    if is_one:
        assert run._why(error).startswith("does not fit in memory: ")
    else:
        with pytest.raises(RuntimeError, match="INVALID_ARGUMENT"):
            run._why(error)


def test_what_was_stopped_leaves_the_cases_before(fake, tmp_path, monkeypatch, capsys):
    class Stopped(FakeNetwork):
        def program(self, protocol, batch):
            if protocol.name == "mask":
                raise KeyboardInterrupt
            return super().program(protocol, batch)

    for name in ("benchmark.txt", "benchmark.html"):
        Outputs(tmp_path).write(name, b"of an earlier benchmark")
    monkeypatch.setattr(run, "OurNetwork", Stopped)
    code, _, err = command(capsys, "--variants", "39", "--sizes", "64x96", *FAST, "--output", tmp_path)
    assert code == 130
    assert err.endswith("stopped; --output has the cases measured so far, before the first of them what it had\n")
    result = json.loads((tmp_path / "benchmark.json").read_text())
    assert not result["finished"]
    assert [row["protocol"] for row in result["rows"]] == ["paper", "logits"]
    for name in ("benchmark.txt", "benchmark.html"):
        assert "NOT FINISHED: 2 of 4 cases" in (tmp_path / name).read_text()


def test_what_was_stopped_in_its_first_case_leaves_the_benchmark_before(fake, tmp_path, monkeypatch):
    def stopped(self, protocol, batch):
        raise KeyboardInterrupt

    before = {name: f"earlier {name}" for name in ("benchmark.json", "benchmark.txt", "benchmark.html")}
    for name, text in before.items():
        Outputs(tmp_path).write(name, text.encode())
    monkeypatch.setattr(FakeNetwork, "program", stopped)
    with pytest.raises(KeyboardInterrupt):
        run.benchmark(tmp_path, variants=["39"], sizes_hw=[SIZE_HW], seconds=0.01)
    assert {path.name: path.read_text() for path in tmp_path.glob("benchmark*")} == before


@pytest.fixture(scope="module")
def checkpoint_of(tmp_path_factory):
    """Makes a checkpoint of a task."""

    def make(task):
        wanted = config.base()
        wanted.task, wanted.model.variant, wanted.model.aux_head = task, "23_slim", False
        wanted.loss.name = "cross_entropy"
        num_classes = len(build.dataset_spec(wanted).classes)
        trained = DDRNet("23_slim", task=task, num_classes=num_classes, rngs=nnx.Rngs(0))
        folder = tmp_path_factory.mktemp(task) / "checkpoint"
        checkpoints.save_weights(folder, *variables.split(trained)[1:], config_files.to_json(wanted))
        return folder

    return make


def test_a_checkpoint_is_measured(fake, checkpoint_of, tmp_path, capsys):
    folder = checkpoint_of("segmentation")
    code, _, err = command(capsys, "--checkpoint", folder, "--sizes", "64x96", *FAST, "--output", tmp_path)
    assert code == 0, err
    result = json.loads((tmp_path / "benchmark.json").read_text())
    assert (result["weights"], result["data_set"]) == (str(folder), "scenes")
    assert {(row["variant"], row["num_classes"]) for row in result["rows"]} == {("23_slim", 9)}


def assert_one_error(result, *parts):
    code, _, err = result
    assert code == 1
    assert err.startswith("error: ")
    assert err.count("\n") == 1, "nothing was measured before it"
    for part in parts:
        assert part in err


def test_a_classifier_is_refused(fake, checkpoint_of, tmp_path, capsys):
    flags = ("--checkpoint", checkpoint_of("classification"), "--output", tmp_path)
    assert_one_error(command(capsys, *flags), "a classifier, expected a segmenter")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ("--engines", "tensorrt"),
            "--engines tensorrt: expected a list of jax, onnxruntime, int8, openvino, torch, separated by commas",
        ),
        (("--variants", "23_slim,24"), "found '24'"),
        (("--protocols", "mask,"), "found ''"),
        (("--sizes", "1024"), "--sizes 1024: expected HEIGHTxWIDTH in pixels, as in 1024x2048"),
        (("--sizes", "64x16"), "--sizes 64x16: expected 32 pixels or more each way"),
        (("--batch_sizes", "1,0"), "--batch_sizes 0: expected whole numbers above 0"),
        (("--batch_sizes", "1.5"), "--batch_sizes 1.5: expected whole numbers above 0"),
        (
            ("--protocols", "file", "--batch_sizes", "1,4"),
            "--batch_sizes 1,4: --protocols file takes one image at a time",
        ),
        (("--seconds", "nan"), "--seconds nan: expected a number above 0"),
        (("--checkpoint", "x", "--variants", "39"), "a checkpoint is of one variant"),
        (("--checkpoint", "/nowhere"), "/nowhere"),
        (("--config", "configs/demo.py"), "--mode benchmark takes no --config"),
        (("--workdir", "x"), "--mode benchmark does not take --workdir"),
    ],
)
def test_wrong_flags_end_in_one_line(flags, message, fake, tmp_path, capsys):
    assert_one_error(command(capsys, *flags, "--output", tmp_path), message)
    assert not fake.made


def test_an_output_that_is_a_file(fake, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert_one_error(
        command(capsys, "--output", tmp_path / "file"), f"--output {tmp_path / 'file'}", "cannot be written"
    )


@pytest.mark.parametrize(
    ("engine", "missing", "package"),
    [
        ("onnxruntime", "onnx", "onnx"),
        ("onnxruntime", "onnxruntime", "onnxruntime"),
        ("torch", "torch", "'ddrnet-jax[torch]'"),
    ],
)
def test_an_engine_that_is_not_installed(engine, missing, package, fake, tmp_path, capsys, monkeypatch):
    import_module = importlib.import_module

    def without(name, *rest):
        if name == missing:
            raise ImportError(name)
        return object() if name == "onnx" else import_module(name, *rest)

    monkeypatch.setattr(importlib, "import_module", without)
    result = command(capsys, "--engines", engine, "--output", tmp_path)
    assert_one_error(result, f"{missing} is not installed: pip install {package}")


@pytest.mark.parametrize("platform", ["gpu", "tpu"])
def test_onnxruntime_is_compared_on_cpus_alone(platform, monkeypatch):
    monkeypatch.setattr(exported.onnx_engine, "installed", lambda package: None)
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    with pytest.raises(EngineError, match=f"JAX uses {platform}; JAX_PLATFORMS=cpu compares CPUs"):
        exported.check_installed()


def test_a_busy_machine_is_a_warning(fake, monkeypatch, said):
    monkeypatch.setattr(device, "load", lambda: 2.0)
    run._say_what_comes([Case("39", SIZE_HW, PROTOCOLS["mask"], 1)], [90.0], run.engines(), run.Path("x"))
    assert "roughly 2 minutes" in said[0]
    assert "load 2.0" in said[1]
