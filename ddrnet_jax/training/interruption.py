"""Signals that ask a run to stop: it saves the step it has reached and says by its exit code that it can go on."""

import collections
import contextlib
import ctypes
import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

from ddrnet_jax.runtime import processes
from ddrnet_jax.runtime.processes import AGAIN_EXIT_CODE

_NAMES: dict[int, str] = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "Ctrl-C"}
_BURST_S = 3.0  # signals closer together are one request
_PATIENCE_S = 1.0  # that the main thread gets to answer a second Ctrl-C itself


class Preempted(Exception):
    """SIGTERM ended the run early; what it had done is saved, and the same command goes on from there."""


class StoppedByUser(KeyboardInterrupt):
    """Ctrl-C ended the run early; what it had done is saved, and the same command goes on from there."""


class Interruption:
    """While the context lasts, SIGTERM and the first Ctrl-C end the run between two steps; a second one at once.

    A second SIGTERM within seconds of the first changes nothing once there are steps to save: schedulers send several.
    In a run of several processes a signal to any of them ends all after the same step: JAX tells the others, by its own
    handler of SIGTERM. Python takes handlers in the main thread only; elsewhere, as in a server's worker, signals keep
    doing what they did.
    """

    def __init__(self) -> None:
        self._received: signal.Signals | None = None
        self._previous: dict[signal.Signals, Any] = {}
        self._processes = 1
        self._jaxs_handler = 0  # its address
        self._asked = 0  # more than once: there are steps to save
        self._handled: collections.Counter[int] = collections.Counter()
        self._arrivals = -1, -1
        self._watch = threading.Thread(target=self._watch_arrivals, daemon=True)

    def __enter__(self) -> "Interruption":
        import jax  # main.py imports this module for --help too

        self._processes = jax.process_count()
        if threading.current_thread() is threading.main_thread():
            self._arrivals = os.pipe()
            os.set_blocking(self._arrivals[1], False)
            self._watch.start()
            self._previous_wakeup = signal.set_wakeup_fd(self._arrivals[1], warn_on_full_buffer=False)
            self._jaxs_handler = _address_of_handler(signal.SIGTERM) if self._processes > 1 else 0
            self._previous = {n: signal.signal(n, self._handle) for n in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        if self._jaxs_handler:
            ctypes.CDLL(None).signal(signal.SIGTERM, ctypes.c_void_p(self._jaxs_handler))
        if self._previous:
            signal.set_wakeup_fd(self._previous_wakeup)
            os.close(self._arrivals[1])
            self._watch.join()
            os.close(self._arrivals[0])
        self._previous = {}

    def requested(self, step: int) -> bool:
        """True if the run has to stop after `step`. Every process has to ask this of each step, in order."""
        self._asked += 1
        if self._processes == 1:
            return self._received is not None
        from jax.experimental import multihost_utils

        return multihost_utils.reached_preemption_sync_point(step)

    def watched(self, items: Iterable) -> Iterator:
        """The samples of a long evaluation; raises `error()` between two, unless other processes take part in it."""
        for item in items:
            self.check()
            yield item

    def check(self) -> None:
        """Raises `error()` where the run has to stop, unless other processes are to stop with it."""
        if self._processes == 1 and self._received is not None:
            raise self.error()

    def error(self) -> Preempted | StoppedByUser:
        """The error that ends the run once the last step is saved."""
        by_user = self._received is signal.SIGINT
        message = f"stopped by {'Ctrl-C' if by_user else 'SIGTERM'}; the same command goes on from the last step"
        return StoppedByUser(message) if by_user else Preempted(message)

    def _handle(self, number: int, _frame) -> None:
        self._handled[number] += 1
        if number == signal.SIGINT and self._received is signal.SIGINT:
            raise KeyboardInterrupt("stopped at once; the same command goes on from the last checkpoint")
        if self._received is not signal.SIGINT:  # who pressed Ctrl-C wants the shell's exit code of it
            self._received = signal.Signals(number)
        if self._jaxs_handler > signal.SIG_IGN:
            ctypes.CFUNCTYPE(None, ctypes.c_int)(self._jaxs_handler)(signal.SIGTERM)

    def _watch_arrivals(self) -> None:
        """Answer signals that the main thread cannot handle yet: a compilation keeps it for minutes."""
        first: dict[int, float] = {}
        count: collections.Counter[int] = collections.Counter()
        while numbers := os.read(self._arrivals[0], 1):
            number = numbers[0]
            if number not in self._previous:
                continue
            count[number] += 1
            first.setdefault(number, time.monotonic())
            if count[number] == 1:
                _say(f"{_NAMES[number]}: stopping after this step; the last step is saved, a second one stops at once")
            elif number == signal.SIGTERM:
                if self._asked <= 1 or time.monotonic() - first[number] > _BURST_S:
                    _end_at_once(number)
            else:
                time.sleep(_PATIENCE_S)
                if self._handled[number] < count[number]:
                    _end_at_once(number)


def _address_of_handler(number: int) -> int:
    """The function that the process calls at a signal, also one of C; 0 and 1 are the system's own answers."""
    action = (ctypes.c_void_p * 64)()  # longer than any struct sigaction, whose first member it is
    ctypes.CDLL(None).sigaction(number, None, action)
    return action[0] or 0


def _end_at_once(number: int) -> None:
    message = f"{_NAMES[number]}: stopped at once; the same command goes on from the last checkpoint"
    code = AGAIN_EXIT_CODE if number == signal.SIGTERM else 130
    _say(message)
    processes.end_all(message, code)
    os._exit(code)


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # nobody reads any more
        os.write(2, f"\n{text}\n".encode())  # print() could find its own buffer locked by the main thread
