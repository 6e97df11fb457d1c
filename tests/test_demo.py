"""The demo learns every class of the drawn scenes, to about the mIoU that configs/demo.py names."""

import json
import os
import subprocess
import sys

import pytest

# Rounding alone moves it: 0.588 to 0.642 on other machines, as configs/demo.py says.
MIOU = (0.56, 0.67)
LEAST_IOU = 0.3


@pytest.mark.slow
def test_the_demo_reaches_its_miou(repo, tmp_path):
    command = [sys.executable, "-m", "ddrnet_jax.main", "--config", "configs/demo.py", "--workdir", str(tmp_path)]
    as_users = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    subprocess.run(command, cwd=repo, check=True, timeout=1500, env=as_users)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    scores = [line for line in lines if "val/miou" in line]
    assert MIOU[0] < scores[-1]["val/miou"] < MIOU[1]
    assert scores[-1]["val/miou"] > scores[0]["val/miou"]
    of_classes = {name: iou for name, iou in scores[-1].items() if name.startswith("val/iou/")}
    assert len(of_classes) == 9
    assert min(of_classes.values()) > LEAST_IOU, of_classes
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < 0.5 * losses[0]
