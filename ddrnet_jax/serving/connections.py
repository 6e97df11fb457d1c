"""Connections that end: one request each, its head soon, its answer taken within minutes."""

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

_HEAD_S = 10.0  # for the head of the request
_MOST_S = 600.0  # for all: body, waiting, network, and an answer that is read slowly


class Connection(H11Protocol):
    """Uvicorn's, which itself would wait for ever for who sends nothing or reads nothing."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See asyncio.Protocol."""
        super().connection_made(transport)
        self._timers = [
            self.loop.call_later(_HEAD_S, self._end_without_request),
            self.loop.call_later(_MOST_S, transport.abort),
        ]

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        for timer in self._timers:
            timer.cancel()
        super().connection_lost(exc)

    def _end_without_request(self) -> None:
        if self.cycle is None:
            self.transport.abort()
