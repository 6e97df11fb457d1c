"""The TPU launchers with a stand-in for gcloud: a pod from nothing to a finished run."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from launchers import ENDLESS, REMOTE, launch, lines, stand_in, wait_for


@pytest.fixture
def cloud(repo, bin_folder, tmp_path, monkeypatch) -> Path:
    """A small repository with the launchers, and a cloud with two workers a TPU; see fake_gcloud.py."""
    folder = tmp_path / "cloud"
    folder.mkdir()
    copy = tmp_path / "repo"
    shutil.copytree(repo / "launch", copy / "launch")
    for name in ("kept.txt", "untracked.txt", "ignored.txt", "deleted.txt"):
        (copy / name).touch()
    (copy / ".gitignore").write_text("ignored.txt\n")
    subprocess.run(["git", "init", "--quiet", copy], check=True)
    subprocess.run(["git", "-C", copy, "add", "kept.txt", "deleted.txt", "launch"], check=True)
    (copy / "deleted.txt").unlink()
    fake = Path(__file__).with_name("fake_gcloud.py")
    stand_in(bin_folder / "gcloud", f'exec {sys.executable} -SE {fake} "$@"')
    # What setup calls on a worker; the environment's python is made by the test, in $FAKE_CLOUD/python.
    stand_in(
        bin_folder / "python3",
        '[[ "$*" != *" venv "* ]] || { mkdir -p .venv/bin && cp "$FAKE_CLOUD/python" .venv/bin/python; }',
    )
    monkeypatch.setenv("FAKE_CLOUD", str(folder))
    monkeypatch.setenv("ZONE", "a-zone")
    monkeypatch.setenv("TPU_TYPE", "v5litepod-16")
    return copy


def training(cloud: Path, body: str) -> None:
    """What the workers' python does: bash, with `worker`, and `n`: how often it was started on this worker."""
    folder = cloud.parent / "cloud"
    stand_in(
        folder / "python",
        f'worker=$(basename $HOME); echo "$*" >>{folder}/runs$worker; n=$(wc -l <{folder}/runs$worker)\n{body}',
    )


def calls(cloud: Path) -> list[str]:
    """What gcloud was asked for, in short."""
    found = []
    for line in lines(cloud.parent / "cloud" / "calls.txt"):
        kind = line.split()[3]
        if kind == "ssh":
            marks = {"tpu_worker.sh": "train", "uv pip": "install", "gcsfuse": "mount"}
            kind = next((name for mark, name in marks.items() if mark in line), "ended")
        if kind not in ("describe", "ended"):
            found.append(kind)
    return found


SETUP = ["scp", "install"]
NEW = ["create", *SETUP]


def tpu_run(cloud: Path, **environment: str) -> subprocess.CompletedProcess:
    return launch(cloud, "tpu_run.sh", "pod", *REMOTE, **environment)


def runs(cloud: Path, worker: int = 0) -> list[str]:
    return lines(cloud.parent / "cloud" / f"runs{worker}")


def test_a_pod_is_asked_for_set_up_and_trains_on_all_workers(cloud):
    training(cloud, "echo hello from $worker")
    result = tpu_run(cloud)
    assert result.returncode == 0, result.stderr
    assert calls(cloud) == [*NEW, "train"]
    command = "-m ddrnet_jax.main --config configs/demo.py --workdir /mnt/shared/run --distributed auto"
    assert runs(cloud, 0) == runs(cloud, 1) == [command]
    assert "hello from 0" in result.stdout
    assert "hello from 1" in result.stdout
    assert "queued-resources delete pod" in result.stderr  # what it costs until
    copied = {p.name for p in (cloud.parent / "cloud/workers/1/ddrnet_jax").iterdir()}
    assert copied == {"kept.txt", "untracked.txt", ".gitignore", "launch", ".venv"}


