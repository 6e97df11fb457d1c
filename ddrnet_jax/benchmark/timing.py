"""Programs timed by a protocol: warm-ups, then turns of all of them, round by round."""

import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from ddrnet_jax.benchmark.cases import MIN_CALLS, WARM_UPS, Protocol

ROUNDS = 10
_PAUSE_S = 0.02  # between the turns of two engines: until threads that wait by spinning are asleep


class Program(NamedTuple):
    """One engine's network for one case, with inputs of its own.

    start         begins a forward; may return before it is done
    wait          until what `start` returned is there
    compile_s     to make it; None where nothing is compiled
    is_from_cache whether that was reading it back
    memory        bytes by kind, as its compiler counts them; None where it does not
    bytes_accessed  of one forward, as its compiler counts them
    """

    start: Callable[..., Any]
    wait: Callable[[Any], object] = lambda output: None
    compile_s: float | None = None
    is_from_cache: bool = False
    memory: dict[str, int] | None = None
    bytes_accessed: float | None = None


class TurnError(Exception):
    """A program failed while it was measured; `__cause__` says how."""

    def __init__(self, name: str):
        super().__init__(name)
        self.name = name


class Turn(NamedTuple):
    """Some forwards of one program in a row.

    latencies_s  of each, where each was waited for
    reading      what `read` of `interleaved` gave right after them
    """

    calls: int
    total_s: float
    latencies_s: tuple[float, ...] = ()
    reading: Any = None

    @property
    def typical_s(self) -> float:
        """Seconds of a forward: the median, or the mean where only the last was waited for."""
        return statistics.median(self.latencies_s) if self.latencies_s else self.total_s / self.calls


def warm_up(
    program: Program, protocol: Protocol, clock: Callable[[], float] = time.perf_counter, *, least_s: float = 0
) -> float:
    """Run a program as often as the protocol says, and for `least_s`; seconds of the last forward.

    As in a turn, an output is let go when the next forward has begun: what fits here fits there.
    """
    begin = clock()
    for count in itertools.count(1):
        start = clock()
        output = program.start()
        program.wait(output)
        last_s, elapsed_s = clock() - start, clock() - begin
        is_enough = count >= WARM_UPS or (protocol.warm_up_s is not None and elapsed_s >= protocol.warm_up_s)
        if is_enough and elapsed_s >= least_s:
            break
    return last_s


def interleaved(
    programs: dict[str, Program],
    call_s: dict[str, float],
    protocol: Protocol,
    seconds: float,
    *,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
    read: Callable[[], object] = lambda: None,
) -> dict[str, list[Turn]]:
    """About `seconds` of forwards of each program, in turns: one turn of a program alone, else ROUNDS of them.

    call_s  about how long a forward takes
    read    is called right after each turn, outside of its time
    Returns the turns of each program; those of one index are of one round. Every second round goes backwards,
    so that no program always follows the same one. Raises TurnError.
    """
    calls = {name: max(MIN_CALLS, round(seconds / call_s[name])) for name in programs}
    rounds = 1 if len(programs) == 1 else min(ROUNDS, *calls.values())
    turns: dict[str, list[Turn]] = {name: [] for name in programs}
    for i in range(rounds):
        for name in _order(programs, i):
            if len(programs) > 1:
                sleep(_PAUSE_S)
            count = calls[name] * (i + 1) // rounds - calls[name] * i // rounds
            try:
                turn = _turn(programs[name], protocol, count, clock)
            except Exception as e:
                raise TurnError(name) from e
            turns[name].append(turn._replace(reading=read()))
    return turns


def _order(programs: dict[str, Program], turn: int) -> Iterator[str]:
    return iter(programs) if turn % 2 == 0 else reversed(programs)


def _turn(program: Program, protocol: Protocol, calls: int, clock: Callable[[], float]) -> Turn:
    latencies_s = []
    begin = clock()
    for _ in range(calls):
        start = clock()
        output = program.start()  # of those not waited for, each is let go when the next has begun
        if protocol.waits_every_call:
            program.wait(output)
            latencies_s.append(clock() - start)
    program.wait(output)
    return Turn(calls, clock() - begin, tuple(latencies_s))


def summary(turns: list[Turn], protocol: Protocol, batch: int) -> dict:
    """The figures of one row. latency_ms is the mean where one wait ends a turn, else the median."""
    calls = sum(turn.calls for turn in turns)
    mean_ms = 1e3 * sum(turn.total_s for turn in turns) / calls
    latencies_ms = [1e3 * s for turn in turns for s in turn.latencies_s]
    p50_ms, p95_ms = (float(np.percentile(latencies_ms, q)) if latencies_ms else None for q in (50, 95))
    latency_ms = p50_ms if protocol.waits_every_call and p50_ms is not None else mean_ms
    return {
        "calls": calls,
        "latency_ms": latency_ms,
        "statistic": "p50" if protocol.waits_every_call else "mean",
        "mean_ms": mean_ms,
        "p50_ms": p50_ms,
        "p95_ms": p95_ms,
        "fps": 1e3 * batch / latency_ms,
        "turn_ms": [1e3 * turn.typical_s for turn in turns],
    }


def ratio(turns: list[Turn], to: list[Turn]) -> float:
    """The time as a multiple of the other's: the median over the rounds of that ratio within a round."""
    return statistics.median(a.typical_s / b.typical_s for a, b in zip(turns, to, strict=True))
