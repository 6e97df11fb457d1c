"""The training run: everything checked, state restored or fresh, then one linear loop."""

import contextlib
import functools
import math
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ddrnet_jax import devices, factory, pretrained
from ddrnet_jax.checkpoints import Checkpoints
from ddrnet_jax.config import ConfigError
from ddrnet_jax.data import check, pipeline
from ddrnet_jax.data.errors import DataError
from ddrnet_jax.evaluation import metrics
from ddrnet_jax.evaluation.evaluate import make_evaluator, samples_to_evaluate
from ddrnet_jax.training import classification, losses, optimizer, state, workdir
from ddrnet_jax.training.run_log import RunLog
from ddrnet_jax.training.step import make_train_step


class TrainingDiverged(RuntimeError):
    """The loss is not a finite number; the message names the step."""


def train(config: ConfigDict, folder: str | Path) -> metrics.Scores | metrics.Accuracy:
    """Train to config.total_steps in the workdir `folder`, resuming what is there; returns the last evaluation.

    Raises ConfigError, DataError or CheckpointError before any long work, TrainingDiverged during it.
    """
    folder = Path(folder)
    mesh = devices.data_mesh()
    _check_batch_size(config, mesh)
    if config.init_head == "fresh" and not config.init_from:
        raise ConfigError("config.init_head: 'fresh' given, but config.init_from names no weights to start from")
    spec, loss = factory.dataset_spec(config), _loss(config)
    train_source, eval_source = factory.train_source(config), factory.eval_source(config)
    warnings = check.quick(  # an unreadable data set ends here, not after a compile
        train_source, eval_source, crop_hw=config.data.crop_hw, scale_range=config.data.scale_range
    )

    with contextlib.ExitStack() as stack:
        stack.enter_context(workdir.claimed(folder, config))
        checkpoints = stack.enter_context(contextlib.closing(Checkpoints(folder, config)))
        first_step = checkpoints.latest_step() or 0
        schedule, sgd = _optimizer(config)
        graphdef, run_state, origin = _first_state(config, sgd, checkpoints, first_step, mesh)
        log = stack.enter_context(
            contextlib.closing(RunLog(folder, resumed_step=first_step, total_steps=config.total_steps))
        )
        evaluator = make_evaluator(config, graphdef, mesh, say=log.say)
        train_step = make_train_step(
            graphdef,
            sgd,
            loss,
            mesh,
            aux_weight=config.loss.aux_weight,
            ema_decay=config.ema_decay,
            accumulate_steps=config.optimizer.accumulate_steps,
        )
        batches = stack.enter_context(contextlib.closing(_batches(config, train_source, first_step)))
        _announce(log, config, mesh, train_source, eval_source, run_state, origin + warnings)

        def evaluate() -> metrics.Scores | metrics.Accuracy:
            with samples_to_evaluate(config, eval_source) as samples:
                return evaluator(*state.evaluation_weights(run_state), samples)

        result = None
        if first_step and _is_evaluated(first_step, config) and log.last_evaluation != first_step:
            result = evaluate()  # an unreadable image kept this from happening before the save
            log.evaluation(first_step, result, spec.classes)
            checkpoints.save(first_step, run_state, result.score)
        meter = _Meter(log, config, schedule)
        done = first_step
        try:
            for step in range(first_step + 1, config.total_steps + 1):
                batch = devices.put_batch(next(batches), mesh)
                if step == first_step + 1:
                    train_step = _compile(train_step, run_state, batch, log)
                    meter.restart_clock()
                run_state, step_metrics = train_step(run_state, batch)
                meter.add(step_metrics)
                done = step

                is_eval = _is_evaluated(step, config)
                is_save = is_eval or _is_due(step, config.checkpoint.every_steps)
                if is_save or step % config.log_every_steps == 0:
                    meter.write_line(step)
                if is_eval:
                    result = evaluate()
                    log.evaluation(step, result, spec.classes)
                if is_save:
                    checkpoints.save(step, run_state, result.score if is_eval else None)
                    meter.restart_clock()
        except DataError:  # a broken file must not cost the steps before it
            meter.write_line(done)
            if done > first_step:
                checkpoints.save(done, run_state)
            raise
        return result or evaluate()  # the run was complete already


class _Meter:
    """Metrics of the steps since the last line, left on the device until the line is written."""

    def __init__(self, log: RunLog, config: ConfigDict, schedule: optax.Schedule):
        self._log, self._config, self._schedule = log, config, schedule
        self._pending: list[dict] = []
        self.restart_clock()

    def restart_clock(self) -> None:
        self._start = time.perf_counter()

    def add(self, step_metrics: dict) -> None:
        self._pending.append(step_metrics)
        self._log.advance()

    def write_line(self, step: int) -> None:
        """Raises TrainingDiverged if a loss or gradient was not finite."""
        if not self._pending:
            return
        values = _mean_metrics(self._pending, last_step=step)  # waits for the device, so it comes before the clock
        seconds = (time.perf_counter() - self._start) / len(self._pending)
        values["learning_rate"] = float(self._schedule(step - 1))
        values["images_per_s"] = self._config.batch_size / seconds
        self._log.train(step, values, seconds_left=seconds * (self._config.total_steps - step))
        self._pending.clear()
        self.restart_clock()


