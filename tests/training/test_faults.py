"""Faults, one of each kind, hit the processes of one run: it ends as the run that nobody touched."""

import random
import sys
from pathlib import Path

import pytest
import tiny

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

import fault_injection as faults  # noqa: E402


@pytest.fixture(scope="module")
def config(request):
    return getattr(request, "param", tiny.CONFIG)


@pytest.fixture(scope="module")
def untouched(config, tmp_path_factory):
    """(its outcome, the lines that it said)"""
    folder = tmp_path_factory.mktemp("untouched")
    return faults.untouched(folder, config=config), (folder / "life-0.log").read_text().splitlines()


@pytest.fixture(scope="module")
def reference(untouched):
    return untouched[0]


def kinds(trial):
    return [(fault.kind, fault.outcome) for fault in trial.faults]


def test_a_line_is_said_once(untouched):
    _, said = untouched
    assert sum("compiled in" in line for line in said) == 1
    assert sum(f"step {faults.STEPS}/{faults.STEPS}  loss" in line for line in said) == 1
    assert said[0].startswith("DDRNet-23_slim segmentation: ")


def test_six_faults_in_one_run_change_nothing(tmp_path, config, reference):
    """Without root: what stands for the full disk is a limit on the size of files."""
    rng = random.Random(5)
    trial = faults.Trial(tmp_path / "trial", config=config)
    trial.interrupt(faults.sigkill_in_a_save, rng, after=4)
    trial.damage(faults.truncate, rng, arrays=True)
    trial.interrupt(faults.fill_the_disk, rng, after=5)
    trial.damage(faults.flip_a_bit, rng, arrays=True)
    trial.interrupt(faults.sigterm, rng, after=5)
    trial.damage(faults.remove, rng)
    trial.finish(reference)
    assert kinds(trial) == [
        ("SIGKILL in a save", "resumed"),
        ("files of the newest step truncated", "passed over"),
        ("disk full (file size limit)", "resumed"),
        ("a bit of the newest step flipped", "passed over"),
        ("SIGTERM", "resumed"),
        ("newest step removed", "resumed"),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("config", ["configs/demo.py"], indirect=True)  # whose evaluation takes long enough
def test_a_refused_start_and_an_unfinished_evaluation_change_nothing(tmp_path, config, reference):
    rng = random.Random(2)
    trial = faults.Trial(tmp_path / "trial", config=config)
    trial.interrupt(faults.sigkill, rng, after=5)
    trial.damage_all(rng)
    trial.interrupt(faults.sigterm_in_the_evaluation, rng)
    trial.finish(reference)
    assert kinds(trial)[1:] == [
        ("all steps truncated", "refused, restored, resumed"),
        ("SIGTERM in an evaluation", "resumed"),
    ]


@pytest.mark.slow
def test_a_lost_process_of_two_and_damage_seen_by_both_change_nothing(tmp_path):
    rng = random.Random(1)
    reference = faults.untouched(tmp_path / "untouched", processes=2, config=tiny.CONFIG)
    trial = faults.Trial(tmp_path / "trial", processes=2, config=tiny.CONFIG)
    trial.interrupt(faults.lose_one_of_two, rng, after=5)
    trial.damage(faults.flip_a_bit, rng, arrays=True)
    trial.interrupt(faults.sigterm, rng, after=4)
    trial.damage_all(rng)
    trial.finish(reference)
    assert kinds(trial) == [
        ("one process of two killed", "resumed"),
        ("a bit of the newest step flipped", "passed over"),
        ("SIGTERM to one of two processes", "resumed"),
        ("all steps truncated", "refused, restored, resumed"),
    ]
