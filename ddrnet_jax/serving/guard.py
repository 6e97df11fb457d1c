"""Who may ask, before anything is read: pages of other origins may not, by whatever name they found the server.

A web page can make a browser send requests to this machine (CSRF), and give this machine a name of its own (DNS
rebinding), by which the browser would take the answers for the page's own.
"""

import asyncio
import contextlib
import json
from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_DRAIN_S = 60.0  # for a body that nobody wants: who sends reads the answer after it
_HEADERS = (
    (b"cache-control", b"no-store"),
    (b"connection", b"close"),  # one request each: see connections
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)


class Guard:
    """Refuses requests of other origins, gives every answer its headers, and reads what is left of a body before it."""

    def __init__(self, app: ASGIApp, names: Iterable[str] | None):
        """
        names  by which the server may be asked for, None: any
        """
        self._app, self._names = app, names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        headers = Headers(scope=scope)
        is_unread = headers.get("expect", "").lower() != "100-continue"  # who waits to be asked has sent nothing

        async def receive_noting() -> Message:
            nonlocal is_unread
            message = await receive()
            is_unread = message.get("more_body", False)
            return message

        async def send_after_the_body(message: Message) -> None:
            if message["type"] == "http.response.start":
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_DRAIN_S):
                        while is_unread:
                            await receive_noting()
                message["headers"] = [*message.get("headers", ()), *_HEADERS]
            await send(message)

        problem = self._problem(headers.get("host", ""), headers.get("origin"))
        if problem is None:
            await self._app(scope, receive_noting, send_after_the_body)
        else:
            await _forbid(problem, send_after_the_body)

    def _problem(self, host: str, origin: str | None) -> str | None:
        """Why a request is refused."""
        if self._names is not None and _name(host) not in self._names:
            return f"asked for as {host!r}, but bound to this machine: use localhost, or start it with --host"
        if origin is not None and origin.lower().partition("://")[2] != host.lower():
            return f"a page of {origin} may not ask here"
        return None


def _name(host: str) -> str:
    """The name in a Host header, without its port."""
    end = host.find("]") + 1 if host.startswith("[") else host.find(":")
    return (host[:end] if end > 0 else host).lower()


async def _forbid(problem: str, send: Send) -> None:
    body = json.dumps({"error": problem}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": body})
