"""What a larger teacher adds on CamVid: 23-slim by configs/camvid_strong.py, imitating a 23 by the same recipe.

python benchmarks/distillation.py --data DIR [--steps 900] [--seeds 3] [--results FILE] [--workdir DIR]

DIR as in configs/camvid_small.py. First the teacher is trained, then a student of each seed; weight and temperature
are the config's. The same without a teacher is what benchmarks/ingredients.py measured (strong, as many steps). Every
finished run is added to FILE at once, and one that was stopped goes on from its last checkpoint. What FILE holds is not
run again; the default FILE is ours, --results NEW.json measures anew.
"""

import argparse
import sys
from pathlib import Path

import ingredients

RESULTS = ingredients.ROOT / "benchmarks" / "results"
TEACHER, STUDENT = "teacher", "distilled"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--steps", type=ingredients.positive, default=900)
    parser.add_argument("--seeds", type=ingredients.positive, default=3)
    parser.add_argument("--results", type=Path, default=RESULTS / "distillation.json")
    parser.add_argument("--workdir", type=Path, default=Path("runs") / "distillation")
    arguments = parser.parse_args()
    workdir, steps = arguments.workdir.resolve(), arguments.steps
    _, config, warmup = ingredients.with_parts(steps)[ingredients.STRONG]
    teacher = workdir / f"{TEACHER}_{steps}_0"
    changes = {TEACHER: warmup | {"model.variant": "23"}, STUDENT: warmup | {"distill.teacher": teacher}}
    wanted = [(TEACHER, 0), *((STUDENT, seed) for seed in range(arguments.seeds))]
    left = ingredients.missing(arguments.results, wanted, steps)
    if left and left[0] != wanted[0] and not teacher.exists():
        sys.exit(f"error: {teacher}: {arguments.results} has this teacher's run, but it is gone; --results NEW.json")
    for name, seed in left:
        print(f"{name}, seed {seed}, {steps} steps", flush=True)
        places = {"data": arguments.data.resolve(), "workdir": workdir}
        result = ingredients.run(name, config, changes[name], seed=seed, steps=steps, **places)
        result["changes"] = {k: v.name if isinstance(v, Path) else v for k, v in changes[name].items()}
        ingredients.add(arguments.results, result)
    runs = ingredients.read(arguments.results) + ingredients.read(RESULTS / "ingredients.json")
    for name, what in ((TEACHER, "the teacher, 23"), (STUDENT, "23-slim with it"), (ingredients.STRONG, "without")):
        of = [each for each in runs if (each["ingredient"], each["steps"]) == (name, steps)]
        print(ingredients.summary(what, [100 * each["miou"] for each in of]))


if __name__ == "__main__":
    main()
