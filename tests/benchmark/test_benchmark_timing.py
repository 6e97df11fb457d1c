"""Protocols measure what they say, shown with a device of our own and a clock that only it moves."""

import numpy as np
import pytest

from ddrnet_jax.benchmark import cases, timing
from ddrnet_jax.benchmark.cases import PROTOCOLS
from ddrnet_jax.benchmark.timing import Program, Turn

DISPATCH_S, WAIT_S = 0.001, 0.25  # of the host; a wait costs more than any forward here


class FakeDevice:
    """A device that works through what was started, one after the other, while the host goes on."""

    def __init__(self):
        self.now, self.free_at, self.log, self.slept_s = 0.0, 0.0, [], []
        self.slowness = 1.0

    def clock(self):
        return self.now

    def sleep(self, seconds):
        self.slept_s.append(seconds)
        self.now += seconds

    def program(self, name, *forward_s):
        """One whose forwards take these seconds in turn."""
        seconds = iter(np.tile(forward_s, 1000).tolist())

        def start():
            self.log.append(name)
            self.now += DISPATCH_S
            self.free_at = max(self.free_at, self.now) + self.slowness * next(seconds)
            return self.free_at

        def wait(ready_at):
            self.log.append(f"wait {name}")
            self.now = max(self.now, ready_at) + WAIT_S

        return Program(start, wait)


def measured(device, protocol, forward_s, seconds):
    """(turns, summary) of one program alone, without warm-ups."""
    program = device.program("a", *forward_s)
    kept = timing.interleaved(
        {"a": program}, {"a": float(np.mean(forward_s))}, protocol, seconds, clock=device.clock, sleep=device.sleep
    )["a"]
    return kept, timing.summary(kept, protocol, batch=1)


def test_the_papers_protocol_waits_once():
    device = FakeDevice()
    turns, row = measured(device, PROTOCOLS["paper"], [0.1], seconds=6)
    assert device.log == ["a"] * 60 + ["wait a"]
    assert device.slept_s == []
    assert len(turns) == 1
    assert row["calls"] == 60
    assert row["statistic"] == "mean"
    assert row["latency_ms"] == pytest.approx(1e3 * (DISPATCH_S + 60 * 0.1 + WAIT_S) / 60)
    assert row["fps"] == pytest.approx(1e3 / row["latency_ms"])
    assert (row["p50_ms"], row["p95_ms"]) == (None, None), "what is not waited for has no latency of its own"


@pytest.mark.parametrize("name", ["logits", "mask", "file"])
def test_the_other_protocols_wait_for_every_forward(name):
    device = FakeDevice()
    slow_one_in_ten = [0.1] * 9 + [0.9]
    _, row = measured(device, PROTOCOLS[name], slow_one_in_ten, seconds=18)
    assert device.log[:4] == ["a", "wait a", "a", "wait a"]
    assert row["calls"] == 100
    assert row["statistic"] == "p50"
    assert row["latency_ms"] == row["p50_ms"] == pytest.approx(1e3 * (DISPATCH_S + 0.1 + WAIT_S))
    assert row["p95_ms"] == pytest.approx(1e3 * (DISPATCH_S + 0.9 + WAIT_S))
    assert row["mean_ms"] > row["p50_ms"]


def test_images_a_second_count_the_batch():
    turns = [Turn(3, 0.6, (0.1, 0.2, 0.3))]
    assert timing.summary(turns, PROTOCOLS["mask"], batch=8)["fps"] == pytest.approx(8 / 0.2)
    assert timing.summary([Turn(4, 1.0)], PROTOCOLS["paper"], batch=8)["fps"] == pytest.approx(8 / 0.25)


@pytest.mark.parametrize(("forward_s", "paper", "others"), [(0.001, 10, 4), (0.5, 10, 2), (30, 10, 1)])
def test_warm_ups(forward_s, paper, others):
    """The paper's ten whatever they take; elsewhere a second's worth."""
    for name, count in (("paper", paper), ("logits", others)):
        device = FakeDevice()
        last_s = timing.warm_up(device.program("a", forward_s), PROTOCOLS[name], device.clock)
        assert device.log.count("a") == count
        assert last_s == pytest.approx(DISPATCH_S + forward_s + WAIT_S)


@pytest.mark.parametrize(("forward_s", "count"), [(0.001, 20), (0.5, 10)])
def test_warm_ups_go_on_until_the_clocks_have_risen(forward_s, count):
    device = FakeDevice()
    least_s = 20 * (DISPATCH_S + 0.001 + WAIT_S) - 1e-6
    timing.warm_up(device.program("a", forward_s), PROTOCOLS["paper"], device.clock, least_s=least_s)
    assert device.log.count("a") == count


def test_the_clocks_are_read_after_each_turn_and_outside_of_its_time():
    device = FakeDevice()

    def read():
        device.log.append("read")
        device.now += 100
        return len(device.log)

    programs = {name: device.program(name, 0.5) for name in "ab"}
    turns = timing.interleaved(
        programs, dict.fromkeys("ab", 0.5), PROTOCOLS["paper"], 3, clock=device.clock, sleep=device.sleep, read=read
    )
    assert device.log[:6] == ["a", "wait a", "read", "b", "wait b", "read"]
    assert [turn.reading for turn in turns["a"]][:2] == [3, 12]
    assert all(turn.total_s == pytest.approx(DISPATCH_S + 0.5 + WAIT_S) for turn in turns["a"])


