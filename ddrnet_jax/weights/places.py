"""Weights as a person names them: a path, an address, or the name of those that come with the project."""

import os
from pathlib import Path

from ddrnet_jax import downloads
from ddrnet_jax.bucket import is_address
from ddrnet_jax.runs import find
from ddrnet_jax.weights import shipped

_PROGRAMS = (".onnx", ".stablehlo")


def local(place: str | Path) -> Path:
    """The path on this disk of weights that a person names.

    place   a path; an address, of a workdir, a step or a file in a bucket, or as `downloads.fetched` takes it; or a
            name of shipped.NAMES where no path is called so
    Raises  DownloadError or BucketError with one line, CheckpointError as find_step does.
    """
    text = str(place)
    if text in shipped.NAMES and not os.path.lexists(text):
        return shipped.path(text)
    if is_address(text) and not text.endswith(_PROGRAMS):
        return find.on_this_disk(text)
    if not downloads.is_address(text):
        return Path(place).expanduser()
    if (shown := downloads.shown(text)).endswith(_PROGRAMS):
        raise downloads.DownloadError(f"{shown}: no program is run from an address; download it and give the file")
    return downloads.fetched(text)
