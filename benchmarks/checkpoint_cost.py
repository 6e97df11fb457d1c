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
from ddrnet_jax.runs import step_files, step_folders
from ddrnet_jax.runs.save import Checkpoints
from ddrnet_jax.runtime import compilation, devices
from ddrnet_jax.training import program, state


class Training:
    """A run's state, and its compiled step on one batch of random images."""

    def __init__(self, variant: str, crop_hw: tuple[int, int], batch: int):
        self.settings = settings = config.base()
        settings.model.variant, settings.data.crop_hw, settings.batch_size = variant, crop_hw, batch
        mesh, experiment = devices.data_mesh(), build.experiment(settings)
        _, sgd = program.schedule_and_optimizer(experiment)
        graphdef, fresh = state.create(experiment.network, sgd, seed=0, ema_decay=settings.ema_decay)
        self.state = devices.put_replicated(fresh, mesh)
        classes = build.dataset_spec(settings).num_classes
        rng = np.random.default_rng(0)
        images = {
            "images": rng.integers(0, 256, (batch, *crop_hw, 3), dtype=np.uint8),
            "labels": rng.integers(0, classes, (batch, *crop_hw), dtype=np.uint8),
        }
        self._pictures = devices.put_batch(images, mesh)
        step = program.train_step(experiment, graphdef, sgd, mesh, program.objective_maker(experiment))
        self._step = step.lower(self.state, self._pictures).compile()
        self.step()

    def step(self) -> float:
        """Take a step. Returns its seconds."""
        start = time.perf_counter()
        self.state, metrics = self._step(self.state, self._pictures)
        jax.block_until_ready(metrics)
        return time.perf_counter() - start

    def checkpoints(self, workdir: str) -> Checkpoints:
        """Those of a run with the settings."""
        return Checkpoints(workdir, config_files.to_json(self.settings), keep=self.settings.checkpoint.keep)

    def save(self, checkpoints: Checkpoints, steps: int) -> dict:
        """Seconds of steps alone, of a save's blocking part, and of what the steps beside its writing take more."""
        quiet = [self.step() for _ in range(steps)]
        number, start = int(self.state["step"]), time.perf_counter()
        checkpoints.save(number, self.state)
        blocked = time.perf_counter() - start
        busy = []
        while checkpoints.check():
            busy.append(self.step())
        written = time.perf_counter() - start
        slowed = sum(busy) - len(busy) * statistics.median(quiet)
        return {"step_s": statistics.median(quiet), "blocked_s": blocked, "slowed_s": slowed, "written_in_s": written}

    def about(self) -> dict:
        """How large the state is, and how often it is saved by default."""
        return {
            "state_bytes": sum(leaf.nbytes for leaf in jax.tree.leaves(self.state)),
            "every_steps": self.settings.checkpoint.every_steps,
        }


def medians(saves: list[dict]) -> dict:
    """Of each figure."""
    return {name: statistics.median(save[name] for save in saves) for name in saves[0]}


def share(found: dict) -> float:
    """Of a run's time that saving costs at the default interval."""
    return (found["blocked_s"] + max(found["slowed_s"], 0)) / (found["every_steps"] * found["step_s"])


def measure(variant: str, crop_hw: tuple[int, int], batch: int, steps: int, saves: int) -> dict:
    """See Training.save; and the seconds of a save's verification."""
    training = Training(variant, crop_hw, batch)
    with tempfile.TemporaryDirectory(prefix="checkpoint-cost-") as folder:
        checkpoints = training.checkpoints(folder)
        found = [training.save(checkpoints, steps) for _ in range(saves)]
        checkpoints.close()
        verified, arrays = [], len(jax.tree.leaves(training.state))
        newest = max(Path(folder, step_folders.FOLDER).iterdir(), key=lambda step: int(step.name))
        for _ in range(5):
            start = time.perf_counter()
            step_files.check_saved(newest, arrays, "val/miou")
            verified.append(time.perf_counter() - start)
    return training.about() | medians(found) | {"verified_s": statistics.median(verified)}


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
    device = jax.devices()[0].device_kind
    shape = "x".join(map(str, (arguments.batch, *crop_hw)))
    print(f"DDRNet-{arguments.variant}, batch {shape}, jax {jax.__version__}, {device}")
    print(f"state {found['state_bytes'] / 1e6:.0f} MB, a step {found['step_s']:.2f} s")
    print(f"a save blocks {found['blocked_s']:.2f} s and is written within {found['written_in_s']:.1f} s, ", end="")
    print(f"in which it slows the steps by {found['slowed_s']:.2f} s in all")
    print(f"what was written is found and described again in {1e3 * found['verified_s']:.0f} ms (steps wait for it)")
    print(f"every {found['every_steps']} steps: {100 * share(found):.3f} % of the run's time")
    if arguments.json:
        about = {"variant": arguments.variant, "crop_hw": crop_hw, "batch": arguments.batch, "share": share(found)}
        about |= {"jax": jax.__version__, "device": device, "saves": arguments.saves}
        arguments.json.parent.mkdir(exist_ok=True)
        arguments.json.write_text(json.dumps(about | found, indent=1) + "\n")


if __name__ == "__main__":
    main()
