"""The protocols, and the cases of a run."""

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

from ddrnet_jax.benchmark.published import CITYSCAPES_HW, GMACS
from ddrnet_jax.exports.onnx_engine import EngineError

PAPER_SIZES_HW = (CITYSCAPES_HW, (720, 960), (640, 640))
SECONDS = 6.0  # of forwards a row, as in the paper
_USUAL_FRACTION_OF_PEAK = 0.6  # of a large matrix multiplication: the network's, roughly
_COMPILE_S = {"cpu": 4.0}
_COMPILE_ELSEWHERE_S = 30.0
_LEAST_WARM_UP_S = {"gpu": 1.0}  # until the clocks have risen
_PAPER_BATCHES = {"gpu": (1, 2, 4, 8, 16)}  # elsewhere the paper's, one image


class Protocol(NamedTuple):
    """A way to time a forward.

    meaning            input -> output, for the report
    waits_every_call   for the output of each forward; else once, or with several engines once a turn
    warm_up_s          no more warm-ups after this; None: all WARM_UPS
    takes_batches      whether it means something for more than one image at a time
    """

    name: str
    meaning: str
    waits_every_call: bool = True
    warm_up_s: float | None = 1.0
    takes_batches: bool = True


WARM_UPS = 10
MIN_CALLS = 3  # where a forward takes longer than the seconds asked for
PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            "paper",
            "normalised float images on the device -> logits at image size, no argmax",
            waits_every_call=False,
            warm_up_s=None,
        ),
        Protocol("logits", "normalised float images on the device -> logits at 1/8 of it"),
        Protocol("mask", "u8 images in memory -> u8 masks in memory"),
        Protocol("file", "PNG on disk (cached by the system) -> PNG mask on disk", takes_batches=False),
    )
}


@dataclasses.dataclass(frozen=True)
class Case:
    """One line of the table, of every engine."""

    variant: str
    size_hw: tuple[int, int]
    protocol: Protocol
    batch: int


def cases(
    variants: Sequence[str],
    sizes_hw: Sequence[tuple[int, int]],
    protocols: Sequence[str],
    batch_sizes: Sequence[int] | None = None,
    platform: str = "cpu",
) -> list[Case]:
    """All combinations, those of one variant and one size together; `file` takes one image at a time.

    batch_sizes  None: one image at a time, and what a GPU gains by more of them in `paper`
    """
    return [
        Case(variant, (height, width), PROTOCOLS[name], batch)
        for variant in variants
        for height, width in sizes_hw
        for name in protocols
        for batch in _batch_sizes(name, batch_sizes, platform)
    ]


def _batch_sizes(protocol: str, wanted: Sequence[int] | None, platform: str) -> Sequence[int]:
    if wanted is None:
        return _PAPER_BATCHES.get(platform, (1,)) if protocol == "paper" else (1,)
    return wanted if PROTOCOLS[protocol].takes_batches else (1,)


def least_warm_up_s(platform: str) -> float:
    """Seconds that a program runs before it is measured, whatever its protocol says."""
    return _LEAST_WARM_UP_S.get(platform, 0.0)


def single_image_protocols(protocols: Sequence[str], batch_sizes: Sequence[int]) -> list[str]:
    """Those to which the batch sizes do not apply. Raises EngineError if they apply to none."""
    if all(batch == 1 for batch in batch_sizes):
        return []
    found = [name for name in protocols if not PROTOCOLS[name].takes_batches]
    if len(found) == len(protocols):
        given = ",".join(str(batch) for batch in batch_sizes)
        raise EngineError(
            f"--batch_sizes {given}: --protocols {','.join(protocols)} takes one image at a time; "
            "leave --batch_sizes out, or add paper, logits or mask"
        )
    return found


def expected_s(case: Case, seconds: float, num_engines: int, flops_per_s: float, platform: str) -> float:
    """Roughly how long a case will take, from the speed of a matrix multiplication on this device."""
    area = math.prod(case.size_hw) / math.prod(CITYSCAPES_HW)
    flops = 2e9 * GMACS.get(case.variant, max(GMACS.values())) * area * case.batch
    call_s = flops / (_USUAL_FRACTION_OF_PEAK * flops_per_s)
    limit_s = case.protocol.warm_up_s
    warm_ups = WARM_UPS if limit_s is None else min(WARM_UPS, math.ceil(limit_s / call_s))
    warm_up_s = max(warm_ups * call_s, least_warm_up_s(platform))
    compile_s = 0.0 if case.protocol.name == "file" else _COMPILE_S.get(platform, _COMPILE_ELSEWHERE_S)
    return num_engines * (compile_s + warm_up_s + max(seconds, MIN_CALLS * call_s))
