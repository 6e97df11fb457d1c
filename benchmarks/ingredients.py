"""What each ingredient of a recipe adds to CamVid's val mIoU, at equal steps from random weights.

python benchmarks/ingredients.py --data DIR [--results FILE] [--workdir DIR] [--steps N] [--only NAMES]
                                 [--table] [--step-time]

DIR as in configs/camvid_small.py, which is the baseline: shortened to --steps with its schedule, three seeds for the
noise. Each ingredient changes only the keys in INGREDIENTS, or those of PARTS of configs/camvid_strong.py: added alone
to camvid_small, and left out alone from camvid_strong. A run takes about ten minutes on 2 CPU cores; every finished one
is added to FILE at once, and a run that was stopped goes on from its last checkpoint, so the whole may take as many
sittings as it needs. What FILE holds is not run again; the default FILE is ours, --results NEW.json measures anew.
--table prints what FILE holds and runs nothing; --step-time only times a step of the two configs, interleaved in one
process, and of camvid_strong with AdamW.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from ddrnet_jax import build
from ddrnet_jax.config import files as config_files
from ddrnet_jax.runtime import devices
from ddrnet_jax.training import program, state

ROOT = Path(__file__).resolve().parent.parent
SMALL, STRONG_CONFIG = (ROOT / "configs" / f"camvid_{name}.py" for name in ("small", "strong"))
BASELINE, STRONG = "baseline", "strong"
BASELINE_SEEDS = 3  # of each of the two

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
    "colour": ("photometric distortion", {"data.colour": (0.125, 0.5, 0.5, 0.1)}),
    "max_class_share": ("crops of one class drawn again", {"data.max_class_share": 0.75}),
    "rare_class_share": ("half of the crops around a class", {"data.rare_class_share": 0.5}),
}
# {what camvid_strong has and camvid_small has not: its keys}
PARTS = {
    "muon": [f"optimizer.{key}" for key in ("name", "learning_rate", "weight_decay", "decay_norms_and_biases")],
    "cosine_and_warmup": ["optimizer.schedule", "optimizer.warmup_steps"],
    "counted_weights": ["loss.class_weights"],
    "less_scaling": ["data.scale_range"],
    "ema_098": ["ema_decay"],
}
# What is within noise alone, left out together too.
TOGETHER = ("cosine_and_warmup", "less_scaling", "ema_098")
ADAMW = ("AdamW at 0.002 in place of Muon", {"optimizer.name": "adamw", "optimizer.learning_rate": 0.002})

_WIDTH = len("without_" + "+".join(TOGETHER))
_KEYS = {"ingredient", "seed", "steps", "miou"}


def with_parts(steps: int) -> dict[str, tuple[str, Path, dict]]:
    """{run: (what it is, its config, the keys it changes)} of all ingredients and parts, at this number of steps.

    Raises ValueError if the two configs differ in a key that is in no part.
    """
    small, strong = (config_files.load(str(path)) for path in (SMALL, STRONG_CONFIG))
    flat_small, flat_strong = (config_files.flatten(config.to_dict()) for config in (small, strong))
    different = {key for key in flat_small if flat_small[key] != flat_strong[key]}
    if different != {key for keys in PARTS.values() for key in keys}:
        raise ValueError(f"PARTS does not hold what camvid_strong changes: {sorted(different)}")
    flat_strong["optimizer.warmup_steps"] = strong.optimizer.warmup_steps * steps // strong.total_steps
    runs = {name: (what, SMALL, changes) for name, (what, changes) in INGREDIENTS.items()}
    runs |= {
        name: (f"{name} of camvid_strong", SMALL, {key: flat_strong[key] for key in keys})
        for name, keys in PARTS.items()
    }
    warmup = {"optimizer.warmup_steps": flat_strong["optimizer.warmup_steps"]}
    runs[STRONG] = ("configs/camvid_strong.py", STRONG_CONFIG, warmup)
    runs["adamw"] = (ADAMW[0], STRONG_CONFIG, warmup | ADAMW[1])
    for names in (*((name,) for name in PARTS), TOGETHER):
        without = warmup | {key: flat_small[key] for name in names for key in PARTS[name]}
        name = "+".join(names)
        runs[f"without_{name}"] = (f"camvid_strong without {name}", STRONG_CONFIG, without)
    return runs


def planned(names: Iterable[str], seeds: int) -> list[tuple[str, int]]:
    """(run, seed) in the order of running: everything once, then what tells noise from gain."""
    first = [(name, 0) for name in names]
    noise = [(name, seed) for seed in range(1, BASELINE_SEEDS) for name in (BASELINE, STRONG)]
    more = [(name, seed) for seed in range(1, seeds) for name in names if (name, seed) not in noise]
    return first + noise + more


def run(name: str, config: Path, changes: dict, *, seed: int, steps: int, data: Path, workdir: Path) -> dict:
    """Train, or go on with, one run; its result as plain JSON values."""
    overrides = {"seed": seed, "total_steps": steps, "checkpoint.every_steps": 75, "data.root": data, **changes}
    result = trained(config, workdir / f"{name}_{steps}_{seed}", overrides)
    return {"ingredient": name, "seed": seed, "steps": steps, "changes": changes, **result}


def trained(config: Path, folder: Path, overrides: dict) -> dict:
    """Train, or go on, in a process of its own: its last scores and its losses by step as plain JSON values.

    Where it ends early, so does this program, with its exit code; it has said why. A folder that was trained with other
    data ends it too: its weights would count as this data's.
    """
    if (kept := folder / "config.json").exists():
        root = json.loads(kept.read_text())["data"]["root"]
        if Path(root).resolve() != Path(overrides["data.root"]).resolve():
            sys.exit(f"error: {folder} was trained with {root}, expected that as --data, or another --workdir")
    command = [sys.executable, "-m", "ddrnet_jax.main", "--config", config, "--workdir", folder]
    command += [f"--config.{key}={value}" for key, value in overrides.items()]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    if code := subprocess.run(command, env=environment).returncode:
        sys.exit(code)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    scores = next(line for line in reversed(lines) if "val/miou" in line)
    return {
        "miou": round(scores["val/miou"], 4),
        "pixel_accuracy": round(scores["val/pixel_accuracy"], 4),
        "iou": {key.removeprefix("val/iou/"): round(v, 4) for key, v in scores.items() if key.startswith("val/iou/")},
        "losses": {line["step"]: round(line["loss"], 4) for line in lines if "loss" in line},
    }


def read(results: Path) -> list[dict]:
    """The runs of a results file, none if there is no file. Ends the program in one line if it cannot be read."""
    try:
        runs = json.loads(results.read_text()) if results.exists() else []
    except (OSError, ValueError) as e:
        sys.exit(f"error: {results}: {e}; expected the runs that this program wrote there, or no file")
    if not isinstance(runs, list) or not all(isinstance(run, dict) and run.keys() >= _KEYS for run in runs):
        sys.exit(f"error: {results}: expected a list of runs, each with {', '.join(sorted(_KEYS))}")
    return runs


def missing(results: Path, wanted: Iterable[tuple[str, int]], steps: int) -> list[tuple[str, int]]:
    """Of the (run, seed) wanted those that the file lacks; says so where it lacks none.

    Ends the program in one line if the file's folder cannot be made.
    """
    done = {(run["ingredient"], run["seed"], run["steps"]) for run in read(results)}
    left = [(name, seed) for name, seed in wanted if (name, seed, steps) not in done]
    if not left:
        print(f"nothing to train: {results} has these runs; --results NEW.json measures anew", flush=True)
    try:
        results.parent.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        sys.exit(f"error: --results {results}: {e}")
    return left


def add(results: Path, result: dict) -> None:
    """Append one run; the file is whole at every moment."""
    runs = [*read(results), result]
    temporary = results.with_suffix(".tmp")
    temporary.write_text(json.dumps(runs, indent=1) + "\n")
    temporary.replace(results)


def table(runs: list[dict], steps: int) -> str:
    """mIoU in percent of every run, and the gain over the baseline or over camvid_strong, whichever it changes."""
    everything = with_parts(steps)
    done = [r for r in runs if r["steps"] == steps]
    of = {name: [100 * r["miou"] for r in done if r["ingredient"] == name] for name in everything}
    lines = [f"{'ingredient':<{_WIDTH}} {'runs':>4} {'mIoU':>6} {'gain':>6}  {steps} steps"]
    for name, (what, config, _) in everything.items():
        if of[name]:
            lines.append(_row(name, what, of[name], of[BASELINE if config == SMALL else STRONG]))
    return "\n".join(lines)


def _row(name: str, what: str, values: list[float], reference: list[float]) -> str:
    """One line; "within noise": a gain below two standard deviations of the reference."""
    noise = statistics.stdev(reference) if len(reference) > 1 else None
    text = f"{name:<{_WIDTH}} {len(values):>4} {statistics.mean(values):>6.2f}"
    if values is reference or not reference:
        return f"{text} {'':>6}  {'' if noise is None else f'+- {noise:.2f} (standard deviation)'}".rstrip()
    gain = statistics.mean(values) - statistics.mean(reference)
    return f"{text} {gain:>+6.2f}  {what if noise is None or abs(gain) >= 2 * noise else 'within noise'}"


def summary(what: str, mious: list[float]) -> str:
    """One line: mean, deviation and each of the scores of some runs, in percent."""
    if not mious:
        return f"{what:<16} not run"
    noise = f" +- {statistics.stdev(mious):.2f}" if len(mious) > 1 else ""
    return f"{what:<16} val mIoU {statistics.mean(mious):.2f}{noise} ({', '.join(f'{miou:.2f}' for miou in mious)})"


def positive(text: str) -> int:
    """A flag's number, 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} given, expected a number, 1 or more")
    return int(text)


