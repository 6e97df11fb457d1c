"""Runs of several real processes on this machine: the same batches and counts for any number, and one end for all.

That they take the same steps, in float64, is in test_step.py.
"""

import contextlib
import json
import os
import re
import socket
import time

import numpy as np
import pytest
from several_processes import ended, free_address, run_module, several, start

from ddrnet_jax import main as main_lib
from ddrnet_jax.runtime import joining, processes


@pytest.mark.slow
def test_processes_count_the_same_confusion(tmp_path):
    """DDRNet on seven images of three sizes, so that no process has as many of a size as another."""
    counts = {}
    for count in (1, 2, 4):
        several(count, lambda i, n=count: {"do": "confusion", "output": str(tmp_path / f"{n}-{i}.npy")})
        counts[count] = [np.load(tmp_path / f"{count}-{i}.npy") for i in range(count)]
    assert counts[1][0].sum() > 30_000
    for of_processes in counts.values():
        for confusion in of_processes:
            np.testing.assert_array_equal(confusion, counts[1][0])


# --- the command line, with a network that compiles in a second ---


class Run:
    """A run in a workdir, by the command line, with any number of processes and devices."""

    def __init__(self, folder, repo, *flags):
        self.folder, self.records = folder, folder / "records"
        self.records.mkdir()
        self.started = 0
        self.flags = ["--config", str(repo / "configs" / "demo.py"), "--config.optimizer.learning_rate=0.01"]
        self.flags += ["--config.data.crop_hw=(64, 64)", "--config.data.scenes_hw=(64, 96)"]
        self.flags += ["--config.data.scenes_train=20", "--config.data.scenes_eval=7", "--config.log_every_steps=2"]
        self.flags += ["--config.batch_size=8", "--config.optimizer.warmup_steps=2", *flags]

    def start(self, count=1, devices=1, *, extra=(), of_process=None, mode="train"):
        """The processes; `of_process` {index: more of its job}."""
        self.started += 1
        address = free_address()
        place = ["--workdir" if mode == "train" else "--checkpoint", str(self.folder / "run"), "--mode", mode]
        jobs = []
        for i in range(count):
            distributed = ["--distributed", f"{address},{count},{i}"] if count > 1 else []
            record = str(self.records / f"{self.started}-{i}.jsonl")
            job = {"do": "command_line", "arguments": [*self.flags, *place, *extra, *distributed], "record": record}
            jobs.append(job | (of_process or {}).get(i, {}))
        return start(jobs, devices=devices)

    def complete(self, *topology, **options):
        """The same, waited for: (exit code, stdout, stderr) of each process, all of which have to succeed."""
        results = ended(self.start(*topology, **options))
        assert [code for code, _, _ in results] == [0] * len(results), results
        return results

    def recorded(self, kind):
        """What each process of the last start recorded, by process."""
        files = sorted(self.records.glob(f"{self.started}-*.jsonl"))
        lines = [[json.loads(line) for line in path.read_text().splitlines()] for path in files]
        return [[line[kind] for line in of_process if kind in line] for of_process in lines]

    def sample_sets(self, parts=1):
        """Of each step of the last start, the samples of each part of the batch, whoever read them."""
        steps = zip(*self.recorded("samples"), strict=True)
        return [
            [sorted(s for rows in of_processes for s in rows[part::parts]) for part in range(parts)]
            for of_processes in steps
        ]

    def lines(self):
        """The lines of metrics.jsonl."""
        return [json.loads(line) for line in (self.folder / "run" / "metrics.jsonl").read_text().splitlines()]


STEPS = ("--config.total_steps=9", "--config.checkpoint.every_steps=3", "--config.eval.every_steps=6")
ACCUMULATED = (*STEPS, "--config.optimizer.accumulate_steps=2")


@pytest.fixture
def new_run(repo, tmp_path):
    def make(name, *flags):
        (tmp_path / name).mkdir()
        return Run(tmp_path / name, repo, *flags)

    return make


@pytest.mark.slow
def test_any_topology_sees_the_same_parts_of_the_same_batches_and_counts_the_same(new_run):
    """Processes x devices; and one checkpoint evaluated on each, on images that do not divide evenly."""
    whole = new_run("whole", *ACCUMULATED)
    whole.complete()
    expected, scores = whole.sample_sets(parts=2), [line for line in whole.lines() if "val/miou" in line]
    assert len({s for step in expected for part in step for s in part}) > 40  # beyond the first epoch of 20
    whole.complete(mode="evaluate")
    confusion = whole.recorded("confusion")[0]

    for count, devices in ((2, 1), (1, 4)):
        run = new_run(f"{count}x{devices}", *ACCUMULATED)
        results = run.complete(count, devices)
        assert run.sample_sets(parts=2) == expected
        assert all(err == "" for _, _, err in results[1:])
        lines = run.lines()
        assert [line["step"] for line in lines] == [line["step"] for line in whole.lines()]
        written = (run.folder / "run" / "report.html").read_text()
        assert ("evaluated by the first process" in written) == (count > 1)
        for ours, one in zip(lines, whole.lines(), strict=True):
            if "loss" in ours:
                assert ours["loss"] == pytest.approx(one["loss"], rel=1e-4)
        assert len(scores) == len([line for line in lines if "val/miou" in line]) == 2

        results = whole.complete(count, devices, mode="evaluate")
        assert whole.recorded("confusion") == [confusion] * count
        assert "mIoU" in results[0][1]
        assert all("mIoU" not in out for _, out, _ in results[1:])


