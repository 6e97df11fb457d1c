"""A run made by hand: what a workdir and an evaluation would give, without a network."""

import dataclasses
import json

import numpy as np
import pytest
from report.hand_made import CLASSES, SETTINGS, SPEC, config_json, metric_lines, shown_gallery

from ddrnet_jax.evaluation import metrics
from ddrnet_jax.evaluation.gallery import short_name
from ddrnet_jax.report.run import Evaluation, Run


@pytest.fixture
def run():
    """A whole run."""
    gallery, counts = shown_gallery()
    scores = metrics.scores(sum(counts))
    return Run(
        name="/runs/<mine>",
        config=config_json(),
        spec=SPEC,
        lines=metric_lines(),
        evaluation=Evaluation(scores.values(CLASSES), scores.confusion, 200, "evaluated for this report", SETTINGS),
        gallery=gallery,
        made_by={"command": "python -m ddrnet_jax.main --config '<mine>.py'", "versions": {"jax": "0.10.2"}},
        notes=[],
    )


@pytest.fixture
def other(run):
    """A second run on the same data, seen for the first one's pictures."""
    also = [short_name(seen.name, "/data") for seen in (*run.gallery.worst, *run.gallery.best)]
    gallery, counts = shown_gallery(also=also, seed=1)
    scores = metrics.scores(sum(counts) + np.diag([4000, 0, 0, 0, 0]))
    return dataclasses.replace(
        run,
        name="/runs/other",
        config=config_json(**{"optimizer.learning_rate": 0.123}),
        lines=metric_lines(0.5),
        evaluation=Evaluation(scores.values(CLASSES), scores.confusion, 200, "evaluated for this report", SETTINGS),
        gallery=gallery,
    )


@pytest.fixture
def workdir(tmp_path):
    """A workdir without a checkpoint."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config_json()))
    lines = [json.dumps(line) for line in metric_lines()]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 210, "lo')
    return folder
