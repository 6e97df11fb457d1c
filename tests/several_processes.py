"""Real processes of one run on this machine, started by tests; what each does is in process_worker.py."""

import contextlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

WORKER = Path(__file__).resolve().with_name("process_worker.py")


def free_address():
    """localhost:port, with a port that nothing listens on."""
    with contextlib.closing(socket.socket()) as s:
        s.bind(("localhost", 0))
        return f"localhost:{s.getsockname()[1]}"


def start(jobs, *, devices=1):
    """One worker for each job, each with that many virtual devices."""
    return [_python(str(WORKER), json.dumps(job), devices=devices) for job in jobs]


def run_module(name, *arguments):
    """`python -m name` with one virtual device."""
    return _python("-m", name, *arguments, devices=1)


def _python(*arguments, devices):
    tests = WORKER.parent
    environment = os.environ | {
        "JAX_NUM_CPU_DEVICES": str(devices),
        "PYTHONPATH": os.pathsep.join(map(str, (tests.parent, tests))),
    }
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(running, timeout_s=400):
    """(exit code, stdout, stderr) of each process."""
    try:
        outputs = [process.communicate(timeout=timeout_s) for process in running]
    finally:
        for process in running:
            process.kill()
    return [(process.returncode, *output) for process, output in zip(running, outputs, strict=True)]


def several(count, job, **options):
    """What `count` processes give that do the same job, each with what `job(index)` adds."""
    address = free_address()
    jobs = [{"distributed": f"{address},{count},{i}"} | job(i) for i in range(count)]
    results = ended(start(jobs, **options), timeout_s=1500)  # four compile float64 at the same time
    assert [code for code, _, _ in results] == [0] * count, results
    return results
