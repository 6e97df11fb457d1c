"""The training run: everything checked, state restored or fresh, then one linear loop."""

import contextlib
import logging
import time
from pathlib import Path
from typing import NamedTuple

import jax
import optax
from flax import nnx
from jax.sharding import Mesh

from ddrnet_jax.build import Experiment
from ddrnet_jax.config import ConfigError
from ddrnet_jax.data import pipeline
from ddrnet_jax.data.check import check
from ddrnet_jax.data.errors import DataError
from ddrnet_jax.data.samples import Source
from ddrnet_jax.evaluation import metrics
from ddrnet_jax.evaluation.evaluate import make_evaluator, samples_to_evaluate
from ddrnet_jax.evaluation.gallery import Gallery
from ddrnet_jax.models import variables
from ddrnet_jax.runs import provenance, workdir
from ddrnet_jax.runs.save import Checkpoints
from ddrnet_jax.runtime import devices, processes
from ddrnet_jax.training import class_weights, distillation, program, state, trackers
from ddrnet_jax.training.interruption import Interruption, Preempted, StoppedByUser
from ddrnet_jax.training.meter import Meter
from ddrnet_jax.training.program import MakeObjective
from ddrnet_jax.training.run_log import open_log
from ddrnet_jax.weights import pretrained

_log = logging.getLogger(__name__)


class Finished(NamedTuple):
    """The outcome of a run.

    result   of the last evaluation
    step     after which it was
    gallery  what it has kept of the images that the first process evaluated
    made_by  see provenance.made_by
    """

    result: metrics.Scores | metrics.Accuracy
    step: int
    gallery: Gallery
    made_by: dict


def train(
    experiment: Experiment, folder: str | Path, *, command: str = "", make_objective: MakeObjective | None = None
) -> Finished:
    """Train to the experiment's last step in the workdir `folder`, resuming what is there.

    folder          a path, or an address gs://BUCKET/RUN
    command         that does so, kept with the checkpoints
    make_objective  of the network's graphdef and a platform; None: the loss of the experiment
    SIGTERM and Ctrl-C end it between two steps, the last of which is saved; see training.interruption.
    Raises DeviceError, ConfigError, DataError or CheckpointError before any long work, TrainingDiverged,
    CheckpointError (a full disk), WorkdirLost, Preempted or StoppedByUser during it.
    """
    devices.check()
    with Interruption() as interruption:
        return _train(experiment, folder, interruption, command, make_objective)


