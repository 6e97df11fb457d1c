"""The launchers: lint, what --dry-run prints, and their loops with stand-ins for python, srun and gcloud."""

import os
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

ARGUMENTS = ["--config", "configs/demo.py", "--workdir", "w"]
TRAINING = "-m ddrnet_jax.main --config configs/demo.py --workdir w"
SRUN = "--kill-on-bad-exit=0 --wait=300"
REMOTE = ["--config", "configs/demo.py", "--workdir", "/mnt/shared/run"]
# Longer than any test, but no process outlives a test that fails.
ENDLESS = "for _ in {1..400}; do sleep 0.05; done"
VARIABLES = (
    "PROCESSES",
    "PYTHON",
    "ZONE",
    "PROJECT",
    "TPU_TYPE",
    "SPOT",
    "MAX_CRASHES",
    "HEALTHY_S",
    "BUCKETS",
    "MOUNT",
)
SCRIPTS = ("local.sh", "gpu_node.sh", "slurm.sbatch", "tpu_create.sh", "tpu_setup.sh", "tpu_run.sh", "gke_xpk.sh")


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


def stand_in(path: Path, body: str) -> None:
    """An executable bash script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/usr/bin/env bash\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def stand_in_with_codes(path: Path, codes: list[int]) -> Path:
    """An executable that notes its arguments and ends with the next of `codes`; returns the file of its calls."""
    calls = path.with_suffix(".calls")
    calls.touch()
    stand_in(
        path,
        f'if [[ $1 == -c ]]; then exec {sys.executable} "$@"; fi\n'
        f'echo "$*" >>{calls}; codes=({" ".join(map(str, codes))})\n'
        f"code=${{codes[$(wc -l <{calls}) - 1]}}\n"
        "((code < 128)) || kill -$((code - 128)) $$\nexit $code",
    )
    return calls


def launch(repo: Path, script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """A launcher, called from a folder that has nothing to do with it."""
    return subprocess.run(
        ["bash", str(repo / "launch" / script), *arguments],
        cwd="/",
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def wait_for(condition, seconds: float = 20.0):
    """Poll until `condition()` is true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


# Every script


