"""Images a second and core from files to training crops, interleaved: ours against a plain pipeline.

python benchmarks/input_pipeline.py [--rounds N] [--images N] [--threads N] [--json FILE]

2048x1024 images with Cityscapes labels -> batches of 1024x1024 crops, scale 0.5..2, flip. The images are DRAWN (street
scenes with sensor grain, so that a PNG has 2 to 3 MB as a real one does): Cityscapes may not be passed on. They are
stored as PNGs with one filter (OpenCV's way to write them), as PNGs with the best filter for each row (libpng's), and
as JPEGs: for us in ArrayRecords, as prepare_data writes them with data.jpeg_quality, for the plain pipeline in files.

The plain pipeline (plain_pipeline.py) is that of the PyTorch forks and ends in float32; ours ends in uint8, for it is
normalised on the device. A rate is images per second of CPU time of the whole process, pinned to one core: medians over
rounds in which both take turns (Linux). --threads N adds rates by the clock with N threads each.
"""

import argparse
import collections
import contextlib
import json
import os
import platform
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from unittest import mock

import cv2
import numpy as np
from plain_pipeline import PlainPipeline

from ddrnet_jax.data import decode, transforms
from ddrnet_jax.data.pipeline import train_batches
from ddrnet_jax.data.records.array_records import ArrayRecords
from ddrnet_jax.data.records.prepare import prepare
from ddrnet_jax.data.scenes import scenes
from ddrnet_jax.data.sets.cityscapes import SPEC as CITYSCAPES
from ddrnet_jax.data.sources import FolderPairs
from ddrnet_jax.data.transforms import Augment

SIZE_HW, CROP_HW, SCALE_RANGE = (1024, 2048), (1024, 1024), (0.5, 2.0)
PLAIN = PlainPipeline(CROP_HW, SCALE_RANGE)
AUGMENT = Augment(CROP_HW, SCALE_RANGE, flip=True)
BATCH, BATCHES = 4, 2  # BATCHES of one turn and thread
JPEG_QUALITY = 95
GOALS = {"png": 1.5, "png_adaptive": 1.5, "jpeg": 2.5}
TITLES = {
    "png": "PNG, one filter",
    "png_adaptive": "PNG, filter by row",
    "jpeg": f"JPEG {JPEG_QUALITY} (ours: ArrayRecord)",
}
RESULTS = Path(__file__).resolve().parent / "results" / "input_pipeline.json"
# Cityscapes' label ids of scenes.CLASSES; lane marks become "ground", which is ignored.
_LABEL_IDS = (7, 6, 8, 11, 23, 21, 17, 26, 24)
_GRAIN = 1.0  # standard deviation of the sensor grain, of 255


def draw(roots: dict[str, Path], count: int) -> None:
    """Write the same images and labels as Cityscapes is unzipped; PNGs of each kind of filter in a root of its own."""
    filters = {"png": cv2.IMWRITE_PNG_FILTER_SUB, "png_adaptive": cv2.IMWRITE_PNG_ALL_FILTERS}
    raw_ids = np.full(256, 3, np.uint8)  # "out of roi"
    raw_ids[: len(_LABEL_IDS)] = _LABEL_IDS
    for index in range(count):
        image, label = scenes.draw_scene(0, index, SIZE_HW)
        grain = np.random.default_rng(index).normal(0, _GRAIN, image.shape)
        image = cv2.GaussianBlur(np.clip(image + grain, 0, 255).astype(np.uint8), (0, 0), 0.6)
        stem = f"drawn_{index:06d}_000019"
        for name, root in roots.items():
            _write(root / f"leftImg8bit/train/drawn/{stem}_leftImg8bit.png", image[..., ::-1], filters[name])
            _write(root / f"gtFine/train/drawn/{stem}_gtFine_labelIds.png", raw_ids[label], filters["png"])