def test_a_warm_up_holds_two_outputs_as_a_turn_does():
    class Output:
        """Counts those that are alive."""

        alive, most = 0, 0

        def __init__(self):
            Output.alive += 1
            Output.most = max(Output.most, Output.alive)

        def __del__(self):
            Output.alive -= 1

    for run in (
        lambda program: timing.warm_up(program, PROTOCOLS["logits"]),
        lambda program: timing.interleaved({"a": program}, {"a": 1.0}, PROTOCOLS["paper"], 9.0),
    ):
        Output.most = 0
        run(Program(Output))
        assert (Output.alive, Output.most) == (0, 2)


def turns_of_three(device, protocol, seconds=1.0, forward_s=(0.01, 0.1, 2.0)):
    programs = {name: device.program(name, s) for name, s in zip("abc", forward_s, strict=True)}
    call_s = dict(zip("abc", forward_s, strict=True))
    return timing.interleaved(programs, call_s, protocol, seconds, clock=device.clock, sleep=device.sleep)


def test_engines_take_turns_and_every_second_round_goes_backwards():
    device = FakeDevice()
    turns = turns_of_three(device, PROTOCOLS["logits"])
    calls = [name for name in device.log if not name.startswith("wait")]
    order = [name for i, name in enumerate(calls) if i == 0 or calls[i - 1] != name]
    assert order == ["a", "b", "c", "b", "a", "b", "c"]  # three rounds; a turn of c lies between two of b, and so on
    assert {name: [turn.calls for turn in turns[name]] for name in turns} == {
        "a": [33, 33, 34],
        "b": [3, 3, 4],
        "c": [1, 1, 1],  # the least, though it takes longer than asked for
    }
    assert len(device.slept_s) == 9, "each turn begins when the threads of the one before are asleep"


def test_the_papers_protocol_waits_once_a_turn():
    device = FakeDevice()
    turns = turns_of_three(device, PROTOCOLS["paper"])
    assert [device.log.count(f"wait {name}") for name in "abc"] == [3, 3, 3]
    assert device.log[:34] == ["a"] * 33 + ["wait a"]
    assert turns["a"][0].typical_s == pytest.approx((DISPATCH_S + 33 * 0.01 + WAIT_S) / 33)


def test_a_ratio_is_taken_within_rounds():
    """A machine that slows down between two rounds changes the times, and not the ratio."""

    def turn(seconds):
        return Turn(1, seconds, (seconds,))

    slowness = [1, 1, 1, 7, 7, 9, 1, 8, 1, 1]
    ours = [turn(0.2 * s) for s in slowness]
    theirs = [turn(0.3 * s) for s in slowness]
    theirs[0] = turn(50.0)  # an outlier
    assert timing.ratio(theirs, ours) == pytest.approx(1.5)
    assert timing.ratio(ours, ours) == 1


def test_cases_keep_what_shares_a_network_together():
    found = cases.cases(("23_slim", "39"), ((64, 96), (32, 32)), ("mask", "file"), (1, 4))
    assert len(found) == 12
    assert [(c.protocol.name, c.batch) for c in found[:3]] == [("mask", 1), ("mask", 4), ("file", 1)]
    assert len({(c.variant, c.size_hw) for c in found[:3]}) == 1


def test_a_gpu_is_measured_by_the_papers_protocol_with_more_than_one_image():
    def batches(*arguments):
        found = cases.cases(("39",), ((64, 96),), ("paper", "mask", "file"), *arguments)
        return [(c.protocol.name, c.batch) for c in found]

    assert batches(None, "gpu") == [("paper", n) for n in (1, 2, 4, 8, 16)] + [("mask", 1), ("file", 1)]
    assert batches((3,), "gpu") == [("paper", 3), ("mask", 3), ("file", 1)]
    assert batches() == [("paper", 1), ("mask", 1), ("file", 1)]


def test_the_expected_time_counts_warm_ups_compiling_and_the_least_calls():
    case = cases.Case("39", (1024, 2048), PROTOCOLS["paper"], 1)
    call_s = 2 * 281.2e9 / (0.6 * 100e9)  # 9.4 s
    assert cases.expected_s(case, 6, 1, 100e9, "cpu") == pytest.approx(4 + 13 * call_s, rel=0.01)
    assert cases.expected_s(case, 60, 2, 100e9, "cpu") == pytest.approx(2 * (4 + 10 * call_s + 60), rel=0.01)
    file = cases.Case("23_slim", (64, 64), PROTOCOLS["file"], 1)
    assert cases.expected_s(file, 6, 1, 100e9, "cpu") == pytest.approx(6, rel=0.05), "it compiles nothing"
    assert cases.expected_s(case, 6, 1, 1e15, "gpu") == pytest.approx(30 + 1 + 6, rel=0.01), "until clocks have risen"
