"""What JAX cannot compute with is said as that, before anything is read, whatever the mode."""

import jax
import pytest

from ddrnet_jax import main as main_lib
from ddrnet_jax.cli import commands
from ddrnet_jax.runs import checkpoints
from ddrnet_jax.runtime import devices
from ddrnet_jax.runtime.devices import DeviceError


def no_platform(patch, error):
    def fail(*_):
        raise error

    patch.setattr(jax, "devices", fail)


@pytest.mark.parametrize("mode", sorted(commands.RUN.keys() - commands.WITHOUT_JAX))
def test_a_platform_that_is_not_here_is_named_in_every_mode(mode, monkeypatch, capsys):
    no_platform(monkeypatch, AssertionError())  # what JAX raises for cuda without a GPU
    monkeypatch.setitem(commands.RUN, mode, lambda *_: pytest.fail("something was done"))
    assert main_lib.main(["--mode", mode]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: JAX_PLATFORMS=cpu: no such device can be used here (")


def test_a_good_checkpoint_is_not_blamed_for_the_platform(tmp_path, monkeypatch):
    (tmp_path / "_CHECKPOINT_METADATA").write_text("{}")
    no_platform(monkeypatch, RuntimeError("Unable to initialize backend 'tpu': INTERNAL: no libtpu\nmore"))
    with pytest.raises(DeviceError, match="Unable to initialize backend 'tpu': INTERNAL: no libtpu") as e:
        checkpoints.load_weights(tmp_path)
    assert "\n" not in str(e.value)


def test_64_bits_are_named():
    with jax.enable_x64(True), pytest.raises(DeviceError, match="JAX_ENABLE_X64: is set"):
        devices.check()
    devices.check()
