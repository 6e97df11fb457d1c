"""Images a second of `predict` on a folder of PNGs: image after image, and as it is now, the two taking turns.

python benchmarks/predict_pipeline.py [--checkpoint PATH] [--images 6] [--seconds 60] [--json FILE]

Without --checkpoint (a workdir or an exported file) it is 23-slim with random weights. The images are drawn scenes of
1024x2048 with noise; both ways write masks and overlays, and the files have to be equal.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from flax import nnx

import ddrnet_jax
from ddrnet_jax.data import decode, files, pictures
from ddrnet_jax.data.sets import scenes as scene_sets
from ddrnet_jax.data.sources import Scenes
from ddrnet_jax.outputs import Outputs
from ddrnet_jax.prediction.files import PredictionFiles
from ddrnet_jax.prediction.images import predict_images
from ddrnet_jax.prediction.segmenter import Predictor, Segmenter
from ddrnet_jax.runtime import compilation

SIZE_HW = (1024, 2048)


def one_after_another(predictor, paths: dict[str, Path], results: PredictionFiles) -> None:
    """The same without threads."""
    for stem, path in paths.items():
        image = decode.decode_image(files.read_file(path), str(path))
        results.write(stem, image, predictor(image))


WAYS = {"one_after_another": one_after_another, "pipeline": predict_images}


def segmenter(checkpoint: str | None) -> Segmenter:
    if checkpoint:
        return ddrnet_jax.load(checkpoint)
    spec = scene_sets.SPEC
    model = ddrnet_jax.DDRNet("23_slim", num_classes=spec.num_classes, aux_head=False, rngs=nnx.Rngs(0))
    model.eval()
    return Segmenter(Predictor(model), spec)


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
    parser.add_argument("--checkpoint")
    parser.add_argument("--images", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    compilation.enable_cache()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        paths = draw(folder, arguments.images)
        network = segmenter(arguments.checkpoint)
        outputs = {name: Outputs(folder / name) for name in WAYS}
        results = {name: PredictionFiles(outputs[name], network.spec) for name in WAYS}
        network.predict(np.zeros((*SIZE_HW, 3), np.uint8))
        print("compiled", flush=True)
        seconds: dict[str, list[float]] = {name: [] for name in WAYS}
        began = time.perf_counter()
        while time.perf_counter() - began < arguments.seconds or len(seconds["pipeline"]) < 3:
            for name, way in WAYS.items():
                start = time.perf_counter()
                way(network.predict, paths, results[name])
                seconds[name].append((time.perf_counter() - start) / arguments.images)
        written = [sorted(path for path in (folder / name).rglob("*.png")) for name in WAYS]
        assert len(written[0]) == len(written[1]) == 2 * arguments.images + 1
        assert all(a.read_bytes() == b.read_bytes() for a, b in zip(*written, strict=True)), "the files differ"
    rows = {name: {"median_s": statistics.median(of[1:]), "least_s": min(of)} for name, of in seconds.items()}
    for name, row in rows.items():
        rates = [1 / row[kind] for kind in ("median_s", "least_s")]
        print(f"{name:18} {rates[0]:.2f} images/s, at best {rates[1]:.2f}; {len(seconds[name])} turns")
    ratios = {kind: rows["one_after_another"][kind] / rows["pipeline"][kind] for kind in rows["pipeline"]}
    print(f"pipeline: {ratios['median_s']:.2f} times the images a second, at best {ratios['least_s']:.2f}")
    if arguments.json:
        about = {"cpu_count": os.cpu_count(), "checkpoint": arguments.checkpoint, "images": arguments.images}
        arguments.json.write_text(json.dumps(about | {"an_image": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
