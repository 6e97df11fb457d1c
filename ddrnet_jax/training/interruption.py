"""Signals that ask a run to stop: it saves the step it has reached and says by its exit code that it can go on."""

import os
import signal
import threading
from collections.abc import Iterable, Iterator
from typing import Any

_NAMES = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "Ctrl-C"}


class Preempted(Exception):
    """SIGTERM ended the run early; what it had done is saved, and the same command goes on from there."""


class StoppedByUser(KeyboardInterrupt):
    """Ctrl-C ended the run early; what it had done is saved, and the same command goes on from there."""


class Interruption:
    """While the context lasts, SIGTERM and the first Ctrl-C end the run between two steps; a second Ctrl-C at once.

    In a run of several processes a signal to any of them ends all after the same step. Python takes handlers in the
    main thread only; elsewhere, as in a server's worker, signals keep doing what they did.
    """

    def __init__(self) -> None:
        self._received: signal.Signals | None = None
        self._previous: dict[signal.Signals, Any] = {}
        self._processes = 1

    def __enter__(self) -> "Interruption":
        import jax  # main.py imports this module for --help too

        self._processes = jax.process_count()
        if threading.current_thread() is threading.main_thread():
            # Of several processes JAX itself takes SIGTERM, and tells the others.
            taken = (signal.SIGINT, signal.SIGTERM)[: 1 if self._processes > 1 else 2]
            self._previous = {number: signal.signal(number, self._handle) for number in taken}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._previous = {}

    def requested(self, step: int) -> bool:
        """True if the run has to stop after `step`. Every process has to ask this of each step, in order."""
        if self._processes == 1:
            return self._received is not None
        from jax.experimental import multihost_utils

        return multihost_utils.reached_preemption_sync_point(step)

    def watched(self, items: Iterable) -> Iterator:
        """The samples of a long evaluation; raises `error()` between two, unless other processes take part in it."""
        for item in items:
            if self._processes == 1 and self._received is not None:
                raise self.error()
            yield item

    def error(self) -> Preempted | StoppedByUser:
        """The error that ends the run once the last step is saved."""
        by_user = self._received is signal.SIGINT
        message = f"stopped by {'Ctrl-C' if by_user else 'SIGTERM'}; the same command goes on from the last step"
        return StoppedByUser(message) if by_user else Preempted(message)

    def _handle(self, number: int, _frame) -> None:
        if number == signal.SIGINT and self._received is signal.SIGINT:
            raise KeyboardInterrupt("stopped at once; the same command goes on from the last checkpoint")
        if self._received is not signal.SIGINT:  # who pressed Ctrl-C wants the shell's exit code of it
            self._received = signal.Signals(number)
        # print() could find its own buffer locked here.
        os.write(2, f"\n{_NAMES[signal.Signals(number)]}: stopping after this step; the last step is saved\n".encode())
        if self._processes > 1:
            os.kill(os.getpid(), signal.SIGTERM)
