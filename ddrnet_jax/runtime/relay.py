"""A way to the coordinator that stays open when the coordinator is gone: JAX aborts where its own connection closes.

Its client takes no function for that case (a status that Python does not know ends the process), so it is given an
address of this process, and what it sends is passed on from there.
"""

import contextlib
import socket
import threading
from collections.abc import Callable

_CONNECT_TIMEOUT_S = 10.0


def relayed(address: str, lost: Callable[[], object]) -> str:
    """An address here whose connections go on to host:port.

    lost  called, in a thread of its own, when the coordinator has closed a connection that it had answered
    """
    host, port = address.rsplit(":", 1)
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_accept, args=(listener, (host.strip("[]"), int(port)), lost), daemon=True).start()
    return f"127.0.0.1:{listener.getsockname()[1]}"


def _accept(listener: socket.socket, coordinator: tuple[str, int], lost: Callable[[], object]) -> None:
    while True:
        near, _ = listener.accept()
        threading.Thread(target=_pass_on, args=(near, coordinator, lost), daemon=True).start()


def _pass_on(near: socket.socket, coordinator: tuple[str, int], lost: Callable[[], object]) -> None:
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
                lost()
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
