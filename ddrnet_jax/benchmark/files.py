"""The image that is measured, and the way from a PNG file to the PNG file of its mask."""

import functools
from pathlib import Path

import numpy as np

from ddrnet_jax import regular_files
from ddrnet_jax.benchmark.timing import Program
from ddrnet_jax.data import decode, pictures
from ddrnet_jax.data.files import read_file
from ddrnet_jax.data.scenes import scenes
from ddrnet_jax.text import size


@functools.lru_cache(maxsize=4)
def image_to_measure(size_hw: tuple[int, int]) -> np.ndarray:
    """u8[H,W,3], a drawn street scene, always the same"""
    return scenes.draw_scene(0, 0, size_hw)[0]


def write_image(folder: Path, size_hw: tuple[int, int]) -> Path:
    """The PNG file of image_to_measure."""
    path = folder / f"{size(size_hw)}.png"
    if not path.exists():
        regular_files.write(path, pictures.png(image_to_measure(size_hw)))
    return path


def file_program(masks: Program, path: Path) -> Program:
    """Read and decode, predict, encode and write, as `predict` does without its overlays.

    masks  of one image; what it starts takes u8[1,H,W,3] and returns u8[1,H,W]
    """
    output = path.with_name("mask.png")

    def start() -> None:
        image = decode.decode_image(read_file(path), str(path))
        regular_files.write(output, pictures.png(masks.start(image[None])[0]))

    return masks._replace(start=start)
