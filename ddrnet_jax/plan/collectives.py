"""Collective operations of a compiled program: how many and how large, read from its HLO text."""

import collections
import dataclasses
import re

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?[\w.\-]+ = (.*?)\s([a-z][\w\-]*)\(")
_CALLED = re.compile(r"\b(body|condition|to_apply|calls|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"\b(?:branch_computations|called_computations)=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_ARRAY = re.compile(r"\b([a-z]+)(\d*)\w*\[([\d,<=]*)\]")


@dataclasses.dataclass(frozen=True)
class Total:
    """count of executions, and the bytes that they give each device"""

    count: int
    bytes: int


def collective_totals(hlo_text: str, *, outer_loop_length: int = 1) -> dict[str, Total]:
    """The communication of one execution of a compiled program, by kind; kinds that do not occur are left out.

    hlo_text           of `compiled.as_text()`
    outer_loop_length  of loops in no other loop whose length the text does not say; that of TPUs never does
    An asynchronous pair (-start, -done) counts once. What a loop of known length repeats counts as often;
    of other loops, and of every branch, it counts once.
    """
    found, calls, entry = _read(hlo_text, outer_loop_length)
    times = _executions(calls, entry)
    counts: collections.Counter[str] = collections.Counter()
    sizes: collections.Counter[str] = collections.Counter()
    for computation, kind, size in found:
        counts[kind] += times[computation]
        sizes[kind] += times[computation] * size
    return {kind: Total(counts[kind], sizes[kind]) for kind in KINDS if counts[kind]}


def _read(hlo_text: str, outer_loop_length: int) -> tuple[list[tuple[str, str, int]], dict[str, list], str]:
    """([(computation, kind, bytes)] of the collectives, {computation: [(called, times)]}, the entry computation)"""
    found, entry, current = [], "", ""
    calls: dict[str, list[tuple[str, int]]] = collections.defaultdict(list)
    for line in hlo_text.splitlines():
        header = None if line.startswith(" ") else _COMPUTATION.match(line)
        if header:
            current = header[2]
            entry = current if header[1] else entry
            continue
        instruction = _INSTRUCTION.match(line)
        if not instruction:
            continue
        shape, operation = instruction.groups()
        is_start = operation.endswith("-start")
        kind = operation.removesuffix("-start")
        if kind in KINDS:
            found.append((current, kind, _result_bytes(shape, kind, is_start)))
        calls[current] += _called(line, operation, outer_loop_length if current == entry else 1)
    return found, calls, entry


def _called(line: str, operation: str, loop_length: int) -> list[tuple[str, int]]:
    trips = _TRIPS.search(line)
    repeats = (int(trips[1]) if trips else loop_length) if operation == "while" else 1
    called = [(name, repeats) for _, name in _CALLED.findall(line)]
    for names in _BRANCHES.findall(line):
        called += [(name.strip().lstrip("%"), 1) for name in names.split(",")]
    return called


def _executions(calls: dict[str, list[tuple[str, int]]], entry: str) -> collections.Counter:
    """{computation: how often it runs in one execution of the program}"""
    order, seen = [], set()

    def visit(name):
        if name not in seen:
            seen.add(name)
            for called, _ in calls.get(name, ()):
                visit(called)
            order.append(name)

    visit(entry)
    times = collections.Counter({entry: 1})
    for name in reversed(order):  # callers come before what they call
        for called, repeats in calls.get(name, ()):
            times[called] += times[name] * repeats
    return times


def _result_bytes(shape: str, kind: str, is_start: bool) -> int:
    arrays = [_array_bytes(*array) for array in _ARRAY.findall(shape)]
    if is_start and kind != "all-reduce":  # (operands, results, and for a permute two counters)
        arrays = arrays[:2] if kind == "collective-permute" else arrays
        arrays = arrays[len(arrays) // 2 :]
    return sum(arrays)


def _array_bytes(letters: str, bits: str, dimensions: str) -> int:
    count = 1
    for size in filter(None, dimensions.split(",")):
        count *= int(size.removeprefix("<="))
    bits_each = 8 if letters == "pred" else int(bits or 0)
    return (count * bits_each + 7) // 8
