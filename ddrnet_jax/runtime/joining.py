"""How a process finds the others of its run: what --distributed says, and the wait for all of them."""

import contextlib
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple, NoReturn

from ddrnet_jax.errors import UserError
from ddrnet_jax.runtime.relay import relayed

# Hosts of a pod start minutes apart, and JAX aborts without a word to Python where it waits itself.
JOIN_TIMEOUT_S = 300.0
# JAX's own heartbeats: at their end it aborts with a stack of C++, so ours come first.
_HEARTBEAT_TIMEOUT_S = 3600
_FORMS = "off, auto, or host:port,processes,index like 10.0.0.1:1234,2,0"


class ProcessesError(UserError):
    """The processes of a run do not find each other; the message says what was given and what to do."""


class Place(NamedTuple):
    """This process's place among those of the run."""

    address: str  # host:port of process 0, which coordinates
    count: int  # type: ignore[assignment]  # hides tuple's method
    index: int  # type: ignore[assignment]  # hides tuple's method


def parse(text: str | None) -> Place | str:
    """The value of --distributed: "off", "auto" or a Place. Raises ProcessesError."""
    if text in (None, "off", "auto"):
        return text or "off"
    try:
        address, count, index = text.split(",")
        host, port = address.rsplit(":", 1)
        place = Place(address, int(count), int(index))
        is_valid = host.strip() == host != "" and 0 < int(port) < 2**16 and 0 <= place.index < place.count
    except ValueError:
        is_valid = False
    if not is_valid:
        raise ProcessesError(f"--distributed {text}: expected {_FORMS} (indices count from 0)")
    return place


def join(setting: Place | str, lost: Callable[[], object]) -> None:
    """Wait for the other processes, before any use of a JAX backend.

    lost  called when process 0 is gone
    Raises ProcessesError if they are not found.
    """
    import jax

    flag = "--distributed auto"
    if isinstance(setting, Place):
        flag = f"--distributed {setting.address},{setting.count},{setting.index}"
        _check_address(setting, flag)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    waiting = f"{flag}: not all processes of the run have joined"
    with _time_limit(f"{waiting} within {JOIN_TIMEOUT_S:.0f} s; start each of them, with the same address and count"):
        try:
            address, count, index = setting if isinstance(setting, Place) else _detected()
            if address is not None:
                _leave_proxies_out(address)
                address = relayed(address, lost) if index else address
            jax.distributed.initialize(
                address,
                count,
                index,
                initialization_timeout=round(JOIN_TIMEOUT_S) + 60,  # the limit here comes first: JAX's own aborts
                heartbeat_timeout_seconds=_HEARTBEAT_TIMEOUT_S,
            )
        except ValueError as e:
            raise ProcessesError(
                f"{flag}: no cluster found here, neither a TPU pod nor SLURM ({e}); expected {_FORMS}"
            ) from e
        except RuntimeError as e:
            raise ProcessesError(f"{flag}: cannot start the run's coordination ({str(e).splitlines()[0]})") from e
        devices, own = jax.device_count(), jax.local_device_count()  # waits for all to bring up their devices
    if devices != own * jax.process_count():
        raise ProcessesError(
            f"{flag}: process {jax.process_index()} of {jax.process_count()} has {own} of all {devices} devices; "
            "expected the same number in each"
        )


def _detected() -> tuple[str | None, int | None, int | None]:
    """Address, count and index that JAX finds out of a cluster by itself, None where there is none."""
    try:
        from jax._src.clusters import ClusterEnv  # the public API finds the address and connects in one

        detect = ClusterEnv.auto_detect_unset_distributed_params
    except (ImportError, AttributeError):  # another jax: it finds them where it connects, without a relay
        return None, None, None
    return detect(None, None, None, None, None, round(JOIN_TIMEOUT_S))[:3]


def _leave_proxies_out(address: str) -> None:
    """A proxy of the environment is for the way out, but gRPC would take it to the processes of the run too."""
    import jax

    host = address.rsplit(":", 1)[0].strip("[]")
    ours = "no_grpc_proxy"
    others = os.environ.get(ours, os.environ.get("no_proxy", ""))
    os.environ[ours] = ",".join(name for name in (host, "127.0.0.1", others) if name)
    jax.config.update("jax_check_proxy_envs", False)  # its warning says to unset them


def _check_address(place: Place, flag: str) -> None:
    host, port = place.address.rsplit(":", 1)
    try:
        socket.getaddrinfo(host.strip("[]"), int(port))
    except OSError as e:
        raise ProcessesError(f"{flag}: host {host} is not known here ({e.strerror or e})") from e
    if place.index == 0:
        try:
            with contextlib.closing(socket.socket()) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as gRPC does: an old run's port is free
                probe.bind(("", int(port)))
        except OSError as e:
            raise ProcessesError(f"{flag}: process 0 cannot listen on port {port} ({e.strerror}); use another") from e


@contextlib.contextmanager
def _time_limit(message: str) -> Iterator[None]:
    """End the process in one line if the context takes too long: what waits in it cannot be interrupted."""

    def give_up():
        print(f"error: {message}", file=sys.stderr)
        end(1)

    def remind():
        print("waiting for the other processes of the run ...", file=sys.stderr, flush=True)

    timers = [threading.Timer(JOIN_TIMEOUT_S, give_up), threading.Timer(min(10.0, JOIN_TIMEOUT_S / 2), remind)]
    for timer in timers:
        timer.daemon = True
        timer.start()
    try:
        yield
    finally:
        for timer in timers:
            timer.cancel()


def end(code: int) -> NoReturn:
    """End this process at once, without the cleanup of libraries, which may wait for processes that are gone."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code)
