"""The log says whether input or device limits a run."""

import itertools
import time

import jax.numpy as jnp
import pytest

from ddrnet_jax.training.meter import Meter
from ddrnet_jax.training.run_log import RunLog


def line(workdir, input_s, device_s):
    """The line of three steps."""
    log = RunLog(workdir, resumed_step=0, total_steps=120_000, eval_every_steps=5)
    lines, write = [], log._write
    log._write = lambda step, values: (lines.append(values), write(step, values))
    meter = Meter(log, lambda step: 0.01, batch_size=12, total_steps=120_000)
    batches = itertools.count()
    for _ in range(3):
        with meter.waiting_for_input():
            time.sleep(input_s)
            next(batches)
        time.sleep(device_s)
        meter.add({"loss": jnp.ones(()), "grad_norm": jnp.ones(())})
    meter.write_line(119_950)
    log.close()
    return lines[0]


@pytest.mark.parametrize(
    ("input_s", "device_s", "low", "high", "limit"),
    [(0.2, 0.05, 0.3, 0.9, "left, input-bound "), (0.0, 0.2, 0.0, 0.1, "left, device-bound")],
)
def test_what_is_waited_for_is_the_limit(input_s, device_s, low, high, limit, tmp_path, said):
    values = line(tmp_path, input_s, device_s)
    assert low <= values["input_wait"] <= high
    (text,) = said
    assert limit in text
    assert len(text) <= 80


def test_a_clock_that_starts_again_forgets_the_wait(tmp_path):
    log = RunLog(tmp_path, resumed_step=0, total_steps=10, eval_every_steps=5)
    meter = Meter(log, lambda step: 0.01, batch_size=12, total_steps=120_000)
    with meter.waiting_for_input():
        time.sleep(0.05)
    meter.restart_clock()
    assert meter._waited_s == 0
    log.close()
