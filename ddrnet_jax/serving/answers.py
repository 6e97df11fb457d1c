"""The bytes of an image file -> its mask, as `predict` writes it, and what else a page shows of it."""

import base64
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from ddrnet_jax import memory
from ddrnet_jax.data import decode, headers, pictures
from ddrnet_jax.data.errors import DataError, UnreadKind
from ddrnet_jax.prediction.segmenter import Segmenter
from ddrnet_jax.serving.errors import Refused

MOST_PIXELS = 2**25  # beyond it a picture may not fit beside the network
_KINDS = "PNG, JPEG, WebP, BMP, GIF, TIFF and PPM are read"


class Answer(NamedTuple):
    """A predicted image.

    mask_png  the file of its mask, u8[H,W] train ids
    shares    of the pixels, by class
    times_ms  by stage: decode, network, encode
    """

    mask_png: bytes
    size_hw: tuple[int, int]
    shares: dict[str, float]
    times_ms: dict[str, float]

    def as_json(self, engine: str) -> dict:
        """For programs; `mask` is a PNG in base64."""
        return {
            "height": self.size_hw[0],
            "width": self.size_hw[1],
            "engine": engine,
            "milliseconds": {stage: round(ms, 2) for stage, ms in self.times_ms.items()},
            "shares": self.shares,
            "mask": base64.b64encode(self.mask_png).decode(),
        }


def answer(segmenter: Segmenter, data: bytes) -> Answer:
    """Decode, predict, encode. Raises Refused for what is no image, is damaged, or is too large."""
    times_ms: dict[str, float] = {}
    try:
        with _timed(times_ms, "decode"):
            image = _decoded(data, segmenter.spec.value_range)
        with _timed(times_ms, "network"):
            mask = segmenter.predict(image)
        with _timed(times_ms, "encode"):
            mask_png = pictures.png(mask)
    except Exception as e:
        if not memory.is_out_of_memory(e):
            raise
        raise Refused(413, "the image does not fit into the server's memory; cut or shrink it") from e
    counts = np.bincount(mask.ravel(), minlength=len(segmenter.classes))
    shares = {name: count / mask.size for name, count in zip(segmenter.classes, counts.tolist(), strict=False)}
    return Answer(mask_png, mask.shape, shares, times_ms)


def _decoded(data: bytes, value_range: tuple[float, ...]) -> np.ndarray:
    """u8[H,W,3] RGB; the header is believed before anything is decoded, so it has to say the size."""
    if not data:
        raise Refused(400, "nothing was sent, expected an image file")
    size_hw = headers.size_hw(data)
    if size_hw is None:
        raise Refused(415, f"no image file that is read, or cut short; {_KINDS}")
    height, width = size_hw
    if height * width > MOST_PIXELS:
        raise Refused(413, f"the image has {width}x{height} pixels (WxH), at most {MOST_PIXELS:,} are taken; shrink it")
    try:
        return decode.decode_image(data, "image", value_range)
    except DataError as e:
        raise Refused(415 if isinstance(e, UnreadKind) else 400, str(e)) from e


@contextmanager
def _timed(times_ms: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    times_ms[stage] = 1000 * (time.perf_counter() - start)
