"""The card beside an exported file: what the weights are of, and how they are to be used."""

from pathlib import Path

CONFIG_ENTRY = "config"  # of a .safetensors file's metadata and of a card


def card_path(weights_file: Path) -> Path:
    """The path of an exported file's card."""
    return weights_file.with_name(weights_file.name + ".json")


def score_entry(metric: str) -> str:
    """The name of a score in a file's metadata and in a card: "val/miou" -> "val_miou"."""
    return metric.replace("/", "_")
