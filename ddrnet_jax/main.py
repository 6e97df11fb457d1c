"""python -m ddrnet_jax.main: the command line, which is in cli/."""

import sys

from ddrnet_jax.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
