"""What pretraining gives: a segmenter from a classifier of drawn scenes, and from random weights, step by step.

python benchmarks/pretraining.py [--workdir DIR] [--output FILE]

The classifier learns for about two minutes on 2 CPU cores which objects take more room than usual in a scene; it sees
no mask. Then configs/demo.py trains for equal steps, with the same seed and so the same batches, from it and from
random weights. Prints both curves of the training loss and the mIoU on held-out scenes, and writes them as JSON.

Measured once (seed 0, 2 CPU cores that others used too; 255 s of CPU time for the classifier): over the last ten of 150
steps the loss is 1.065 from the classifier and 1.240 from random weights, the mIoU 43.3 and 38.4. The classifier itself
reaches top-1 22.5 of 16 classes.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import jax
from ml_collections import ConfigDict

from ddrnet_jax import compilation, config_files
from ddrnet_jax.config import base
from ddrnet_jax.evaluation import metrics
from ddrnet_jax.training import loop

DEMO = Path(__file__).resolve().parent.parent / "configs" / "demo.py"
STEPS, LOG_EVERY = 150, 10


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
    config.optimizer.warmup_steps = 20
    config.loss.name = "cross_entropy"
    config.ema_decay = 0.95
    config.eval.every_steps = 0
    config.eval.batch_size = 16
    return config


def fine_tuning_config(init_from: str) -> ConfigDict:
    """configs/demo.py, shorter."""
    overrides = (f"total_steps={STEPS}", f"log_every_steps={LOG_EVERY}", "eval.every_steps=0", f"init_from={init_from}")
    return config_files.load(str(DEMO), overrides)


def train(config: ConfigDict, workdir: Path) -> tuple[metrics.Scores | metrics.Accuracy, dict]:
    """(last evaluation, {"losses" by step, "seconds" and "cpu_seconds" with compilation and evaluation})"""
    start, cpu_start = time.perf_counter(), time.process_time()
    result = loop.train(config, workdir)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    losses = {line["step"]: round(line["loss"], 4) for line in lines if "loss" in line}
    return result, {"losses": losses, "seconds": round(seconds, 1), "cpu_seconds": round(cpu_seconds, 1)}


def compare(workdir: Path, pretraining_steps: int) -> dict:
    """Both runs, as plain JSON values."""
    accuracy, run = train(classifier_config(pretraining_steps), workdir / "classifier")
    result = {
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
        "pretraining": {"steps": pretraining_steps, **accuracy.values(()), **run},
        "fine_tuning": {},
    }
    for name, init_from in (("random", ""), ("pretrained", str(workdir / "classifier"))):
        scores, run = train(fine_tuning_config(init_from), workdir / name)
        result["fine_tuning"][name] = {"miou": round(scores.miou, 4), **run}
    return result


def table(result: dict) -> str:
    """The curves side by side; each loss is the mean of the steps since the line before."""
    first, second = result["fine_tuning"].values()
    about, rows = result["pretraining"], zip(first["losses"].items(), second["losses"].values(), strict=True)
    return "\n".join(
        [
            f"classifier: {about['steps']} steps, {about['seconds']:.0f} s ({about['cpu_seconds']:.0f} s of CPU), "
            f"top-1 {100 * about['val/top1']:.1f}, top-5 {100 * about['val/top5']:.1f} of 16 classes",
            f"{'step':>5}  {'random':>7}  {'pretrained':>10}",
            *(f"{step:>5}  {a:>7.4f}  {b:>10.4f}" for (step, a), b in rows),
            f"{'mIoU':>5}  {100 * first['miou']:>7.2f}  {100 * second['miou']:>10.2f}",
        ]
    )


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, help="where the three runs live; default: a temporary folder")
    parser.add_argument("--output", type=Path, default=Path("pretraining.json"))
    parser.add_argument("--pretraining_steps", type=int, default=250)
    arguments = parser.parse_args()
    compilation.enable_cache()
    with tempfile.TemporaryDirectory() as temporary:
        result = compare(arguments.workdir or Path(temporary), arguments.pretraining_steps)
    arguments.output.write_text(json.dumps(result, indent=1) + "\n")
    print(table(result))
    print(f"written to {arguments.output}")


if __name__ == "__main__":
    main()