def test_buckets_are_mounted_on_every_worker_once(cloud, bin_folder):
    training(cloud, "((n > 1)) || exit 75")
    folder = cloud.parent / "cloud"
    for program in ("sudo", "gcsfuse"):
        stand_in(bin_folder / program, f'echo "{program} $*" >>{folder}/mounts$(basename $HOME)')
    stand_in(bin_folder / "mountpoint", f'grep -q "gcsfuse.* $2$" {folder}/mounts$(basename $HOME)')
    records = "--config.data.root=gs://data.of-all/records"
    pseudo = ["--config.data.pseudo_root", "gs://my_frames/a run"]
    others = [
        "--workdir",
        "gs://my_runs/run",
        "--config.init_from=gs://my_runs/other",
    ]
    remote = ["--config", "configs/demo.py", *others, records, *pseudo]
    result = launch(cloud, "tpu_run.sh", "pod", *remote)
    assert result.returncode == 0, result.stderr
    assert calls(cloud) == ["create", *["scp", "mount", "install", "train"] * 2]
    options = "--implicit-dirs --metadata-cache-ttl-secs=0"
    owner = os.getuid()
    for worker in (0, 1):
        assert lines(folder / f"mounts{worker}") == [
            line
            for bucket in ("data.of-all", "my_frames")
            for line in (
                f"sudo mkdir -p /mnt/gs/{bucket}",
                f"sudo chown {owner} /mnt/gs/{bucket}",
                f"gcsfuse {options} {bucket} /mnt/gs/{bucket}",
            )
        ]
        (command, _) = runs(cloud, worker)
        assert command == (
            "-m ddrnet_jax.main --config configs/demo.py --workdir gs://my_runs/run "
            "--config.init_from=gs://my_runs/other --config.data.root=/mnt/gs/data.of-all/records "
            "--config.data.pseudo_root /mnt/gs/my_frames/a run --distributed auto"
        )


def test_a_worker_without_gcsfuse_gets_it(cloud, bin_folder):
    training(cloud, "exit 0")
    folder = cloud.parent / "cloud"
    made = bin_folder / "gcsfuse"  # both workers make it, and may run the other's
    stand_in(bin_folder / "making", "")
    stand_in(
        bin_folder / "sudo",
        f'echo "$*" >>{folder}/asked; [[ $1 != tee ]] || cat >>{folder}/written\n'
        f'[[ $* != *"install gcsfuse" ]] || {{ cp -p {bin_folder}/making {made}.$$ && mv {made}.$$ {made}; }}',
    )
    stand_in(bin_folder / "curl", "echo the key")
    stand_in(bin_folder / "lsb_release", "echo jammy")
    result = launch(cloud, "tpu_run.sh", "pod", *REMOTE, "--config.data.root=gs://mine/records")
    assert result.returncode == 0, result.stderr
    asked = lines(folder / "asked")
    assert "apt-get -qq -o DPkg::Lock::Timeout=300 install gcsfuse" in asked
    assert "tee /etc/apt/sources.list.d/gcsfuse.list" in asked
    assert made.exists()
    key, repository = sorted(set(lines(folder / "written")), key=len)
    assert key == "the key"
    assert repository.endswith("https://packages.cloud.google.com/apt gcsfuse-jammy main")


def test_a_bucket_that_cannot_be_mounted_trains_nothing(cloud, bin_folder):
    training(cloud, "exit 0")
    stand_in(bin_folder / "sudo", "")
    stand_in(bin_folder / "gcsfuse", "echo 'bucket mine does not exist' >&2; exit 1")
    result = launch(cloud, "tpu_run.sh", "pod", *REMOTE, "--config.data.root=gs://mine/records", MAX_CRASHES="1")
    assert result.returncode == 255
    assert "bucket mine does not exist" in result.stderr
    assert calls(cloud) == ["create", "scp", "mount", "scp", "mount"]
    assert runs(cloud) == []


def test_a_preempted_pod_is_deleted_asked_for_again_and_the_run_goes_on(cloud):
    # As it goes: both workers are told and save; then the machines are gone, the resource SUSPENDING for a while.
    preempt = "echo -n SUSPENDING >$FAKE_CLOUD/state; echo SUSPENDED >$FAKE_CLOUD/coming; exit 75"
    training(cloud, f"((n < 3)) || exit 0; if ((worker == 0)); then sleep 0.2; {preempt}; else exit 75; fi")
    result = tpu_run(cloud, SPOT="1", MAX_CRASHES="0")
    assert result.returncode == 0, result.stderr
    assert calls(cloud) == [*NEW, "train", "delete", *NEW, "train", "delete", *NEW, "train"]
    assert all("--spot" in c for c in lines(cloud.parent / "cloud/calls.txt") if "-resources create" in c)
    assert len(runs(cloud)) == 3


