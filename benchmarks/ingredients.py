"""What each ingredient of a recipe adds to CamVid's val mIoU, at equal steps from random weights.

python benchmarks/ingredients.py --data DIR [--results FILE] [--workdir DIR] [--steps N] [--table]

DIR as in configs/camvid_small.py, which is the baseline: shortened to --steps with its schedule, three seeds for the
noise. Each ingredient changes only the keys in INGREDIENTS. A run takes about ten minutes on 2 CPU cores; every
finished one is added to FILE at once, and a run that was stopped goes on from its last checkpoint, so the whole may
take as many sittings as it needs. --table prints what FILE holds and runs nothing.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "configs" / "camvid_small.py"
BASELINE = "baseline"
BASELINE_SEEDS = 3

# {ingredient: (what it is, the keys it changes)}
INGREDIENTS = {
    BASELINE: ("configs/camvid_small.py", {}),
    "ohem": ("OHEM, 0.9 and 1/24", {"loss.name": "ohem"}),
    "class_weights": ("CamVid's class weights", {"loss.class_weights": True}),
    "ema": ("moving average, 0.99", {"ema_decay": 0.99}),
    # The trunk keeps the baseline's rate, DAPPM and the heads get ten times it, as in the published recipe.
    "two_learning_rates": (
        "heads at 0.2, trunk at 0.02",
        {"optimizer.learning_rate": 0.2, "optimizer.trunk_lr_factor": 0.1},
    ),
    "dice_edge": ("Dice + edge cross entropy", {"loss.name": "dice_edge"}),
}


def planned(seeds: int) -> list[tuple[str, int]]:
    """(ingredient, seed) in the order of running: everything once, then what tells noise from gain."""
    first = [(name, 0) for name in INGREDIENTS]
    noise = [(BASELINE, seed) for seed in range(1, BASELINE_SEEDS)]
    more = [(name, seed) for seed in range(1, seeds) for name in INGREDIENTS if (name, seed) not in noise]
    return first + noise + more


def run(name: str, seed: int, steps: int, data: Path, workdir: Path) -> dict:
    """Train, or go on with, one run in a process of its own; its result as plain JSON values."""
    changes = INGREDIENTS[name][1]
    overrides = {"seed": seed, "total_steps": steps, "checkpoint.every_steps": 75, "data.root": data, **changes}
    folder = workdir / f"{name}_{steps}_{seed}"
    command = [sys.executable, "-m", "ddrnet_jax.main", "--config", CONFIG, "--workdir", folder]
    command += [f"--config.{key}={value}" for key, value in overrides.items()]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    subprocess.run(command, check=True, env=environment)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    scores = next(line for line in reversed(lines) if "val/miou" in line)
    losses = {line["step"]: round(line["loss"], 4) for line in lines if "loss" in line}
    iou = {key.removeprefix("val/iou/"): round(v, 4) for key, v in scores.items() if key.startswith("val/iou/")}
    return {
        "ingredient": name,
        "seed": seed,
        "steps": steps,
        "changes": changes,
        "miou": round(scores["val/miou"], 4),
        "pixel_accuracy": round(scores["val/pixel_accuracy"], 4),
        "iou": iou,
        "losses": losses,
    }


def read(results: Path) -> list[dict]:
    """The runs of a results file, none if there is no file."""
    return json.loads(results.read_text()) if results.exists() else []


def add(results: Path, result: dict) -> None:
    """Append one run; the file is whole at every moment."""
    runs = [*read(results), result]
    results.parent.mkdir(parents=True, exist_ok=True)
    temporary = results.with_suffix(".tmp")
    temporary.write_text(json.dumps(runs, indent=1) + "\n")
    temporary.replace(results)


def table(runs: list[dict], steps: int) -> str:
    """mIoU in percent by ingredient, and the gain over the baseline; "within noise": below two deviations."""
    done = [r for r in runs if r["steps"] == steps]
    of = {name: [100 * r["miou"] for r in done if r["ingredient"] == name] for name in INGREDIENTS}
    noise = statistics.stdev(of[BASELINE]) if len(of[BASELINE]) > 1 else None
    lines = [f"{'ingredient':<20} {'runs':>4} {'mIoU':>6} {'gain':>6}  {steps} steps"]
    for name, values in of.items():
        if not values:
            continue
        mean = statistics.mean(values)
        text = f"{name:<20} {len(values):>4} {mean:>6.2f}"
        if name == BASELINE:
            verdict = "" if noise is None else f"+- {noise:.2f} (standard deviation)"
            lines.append(f"{text} {'':>6}  {verdict}".rstrip())
        elif of[BASELINE]:
            gain = mean - statistics.mean(of[BASELINE])
            verdict = INGREDIENTS[name][0] if noise is None or abs(gain) >= 2 * noise else "within noise"
            lines.append(f"{text} {gain:>+6.2f}  {verdict}")
    return "\n".join(lines)


def main() -> None:
    """Run what is missing, print the table after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data/camvid"))
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results" / "ingredients.json")
    parser.add_argument("--workdir", type=Path, default=Path("runs/ingredients"))
    parser.add_argument("--steps", type=int, default=450)
    parser.add_argument("--seeds", type=int, default=1, help=f"of each ingredient; the baseline has {BASELINE_SEEDS}")
    parser.add_argument("--table", action="store_true", help="print what is there and run nothing")
    arguments = parser.parse_args()
    done = {(r["ingredient"], r["seed"], r["steps"]) for r in read(arguments.results)}
    for name, seed in [] if arguments.table else planned(arguments.seeds):
        if (name, seed, arguments.steps) not in done:
            print(f"{name}, seed {seed}, {arguments.steps} steps", flush=True)
            result = run(name, seed, arguments.steps, arguments.data.resolve(), arguments.workdir)
            add(arguments.results, result)
    print(table(read(arguments.results), arguments.steps))


if __name__ == "__main__":
    main()
