"""Weights as a person names them: a path, an address, or the name of those that come with the project."""

import os
from pathlib import Path

from ddrnet_jax import downloads
from ddrnet_jax.weights import shipped

_PROGRAMS = (".onnx", ".stablehlo")


def local(place: str | Path) -> Path:
    """The path on this disk of weights that a person names.

    place   a path, an address as `downloads.fetched` takes it, or one of shipped.NAMES where no path is called so
    Raises  DownloadError with one line.
    """
    text = str(place)
    if text in shipped.NAMES and not os.path.lexists(text):
        return shipped.path(text)
    if not downloads.is_address(text):
        return Path(place).expanduser()
    if (shown := downloads.shown(text)).endswith(_PROGRAMS):
        raise downloads.DownloadError(f"{shown}: no program is run from an address; download it and give the file")
    return downloads.fetched(text)
