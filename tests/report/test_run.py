"""Reading a workdir: what is damaged or missing is a note, and only where there is no run at all an error."""

import dataclasses
import json
import shutil

import pytest

from ddrnet_jax.outputs import OutputError
from ddrnet_jax.report import make, page, run
from ddrnet_jax.report.run import ReportError
from ddrnet_jax.runs import metrics_file


def test_a_workdir_without_checkpoint_is_read_from_its_metrics(workdir, said):
    found = run.read(run.find(workdir))
    assert len(said) == 1
    assert said[0].startswith("warning: No weights to evaluate")
    assert found.notes == [said[0].removeprefix("warning: ")]
    assert len(found.lines) == 22  # without the line that was cut short
    assert found.best_recorded() == (200, 0.4)
    assert found.evaluation.values == {"val/miou": 0.4, "val/iou/road": 0.9}
    assert found.evaluation.step == 200
    assert found.evaluation.confusion is None
    assert found.evaluation.settings["data.eval_split"] == "val"
    assert metrics_file.not_finite(found.lines, "loss") == [30]
    assert len(metrics_file.series(found.lines, "loss")[0]) == 19


def test_broken_lines_are_passed_over(workdir):
    broken = ["", "{", "[]", "1", "null", '{"loss": 1}', '{"step": "7"}', '{"step": true}', '{"step": 1.5}', "\udcff"]
    broken += ['{"step": 9, "loss": "high", "val/miou": null, "learning_rate": Infinity}', '{"step": 10, "loss": 2}']
    (workdir / "metrics.jsonl").write_text("\n".join(broken), errors="surrogateescape")
    found = run.read(run.find(workdir))
    assert [line["step"] for line in found.lines] == [9, 10]
    assert metrics_file.series(found.lines, "loss") == ([10], [2.0])
    assert found.best_recorded() is None
    assert found.evaluation is None
    assert make.make(workdir).read_text().count("not evaluated yet") == 1


@pytest.mark.parametrize("text", ["", "{", "[]", '{"batch_size": "many"}', '{"data": {"classes": 7}}'])
def test_a_config_that_is_none_is_one_error(workdir, text):
    (workdir / "config.json").write_text(text)
    with pytest.raises(ReportError, match=r"config\.json: not a config of a run"):
        run.find(workdir)


def test_no_run_is_one_error(tmp_path):
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "gone"):
        with pytest.raises(ReportError, match=f"{path.name}.*expected a workdir"):
            make.make(path, tmp_path / "out")
        with pytest.raises(ReportError, match=f"{path.name}: no workdir of a run here"):
            make.make(path)
    assert not (tmp_path / "out").exists()


def test_the_page_goes_into_the_workdir_or_where_it_is_told(workdir, tmp_path):
    assert make.make(workdir) == workdir / "report.html"
    other = shutil.copytree(workdir, tmp_path / "other")
    values = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(values | {"seed": 12345, "of_a_later_version": 1}))
    path = make.make(workdir, tmp_path / "compared.html", compare=other)
    assert path == tmp_path / "compared.html"
    assert "12345" in path.read_text()
    assert "12345" not in (workdir / "report.html").read_text()


def test_user_errors_come_before_the_evaluation(workdir, tmp_path, monkeypatch):
    def evaluated(*args, **kwargs):
        raise AssertionError("long work")

    monkeypatch.setattr(run, "read", evaluated)
    with pytest.raises(ReportError, match=r"gone.*expected a workdir"):
        make.make(workdir, compare=tmp_path / "gone")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"x\.html: cannot be written"):
        make.make(workdir, tmp_path / "file" / "x.html")
    (tmp_path / "own.html").write_text("a page of the user's")
    with pytest.raises(OutputError, match=r"own\.html: is not of this program"):
        make.make(workdir, tmp_path / "own.html")
    (tmp_path / "folder" / page.NAME).mkdir(parents=True)
    with pytest.raises(ReportError, match=r"report\.html: cannot be written \(it is a folder\)"):
        make.make(workdir, tmp_path / "folder")


@pytest.mark.parametrize("made_by", [7, None, ["a"], "text", {"command": ["a"], "devices": {}, "versions": "1.2"}])
def test_foreign_metadata_is_as_good_as_none(workdir, made_by):
    found = dataclasses.replace(run.find(workdir), description={"made_by": made_by})
    assert run.read(found).made_by == {}
    kept = {"command": "train", "versions": {"jax": "1"}}
    found = dataclasses.replace(found, description={"made_by": kept | {"devices": 3}})
    assert run.read(found).made_by == kept
