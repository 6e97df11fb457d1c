"""The training run: everything checked, state restored or fresh, then one linear loop."""

import contextlib
import json
import math
import os
import time
from pathlib import Path

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from ddrnet_jax import config as config_lib
from ddrnet_jax import devices, factory
from ddrnet_jax.checkpoints import FOLDER, Checkpoints
from ddrnet_jax.config import ConfigError
from ddrnet_jax.data import pipeline
from ddrnet_jax.data.errors import DataError
from ddrnet_jax.evaluation import metrics
from ddrnet_jax.evaluation.evaluate import Evaluator
from ddrnet_jax.training import losses, optimizer, state
from ddrnet_jax.training.run_log import RunLog
from ddrnet_jax.training.step import make_train_step


class TrainingDiverged(RuntimeError):
    """The loss is not a finite number; the message names the step."""


def train(config: ConfigDict, workdir: str | Path) -> metrics.Scores:
    """Train to config.total_steps in `workdir`, resuming what is there; returns the last evaluation.

    Raises ConfigError, DataError or CheckpointError before any long work, TrainingDiverged during it.
    """
    workdir = Path(workdir)
    mesh = devices.data_mesh()
    if config.batch_size % mesh.size:
        raise ConfigError(
            f"config.batch_size: {config.batch_size} given, expected a multiple of the {mesh.size} devices"
        )
    spec, loss = factory.dataset_spec(config), _loss(config)
    train_source, eval_source = factory.train_source(config), factory.eval_source(config)
    train_source[0], eval_source[0]  # noqa: B018  an unreadable data set ends here, not after a compile
    _claim_workdir(workdir, config)

    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(contextlib.closing(Checkpoints(workdir, config)))
        first_step = checkpoints.latest_step() or 0
        schedule = optimizer.learning_rate_schedule(
            config.optimizer.schedule,
            peak=config.optimizer.learning_rate,
            total_steps=config.total_steps,
            warmup_steps=config.optimizer.warmup_steps,
            poly_power=config.optimizer.poly_power,
            step_fractions=config.optimizer.step_fractions,
        )
        sgd = optimizer.sgd(
            schedule,
            momentum=config.optimizer.momentum,
            nesterov=config.optimizer.nesterov,
            weight_decay=config.optimizer.weight_decay,
        )
        graphdef, run_state = state.create(
            factory.model_builder(config), sgd, seed=config.seed, ema_decay=config.ema_decay
        )
        if config.init_from and not first_step:
            run_state = state.warm_start(run_state, config.init_from)
        run_state = jax.device_put(run_state, devices.replicated(mesh))
        if first_step:
            run_state = checkpoints.restore(first_step, like=run_state)

        log = stack.enter_context(
            contextlib.closing(RunLog(workdir, resumed_step=first_step, total_steps=config.total_steps))
        )
        evaluator = Evaluator(
            graphdef,
            spec.num_classes,
            mesh,
            batch_size=config.eval.batch_size,
            scales=config.eval.scales,
            flip=config.eval.flip,
            size_hw=config.eval.size_hw,
            say=log.say,
        )
        train_step = make_train_step(
            graphdef, sgd, loss, mesh, aux_weight=config.loss.aux_weight, ema_decay=config.ema_decay
        )
        batches = stack.enter_context(
            contextlib.closing(
                pipeline.train_batches(
                    train_source,
                    factory.augmentation(config),
                    seed=config.seed,
                    batch_size=config.batch_size,
                    first_step=first_step,
                    num_threads=config.data.num_threads,
                )
            )
        )
        _announce(log, config, mesh, train_source, eval_source, run_state, first_step)

        def evaluate() -> metrics.Scores:
            with contextlib.closing(
                pipeline.samples_in_order(eval_source, num_threads=config.data.num_threads)
            ) as samples:
                return evaluator(*state.evaluation_weights(run_state), samples)

        def write_line(step: int) -> None:
            values = _mean_metrics(pending, last_step=step)  # waits for the device, so it comes before the clock
            seconds = (time.perf_counter() - clock) / len(pending)
            values["learning_rate"] = float(schedule(step - 1))
            values["images_per_s"] = config.batch_size / seconds
            log.train(step, values, seconds_left=seconds * (config.total_steps - step))
            pending.clear()

        result = None
        if first_step and _is_evaluated(first_step, config) and log.last_evaluation != first_step:
            result = evaluate()  # an unreadable image kept this from happening before the save
            log.evaluation(first_step, result, spec.classes)
        pending: list[dict] = []  # metrics of the steps since the last line, still on the device
        clock = time.perf_counter()
        done = first_step
        try:
            for step in range(first_step + 1, config.total_steps + 1):
                batch = devices.put_batch(next(batches), mesh)
                if step == first_step + 1:
                    train_step = _compile(train_step, run_state, batch, log)
                    clock = time.perf_counter()
                run_state, step_metrics = train_step(run_state, batch)
                pending.append(step_metrics)
                done = step
                log.advance()

                is_eval = _is_evaluated(step, config)
                is_save = is_eval or _is_due(step, config.checkpoint.every_steps)
                if is_save or step % config.log_every_steps == 0:
                    write_line(step)
                    clock = time.perf_counter()
                if is_eval:
                    result = evaluate()
                    log.evaluation(step, result, spec.classes)
                if is_save:
                    checkpoints.save(step, run_state, result.miou if is_eval else None)
                    clock = time.perf_counter()
        except DataError:  # a broken file must not cost the steps before it
            if pending:
                write_line(done)
            if done > first_step:
                checkpoints.save(done, run_state)
            raise
        return result or evaluate()  # the run was complete already


