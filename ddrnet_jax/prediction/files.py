"""The files that a prediction leaves in a folder: masks, pictures for people, and the legend of their colours."""

from pathlib import Path

import numpy as np

from ddrnet_jax.data import pictures
from ddrnet_jax.data.errors import DataError
from ddrnet_jax.data.sets.specs import DatasetSpec


class PredictionFiles:
    """OUTPUT/masks/<stem>.png, OUTPUT/overlays/<stem>.png and OUTPUT/legend.png."""

    def __init__(self, output: str | Path, spec: DatasetSpec, *, side_by_side: bool = False):
        """
        side_by_side  overlays are image and overlay in one picture, above the legend, instead of the overlay alone

        Raises DataError if the folders cannot be made.
        """
        self.spec, self.side_by_side = spec, side_by_side
        self.masks, self.overlays = (Path(output) / name for name in ("masks", "overlays"))
        try:
            for folder in (self.masks, self.overlays):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise DataError(f"--output {output}: cannot be written ({e.strerror})") from e
        pictures.write_png(Path(output) / "legend.png", pictures.legend(spec, width=640))

    def write(self, stem: str, image: np.ndarray, mask: np.ndarray) -> None:
        """image u8[H,W,3] RGB, mask u8[H,W] train ids. Raises DataError if a file cannot be written."""
        pictures.write_png(self.masks / f"{stem}.png", mask)
        pictures.write_png(self.overlays / f"{stem}.png", self.picture(image, mask))

    def picture(self, image: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """The picture for people, u8[h,w,3] RGB; of the image's own size unless side by side."""
        overlay = pictures.overlay(image, mask, self.spec)
        return pictures.side_by_side(image, overlay, self.spec) if self.side_by_side else overlay
