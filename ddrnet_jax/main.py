"""Command line: flags -> one command."""

import argparse
import sys
from pathlib import Path

from ddrnet_jax import compilation
from ddrnet_jax import config as config_lib
from ddrnet_jax.checkpoints import CheckpointError
from ddrnet_jax.config import ConfigError
from ddrnet_jax.data.errors import DataError

_DESCRIPTION = "DDRNet: train, evaluate and predict."
_EPILOG = """\
modes:
  train     train, evaluate and checkpoint in --workdir; run again, it resumes
  evaluate  mIoU and per-class IoU of --checkpoint on the config's eval split
  predict   --input (an image, or a folder of images) -> OUTPUT/masks/<stem>.png
            (train ids) and OUTPUT/overlays/<stem>.png; without --input, the
            held-out images of the run (or of --config), and OUTPUT/samples.png

examples:
  python -m ddrnet_jax.main --config configs/demo.py --workdir runs/demo
  python -m ddrnet_jax.main --config configs/demo.py --config.total_steps=50
  python -m ddrnet_jax.main --mode evaluate --config configs/demo.py \\
      --checkpoint runs/demo
  python -m ddrnet_jax.main --mode predict --checkpoint runs/demo \\
      --input street.jpg --output out
"""


class UsageError(ValueError):
    """The flags do not make a command."""


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code. What a user can get wrong ends in one line on stderr."""
    from ddrnet_jax.training.loop import TrainingDiverged

    try:
        arguments, overrides = _parse(argv)
        compilation.enable_cache()
        _COMMANDS[arguments.mode](arguments, overrides)
    except (UsageError, ConfigError, DataError, CheckpointError, TrainingDiverged) as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    except OSError as e:  # a full disk, a vanished folder
        print(f"error: {e}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped; a training run goes on from its last checkpoint with the same command", file=sys.stderr)
        return 130
    return 0


def _train(arguments, overrides) -> None:
    from ddrnet_jax import factory
    from ddrnet_jax.evaluation import metrics
    from ddrnet_jax.training import loop

    config = _config(arguments, overrides)
    workdir = Path(arguments.workdir or Path("runs") / Path(arguments.config).stem)
    result = loop.train(config, workdir)
    print(metrics.table(result, factory.dataset_spec(config).classes))
    print(f"checkpoints, metrics.jsonl and TensorBoard files are in {workdir}")


def _evaluate(arguments, overrides) -> None:
    from ddrnet_jax import factory
    from ddrnet_jax.evaluation import evaluate, metrics

    config = _config(arguments, overrides)
    checkpoint = arguments.checkpoint or arguments.workdir
    if not checkpoint:
        raise UsageError("--mode evaluate needs --checkpoint: a workdir or one step's directory")
    result = evaluate.evaluate_checkpoint(config, checkpoint, say=_say)
    print(metrics.table(result, factory.dataset_spec(config).classes))


def _predict(arguments, overrides) -> None:
    from ddrnet_jax.inference import predict

    if overrides and not arguments.config:
        raise UsageError(f"--config.{overrides[0]}: overrides need --config")
    config = _config(arguments, overrides) if arguments.config else None
    checkpoint = arguments.checkpoint or arguments.workdir
    if not checkpoint:
        raise UsageError("--mode predict needs --checkpoint: a workdir or one step's directory")
    output = arguments.output or "predictions"
    if arguments.input:
        count = predict.predict_files(checkpoint, arguments.input, output)
    else:
        count = predict.predict_held_out(checkpoint, output, config)
        print(f"image, label and prediction side by side: {Path(output) / 'samples.png'}")
    print(f"masks and overlays of {count} image(s) are in {output}")


_COMMANDS = {"train": _train, "evaluate": _evaluate, "predict": _predict}


def _config(arguments, overrides):
    if not arguments.config:
        raise UsageError(f"--mode {arguments.mode} needs --config: a file like configs/demo.py")
    return config_lib.load(arguments.config, overrides)


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
    parser.add_argument("--input", metavar="PATH", help="image or folder to predict")
    parser.add_argument("--output", metavar="DIR", help="where predictions go (default: predictions)")
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
    return arguments, overrides


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
