"""The checkpoints of one run: saved while it trains, the best and the latest kept, resumed on any devices.

One directory per step with a nested dict {step, params, batch_stats, opt_state, [ema]}; the config travels in its
metadata, so that the directory alone is enough to rebuild the model (runs/checkpoints.py).
"""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from ddrnet_jax.config import ConfigError
from ddrnet_jax.config import files as config_files
from ddrnet_jax.errors import TryAgain, UserError
from ddrnet_jax.runs import step_files
from ddrnet_jax.runs.metrics_file import SCORES
from ddrnet_jax.runs.step_files import CheckpointError
from ddrnet_jax.runs.steps import steps_of
from ddrnet_jax.runs.workdir import WorkdirLost
from ddrnet_jax.runtime import devices

# Orbax limits a save by the time of day, which jumps: a laptop has slept, a board had none before it was online.
_NO_LIMIT_S = 100 * 365 * 86_400


class OtherRun(UserError):
    """A step among a run's own is of another run: going on would make a mixture of both."""


class Resumed(NamedTuple):
    """The point from which a run goes on."""

    step: int
    state: dict
    warnings: list[str]  # one line for each damaged step that was passed over


class Checkpoints:
    """The checkpoints of one run: the best by its evaluations (mIoU, of a classifier top-1) and the latest few."""

    def __init__(
        self,
        workdir: str | Path,
        config: dict,
        *,
        keep: int = 2,
        made_by: dict | None = None,
        check_claim: Callable[[], None] = lambda: None,
        before_save: Callable[[], None] = lambda: None,
    ):
        """
        workdir      a path, or an address gs://BUCKET/RUN
        config       JSON values, kept with every step
        keep         latest steps beside the best
        made_by      JSON values, kept with every step, see provenance.made_by
        check_claim  raises WorkdirLost if the workdir is no longer the run's; called at every save
        before_save  called before every save
        """
        step_files.ignore_echoes()
        self._check_claim, self._before_save = check_claim, before_save
        self._description = {"config": config, "made_by": made_by or {}}
        self._metric = SCORES[config["task"]]
        self._keep = keep
        self._steps = steps_of(workdir)
        self._checkpointer: ocp.training.Checkpointer | None = None  # reads every step's files when it is made
        self._saving: tuple[int, ocp.AsyncResponse[None], int] | None = None
        self._has_failed, self._is_claimed = False, True

    def latest_step(self) -> int | None:
        """The newest complete step, None before the first."""
        latest = self._orbax().latest
        return None if latest is None else latest.step

    def resume(self, like: dict) -> Resumed | None:
        """The newest step that every process can read, in the structure, shapes and dtypes of `like`.

        None before the first step. Damaged steps are passed over with a warning and set aside as <step>.damaged;
        call it before the first save.
        Raises CheckpointError if there are steps and none can be read, OtherRun if one is another run's; all of them
        then stay as they are.
        """
        is_first = jax.process_index() == 0
        if is_first:
            self._steps.tidy()
        problems: dict[int, CheckpointError] = {}
        for step in _agreed(self._steps.newest_first()):
            state: dict = {}
            problem = None
            folder = self._steps.fetched(step)
            try:
                with self._steps.named():
                    self._check_description(folder)
                    state = step_files.read(folder, like)
                    step_files.check_number(folder, state)
            except CheckpointError as e:
                problem = e
            unreadable = devices.sum_over_processes(np.array([problem is not None]).astype(np.int64))[0]
            if not unreadable:
                break
            problems[step] = problem or CheckpointError(
                f"{self._steps.root}/{step}: cannot be read by {unreadable} other process(es)"
            )
        else:
            if problems:
                first = next(iter(problems.values()))
                raise CheckpointError(
                    f"{self._steps.root}: none of its {len(problems)} checkpoint(s) can be read, the newest: {first}; "
                    "put back a copy, or start anew in another --workdir"
                ) from first
            return None
        warnings = []
        if is_first:
            problems |= self._damaged_before(step)
            for damaged, problem in problems.items():
                kept = self._steps.set_aside(damaged)
                warnings.append(f"warning: {problem}; kept as {kept}, going on from step {step}")
        self._steps.forget_fetched()
        devices.wait_for_all("checkpoints")  # nobody makes Orbax's list of steps before this
        return Resumed(step, state, warnings)

    def save(self, step: int, state: dict, score: float | None = None) -> None:
        """Start saving; returns once the state is copied. A step that exists is replaced only to give it its score.

        score  of this step's evaluation, by which the best is kept; None if it had none
        Raises CheckpointError, now or from a later call, if the disk is full or cannot be written, WorkdirLost if the
        workdir is no longer the run's.
        """
        self._require_claim()
        self._before_save()
        self._wait()
        with self._explained(step):
            exists = step == self.latest_step()
        if exists and score is None:
            return
        metrics = None if score is None else {self._metric: score}
        # A step's own copy of what it is, for whoever has only its directory.
        description = step_files.described(state, self._description | (metrics or {}))
        with self._explained(step), self._moved_away(step) if exists else contextlib.nullcontext():
            saving = self._orbax().save_async(step, state, force=True, metrics=metrics, custom_metadata=description)
            self._saving = step, saving, len(jax.tree.leaves(state))
            if exists:
                self._wait()

    def check(self) -> bool:
        """True if a save is still being written. Raises CheckpointError if it has failed.

        Costs next to nothing until it is written, and then some ms once, in which it is found and described again.
        """
        self._wait(timeout_s=0)
        return self._saving is not None

    def close(self) -> None:
        """Wait for the last save and release Orbax's threads. Raises CheckpointError if that save failed."""
        try:
            if not self._has_failed:
                self._wait()
        finally:
            checkpointer, self._checkpointer = self._checkpointer, None
            if checkpointer is not None:
                with contextlib.suppress(Exception) if self._has_failed else contextlib.nullcontext():
                    checkpointer.close()  # says a second time why a save failed
            if self._has_failed and self._is_claimed and jax.process_index() == 0:
                with contextlib.suppress(TryAgain):
                    self._steps.remove_unfinished()  # a full disk has use for the space

    def _wait(self, timeout_s: float | None = None) -> None:
        if self._saving is None:
            return
        step, saving, arrays = self._saving
        with self._explained(step):
            try:
                saving.result(timeout_s)
            except TimeoutError:
                if timeout_s is None:
                    raise
                return
            self._saving = None
            if jax.process_index() == 0:  # Orbax may say that it has saved what nobody finds again
                self._steps.check_saved(step, arrays, self._metric)

    def _require_claim(self) -> None:
        try:
            self._check_claim()
        except WorkdirLost:
            self._saving, self._has_failed, self._is_claimed = None, True, False
            raise

    def _orbax(self) -> ocp.training.Checkpointer:
        if self._checkpointer is None:
            policies = ocp.training.preservation_policies
            context = step_files.saving_context(is_renamed=self._steps.is_renamed())
            context.asynchronous.timeout_secs = _NO_LIMIT_S
            best = policies.BestN(
                get_metric_fn=step_files.score, reverse=False, n=1, keep_checkpoints_without_metrics=False
            )
            self._checkpointer = ocp.training.Checkpointer(
                self._steps.for_orbax(),
                preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(self._keep), best]),
                context=context,
            )
        return self._checkpointer

    def _damaged_before(self, step: int) -> dict[int, CheckpointError]:
        """Older steps whose description is damaged: Orbax could not rank them. Their arrays are not read."""
        problems = {}
        for older in self._steps.newest_first():
            if older < step:
                folder = self._steps.fetched(older)
                try:
                    with self._steps.named():
                        self._check_description(folder)
                except CheckpointError as e:
                    problems[older] = e
        return problems

    def _check_description(self, folder: Path) -> None:
        """Raises CheckpointError unless Orbax can rank a step by its score, OtherRun if it is of another config."""
        description = step_files.check_description(folder, self._metric)
        try:
            before = config_files.to_json(config_files.from_json(description["config"]))
        except ConfigError as e:
            raise OtherRun(f"{folder}: its config cannot be used ({e}); choose another --workdir") from e
        if changed := config_files.changed_keys(before, self._description["config"]):
            raise OtherRun(
                f"{folder}: is of a run with another config; choose another --workdir, or put this run's checkpoints "
                f"back: {'; '.join(changed)}"
            )

    @contextlib.contextmanager
    def _moved_away(self, step: int) -> Iterator[None]:
        """The step under another name until its replacement is complete: a kill in between loses neither."""
        with self._steps.moved_away(step) if jax.process_index() == 0 else contextlib.nullcontext():
            devices.wait_for_all("moved away")
            self._orbax().reload()
            yield

    @contextlib.contextmanager
    def _explained(self, step: int) -> Iterator[None]:
        try:
            yield
        except Exception as e:  # Orbax raises many kinds
            self._saving, self._has_failed = None, True
            self._require_claim()
            if isinstance(e, CheckpointError) and not isinstance(e, TryAgain):
                raise CheckpointError(f"{e}, though it was just saved; run the same command again") from e
            if isinstance(e, UserError):  # of a bucket
                raise
            raise self._steps.not_saved(step, e) from e


def _agreed(steps: list[int]) -> Iterator[int]:
    """The first process's steps on every process: a network file system may show each others."""
    for i in range(devices.from_first_process(len(steps))):
        yield devices.from_first_process(steps[i] if i < len(steps) else 0)