def step_times(rounds: int = 15) -> str:
    """Seconds of a training step of each config on random pictures, and their ratio to camvid_small's."""
    configs = {name: config_files.load(str(path)) for name, path in ((BASELINE, SMALL), (STRONG, STRONG_CONFIG))}
    configs["adamw"] = config_files.load(str(STRONG_CONFIG), [f"{key}={value}" for key, value in ADAMW[1].items()])
    steps = {name: _step(build.experiment(config)) for name, config in configs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - start)
    ratios = {
        name: statistics.median(a / b for a, b in zip(of, seconds[BASELINE], strict=True))
        for name, of in seconds.items()
    }
    return "\n".join(f"{n:<10} {statistics.median(seconds[n]):.2f} s a step, {ratios[n]:.2f}" for n in steps)


def _step(experiment: build.Experiment) -> Callable[[], None]:
    """A step of this experiment on random pictures, compiled and run once."""
    mesh, rng = devices.data_mesh(), np.random.default_rng(0)
    _, optimizer = program.schedule_and_optimizer(experiment)
    compiled = program.lower_train_step(experiment, mesh).compile()
    size = (experiment.batch_size, *experiment.crop_hw)
    pictures = {"images": rng.integers(0, 256, (*size, 3), dtype=np.uint8)}
    pictures["labels"] = rng.integers(0, experiment.spec.num_classes, size, dtype=np.uint8)
    batch = devices.put_batch(pictures, mesh)
    _, fresh = state.create(experiment.network, optimizer, seed=0, ema_decay=experiment.ema_decay)
    states = [devices.put_replicated(fresh, mesh)]

    def run() -> None:
        after, metrics = compiled(states.pop(), batch, {})
        states.append(after)
        float(metrics["loss"])

    run()
    return run


