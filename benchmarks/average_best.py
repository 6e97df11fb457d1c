"""What the mean of a run's best checkpoints is worth beside its best one.

python benchmarks/average_best.py --workdir RUN [--largest 10] [--json FILE]

RUN kept every evaluated step, for example by --config.eval.every_steps=90 --config.checkpoint.keep=10. The weights and
batch-norm statistics of its best 2, 3, ... steps are averaged, as super-gradients does, and evaluated on the split that
chose them; so the gain is an upper bound. Moving averages are averaged where the run kept them.
"""

import argparse
import json
from pathlib import Path

import jax
import numpy as np

from ddrnet_jax.evaluation import evaluate
from ddrnet_jax.runs import checkpoints, step_files
from ddrnet_jax.runtime import devices


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--largest", type=int, default=10, help="number of steps in a mean")
    parser.add_argument("--json", type=Path, help="file for the scores of every mean")
    arguments = parser.parse_args()
    loaded = [checkpoints.load_weights(path) for path in step_files.steps(arguments.workdir / step_files.FOLDER)]
    ranked = sorted((each for each in loaded if each.score is not None), key=lambda each: -each.score)
    if len(ranked) < 2:
        parser.error(f"--workdir {arguments.workdir}: {len(ranked)} evaluated steps kept, expected 2 or more")
    experiment, mesh = ranked[0].experiment, devices.data_mesh()
    evaluator = evaluate.make_evaluator(experiment, ranked[0].graphdef, mesh)
    source, threads = experiment.eval_source(), experiment.num_threads
    rows = []
    for k in range(1, min(arguments.largest, len(ranked)) + 1):
        weights = jax.device_put(_mean(ranked[:k]), devices.replicated(mesh))
        with evaluate.samples_to_evaluate(source, experiment.eval_transform, num_threads=threads) as samples:
            miou = evaluator(*weights, samples).miou
        rows.append({"steps": [each.step for each in ranked[:k]], "miou": round(float(miou), 4)})
        print(f"mean of {k:2}  val mIoU {100 * rows[-1]['miou']:.2f}  steps {rows[-1]['steps']}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


def _mean(chosen: list[checkpoints.Loaded]) -> tuple[dict, dict]:
    """Params and batch statistics, each the mean over the checkpoints."""
    trees = [(each.params, each.batch_stats) for each in chosen]
    return jax.tree.map(lambda *leaves: np.mean(leaves, axis=0, dtype=np.float64).astype(np.float32), *trees)


if __name__ == "__main__":
    main()
