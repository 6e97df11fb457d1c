"""Roofline arithmetic by hand; every wrong topology ends in one line."""

import importlib.util

import jax
import pytest
from jax.experimental import topologies

from ddrnet_jax import main
from ddrnet_jax.plan import accelerators, gpus
from ddrnet_jax.plan.accelerators import GPUS, TPUS, Accelerator, TopologyError, roofline

CHIP = Accelerator(
    name="chip",
    devices_per_chip=2,
    memory_gib=10,
    flops_per_s=200.0,
    memory_bytes_per_s=40.0,
    link_bytes_per_s=20.0,
    topologies=("chip:1x1",),
    source="",
)


def test_a_device_has_its_share_of_the_chip():
    bounds = roofline(CHIP, flops=300.0, bytes_accessed=50.0, reduced_bytes=40.0, num_devices=4)
    assert bounds.compute_s == pytest.approx(3.0)  # 300 at 100 a second
    assert bounds.memory_s == pytest.approx(2.5)  # 50 at 20
    assert bounds.link_s == pytest.approx(6.0)  # 40 * 2 * 3 / 4 at 10
    assert bounds.seconds == bounds.link_s
    assert bounds.limit == "links"


@pytest.mark.parametrize(("flops", "accessed", "limit"), [(1e6, 1.0, "compute"), (1.0, 1e6, "memory")])
def test_the_largest_is_the_limit(flops, accessed, limit):
    bounds = roofline(CHIP, flops=flops, bytes_accessed=accessed, reduced_bytes=1.0, num_devices=2)
    assert bounds.limit == limit
    assert bounds.seconds == max(bounds.compute_s, bounds.memory_s)


def test_one_device_sends_nothing():
    assert roofline(CHIP, flops=1.0, bytes_accessed=1.0, reduced_bytes=1e9, num_devices=1).link_s == 0


def test_every_chip_says_where_its_figures_are_published():
    for name, chip in (TPUS | GPUS).items():
        assert chip.name == name
        assert chip.source.startswith("https://")
        assert all(topology.startswith(f"{name}:") for topology in chip.topologies)


def error_of(capsys, repo, topology):
    code = main.main(["--mode", "plan", "--config", str(repo / "configs/cityscapes.py"), "--topology", topology])
    out, err = capsys.readouterr()
    assert code == 1
    assert out == ""
    line = err.splitlines()[-1]
    assert line.startswith(f"error: --topology {topology}: ")
    return line


def test_an_unknown_topology_lists_the_accepted_names(capsys, repo):
    line = error_of(capsys, repo, "v9e:2x2")
    assert "unknown topology" in line
    for name in ("v4:2x2x1", "v5e:2x2", "v5e:4x8", "v6e:2x2", "h100:4", "cpu"):
        assert name in line


@pytest.mark.parametrize("name", ["h100", "h100:0", "A100:8:2", "l4:axb"])
def test_gpus_are_counted_by_hosts_and_gpus(capsys, repo, name):
    family = name.split(":")[0].lower()
    assert f"expected {family}:GPUS or {family}:HOSTSxGPUS, for example {family}:1" in error_of(capsys, repo, name)


def test_without_the_compiler_for_gpus_the_line_says_what_to_install(capsys, repo, monkeypatch):
    monkeypatch.setattr(gpus, "missing_wheels", lambda: gpus.WHEELS)
    assert gpus.install_line() in error_of(capsys, repo, "h100:4")


def test_gpus_of_several_hosts_are_described(monkeypatch):
    asked = []
    monkeypatch.setattr(gpus, "missing_wheels", tuple)
    monkeypatch.setattr(gpus, "described", lambda *arguments: asked.append(arguments) or ("device",))
    assert accelerators.topology("h100:2x8").accelerator is GPUS["h100"]
    accelerators.topology("2080ti:1")
    assert asked == [("h100", 8, 2), ("2080ti", 1, 1)]
    assert gpus.GPUS.keys() == GPUS.keys()
    for name, gpu in GPUS.items():
        assert gpu.memory_bytes_per_s == gpus.GPUS[name].bytes_per_s


def test_without_libtpu_the_line_says_what_to_install(capsys, repo, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "libtpu" else find(name, *a))
    assert "pip install libtpu" in error_of(capsys, repo, "v5e:2x2")


@pytest.mark.parametrize(
    ("message", "part"),
    [
        ('ABORTED: Internal error when accessing libtpu multi-process lockfile. Run "$ sudo rm ..."', "one at a time"),
        ('INVALID_ARGUMENT: Topology layout "v5e:3x3" is not divisible', "accepted, for example: v4:2x2x1"),
    ],
)
def test_what_libtpu_refuses_is_one_line(capsys, repo, monkeypatch, message, part):
    def refuse(**_):
        raise jax.errors.JaxRuntimeError(f"{message}\nmore lines")

    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: object())
    monkeypatch.setattr(topologies, "get_topology_desc", refuse)
    assert part in error_of(capsys, repo, "v5e:3x3")


def test_this_machine_is_a_topology_without_published_figures():
    here = accelerators.topology("cpu")
    assert here.devices == tuple(jax.devices("cpu"))
    assert here.accelerator is None


def test_the_plan_needs_a_topology(capsys, repo):
    assert main.main(["--mode", "plan", "--config", str(repo / "configs/demo.py")]) == 1
    assert "--mode plan needs --topology" in capsys.readouterr().err


def test_topology_error_is_what_main_reports():
    with pytest.raises(TopologyError, match="unknown topology"):
        accelerators.topology("abacus")
