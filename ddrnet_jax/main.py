"""Command line: flags -> one command."""

import logging
import sys
import traceback
from pathlib import Path

from ddrnet_jax import command_line, processes
from ddrnet_jax.command_line import UsageError
from ddrnet_jax.processes import AGAIN_EXIT_CODE
from ddrnet_jax.training.interruption import Preempted, StoppedByUser


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code. What a user can get wrong ends in one line on stderr."""
    try:
        arguments, overrides = command_line.parse(argv)
    except UsageError as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    try:
        setting = processes.parse(arguments.distributed)
        from ddrnet_jax import compilation

        compilation.enable_cache()
        # Orbax logs the tracebacks of what it also raises, and of what we pass over; so does asyncio of its tasks.
        for name in ("absl", "asyncio"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        with processes.joined(setting, leaving_in_order=(Preempted, StoppedByUser)):
            return _COMMANDS[arguments.mode](arguments, overrides) or 0
    except _user_errors() as e:
        code, message = 1, f"error: {e}"
    except Preempted as e:
        code, message = AGAIN_EXIT_CODE, f"{e} (exit code {AGAIN_EXIT_CODE})"
    except KeyboardInterrupt as e:
        code, message = 130, "\n" + (str(e) or _WHEN_STOPPED.get(arguments.mode, "stopped"))
    except Exception as e:
        if not processes.is_joined():
            raise
        traceback.print_exc()  # a fault of ours; the other processes must not wait for this one
        code, message = 1, f"error: {type(e).__name__}: {e}"
    print(message, file=sys.stderr)
    processes.end_all(message.strip().removeprefix("error: "), code)
    return code


def _user_errors() -> tuple[type[Exception], ...]:
    """What ends in one line. Imported once something was raised: --help waits for no jax."""
    from ddrnet_jax.checkpoints import CheckpointError
    from ddrnet_jax.config import ConfigError
    from ddrnet_jax.data.errors import DataError
    from ddrnet_jax.evaluation.submission import SubmissionError
    from ddrnet_jax.inference.accelerators import TopologyError
    from ddrnet_jax.inference.export import ExportError
    from ddrnet_jax.inference.onnx_engine import EngineError
    from ddrnet_jax.models.weight_files import WeightsFileError
    from ddrnet_jax.pretrained import PretrainedError
    from ddrnet_jax.report.run import ReportError
    from ddrnet_jax.training.loop import TrainingDiverged

    weights = (CheckpointError, WeightsFileError, PretrainedError, ExportError, EngineError, SubmissionError)
    command = (UsageError, processes.ProcessesError, TopologyError, ConfigError)
    # OSError: a full disk, a vanished folder
    return (*command, DataError, *weights, ReportError, TrainingDiverged, OSError)


def _train(arguments, overrides) -> None:
    from ddrnet_jax import factory
    from ddrnet_jax.training import loop

    config = _config(arguments, overrides)
    workdir = Path(arguments.workdir or Path("runs") / _run_name(arguments))
    result = loop.train(config, workdir, arguments.command)
    if processes.is_first():
        print(result.table(factory.dataset_spec(config).classes))
        print(f"report.html, checkpoints, metrics.jsonl and TensorBoard files are in {workdir}")


def _evaluate(arguments, overrides) -> None:
    from ddrnet_jax import factory
    from ddrnet_jax.evaluation import evaluate

    processes.end_at_sigterm()
    config = _config(arguments, overrides)
    result = evaluate.evaluate_checkpoint(config, _checkpoint(arguments), say=_say)
    if processes.is_first():
        print(result.table(factory.dataset_spec(config).classes))


def _predict(arguments, overrides) -> None:
    from ddrnet_jax.inference import predict

    config = _optional_config(arguments, overrides)
    checkpoint = _checkpoint(arguments)
    output = arguments.output or "predictions"
    options = {"engine": arguments.engine or "jax", "side_by_side": arguments.side_by_side}
    if arguments.input:
        count = predict.predict_files(checkpoint, arguments.input, output, **options)
    else:
        count = predict.predict_held_out(checkpoint, output, config, **options)
        print(f"image, label and prediction side by side: {Path(output) / 'samples.png'}")
    print(f"masks and overlays of {count} image(s) or frame(s) are in {output}, legend.png explains the colours")


def _import_weights(arguments, overrides) -> None:
    from ddrnet_jax.inference import import_weights

    config = _optional_config(arguments, overrides)
    source, output = _needed(arguments, "input"), _needed(arguments, "output")
    print("\n".join(import_weights.report_lines(import_weights.import_weights(source, output, config))))


def _export(arguments, overrides) -> None:
    from ddrnet_jax.inference import export

    if arguments.config or overrides:
        raise UsageError("--mode export takes no --config: a checkpoint carries its own")
    output, file_format = _needed(arguments, "output"), _needed(arguments, "format")
    options = {"file_format": file_format, "naming": arguments.naming, "size_hw": command_line.size_hw(arguments.size)}
    card = export.export(_checkpoint(arguments), output, **options)
    for note in card["notes"]:
        print(f"note: {note}")
    what = "weights are" if file_format in export.WEIGHTS else "the network is"
    print(f"{what} in {output}, classes, colours and more in {export.card_path(Path(output))}")


def _benchmark(arguments, overrides) -> None:
    from ddrnet_jax.inference.benchmark import report, run

    if arguments.config or overrides:
        raise UsageError("--mode benchmark takes no --config: it measures --checkpoint, or random weights")
    options = _benchmark_options(arguments)
    output = Path(arguments.output or Path("runs") / "benchmark")
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise UsageError(f"--output {output}: cannot be written ({e.strerror})") from e
    result = run.benchmark(output, checkpoint=arguments.checkpoint, say=_say, **options)
    print("\n".join(report.table_lines(result)))
    print(f"\nin {output}: {', '.join(result['files'])}")


def _benchmark_options(arguments) -> dict:
    """What was given of the flags of benchmark, as its arguments."""
    from ddrnet_jax.inference.benchmark import cases, run
    from ddrnet_jax.models.ddrnet import VARIANTS

    if arguments.checkpoint and arguments.variants:
        raise UsageError(f"--variants {arguments.variants}: a checkpoint is of one variant; leave one of the two out")
    engines = command_line.listed(arguments, "engines", ("jax", *run.OTHER_ENGINES))
    sizes = [command_line.size_hw(text, "sizes") for text in command_line.listed(arguments, "sizes")]
    if any(min(size_hw) < run.LEAST_PIXELS for size_hw in sizes):
        raise UsageError(f"--sizes {arguments.sizes}: expected {run.LEAST_PIXELS} pixels or more each way")
    options = {
        "variants": command_line.listed(arguments, "variants", VARIANTS),
        "sizes_hw": sizes,
        "protocols": command_line.listed(arguments, "protocols", cases.PROTOCOLS),
        "batch_sizes": [
            command_line.positive(text, "batch_sizes", int) for text in command_line.listed(arguments, "batch_sizes")
        ],
        "other_engines": [name for name in engines if name != "jax"],  # which always runs
        "seconds": arguments.seconds and command_line.positive(arguments.seconds, "seconds", float),
    }
    return {name: value for name, value in options.items() if value}


def _check_data(arguments, overrides) -> int:
    from ddrnet_jax import factory
    from ddrnet_jax.data import check, check_report

    config = _config(arguments, overrides)
    d = config.data
    report = check.check(
        (
            check.Split("training", d.train_split, lambda: factory.train_source(config)),
            check.Split("evaluation", d.eval_split, lambda: factory.eval_source(config)),
        ),
        factory.dataset_spec(config),
        root=d.root,
        crop_hw=d.crop_hw,
        scale_range=d.scale_range,
        eval_size_hw=config.eval.size_hw,
        num_threads=d.num_threads,
    )
    output = arguments.output or Path("runs") / "check_data" / _run_name(arguments)
    print("\n".join(check_report.write(report, output)))
    return int(report.has_errors)


def _doctor(arguments, overrides) -> int:
    from ddrnet_jax.doctor import examine

    examination = examine.examine(_config(arguments, overrides), arguments.checkpoint or arguments.workdir, say=_say)
    print("\n".join(examination.lines()))
    return int(examination.has_errors)


def _prepare_data(arguments, overrides) -> None:
    from ddrnet_jax import factory

    config = _config(arguments, overrides)
    output = _needed(arguments, "output")
    for split, count in factory.prepare_data(config, output, say=_say).items():
        print(f"{split}: {count} samples")
    print(f"to read them: --config.data.storage=array_record --config.data.root={output}")


def _submit(arguments, overrides) -> None:
    from ddrnet_jax.evaluation import submission

    config = _config(arguments, overrides)
    checkpoint, output = _checkpoint(arguments), _needed(arguments, "output")
    count = submission.submit(config, checkpoint, output, say=_say)
    print(f"{count} predictions are in {output}: names, sizes and label ids were read again and are right")


def _report(arguments, overrides) -> None:
    from ddrnet_jax.report import make

    shown, config = _checkpoint(arguments), _optional_config(arguments, overrides)
    path = make.make(shown, arguments.output, compare=arguments.compare, config=config, say=_say)
    print(f"the report is in {path}")


def _plan(arguments, overrides) -> None:
    from ddrnet_jax.inference import plan, plan_report
    from ddrnet_jax.training import program

    config, topology = _config(arguments, overrides), _needed(arguments, "topology")
    planned = plan.plan(config, topology, program.lower_train_step, say=_say)
    if arguments.output:
        plan.write(planned, arguments.output)
    print("\n".join(plan_report.report_lines(planned)))


_COMMANDS = {
    "train": _train,
    "evaluate": _evaluate,
    "predict": _predict,
    "import_weights": _import_weights,
    "export": _export,
    "benchmark": _benchmark,
    "submit": _submit,
    "check_data": _check_data,
    "doctor": _doctor,
    "prepare_data": _prepare_data,
    "report": _report,
    "plan": _plan,
}

# What Ctrl-C leaves; other modes have nothing to go on with.
_WHEN_STOPPED = {
    "train": "stopped; a training run goes on from its last checkpoint with the same command",
    "prepare_data": "stopped; run it again with the same --output, it completes what is missing",
    "check_data": "stopped; nothing was written",
    "submit": "stopped; no zip was written",
    "predict": "stopped; what was predicted before is written",
    "benchmark": "stopped; --output has the cases measured so far, before the first of them what it had",
}


def _run_name(arguments) -> str:
    """cityscapes_39 of configs/cityscapes.py:39"""
    path, _, argument = arguments.config.rpartition(".py")
    return Path(path).name + argument.replace(":", "_")


def _checkpoint(arguments) -> str:
    checkpoint = arguments.checkpoint or arguments.workdir
    if not checkpoint:
        raise UsageError(f"--mode {arguments.mode} needs --checkpoint: a workdir or one step's directory")
    return checkpoint


def _needed(arguments, name: str) -> str:
    value = getattr(arguments, name)
    if not value:
        raise UsageError(f"--mode {arguments.mode} needs --{name}")
    return value


def _optional_config(arguments, overrides):
    if overrides and not arguments.config:
        raise UsageError(f"--config.{overrides[0]}: overrides need --config")
    return _config(arguments, overrides) if arguments.config else None


def _config(arguments, overrides):
    if not arguments.config:
        raise UsageError(f"--mode {arguments.mode} needs --config: a file like configs/demo.py")
    from ddrnet_jax import config_files

    return config_files.load(arguments.config, overrides)


def _say(message: str) -> None:
    if processes.is_first():
        print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