def _loss(config: ConfigDict):
    weights = factory.class_weights(config)
    return losses.make_loss(
        config.loss.name,
        ohem_threshold=config.loss.ohem_threshold,
        ohem_min_kept_fraction=config.loss.ohem_min_kept_fraction,
        class_weights=None if weights is None else jnp.array(weights),
        label_smoothing=config.loss.label_smoothing,
    )


def _is_evaluated(step: int, config: ConfigDict) -> bool:
    return step == config.total_steps or _is_due(step, config.eval.every_steps)


def _claim_workdir(workdir: Path, config: ConfigDict) -> None:
    """Make the workdir and its config.json; once it has checkpoints, only a config of the same run may use it."""
    path = workdir / "config.json"
    given = config_lib.to_json(config)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        (workdir / FOLDER).mkdir(exist_ok=True)
        if path.exists() and any((workdir / FOLDER).glob("[0-9]*")):
            before = config_lib.to_json(config_lib.from_json(json.loads(path.read_text())))
            changed = config_lib.changed_keys(before, given)
            if changed:
                raise ConfigError(
                    f"{path}: this workdir was made with another config; choose another --workdir "
                    "or restore: " + "; ".join(changed)
                )
        temporary = workdir / "config.json.tmp"
        temporary.write_text(json.dumps(given, indent=2) + "\n")
        os.replace(temporary, path)
    except OSError as e:
        raise ConfigError(f"--workdir {workdir}: cannot be written ({e.strerror})") from e
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError) as e:
        raise ConfigError(f"{path}: not a config in JSON; remove it, or choose another --workdir") from e


def _announce(log, config, mesh, train_source, eval_source, run_state, first_step) -> None:
    count = sum(leaf.size for leaf in jax.tree.leaves(run_state["params"]))
    log.say(f"DDRNet-{config.model.variant}: {count:,} parameters, {mesh.size} {jax.default_backend()} device(s)")
    log.say(f"{config.data.name}: {len(train_source)} training, {len(eval_source)} evaluation images")
    if first_step:
        log.say(f"resuming after step {first_step} of {config.total_steps}")


def _compile(train_step, run_state, batch, log):
    log.say("compiling the training step ...")
    start = time.perf_counter()
    compiled = train_step.lower(run_state, batch).compile()
    log.say(f"compiled in {time.perf_counter() - start:.1f} s")
    return compiled


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