@pytest.mark.parametrize(
    ("body", "environment", "trained", "code"),
    [
        ("((n > 2)) || exit 75", {"MAX_CRASHES": "0"}, 3, 0),  # told to stop, and the TPU is still there
        ("exit 1", {}, 1, 1),  # an error that would come again
        ("((worker == 0)) || exit 1", {}, 1, 1),
        ("kill -9 $$", {"MAX_CRASHES": "1"}, 2, 137),
        # One is killed, the other loses it and ends with an error.
        ("((n > 1)) || if ((worker)); then kill -9 $$; else exit 1; fi", {}, 2, 0),
    ],
)
def test_what_a_run_on_a_pod_ends_with_decides(cloud, body, environment, trained, code):
    training(cloud, body)
    result = tpu_run(cloud, **environment)
    assert result.returncode == code, result.stderr
    assert len(runs(cloud)) == trained
    assert calls(cloud) == ["create"] + [*SETUP, "train"] * trained


def test_gclouds_own_failures_are_not_the_runs(cloud):
    training(cloud, "exit 0")
    failing = cloud.parent / "cloud" / "failing.txt"
    failing.write_text("tpu_worker.sh 2\nscp 1\ndescribe 3\n")
    result = tpu_run(cloud)
    assert result.returncode == 0, result.stderr
    assert calls(cloud) == ["create", "scp", *SETUP, "train", *SETUP, "train", *SETUP, "train"]
    failing.write_text("tpu_worker.sh 99\n")
    assert tpu_run(cloud, MAX_CRASHES="1").returncode == 255
    assert len(runs(cloud)) == 1


def test_a_pod_that_someone_deleted_is_not_asked_for_again(cloud):
    training(cloud, "rm $FAKE_CLOUD/state; sleep 0.3; exit 75")
    result = tpu_run(cloud)
    assert result.returncode == 1
    assert "deleted by someone" in result.stderr
    assert calls(cloud) == [*NEW, "train"]


def test_no_tpu_is_asked_for_while_gcloud_does_not_say_whether_there_is_one(cloud):
    training(cloud, "exit 0")
    (cloud.parent / "cloud" / "failing.txt").write_text("describe 99\n")
    result = tpu_run(cloud)
    assert result.returncode == 1
    assert "PERMISSION_DENIED" in result.stderr
    assert calls(cloud) == []


def test_a_request_that_fails_is_not_repeated(cloud):
    training(cloud, "exit 0")
    folder = cloud.parent / "cloud"
    (folder / "failing.txt").write_text("queued-resources create 1\n")
    assert tpu_run(cloud).returncode == 1
    assert calls(cloud) == ["create"]
    (folder / "calls.txt").unlink()
    (folder / "state").write_text("FAILED")  # one of before is replaced once ...
    (folder / "coming").touch()
    (folder / "workers").mkdir()
    assert tpu_run(cloud).returncode == 0
    assert calls(cloud) == ["delete", *NEW, "train"]


def worker(cloud: Path, home: Path, *command: str) -> subprocess.Popen:
    return subprocess.Popen(
        [cloud / "launch" / "tpu_worker.sh", *command],
        env={**os.environ, "HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def test_a_broken_connection_leaves_the_run_and_the_next_one_finds_it(cloud, tmp_path):
    run = (
        f"echo started >>{tmp_path}/started; for _ in {{1..400}}; do [[ -e {tmp_path}/go ]] && break; sleep 0.05; done"
        "; echo done; exit 75"
    )
    first = worker(cloud, tmp_path, "bash", "-c", run)
    wait_for((tmp_path / "started").exists)
    os.killpg(first.pid, signal.SIGKILL)  # what ssh had started
    first.communicate(timeout=20)
    other = worker(cloud, tmp_path, "bash", "-c", "exit 0")
    assert "another run is going on here" in other.communicate(timeout=20)[0]
    assert other.returncode == 65
    second = worker(cloud, tmp_path, "bash", "-c", run)
    time.sleep(0.3)
    (tmp_path / "go").touch()
    assert second.communicate(timeout=20)[0] == "done\n"
    assert second.returncode == 75
    assert lines(tmp_path / "started") == ["started"]
    third = worker(cloud, tmp_path, "bash", "-c", "exit 3")
    assert (third.communicate(timeout=20)[0], third.returncode) == ("", 3)  # nothing of the old run is left


def test_stop_lets_the_run_save_and_ends_the_loop(cloud):
    training(cloud, f"trap 'echo saved; exit 75' TERM; touch $FAKE_CLOUD/up$worker; {ENDLESS}")
    folder = cloud.parent / "cloud"
    process = subprocess.Popen(
        [cloud / "launch" / "tpu_run.sh", "pod", *REMOTE], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_for(lambda: (folder / "up0").exists() and (folder / "up1").exists())
    assert launch(cloud, "tpu_run.sh", "--stop", "pod").returncode == 0
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out.count("saved")) == (130, 2), err
    assert len(runs(cloud)) == 1
