"""What the mean of a run's best checkpoints is worth beside its best one.

python benchmarks/average_best.py --workdir RUN [--largest 10] [--json FILE]

RUN kept every evaluated step, for example by --config.eval.every_steps=90 --config.checkpoint.keep=10. The weights and
batch-norm statistics of its best 2, 3, ... steps are averaged, as super-gradients does, and evaluated on the split that
chose them; so the gain is an upper bound. Moving averages are averaged where the run kept them.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import ingredients
import jax
import numpy as np

from ddrnet_jax.errors import UserError
from ddrnet_jax.evaluation import evaluate
from ddrnet_jax.runs import checkpoints, step_folders
from ddrnet_jax.runtime import devices


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--largest", type=ingredients.positive, default=10, help="number of steps in a mean")
    parser.add_argument("--json", type=Path, help="file for the scores of every mean")
    arguments = parser.parse_args()
    if arguments.json and not arguments.json.absolute().parent.is_dir():
        parser.error(f"--json {arguments.json}: no such folder")
    try:
        rows = list(compared(arguments.workdir, arguments.largest))
    except UserError as e:
        sys.exit(f"error: {e}")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


def compared(workdir: Path, largest: int) -> Iterator[dict]:
    """The score of each mean, printed as it comes. Raises UserError for a workdir or data that cannot be read."""
    if not (workdir / step_folders.FOLDER).is_dir():
        raise UserError(f"--workdir {workdir}: no {step_folders.FOLDER}/ in it, expected the workdir of a run, on disk")
    loaded = [checkpoints.load_weights(path) for path in step_folders.steps(workdir / step_folders.FOLDER)]
    ranked = sorted((each for each in loaded if each.score is not None), key=lambda each: -each.score)
    if len(ranked) < 2:
        raise UserError(f"--workdir {workdir}: {len(ranked)} evaluated steps kept, expected 2 or more")
    experiment, mesh = ranked[0].experiment, devices.data_mesh()
    source, threads = experiment.eval_source(), experiment.num_threads
    evaluator = evaluate.make_evaluator(experiment, ranked[0].graphdef, mesh)
    for k in range(1, min(largest, len(ranked)) + 1):
        weights = jax.device_put(_mean(ranked[:k]), devices.replicated(mesh))
        with evaluate.samples_to_evaluate(source, experiment.eval_transform, num_threads=threads) as samples:
            miou = round(float(evaluator(*weights, samples).miou), 4)
        steps = [each.step for each in ranked[:k]]
        print(f"mean of {k:2}  val mIoU {100 * miou:.2f}  steps {steps}", flush=True)
        yield {"steps": steps, "miou": miou}


def _mean(chosen: list[checkpoints.Loaded]) -> tuple[dict, dict]:
    """Params and batch statistics, each the mean over the checkpoints."""
    trees = [(each.params, each.batch_stats) for each in chosen]
    return jax.tree.map(lambda *leaves: np.mean(leaves, axis=0, dtype=np.float64).astype(np.float32), *trees)


if __name__ == "__main__":
    main()
