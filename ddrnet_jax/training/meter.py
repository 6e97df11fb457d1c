"""The metrics of steps that the device may not have done yet, and how fast they come."""

import contextlib
import math
import time
from collections.abc import Iterator

import jax
import optax

from ddrnet_jax.errors import UserError
from ddrnet_jax.training.run_log import RunLog, SilentLog

# Steps that may wait for the device: enough to keep it busy, few enough that a save need not wait for many.
_STEPS_AHEAD = 4


class TrainingDiverged(UserError):
    """The loss is not a finite number; the message names the step."""


class Meter:
    """Metrics of the steps since the last line, left on the device until the line is written."""

    def __init__(self, log: RunLog | SilentLog, schedule: optax.Schedule, *, batch_size: int, total_steps: int):
        self._log, self._schedule = log, schedule
        self._batch_size, self._total_steps = batch_size, total_steps
        self._pending: list[dict] = []
        self.restart_clock()

    def restart_clock(self) -> None:
        """Begin to time anew: after a compilation, an evaluation, a save."""
        self._start, self._waited_s = time.perf_counter(), 0.0

    @contextlib.contextmanager
    def waiting_for_input(self) -> Iterator[None]:
        """Around what takes the next batch from those that were read ahead: time in it is time the device may lack."""
        start = time.perf_counter()
        yield
        self._waited_s += time.perf_counter() - start

    def add(self, step_metrics: dict) -> None:
        """Take the metrics of one more step, and wait where too many steps are ahead."""
        self._pending.append(step_metrics)
        if len(self._pending) > _STEPS_AHEAD:
            jax.block_until_ready(self._pending[-_STEPS_AHEAD - 1])
        self._log.advance()

    def write_line(self, step: int) -> None:
        """Log the means of the steps since the last line. Raises TrainingDiverged if one is not finite."""
        if not self._pending:
            return
        values = _mean_metrics(self._pending, last_step=step)  # waits for the device, so it comes before the clock
        elapsed = time.perf_counter() - self._start
        seconds = elapsed / len(self._pending)
        values["learning_rate"] = float(self._schedule(step - 1))
        values["images_per_s"] = self._batch_size / seconds
        values["input_wait"] = self._waited_s / elapsed
        self._log.train(step, values, seconds_left=seconds * (self._total_steps - step))
        self._pending.clear()
        self.restart_clock()


def _mean_metrics(pending: list[dict], last_step: int) -> dict[str, float]:
    """Means over the steps since the last line. Raises TrainingDiverged if a loss or gradient is not finite."""
    fetched = jax.device_get(pending)
    for offset, step_metrics in enumerate(fetched):
        loss, grad_norm = float(step_metrics["loss"]), float(step_metrics["grad_norm"])
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            step = last_step - len(fetched) + 1 + offset
            raise TrainingDiverged(
                f"the loss is {loss}, its gradient norm {grad_norm} at step {step}; earlier checkpoints are intact: "
                "lower optimizer.learning_rate or add optimizer.warmup_steps, and use a new workdir"
            )
    return {name: math.fsum(float(m[name]) for m in fetched) / len(fetched) for name in fetched[0]}