@pytest.mark.slow
@pytest.mark.parametrize(
    "topologies", [((1, 4), (1, 2), (1, 8)), ((2, 1), (1, 1), (2, 1))], ids=["devices 4-2-8", "processes 2-1-2"]
)
def test_a_run_killed_and_resumed_elsewhere_goes_on_with_the_same_batches(topologies, new_run):
    flags = ("--config.total_steps=12", "--config.checkpoint.every_steps=2", "--config.eval.every_steps=0")
    whole, run = new_run("whole", *flags), new_run("resumed", *flags)
    whole.complete()
    expected = whole.sample_sets()
    resumed_after = []
    for (count, devices), killed_at in zip(topologies, (5, 4, None), strict=True):
        fault = {} if killed_at is None else {count - 1: {"fail_at": killed_at, "fault": "SIGKILL"}}
        results = ended(run.start(count, devices, of_process=fault))
        for i, (code, _, err) in enumerate(results):
            assert code == (0 if killed_at is None else -9 if i == count - 1 else processes.AGAIN_EXIT_CODE), err
            assert "Traceback" not in err, err
        found = re.search(r"resuming after step (\d+)", results[0][2])
        resumed_after.append(int(found[1]) if found else 0)
        if killed_at is None:
            assert run.sample_sets() == expected[resumed_after[-1] :]
        else:  # the one that was killed did not record its last
            steps = [min(map(len, run.recorded("samples")))] * count
            seen = [rows[:n] for rows, n in zip(run.recorded("samples"), steps, strict=True)]
            sets = [[sorted(sum(rows, []))] for rows in zip(*seen, strict=True)]
            assert sets == expected[resumed_after[-1] : resumed_after[-1] + len(sets)]
            assert len(sets) == killed_at - 1
    assert 0 < resumed_after[1] <= resumed_after[2] < 12
    assert [line["step"] for line in run.lines() if "loss" in line] == [2, 4, 6, 8, 10, 12]


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("fault", "failing"),
    [("data", 1), pytest.param("data", 0, marks=SLOW), pytest.param("bug", 1, marks=SLOW)],
)
def test_what_stops_one_process_stops_all_and_says_why(fault, failing, new_run):
    run = new_run("run", *STEPS)
    before = time.monotonic()
    results = ended(run.start(2, of_process={failing: {"fail_at": 3, "fault": fault}}), timeout_s=300)
    assert time.monotonic() - before < 90
    reason = {"data": "/data/broken.png: truncated PNG", "bug": "ZeroDivisionError: a fault of ours"}[fault]
    own, other = results[failing], results[1 - failing]
    assert (own[0], other[0]) == (1, 1), results
    assert own[2].splitlines()[-1] == f"error: {reason}"
    assert other[2].splitlines()[-1] == f"error: process {failing} of 2 failed: {reason}"
    assert ("Traceback" in own[2]) == (fault == "bug")
    assert "Traceback" not in other[2]


