"""One process of a run in the tests: `python process_worker.py JOB`, JOB in JSON; see test_processes.py.

The repository and its folder `tests` have to be in PYTHONPATH.
"""

import hashlib
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
import tiny
from flax import nnx

from ddrnet_jax import main as main_lib
from ddrnet_jax.data.errors import DataError
from ddrnet_jax.runtime import compilation, devices, joining, processes


def samples_of(batch):
    """The hash of each row's image and label."""
    return [
        hashlib.sha256(image.tobytes() + label.tobytes()).hexdigest()[:16]
        for image, label in zip(batch["images"], batch["labels"], strict=True)
    ]


def command_line(job):
    """The command line with the smallest network, its batches recorded and a fault at a step of one process."""
    from ddrnet_jax.evaluation import metrics
    from ddrnet_jax.training import loop

    tiny.use()
    records = Path(job["record"])
    put_batch, scores = devices.put_batch, metrics.scores
    count = 0

    def record(line):
        with records.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def recorded_put_batch(batch, mesh):
        nonlocal count
        count += 1
        if count == job.get("fail_at"):
            fail(job["fault"])
        record({"samples": samples_of(batch)})
        return put_batch(batch, mesh)

    def recorded_scores(confusion):
        record({"confusion": confusion.tolist()})
        return scores(confusion)

    loop.devices = _Replaced(devices, put_batch=recorded_put_batch)  # not the evaluator's, which uses the same module
    metrics.scores = recorded_scores
    joining.JOIN_TIMEOUT_S = job.get("JOIN_TIMEOUT_S", joining.JOIN_TIMEOUT_S)
    for name in ("_SILENCE_S", "_BEAT_S", "_MEET_TIMEOUT_S"):
        setattr(processes, name, job.get(name, getattr(processes, name)))
    compile_step = loop._compile

    def delayed_compile(*arguments):
        if job.get("twice"):
            for delay_s in (0.5, 1.0):
                threading.Timer(delay_s, os.kill, (os.getpid(), signal.SIGTERM)).start()
        time.sleep(job.get("delay_s", 0))
        return compile_step(*arguments)

    loop._compile = delayed_compile
    return main_lib.main(job["arguments"])


class _Replaced:
    """A module with other functions in the place of its own, for one of its users."""

    def __init__(self, module, **functions):
        self._module = module
        vars(self).update(functions)

    def __getattr__(self, name):
        return getattr(self._module, name)


def fail(fault):
    """One of the ways in which a process ends in the middle of a run."""
    if fault == "data":
        raise DataError("/data/broken.png: truncated PNG")
    if fault == "bug":
        raise ZeroDivisionError("a fault of ours")
    os.kill(os.getpid(), getattr(signal, fault))


def steps(job):
    """Training in float64, see float64_steps.py; each process writes its losses and final state."""
    import float64_convolution
    import float64_steps

    from ddrnet_jax.data import pipeline
    from ddrnet_jax.training.step import make_train_step

    network = tiny.of_scenes if job["is_tiny"] else float64_steps.build
    nnx.Conv.__call__ = float64_convolution.convolve
    mesh = devices.data_mesh()
    shard = pipeline.Shard(jax.process_index(), jax.process_count())
    stream = float64_steps.stream(shard)
    with jax.enable_x64(True):
        sgd, graphdef, current = float64_steps.start(np.float64, mesh, network)
        train_step = make_train_step(
            graphdef, sgd, float64_steps.ohem, mesh, aux_weight=0.4, ema_decay=float64_steps.EMA_DECAY
        )
        losses, batch = [], devices.put_batch(next(stream), mesh)
        train_step = train_step.lower(current, batch).compile()
        processes.meet("compiled")
        for i in range(job["count"]):
            batch = devices.put_batch(next(stream), mesh) if i else batch
            current, metrics = train_step(current, batch)
            losses.append(float(metrics["loss"]))
    stream.close()
    np.savez(job["output"], losses=losses, **float64_steps.flattened(current))


def confusion(job):
    """The confusion counts of DDRNet at its random start on scenes of three sizes."""
    from ddrnet_jax import DDRNet
    from ddrnet_jax.data import pipeline
    from ddrnet_jax.data.sources import Scenes
    from ddrnet_jax.evaluation.evaluate import Evaluator
    from ddrnet_jax.models import variables

    graphdef, params, batch_stats = variables.split(DDRNet("23_slim", num_classes=9, rngs=nnx.Rngs(0)))
    evaluator = Evaluator(graphdef, 9, devices.local_mesh(devices.data_mesh()), batch_size=2)
    sizes = [(64, 96), (72, 64), (64, 64)]
    scenes = [Scenes(8, seed=1, size_hw=sizes[i % 3 if i < 5 else 0])[i] for i in range(7)]
    shard = pipeline.Shard(jax.process_index(), jax.process_count())
    result = evaluator(params, batch_stats, pipeline.samples_in_order(scenes, shard=shard))
    np.save(job["output"], result.confusion)


def main():
    """Do the job; its exit code."""
    job = json.loads(sys.argv[1])
    if job["do"] == "command_line":
        return command_line(job)
    compilation.enable_cache()
    with processes.joined(joining.parse(job["distributed"])):
        {"steps": steps, "confusion": confusion}[job["do"]](job)
    return 0


if __name__ == "__main__":
    sys.exit(main())
