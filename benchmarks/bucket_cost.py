"""What a workdir in a bucket costs against one on the local disk: a save, a resume, the share of a run's time.

python benchmarks/bucket_cost.py [--variant 39] [--steps 6] [--saves 3] [--json FILE]

The bucket is a server program on this machine that keeps objects in memory (tests/buckets.py), so it has neither a
network's latency nor its limits, and takes time of the same cores. Saves to both places alternate within one process,
then resumptions from both; the figures are medians. See checkpoint_cost.py for what is measured of a save.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import jax
from checkpoint_cost import Training, medians, share

from ddrnet_jax.runtime import compilation

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
import buckets  # noqa: E402


def measure(training: Training, workdirs: dict[str, str], steps: int, saves: int) -> dict[str, dict]:
    """{place: seconds of saves and resumptions in its workdir}"""
    writers = {place: training.checkpoints(workdir) for place, workdir in workdirs.items()}
    saved: dict[str, list[dict]] = {place: [] for place in workdirs}
    for _ in range(saves):
        for place, checkpoints in writers.items():
            saved[place].append(training.save(checkpoints, steps))
    for checkpoints in writers.values():
        checkpoints.close()
    resumed: dict[str, list[float]] = {place: [] for place in workdirs}
    for _ in range(saves):
        for place, workdir in workdirs.items():
            checkpoints, start = training.checkpoints(workdir), time.perf_counter()
            found = checkpoints.resume(like=training.state)
            resumed[place].append(time.perf_counter() - start)
            checkpoints.close()
            assert found is not None
    return {
        place: training.about() | medians(saved[place]) | {"resumed_in_s": statistics.median(resumed[place])}
        for place in workdirs
    }


def main() -> None:
    """Print the seconds of both places, and the share of a run's time at the default interval."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default="39")
    parser.add_argument("--crop", type=int, nargs=2, default=(128, 256), metavar=("H", "W"))
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--steps", type=int, default=6, help="steps between two saves")
    parser.add_argument("--saves", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    compilation.enable_cache()
    training = Training(arguments.variant, tuple(arguments.crop), arguments.batch)
    with buckets.server() as url, tempfile.TemporaryDirectory(prefix="bucket-cost-") as folder:
        os.environ |= buckets.environment(url)
        buckets.make(url, "runs")
        workdirs = {"disk": folder, "bucket": "gs://runs/cost"}
        found = measure(training, workdirs, arguments.steps, arguments.saves)
    device = jax.devices()[0].device_kind
    shape = "x".join(map(str, (arguments.batch, *arguments.crop)))
    print(f"DDRNet-{arguments.variant}, batch {shape}, jax {jax.__version__}, {device}")
    for place, seconds in found.items():
        seconds["share"] = share(seconds)
        print(
            f"{place}: state {seconds['state_bytes'] / 1e6:.0f} MB; a save blocks {seconds['blocked_s']:.2f} s, is "
            f"written within {seconds['written_in_s']:.1f} s and slows the steps by {seconds['slowed_s']:.2f} s; "
            f"a resume takes {seconds['resumed_in_s']:.1f} s; every {seconds['every_steps']} steps of "
            f"{seconds['step_s']:.2f} s saving costs {100 * seconds['share']:.3f} % of the run's time"
        )
    if arguments.json:
        about = {"variant": arguments.variant, "crop_hw": list(arguments.crop), "batch": arguments.batch}
        about |= {"jax": jax.__version__, "device": device, "saves": arguments.saves}
        arguments.json.parent.mkdir(exist_ok=True)
        arguments.json.write_text(json.dumps(about | found, indent=1) + "\n")


if __name__ == "__main__":
    main()