def main() -> None:
    """Run what is missing, print the table after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data/camvid"))
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results" / "ingredients.json")
    parser.add_argument("--workdir", type=Path, default=Path("runs/ingredients"))
    parser.add_argument("--steps", type=positive, default=450)
    parser.add_argument(
        "--seeds", type=positive, default=1, help=f"of each; the baseline and camvid_strong have {BASELINE_SEEDS}"
    )
    parser.add_argument("--only", metavar="NAMES", help="of runs, separated by commas: strong,without_muon")
    parser.add_argument("--table", action="store_true", help="print what is there and run nothing")
    parser.add_argument("--step-time", action="store_true", help="time a step of both configs and train nothing")
    arguments = parser.parse_args()
    if arguments.step_time:
        print(step_times())
        return
    if arguments.table:
        print(table(read(arguments.results), arguments.steps))
        return
    runs, places = with_parts(arguments.steps), {"data": arguments.data.resolve(), "workdir": arguments.workdir}
    only = set(runs if arguments.only is None else arguments.only.replace(" ", "").split(","))
    if unknown := only - runs.keys():
        parser.error(f"--only {','.join(sorted(unknown))!r}: expected names of {', '.join(runs)}")
    wanted = [(name, seed) for name, seed in planned(runs, arguments.seeds) if name in only]
    for name, seed in missing(arguments.results, wanted, arguments.steps):
        print(f"{name}, seed {seed}, {arguments.steps} steps", flush=True)
        _, config, changes = runs[name]
        add(arguments.results, run(name, config, changes, seed=seed, steps=arguments.steps, **places))
    print(table(read(arguments.results), arguments.steps))


if __name__ == "__main__":
    main()