def test_sigterm_to_one_process_saves_the_same_step_in_all(new_run, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # of no concern to processes of one run
    run = new_run("run", "--config.total_steps=3000", "--config.eval.every_steps=0")
    results = ended(run.start(2, of_process={1: {"fail_at": 5, "fault": "SIGTERM"}}), timeout_s=300)
    assert [code for code, _, _ in results] == [75, 75], results
    saved = int(re.search(r"step (\d+) of 3000 is saved", results[0][2])[1])
    assert 5 <= saved < 3000
    assert (run.folder / "run" / "checkpoints" / str(saved)).is_dir()
    assert [len(rows) for rows in run.recorded("samples")] == [saved] * 2


@pytest.mark.slow
@pytest.mark.parametrize("stopped", [0, 1])
def test_two_sigterms_end_all_processes_in_the_middle_of_a_long_compilation(stopped, new_run):
    job = {"delay_s": 200}
    before = time.monotonic()
    results = ended(new_run("run", *STEPS).start(2, of_process={0: job, 1: job, stopped: job | {"twice": True}}))
    assert [code for code, _, _ in results] == [processes.AGAIN_EXIT_CODE] * 2, results
    assert "SIGTERM: stopped at once" in results[stopped][2]
    assert f"error: process {stopped} of 2 failed: SIGTERM: stopped at once" in results[1 - stopped][2]
    assert time.monotonic() - before < 100


@pytest.mark.slow
def test_the_others_of_a_coordinator_that_was_killed_end_in_one_line(new_run):
    """JAX itself ends them with a stack of C++."""
    run = new_run("run", "--config.total_steps=3000", "--config.eval.every_steps=0")
    before = time.monotonic()
    (killed, _, _), (code, _, err) = ended(run.start(2, of_process={0: {"fail_at": 5, "fault": "SIGKILL"}}))
    assert (killed, code) == (-9, processes.AGAIN_EXIT_CODE), err
    assert [line for line in err.splitlines() if line] == [
        "error: process 0, which coordinates the run, is gone; run the same command again in all processes"
    ]
    assert time.monotonic() - before < 60


@pytest.mark.slow
@pytest.mark.parametrize("stopped", [0, 1])
def test_a_process_that_is_stopped_for_ever_ends_the_other_in_one_line(stopped, new_run):
    """As by SIGSTOP, or a host without a network: it sends no message, and leaves its connections open."""
    run = new_run("run", *STEPS)
    patience = {"_SILENCE_S": 12.0, "_BEAT_S": 1.0}
    job = {0: {}, 1: {}, stopped: {"fail_at": 3, "fault": "SIGSTOP"}}
    running = run.start(2, of_process={index: patience | job[index] for index in job})
    code, _, err = ended([running[1 - stopped]], timeout_s=200)[0]
    running[stopped].kill()
    running[stopped].communicate()
    assert code == processes.AGAIN_EXIT_CODE, err
    assert err.splitlines()[-1].startswith(f"error: process {stopped} of 2 has not been heard of for 12 s"), err
    assert "Traceback" not in err, err


@pytest.mark.slow
def test_processes_may_be_ready_a_minute_apart(new_run):
    results = new_run("run", *STEPS).complete(2, of_process={1: {"delay_s": 60}})
    assert all("error" not in err for _, _, err in results), results


@pytest.mark.slow
def test_a_process_that_is_never_ready_ends_all_in_one_line(new_run):
    late = {i: {"_MEET_TIMEOUT_S": 5, "delay_s": 60 * i} for i in range(2)}
    results = ended(new_run("run", *STEPS).start(2, of_process=late), timeout_s=200)
    for code, _, err in results:
        assert code == processes.AGAIN_EXIT_CODE, err
        assert "lost another one" in err.splitlines()[-1], err
        assert "Traceback" not in err, err


def refused(results):
    """The last lines of processes that all end with an error of one line, before anything is compiled."""
    for code, _, err in results:
        assert code == 1, results
        assert "Traceback" not in err, err
        assert "compiling" not in err, err
        assert err.splitlines()[-1].startswith("error: "), err
    return [err.splitlines()[-1] for _, _, err in results]


@pytest.mark.slow
def test_processes_of_different_configs_or_folders_are_refused(new_run, tmp_path):
    run = new_run("run", *STEPS)
    other = {"arguments": [*run.flags, "--config.seed=1", "--workdir", str(tmp_path / "run" / "run")]}
    lines = refused(different(run, other))
    assert all("differ in: config; give all of them the same command" in line for line in lines)

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    lines = refused(different(run, {"arguments": [*run.flags, "--workdir", str(elsewhere)]}))
    assert lines[1] == (
        f"error: --workdir {elsewhere}: process 1 does not see what process 0 wrote there; "
        "it has to be one folder for all processes, as on a network file system"
    )
    assert lines[0] == f"error: process 1 of 2 failed: {lines[1].removeprefix('error: ')}"


def test_who_has_been_silent_for_too_long(monkeypatch):
    monkeypatch.setattr(processes, "_SILENCE_S", 2.0)  # four polls
    heard = processes._Heard(count=3, own=1)
    for beat in range(10):
        assert heard.silent() is None
        heard.note([("beat/1", "7"), ("beat/2", str(beat))])
    for _ in range(4):
        assert heard.silent() is None
        heard.note([("beat/1", "8"), ("beat/2", "9")])  # process 2 raises its count no more; one's own says nothing
    assert heard.silent() == 2
    heard.note([("beat/2", "10")])
    assert [heard.silent() for _ in range(5)] == [None] * 4 + [0]  # process 0, which answers, is silent itself


def different(run, of_second):
    """What two processes give of which the second has other arguments."""
    address = free_address()
    arguments = [*run.flags, "--workdir", str(run.folder / "run")], of_second["arguments"]
    jobs = [
        {
            "do": "command_line",
            "record": str(run.records / f"different-{i}.jsonl"),
            "arguments": [*a, "--distributed", f"{address},2,{i}"],
        }
        for i, a in enumerate(arguments)
    ]
    return ended(start(jobs), timeout_s=300)


def test_a_batch_that_the_devices_of_all_processes_cannot_share_is_refused(new_run):
    results = ended(new_run("run").start(2, 2, extra=("--config.batch_size=6",)), timeout_s=300)
    assert all(
        "batch_size: 6 given, expected a multiple of the 4 devices of 2 processes" in x for x in refused(results)
    )


# --- what --distributed says, and who is there ---


@pytest.mark.parametrize(
    "text",
    ["on", "localhost", "localhost:1", "localhost:1,2", "localhost,2,0", "localhost:x,2,0", ":1,2,0", "h:1,2,2"]
    + ["h:1,2,-1", "h:1,0,0", "h:99999,2,0", "h:1,2,0,0", "h:1,two,0"],
)
def test_what_is_no_place_in_a_run_is_refused_before_jax_is_imported(text, capsys):
    assert main_lib.main(["--config", "no.py", "--distributed", text]) == 1
    assert capsys.readouterr().err.strip() == (
        f"error: --distributed {text}: expected off, auto, or host:port,processes,index like 10.0.0.1:1234,2,0 "
        "(indices count from 0)"
    )


def test_places_in_a_run():
    assert joining.parse(None) == joining.parse("off") == "off"
    assert joining.parse("auto") == "auto"
    assert joining.parse("[::1]:4321,8,7") == joining.Place("[::1]:4321", 8, 7)


def test_a_mode_of_one_process_takes_no_distributed(capsys):
    assert main_lib.main(["--mode", "predict", "--distributed", "auto"]) == 1
    assert "--mode predict does not take --distributed" in capsys.readouterr().err


def alone(new_run, text):
    """The last line on stderr of one process with this --distributed, which finds no others."""
    run = new_run("run")
    job = {"arguments": [*run.flags, "--workdir", str(run.folder / "run"), "--distributed", text]}
    job |= {"do": "command_line", "record": str(run.records / "0.jsonl"), "JOIN_TIMEOUT_S": 4}
    return refused(ended(start([job]), timeout_s=300))[0]


def test_processes_that_do_not_find_each_other_end_in_one_line(new_run, tmp_path, monkeypatch):
    for name in [n for n in os.environ if n.startswith("SLURM")]:
        monkeypatch.delenv(name)
    assert "--distributed auto: no cluster found here, neither a TPU pod nor SLURM" in alone(new_run, "auto")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("no-such-host.invalid:4321,2,1", "host no-such-host.invalid is not known here"),
        ("localhost:BUSY,2,0", "process 0 cannot listen on port"),
    ],
)
def test_wrong_places_are_named(text, expected):
    with contextlib.closing(socket.socket()) as busy:
        busy.bind(("", 0))
        busy.listen()
        text = text.replace("BUSY", str(busy.getsockname()[1]))
        with pytest.raises(joining.ProcessesError, match=f"^--distributed {text}: {expected}"):
            joining.join(joining.parse(text), lost=pytest.fail)


