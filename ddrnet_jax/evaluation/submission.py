"""Predictions of a test split whose labels only a server has: the zip that it takes, read again before it is done."""

import collections
import contextlib
import logging
import os
import re
import struct
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import cast

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from ddrnet_jax import regular_files
from ddrnet_jax.build import Experiment
from ddrnet_jax.config import ConfigError
from ddrnet_jax.data import pipeline
from ddrnet_jax.data.errors import DataError
from ddrnet_jax.data.labels import IGNORE
from ddrnet_jax.data.sets import cityscapes
from ddrnet_jax.data.sets.specs import DatasetSpec, HiddenTest
from ddrnet_jax.data.sources import Images
from ddrnet_jax.errors import UserError
from ddrnet_jax.evaluation.evaluate import check_same_classes, other_network
from ddrnet_jax.evaluation.views import View, prediction_program
from ddrnet_jax.outputs import Outputs
from ddrnet_jax.runs.checkpoints import Loaded
from ddrnet_jax.runtime import devices
from ddrnet_jax.weights import loading

# What the server finds a prediction by: CITY_SEQUENCE_FRAME*.png. Source: cityscapesscripts, getPrediction.
_NAME = re.compile(r"[A-Za-z-]+_\d{6}_\d{6}_leftImg8bit\.png")
_PNG = b"\x89PNG\r\n\x1a\n"
_EIGHT_BIT_GREY = (8, 0)
_BATCHES_IN_FLIGHT = 1
_log = logging.getLogger(__name__)


class SubmissionError(UserError):
    """A zip is not what the test server takes; the message says what is the matter with which file of it."""


def submit(experiment: Experiment, checkpoint: str | Path, output: str | Path) -> int:
    """Write the zip of a checkpoint's predictions of the test split, seen as in evaluation; how many it holds.

    OUTPUT appears when all of it was written, read again and found right; one of ours that was there is replaced.
    Raises ConfigError, DataError, CheckpointError, OutputError or SubmissionError with one line.
    """
    spec, output = experiment.spec, Path(output)
    source, size_hw = _test_images(experiment), _size_hw(spec)
    if output.suffix != ".zip" or output.is_dir():
        raise SubmissionError(f"--output {output}: expected the name of a file that ends in .zip")
    Outputs(output.parent).require([output.name])
    loaded = loading.load_weights(checkpoint)
    check_same_classes(experiment, checkpoint, loaded.experiment)
    for line in other_network(experiment, loaded.experiment):
        _log.warning(line)
    _log.info("compiling for {}x{} (HxW) images".format(*size_hw))
    sizes_hw = {os.path.basename(path): size_hw for path in source.paths}
    write(output, _masks(experiment, loaded, source), sizes_hw, values=set(label_values(spec).tolist()))
    return len(sizes_hw)


def _size_hw(spec: DatasetSpec) -> tuple[int, int]:
    return cast(HiddenTest, spec.hidden_test).size_hw  # _test_images lets no other data set pass


def label_values(spec: DatasetSpec) -> np.ndarray:
    """u8[C]: what the data set's own label files call each class."""
    by_train_id = {train_id: value for value, train_id in spec.values.items() if train_id != IGNORE}
    return np.array([by_train_id[i] for i in range(spec.num_classes)], np.uint8)


def write(
    output: Path, masks: Iterable[tuple[str, np.ndarray]], sizes_hw: Mapping[str, tuple[int, int]], values: set[int]
) -> None:
    """Write (name, u8[H,W]) as 8-bit PNGs into a zip, check it as `validate` does, and only then give it its name.

    Raises SubmissionError or OutputError; then OUTPUT is as it was before.
    """
    with Outputs(output.parent).replacing(output.name) as partial:
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:  # PNGs get no smaller
            for name, mask in masks:
                archive.writestr(name, cv2.imencode(".png", mask)[1].tobytes())
        validate(partial, sizes_hw, values)


