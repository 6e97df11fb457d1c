"""What the training pipelines of PyTorch forks of DDRNet do with an image and its label, for input_pipeline.py.

Written by us after their way: decode, compare with each label id in turn, resize the whole image, pad, crop, normalise
in float32 on the host, transpose, flip, stack. Two of their copies are left out. The decoder is the one that ours uses.
"""

import concurrent.futures
import itertools
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from ddrnet_jax.data.labels import IGNORE
from ddrnet_jax.data.sets.cityscapes import SPEC as CITYSCAPES

_MEAN, _STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]  # lists, so NumPy computes with float64 constants


class PlainPipeline:
    """Each method but the last two is a stage; scale, place and flip are random."""

    def __init__(self, crop_hw: tuple[int, int], scale_range: tuple[float, float]):
        self.crop_hw, self.scale_range = crop_hw, scale_range

    def read(self, path: str) -> bytes:
        """The file's bytes."""
        return Path(path).read_bytes()

    def decode_image(self, data: bytes) -> np.ndarray:
        """u8[H,W,3] BGR"""
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)

    def decode_label(self, data: bytes) -> np.ndarray:
        """u8[H,W] label ids"""
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)

    def map_label(self, label: np.ndarray) -> np.ndarray:
        """u8[H,W] label ids -> train ids"""
        given, label = label, label.copy()
        for value, train_id in CITYSCAPES.values.items():
            label[given == value] = train_id
        return label

    def scale_pad_crop(self, image: np.ndarray, label: np.ndarray, rng: np.random.Generator):
        """The whole image and label resized, padded where they are too small, then cut."""
        scale = rng.uniform(*self.scale_range)
        size = tuple(round(n * scale) for n in image.shape[1::-1])
        image = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
        label = cv2.resize(label, size, interpolation=cv2.INTER_NEAREST)
        below, right = (max(c - n, 0) for c, n in zip(self.crop_hw, label.shape, strict=True))
        if below or right:
            image = cv2.copyMakeBorder(image, 0, below, 0, right, cv2.BORDER_CONSTANT, value=(0, 0, 0))
            label = cv2.copyMakeBorder(label, 0, below, 0, right, cv2.BORDER_CONSTANT, value=IGNORE)
        top, left = (int(rng.integers(n - c + 1)) for n, c in zip(label.shape, self.crop_hw, strict=True))
        window = slice(top, top + self.crop_hw[0]), slice(left, left + self.crop_hw[1])
        return image[window], label[window]

    def normalise(self, image: np.ndarray) -> np.ndarray:
        """u8[h,w,3] BGR -> f32[3,h,w] RGB, a view of f32[h,w,3]"""
        image = image.astype(np.float32)[:, :, ::-1]
        image = image / 255.0
        image -= _MEAN
        image /= _STD
        return image.transpose(2, 0, 1)

    def flip(self, image: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Left and right exchanged: views, which `np.stack` then copies."""
        return image[:, :, ::-1], label[:, ::-1]

    def sample(self, pair: tuple[str, str], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Paths of image and label -> f32[3,h,w], i32[h,w]"""
        image, label = self.decode_image(self.read(pair[0])), self.decode_label(self.read(pair[1]))
        image, label = self.scale_pad_crop(image, self.map_label(label), rng)
        image, label = self.normalise(image), label.astype(np.int32)
        return self.flip(image, label) if rng.random() < 0.5 else (image, label)

    def batches(
        self, pairs: list[tuple[str, str]], seed: int, batch_size: int, count: int, threads: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """`count` times (f32[B,3,h,w], i32[B,h,w]), the pairs in turn."""
        jobs = [
            (pairs[index % len(pairs)], np.random.default_rng(index))
            for index in range(seed * batch_size * count, (seed + 1) * batch_size * count)
        ]
        with concurrent.futures.ThreadPoolExecutor(threads) as pool:
            in_pool = pool.map(self.sample, *zip(*jobs, strict=True)) if threads > 1 else None
            samples = in_pool or itertools.starmap(self.sample, jobs)
            for _ in range(count):
                images, labels = zip(*itertools.islice(samples, batch_size), strict=True)
                yield np.stack(images), np.stack(labels)
