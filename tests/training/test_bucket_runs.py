"""Training runs in a bucket, as pod users start them: killed, cut off, of several processes; they end as on a disk."""

import contextlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import urllib.parse

import pytest
import tiny
from several_processes import ended, free_address
from several_processes import start as start_workers

from ddrnet_jax.bucket import Bucket
from ddrnet_jax.runs import find, lease, step_files

STEPS = 24
FLAGS = [
    "--config.batch_size=2",
    f"--config.total_steps={STEPS}",
    "--config.log_every_steps=1",
    "--config.data.crop_hw=(64, 64)",
    "--config.data.scenes_hw=(64, 64)",
    "--config.data.scenes_train=16",
    "--config.data.scenes_eval=4",
    "--config.eval.every_steps=8",
    "--config.checkpoint.every_steps=2",
    "--config.optimizer.warmup_steps=2",
]
# A lease that is renewed often, so that nobody waits long for one of a run that was killed.
PROGRAM = """
import sys
from ddrnet_jax import bucket
from ddrnet_jax.runs import lease
lease.RENEWED_S, lease.OLD_S, bucket._PATIENCE_S = 0.2, 2.0, {patience_s}
from ddrnet_jax import main
sys.exit(main.main(sys.argv[1:]))
"""

pytestmark = pytest.mark.slow


def start(workdir, *more, patience_s=60):
    command = [sys.executable, "-c", PROGRAM.format(patience_s=patience_s), "--workdir", str(workdir), *more]
    environment = os.environ | {"PYTHONPATH": f"{tiny.REPO}{os.pathsep}{tiny.REPO / 'tests'}"}
    return subprocess.Popen(
        [*command, "--config", tiny.CONFIG, *FLAGS],
        cwd=tiny.REPO,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@contextlib.contextmanager
def started(workdir):
    """A run that does not outlive its test."""
    with start(workdir) as process:
        try:
            yield process
        finally:
            process.kill()


def complete(workdir):
    process = start(workdir)
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 0, said
    return said


def outcome(workdir):
    """The checksums of the last step's arrays, and each step's losses and scores."""
    step = find.on_this_disk(f"{workdir}/checkpoints/{STEPS}")
    folder = find.on_this_disk(workdir)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return step_files.read_description(step)["checksums"], [
        (line["step"], {k: v for k, v in line.items() if k == "loss" or k.startswith("val/")}) for line in lines
    ]


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory):
    """What a run on a disk ends with that nobody touched."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    complete(workdir)
    checksums, lines = outcome(workdir)
    assert {"params", "opt_state"} <= checksums.keys()
    return {k: v for k, v in checksums.items() if k != "description"}, lines


def assert_as_on_disk(workdir, on_disk):
    checksums, lines = outcome(workdir)
    assert {k: v for k, v in checksums.items() if k != "description"} == on_disk[0]
    assert lines == on_disk[1]


@pytest.fixture
def network(storage):
    """The server, that answers again at the end."""
    yield storage
    storage.answer, storage.noticed = None, lambda method, path: None


def is_write_of(part, method, path):
    return method == "POST" and part in urllib.parse.unquote(path)


def test_twenty_kills_at_any_request_change_nothing(network, on_disk):
    """A run asks the bucket about a hundred times a save, so most of the kills are in one."""
    rng, where = random.Random(3), []
    for number in itertools.count():
        workdir = f"gs://runs/killed/{number}"
        while kill_at(workdir, rng.randrange(1, 600), network, where):
            pass
        assert_as_on_disk(workdir, on_disk)
        if len(where) >= 20:
            break
    assert sum("checkpoints" in urllib.parse.unquote(path) for path in where) >= 10, where


def kill_at(workdir, request, network, where):
    """Start the run, and kill it at its nth request to the bucket: False if it was done before."""
    process, left = start(workdir), itertools.count(request, -1)

    def kill(method, path):
        if next(left) == 0 and process.poll() is None:
            process.kill()
            where.append(path)

    network.noticed = kill
    said, _ = process.communicate(timeout=600)
    network.noticed = lambda method, path: None
    assert process.returncode in (-signal.SIGKILL, 0), said
    return process.returncode != 0


@pytest.mark.parametrize("answer", ["nothing", 503])
def test_a_bucket_that_is_away_or_overloaded_for_a_while_in_a_save_costs_nothing(network, on_disk, answer):
    workdir, cut = f"gs://runs/interrupted/{answer}", []

    def cut_once(method, path):
        if not cut and is_write_of("checkpoints/10/state", method, path):
            cut.append(time.monotonic())
            network.answer = answer
        elif cut and time.monotonic() > cut[0] + 10:
            network.answer = None

    network.noticed = cut_once
    assert "resuming" not in complete(workdir)
    assert cut
    assert network.refused > 0
    assert_as_on_disk(workdir, on_disk)


def test_a_network_that_is_away_ends_the_run_with_75_and_it_goes_on(network, on_disk):
    """Between two saves: what TensorStore is writing it tries to write for a quarter of an hour."""
    workdir = "gs://runs/away"
    process = start(workdir)

    def kill(method, path):
        if is_write_of("checkpoints/12/commit_success.txt", method, path):
            process.kill()

    network.noticed = kill
    said, _ = process.communicate(timeout=600)
    assert process.returncode == -signal.SIGKILL, said

    def cut(method, path):
        if is_write_of("away/metrics.jsonl", method, path):
            network.answer = "nothing"

    network.noticed = cut
    process = start(workdir, patience_s=1)
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 75, said
    assert f"error: {workdir}: the bucket does not answer" in said.splitlines()[-1]
    network.noticed, network.answer = lambda method, path: None, None
    assert f"resuming after step 10 of {STEPS}" in complete(workdir)
    assert_as_on_disk(workdir, on_disk)


def wait_for(condition, process):
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)


def test_a_second_run_is_refused_and_the_first_stopped_and_gone_on_with(network, on_disk):
    workdir, refused = "gs://runs/two", threading.Event()

    def hold(method, path):
        """The first run's second save, until the second run was refused: it is not to be done before."""
        if is_write_of("two/checkpoints/4/", method, path):
            refused.wait(300)

    network.noticed = hold
    with started(workdir) as first:
        wait_for(lambda: any("checkpoints/2/" in name for name in Bucket(workdir).objects()), first)
        with started(workdir) as second:
            said, _ = second.communicate(timeout=300)
        assert second.returncode == 1, said
        assert f"error: --workdir {workdir}: another run is writing there" in said.splitlines()[-1]
        first.send_signal(signal.SIGTERM)
        refused.set()
        said, _ = first.communicate(timeout=300)
        assert first.returncode == 75, said
    assert lease.NAME not in Bucket(workdir).objects()
    assert "waiting" not in complete(workdir)
    assert_as_on_disk(workdir, on_disk)


