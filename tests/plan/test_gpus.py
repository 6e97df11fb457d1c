"""What XLA compiles for GPUs that are not there: run where its wheels are installed, in an environment of their own."""

import json
import os
import subprocess
import sys

import pytest

from ddrnet_jax import main as main_lib
from ddrnet_jax.plan import gpus
from ddrnet_jax.runtime import devices

MISSING = gpus.missing_wheels()
NEEDS_COMPILER = pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}: {gpus.install_line()}")


def test_the_line_to_install_names_the_version_of_this_jax():
    import jax

    assert f"jax-cuda12-plugin=={jax.__version__} jax-cuda12-pjrt=={jax.__version__}" in gpus.install_line()


def test_every_gpu_is_described_to_the_compiler():
    for name, gpu in gpus.GPUS.items():
        text = gpus._target_config(gpu)
        assert f'"{gpu.name}"' in text, name
        assert f"major: {gpu.capability[0]} minor: {gpu.capability[1]}" in text
        assert f"memory_bandwidth: {int(gpu.bytes_per_s)}" in text
        assert text.count("{") == text.count("}")


def test_without_the_compiler_the_benchmark_says_what_to_install(repo):
    if not MISSING:
        pytest.skip("it is installed here")
    run = subprocess.run([sys.executable, "-m", "benchmarks.gpu_bytes"], cwd=repo, capture_output=True, text=True)
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1] == (
        f"error: the compiler for GPUs is not installed; in an environment of its own: {gpus.install_line()}"
    )


def compiled(case, repo, tmp_path):
    """The figures of a case, from a process of its own: JAX is told to stay on the CPU before it starts."""
    rows = tmp_path / "rows.json"
    command = [sys.executable, "-m", "benchmarks.gpu_bytes", "--case", case, "--json", str(rows)]
    run = subprocess.run(command, cwd=repo, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    (row,) = json.loads(rows.read_text())
    return row


@NEEDS_COMPILER
@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "kernels", "gigabytes"), [("h100:mask:bfloat16", 80, 0.6), ("2080ti:mask:float16", 85, 0.7)]
)
def test_the_mask_needs_few_kernels_and_bytes(repo, tmp_path, case, kernels, gigabytes):
    row = compiled(case, repo, tmp_path)
    assert row["convolutions"] == 55
    assert row["fused_convolutions"] == 45
    assert row["transposes"] == 0, "kernels lie as cuDNN reads them"
    assert row["kernels"] <= kernels
    assert row["bytes"] <= gigabytes * 1e9


@NEEDS_COMPILER
@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "kernels", "gigabytes", "peak_megabytes"),
    [("float32", 1700, 13.5, 900), ("bfloat16", 1780, 7.7, 600)],
)
def test_a_training_step_stores_no_logits_at_image_size(repo, tmp_path, dtype, kernels, gigabytes, peak_megabytes):
    """Where XLA no longer fuses the losses, each stores 240 MB and reads them again."""
    row = compiled(f"h100:training:{dtype}", repo, tmp_path)
    assert row["all_reduces"] <= 141
    assert row["kernels"] <= kernels
    assert row["bytes"] <= gigabytes * 1e9
    assert row["peak_bytes"] <= peak_megabytes * 1e6


_ORDERS = """
import jax, jax.numpy as jnp
from jax.experimental.layout import Format, Layout
from ddrnet_jax.models import kernel_layout
from ddrnet_jax.plan import gpus
from ddrnet_jax.runtime import devices

numbers = ("NHWC", "HWIO", "NHWC")
def convolve(kernel, x):
    return jax.nn.relu(jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers))

for name in gpus.GPUS:
    (device,) = gpus.described(name)
    place = devices.replicated(devices.data_mesh([device]))
    for dtype in (jnp.float32, jnp.bfloat16, jnp.float16):
        x = jax.ShapeDtypeStruct((1, 128, 256, 64), dtype, sharding=place)
        kernel = jax.ShapeDtypeStruct((3, 3, 64, 64), dtype, sharding=place)
        program = jax.jit(convolve, in_shardings=(Format(Layout.AUTO, place), place))
        compiled = program.lower(jax.ShapeDtypeStruct((3, 3, 64, 64), dtype), x).compile(
            compiler_options=gpus.COMPILER_OPTIONS)
        found = compiled.input_formats[0][0].layout.major_to_minor
        expected = kernel_layout.order(device.compute_capability, dtype)
        print(name, jnp.dtype(dtype).name, found, expected)
        assert found == expected, (name, dtype, found, expected)
"""


@NEEDS_COMPILER
@pytest.mark.slow
def test_kernels_lie_as_the_compiler_wants_them(repo):
    environment = {"JAX_PLATFORMS": "cpu", "PATH": "", "HOME": str(repo)}
    run = subprocess.run([sys.executable, "-c", _ORDERS], cwd=repo, capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stdout + run.stderr


def test_a_plan_looks_for_no_accelerator(repo, monkeypatch, capsys):
    done = []
    monkeypatch.setattr(devices, "stay_on_the_cpu", lambda: done.append("stays on the CPU"))
    monkeypatch.setattr(devices, "check", lambda: done.append("checked"))
    config = str(repo / "configs" / "demo.py")
    assert main_lib.main(["--mode", "plan", "--config", config, "--topology", "nothing"]) == 1
    assert "unknown topology" in capsys.readouterr().err
    assert done == ["stays on the CPU", "checked"]


@NEEDS_COMPILER
@pytest.mark.slow
def test_a_plan_needs_neither_a_driver_nor_a_variable_of_jax_and_can_be_made_twice(repo, tmp_path):
    kept = {name: value for name, value in os.environ.items() if name != "JAX_PLATFORMS"}
    command = [sys.executable, "-m", "ddrnet_jax.main", "--mode", "plan", "--config", "configs/demo.py"]
    for _ in range(2):
        run = subprocess.run(
            [*command, "--topology", "h100:2"],
            cwd=repo,
            capture_output=True,
            text=True,
            env=kept | {"DDRNET_JAX_CACHE_DIR": str(tmp_path)},
        )
        assert run.returncode == 0, run.stderr
        assert "kernels" in run.stdout
        assert "Traceback" not in run.stderr
        assert "Warning" not in run.stderr
