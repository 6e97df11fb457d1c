"""Where a run's scalars and pictures go beside metrics.jsonl: TensorBoard, and what `config.trackers` names.

Weights & Biases and MLflow hang with their servers, take signals, start processes and threads, and wait at exit. So
each is in a process of its own (tracker_process.py), which the run only writes to, and which ends with the run.
"""

import contextlib
import importlib.util
import logging
import pickle
import queue
import re
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from ddrnet_jax import atomic, regular_files
from ddrnet_jax.config import ConfigError
from ddrnet_jax.config import files as config_files
from ddrnet_jax.evaluation import panels
from ddrnet_jax.runs.mirror import MLFLOW_STORE
from ddrnet_jax.runs.workdir import TRACKER_ID
from ddrnet_jax.training import tracker_process

_log = logging.getLogger(__name__)
_PATIENCE_S = 15.0  # with what trackers have yet to send when the run ends: SIGTERM often leaves 30 s for all


class Tracker(Protocol):
    """Keeps the scalars and pictures of a run."""

    def write_scalars(self, step: int, scalars: dict[str, float]) -> None:
        """Keep these values of a step, by their names."""

    def write_pictures(self, step: int, pictures: dict[str, np.ndarray]) -> None:
        """Keep pictures u8[h,w,3] RGB of a step, by their names."""

    def end(self) -> None:
        """No more will come; returns at once."""

    def close(self) -> None:
        """After `end`: let go of it."""


class TensorBoard:
    """Scalars and pictures for TensorBoard.

    Written at once: tensorboardX's own queue hangs once a full disk ends its thread.
    """

    def __init__(self, folder: Path, *, first_step: int):
        from tensorboardX import event_file_writer  # slow to import, and only training needs it
        from tensorboardX.proto import event_pb2, summary_pb2

        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        folder.mkdir(exist_ok=True)
        self._writer = event_file_writer.EventsWriter(str(folder / "events"))
        # What an earlier end of the run wrote of these steps is hidden.
        started = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._writer.write_event(self._event(wall_time=time.time(), step=first_step, session_log=started))

    def write_scalars(self, step: int, scalars: dict[str, float]) -> None:
        """See Tracker."""
        self._write(step, [self._summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()])

    def write_pictures(self, step: int, pictures: dict[str, np.ndarray]) -> None:
        """See Tracker; u8[h,w,3] RGB."""
        self._write(step, [self._summary.Value(tag=tag, image=self._image(p)) for tag, p in pictures.items()])

    def _write(self, step: int, values: list) -> None:
        self._writer.write_event(self._event(wall_time=time.time(), step=step, summary=self._summary(value=values)))
        self._writer.flush()

    def _image(self, picture: np.ndarray):
        height, width = picture.shape[:2]
        return self._summary.Image(height=height, width=width, colorspace=3, encoded_image_string=panels.jpeg(picture))

    def end(self) -> None:
        """See Tracker; all is written."""

    def close(self) -> None:
        """See Tracker."""
        self._writer.close()


class Apart:
    """A tracker in a process of its own. What goes wrong with it is one warning, and it is left out from then on."""

    def __init__(self, name: str, run: dict):
        """run is what tracker_process says. Raises OSError if no process can be started."""
        self._name = name
        self._is_late = False
        self._messages: queue.SimpleQueue = queue.SimpleQueue()
        self._messages.put(run)
        self._process = subprocess.Popen(
            [sys.executable, "-P", tracker_process.__file__, name],
            stdin=subprocess.PIPE,  # whose end tells it that this process is gone
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for this process
        )
        self._sender = threading.Thread(target=self._send, daemon=True)
        self._sender.start()

    def write_scalars(self, step: int, scalars: dict[str, float]) -> None:
        """See Tracker; returns at once."""
        self._put(("write_scalars", step, {name: float(value) for name, value in scalars.items()}))

    def write_pictures(self, step: int, pictures: dict[str, np.ndarray]) -> None:
        """See Tracker; u8[h,w,3] RGB; returns at once."""
        sized = {name: (p.shape[1], p.shape[0], p.tobytes()) for name, p in pictures.items()}
        self._put(("write_pictures", step, sized))

    def end(self) -> None:
        """See Tracker; seconds from now, what it has not sent is no longer waited for."""
        self._put(None)
        self._waits_until = time.monotonic() + _PATIENCE_S

    def close(self) -> None:
        """See Tracker."""
        self._sender.join(max(0.0, self._waits_until - time.monotonic()))
        self._is_late = self._sender.is_alive()
        self._process.kill()
        self._sender.join()

    def _put(self, message: tuple | None) -> None:
        if self._sender.is_alive():
            self._messages.put(message)

    def _send(self) -> None:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        with contextlib.suppress(OSError):  # it has ended
            is_last = False
            while not is_last:
                message = self._messages.get()
                stdin.write(pickle.dumps(message))
                stdin.flush()
                is_last = message is None
        problem = stdout.read().decode("utf-8", "replace") or "its process was ended"
        if self._process.wait():
            late = f"what it had not sent {_PATIENCE_S:g} s after the run's last step is not waited for"
            _log.warning(f"{self._name} is left out of this run: {late if self._is_late else problem}")
        for pipe in (stdin, stdout):
            with contextlib.suppress(OSError):  # what nobody has read
                pipe.close()


def require(names: Sequence[str]) -> None:
    """Raises ConfigError if the package of one of these trackers is not installed."""
    for name in names:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:  # a mere folder: wandb/, which Weights & Biases writes
            raise ConfigError(f"config.trackers: {name!r} is not installed: pip install 'ddrnet-jax[{name}]'")


def started(names: Sequence[str], workdir: Path, config: dict, total_steps: int) -> list[Tracker]:
    """The trackers of these names, at work; one that cannot be started is left out with a warning.

    config  JSON values, as a run keeps them
    """
    trackers: list[Tracker] = []
    for name in names:
        try:
            folder = workdir.resolve()
            if name == "mlflow":
                _mend_addresses(folder / MLFLOW_STORE)
            run = {
                "id": _run_id(workdir),
                "name": folder.name,
                "config": config,
                "settings": config_files.flatten(config),
                "folder": str(folder),
                "mlflow_store": (folder / MLFLOW_STORE).as_uri(),
                "total_steps": total_steps,
            }
            trackers.append(Apart(name, run))
        except (OSError, ValueError) as e:  # ValueError: a file of MLflow's that is no text
            _log.warning(f"{name} is left out of this run: {e}")
    return trackers


def _run_id(workdir: Path) -> str:
    """The name that trackers know a workdir's run by, the same each time it is resumed."""
    path = workdir / TRACKER_ID
    if path.exists() and re.fullmatch("[0-9a-f]{16}", known := regular_files.read_text(path, "replace").strip()):
        return known
    made = secrets.token_hex(8)
    atomic.write_text(path, f"{made}\n")
    return made


def _mend_addresses(store: Path) -> None:
    """MLflow knows the pictures in a folder by absolute paths: those of a workdir that has moved, or is in a bucket."""
    for path in (*store.glob("*/meta.yaml"), *store.glob("*/*/meta.yaml")):
        text = regular_files.read_text(path)
        pattern = rf"(?m)^(artifact_(?:location|uri): ).*/{MLFLOW_STORE}(?=/)"
        atomic.write_text(path, re.sub(pattern, lambda match: match[1] + store.as_uri(), text))
