"""Weights that come with the project, by name: each in a folder of its own, beside its card and its page."""

from pathlib import Path

NAMES = {"camvid_23_slim": "DDRNet-23_slim of CamVid's streets, 11 classes, for research"}
DEFAULT = "camvid_23_slim"


def path(name: str) -> Path:
    """The weights file of one of NAMES."""
    return Path(__file__).with_name(name) / "model.safetensors"