def test_shellcheck_finds_nothing(repo):
    shellcheck = Path(sys.executable).parent / "shellcheck"
    scripts = sorted(str(p) for p in (repo / "launch").iterdir() if p.suffix in (".sh", ".sbatch"))
    result = subprocess.run([str(shellcheck), "--external-sources", *scripts], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("script", [*SCRIPTS, "tpu_worker.sh"])
def test_a_script_is_executable_strict_and_says_what_was_not_run(repo, script):
    text = (repo / "launch" / script).read_text()
    assert text.startswith("#!/usr/bin/env bash\n# ")
    assert "\nset -euo pipefail" in text
    if script not in ("local.sh", "tpu_worker.sh"):
        assert "BY US" in text.partition("set -euo")[0]
    if script.endswith(".sh"):
        assert os.access(repo / "launch" / script, os.X_OK)


@pytest.mark.parametrize("script", [s for s in SCRIPTS if s.endswith(".sh")])
def test_help_is_the_head_of_the_script(repo, script):
    result = launch(repo, script, "--help")
    assert result.returncode == 0
    assert f"launch/{script} [--dry-run]" in result.stdout
    assert "set -euo" not in result.stdout


DRY_RUNS = {
    "local.sh": ({}, ARGUMENTS, [f"python {TRAINING}"]),
    "local.sh of two processes": (
        {"PROCESSES": "2"},
        ARGUMENTS,
        [f"python {TRAINING} --distributed localhost:PORT,2,{i}" for i in (0, 1)],
    ),
    "gpu_node.sh": (
        {},
        ARGUMENTS,
        [
            "env JAX_PLATFORMS=cuda,cpu XLA_PYTHON_CLIENT_MEM_FRACTION=0.92 {launch}/local.sh "
            "--config configs/demo.py --workdir w",
            f"python {TRAINING}",
        ],
    ),
    "slurm.sbatch": (
        {"SLURM_JOB_ID": "7"},
        ARGUMENTS,
        [
            f"srun {SRUN} python {TRAINING} --distributed auto",
            "# on exit code 75: scontrol requeue 7",
        ],
    ),
    "tpu_create.sh": (
        {"ZONE": "a-zone", "TPU_TYPE": "v6e-16", "SPOT": "1", "PROJECT": "p"},
        ["pod"],
        [
            "gcloud compute tpus queued-resources describe pod --format=value(state.state) "
            "--zone=a-zone --project=p --quiet",
            "gcloud compute tpus queued-resources delete pod --force --zone=a-zone --project=p --quiet",
            "gcloud compute tpus queued-resources create pod --node-id=pod --accelerator-type=v6e-16 "
            "--runtime-version=v2-alpha-tpuv6e --spot --zone=a-zone --project=p --quiet",
        ],
    ),
    "gke_xpk.sh": (
        {"CLUSTER": "c", "TPU_TYPE": "v5litepod-16"},
        ["job", *REMOTE],
        [
            "xpk workload create --workload=job --cluster=c --tpu-type=v5litepod-16 --num-slices=1 "
            "--base-docker-image=python:3.12 --script-dir={root} --max-restarts=50 --restart-on-exit-codes=75 "
            "--termination-grace-period-seconds=120 --command=pip install --quiet '.[tpu]' && exec python "
            "-m ddrnet_jax.main --config configs/demo.py --workdir /mnt/shared/run --distributed auto"
        ],
    ),
}


def unquoted(line: str) -> str:
    """A printed command as the shell would pass it on; comments as they are."""
    head, mark, command = line.rpartition("# on exit code 75: ")
    return head + mark + " ".join(shlex.split(command))


@pytest.mark.parametrize("name", DRY_RUNS)
def test_dry_run_prints_the_commands_and_runs_none(repo, bin_folder, name):
    for program in ("python", "gcloud", "srun", "scontrol", "xpk", "nvidia-smi"):
        stand_in(bin_folder / program, f"touch {bin_folder}/ran; exit 9")
    environment, arguments, expected = DRY_RUNS[name]
    result = launch(repo, name.split()[0], "--dry-run", *arguments, **environment)
    assert (result.returncode, result.stderr) == (0, "")
    expected = [e.replace("{launch}", str(repo / "launch")).replace("{root}", str(repo)) for e in expected]
    assert [unquoted(line) for line in result.stdout.splitlines()] == expected
    assert not (bin_folder / "ran").exists()


def test_dry_run_of_a_pod_prints_every_step_on_every_worker(repo, bin_folder):
    stand_in(bin_folder / "gcloud", f"touch {bin_folder}/ran; exit 9")
    result = launch(repo, "tpu_run.sh", "--dry-run", "pod", *REMOTE, ZONE="a-zone", TPU_TYPE="v4-16")
    assert (result.returncode, result.stderr) == (0, "")
    describe, delete, create, pack, copy, install, train = result.stdout.splitlines()
    assert "describe pod" in describe
    assert "delete pod --force" in delete
    assert "--runtime-version=tpu-ubuntu2204-base" in create
    assert "--spot" not in create
    assert pack.startswith("git -C ")
    assert "tpu-vm scp" in copy
    assert "uv pip install" in install
    assert shlex.split(train)[-3].endswith(
        "launch/tpu_worker.sh .venv/bin/python -m ddrnet_jax.main --config configs/demo.py "
        "--workdir /mnt/shared/run --distributed auto"
    )
    assert all("--worker=all" in line for line in (copy, install, train))
    assert not (bin_folder / "ran").exists()


@pytest.mark.parametrize(
    ("script", "arguments", "environment", "message"),
    [
        ("local.sh", ARGUMENTS, {"PROCESSES": "two"}, "PROCESSES=two"),
        ("local.sh", ["--distributed", "auto"], {"PROCESSES": "2"}, "leave one out"),
        ("gpu_node.sh", ARGUMENTS, {"PROCESSES": "2"}, "one process drives all GPUs"),
        ("gpu_node.sh", ARGUMENTS, {}, "nvidia-smi finds no GPU"),
        ("tpu_create.sh", ["Pod"], {"TPU_TYPE": "v4-8"}, "'Pod'"),
        ("tpu_create.sh", ["pod"], {}, "TPU_TYPE"),
        ("tpu_run.sh", ["pod", *ARGUMENTS], {"TPU_TYPE": "v4-8"}, "expected --workdir gs://BUCKET/RUN, or /mnt/SHARED"),
        ("gke_xpk.sh", ["job", *ARGUMENTS], {"TPU_TYPE": "v4-8", "CLUSTER": "c"}, "/mnt/SHARED/RUN"),
    ],
)
def test_what_is_wrong_ends_in_one_line(repo, bin_folder, script, arguments, environment, message):
    for program in ("python", "gcloud", "xpk"):
        stand_in(bin_folder / program, f"touch {bin_folder}/ran")
    stand_in(bin_folder / "nvidia-smi", "exit 9")
    result = launch(repo, script, *arguments, **environment)
    assert result.returncode == 1
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not (bin_folder / "ran").exists()


# local.sh


@pytest.mark.parametrize(
    ("codes", "environment", "runs", "code"),
    [
        ([0], {}, 1, 0),
        ([1], {}, 1, 1),
        ([3], {}, 1, 3),
        ([130], {}, 1, 130),
        ([75, 75, 75, 75, 75, 0], {}, 6, 0),
        ([75, 1], {}, 2, 1),
        ([137, 134, 139, 137], {}, 4, 137),  # three relaunches
        ([137, 137, 0], {"MAX_CRASHES": "2"}, 3, 0),
        ([137, 137, 0], {"MAX_CRASHES": "1"}, 2, 137),
        ([137, 137, 137, 0], {"MAX_CRASHES": "1", "HEALTHY_S": "0"}, 4, 0),  # each ran long enough
    ],
)
def test_local_starts_again_what_was_preempted_or_killed(repo, bin_folder, codes, environment, runs, code):
    calls = stand_in_with_codes(bin_folder / "python", codes)
    result = launch(repo, "local.sh", *ARGUMENTS, "--config.data.root=a b", **environment)
    assert result.returncode == code
    assert lines(calls) == [f"{TRAINING} --config.data.root=a b"] * runs


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_local_told_to_stop_lets_the_run_save_and_starts_no_other(repo, bin_folder, tmp_path, number):
    stand_in(
        bin_folder / "python",
        f"trap 'sleep 0.3; echo saved >>{tmp_path}/saved; exit 75' TERM; echo $$ >>{tmp_path}/runs\n{ENDLESS}",
    )
    # A shell that starts the tests in the background lets them ignore Ctrl-C, and bash traps nothing that it ignores.
    heeding = (
        "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", heeding, repo / "launch" / "local.sh", *ARGUMENTS],
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(lambda: lines(tmp_path / "runs"))
    process.send_signal(number)
    assert process.communicate(timeout=30)[1] == ""  # no word of starting again
    assert process.returncode == 75
    assert lines(tmp_path / "saved") == ["saved"]
    assert len(lines(tmp_path / "runs")) == 1


def two_processes(bin_folder: Path, tmp_path: Path, first: str, second: str) -> None:
    """Stand-ins by rank; `n` in their code is how often that rank was started."""
    stand_in(
        bin_folder / "python",
        f"""[[ $1 != -c ]] || exec {sys.executable} "$@"
value="${{*: -1}}"; rank=${{value##*,}}
echo "$*" >>{tmp_path}/calls$rank; n=$(wc -l <{tmp_path}/calls$rank)
if [[ $rank == 0 ]]; then {first}
else {second}
fi""",
    )


def test_two_processes_share_a_port_and_their_success(repo, bin_folder, tmp_path):
    two_processes(bin_folder, tmp_path, "exit 0", f"sleep 0.5; touch {tmp_path}/finished")
    assert launch(repo, "local.sh", *ARGUMENTS, PROCESSES="2").returncode == 0
    assert (tmp_path / "finished").exists()
    (first,), (second,) = lines(tmp_path / "calls0"), lines(tmp_path / "calls1")
    assert first.startswith(f"{TRAINING} --distributed localhost:")
    assert first.endswith(",2,0")
    assert second == first[:-1] + "1"


@pytest.mark.parametrize("trap", ["", "trap '' TERM;"])
def test_when_one_process_fails_the_other_is_ended(repo, bin_folder, tmp_path, trap):
    two_processes(bin_folder, tmp_path, f"{trap} {ENDLESS}; touch {tmp_path}/endured", "sleep 0.3; exit 3")
    result = launch(repo, "local.sh", *ARGUMENTS, PROCESSES="2", GRACE_S="1")
    assert result.returncode == 3
    assert not (tmp_path / "endured").exists()


def test_preempted_processes_end_by_themselves_and_start_again_on_another_port(repo, bin_folder, tmp_path):
    save = f"trap 'echo told >>{tmp_path}/told' TERM; ((n == 1)) || exit 0"
    two_processes(bin_folder, tmp_path, f"{save}; exit 75", f"{save}; sleep 0.6; touch {tmp_path}/saved; exit 75")
    assert launch(repo, "local.sh", *ARGUMENTS, PROCESSES="2").returncode == 0
    assert (tmp_path / "saved").exists()
    assert not (tmp_path / "told").exists()
    assert len(set(lines(tmp_path / "calls0"))) == 2


def test_a_killed_process_starts_both_again_although_the_other_ends_with_an_error(repo, bin_folder, tmp_path):
    again = "((n == 1)) || exit 0"
    two_processes(bin_folder, tmp_path, f"{again}; exit 1", f"{again}; kill -9 $$")
    assert launch(repo, "local.sh", *ARGUMENTS, PROCESSES="2").returncode == 0
    assert len(lines(tmp_path / "calls0")) == len(lines(tmp_path / "calls1")) == 2


# slurm.sbatch


@pytest.fixture
def spool(repo, tmp_path) -> Path:
    """The copy that SLURM runs."""
    return Path(shutil.copy(repo / "launch" / "slurm.sbatch", tmp_path / "slurm_script"))


@pytest.mark.parametrize(
    ("codes", "runs", "requeued", "code"),
    [
        ([0], 1, False, 0),
        ([1], 1, False, 1),
        ([75], 1, True, 75),
        ([137, 134, 0], 3, False, 0),
        ([137, 75], 2, True, 75),
        ([137, 137, 137, 137], 4, False, 137),
    ],
)
def test_slurm_requeues_what_was_told_to_stop(bin_folder, spool, codes, runs, requeued, code):
    calls = stand_in_with_codes(bin_folder / "srun", codes)
    requeues = stand_in_with_codes(bin_folder / "scontrol", [0])
    result = subprocess.run(
        ["bash", spool, *ARGUMENTS], env={**os.environ, "SLURM_JOB_ID": "7"}, cwd="/", capture_output=True, timeout=120
    )
    assert result.returncode == code
    assert lines(calls) == [f"{SRUN} python {TRAINING} --distributed auto"] * runs
    assert lines(requeues) == ["requeue 7"] * requeued


def test_slurm_wants_a_task_for_every_gpu(bin_folder, spool):
    srun = stand_in_with_codes(bin_folder / "srun", [0])
    environment = {**os.environ, "SLURM_JOB_ID": "7", "SLURM_GPUS_ON_NODE": "4", "SLURM_NTASKS_PER_NODE": "1"}
    result = subprocess.run(["bash", spool, *ARGUMENTS], env=environment, capture_output=True, text=True)
    assert (result.returncode, lines(srun)) == (1, [])
    assert result.stderr.startswith("error: 4 GPUs and 1 tasks on a node")


def test_slurm_passes_sigterm_on_to_the_step(bin_folder, spool, tmp_path):
    stand_in(bin_folder / "srun", f"trap 'touch {tmp_path}/saved; exit 75' TERM; touch {tmp_path}/up; {ENDLESS}")
    requeues = stand_in_with_codes(bin_folder / "scontrol", [0])
    process = subprocess.Popen(["bash", spool, *ARGUMENTS], env={**os.environ, "SLURM_JOB_ID": "7"})
    wait_for((tmp_path / "up").exists)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 75
    assert (tmp_path / "saved").exists()
    assert lines(requeues) == ["requeue 7"]


# TPUs


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
    remote = ["--config", "configs/demo.py", "--workdir", "gs://my_runs/a run", records, "--config.init_from=a=gs://no"]
    result = launch(cloud, "tpu_run.sh", "pod", *remote)
    assert result.returncode == 0, result.stderr
    assert calls(cloud) == ["create", *["scp", "mount", "install", "train"] * 2]
    options = "--implicit-dirs --rename-dir-limit=100000 --metadata-cache-ttl-secs=0"
    owner = os.getuid()
    for worker in (0, 1):
        assert lines(folder / f"mounts{worker}") == [
            line
            for bucket in ("my_runs", "data.of-all")
            for line in (
                f"sudo mkdir -p /mnt/gs/{bucket}",
                f"sudo chown {owner} /mnt/gs/{bucket}",
                f"gcsfuse {options} {bucket} /mnt/gs/{bucket}",
            )
        ]
        (command, _) = runs(cloud, worker)
        assert command == (
            "-m ddrnet_jax.main --config configs/demo.py --workdir /mnt/gs/my_runs/a run "
            "--config.data.root=/mnt/gs/data.of-all/records --config.init_from=a=gs://no --distributed auto"
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
    result = launch(cloud, "tpu_run.sh", "pod", *REMOTE[:2], "--workdir=gs://mine/run")
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
    result = launch(cloud, "tpu_run.sh", "pod", *REMOTE[:2], "--workdir=gs://mine/run", MAX_CRASHES="1")
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
