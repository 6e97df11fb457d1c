"""A plan: figures of what was compiled, a program too large for the memory, arithmetic of the run, 80 columns."""

import importlib.util
import json
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddrnet_jax import build, main
from ddrnet_jax.config import ConfigError
from ddrnet_jax.config import files as config_files
from ddrnet_jax.models import variables
from ddrnet_jax.plan import accelerators, plan
from ddrnet_jax.plan import report as plan_report
from ddrnet_jax.runtime import devices
from ddrnet_jax.training import program

ROWS, WIDTH = 16, 48


@pytest.fixture
def config(repo):
    return config_files.load(f"{repo / 'configs' / 'cityscapes.py'}", ["total_steps=36000"])


@pytest.fixture
def classifier(repo):
    return config_files.load(f"{repo / 'configs' / 'imagenet.py'}", [])


def small_step(config, mesh):
    """A gradient of 48x48 weights over 16 rows: arithmetic known by hand."""
    weights = jax.ShapeDtypeStruct((WIDTH, WIDTH), np.float32, sharding=devices.replicated(mesh))
    rows = jax.ShapeDtypeStruct((ROWS, WIDTH), np.float32, sharding=devices.by_batch(mesh))
    step = jax.jit(jax.grad(lambda w, x: jnp.square(x @ w).sum()), out_shardings=devices.replicated(mesh))
    return step.lower(weights, rows)


