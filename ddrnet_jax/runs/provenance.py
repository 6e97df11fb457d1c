"""The origin of a run: its command and the versions of what it ran on."""

import importlib.metadata
import platform

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
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # run from a copy of the sources
            continue
    return {"command": command, "devices": f"{jax.device_count()} x {', '.join(kinds)}", "versions": versions}
