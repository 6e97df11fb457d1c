"""Command line: flags -> one command."""

import argparse
import sys

from ddrnet_jax import config as config_lib

if __name__ == "__main__":
    p = argparse.ArgumentParser()
    p.add_argument("--config")
    p.add_argument("--workdir")
    a, rest = p.parse_known_args()
    cfg = config_lib.load(a.config, [r.removeprefix("--config.") for r in rest])
    from ddrnet_jax import compilation
    from ddrnet_jax.training import loop

    compilation.enable_cache()
    r = loop.train(cfg, a.workdir)
    print(r.miou, file=sys.stderr)
