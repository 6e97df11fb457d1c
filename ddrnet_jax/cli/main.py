"""Command line: flags -> one command -> an exit code, and one line where it fails."""

import sys
import traceback

from ddrnet_jax import memory
from ddrnet_jax.cli import commands, flags, inputs, log, streams
from ddrnet_jax.cli.flags import UsageError
from ddrnet_jax.errors import TryAgain, UserError
from ddrnet_jax.runtime import joining, processes
from ddrnet_jax.runtime.processes import AGAIN_EXIT_CODE
from ddrnet_jax.text import cut, printable
from ddrnet_jax.training.interruption import Preempted, StoppedByUser


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code. What a user can get wrong ends in one line on stderr."""
    try:
        arguments, overrides = flags.parse(argv)
    except UsageError as e:
        print(f"error: {printable(str(e))}", file=sys.stderr)
        return 1
    try:
        setting = joining.parse(arguments.distributed)
        log.configure(verbose=arguments.verbose)
        if setting == "off":  # else all processes are told of a wrong config
            inputs.read_config(arguments, overrides)  # before jax is loaded
        if arguments.mode not in commands.WITHOUT_JAX:
            from ddrnet_jax.runtime import compilation, devices

            compilation.enable_cache()
        with processes.joined(setting, leaving_in_order=(Preempted, StoppedByUser)):
            if arguments.mode in commands.ON_THE_CPU:
                devices.stay_on_the_cpu()
            if arguments.mode not in commands.WITHOUT_JAX:
                devices.check()
            code = commands.RUN[arguments.mode](arguments, overrides) or 0
        if arguments.mode != "train" and (problem := streams.output_problem()):  # a run is on its disk
            raise OSError(problem.errno, f"standard output: {problem.strerror}")
        return code
    except TryAgain as e:
        code, message = AGAIN_EXIT_CODE, f"error: {e} (exit code {AGAIN_EXIT_CODE})"
    except (UserError, OSError) as e:  # OSError: a full disk, a vanished folder
        code, message = 1, f"error: {e}"
    except Preempted as e:
        code, message = AGAIN_EXIT_CODE, f"{e} (exit code {AGAIN_EXIT_CODE})"
    except KeyboardInterrupt as e:
        code, message = 130, "\n" + (str(e) or _WHEN_STOPPED.get(arguments.mode, "stopped"))
    except Exception as e:
        if memory.is_out_of_memory(e):
            problem = cut((str(e).splitlines() or ["no more"])[0], 200)
            code, message = 1, f"error: this does not fit into memory ({problem}); free some, or ask for less"
        elif not processes.is_joined():
            raise
        else:
            traceback.print_exc()  # a fault of ours; the other processes must not wait for this one
            code, message = 1, f"error: {type(e).__name__}: {e}"
    print(printable(message), file=sys.stderr)
    processes.end_all(message.strip().removeprefix("error: "), code)
    return code


# What Ctrl-C leaves; other modes have nothing to go on with.
_WHEN_STOPPED = {
    "train": "stopped; a training run goes on from its last checkpoint with the same command",
    "prepare_data": "stopped; run it again with the same --output, it completes what is missing",
    "check_data": "stopped; nothing was written",
    "submit": "stopped; no zip was written",
    "predict": "stopped; what was predicted before is written",
    "benchmark": "stopped; --output has the cases measured so far, before the first of them what it had",
}
