"""SIGTERM and Ctrl-C are asked for between steps, leave no handler behind, and end a run as documented."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from ddrnet_jax.training.interruption import Interruption, Preempted, StoppedByUser


@pytest.fixture(autouse=True)
def handlers_come_back():
    before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    yield
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == before


def send(number):
    os.kill(os.getpid(), number)


def test_sigterm_is_asked_for_and_the_second_changes_nothing(capfd):
    with Interruption() as interruption:
        assert not interruption.requested(1)
        send(signal.SIGTERM)
        assert interruption.requested(2)
        send(signal.SIGTERM)
        assert interruption.requested(3)
        assert isinstance(interruption.error(), Preempted)
    assert "SIGTERM: stopping after this step" in capfd.readouterr().err


def test_one_ctrl_c_saves_and_a_second_stops_at_once(capfd):
    with pytest.raises(KeyboardInterrupt, match="at once") as caught, Interruption() as interruption:  # noqa: PT012
        send(signal.SIGINT)
        assert interruption.requested(1)
        assert isinstance(interruption.error(), StoppedByUser)
        send(signal.SIGINT)
    assert not isinstance(caught.value, StoppedByUser)  # nothing may be saved from the middle of a step
    assert "Ctrl-C: stopping after this step" in capfd.readouterr().err


def test_ctrl_c_after_sigterm_gives_the_exit_code_of_ctrl_c():
    with Interruption() as interruption:
        assert not interruption.requested(1)
        assert not interruption.requested(2)
        send(signal.SIGTERM)
        send(signal.SIGINT)
        send(signal.SIGTERM)
        assert isinstance(interruption.error(), StoppedByUser)


def test_an_evaluation_stops_between_two_samples():
    with Interruption() as interruption:
        samples = interruption.watched(range(5))
        assert next(samples) == 0
        send(signal.SIGTERM)
        with pytest.raises(Preempted):
            next(samples)
    with Interruption() as interruption:
        assert list(interruption.watched(range(3))) == [0, 1, 2]


def test_other_threads_may_train_and_leave_the_handlers_alone():
    seen = []

    def run():
        with Interruption() as interruption:
            seen.append((signal.getsignal(signal.SIGTERM), interruption.requested(1)))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [(before, False)]


COMPILING = """
import hashlib, os, signal, threading, time
from ddrnet_jax.training.interruption import Interruption

def send():
    for _ in range(2):
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)

with Interruption() as interruption:
    interruption.requested(0)
    threading.Thread(target=send, daemon=True).start()
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)  # like a compilation: minutes in which no handler runs
"""


def test_two_signals_end_a_long_compilation_at_once():
    done = subprocess.run([sys.executable, "-c", COMPILING], capture_output=True, text=True, timeout=200)
    assert done.returncode == 75, done.stderr
    said = [line for line in done.stderr.splitlines() if line]
    assert [line.split(";")[0] for line in said] == ["SIGTERM: stopping after this step", "SIGTERM: stopped at once"]