def _check_batch_size(config: ConfigDict, mesh: Mesh) -> None:
    parts = config.optimizer.accumulate_steps
    if config.batch_size % (mesh.size * parts):
        times = f" times optimizer.accumulate_steps={parts}" if parts > 1 else ""
        raise ConfigError(
            f"config.batch_size: {config.batch_size} given, expected a multiple of the {mesh.size} devices{times}"
        )


def _loss(config: ConfigDict):
    if config.task == "classification":
        return functools.partial(classification.class_cross_entropy, label_smoothing=config.loss.label_smoothing)
    weights = factory.class_weights(config)
    return losses.make_loss(
        config.loss.name,
        ohem_threshold=config.loss.ohem_threshold,
        ohem_min_kept_fraction=config.loss.ohem_min_kept_fraction,
        class_weights=None if weights is None else jnp.array(weights),
        label_smoothing=config.loss.label_smoothing,
        dice_weight=config.loss.dice_weight,
        edge_weight=config.loss.edge_weight,
        edge_size=config.loss.edge_size,
    )


def _optimizer(config: ConfigDict) -> tuple[optax.Schedule, optax.GradientTransformation]:
    schedule = optimizer.learning_rate_schedule(
        config.optimizer.schedule,
        peak=config.optimizer.learning_rate,
        total_steps=config.total_steps,
        warmup_steps=config.optimizer.warmup_steps,
        poly_power=config.optimizer.poly_power,
        step_fractions=config.optimizer.step_fractions,
    )
    return schedule, optimizer.sgd(
        schedule,
        momentum=config.optimizer.momentum,
        nesterov=config.optimizer.nesterov,
        weight_decay=config.optimizer.weight_decay,
        decay_norms_and_biases=config.optimizer.decay_norms_and_biases,
        trunk_lr_factor=config.optimizer.trunk_lr_factor,
    )


def _first_state(
    config: ConfigDict, sgd: optax.GradientTransformation, checkpoints: Checkpoints, first_step: int, mesh: Mesh
) -> tuple[nnx.GraphDef, state.State, list[str]]:
    """(graphdef, the state before the first step on every device, lines that say where its weights are from)"""
    build = factory.model_builder(config)
    graphdef, fresh = state.create(build, sgd, seed=config.seed, ema_decay=config.ema_decay)
    origin = [f"resuming after step {first_step} of {config.total_steps}" if first_step else "initial weights: random"]
    if config.init_from and not first_step:
        weights = pretrained.read(config.init_from)
        abstract = nnx.eval_shape(lambda: build(nnx.Rngs(0)))
        moving = pretrained.transfer(weights, abstract, fresh_head=config.init_head == "fresh")
        fresh = state.warm_start(fresh, moving.moved)
        origin = [f"initial weights from {weights.path}: {weights.describe()} ({weights.origin})", *moving.lines()]
    fresh = jax.device_put(fresh, devices.replicated(mesh))
    return graphdef, checkpoints.restore(first_step, like=fresh) if first_step else fresh, origin


def _batches(config: ConfigDict, source, first_step: int):
    return pipeline.train_batches(
        source,
        factory.augmentation(config),
        seed=config.seed,
        batch_size=config.batch_size,
        first_step=first_step,
        num_threads=config.data.num_threads,
    )


def _announce(log, config, mesh, train_source, eval_source, run_state, origin) -> None:
    count = sum(leaf.size for leaf in jax.tree.leaves(run_state["params"]))
    network = f"DDRNet-{config.model.variant} {config.task}"
    log.say(f"{network}: {count:,} parameters, {mesh.size} {jax.default_backend()} device(s)")
    classes = f"{train_source.spec.num_classes} classes"
    log.say(f"{config.data.name}: {len(train_source)} training, {len(eval_source)} evaluation images, {classes}")
    for line in origin:
        log.say(line)


def _compile(train_step, run_state, batch, log):
    log.say("compiling the training step ...")
    start = time.perf_counter()
    compiled = train_step.lower(run_state, batch).compile()
    log.say(f"compiled in {time.perf_counter() - start:.1f} s")
    return compiled


def _is_evaluated(step: int, config: ConfigDict) -> bool:
    return step == config.total_steps or _is_due(step, config.eval.every_steps)


def _is_due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


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
