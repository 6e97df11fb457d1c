"""What the paper's Cityscapes run costs on TPUs, as compiled for them on a CPU: the table of benchmarks/results.

python benchmarks/tpu_plans.py [--case VARIANT@TOPOLOGY ...] [--table]

Needs libtpu (see pyproject.toml, extra "plan"). Each program takes minutes of CPU to compile and is written to the
results at once: run again, it compiles what is missing. --table only prints. Estimates, not measurements.
"""

import argparse
import json
import sys
from pathlib import Path

from ddrnet_jax import build
from ddrnet_jax.config import files as config_files
from ddrnet_jax.plan import accelerators, plan
from ddrnet_jax.training import program

REPO = Path(__file__).resolve().parent.parent
RESULTS = REPO / "benchmarks" / "results" / "tpu_plans.json"
IMAGES = 12 * 119_548  # that the paper's run sees: 484 epochs

# (variant, topology, what differs from configs/cityscapes.py). 32 chips need 32 images; the run sees as many images.
CASES = {
    f"{variant}@{topology}{label}": (variant, topology, overrides)
    for variant, topology, label, overrides in (
        ("23_slim", "v5e:2x2", "", ()),
        ("23", "v5e:2x2", "", ()),
        ("39", "v5e:2x2", "", ()),
        ("23_slim", "v5e:4x8", ",batch=32", ("batch_size=32", f"total_steps={IMAGES // 32}")),
        ("23_slim", "v4:2x2x1", "", ()),
        ("23_slim", "v6e:2x2", "", ()),
        ("23_slim", "v5e:2x2", ",bfloat16", ("model.dtype=bfloat16",)),
    )
}


def complete(case: str, done: dict) -> None:
    """Compile what `done` lacks of a case, writing after each program."""
    variant, topology, overrides = CASES[case]
    path = f"{REPO / 'configs' / 'cityscapes.py'}:{variant}"
    experiment = build.experiment(config_files.load(path, list(overrides)))
    programs = done.get(case, {}).get("programs", {})
    if {"train", "inference"} <= programs.keys():
        return
    target = accelerators.topology(topology)
    if "train" not in programs:
        programs["train"] = plan.training_program(experiment, target, program.lower_train_step)
        _write(case, done, plan.assembled(experiment, target, programs))
    if "inference" not in programs:
        programs["inference"] = plan.inference_program(experiment, target)
        _write(case, done, plan.assembled(experiment, target, programs))


def _write(case: str, done: dict, planned: dict) -> None:
    done[case] = planned
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    temporary = RESULTS.with_suffix(".tmp")
    temporary.write_text(json.dumps(done, indent=1) + "\n")
    temporary.replace(RESULTS)


def table(done: dict) -> str:
    """One line a case that was compiled."""
    lines = [f"{'case':<26}{'GiB':>6}{'TFLOP':>7}{'GB':>6}{'reduces':>8}{'ms':>7}{'img/s':>7}{'hours':>7}{'chip h':>7}"]
    for case in (case for case in CASES if case in done):
        train, run = done[case]["programs"]["train"], done[case]["run"]
        if run is None:
            lines.append(f"{case:<26} does not fit: needs {(train['needed_bytes'] or 0) / 2**30:.1f} GiB")
            continue
        memory = (train["argument_bytes"] + train["temporary_bytes"]) / 2**30
        reduces = sum(total["count"] for total in train["collectives"].values())
        lines.append(
            f"{case:<26}{memory:>6.1f}{train['flops'] / 1e12:>7.2f}{train['bytes_accessed'] / 1e9:>6.0f}{reduces:>8}"
            f"{run['step_s'] * 1e3:>7.1f}{run['images_per_s']:>7.0f}{run['hours']:>7.2f}{run['chip_hours']:>7.1f}"
        )
    fitting = {case: planned["run"] for case, planned in done.items() if planned["run"]}
    for what, key in (("fewest hours", "hours"), ("fewest chip-hours", "chip_hours")):
        if fitting:
            case = min(fitting, key=lambda c: fitting[c][key])
            run = fitting[case]
            lines.append(f"{what}: {case}, {run['hours']:.2f} h, {run['chip_hours']:.1f} chip-hours")
    return "\n".join(lines)


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def main() -> int:
    """Compiles what is missing, then prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append", choices=CASES, help="only this one; may be repeated")
    parser.add_argument("--table", action="store_true", help="compile nothing")
    arguments = parser.parse_args()
    done = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    try:
        for case in () if arguments.table else arguments.case or CASES:
            _say(case)
            complete(case, done)
    except accelerators.TopologyError as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    print(table(done))
    return 0


if __name__ == "__main__":
    sys.exit(main())
