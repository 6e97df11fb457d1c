"""The origin of a run: its command and the versions of what it ran on."""

import contextlib
import importlib.metadata
import platform
from collections.abc import Iterable

import jax

_PACKAGES = (
    "ddrnet-jax",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "grain",
    "numpy",
)


def made_by(command: str) -> dict:
    """{"command", "devices", "versions": {name: version}}, JSON values; call it once JAX may be initialised."""
    kinds = sorted({device.device_kind for device in jax.devices()})
    found = {"python": platform.python_version()} | versions(_PACKAGES)
    return {"command": command, "devices": f"{jax.device_count()} x {', '.join(kinds)}", "versions": found}


def versions(packages: Iterable[str]) -> dict[str, str]:
    """{name: version} of those that are installed; ours is not where it runs from a copy of the sources."""
    found = {}
    for name in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
