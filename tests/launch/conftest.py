"""The folder of stand-ins for what the launchers call."""

import os
from pathlib import Path

import pytest

VARIABLES = (
    "PROCESSES",
    "PYTHON",
    "ZONE",
    "PROJECT",
    "TPU_TYPE",
    "SPOT",
    "FLEX",
    "MAX_CRASHES",
    "HEALTHY_S",
    "BUCKETS",
    "MOUNT",
)


@pytest.fixture
def bin_folder(tmp_path, monkeypatch) -> Path:
    """A folder in front of PATH for stand-ins; no waiting between two runs."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    for name in ("BACKOFF_S", "POLL_S", "WATCH_S"):
        monkeypatch.setenv(name, "0")
    for name in (*VARIABLES, "JAX_PLATFORMS", "XLA_PYTHON_CLIENT_MEM_FRACTION"):
        monkeypatch.delenv(name, raising=False)
    return folder
