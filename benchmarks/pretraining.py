"""What pretraining gives: segmenters from a classifier of drawn scenes, and from random weights, step by step.

python benchmarks/pretraining.py [--seeds N] [--json FILE] [--workdir DIR] [--pretraining_steps N] [--steps N]

The classifier learns for two to five minutes on 2 CPU cores which objects take more room than usual in a scene; it sees
no mask. Then configs/demo.py trains for equal steps from it and from random weights, once for each seed: the two runs
of a seed see the same batches. Prints both curves of the training loss and the mIoU on held-out scenes, means over the
seeds, and writes the curves of every run as JSON, anew after each pair. --workdir must be empty, or not there.

Measured with three seeds (2 CPU cores, shared; 259 s of CPU time for the classifier, results/pretraining.json): after
150 steps the loss is 1.07 +- 0.05 from the classifier and 1.29 +- 0.04 from random weights, below at every step that is
logged; mIoU 42.0 +- 5.2 and 35.9 +- 4.6. The classifier itself reaches top-1 22.0 of 16 classes.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import jax
from ml_collections import ConfigDict

from ddrnet_jax import build
from ddrnet_jax.config import base
from ddrnet_jax.config import files as config_files
from ddrnet_jax.evaluation import metrics
from ddrnet_jax.runtime import compilation
from ddrnet_jax.training import loop

DEMO = Path(__file__).resolve().parent.parent / "configs" / "demo.py"
RESULTS = Path(__file__).resolve().parent / "results" / "pretraining.json"
LOG_EVERY, WARMUP_STEPS = 10, 20


def classifier_config(steps: int) -> ConfigDict:
    """23-slim on square scenes; random crops that keep most of a scene, for its class is about all of it."""
    config = base()
    config.task = "classification"
    config.batch_size = 16
    config.total_steps = steps
    config.log_every_steps = 50
    config.model.aux_head = False
    config.data.name = "scenes"
    config.data.scenes_hw = (128, 128)
    config.data.scenes_eval = 400
    config.data.crop_hw = (112, 112)
    config.data.area_range = (0.7, 1.0)
    config.optimizer.learning_rate = 0.05
    config.optimizer.weight_decay = 1e-4
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = WARMUP_STEPS
    config.loss.name = "cross_entropy"
    config.ema_decay = 0.95
    config.eval.every_steps = 0
    config.eval.batch_size = 16
    return config


def fine_tuning_config(init_from: str, seed: int, steps: int) -> ConfigDict:
    """configs/demo.py, shorter."""
    overrides = {"init_from": init_from, "seed": seed, "total_steps": steps, "log_every_steps": LOG_EVERY}
    return config_files.load(str(DEMO), [f"{key}={value}" for key, value in overrides.items()] + ["eval.every_steps=0"])


def train(config: ConfigDict, workdir: Path) -> tuple[metrics.Scores | metrics.Accuracy, dict]:
    """(last evaluation, {"losses" by step, "seconds" and "cpu_seconds" with compilation and evaluation})"""
    start, cpu_start = time.perf_counter(), time.process_time()
    result = loop.train(build.experiment(config), workdir).result
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    losses = {line["step"]: round(line["loss"], 4) for line in lines if "loss" in line}
    return result, {"losses": losses, "seconds": round(seconds, 1), "cpu_seconds": round(cpu_seconds, 1)}


def compare(workdir: Path, pretraining_steps: int, steps: int, seeds: int) -> Iterator[dict]:
    """Yields the results so far after every pair of runs, as plain JSON values."""
    accuracy, run = train(classifier_config(pretraining_steps), workdir / "classifier")
    result = {
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
        "pretraining": {"steps": pretraining_steps, **accuracy.values(()), **run},
        "fine_tuning_steps": steps,
        "fine_tuning": {"random": {}, "pretrained": {}},
    }
    starts = {"random": "", "pretrained": str(workdir / "classifier")}
    for seed in range(seeds):
        for name, init_from in starts.items():
            scores, run = train(fine_tuning_config(init_from, seed, steps), workdir / f"{name}_{seed}")
            result["fine_tuning"][name][seed] = {"miou": round(scores.miou, 4), **run}
        yield result


def table(result: dict) -> str:
    """The curves side by side; each loss is the mean of the steps since the line before, and over the seeds."""
    about, runs = result["pretraining"], {n: list(seeds.values()) for n, seeds in result["fine_tuning"].items()}
    steps = list(runs["random"][0]["losses"])
    losses = {step: [_mean_deviation([run["losses"][step] for run in runs[name]]) for name in runs] for step in steps}
    mious = [_mean_deviation([100 * run["miou"] for run in runs[name]]) for name in runs]
    return "\n".join(
        [
            f"classifier: {about['steps']} steps, {about['seconds']:.0f} s ({about['cpu_seconds']:.0f} s of CPU), "
            f"top-1 {100 * about['val/top1']:.1f}, top-5 {100 * about['val/top5']:.1f} of 16 classes",
            f"fine-tuning: {len(runs['random'])} seeds, mean and standard deviation",
            f"{'step':>5}  {'random':>16}  {'pretrained':>16}",
            *(f"{step:>5}  {a:>16}  {b:>16}" for step, (a, b) in losses.items()),
            f"{'mIoU':>5}  {mious[0]:>16}  {mious[1]:>16}",
        ]
    )


def _mean_deviation(values: list[float]) -> str:
    deviation = f" +- {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{deviation}"


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1, help="fine-tuning runs from either start")
    parser.add_argument("--json", type=Path, default=RESULTS)
    parser.add_argument("--workdir", type=Path, help="where the runs live; default: a temporary folder")
    parser.add_argument("--pretraining_steps", type=int, default=250)
    parser.add_argument("--steps", type=int, default=150, help="of fine-tuning")
    options = parser.parse_args()
    if options.workdir and options.workdir.exists() and any(options.workdir.iterdir()):
        parser.error(
            f"--workdir {options.workdir}: not empty; the times and curves of old runs would mix with new ones"
        )
    if options.seeds < 1 or min(options.pretraining_steps, options.steps) <= WARMUP_STEPS:
        parser.error(f"expected at least 1 seed, and more than the {WARMUP_STEPS} steps of warm-up for either part")
    options.json.parent.mkdir(parents=True, exist_ok=True)
    compilation.enable_cache()
    with tempfile.TemporaryDirectory() as temporary:
        for result in compare(
            options.workdir or Path(temporary), options.pretraining_steps, options.steps, options.seeds
        ):
            options.json.write_text(json.dumps(result, indent=1) + "\n")
    print(table(result))
    print(f"written to {options.json}")


if __name__ == "__main__":
    main()
