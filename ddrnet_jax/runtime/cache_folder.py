"""The user's cache folder, for what can be made again: compiled programs, exported networks. Loads no JAX."""

import os
from pathlib import Path

VARIABLE = "DDRNET_JAX_CACHE_DIR"


def made(name: str) -> Path | None:
    """A folder of this name below $DDRNET_JAX_CACHE_DIR, else ~/.cache/ddrnet_jax, readable by the user alone.

    Returns None where the variable says "off", the folder cannot be made, or it is someone else's.
    """
    setting = os.environ.get(VARIABLE, "")
    if setting == "off":
        return None
    try:
        folder = (Path(setting) if setting else _users()) / name
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.chmod(0o700)  # programs in it are run: nobody else may write them. Fails on another user's folder
    except (OSError, RuntimeError):  # no home, or a read-only one
        return None
    return folder


def _users() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ddrnet_jax"
