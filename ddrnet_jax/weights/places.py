"""Weights as a person names them: a path, or an address."""

from pathlib import Path

from ddrnet_jax import downloads
from ddrnet_jax.runs import find
from ddrnet_jax.runs.bucket import is_address

_PROGRAMS = (".onnx", ".stablehlo")


def local(place: str | Path) -> Path:
    """The path on this disk of weights that a person names.

    place   a path, or an address: of a workdir, a step or a file in a bucket, or what `downloads.fetched` takes
    Raises  DownloadError or BucketError with one line, CheckpointError as find_step does.
    """
    text = str(place)
    if is_address(text) and not text.endswith(_PROGRAMS):
        return find.on_this_disk(text)
    if not downloads.is_address(text):
        return Path(place).expanduser()
    if (shown := downloads.shown(text)).endswith(_PROGRAMS):
        raise downloads.DownloadError(f"{shown}: no program is run from an address; download it and give the file")
    return downloads.fetched(text)
