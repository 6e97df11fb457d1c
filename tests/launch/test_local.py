"""launch/local.sh with a stand-in for python: when a run is started again, and processes that end together."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from launchers import ARGUMENTS, ENDLESS, TRAINING, launch, lines, stand_in, stand_in_with_codes, wait_for


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