def _train(
    experiment: Experiment,
    folder: str | Path,
    interruption: Interruption,
    command: str,
    make_objective: MakeObjective | None,
) -> Finished:
    e, mesh = experiment, devices.data_mesh()
    program.check_batch_size(e.batch_size, e.accumulate_steps, mesh)
    if e.fresh_head and not e.init_from:
        raise ConfigError("config.init_head: 'fresh' given, but config.init_from names no weights to start from")
    if jax.process_index() == 0:  # the others talk to no tracker
        trackers.require(e.trackers)
    if make_objective is None:
        program.loss(e)  # which may need what the data set does not have
    teacher = distillation.read_teacher(e) if make_objective is None else None
    train_source, eval_source = distillation.taught(e.train_source(), e), e.eval_source()
    pseudo_source = e.pseudo_source() if e.pseudo_source else None
    warnings = check.quick(  # an unreadable data set ends here, not after a compile
        train_source, eval_source, crop_hw=e.crop_hw, scale_range=e.scale_range
    )

    with contextlib.ExitStack() as stack:
        _check_same_everywhere(
            {
                "config": _shared_part(e.config),
                "number of training images": len(train_source),
                "number of evaluation images": len(eval_source),
                "number of pseudo-labelled images": len(pseudo_source or ()),
                "teacher": devices.fingerprint(distillation.fixed(teacher)),
            }
        )
        claim = stack.enter_context(workdir.claimed(folder, e.config, interruption.check))
        made_by = provenance.made_by(command)
        checkpoints = Checkpoints(
            folder,
            e.config,
            keep=e.checkpoint_keep,
            made_by=made_by,
            check_claim=claim.check,
            before_save=claim.push,
        )
        stack.enter_context(contextlib.closing(checkpoints))
        schedule, optimizer = program.schedule_and_optimizer(e)
        graphdef, run_state, first_step, origin = _first_state(e, optimizer, checkpoints, mesh)
        if first_step == e.total_steps:
            origin.append(f"the run is complete; {workdir.train_longer(folder)}")
        steps = {"total_steps": e.total_steps, "eval_every_steps": e.eval_every_steps}
        if teacher is not None:
            distillation.check_the_same(claim.folder, teacher, is_resumed=first_step > 0)
            origin.append(teacher.line)
        make_objective = make_objective or _objective_maker(e, claim.folder, train_source, first_step, teacher)
        fixed = devices.put_replicated(distillation.fixed(teacher), mesh)
        opened = open_log(claim.folder, e.trackers, e.config, resumed_step=first_step, **steps)
        log = stack.enter_context(contextlib.closing(opened))
        own_devices = devices.local_mesh(mesh)
        gallery = Gallery()
        watch = gallery if jax.process_index() == 0 else None
        evaluator = make_evaluator(e, graphdef, own_devices, watch=watch)
        train_step = program.train_step(e, graphdef, optimizer, mesh, make_objective)
        batches = stack.enter_context(contextlib.closing(_batches(e, train_source, pseudo_source, first_step)))
        _announce(e, mesh, train_source, eval_source, run_state, origin + warnings)

        def evaluate() -> metrics.Scores | metrics.Accuracy:
            gallery.clear()
            with samples_to_evaluate(eval_source, e.eval_transform, num_threads=e.num_threads) as samples:
                params, batch_stats = devices.local_view(state.evaluation_weights(run_state), own_devices)
                return evaluator(params, batch_stats, interruption.watched(samples))

        result = None
        stack.enter_context(processes.ending_if_lost())
        last_evaluation = devices.from_first_process(log.last_evaluation)
        if first_step and _is_evaluated(first_step, e) and last_evaluation != first_step:
            result = evaluate()  # an unreadable image kept this from happening before the save
            checkpoints.save(first_step, run_state, result.score)  # first: a line in the log says that it has a score
            log.evaluation(first_step, result, e.spec, gallery.first)
        meter = Meter(log, schedule, batch_size=e.batch_size, total_steps=e.total_steps)
        done = first_step
        try:
            for step in range(first_step + 1, e.total_steps + 1):
                checkpoints.check()
                if interruption.requested(done):
                    raise interruption.error()
                with meter.waiting_for_input():
                    rows = next(batches)
                batch = devices.put_batch(rows, mesh)
                if step == first_step + 1:
                    train_step = _compile(train_step, run_state, batch, fixed)
                    processes.meet("compiled")
                    log.restart_clock()
                    meter.restart_clock()
                run_state, step_metrics = train_step(run_state, batch, fixed)
                meter.add(step_metrics)
                done = step

                is_eval = _is_evaluated(step, e)
                is_save = is_eval or _is_due(step, e.checkpoint_every_steps)
                if is_save or step % e.log_every_steps == 0:
                    meter.write_line(step)
                score = None
                if is_eval:
                    result = evaluate()
                    score = result.score
                    log.evaluation(step, result, e.spec, gallery.first)
                if is_save:
                    checkpoints.save(step, run_state, score)
                    meter.restart_clock()
        except (DataError, Preempted, StoppedByUser) as error:  # neither must cost the steps before it
            meter.write_line(done)
            if done > first_step and _is_same_everywhere(error):
                checkpoints.save(done, run_state)
                checkpoints.close()  # raises if the step could not be saved
                _log.info(f"step {done} of {e.total_steps} is saved")
            raise
        if result is None:  # the run was complete already: nothing is left to save
            processes.end_at_sigterm()
            result = evaluate()
        return Finished(result, done, gallery, made_by)


