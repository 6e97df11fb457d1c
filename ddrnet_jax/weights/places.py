"""Weights as a person names them: a path, or an address."""

from pathlib import Path

from ddrnet_jax import downloads

_PROGRAMS = (".onnx", ".stablehlo")


def local(place: str | Path) -> Path:
    """The path on this disk of weights that a person names.

    place   a path, or an address as `downloads.fetched` takes it
    Raises  DownloadError with one line.
    """
    text = str(place)
    if not downloads.is_address(text):
        return Path(place).expanduser()
    if (shown := downloads.shown(text)).endswith(_PROGRAMS):
        raise downloads.DownloadError(f"{shown}: no program is run from an address; download it and give the file")
    return downloads.fetched(text)
