"""Image files to masks and overlays: decoded ahead of the network, drawn and written behind it."""

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from ddrnet_jax import memory
from ddrnet_jax.data import decode, files
from ddrnet_jax.data.errors import DataError
from ddrnet_jax.data.remarks import Remarks
from ddrnet_jax.prediction.files import PredictionFiles
from ddrnet_jax.prediction.pipeline import behind, in_order, together

_log = logging.getLogger(__name__)
_THREADS = 2  # that decode, and as many that draw: OpenCV's own are added


class _Read(NamedTuple):
    """An image file that was read.

    image    u8[H,W,3] RGB; None where it is to be decoded alone, or cannot be
    problem  what makes it unreadable
    """

    stem: str
    path: Path
    data: bytes
    image: np.ndarray | None = None
    problem: Exception | None = None


def predict_images(
    predictor: Callable[[np.ndarray], np.ndarray],
    paths: Mapping[str, Path],
    results: PredictionFiles,
    *,
    at_a_time: int = 1,
) -> int:
    """Write masks and overlays of the images of these stems, in their order.

    predictor  u8[H,W,3] RGB -> u8[H,W] train ids
    at_a_time  images that it is given together, in threads of their own
    Returns how many there were.
    Raises DataError at the end if images could not be read, with their names.
    """
    broken: list[str] = []
    remarks = Remarks(results.spec)

    def write(entry: tuple[_Read, Future]) -> None:
        read, drawn = entry
        results.write_encoded(read.stem, *drawn.result())
        remarks.add(read.data, str(read.path))

    def read_one(entry: tuple[str, Path]) -> _Read:
        return _read(*entry, results.spec.value_range)

    def predict_one(read: _Read) -> tuple[_Read, Future | None]:
        """(what was read, its files as they are drawn), or None for these beside a problem."""
        try:
            if read.problem:
                raise read.problem
            image = read.image
            if image is None:
                writing.wait()  # so that nothing else is in the memory, but what is predicted together
                image = decode.decode_image(read.data, str(read.path), results.spec.value_range)
            return read._replace(image=None), drawers.submit(results.encoded, image, predictor(image))
        except Exception as e:
            if not isinstance(e, DataError) and not memory.is_out_of_memory(e):
                raise
            return read._replace(problem=e), None

    with (
        ThreadPoolExecutor(_THREADS) as decoders,
        ThreadPoolExecutor(_THREADS) as drawers,
        behind(write) as writing,
        together(predict_one, in_order(decoders, read_one, paths.items()), at_a_time) as predicted,
    ):
        for read, drawn in tqdm(predicted, total=len(paths), unit="image", disable=None, ncols=80):
            if drawn:
                writing.put((read, drawn))
            else:
                fits = isinstance(read.problem, DataError)
                broken.append(str(read.problem) if fits else f"{read.path}: does not fit into memory; cut or shrink it")
    for line in remarks.lines():
        _log.warning(line)
    if broken:
        raise DataError(f"{len(broken)} of {len(paths)} images were left out:\n  " + "\n  ".join(broken))
    return len(paths)


def _read(stem: str, path: Path, value_range: tuple[float, ...]) -> _Read:
    try:
        data = files.read_file(path)
        image = None if decode.is_large(data) else decode.decode_image(data, str(path), value_range)
    except Exception as e:
        return _Read(stem, path, b"", problem=e)
    return _Read(stem, path, data, image)
