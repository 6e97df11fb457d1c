"""Connections to the coordinator go through, and its end is told, not passed on."""

import contextlib
import socket
import threading
import types

import pytest

from ddrnet_jax.runtime import processes
from ddrnet_jax.runtime.relay import relayed


@pytest.fixture
def coordinator():
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as listener:
        listener.settimeout(10)
        yield listener


def connected(coordinator, lost):
    """A client's socket, connected by way of the relay."""
    return connected_to(coordinator.getsockname()[1], lost)


def connected_to(port, lost):
    host, port_here = relayed(f"127.0.0.1:{port}", lost).rsplit(":", 1)
    return socket.create_connection((host, int(port_here)), timeout=10)


def received(source, count):
    with source.makefile("rb") as file:
        return file.read(count)


def test_bytes_pass_both_ways_and_a_coordinator_that_is_gone_leaves_the_connection_open(coordinator):
    lost = threading.Event()
    sent = bytes(range(256)) * 1000
    with connected(coordinator, lost.set) as near:
        far, _ = coordinator.accept()
        threading.Thread(target=near.sendall, args=(sent,)).start()
        with far:
            assert received(far, len(sent)) == sent
            far.sendall(sent)
            assert received(near, len(sent)) == sent
            assert not lost.is_set()
        assert lost.wait(10)
        near.settimeout(0.1)
        with pytest.raises(TimeoutError):
            near.recv(1)


def test_who_leaves_by_itself_has_lost_nobody(coordinator):
    told = []
    near = connected(coordinator, lambda: told.append("lost"))
    far, _ = coordinator.accept()
    with far:
        far.sendall(b"settings")
        assert received(near, 8) == b"settings"
        near.close()
        assert far.recv(1) == b""  # passed on
    assert told == []


def test_one_that_takes_a_connection_and_says_nothing_may_be_tried_again(coordinator):
    """As a tunnel does whose other end is not there yet."""
    with connected(coordinator, pytest.fail) as near:
        coordinator.accept()[0].close()
        assert near.recv(1) == b""


def test_one_that_is_not_there_yet_may_be_tried_again(coordinator):
    port = coordinator.getsockname()[1]
    coordinator.close()
    with connected_to(port, pytest.fail) as near:
        assert near.recv(1) == b""


def test_a_coordinator_that_ends_after_this_process_has_left_is_not_lost(monkeypatch):
    ended = []
    monkeypatch.setattr(processes, "end", ended.append)
    member = types.SimpleNamespace(leave=lambda: None, may_end=lambda: True)
    monkeypatch.setattr(processes, "_member", member)
    monkeypatch.setattr(processes, "_has_left", False)
    processes._coordinator_lost()
    assert ended == [processes.AGAIN_EXIT_CODE]
    processes._leave()
    processes._coordinator_lost()
    assert ended == [processes.AGAIN_EXIT_CODE]
