"""metrics.jsonl: whatever somebody's editor, a kill or an attack has left in it, complete lines alone count."""

import json

import pytest

from ddrnet_jax.runs import metrics_file

SOUND = [{"step": 2, "loss": 1.5}, {"step": 4, "val/miou": 0.5}, {"step": 6, "loss": 1.0}]
OTHERS = [
    "[" * 100_000,
    '{"step": 1, "a": ' + "[" * 5000 + "]" * 5000 + "}",
    '{"step": ' + "1" * 400 + "}",
    '{"step": ' + "1" * 5000 + "}",
    '{"step": 1e999}',
    '{"step": -1e999}',
    '{"step": -1}',
    '{"step": true}',
    '{"step": null}',
    '{"step": "2"}',
    '{"step": NaN}',
    '{"step": {}}',
    "[1]",
    "1",
    "null",
    '{"loss": 1}',
    '{"step": 2, "lo',
    "\0\0\0",
    "",
]


@pytest.mark.parametrize("other", OTHERS, ids=lambda text: text[:30])
def test_what_is_no_line_of_ours_is_passed_over(tmp_path, other):
    path = tmp_path / metrics_file.METRICS_FILE
    lines = [json.dumps(line) for line in SOUND]
    path.write_text("\n".join([lines[0], other, *lines[1:], other]))
    assert metrics_file.read_lines(tmp_path) == SOUND
    assert metrics_file.drop_later_lines(path, 4) == 4
    assert path.read_text() == "".join(f"{line}\n" for line in lines[:2])


def test_numbers_that_cannot_be_drawn_are_none(tmp_path):
    values = ["-1e999", "1e999", "NaN", "1" + "0" * 400, "-1" + "0" * 400, "1e305", "true", "null", '"1"', "[]"]
    lines = [f'{{"step": {i}, "loss": {value}}}' for i, value in enumerate(values)]
    (tmp_path / metrics_file.METRICS_FILE).write_text("\n".join([*lines, '{"step": 99, "loss": -3}']))
    found = metrics_file.read_lines(tmp_path)
    assert len(found) == len(values) + 1
    assert metrics_file.series(found, "loss") == ([99], [-3.0])
    assert metrics_file.not_finite(found, "loss") == list(range(len(values)))
