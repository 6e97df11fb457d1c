"""metrics.jsonl: its lines read and cut, and the names of the scores in it."""

import json
import math
from pathlib import Path

from ddrnet_jax import atomic

METRICS_FILE = "metrics.jsonl"
# What the best of a run is best by.
SCORES = {"segmentation": "val/miou", "classification": "val/top1"}


def series(lines: list[dict], name: str) -> tuple[list[int], list[float]]:
    """(steps, values) of the lines that have a finite number of this name."""
    pairs = [(line["step"], float(line[name])) for line in lines if is_number(line.get(name))]
    return [step for step, _ in pairs], [value for _, value in pairs]


def not_finite(lines: list[dict], name: str) -> list[int]:
    """The steps whose value of this name is there and is no finite number."""
    return [line["step"] for line in lines if name in line and not is_number(line[name])]


def is_number(value: object) -> bool:
    """True if a value of a line is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def read_lines(workdir: Path) -> list[dict]:
    """The complete lines of metrics.jsonl; none if there is no such file."""
    lines = []
    path = workdir / METRICS_FILE
    for text in path.read_text(errors="replace").splitlines() if path.is_file() else ():
        try:
            line = json.loads(text)
        except ValueError:  # the line that a kill cut short
            continue
        if isinstance(line, dict) and type(line.get("step")) is int:
            lines.append(line)
    return lines


def drop_later_lines(path: Path, last_step: int) -> int:
    """Keep the complete lines up to `last_step`; those after it will be written again.

    Returns the last step with an evaluation line, 0 if there is none.
    """
    kept, last_evaluation = [], 0
    for line in path.read_text(errors="replace").splitlines() if path.exists() else ():
        try:
            values = json.loads(line)
            if values["step"] <= last_step:
                kept.append(line + "\n")
                is_evaluation = any(name.startswith("val/") for name in values)
                last_evaluation = values["step"] if is_evaluation else last_evaluation
        except (ValueError, KeyError, TypeError):  # the line that a kill cut short
            continue
    atomic.write_text(path, "".join(kept))
    return last_evaluation
