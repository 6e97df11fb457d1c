"""Our network as programs to time: folded, compiled with the project's options, on the first device."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddrnet_jax.benchmark.cases import Protocol
from ddrnet_jax.benchmark.device import FLOAT32, Precision, check_fits
from ddrnet_jax.benchmark.files import image_to_measure
from ddrnet_jax.benchmark.timing import Program
from ddrnet_jax.evaluation.views import mask_program
from ddrnet_jax.models import kernel_layout, variables
from ddrnet_jax.models.blocks import upsample_x8
from ddrnet_jax.models.ddrnet import DDRNet, normalise
from ddrnet_jax.models.folding import fold
from ddrnet_jax.runtime import compilation

_CACHE_HIT = "/jax/compilation_cache/cache_hits"


class OurNetwork:
    """A network at one image size, in one precision."""

    def __init__(
        self,
        model: DDRNet,
        size_hw: tuple[int, int],
        precision: Precision = FLOAT32,
        options: dict[str, str | bool] | None = None,
    ):
        """
        options  of the compiler, beside the project's
        """
        self._size_hw, self._precision, self._options = size_hw, precision, options
        self._graphdef, *weights = variables.split(fold(model, precision.dtype))
        self._weights = kernel_layout.put(weights)
        self._compiled_masks: dict[int, Program] = {}

    def program(self, protocol: Protocol, batch: int) -> Program:
        """The program that a protocol times. Raises OutOfMemory if it does not fit.

        Of `mask` and `file`: `start` takes other images u8[B,H,W,3] too, and returns masks u8[B,H,W].
        """
        if protocol.name in ("mask", "file"):
            return self._masks(batch)
        shape = jax.ShapeDtypeStruct((batch, *self._size_hw, 3), jnp.float32)
        compiled, about = self._compile(self._logits(protocol.name == "paper"), shape, outputs_held=2)
        normalised = jax.jit(normalise)(self._images(batch))
        return Program(lambda: compiled(self._weights, normalised), jax.block_until_ready, **about)

    def flops(self) -> float | None:
        """FLOPs of the network alone for one image, as XLA counts them before it compiles; None where it does not."""
        image = jax.ShapeDtypeStruct((1, *self._size_hw, 3), jnp.float32)
        cost = self._logits(False).lower(self._weights, image).cost_analysis()
        return (cost or {}).get("flops")

    def _images(self, batch: int) -> np.ndarray:
        return np.stack([image_to_measure(self._size_hw)] * batch)

    def _masks(self, batch: int) -> Program:
        if batch not in self._compiled_masks:
            shape = jax.ShapeDtypeStruct((batch, *self._size_hw, 3), jnp.uint8)
            compiled, about = self._compile(mask_program(self._graphdef), shape)
            images = self._images(batch)

            def start(images=images):
                return np.asarray(compiled(self._weights, images))

            self._compiled_masks[batch] = Program(start, **about)
        return self._compiled_masks[batch]

    def _logits(self, at_image_size: bool) -> jax.stages.Wrapped:
        graphdef, size_hw = self._graphdef, self._size_hw

        def logits(weights, images):
            found = variables.merge(graphdef, *weights)(images).logits
            return upsample_x8(found, size_hw) if at_image_size else found

        return jax.jit(logits, compiler_options=compilation.options())

    def _lower(self, program: Any, images: jax.ShapeDtypeStruct) -> jax.stages.Lowered:
        with jax.default_matmul_precision(self._precision.matmul):
            return program.lower(self._weights, images)

    def _compile(
        self, program: Callable, images: jax.ShapeDtypeStruct, *, outputs_held: int = 1
    ) -> tuple[Callable, dict]:
        """(program, what a `Program` says of it), before its images take memory; OutOfMemory if it will not fit."""
        lowered = self._lower(program, images)
        with _cache_hits() as hits:
            start = time.perf_counter()
            compiled = lowered.compile(self._options)
            compile_s = time.perf_counter() - start
        memory = _memory(compiled)
        if memory is not None:
            check_fits(sum(memory.values()) + (outputs_held - 1) * memory["output_bytes"])
        about = {
            "compile_s": compile_s,
            "is_from_cache": bool(hits),
            "memory": memory,
            "bytes_accessed": (compiled.cost_analysis() or {}).get("bytes accessed"),
        }
        return compiled, about


def _memory(compiled: jax.stages.Compiled) -> dict[str, int] | None:
    analysis = compiled.memory_analysis()
    if analysis is None:
        return None
    return {
        "argument_bytes": analysis.argument_size_in_bytes,
        "output_bytes": analysis.output_size_in_bytes,
        "temporary_bytes": analysis.temp_size_in_bytes,
    }


@contextlib.contextmanager
def _cache_hits() -> Iterator[list]:
    """A list with one entry for each program read from the persistent cache meanwhile."""
    hits: list[str] = []

    def listen(event: str, **kwargs) -> None:
        if event == _CACHE_HIT:
            hits.append(event)

    jax.monitoring.register_event_listener(listen)
    try:
        yield hits
    finally:
        jax.monitoring.unregister_event_listener(listen)
