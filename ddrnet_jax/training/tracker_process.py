"""Weights & Biases or MLflow, in a process beside the run's; see trackers.py.

It is this file, run as a script, and uses the standard library and the tracker alone. It reads pickles: what run it is,
then what to keep, and None at the end. What goes wrong it says in one line on standard output, and ends with code 1.

A run is {"id": of the workdir, "name", "config": nested, "settings": the same by dotted names, "folder": the workdir,
"mlflow_store": the address of a folder in it, "total_steps"}.
"""

import os
import pickle
import queue
import re
import signal
import sys
import threading
import time
from typing import Any, BinaryIO

_PROJECT = "ddrnet_jax"
_TAG = "ddrnet_jax_id"
_MOST_SETTINGS = 100  # that MLflow takes at once


class WeightsAndBiases:
    """WANDB_MODE, WANDB_PROJECT, WANDB_NAME and its other variables say more."""

    def __init__(self, run: dict):
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # to its maker
        import wandb

        self._wandb = wandb
        unless_set: dict[str, Any] = {"project": _PROJECT, "name": run["name"]}
        self._run = wandb.init(
            **{key: value for key, value in unless_set.items() if f"WANDB_{key.upper()}" not in os.environ},
            id=run["id"],
            resume="allow",
            dir=run["folder"],
            config=run["config"],
            allow_val_change=True,
            settings=wandb.Settings(console="off", silent=True),
        )
        self._first_step = self._run.step  # it takes none before this one

    def write_scalars(self, step: int, scalars: dict[str, float]) -> None:
        """See trackers.Tracker."""
        if step >= self._first_step:
            self._run.log(scalars, step=step)

    def write_pictures(self, step: int, pictures: dict[str, tuple[int, int, bytes]]) -> None:
        """See trackers.Tracker; a picture is (width, height, RGB bytes)."""
        if step >= self._first_step:
            shown = {name: self._wandb.Image(_image(p), file_type="jpg") for name, p in pictures.items()}
            self._run.log(shown, step=step)

    def close(self) -> None:
        """Wait until all is sent, and end the process that it has started."""
        self._run.finish()
        self._wandb.teardown()


class MLflow:
    """MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME and its other variables say more."""

    def __init__(self, run: dict):
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # or it refuses a folder
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # to its maker
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        self._metric, self._total_steps, self._step = Metric, run["total_steps"], 0
        self._client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI") or run["mlflow_store"])
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT)
        experiment = self._client.get_experiment_by_name(name)
        place = experiment.experiment_id if experiment else self._client.create_experiment(name)
        found = self._client.search_runs([place], f"tags.{_TAG} = '{run['id']}'")
        if found:
            self._id = found[0].info.run_id
            self._client.update_run(self._id, status="RUNNING")
        else:
            self._id = self._client.create_run(place, run_name=run["name"], tags={_TAG: run["id"]}).info.run_id
            settings = [Param(name, str(value)) for name, value in run["settings"].items()]
            for first in range(0, len(settings), _MOST_SETTINGS):
                self._client.log_batch(self._id, params=settings[first : first + _MOST_SETTINGS])
        # Of steps that an earlier end of the run has done: it would keep them twice.
        names = found[0].data.metrics if found else ()
        self._kept = {(n, m.step) for n in names for m in self._client.get_metric_history(self._id, n)}

    def write_scalars(self, step: int, scalars: dict[str, float]) -> None:
        """See trackers.Tracker."""
        now_ms = int(time.time() * 1000)
        named = {re.sub(r"[^\w./ -]", "_", name): value for name, value in scalars.items()}
        new = [self._metric(n, value, now_ms, step) for n, value in named.items() if (n, step) not in self._kept]
        if new:
            self._client.log_batch(self._id, metrics=new)
        self._step = step

    def write_pictures(self, step: int, pictures: dict[str, tuple[int, int, bytes]]) -> None:
        """See trackers.Tracker; a picture is (width, height, RGB bytes)."""
        for name, picture in pictures.items():
            key = re.sub(r"[^\w./ -]", "", name, flags=re.ASCII)
            self._client.log_image(self._id, _image(picture), key=key, step=step)

    def close(self) -> None:
        """Say whether the run has come to its end."""
        self._client.set_terminated(self._id, "FINISHED" if self._step == self._total_steps else "KILLED")


_KINDS: dict[str, type[WeightsAndBiases] | type[MLflow]] = {"wandb": WeightsAndBiases, "mlflow": MLflow}


def _image(picture: tuple[int, int, bytes]):
    import PIL.Image

    width, height, pixels = picture
    return PIL.Image.frombytes("RGB", (width, height), pixels)


def _serve(name: str) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):  # schedulers send them to all processes of a job
        signal.signal(number, signal.SIG_IGN)
    pipe, answer = os.fdopen(os.dup(0), "rb"), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):  # what the tracker starts must not hold the run's pipes, and what it prints is noise
        os.dup2(nothing, standard)
    messages: queue.SimpleQueue = queue.SimpleQueue()
    threading.Thread(target=_read, args=(pipe, messages), daemon=True).start()
    try:
        tracker = _KINDS[name](messages.get())
        while message := messages.get():
            method, step, values = message
            getattr(tracker, method)(step, values)
        tracker.close()
    except BaseException as e:
        os.write(answer, _one_line(e).encode("utf-8", "replace"))
        os._exit(1)  # without what it would still wait for
    os._exit(0)


def _read(pipe: BinaryIO, messages: queue.SimpleQueue) -> None:
    """The pipe is open as long as the run goes on, also after its last message."""
    try:
        while True:
            messages.put(pickle.load(pipe))
    except (EOFError, pickle.UnpicklingError):
        os._exit(1)


def _one_line(error: BaseException) -> str:
    """The reason, without passwords and keys."""
    text = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
    for name, value in os.environ.items():
        if re.search("KEY|TOKEN|PASSWORD|SECRET", name) and len(value) > 5:
            text = text.replace(value, "***")
    return re.sub(r"(?<=//)\S*@|(?<=\w)\?\S+", "", text)[:300]


if __name__ == "__main__":
    _serve(sys.argv[1])
