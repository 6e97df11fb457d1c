"""metrics.jsonl: its lines read and cut, and the names of the scores in it."""

import json
from collections.abc import Iterator
from pathlib import Path

from ddrnet_jax import atomic, regular_files

METRICS_FILE = "metrics.jsonl"
_BEYOND = 1e300  # what is further out is no number that training wrote, nor one to draw
# What the best of a run is best by.
SCORES = {"segmentation": "val/miou", "classification": "val/top1"}


def series(lines: list[dict], name: str) -> tuple[list[int], list[float]]:
    """(steps, values) of the lines that have a finite number of this name."""
    pairs = [(line["step"], float(line[name])) for line in lines if is_number(line.get(name))]
    return [step for step, _ in pairs], [value for _, value in pairs]


def training_time(lines: list[dict], batch_size: int) -> tuple[float, int]:
    """(seconds, images) of the logged steps; compilation, evaluations and saves are not in them."""
    seconds, previous = 0.0, 0
    for step, rate in zip(*series(lines, "images_per_s"), strict=True):
        seconds += (step - previous) * batch_size / rate if rate > 0 else 0.0
        previous = step
    return seconds, previous * batch_size


def not_finite(lines: list[dict], name: str) -> list[int]:
    """The steps whose value of this name is there and is no finite number."""
    return [line["step"] for line in lines if name in line and not is_number(line[name])]


def is_number(value: object) -> bool:
    """True if a value of a line is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -_BEYOND < value < _BEYOND


def read_lines(workdir: Path) -> list[dict]:
    """The complete lines of metrics.jsonl; none if there is no such file."""
    return [values for _, values in _lines(workdir / METRICS_FILE)]


def drop_later_lines(path: Path, last_step: int) -> int:
    """Keep the complete lines up to `last_step`; those after it will be written again.

    Returns the last step with an evaluation line, 0 if there is none.
    """
    kept = [(text, values) for text, values in _lines(path) if values["step"] <= last_step]
    evaluations = [values["step"] for _, values in kept if any(name.startswith("val/") for name in values)]
    atomic.write_text(path, "".join(f"{text}\n" for text, _ in kept))
    return evaluations[-1] if evaluations else 0


def _lines(path: Path) -> Iterator[tuple[str, dict]]:
    """Yields each complete line and its values, of which "step" is a step's number."""
    for text in regular_files.read_text(path, "replace").splitlines() if path.exists() else ():
        try:
            values = json.loads(text)
        except (ValueError, RecursionError):  # the line that a kill cut short
            continue
        has_step = isinstance(values, dict) and type(step := values.get("step")) is int and 0 <= step < 2**31
        if has_step and not any(isinstance(value, dict | list) and value for value in values.values()):
            yield text, values
