"""What saving costs a training run: the time a save blocks it, and how much slower steps are while it is written.

python benchmarks/checkpoint_cost.py [--variant 39] [--steps 6] [--saves 3] [--json FILE]

The loop's own calls: the compiled step, then Checkpoints.save every few steps. Steps during a background write and
steps without one alternate within one process. The cost of a save is what it blocks plus what it slows, and is set
against checkpoint.every_steps steps of the default config. Small images make the steps short and the share of a save
large: it is an upper bound for the 1024x1024 crops of the defaults.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from ddrnet_jax import build, config
from ddrnet_jax.config import files as config_files
from ddrnet_jax.runs import step_files
from ddrnet_jax.runs.save import Checkpoints
from ddrnet_jax.runtime import compilation, devices
from ddrnet_jax.training import program, state


def measure(variant: str, crop_hw: tuple[int, int], batch: int, steps: int, saves: int) -> dict:
    """Seconds of steps alone, of a save's blocking part, of its verification, and of the steps beside its writing."""
    settings = config.base()
    settings.model.variant, settings.data.crop_hw, settings.batch_size = variant, crop_hw, batch
    mesh = devices.data_mesh()
    _, sgd = program.schedule_and_optimizer(build.experiment(settings))
    graphdef, run_state = state.create(build.experiment(settings).network, sgd, seed=0, ema_decay=settings.ema_decay)
    run_state = devices.put_replicated(run_state, mesh)
    state_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(run_state))
    classes = build.dataset_spec(settings).num_classes
    rng = np.random.default_rng(0)
    images = {
        "images": rng.integers(0, 256, (batch, *crop_hw, 3), dtype=np.uint8),
        "labels": rng.integers(0, classes, (batch, *crop_hw), dtype=np.uint8),
    }
    pictures = devices.put_batch(images, mesh)
    experiment = build.experiment(settings)
    step = program.train_step(experiment, graphdef, sgd, mesh, program.objective_maker(experiment))
    step = step.lower(run_state, pictures).compile()

    def one_step() -> float:
        nonlocal run_state
        start = time.perf_counter()
        run_state, metrics = step(run_state, pictures)
        jax.block_until_ready(metrics)
        return time.perf_counter() - start

    one_step()
    alone, blocked, extra, written = [], [], [], []
    with tempfile.TemporaryDirectory(prefix="checkpoint-cost-") as folder:
        checkpoints = Checkpoints(folder, config_files.to_json(settings), keep=settings.checkpoint.keep)
        for number in range(saves):
            quiet = [one_step() for _ in range(steps)]
            start = time.perf_counter()
            checkpoints.save(number + 1, run_state)
            blocked.append(time.perf_counter() - start)
            busy = []
            while checkpoints.check():
                busy.append(one_step())
            written.append(time.perf_counter() - start)
            alone += quiet
            extra.append(sum(busy) - len(busy) * statistics.median(quiet))
        checkpoints.close()
        verified, arrays = [], len(jax.tree.leaves(run_state))
        for _ in range(5):
            start = time.perf_counter()
            step_files.check_saved(Path(folder, step_files.FOLDER, str(saves)), arrays, "val/miou")
            verified.append(time.perf_counter() - start)
    return {
        "state_bytes": state_bytes,
        "step_s": statistics.median(alone),
        "blocked_s": statistics.median(blocked),
        "slowed_s": statistics.median(extra),
        "written_in_s": statistics.median(written),
        "verified_s": statistics.median(verified),
        "every_steps": settings.checkpoint.every_steps,
    }


def main() -> None:
    """Print the seconds, and the share of a run's time at the default interval."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default="39")
    parser.add_argument("--crop", type=int, nargs=2, default=(128, 256), metavar=("H", "W"))
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--steps", type=int, default=6, help="steps between two saves")
    parser.add_argument("--saves", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    compilation.enable_cache()
    crop_hw = tuple(arguments.crop)
    found = measure(arguments.variant, crop_hw, arguments.batch, arguments.steps, arguments.saves)
    share = (found["blocked_s"] + max(found["slowed_s"], 0)) / (found["every_steps"] * found["step_s"])
    device = jax.devices()[0].device_kind
    shape = "x".join(map(str, (arguments.batch, *crop_hw)))
    print(f"DDRNet-{arguments.variant}, batch {shape}, jax {jax.__version__}, {device}")
    print(f"state {found['state_bytes'] / 1e6:.0f} MB, a step {found['step_s']:.2f} s")
    print(f"a save blocks {found['blocked_s']:.2f} s and is written within {found['written_in_s']:.1f} s, ", end="")
    print(f"in which it slows the steps by {found['slowed_s']:.2f} s in all")
    print(f"what was written is found and described again in {1e3 * found['verified_s']:.0f} ms (steps wait for it)")
    print(f"every {found['every_steps']} steps: {100 * share:.3f} % of the run's time")
    if arguments.json:
        about = {"variant": arguments.variant, "crop_hw": crop_hw, "batch": arguments.batch, "share": share}
        about |= {"jax": jax.__version__, "device": device, "saves": arguments.saves}
        arguments.json.parent.mkdir(exist_ok=True)
        arguments.json.write_text(json.dumps(about | found, indent=1) + "\n")


if __name__ == "__main__":
    main()
