"""The records of a run for people: metrics.jsonl, scalars and samples for trackers, a progress bar."""

import contextlib
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
from tqdm import tqdm

from ddrnet_jax import regular_files
from ddrnet_jax.data.sets.specs import DatasetSpec
from ddrnet_jax.evaluation import panels
from ddrnet_jax.evaluation.gallery import Seen
from ddrnet_jax.evaluation.metrics import Accuracy, Scores
from ddrnet_jax.runs import step_files
from ddrnet_jax.runs.metrics_file import METRICS_FILE, drop_later_lines
from ddrnet_jax.training import trackers
from ddrnet_jax.training.trackers import TensorBoard, Tracker

_log = logging.getLogger(__name__)
_SAMPLES = "image, label, prediction"
_INPUT_BOUND = 0.1  # share of the time waited for batches: more, and a faster device would gain little
_MOST_PICTURED = 50  # evaluations of a run


class RunLog:
    """The one writer of a workdir's metrics; lines beyond `resumed_step` are dropped on opening."""

    def __init__(self, workdir: Path, *, resumed_step: int, total_steps: int, eval_every_steps: int):
        self._path = workdir / METRICS_FILE
        # The last step that was evaluated, 0 before the first.
        self.last_evaluation = drop_later_lines(self._path, resumed_step)
        self.trackers: list[Tracker] = [TensorBoard(workdir / "tensorboard", first_step=resumed_step + 1)]
        self._file = regular_files.opened(self._path, "a")
        self._bar = None
        if sys.stderr.isatty():
            self._bar = tqdm(
                total=total_steps,
                initial=resumed_step,
                unit="step",
                dynamic_ncols=True,
                bar_format="{percentage:3.0f}% {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}] {bar}",
            )
        self._total_steps, self._eval_every_steps = total_steps, eval_every_steps
        self._has_warned = False

    def train(self, step: int, values: dict[str, float], seconds_left: float) -> None:
        """One training line: loss, learning_rate, images_per_s, input_wait, ...

        input_wait  share (0..1) of the time in which the next batch was waited for
        """
        self._write(step, values)
        text = f"loss {values['loss']:.4f}, {values['images_per_s']:.1f} images/s"
        is_input_bound = values["input_wait"] > _INPUT_BOUND
        limit = f"input-bound {values['input_wait']:.0%}" if is_input_bound else "device-bound"
        if self._bar is not None:
            self._bar.set_postfix_str(f"{text}, {limit}" if is_input_bound else text)
        else:
            minutes, seconds = divmod(round(seconds_left), 60)
            _log.info(f"step {step}/{self._total_steps}  {text}, {minutes}:{seconds:02d} left, {limit}")

    def restart_clock(self) -> None:
        """The steps begin now: what came before them says nothing about the time that is left."""
        if self._bar is not None:
            self._bar.unpause()

    def advance(self) -> None:
        """One more step was dispatched."""
        if self._bar is not None:
            self._bar.update()

    def evaluation(self, step: int, result: Scores | Accuracy, spec: DatasetSpec, samples: Sequence[Seen]) -> None:
        """One evaluation line: val/miou, val/iou/<class>, ... or val/top1, val/top5, as fractions.

        samples  whose pictures the trackers get, of about 50 evaluations a run
        """
        self._write(step, result.values(spec.classes))
        if samples and _is_pictured(step, total_steps=self._total_steps, eval_every_steps=self._eval_every_steps):
            self._write_pictures(step, spec, samples)
        _log.info(f"step {step}  {result.line()}")

    def close(self) -> None:
        for tracker in self.trackers:
            tracker.end()  # each, before one is waited for
        for file in (self._file, *self.trackers):
            with contextlib.suppress(OSError):  # a full disk has been reported when the line was written
                file.close()
        if self._bar is not None:
            self._bar.close()

    def _write(self, step: int, values: dict[str, float]) -> None:
        try:
            self._file.write(json.dumps({"step": step, **values}) + "\n")
            self._file.flush()
            scalars = {name if "/" in name else f"train/{name}": v for name, v in values.items()}
            for tracker in self.trackers:
                tracker.write_scalars(step, scalars)
        except OSError as e:
            advice = f"{'make room, then ' if step_files.is_full_disk(e) else ''}run the same command again"
            problem = f"{e.strerror}; the checkpoints are intact: {advice}"
            raise OSError(e.errno, problem, str(self._path.parent)) from e

    def _write_pictures(self, step: int, spec: DatasetSpec, samples: Sequence[Seen]) -> None:
        try:
            pictures = {_tag(i, seen): panels.strip(seen, spec) for i, seen in enumerate(samples, 1)}
            for tracker in self.trackers:
                tracker.write_pictures(step, pictures)
        except Exception as e:  # whatever it is, no run ends for its pictures
            if not self._has_warned:
                problem = (str(e).splitlines() or [""])[0]
                _log.warning(f"TensorBoard lacks pictures of samples ({type(e).__name__}: {problem})")
            self._has_warned = True


def _tag(number: int, seen: Seen) -> str:
    stem = Path(seen.name).stem.encode("utf-8", "replace").decode()  # a file's name may hold what is no text
    return f"{_SAMPLES}/{number} {stem}"


def _is_pictured(step: int, *, total_steps: int, eval_every_steps: int) -> bool:
    if step == total_steps or eval_every_steps <= 0:
        return True
    evaluations = total_steps // eval_every_steps
    stride = -(-evaluations // _MOST_PICTURED)
    return step // eval_every_steps % stride == 0


class SilentLog:
    """The RunLog of every process but the first: it writes nothing and says nothing."""

    last_evaluation = 0

    def train(self, step: int, values: dict[str, float], seconds_left: float) -> None:
        """See RunLog."""

    def restart_clock(self) -> None:
        """See RunLog."""

    def advance(self) -> None:
        """See RunLog."""

    def evaluation(self, step: int, result: Scores | Accuracy, spec: DatasetSpec, samples: Sequence[Seen]) -> None:
        """See RunLog."""

    def close(self) -> None:
        """See RunLog."""


def open_log(
    workdir: Path, names: Sequence[str], config: dict, *, resumed_step: int, total_steps: int, eval_every_steps: int
) -> RunLog | SilentLog:
    """The workdir's RunLog in the first process of a run, in the others a SilentLog.

    names   of trackers beside TensorBoard
    config  JSON values, as a run keeps them
    """
    if jax.process_index():
        return SilentLog()
    log = RunLog(workdir, resumed_step=resumed_step, total_steps=total_steps, eval_every_steps=eval_every_steps)
    log.trackers += trackers.started(names, workdir, config, total_steps)  # last: no process is left if it fails
    return log
