"""The kernels that a program compiled for a GPU starts on it: how many, of what kinds, and the bytes between them."""

import collections
import dataclasses
import math
import re

_BYTES = {"pred": 1, "bf16": 2}  # of other types the number says it
_ARRAY = re.compile(r"\b(pred|bf16|[fsu]\d+)\w*\[([\d,]*)\]")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*?)\s([a-z][\w\-]*)\((.*?)\)")
_TARGET = re.compile(r'custom_call_target="([^"]+)"')
_KERNEL_LABELS = re.compile(r"\bdim_labels=\w+?_(\w+)->")
_BODY = re.compile(r"\bbody=%?([\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_NO_KERNEL = {"parameter", "constant", "get-tuple-element", "tuple", "bitcast", "while"}
_CONVOLUTION = "__cudnn$conv"
_WITH_BIAS = "__cudnn$convBiasActivationForward"


@dataclasses.dataclass(frozen=True)
class Kernels:
    """The kernels of one execution.

    count               all of them
    convolutions        cuDNN's
    fused_convolutions  of these, with bias and perhaps ReLU inside
    transposes          that do nothing else
    bytes               that all of them read and write
    flops               of the convolutions
    """

    count: int
    convolutions: int
    fused_convolutions: int
    transposes: int
    bytes: int
    flops: int


def of_program(hlo_text: str, *, loop_length: int = 1) -> Kernels:
    """The kernels of a program's main computation, and of its loops: of `compiled.as_text()`.

    loop_length  of loops whose length the text does not say
    A GPU does each instruction on its own, so that what they take and give is what passes through the memory, if no
    cache kept anything. A branch, and a loop inside another or inside a branch, counts as one kernel.
    """
    main = _computation(hlo_text, "ENTRY ")
    kinds, moved, flops = _instructions(main)
    for body, length in _loops(main, loop_length):
        more, bytes_of_each, flops_of_each = _instructions(_computation(hlo_text, f"%{body} "))
        kinds.update({kind: length * count for kind, count in more.items()})
        moved += length * bytes_of_each
        flops += length * flops_of_each
    return Kernels(
        count=sum(kinds.values()),
        convolutions=sum(n for kind, n in kinds.items() if kind.startswith(_CONVOLUTION)),
        fused_convolutions=kinds[_WITH_BIAS],
        transposes=kinds["transpose"],
        bytes=moved,
        flops=flops,
    )


def _computation(hlo_text: str, start: str) -> list[str]:
    """The lines of the computation whose header starts so."""
    found = re.search(rf"^{re.escape(start)}.*?\{{\n(.*?)^\}}", hlo_text, re.DOTALL | re.MULTILINE)
    return found[1].splitlines() if found else []


def _loops(lines: list[str], default_length: int) -> list[tuple[str, int]]:
    """(body, how often it runs) of each loop that these instructions start."""
    found = []
    for line in lines:
        body, trips = _BODY.search(line), _TRIPS.search(line)
        if body and " while(" in line:
            found.append((body[1], int(trips[1]) if trips else default_length))
    return found


def _instructions(lines: list[str]) -> tuple[collections.Counter[str], int, int]:
    """({kind: how many}, bytes, FLOPs) of what these instructions start; a library's calls by their target."""
    shapes: dict[str, str] = {}
    kinds: collections.Counter[str] = collections.Counter()
    moved = flops = 0
    for line in lines:
        found = _INSTRUCTION.match(line)
        if not found:
            continue
        name, shape, operation, operands = found.groups()
        shapes[name] = shape
        if operation in _NO_KERNEL or operation.endswith("-done"):
            continue
        target = _TARGET.search(line)
        kinds[target[1] if target else _kind(operation, name)] += 1
        taken = [shapes.get(operand, "") for operand in re.findall(r"%([\w.\-]+)", operands)]
        moved += size(shape) + sum(map(size, taken))
        if target and target[1].startswith(_CONVOLUTION):
            flops += _flops(target[1], line, [shape, *taken[:2]])
    return kinds, moved, flops


def _flops(target: str, line: str, shapes: list[str]) -> int:
    """FLOPs of a convolution or one of its two gradients: all multiply each output of the convolution by each tap."""
    result, first, second = (_dimensions(shape) for shape in shapes)
    if target.endswith("Filter"):
        output, kernel = second, result
    else:
        output, kernel = first if target.endswith("Input") else result, second
    channels_out = kernel[_KERNEL_LABELS.findall(line)[0].index("o")]
    return 2 * math.prod(output) * math.prod(kernel) // channels_out


def _dimensions(shape: str) -> list[int]:
    """The sizes of the first array."""
    return [int(n) for n in _ARRAY.findall(shape)[0][1].split(",")]


def _kind(operation: str, name: str) -> str:
    """A fusion of nothing but a transpose is called by it."""
    return "transpose" if name.startswith(("transpose", "wrapped_transpose")) else operation


def size(shape: str) -> int:
    """Bytes of the arrays in an HLO shape."""
    return sum(_each(kind) * math.prod(int(n) for n in dims.split(",") if n) for kind, dims in _ARRAY.findall(shape))


def _each(kind: str) -> int:
    return _BYTES.get(kind) or int(kind[1:]) // 8
