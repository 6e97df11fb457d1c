"""The paper's protocol on a GPU, as far as a machine without one can tell: rows, labels, clocks, what is unknown."""

import importlib
import json
import re
import time
import types

import jax
import pytest
from report.html_page import Page

from ddrnet_jax import main as main_lib
from ddrnet_jax.benchmark import clocks, device, page, run
from ddrnet_jax.benchmark.timing import Program
from ddrnet_jax.runtime import compilation

TURING = "NVIDIA GeForce RTX 2080 Ti"
HOPPER = "NVIDIA H100 80GB HBM3"


class NvmlError(Exception):
    pass


class FakeNvml:
    """NVIDIA's library with these cards: (name, uuid)."""

    NVMLError = NvmlError
    NVML_CLOCK_SM, NVML_CLOCK_MEM = 1, 2

    def __init__(self, *cards):
        self.cards = cards
        self.clocks_mhz = iter(range(1500, 10**6))  # higher at each reading
        self.reasons = 0

    def nvmlInit(self):
        pass

    def nvmlSystemGetDriverVersion(self):
        return "570.1"

    def nvmlDeviceGetHandleByIndex(self, index):
        if index >= len(self.cards):
            raise NvmlError("Invalid Argument")
        return self.cards[index]

    def nvmlDeviceGetHandleByUUID(self, uuid):
        return next(card for card in self.cards if card[1] == uuid)

    def nvmlDeviceGetName(self, handle):
        return handle[0]

    def nvmlDeviceGetMaxClockInfo(self, handle, kind):
        return {1: 2100, 2: 7000}[kind]

    def nvmlDeviceGetEnforcedPowerLimit(self, handle):
        return 250_000

    def nvmlDeviceGetClockInfo(self, handle, kind):
        return next(self.clocks_mhz) if kind == 1 else 6800

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle):
        return self.reasons


@pytest.fixture
def use(monkeypatch):
    """A function (name, compute capability, NVML or None) that makes JAX see one GPU, which is the driver's first."""

    def gpu(name, capability, nvml):
        found = types.SimpleNamespace(
            platform="gpu",
            device_kind=name,
            compute_capability=capability,
            local_hardware_id=0,
            memory_stats=lambda: {"bytes_limit": 8 * 2**30, "bytes_in_use": 0},
        )
        monkeypatch.setattr(jax, "devices", lambda *_: [found])
        monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
        monkeypatch.setattr(compilation, "options", lambda *_: {})
        import_module = importlib.import_module

        def importing(name, *rest):
            if name != "pynvml":
                return import_module(name, *rest)
            if nvml is None:
                raise ImportError(name)
            return nvml

        monkeypatch.setattr(importlib, "import_module", importing)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    return gpu


class FakeNetwork:
    """Notes what it would be compiled with."""

    made = []

    def __init__(self, model, size_hw, precision=device.FLOAT32, options=None):
        self.made.append((precision.matmul, precision.dtype.__name__, options))

    def flops(self):
        return 1e8

    def program(self, protocol, batch):
        return Program(lambda: time.sleep(0.001), compile_s=0.1, memory={"argument_bytes": 2**20}, bytes_accessed=1e6)


@pytest.fixture
def fake(monkeypatch):
    """Instead of networks; peaks have all rates that are asked for."""

    def peaks(precisions):
        rates = {precision.name: 1e12 * (i + 1) for i, precision in enumerate(precisions)}
        return {"matmul_size": 8192, "matmul_flops_per_s": rates, "copy_bytes_per_s": 5e11}

    monkeypatch.setattr(run, "OurNetwork", FakeNetwork)
    monkeypatch.setattr(FakeNetwork, "made", [])
    monkeypatch.setattr(run, "_random", lambda variant, n: types.SimpleNamespace(variant=variant, num_classes=n))
    monkeypatch.setattr(device, "practical_peaks", peaks)
    monkeypatch.setattr(run.cases, "least_warm_up_s", lambda platform: 0.0)


def papers_protocol(tmp_path, capsys):
    """(benchmark.json, what was printed) of the one command, for one network at one size."""
    flags = ("--variants", "23_slim", "--sizes", "1024x2048", "--seconds", "0.001", "--output", str(tmp_path))
    assert main_lib.main(["--mode", "benchmark", "--protocols", "paper", *flags]) == 0
    return json.loads((tmp_path / "benchmark.json").read_text()), capsys.readouterr().out


def words(text):
    return " ".join(text.split())