def _objective_maker(
    e: Experiment, folder: Path, train_source: Source, first_step: int, teacher: distillation.Teacher | None
) -> MakeObjective:
    counted = None
    if e.class_balance == "auto":
        is_resumed = first_step > 0
        counted = class_weights.counted(folder, train_source, is_resumed=is_resumed, num_threads=e.num_threads)
    return program.objective_maker(e, counted, teacher)


def _first_state(
    experiment: Experiment, optimizer: optax.GradientTransformation, checkpoints: Checkpoints, mesh: Mesh
) -> tuple[nnx.GraphDef, state.State, int, list[str]]:
    """(graphdef, the state to go on from on every device, its step, lines that say where it is from)"""
    network = experiment.network
    graphdef, fresh = state.create(network, optimizer, seed=experiment.seed, ema_decay=experiment.ema_decay)
    resumed = checkpoints.resume(like=fresh)
    if resumed:
        origin = [*resumed.warnings, f"resuming after step {resumed.step} of {experiment.total_steps}"]
        return graphdef, devices.put_replicated(resumed.state, mesh), resumed.step, origin
    origin = ["initial weights: random"]
    if experiment.init_from:
        weights = pretrained.read(experiment.init_from)
        abstract = variables.merge(*variables.shapes(network))
        moving = pretrained.transfer(weights, abstract, fresh_head=experiment.fresh_head)
        fresh = state.warm_start(fresh, moving.moved)
        origin = [f"initial weights from {weights.path}: {weights.describe()} ({weights.origin})", *moving.lines()]
    if jax.process_count() > 1:
        _check_same_everywhere({"initial weights": devices.fingerprint(fresh)})
    return graphdef, devices.put_replicated(fresh, mesh), 0, origin


def _batches(experiment: Experiment, source: Source, beside: Source | None, first_step: int) -> pipeline.Closing[dict]:
    return pipeline.train_batches(
        source,
        experiment.augment,
        seed=experiment.seed,
        batch_size=experiment.batch_size,
        accumulate_steps=experiment.accumulate_steps,
        first_step=first_step,
        shard=pipeline.Shard(jax.process_index(), jax.process_count()),
        num_threads=experiment.num_threads,
        beside=beside,
        share_beside=experiment.pseudo_share,
    )


def _shared_part(config: dict) -> dict:
    """The keys that are the same in all processes: all but where and with how many threads each reads its data."""
    return config | {"data": {k: v for k, v in config["data"].items() if k not in ("root", "num_threads")}}


def _check_same_everywhere(values: dict[str, object]) -> None:
    """Raises ConfigError, in all processes, if one differs: they would train apart without a word."""
    differing = devices.differing(values)
    if differing:
        raise ConfigError(
            f"the processes of this run differ in: {', '.join(differing)}; give all of them the same command, "
            "files and data"
        )


def _is_same_everywhere(reason: BaseException) -> bool:
    """True if all processes stop for this reason, after the same step: a broken file stops the one that reads it."""
    return jax.process_count() == 1 or not isinstance(reason, DataError)


def _announce(
    experiment: Experiment, mesh: Mesh, train_source: Source, eval_source: Source, run_state: state.State, lines: list
) -> None:
    count = sum(leaf.size for leaf in jax.tree.leaves(run_state["params"]))
    network = f"DDRNet-{experiment.variant} {experiment.task}"
    of_processes = f" of {jax.process_count()} processes" if jax.process_count() > 1 else ""
    classes = f"{train_source.spec.num_classes} classes"
    for line in (
        f"{network}: {count:,} parameters, {mesh.size} {jax.default_backend()} device(s){of_processes}",
        f"{experiment.data_name}: {len(train_source)} training, {len(eval_source)} evaluation images, {classes}",
        *lines,
    ):
        _log.info(line)


def _compile(train_step, *arguments):
    _log.info("compiling the training step ...")
    start = time.perf_counter()
    compiled = train_step.lower(*arguments).compile()
    _log.info(f"compiled in {time.perf_counter() - start:.1f} s")
    return compiled


def _is_evaluated(step: int, experiment: Experiment) -> bool:
    return step == experiment.total_steps or _is_due(step, experiment.eval_every_steps)


def _is_due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
