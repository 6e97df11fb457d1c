"""Command line: flags -> one command."""

import argparse
import logging
import sys
from pathlib import Path

_DESCRIPTION = "DDRNet: train, evaluate, predict; weights and data in and out."
_EPILOG = """\
modes:
  train     train, evaluate and checkpoint in --workdir; run again, it resumes
  evaluate  mIoU and per-class IoU of --checkpoint on the config's eval split;
            of a classifier top-1 and top-5 accuracy
  predict   --input (an image, or a folder of images) -> OUTPUT/masks/<stem>.png
            (train ids) and OUTPUT/overlays/<stem>.png; without --input, the
            held-out images of the run (or of --config), and OUTPUT/samples.png
  import_weights  --input (.pth, .pt, .safetensors) -> a checkpoint in --output,
            with a report; --config says for which data set, where the file
            does not tell
  export    --checkpoint -> --output as --format safetensors or pth, by the
            names of --naming, and a card OUTPUT.json
  check_data  what is wrong with the config's data set, every file by name,
            and a picture of samples, in --output; exit code 1 if training
            would fail
  prepare_data  the config's data set -> ArrayRecords in --output, for pods and
            object stores; run again, it completes what is missing

examples:
  python -m ddrnet_jax.main --config configs/demo.py --workdir runs/demo
  python -m ddrnet_jax.main --config configs/demo.py --config.total_steps=50
  python -m ddrnet_jax.main --mode evaluate --config configs/demo.py \\
      --checkpoint runs/demo
  python -m ddrnet_jax.main --mode predict --checkpoint runs/demo \\
      --input street.jpg --output out
  python -m ddrnet_jax.main --mode import_weights --input best_val.pth \\
      --output runs/official
  python -m ddrnet_jax.main --mode export --checkpoint runs/demo \\
      --format safetensors --output ddrnet.safetensors
"""


class UsageError(ValueError):
    """The flags do not make a command."""


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code. What a user can get wrong ends in one line on stderr."""
    try:
        arguments, overrides = _parse(argv)
    except UsageError as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    try:
        from ddrnet_jax import compilation

        compilation.enable_cache()
        logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax's notes are not for the happy path
        code = _COMMANDS[arguments.mode](arguments, overrides)
    except _user_errors() as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped; a training run goes on from its last checkpoint with the same command", file=sys.stderr)
        return 130
    return code or 0


def _user_errors() -> tuple[type[Exception], ...]:
    """What ends in one line. Imported once something was raised: --help waits for no jax."""
    from ddrnet_jax.checkpoints import CheckpointError
    from ddrnet_jax.config import ConfigError
    from ddrnet_jax.data.errors import DataError
    from ddrnet_jax.inference.export import ExportError
    from ddrnet_jax.models.weight_files import WeightsFileError
    from ddrnet_jax.pretrained import PretrainedError
    from ddrnet_jax.training.loop import TrainingDiverged

    weights = (CheckpointError, WeightsFileError, PretrainedError, ExportError)
    # OSError: a full disk, a vanished folder
    return (UsageError, ConfigError, DataError, *weights, TrainingDiverged, OSError)


def _train(arguments, overrides) -> None:
    from ddrnet_jax import factory
    from ddrnet_jax.training import loop

    config = _config(arguments, overrides)
    workdir = Path(arguments.workdir or Path("runs") / _run_name(arguments))
    result = loop.train(config, workdir)
    print(result.table(factory.dataset_spec(config).classes))
    print(f"checkpoints, metrics.jsonl and TensorBoard files are in {workdir}")


def _evaluate(arguments, overrides) -> None:
    from ddrnet_jax import factory
    from ddrnet_jax.evaluation import evaluate

    config = _config(arguments, overrides)
    result = evaluate.evaluate_checkpoint(config, _checkpoint(arguments), say=_say)
    print(result.table(factory.dataset_spec(config).classes))


def _predict(arguments, overrides) -> None:
    from ddrnet_jax.inference import predict

    config = _optional_config(arguments, overrides)
    checkpoint = _checkpoint(arguments)
    output = arguments.output or "predictions"
    if arguments.input:
        count = predict.predict_files(checkpoint, arguments.input, output)
    else:
        count = predict.predict_held_out(checkpoint, output, config)
        print(f"image, label and prediction side by side: {Path(output) / 'samples.png'}")
    print(f"masks and overlays of {count} image(s) are in {output}")


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
    naming = arguments.naming or "official"
    card = export.export(_checkpoint(arguments), output, file_format=file_format, naming=naming)
    for note in card["notes"]:
        print(f"note: {note}")
    print(f"weights are in {output}, what they are in {export.card_path(Path(output))}")


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


def _prepare_data(arguments, overrides) -> None:
    from ddrnet_jax import factory

    config = _config(arguments, overrides)
    output = _needed(arguments, "output")
    for split, count in factory.prepare_data(config, output).items():
        print(f"{split}: {count} samples")
    print(f"to read them: --config.data.storage=array_record --config.data.root={output}")


_COMMANDS = {
    "train": _train,
    "evaluate": _evaluate,
    "predict": _predict,
    "import_weights": _import_weights,
    "export": _export,
    "check_data": _check_data,
    "prepare_data": _prepare_data,
}


# The flags beside --config that a mode takes.
_FLAGS = {
    "train": {"workdir"},
    "evaluate": {"workdir", "checkpoint"},
    "predict": {"workdir", "checkpoint", "input", "output"},
    "import_weights": {"input", "output"},
    "export": {"workdir", "checkpoint", "output", "format", "naming"},
    "check_data": {"output"},
    "prepare_data": {"output"},
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


def _parse(argv: list[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """The flags, and the KEY=VALUE texts of --config.KEY=VALUE in their order."""
    parser = argparse.ArgumentParser(
        prog="python -m ddrnet_jax.main",
        usage="%(prog)s --config FILE [--mode MODE] [flags]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", metavar="FILE", help="config file, FILE or FILE:ARGUMENT")
    parser.add_argument("--mode", choices=_COMMANDS, default="train", help="what to do (default: train)")
    parser.add_argument("--workdir", metavar="DIR", help="where a run lives (default: runs/<config name>)")
    parser.add_argument("--checkpoint", metavar="DIR", help="a workdir (its best, else latest step) or a step")
    parser.add_argument("--input", metavar="PATH", help="image or folder to predict; weights file to import")
    parser.add_argument("--output", metavar="PATH", help="where results go (predict: default predictions)")
    parser.add_argument("--format", choices=("safetensors", "pth"), help="of the exported file")
    parser.add_argument(
        "--naming",
        choices=("official", "mmsegmentation", "super-gradients"),
        help="whose tensor names (default: official)",
    )
    arguments, rest = parser.parse_known_args(argv)
    overrides = []
    while rest:
        flag = rest.pop(0)
        if not flag.startswith("--config."):
            raise UsageError(f"unknown argument {flag!r}; --help lists what there is")
        text = flag.removeprefix("--config.")
        if "=" not in text and rest and not rest[0].startswith("--"):
            text = f"{text}={rest.pop(0)}"
        overrides.append(text)
    for name in set().union(*_FLAGS.values()) - _FLAGS[arguments.mode]:
        if getattr(arguments, name):
            raise UsageError(f"--mode {arguments.mode} does not take --{name}; --help lists the modes and flags")
    return arguments, overrides


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
