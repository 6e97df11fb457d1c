"""Seconds from the start of a training process to its first step done, with the programs compiled before and kept.

python benchmarks/second_start.py [--variants 23_slim,39] [--starts 3] [--json FILE]

The command of the demo, as a user types it, in a process of its own: imports, data, network, compilation or its
cache, one step, its line in the log. The first start of each variant fills a cache that is new; the variants take
turns in the later ones. Each process is killed once its line is there.
"""

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax

REPO = Path(__file__).resolve().parent.parent


def start_s(variant: str, cache: Path) -> float:
    """Seconds of one start."""
    with tempfile.TemporaryDirectory(prefix="second-start-") as workdir:
        command = [
            *(sys.executable, "-m", "ddrnet_jax.main", "--config", "configs/demo.py", "--workdir", workdir),
            *(f"--config.model.variant={variant}", "--config.log_every_steps=1"),
        ]
        environment = os.environ | {"DDRNET_JAX_CACHE_DIR": str(cache)}
        begin, heard = time.perf_counter(), []
        with subprocess.Popen(command, cwd=REPO, env=environment, stderr=subprocess.PIPE, text=True) as process:
            for line in process.stderr:
                heard.append(line)
                if re.match(r"step 1/", line):
                    seconds = time.perf_counter() - begin
                    process.kill()
                    return seconds
        raise SystemExit(f"{' '.join(command)} ended before its first step:\n{''.join(heard)}")


def main() -> None:
    """Print the first start and the median of the later ones for each variant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", default="23_slim,39")
    parser.add_argument("--starts", type=int, default=3, help="with the cache filled, of each variant")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    variants = arguments.variants.split(",")
    with tempfile.TemporaryDirectory(prefix="second-start-cache-") as cache:
        first = {variant: start_s(variant, Path(cache)) for variant in variants}
        later = {variant: [] for variant in variants}
        for _ in range(arguments.starts):
            for variant in variants:
                later[variant].append(start_s(variant, Path(cache)))
    figures = {v: {"first_s": first[v], "later_s": later[v], "median_s": statistics.median(later[v])} for v in variants}
    print(
        f"jax {jax.__version__}, Python {platform.python_version()}, {os.cpu_count()} CPUs: seconds to the first step"
    )
    for variant, figure in figures.items():
        later_s = ", ".join(f"{seconds:.1f}" for seconds in figure["later_s"])
        print(f"{variant:8} first {figure['first_s']:5.1f}, then {later_s} (median {figure['median_s']:.1f})")
    if arguments.json:
        arguments.json.write_text(json.dumps({"jax": jax.__version__, "starts": figures}, indent=1) + "\n")


if __name__ == "__main__":
    main()