def test_the_papers_protocol_on_a_new_gpu(use, fake, tmp_path, capsys):
    nvml = FakeNvml((HOPPER, "GPU-1"))
    nvml.reasons = 0x4 | 0x40
    use(HOPPER, "9.0", nvml)
    result, out = papers_protocol(tmp_path, capsys)
    engines = ["jax float32", "jax tf32", "jax bfloat16", "jax float16", "jax no graphs"]
    assert [(r["batch"], r["engine"]) for r in result["rows"]] == [(n, e) for n in (1, 2, 4, 8, 16) for e in engines]
    assert FakeNetwork.made == [
        ("highest", "float32", None),
        ("tensorfloat32", "float32", None),
        ("default", "bfloat16", None),
        ("default", "float16", None),
        ("highest", "float32", {"xla_gpu_enable_command_buffer": ""}),
    ]
    lines = out.splitlines()
    assert max(map(len, lines[:-1])) <= 80
    assert [line.split()[-1] for line in lines if " jax tf32 " in line] == ["102", "-", "-", "-", "-"], "of batch 1"
    text = words(out)
    assert "paper: published frames a second on one GTX 2080 Ti" in text
    assert "float32: TF32 off; tf32: on" in text
    assert "no graphs: float32 without CUDA graphs" in text
    assert "tf32 2,000 GFLOP/s, bfloat16 3,000 GFLOP/s, float16 4,000 GFLOP/s" in text
    assert "10 warm-ups" in text
    assert [line for line in lines if "paper no graphs x16" in line]
    assert "the card's highest is 2100, of its memory 7000" in text
    assert "Held down, of 25 rows: heat in 25, power cap in 25." in text
    assert "Driver 570.1, power limit 250 W." in text
    for row in result["rows"]:
        (low, high), memory_mhz = row["clocks"]["sm_mhz"], row["clocks"]["memory_mhz"]
        assert 1500 < low < high, "one reading a turn"
        assert memory_mhz == [6800, 6800]
    assert f"{result['rows'][0]['clocks']['sm_mhz'][0]:>5}" in next(line for line in lines if "paper float32 " in line)


def test_a_turing_has_neither_tf32_nor_bfloat16_and_clocks_may_be_unknown(use, fake, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_autotune_level=0")
    use(TURING, "7.5", None)
    result, out = papers_protocol(tmp_path, capsys)
    assert [row["engine"] for row in result["rows"][:4]] == ["jax float32", "jax float16", "jax no graphs"] + [
        "jax float32"
    ]
    text = words(out)
    assert "No tf32 and no bfloat16: cards before compute capability 8.0 have neither." in text
    assert "Clocks: unknown (nvidia-ml-py is not installed: pip install nvidia-ml-py)." in text
    assert "XLA_FLAGS: --xla_gpu_autotune_level=0" in text
    assert "MHz" not in text
    assert {row["clocks"] for row in result["rows"]} == {None}
    assert result["device"]["compute_capability"] == "7.5"


def test_the_page_has_every_engine_in_a_colour_of_its_own(use, fake, tmp_path, capsys):
    use(HOPPER, "9.0", FakeNvml((HOPPER, "GPU-1")))
    result, _ = papers_protocol(tmp_path, capsys)
    source = (tmp_path / "benchmark.html").read_text()
    shown = page.speeds(result)
    assert [*shown][1:] == [f"measured here: {row['engine']}" for row in result["rows"][:5]]
    colors = re.findall(r'class="point (color\d)"', source)
    assert len(set(colors)) == 6
    assert all(f".{color} {{" in source for color in colors)
    assert Page(source).row("● measured here: jax no graphs")[1:] == ["–", "–"]


def test_the_card_is_the_one_that_jax_uses(use, monkeypatch):
    nvml = FakeNvml((TURING, "GPU-1"), (HOPPER, "GPU-2"))
    use(HOPPER, "9.0", nvml)
    assert clocks.of_first_device().about == {"unknown": f"card 0 is {TURING} to the driver, {HOPPER} to JAX"}
    for visible in ("1", "GPU-2", "1,0"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert clocks.of_first_device().about["driver"] == "570.1", visible
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    assert clocks.of_first_device().about == {"unknown": "Invalid Argument"}


def test_a_driver_that_fails_later_leaves_rows_without_clocks(use, monkeypatch):
    nvml = FakeNvml((HOPPER, "GPU-1"))
    use(HOPPER, "9.0", nvml)
    found = clocks.of_first_device()
    first = found.read()

    def lost(handle):
        raise NvmlError("GPU is lost")

    monkeypatch.setattr(nvml, "nvmlDeviceGetCurrentClocksThrottleReasons", lost)
    assert found.read() is None
    assert clocks.summary([None]) is None
    assert clocks.summary([first, None])["sm_mhz"] == [first.sm_mhz, first.sm_mhz]


def test_a_cpu_has_no_such_clocks():
    assert clocks.of_first_device().about is None
    assert clocks.of_first_device().read() is None
