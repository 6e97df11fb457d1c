"""Images a second of `predict` on a folder of PNGs: image after image by JAX, and as it is now, taking turns.

python benchmarks/predict_pipeline.py [--checkpoint camvid_23_slim] [--images 6] [--seconds 60] [--json FILE]

--checkpoint is a workdir, weights or a name. The images are drawn scenes of 1024x2048 with noise. Each way writes masks
and overlays; by one engine their files have to be equal.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from ddrnet_jax.data import decode, files, pictures
from ddrnet_jax.data.sources import Scenes
from ddrnet_jax.outputs import Outputs
from ddrnet_jax.prediction import engines
from ddrnet_jax.prediction.files import PredictionFiles
from ddrnet_jax.prediction.images import predict_images
from ddrnet_jax.runtime import cpu

SIZE_HW = (1024, 2048)


def one_after_another(predictor, paths: dict[str, Path], results: PredictionFiles) -> None:
    """The same without threads."""
    for stem, path in paths.items():
        image = decode.decode_image(files.read_file(path), str(path))
        results.write(stem, image, predictor(image))


# {way: (engine, what runs it)}
WAYS = {
    "jax, one after another": (engines.JAX, one_after_another),
    "jax, pipeline": (engines.JAX, predict_images),
    "auto, pipeline": (engines.AUTO, predict_images),
}


def draw(folder: Path, count: int) -> dict[str, Path]:
    """Noise makes the PNGs as hard to decode as photographs."""
    paths = {}
    for i, sample in enumerate(Scenes(count, seed=1, size_hw=SIZE_HW)[j] for j in range(count)):
        noise = np.random.default_rng(i).normal(0, 3, sample["image"].shape)
        paths[f"{i:03}"] = folder / f"{i:03}.png"
        paths[f"{i:03}"].write_bytes(pictures.png(np.clip(sample["image"] + noise, 0, 255).astype(np.uint8)))
    return paths


def main() -> None:
    """Print a line a way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="camvid_23_slim")
    parser.add_argument("--images", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    networks = {engine: engines.load(arguments.checkpoint, engine) for engine in (engines.JAX, engines.AUTO)}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        paths = draw(folder, arguments.images)
        results = {name: PredictionFiles(Outputs(folder / name), networks[e].spec) for name, (e, _) in WAYS.items()}
        for network in networks.values():
            network.predict(np.zeros((*SIZE_HW, 3), np.uint8))
        print("compiled", flush=True)
        seconds: dict[str, list[float]] = {name: [] for name in WAYS}
        began = time.perf_counter()
        while time.perf_counter() - began < arguments.seconds or len(seconds["jax, pipeline"]) < 3:
            for name, (engine, way) in WAYS.items():
                start = time.perf_counter()
                way(networks[engine].predict, paths, results[name])
                seconds[name].append((time.perf_counter() - start) / arguments.images)
        written = {name: sorted(path for path in (folder / name).rglob("*.png")) for name in WAYS}
        assert all(len(files) == 2 * arguments.images + 1 for files in written.values())
        of_jax = zip(*(written[name] for name, (engine, _) in WAYS.items() if engine == engines.JAX), strict=True)
        assert all(a.read_bytes() == b.read_bytes() for a, b in of_jax), "the files differ"
    before, *_ = WAYS
    rows = {name: {"median_s": statistics.median(of[1:]), "least_s": min(of)} for name, of in seconds.items()}
    for name, row in rows.items():
        times = [rows[before][kind] / row[kind] for kind in row]
        print(
            f"{name:24} {1 / row['median_s']:.2f} images/s ({times[0]:.2f} times), "
            f"at best {1 / row['least_s']:.2f} ({times[1]:.2f}); {len(seconds[name])} turns"
        )
    if arguments.json:
        about = {"cpu": cpu.name(), "checkpoint": arguments.checkpoint, "images": arguments.images}
        arguments.json.write_text(json.dumps(about | {"an_image": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
