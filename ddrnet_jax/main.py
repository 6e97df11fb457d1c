"""Command line: flags -> one command -> an exit code, and one line where it fails."""

import logging
import sys
import traceback

from ddrnet_jax import command_line, commands, processes
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
            return commands.RUN[arguments.mode](arguments, overrides) or 0
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


# What Ctrl-C leaves; other modes have nothing to go on with.
_WHEN_STOPPED = {
    "train": "stopped; a training run goes on from its last checkpoint with the same command",
    "prepare_data": "stopped; run it again with the same --output, it completes what is missing",
    "check_data": "stopped; nothing was written",
    "submit": "stopped; no zip was written",
    "predict": "stopped; what was predicted before is written",
    "benchmark": "stopped; --output has the cases measured so far, before the first of them what it had",
}


if __name__ == "__main__":
    sys.exit(main())
