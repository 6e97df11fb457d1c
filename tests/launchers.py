"""Launchers started as a user does, and stand-ins for the programs that they call."""

import os
import stat
import subprocess
import sys
import time
from pathlib import Path

ARGUMENTS = ["--config", "configs/demo.py", "--workdir", "w"]
TRAINING = "-m ddrnet_jax.main --config configs/demo.py --workdir w"
SRUN = "--kill-on-bad-exit=0 --wait=300"
REMOTE = ["--config", "configs/demo.py", "--workdir", "/mnt/shared/run"]
# Longer than any test, but no process outlives a test that fails.
ENDLESS = "for _ in {1..400}; do sleep 0.05; done"


def stand_in(path: Path, body: str) -> None:
    """An executable bash script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/usr/bin/env bash\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def stand_in_with_codes(path: Path, codes: list[int]) -> Path:
    """An executable that notes its arguments and ends with the next of `codes`; returns the file of its calls."""
    calls = path.with_suffix(".calls")
    calls.touch()
    stand_in(
        path,
        f'if [[ $1 == -c ]]; then exec {sys.executable} "$@"; fi\n'
        f'echo "$*" >>{calls}; codes=({" ".join(map(str, codes))})\n'
        f"code=${{codes[$(wc -l <{calls}) - 1]}}\n"
        "((code < 128)) || kill -$((code - 128)) $$\nexit $code",
    )
    return calls


def launch(repo: Path, script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """A launcher, called from a folder that has nothing to do with it."""
    return subprocess.run(
        ["bash", str(repo / "launch" / script), *arguments],
        cwd="/",
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def wait_for(condition, seconds: float = 20.0):
    """Poll until `condition()` is true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []
