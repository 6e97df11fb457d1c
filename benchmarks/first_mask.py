"""Seconds from the start of a process to the PNG mask of one photo of 480x360, by engine, with the caches filled.

python benchmarks/first_mask.py [--checkpoint camvid_23_slim] [--engines auto,jax] [--starts 5] [--json FILE]

The command of a user, `--mode predict --input photo.png`, in a process of its own: imports, reading the weights, the
program, mask and overlay. The first start of each engine fills a cache that is new, the engines take turns in the later
ones. --checkpoint is a workdir, a step, weights or a name, as predict takes it.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ddrnet_jax.data import pictures
from ddrnet_jax.data.scenes import scenes
from ddrnet_jax.runtime import cpu

SIZE_HW = (360, 480)


def start_s(checkpoint: str, engine: str, photo: Path, folder: Path) -> dict[str, float]:
    """{"wall", "cpu"} of one start, its files in a folder of their own."""
    with tempfile.TemporaryDirectory(dir=folder) as output:
        command = [
            *(sys.executable, "-m", "ddrnet_jax.main", "--mode", "predict", "--checkpoint", checkpoint),
            *("--input", photo, "--output", output, "--engine", engine),
        ]
        environment = os.environ | {"DDRNET_JAX_CACHE_DIR": str(folder / "cache")}
        before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run(command, env=environment, capture_output=True, check=True)
        wall, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
        if not list(Path(output).glob("masks/*.png")):
            raise SystemExit(f"{' '.join(map(str, command))}: no mask")
        return {"wall": wall, "cpu": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime}


def main() -> None:
    """Print the first start and the median of the later ones for each engine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="camvid_23_slim")
    parser.add_argument("--engines", default="auto,jax")
    parser.add_argument("--starts", type=int, default=5, help="with the caches filled, of each engine")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    engines = arguments.engines.split(",")
    with tempfile.TemporaryDirectory(prefix="first-mask-") as name:
        folder = Path(name)
        photo = folder / "photo.png"
        photo.write_bytes(pictures.png(scenes.draw_scene(0, 0, SIZE_HW)[0]))
        first = {engine: start_s(arguments.checkpoint, engine, photo, folder) for engine in engines}
        later = {engine: [] for engine in engines}
        for _ in range(arguments.starts):
            for engine in engines:
                later[engine].append(start_s(arguments.checkpoint, engine, photo, folder))
    medians = {e: {k: statistics.median(s[k] for s in later[e]) for k in ("wall", "cpu")} for e in engines}
    print(f"{cpu.name()}, {os.cpu_count()} CPUs, Python {platform.python_version()}: seconds to the first mask")
    for engine in engines:
        walls = ", ".join(f"{start['wall']:.2f}" for start in later[engine])
        print(
            f"{engine:12} first {first[engine]['wall']:5.2f}, then {walls} "
            f"(median {medians[engine]['wall']:.2f}, of the CPU {medians[engine]['cpu']:.2f})"
        )
    if arguments.json:
        figures = {e: {"first_s": first[e], "later_s": later[e], "median_s": medians[e]} for e in engines}
        arguments.json.write_text(json.dumps({"cpu": cpu.name(), "starts": figures}, indent=1) + "\n")


if __name__ == "__main__":
    main()