def validate(path: Path, sizes_hw: Mapping[str, tuple[int, int]], values: set[int]) -> None:
    """Raises SubmissionError unless the zip has one mask for each image, 8-bit grey, of its size, with these values.

    sizes_hw  {name in the zip: pixels of the image}
    values    that the server evaluates
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            odd = sorted((collections.Counter(names) - collections.Counter(list(sizes_hw))).elements())
            absent = sorted(set(sizes_hw) - set(names))
            if odd or absent:
                what = f"no prediction of {absent[0]}" if absent else f"{odd[0]}, which is no test image or there twice"
                raise SubmissionError(f"the zip has {len(names)} files, expected {len(sizes_hw)}; it has {what}")
            for name in tqdm(names, desc="reading again", unit="mask", disable=None, ncols=80):
                _validate_mask(archive.read(name), name, sizes_hw[name], values)
    except zipfile.BadZipFile as e:
        raise SubmissionError(f"the zip cannot be read again ({e}); is the disk full or failing?") from e


def _validate_mask(data: bytes, name: str, size_hw: tuple[int, int], values: set[int]) -> None:
    header = _png_header(data)
    if header is None or header[2:] != _EIGHT_BIT_GREY:
        raise SubmissionError(f"{name}: not an 8-bit PNG of one channel")
    if header[:2] != tuple(size_hw):
        raise SubmissionError(f"{name}: {header[1]}x{header[0]} (WxH), but its image is {size_hw[1]}x{size_hw[0]}")
    mask = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if mask is None:
        raise SubmissionError(f"{name}: a damaged PNG")
    wrong = set(np.flatnonzero(np.bincount(mask.ravel(), minlength=256)).tolist()) - values
    if wrong:
        raise SubmissionError(f"{name}: has the value {min(wrong)}, which is no label id that is evaluated")


def _test_images(experiment: Experiment) -> Images:
    """The test images, all of them, of the right names and sizes. Reads only their headers."""
    hidden = experiment.spec.hidden_test
    if hidden is None:
        raise ConfigError(
            f"config.data.name: {experiment.data_name!r} given, expected 'cityscapes', whose test labels only a "
            "server has"
        )
    if experiment.storage != "folder" or not experiment.data_root:
        raise ConfigError(
            f"config.data.root: {experiment.data_root!r} with data.storage={experiment.storage!r} given, expected the "
            "folder with leftImg8bit/test and data.storage='folder'"
        )
    folder = Path(experiment.data_root) / "leftImg8bit" / hidden.split
    paths = cityscapes.images(experiment.data_root, hidden.split)
    if len(paths) != hidden.images:
        raise DataError(
            f"{folder}: has {len(paths)} images, the test split has {hidden.images}; unzip leftImg8bit_trainvaltest.zip"
        )
    seen = set()
    for path in paths:
        if not _NAME.fullmatch(path.name) or path.name in seen:
            raise DataError(f"{path}: expected CITY_SEQUENCE_FRAME_leftImg8bit.png, each once; unzip the release again")
        seen.add(path.name)
        with regular_files.opened(path) as file:
            header = _png_header(file.read(26))
        if header is None or header[:2] != hidden.size_hw:
            found = "no PNG" if header is None else f"{header[1]}x{header[0]}"
            raise DataError(
                f"{path}: {found}, expected {hidden.size_hw[1]}x{hidden.size_hw[0]} (WxH), the size that the server "
                "compares with; unzip the release again"
            )
    return Images(paths)


def _masks(experiment: Experiment, loaded: Loaded, source: Images) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (name, u8[H,W] label values) of every image; the next batch is computed meanwhile."""
    mesh = devices.data_mesh()
    batch_size = -(-experiment.eval_batch_size // mesh.size) * mesh.size
    table = jnp.asarray(label_values(experiment.spec))
    program = prediction_program(
        loaded.graphdef,
        lambda predictions: table[predictions],
        View(**experiment.view),
        by_batch=devices.by_batch(mesh),
        out=devices.by_batch(mesh),
    )
    weights = jax.device_put((loaded.params, loaded.batch_stats), devices.replicated(mesh))
    with contextlib.closing(pipeline.samples_in_order(source, num_threads=experiment.num_threads)) as samples:
        samples = tqdm(samples, total=len(source), unit="image", disable=None, ncols=80)
        in_flight: collections.deque[tuple[list[str], jax.Array]] = collections.deque()
        for names, images in _batches(samples, batch_size, _size_hw(experiment.spec)):
            batch = devices.put_batch({"images": images}, mesh)
            in_flight.append((names, program(weights, batch["images"])))
            if len(in_flight) > _BATCHES_IN_FLIGHT:
                names, masks = in_flight.popleft()
                yield from zip(names, np.asarray(masks), strict=False)  # rows that only fill the batch have no name
        for names, masks in in_flight:
            yield from zip(names, np.asarray(masks), strict=False)


def _batches(samples: Iterable[dict], batch_size: int, size_hw: tuple[int, int]) -> Iterator[tuple[list, np.ndarray]]:
    """(names, u8[B,H,W,3]) of images of one size; the last batch is filled with black images."""
    names: list[str] = []
    images = np.zeros((batch_size, *size_hw, 3), np.uint8)
    for sample in samples:
        images[len(names)] = sample["image"]
        names.append(os.path.basename(sample["name"]))
        if len(names) == batch_size:
            yield names, images
            names, images = [], np.zeros_like(images)
    if names:
        yield names, images


def _png_header(data: bytes) -> tuple[int, int, int, int] | None:
    """(height, width, bits, colour type), None of what is no PNG."""
    if data[:8] != _PNG or len(data) < 26:
        return None
    width, height, bits, color_type = struct.unpack_from(">IIBB", data, 16)
    return height, width, bits, color_type
