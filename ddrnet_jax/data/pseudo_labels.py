"""The folder that holds pseudo-labelled frames: images/pseudo, labels/pseudo, and a card that says what made them."""

import json
from pathlib import Path

from ddrnet_jax import regular_files
from ddrnet_jax.data.errors import DataError
from ddrnet_jax.outputs import Outputs

SPLIT = "pseudo"
CARD = "pseudo_labels.json"


def write_card(outputs: Outputs, card: dict) -> None:
    """Write the card: plain JSON values, "classes" among them, the names by train id. Raises OutputError."""
    outputs.write(CARD, f"{json.dumps(card, indent=2)}\n".encode())


def classes_of(root: str | Path) -> tuple[str, ...]:
    """The names of the classes of the masks in such a folder. Raises DataError if it is none."""
    path = Path(root) / CARD
    try:
        return tuple(map(str, json.loads(regular_files.read_text(path))["classes"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as e:
        raise DataError(f"{path}: cannot be read; expected a folder that --mode pseudo_label has written") from e