@pytest.mark.slow
@pytest.mark.parametrize("index", [0, 1])
def test_a_process_that_waits_for_nobody_ends_in_one_line(index, new_run):
    text = f"{free_address()},2,{index}"
    expected = "not all processes of the run have joined within 4 s; start each of them"
    assert f"--distributed {text}: {expected}" in alone(new_run, text)


@pytest.mark.slow
def test_the_command_line_trains_evaluates_and_resumes_with_the_real_network(repo, tmp_path):
    flags = ["--config", str(repo / "configs" / "demo.py"), "--config.batch_size=4", "--config.total_steps=4"]
    flags += ["--config.data.crop_hw=(64, 64)", "--config.data.scenes_hw=(64, 96)", "--config.data.scenes_eval=3"]
    flags += ["--config.log_every_steps=2", "--config.optimizer.warmup_steps=1"]

    def run(*more):
        address = free_address()
        results = ended(
            [run_module("ddrnet_jax.main", *flags, *more, "--distributed", f"{address},2,{i}") for i in range(2)]
        )
        assert [code for code, _, _ in results] == [0, 0], results
        assert results[1][2] == ""
        assert "mIoU" not in results[1][1]
        return results[0]

    _, out, err = run("--workdir", str(tmp_path / "run"))
    assert "2 cpu device(s) of 2 processes" in err
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 4]
    assert f"{100 * lines[-1]['val/miou']:.2f}" in out
    _, out, err = run("--workdir", str(tmp_path / "run"))
    assert "resuming after step 4 of 4" in err
    assert f"{100 * lines[-1]['val/miou']:.2f}" in out
    _, out, _ = run("--mode", "evaluate", "--checkpoint", str(tmp_path / "run"))
    assert f"{100 * lines[-1]['val/miou']:.2f}" in out
