"""The log says whether input or device limits a run."""

import itertools
import time

import jax.numpy as jnp
import pytest

from ddrnet_jax import config as config_lib
from ddrnet_jax.training.loop import _Meter
from ddrnet_jax.training.run_log import RunLog


def line(workdir, input_s, device_s, capsys):
    """(the line of three steps, what was printed)"""
    log = RunLog(workdir, resumed_step=0, total_steps=120_000, eval_every_steps=5)
    lines, write = [], log._write
    log._write = lambda step, values: (lines.append(values), write(step, values))
    meter = _Meter(log, config_lib.base(), lambda step: 0.01)
    batches = itertools.count()
    for _ in range(3):
        with meter.waiting_for_input():
            time.sleep(input_s)
            next(batches)
        time.sleep(device_s)
        meter.add({"loss": jnp.ones(()), "grad_norm": jnp.ones(())})
    meter.write_line(119_950)
    log.close()
    return lines[0], capsys.readouterr().err


@pytest.mark.parametrize(
    ("input_s", "device_s", "low", "high", "said"),
    [(0.2, 0.05, 0.3, 0.9, "left, input-bound "), (0.0, 0.2, 0.0, 0.1, "left, device-bound\n")],
)
def test_what_is_waited_for_is_the_limit(input_s, device_s, low, high, said, tmp_path, capsys):
    values, text = line(tmp_path, input_s, device_s, capsys)
    assert low <= values["input_wait"] <= high
    assert said in text
    assert len(text.rstrip()) <= 80


def test_a_clock_that_starts_again_forgets_the_wait(tmp_path):
    log = RunLog(tmp_path, resumed_step=0, total_steps=10, eval_every_steps=5)
    meter = _Meter(log, config_lib.base(), lambda step: 0.01)
    with meter.waiting_for_input():
        time.sleep(0.05)
    meter.restart_clock()
    assert meter._waited_s == 0
    log.close()
