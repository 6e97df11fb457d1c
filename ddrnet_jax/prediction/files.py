"""The files that a prediction leaves in a folder: masks, pictures for people, and the legend of their colours."""

from collections.abc import Iterable

import numpy as np

from ddrnet_jax.data import pictures
from ddrnet_jax.data.sets.specs import DatasetSpec
from ddrnet_jax.outputs import Outputs

LEGEND, SAMPLES = "legend.png", "samples.png"


def mask_name(stem: str, suffix: str = ".png") -> str:
    """The file of a mask below OUTPUT."""
    return f"masks/{stem}{suffix}"


def overlay_name(stem: str, suffix: str = ".png") -> str:
    """The file of an overlay below OUTPUT."""
    return f"overlays/{stem}{suffix}"


def names_of(stems: Iterable[str]) -> list[str]:
    """The files of images of these stems, below OUTPUT, and the legend."""
    return [LEGEND, *(name(stem) for stem in stems for name in (mask_name, overlay_name))]


class PredictionFiles:
    """OUTPUT/masks/<stem>.png, OUTPUT/overlays/<stem>.png and OUTPUT/legend.png."""

    def __init__(self, outputs: Outputs, spec: DatasetSpec, *, side_by_side: bool = False):
        """
        side_by_side  overlays are image and overlay in one picture, above the legend, instead of the overlay alone

        Raises OutputError if the legend cannot be written.
        """
        self.outputs, self.spec, self.side_by_side = outputs, spec, side_by_side
        outputs.write(LEGEND, pictures.png(pictures.legend(spec, width=640)))

    def write(self, stem: str, image: np.ndarray, mask: np.ndarray) -> None:
        """image u8[H,W,3] RGB, mask u8[H,W] train ids. Raises OutputError if a file cannot be written."""
        self.write_encoded(stem, *self.encoded(image, mask))

    def encoded(self, image: np.ndarray, mask: np.ndarray) -> tuple[bytes, bytes]:
        """The files' bytes, of the mask and of the overlay: image u8[H,W,3] RGB, mask u8[H,W] train ids."""
        return pictures.png(mask), pictures.png(self.picture(image, mask), is_photo=True)

    def write_encoded(self, stem: str, mask_png: bytes, overlay_png: bytes) -> None:
        """Raises OutputError if a file cannot be written."""
        self.outputs.write(mask_name(stem), mask_png)
        self.outputs.write(overlay_name(stem), overlay_png)

    def picture(self, image: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """The picture for people, u8[h,w,3] RGB; of the image's own size unless side by side."""
        overlay = pictures.overlay(image, mask, self.spec)
        return pictures.side_by_side(image, overlay, self.spec) if self.side_by_side else overlay