def _write(path: Path, pixels: np.ndarray, png_filter: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", pixels, (cv2.IMWRITE_PNG_FILTER, png_filter))[1].tobytes())


def store(folder: Path, count: int) -> dict[str, tuple]:
    """{storage: (our source, the plain pipeline's [(image, label), ...])}, drawn into the folder."""
    roots = {"png": folder / "png", "png_adaptive": folder / "png_adaptive"}
    draw(roots, count)
    stored = {}
    for name, root in roots.items():
        source = FolderPairs(root, "train", CITYSCAPES)
        stored[name] = (source, source.pairs)
    source, pairs = stored["png"]
    prepare({"train": source}, folder / "records", name="cityscapes", jpeg_quality=JPEG_QUALITY)
    records = ArrayRecords(folder / "records", "train", CITYSCAPES)
    jpegs = [folder / f"{index}.jpg" for index in range(count)]
    for index, path in enumerate(jpegs):
        path.write_bytes(records.encoded(index).image)
    stored["jpeg"] = (records, [(str(path), label) for path, (_, label) in zip(jpegs, pairs, strict=True)])
    return stored


def our_batches(source, turn: int, threads: int) -> Iterator[dict[str, np.ndarray]]:
    """Endless."""
    first_step = turn * (BATCHES * threads + 1)
    return train_batches(source, AUGMENT, seed=0, batch_size=BATCH, first_step=first_step, num_threads=threads)


def seconds_an_image(batches: Iterator, count: int, clock: Callable[[], float]) -> float:
    """Of `count` batches after the first; ends when the threads have."""
    running = threading.active_count()
    with contextlib.closing(batches):
        next(batches)
        start = clock()
        for _ in range(count):
            next(batches)
        seconds = clock() - start
    while threading.active_count() > running:
        time.sleep(0.01)
    return seconds / (BATCH * count)


def compare(stored: dict, rounds: int, threads: int, clock: Callable[[], float]) -> dict[str, dict]:
    """{storage: {"ours", "plain": images a second, "ratio", "ratio_to_png"}}, medians over the rounds."""
    taken = collections.defaultdict(list)
    count = BATCHES * threads  # as many for each thread
    for turn in range(rounds):
        for name, (source, pairs) in stored.items():
            ours = our_batches(source, turn, threads)
            plain = PLAIN.batches(pairs, turn, BATCH, count + 1, threads)
            taken[name, "ours"].append(seconds_an_image(ours, count, clock))
            taken[name, "plain"].append(seconds_an_image(plain, count, clock))
    return {name: _rates(taken, name) for name in stored}


def _rates(taken: dict, name: str) -> dict:
    def ratio(against: str) -> float:
        rounds = zip(taken[name, "ours"], taken[against, "plain"], strict=True)
        return round(statistics.median(b / a for a, b in rounds), 2)

    rates = {who: round(1 / statistics.median(taken[name, who]), 2) for who in ("ours", "plain")}
    return {**rates, "ratio": ratio(name), "ratio_to_png": ratio("png")}


class Stages:
    """CPU seconds of functions by stage; what one of them spends inside another counts for the other."""

    def __init__(self):
        self.seconds = collections.Counter()
        self._inner = [0.0]

    def timed(self, function: Callable, stage: str) -> Callable:
        """The function, its time added to the stage."""

        def wrapper(*arguments, **options):
            start = time.thread_time()
            self._inner.append(0.0)
            try:
                return function(*arguments, **options)
            finally:
                seconds = time.thread_time() - start
                self.seconds[stage] += seconds - self._inner.pop()
                self._inner[-1] += seconds

        return wrapper

    @contextlib.contextmanager
    def timing(self, functions: dict[str, tuple[object, str]]):
        """functions: {stage: (owner, attribute)}"""
        with contextlib.ExitStack() as stack:
            for stage, (owner, attribute) in functions.items():
                timed = self.timed(getattr(owner, attribute), stage)
                stack.enter_context(mock.patch.object(owner, attribute, timed))
            yield


def stages_ms(stored: dict, count: int) -> dict[str, dict[str, float]]:
    """{pipeline: {stage: CPU milliseconds an image}}: medians over batches in turn, all on this thread."""
    pipelines = {
        "ours PNG": _ours(stored["png"][0]),
        "ours JPEG": _ours(stored["jpeg"][0]),
        "plain PNG": _plain(stored["png"][1]),
    }
    taken = {title: collections.defaultdict(list) for title in pipelines}
    for first in range(0, count, BATCH):
        for title, (sample, functions) in pipelines.items():
            for stage, seconds in _batch_seconds(sample, functions, first).items():
                taken[title][stage].append(1000 * seconds / BATCH)
    return {
        title: {stage: round(statistics.median(ms), 2) for stage, ms in by_stage.items()}
        for title, by_stage in taken.items()
    }


def _ours(source) -> tuple[Callable, dict[str, tuple[object, str]]]:
    def sample(index: int) -> tuple[np.ndarray, np.ndarray]:
        crop = AUGMENT.random_map(source[index % len(source)], np.random.default_rng(index))
        return crop["images"], crop["labels"]

    return sample, {
        "read": (type(source), "encoded"),
        "verify": (decode, "_check_complete"),
        "image": (decode, "decode_image"),
        "label": (decode, "decode_label"),
        "ids": (decode, "_values_to_ids"),
        "crop": (transforms, "scale_and_crop"),
        "flip": (cv2, "flip"),
    }


def _plain(pairs: list) -> tuple[Callable, dict[str, tuple[object, str]]]:
    def sample(index: int) -> tuple[np.ndarray, np.ndarray]:
        return PLAIN.sample(pairs[index % len(pairs)], np.random.default_rng(index))

    return sample, {
        "read": (PLAIN, "read"),
        "image": (PLAIN, "decode_image"),
        "label": (PLAIN, "decode_label"),
        "ids": (PLAIN, "map_label"),
        "crop": (PLAIN, "scale_pad_crop"),
        "flip": (PLAIN, "flip"),
        "normalise": (PLAIN, "normalise"),
    }


def _batch_seconds(sample: Callable, functions: dict, first: int) -> dict[str, float]:
    """{stage: CPU seconds}"""

    def batch() -> None:
        images, labels = zip(*map(sample, range(first, first + BATCH)), strict=True)
        np.stack(images), np.stack(labels)

    stages = Stages()
    with stages.timing(functions):
        stages.timed(batch, "batch")()
    return {stage: stages.seconds[stage] for stage in (*functions, "batch")}


STAGE_TITLES = {
    "read": "read the files",
    "verify": "verify that they are whole",
    "image": "decode the image",
    "label": "decode the label",
    "ids": "label ids to train ids",
    "crop": "scale, pad and crop",
    "flip": "flip",
    "normalise": "normalise, transpose",
    "batch": "stack, memory, the rest",
}


def report(result: dict) -> str:
    """Two tables of at most 80 columns."""
    lines = [f"{'images/s a core':<30} {'MB/image':>8} {'ours':>6} {'plain':>6} {'ratio':>6} {'to PNG':>7} {'goal':>5}"]
    for name, title in TITLES.items():
        row = result["rates"][name]
        lines.append(
            f"{title:<30} {result['image_mb'][name]:>8.2f} {row['ours']:>6.2f} {row['plain']:>6.2f} "
            f"{row['ratio']:>6.2f} {row['ratio_to_png']:>7.2f} {GOALS[name]:>5}"
        )
    lines += [
        "ratio: to plain on the same files; to PNG: to plain on the PNGs with one filter,",
        "and so is the goal for JPEG",
        "",
    ]
    columns = result["stages_ms"]
    lines.append(f"{'CPU ms an image':<30}" + "".join(f"{title:>16}" for title in columns))
    for stage, title in STAGE_TITLES.items():
        cells = (f"{column[stage]:>16.1f}" if stage in column else f"{'-':>16}" for column in columns.values())
        lines.append(f"{title:<30}" + "".join(cells))
    lines.append(f"{'together':<30}" + "".join(f"{sum(column.values()):>16.1f}" for column in columns.values()))
    if "clock" in result:
        threads, rates = result["clock"]["threads"], result["clock"]["rates"]
        lines += ["", f"images/s by the clock, {threads} threads of {os.cpu_count()} cores (shared: read the ratio)"]
        lines += [
            f"{title:<30} {rates[name]['ours']:>15.2f} {rates[name]['plain']:>6.2f} {rates[name]['ratio']:>6.2f}"
            for name, title in TITLES.items()
        ]
    return "\n".join(lines)


def run(folder: Path, count: int, rounds: int, threads: int) -> dict:
    """Everything, as plain JSON values."""
    stored = store(folder, count)
    cpus = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cpus)})
    cv2.setNumThreads(0)
    result = {
        "data": f"drawn: {count} street scenes with sensor grain, {SIZE_HW[1]}x{SIZE_HW[0]}, Cityscapes' layout",
        "machine": {"processor": _processor(), "cores": os.cpu_count()},
        "versions": {"python": platform.python_version()}
        | {name: metadata.version(name) for name in ("opencv-python-headless", "numpy", "grain")},
        "rounds": rounds,
        "image_mb": {
            name: round(statistics.mean(os.path.getsize(image) for image, _ in pairs) / 1e6, 2)
            for name, (_, pairs) in stored.items()
        },
        "rates": compare(stored, rounds, 1, time.process_time),
        "stages_ms": stages_ms(stored, 4 * count),
    }
    os.sched_setaffinity(0, cpus)
    if threads > 1:
        rates = compare(stored, rounds, threads, time.perf_counter)
        result["clock"] = {"threads": threads, "rates": rates}
    return result


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--images", type=int, default=12, help="how many are drawn")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, default=RESULTS)
    options = parser.parse_args()
    if min(options.rounds, options.images, options.threads) < 1:
        parser.error("--rounds, --images and --threads: expected at least 1")
    options.json.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        result = run(Path(folder), options.images, options.rounds, options.threads)
    options.json.write_text(json.dumps(result, indent=1) + "\n")
    print(f"data {result['data']}\non {result['machine']['processor']}, {options.rounds} rounds, medians\n")
    print(report(result))
    print(f"written to {options.json}")


if __name__ == "__main__":
    main()
