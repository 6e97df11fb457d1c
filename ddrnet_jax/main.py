"""python -m ddrnet_jax.main, or the command ddrnet: the command line, which is in cli/."""

import sys
from typing import NoReturn

from ddrnet_jax.cli import streams
from ddrnet_jax.cli.main import main


def run() -> NoReturn:
    """The command line as a program of its own."""
    streams.install()
    sys.exit(main())


if __name__ == "__main__":
    run()