def test_two_processes_write_what_one_goes_on_from(network, tmp_path):
    workdir = "gs://runs/processes"
    address = free_address()

    def job(i):
        arguments = ["--config", tiny.CONFIG, *FLAGS, "--workdir", workdir, "--distributed", f"{address},2,{i}"]
        stop = {"fail_at": 11, "fault": "SIGTERM"} if i == 1 else {}
        return {"do": "command_line", "arguments": arguments, "record": str(tmp_path / f"{i}.jsonl")} | stop

    for code, _, said in ended(start_workers([job(0), job(1)])):
        assert code == 75, said
        assert "is saved" in said or "another" in said
    reached = max(int(name.split("/")[1]) for name in Bucket(workdir).objects("checkpoints/"))
    assert 11 <= reached < STEPS
    assert f"resuming after step {reached} of {STEPS}" in complete(workdir)
    _, lines = outcome(workdir)
    losses = [step for step, values in lines if "loss" in values]
    assert losses == list(range(1, STEPS + 1))


def test_records_in_a_bucket_train_as_those_on_a_disk(network, repo, tmp_path, monkeypatch):
    from ddrnet_jax import main as main_lib

    monkeypatch.chdir(repo)
    outcomes = []
    for place in ("gs://runs/records/scenes", str(tmp_path / "records")):
        flags = ("--mode", "prepare_data", "--config", "configs/demo.py", *FLAGS, "--output", place)
        assert main_lib.main([*flags]) == 0
        workdir = tmp_path / f"run{len(outcomes)}"
        process = start(workdir, "--config.data.storage=array_record", f"--config.data.root={place}")
        said, _ = process.communicate(timeout=600)
        assert process.returncode == 0, said
        checksums, lines = outcome(workdir)
        outcomes.append(({k: v for k, v in checksums.items() if k != "description"}, lines))
    assert outcomes[0] == outcomes[1]


def test_a_run_is_evaluated_reported_and_exported_from_its_address(network, tmp_path, capsys, monkeypatch):
    from ddrnet_jax import load_checkpoint
    from ddrnet_jax import main as main_lib

    workdir = "gs://runs/used"
    complete(workdir)
    tiny.use(monkeypatch.setattr)
    model, config = load_checkpoint(workdir)  # as a cell of a notebook does
    assert (type(model).__name__, config.total_steps) == ("Tiny", STEPS)
    commands = {
        ("evaluate", "--config", tiny.CONFIG, *FLAGS, "--checkpoint", workdir): "mIoU",
        ("report", "--workdir", workdir): f"the report is in {workdir}/report.html",
        ("report", "--workdir", workdir, "--compare", f"{workdir}/checkpoints/{STEPS}", "--output", str(tmp_path)): "",
        ("predict", "--checkpoint", workdir, "--engine", "jax", "--output", str(tmp_path / "out")): "samples.png",
        ("doctor", "--config", tiny.CONFIG, *FLAGS, "--checkpoint", workdir): "error(s)",
    }
    for command, expected in commands.items():
        assert main_lib.main(["--mode", *command]) == 0, capsys.readouterr().err
        assert expected in capsys.readouterr().out
    report = Bucket(workdir).objects("report.html")["report.html"].download_as_text()
    assert report.count(workdir) > 0
    assert (tmp_path / "report.html").read_text().count(f"{workdir}/checkpoints/{STEPS}") > 0