def test_figures_are_those_of_the_compiled_program(classifier, said):
    planned = plan.plan(build.experiment(classifier), "cpu", small_step)
    train, count = planned["programs"]["train"], len(jax.devices("cpu"))
    assert planned["programs"].keys() == {"train"}  # a classifier predicts no masks
    assert planned["devices"] == count == 4
    assert train["argument_bytes"] == 4 * (WIDTH * WIDTH + ROWS // count * WIDTH)
    products = 2 * 2 * (ROWS // count) * WIDTH * WIDTH  # forward, and the gradient of the weights
    assert products <= train["flops"] < 1.1 * products
    assert train["collectives"] == {"all-reduce": {"count": 1, "bytes": 4 * WIDTH * WIDTH}}
    assert train["fits"]
    assert planned["run"] is None
    assert planned["measured"] is False
    assert "compiling the training step for cpu" in said[0]
    text = "\n".join(plan_report.report_lines(planned))
    assert "this machine: 4 cpu device(s)" in text
    assert "nothing here is a measurement" in text
    assert "a step" in text
    assert "images/s" not in text


def test_the_persistent_cache_is_on_again_after_a_plan(classifier):
    plan.plan(build.experiment(classifier), "cpu", small_step)
    assert jax.config.jax_enable_compilation_cache


class TooLarge:
    """A lowered program that the compiler finds no memory for."""

    def __init__(self, message):
        self.message = message

    def compile(self):
        raise jax.errors.JaxRuntimeError(self.message)


@pytest.mark.parametrize(
    ("message", "needed", "available"),
    [
        (
            "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory required for HLO "
            "temporaries (74.5G) exceeds available HBM (15.75G). HLO module: jit_f.",
            74.5,
            15.75,
        ),
        (
            "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. "
            "Used 16.25G of 15.75G hbm. Exceeded hbm capacity by 512.00M.",
            16.25,
            15.75,
        ),
    ],
)
def test_a_batch_that_does_not_fit_is_a_result(classifier, message, needed, available):
    planned = plan.plan(build.experiment(classifier), "cpu", lambda config, mesh: TooLarge(message))
    train = planned["programs"]["train"]
    assert train == {"fits": False, "needed_bytes": needed * 2**30, "available_bytes": available * 2**30}
    text = "\n".join(plan_report.report_lines(planned))
    assert f"DOES NOT FIT in memory: needs {needed:.2f} GiB of {available:.2f} GiB" in text
    assert "--config.optimizer.accumulate_steps=2" in text


def test_a_message_without_amounts_is_still_a_result(classifier):
    planned = plan.plan(
        build.experiment(classifier), "cpu", lambda config, mesh: TooLarge("RESOURCE_EXHAUSTED: no more")
    )
    assert planned["programs"]["train"]["needed_bytes"] is None
    assert any("DOES NOT FIT" in line for line in plan_report.report_lines(planned))


def test_another_error_of_the_compiler_stays_an_error(classifier):
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        plan.plan(build.experiment(classifier), "cpu", lambda config, mesh: TooLarge("INTERNAL: broken"))


def test_a_batch_that_cannot_be_spread_is_refused_before_compiling(config):
    config.batch_size = 6
    with pytest.raises(ConfigError, match="batch_size: 6 given, expected a multiple of the 4 devices"):
        plan.plan(build.experiment(config), "cpu", program.lower_train_step)


def test_the_inference_is_one_image_to_its_mask(config):
    config.eval.size_hw = (64, 72)
    one_device = devices.data_mesh(jax.devices()[:1])
    lowered = plan._lower_inference(build.experiment(config), one_device)
    assert (lowered.out_info.shape, lowered.out_info.dtype) == ((1, 64, 72), np.uint8)
    weights, image = lowered.args_info[0]
    assert (image.shape, image.dtype) == ((1, 64, 72, 3), np.uint8)
    assert "aux_head" not in weights[0]
    assert not any(name.startswith("stem.") and ".bn." in name for name in variables.paths(weights[0]))  # folded


def figures(**changed):
    """A program on two chips of four devices, at 0.1 s by its memory."""
    bounds = {"compute_s": 0.02, "memory_s": 0.1, "link_s": 0.001, "seconds": 0.1, "limit": "memory"}
    return {
        "fits": True,
        "available_bytes": 96 * 2**30,
        "compile_s": 100.0,
        "argument_bytes": 2**20,
        "temporary_bytes": 3 * 2**30,
        "peak_bytes": 3 * 2**30,
        "code_bytes": 2**27,
        "flops": 1.5e12,
        "bytes_accessed": 8e10,
        "collectives": {"all-reduce": {"count": 139, "bytes": 2**26}},
        "roofline": bounds,
    } | changed


def test_hours_and_chip_hours_are_steps_times_the_slowest_bound(config):
    target = accelerators.Topology(
        "tpu7x:1x2x1",
        tuple(types.SimpleNamespace(process_index=i // 2) for i in range(4)),
        accelerators.TPUS["tpu7x"],
    )
    programs = {"train": figures(), "inference": figures(collectives={})}
    planned = plan.assembled(build.experiment(config), target, programs)
    assert planned["chips"] == 2
    assert planned["hosts"] == 2
    assert planned["run"] == pytest.approx({"step_s": 0.1, "images_per_s": 120, "hours": 1.0, "chip_hours": 2.0})
    lines = plan_report.report_lines(planned)
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    for part in ("fits in 96.00 GiB", "139, together 64 MiB", "limited by memory", "120: what", "60 on each host"):
        assert part in text
    assert "36,000 steps: 1.00 h, 2.0 chip-hours" in text
    assert "inference, one image of 1024x2048" in text
    json.dumps(planned)


def test_every_line_of_every_chip_fits_80_columns(config):
    for chip in accelerators.TPUS.values():
        one_device = types.SimpleNamespace(process_index=0)
        target = accelerators.Topology(chip.topologies[-1], (one_device,) * 512, chip)
        lines = plan_report.report_lines(plan.assembled(build.experiment(config), target, {"train": figures()}))
        assert max(map(len, lines)) <= 80


def test_the_command_writes_what_it_prints(repo, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(program, "lower_train_step", small_step)
    output = tmp_path / "plans" / "plan.json"
    flags = ["--config", str(repo / "configs" / "imagenet.py"), "--topology", "cpu", "--output", str(output)]
    assert main.main(["--mode", "plan", *flags]) == 0
    assert "training step, per device" in capsys.readouterr().out
    assert json.loads(output.read_text())["programs"]["train"]["fits"]


needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed: pip install -e '.[plan]'"
)
ON_A_TPU = """
import jax, jax.numpy as jnp, numpy as np, json
from ddrnet_jax import build
from ddrnet_jax.config import files as config_files
from ddrnet_jax.plan import accelerators, plan
from ddrnet_jax.runtime import devices
def small_step(config, mesh):
    weights = jax.ShapeDtypeStruct((256, 256), np.float32, sharding=devices.replicated(mesh))
    rows = jax.ShapeDtypeStruct((64, 256), np.float32, sharding=devices.by_batch(mesh))
    step = jax.jit(jax.grad(lambda w, x: jnp.square(x @ w).sum()), out_shardings=devices.replicated(mesh))
    return step.lower(weights, rows)
def large_step(config, mesh):
    x = jax.ShapeDtypeStruct((100_000,), np.float32, sharding=devices.replicated(mesh))
    return jax.jit(lambda x: jnp.sort(jnp.sin(x)[:, None] + jnp.cos(x), 0).sum(1)).lower(x)
experiment = build.experiment(config_files.load(CONFIG, []))
print(json.dumps([plan.plan(experiment, "v5e:2x2", step) for step in (small_step, large_step)]))
"""


@needs_libtpu
def test_a_tpu_that_is_not_there(repo):
    """In a process of its own: libtpu's lock is held until the process ends."""
    script = f"CONFIG = {str(repo / 'configs' / 'imagenet.py')!r}\n{ON_A_TPU}"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == ""
    fits, too_large = json.loads(ran.stdout)
    assert (fits["devices"], fits["chips"], fits["hosts"]) == (4, 4, 1)
    train = fits["programs"]["train"]
    assert train["collectives"] == {"all-reduce": {"count": 1, "bytes": 4 * 256 * 256}}
    assert train["flops"] >= 2 * 2 * 16 * 256 * 256
    assert train["roofline"]["seconds"] > 0
    assert not too_large["programs"]["train"]["fits"]
    assert too_large["programs"]["train"]["needed_bytes"] > too_large["programs"]["train"]["available_bytes"]


@needs_libtpu
@pytest.mark.slow
def test_the_training_step_of_the_network_for_a_tpu(repo, tmp_path):
    output = tmp_path / "plan.json"
    command = [sys.executable, "-m", "ddrnet_jax.main", "--mode", "plan", "--config", "configs/cityscapes.py"]
    command += ["--config.data.crop_hw=(128,128)", "--config.eval.size_hw=(128,128)", "--config.batch_size=8"]
    command += ["--topology", "v5e:2x2", "--output", str(output)]
    ran = subprocess.run(command, cwd=repo, capture_output=True, text=True, timeout=3600)
    assert ran.returncode == 0, ran.stderr
    planned = json.loads(output.read_text())
    assert planned["programs"]["train"]["collectives"]["all-reduce"]["count"] > 100
    assert planned["programs"]["inference"]["collectives"] == {}


def test_of_gpus_a_plan_says_kernels_and_bounds_but_no_hours(classifier):
    figures = {
        "fits": True,
        "available_bytes": 60 * 2**30,
        "argument_bytes": 2**20,
        "temporary_bytes": 2**30,
        "peak_bytes": 2**30,
        "code_bytes": 0,
        "flops": 10**12,
        "bytes_accessed": 15 * 10**9,
        "kernels": 1723,
        "collectives": {"all-reduce": {"count": 141, "bytes": 23 * 10**6}},
    }
    h100 = accelerators.GPUS["h100"]
    figures["roofline"] = plan._bounds(figures, h100, num_devices=4)
    target = accelerators.Topology("h100:4", tuple(jax.devices("cpu")), h100)
    planned = plan.assembled(build.experiment(classifier), target, {"train": figures})
    assert planned["run"] is None
    lines = plan_report.report_lines(planned)
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    assert "1723" in text
    assert "memory 4.47 ms" in text, "15 GB at 3352 GB/s"
    assert "75% of the card" in text
    assert " h, " not in text
