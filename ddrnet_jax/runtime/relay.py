"""A way to the coordinator that stays open when the coordinator is gone: JAX aborts where its own connection closes.

Its client takes no function for that case (a status that Python does not know ends the process), so it is given the
address of a process that passes on what it sends. That is no thread here: JAX may wait for the coordinator and keep
Python's lock, and then no thread would run. The process is this file, run as a script, and uses the standard library
alone.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable

_CONNECT_TIMEOUT_S = 10.0
_GRACE_S = 10.0  # then JAX hears of it too: where it keeps Python's lock, nobody else ends the process


def relayed(address: str, lost: Callable[[], object]) -> str:
    """An address on this machine whose connections go on to host:port, as long as this process lives.

    lost  called, in a thread of its own, when the coordinator has closed a connection that it had answered
    """
    relay = subprocess.Popen(
        [sys.executable, "-I", "-S", __file__, address],
        stdin=subprocess.PIPE,  # whose end tells it that this process is gone
        stdout=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is for this process
    )
    assert relay.stdout is not None
    port = int(relay.stdout.readline())
    threading.Thread(target=_listen, args=(relay, lost), daemon=True).start()
    return f"127.0.0.1:{port}"


def _listen(relay: subprocess.Popen, lost: Callable[[], object]) -> None:
    assert relay.stdout is not None
    if relay.stdout.readline():
        lost()
    relay.wait()


def _relay(address: str) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):  # schedulers send them to all processes of a job
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    host, port = address.rsplit(":", 1)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        while True:
            near, _ = listener.accept()
            threading.Thread(target=_pass_on, args=(near, (host.strip("[]"), int(port))), daemon=True).start()


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


def _pass_on(near: socket.socket, coordinator: tuple[str, int]) -> None:
    with near:
        try:
            far = socket.create_connection(coordinator, _CONNECT_TIMEOUT_S)
        except OSError:
            return  # it does not listen yet: JAX tries again
        far.settimeout(None)
        is_closed_here = threading.Event()

        def send() -> None:
            _copy(near, far)
            is_closed_here.set()
            _shut(far)

        with far:
            threading.Thread(target=send, daemon=True).start()
            if _copy(far, near) and not is_closed_here.is_set():
                print("lost", flush=True)
                time.sleep(_GRACE_S)
            _shut(near)


def _shut(end: socket.socket) -> None:
    """Close it for both sides, also where a thread waits for it, which `close` would not end."""
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)


def _copy(source: socket.socket, target: socket.socket) -> int:
    """Pass on all that comes from `source` until one of the two is closed; how many bytes came."""
    count = 0
    with contextlib.suppress(OSError):
        while data := source.recv(2**16):
            count += len(data)
            target.sendall(data)
    return count


if __name__ == "__main__":
    _relay(sys.argv[1])
