"""A server of one network, until Ctrl-C."""

import errno
import ipaddress
import logging
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import uvicorn

from ddrnet_jax import downloads
from ddrnet_jax.prediction import engines
from ddrnet_jax.serving.app import App
from ddrnet_jax.serving.connections import Connection
from ddrnet_jax.serving.errors import ServeError
from ddrnet_jax.serving.guard import Guard

_log = logging.getLogger(__name__)
HOST, PORT = "127.0.0.1", 8000
_MOST_CONNECTIONS = 64
_BACKLOG = 128
_GRACE_S = 5  # for answers that are on their way when it ends


def serve(checkpoint: str | Path, *, engine: str = engines.AUTO, host: str = HOST, port: int = PORT) -> None:
    """Serve the page and POST /predict until Ctrl-C.

    checkpoint  as of engines.load
    port        0: any that is free
    Raises ServeError if it cannot listen there, EngineError or CheckpointError as engines.load does.
    """
    with listening(host, port) as listener:
        segmenter = engines.load(checkpoint, engine)
        with ThreadPoolExecutor(1) as pool:
            app = App(segmenter, Path(downloads.shown(str(checkpoint))).name, pool)
            server = server_of(app, host, listener)
            _warn_of_strangers(listener)
            print(f"{address(host, listener)} shows the page; Ctrl-C ends it", flush=True)
            server.run([listener])


def server_of(app: App, host: str, listener: socket.socket) -> uvicorn.Server:
    """The server, not yet run; `host` is what the listener was asked for."""
    guarded = Guard(app.starlette(), _names(host) if _is_loopback(listener) else None)
    return uvicorn.Server(
        uvicorn.Config(
            guarded,
            loop="asyncio",
            http=Connection,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            limit_concurrency=_MOST_CONNECTIONS,
            timeout_graceful_shutdown=_GRACE_S,
        )
    )


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens there, before anything is loaded. Raises ServeError."""
    try:
        family, _, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except (socket.gaierror, UnicodeError) as e:
        raise ServeError(f"--host {host}: no address of this machine; leave it out for {HOST}") from e
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(place)
        listener.listen(_BACKLOG)
    except OSError as e:
        listener.close()
        raise ServeError(_why_not(e, host, port)) from e
    return listener


def address(host: str, listener: socket.socket) -> str:
    """The address to open in a browser."""
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{listener.getsockname()[1]}"


def _why_not(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"--port {port}: another program listens there; give another, or 0 for any that is free"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"--port {port}: not allowed to listen there; give one above 1023, or 0 for any that is free"
    return f"--host {host}: no address of this machine ({error.strerror}); leave it out for {HOST}"


def _is_loopback(listener: socket.socket) -> bool:
    return ipaddress.ip_address(listener.getsockname()[0]).is_loopback


def _names(host: str) -> frozenset[str]:
    return frozenset(("localhost", "127.0.0.1", "[::1]", host.lower(), f"[{host.lower()}]"))


def _warn_of_strangers(listener: socket.socket) -> None:
    if not _is_loopback(listener):
        _log.warning(
            "whoever reaches this machine can use it, without a password and unencrypted; browsers give cameras to "
            "https and to their own machine alone"
        )
