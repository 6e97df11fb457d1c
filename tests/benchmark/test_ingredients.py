"""The benchmarks that train: what they refuse, and that the page of results says what their files hold."""

import importlib
import json
import re
import sys

import pytest


@pytest.fixture
def program(repo, monkeypatch):
    """main() of one of them, with these flags."""
    monkeypatch.syspath_prepend(str(repo / "benchmarks"))

    def run(name, *flags):
        monkeypatch.setattr(sys, "argv", [name, *map(str, flags)])
        importlib.import_module(name).main()

    return run


@pytest.mark.parametrize("name", ["ingredients", "distillation", "fine_tuning"])
@pytest.mark.parametrize("text", ['[{"a": 1}', '[{"a": 1}]', "{}"])
def test_a_file_of_something_else_is_named(program, tmp_path, name, text):
    results = tmp_path / "results.json"
    results.write_text(text)
    with pytest.raises(SystemExit, match=r"^error: .*results.json: .*expected"):
        program(name, "--data", tmp_path, "--results", results)
    assert results.read_text() == text


@pytest.mark.parametrize(
    ("name", "flags", "message"),
    [
        ("ingredients", ["--steps", "0"], "0 given, expected a number, 1 or more"),
        ("ingredients", ["--only", "strong, nothing"], "--only 'nothing': expected names of baseline"),
        ("ingredients", ["--only", ""], "--only '': expected names of baseline"),
        ("distillation", ["--data", ".", "--seeds", "0"], "0 given, expected a number, 1 or more"),
        ("average_best", ["--workdir", ".", "--largest", "-1"], "-1 given, expected a number, 1 or more"),
        ("average_best", ["--workdir", ".", "--json", "nowhere/best.json"], "--json nowhere/best.json: no such folder"),
    ],
)
def test_flags_are_refused_in_one_line(program, capsys, name, flags, message):
    with pytest.raises(SystemExit, match="2"):
        program(name, *flags)
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_what_a_file_holds_is_not_measured_again(program, capsys):
    program("fine_tuning", "--data", "/nowhere", "--seeds", 3)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("nothing to train: ")
    assert lines[0].endswith("fine_tuning.json has these runs; --results NEW.json measures anew")


def test_a_folder_of_other_data_is_not_gone_on_with(program, tmp_path):
    kept = tmp_path / "baseline_5_0" / "config.json"
    kept.parent.mkdir()
    kept.write_text(json.dumps({"data": {"root": "/their/camvid"}}))
    flags = ("--only", "baseline", "--steps", 5, "--workdir", tmp_path, "--results", tmp_path / "new.json")
    with pytest.raises(SystemExit, match=r"baseline_5_0 was trained with /their/camvid, expected that as --data"):
        program("ingredients", "--data", tmp_path, *flags)


def test_the_page_has_the_figures_of_the_file(program, repo, capsys):
    program("ingredients", "--table")
    table = capsys.readouterr().out
    rows = {line.split()[0]: line for line in table.splitlines()[1:]}
    page = (repo / "docs" / "results.md").read_text()
    names = {
        "class_weights": "CamVid's published class weights",
        "two_learning_rates": "heads at ten times the learning rate",
        "ohem": "OHEM",
        "ema": "EMA of 0.99",
        "dice_edge": "Dice + edge",
        "colour": "photometric distortion (`data.colour`)",
        "max_class_share": "crops of one class drawn again (`data.max_class_share`)",
        "rare_class_share": "half of the crops around a rare class (`data.rare_class_share`)",
        "muon": "Muon of `camvid_strong`",
        "counted_weights": "its counted class weights",
        "cosine_and_warmup": "its cosine and warm-up",
        "less_scaling": "its less scaling",
        "ema_098": "its EMA of 0.98",
    }
    for run, text in names.items():
        gain = float(rows[run].split()[3])
        (said,) = re.findall(rf"^\| {re.escape(text)} \| ([+-][\d.]+) \| (.*)\|$", page, re.MULTILINE)
        assert float(said[0]) == pytest.approx(gain, abs=0.051), run
        assert ("within noise" in said[1]) == ("within noise" in rows[run]), run
