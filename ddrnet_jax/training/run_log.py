"""What a run writes for people: metrics.jsonl, TensorBoard scalars, a progress bar."""

import json
import os
import sys
from pathlib import Path

from tqdm import tqdm

from ddrnet_jax.evaluation.metrics import Accuracy, Scores

METRICS_FILE = "metrics.jsonl"


class RunLog:
    """The one writer of a workdir's metrics; lines beyond `resumed_step` are dropped on opening."""

    def __init__(self, workdir: Path, *, resumed_step: int, total_steps: int):
        from tensorboardX import SummaryWriter  # slow to import, and only training needs it

        self._path = workdir / METRICS_FILE
        # The last step that was evaluated, 0 before the first.
        self.last_evaluation = _drop_later_lines(self._path, resumed_step)
        self._file = self._path.open("a")
        self._tensorboard = SummaryWriter(str(workdir / "tensorboard"), purge_step=resumed_step + 1)
        self._bar = None
        if sys.stderr.isatty():
            self._bar = tqdm(
                total=total_steps,
                initial=resumed_step,
                unit="step",
                dynamic_ncols=True,
                bar_format="{percentage:3.0f}% {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}] {bar}",
            )
        self._total_steps = total_steps

    def train(self, step: int, values: dict[str, float], seconds_left: float) -> None:
        """One training line: loss, learning_rate, images_per_s, ..."""
        self._write(step, values)
        text = f"loss {values['loss']:.4f}, {values['images_per_s']:.1f} images/s"
        if self._bar is not None:
            self._bar.set_postfix_str(text)
        else:
            minutes, seconds = divmod(round(seconds_left), 60)
            self.say(f"step {step}/{self._total_steps}  {text}, {minutes}:{seconds:02d} left")

    def advance(self) -> None:
        """One more step was dispatched."""
        if self._bar is not None:
            self._bar.update()

    def evaluation(self, step: int, result: Scores | Accuracy, classes: tuple[str, ...]) -> None:
        """One evaluation line: val/miou, val/iou/<class>, ... or val/top1, val/top5, as fractions."""
        self._write(step, result.values(classes))
        self.say(f"step {step}  {result.line()}")

    def say(self, message: str) -> None:
        """Print a line without breaking the progress bar."""
        if self._bar is not None:
            self._bar.write(message, file=sys.stderr)
        else:
            print(message, file=sys.stderr, flush=True)

    def close(self) -> None:
        self._file.close()
        self._tensorboard.close()
        if self._bar is not None:
            self._bar.close()

    def _write(self, step: int, values: dict[str, float]) -> None:
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        for name, value in values.items():
            tag = name if "/" in name else f"train/{name}"
            self._tensorboard.add_scalar(tag, value, step)


def _drop_later_lines(path: Path, last_step: int) -> int:
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
    replacement = path.with_suffix(".tmp")
    replacement.write_text("".join(kept))
    os.replace(replacement, path)
    return last_evaluation
