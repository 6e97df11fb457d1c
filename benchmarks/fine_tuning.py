"""What weights to start from are worth with few labels: 20 CamVid images whose labels are merged to five classes.

python benchmarks/fine_tuning.py --data DIR [--steps 200] [--seeds 1] [--results FILE] [--workdir DIR]

DIR as in configs/camvid_small.py. configs/folder.py trains twice a seed, from random weights and from camvid_23_slim
with fresh heads, and both are evaluated on CamVid's val split with the merged labels. The weights have seen the 20
images before, with other classes. A run takes about eight minutes on 2 CPU cores; every finished one is added to FILE
at once, and one that was stopped goes on. What FILE holds is not run again; the default FILE is ours, --results
NEW.json measures anew.
"""

import argparse
import sys
from pathlib import Path

import cv2
import ingredients
import numpy as np

from ddrnet_jax import build
from ddrnet_jax.config import files as config_files
from ddrnet_jax.errors import UserError
from ddrnet_jax.weights import shipped

ROOT = ingredients.ROOT
CAMVID = ROOT / "configs" / "camvid_small.py"
IMAGES = 20
# {merged class: CamVid's}
MERGED = {
    "sky": ("sky",),
    "structure": ("building", "pole", "sign", "fence"),
    "ground": ("road", "pavement"),
    "tree": ("tree",),
    "moving": ("car", "pedestrian", "bicyclist"),
}
STARTS = {"random": {}, shipped.DEFAULT: {"init_from": shipped.DEFAULT, "init_head": "fresh"}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--steps", type=ingredients.positive, default=200)
    parser.add_argument("--seeds", type=ingredients.positive, default=1)
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results" / "fine_tuning.json")
    parser.add_argument("--workdir", type=Path, default=Path("runs") / "fine_tuning")
    arguments = parser.parse_args()
    wanted = [(start, seed) for seed in range(arguments.seeds) for start in STARTS]
    if left := ingredients.missing(arguments.results, wanted, arguments.steps):
        folder = arguments.workdir.resolve() / "data"
        try:
            _write_folder(arguments.data, folder)
        except (UserError, OSError) as e:
            sys.exit(f"error: {e}")
        for start, seed in left:
            result = run(start, seed, steps=arguments.steps, data=folder, workdir=arguments.workdir)
            ingredients.add(arguments.results, result)
    runs = [each for each in ingredients.read(arguments.results) if each["steps"] == arguments.steps]
    for start in STARTS:
        print(ingredients.summary(start, [100 * each["miou"] for each in runs if each["ingredient"] == start]))


def run(start: str, seed: int, *, steps: int, data: Path, workdir: Path) -> dict:
    """Train, or go on with, one run; its result as plain JSON values."""
    overrides = {
        "seed": seed,
        "total_steps": steps,
        "optimizer.warmup_steps": steps // 10,
        "eval.every_steps": 0,
        "data.root": data,
        "data.classes": tuple(MERGED),
        "data.crop_hw": (240, 320),
        **STARTS[start],
    }
    result = ingredients.trained(ROOT / "configs" / "folder.py", workdir / f"{start}_{steps}_{seed}", overrides)
    return {"ingredient": start, "seed": seed, "steps": steps, **result}


def _write_folder(camvid_root: Path, folder: Path) -> None:
    """Images and merged labels as configs/folder.py reads them; every so many training images, all of val.

    Raises UserError for data that cannot be read, for too few images, and for a folder that holds other ones.
    """
    camvid = build.experiment(config_files.load(str(CAMVID), [f"data.root={camvid_root}"]))
    table = np.full(256, 255, np.uint8)
    for merged, names in enumerate(MERGED.values()):
        table[[camvid.spec.classes.index(name) for name in names]] = merged
    train, val = camvid.train_source(), camvid.eval_source()
    if len(train) < IMAGES:
        raise UserError(f"--data {camvid_root}: {len(train)} training images, expected {IMAGES} or more")
    if folder.exists() and (folder / "root.txt").read_text() != str(camvid_root.resolve()):
        raise UserError(f"{folder} holds images of other data; choose another --workdir")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "root.txt").write_text(str(camvid_root.resolve()))
    chosen = {"train": range(0, len(train), len(train) // IMAGES)[:IMAGES], "val": range(len(val))}
    for split, source in (("train", train), ("val", val)):
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True, exist_ok=True)
        for i in chosen[split]:
            sample = source[i]
            for kind, pixels in (("images", sample["image"][..., ::-1]), ("labels", table[sample["label"]])):
                if not cv2.imwrite(str(file := folder / kind / split / f"{i:03}.png"), pixels):
                    raise UserError(f"{file} could not be written")


if __name__ == "__main__":
    main()
