"""The device mesh: one axis, the batch sharded along it, everything else replicated; and what processes agree on."""

import hashlib
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ddrnet_jax.errors import UserError
from ddrnet_jax.runtime import processes

Tree = Any  # nested dicts of arrays


class DeviceError(UserError):
    """JAX cannot compute here as the environment asks it to; the message names the variable."""


def check() -> None:
    """Raises DeviceError if JAX has no device of the platform it was told to use, or computes in 64 bits.

    Else the first to meet it would be whoever reads a checkpoint, and damaged files would be blamed.
    """
    wanted = jax.config.jax_platforms  # type: ignore[attr-defined]
    try:
        jax.devices()
    except Exception as e:  # RuntimeError and bare AssertionError, by the platform
        reason = (str(e).splitlines() or ["JAX does not find it"])[0][:200]
        raise DeviceError(
            f"JAX_PLATFORMS={wanted or ''}: no such device can be used here ({reason}); unset JAX_PLATFORMS, set it to "
            "cpu, or install the JAX and driver of that device"
        ) from e
    if jax.config.jax_enable_x64:  # type: ignore[attr-defined]
        raise DeviceError("JAX_ENABLE_X64: is set, but weights and checkpoints are of 32 bits; unset it")


def stay_on_the_cpu() -> None:
    """Look for no accelerator, before any use of JAX: one without a driver takes the compiler for its kind along."""
    jax.config.update("jax_platforms", "cpu")


def data_mesh(devices: list[jax.Device] | None = None) -> Mesh:
    """All devices of all processes (or those given) in one axis called "data"."""
    devices = devices or jax.devices()
    return jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)


def platform(mesh: Mesh) -> str:
    """The kind of the mesh's devices: "cpu", "gpu" or "tpu"."""
    return mesh.devices.flat[0].platform


def local_mesh(mesh: Mesh) -> Mesh:
    """This process's devices of the mesh: what runs on them waits for no other process."""
    return mesh if not mesh.is_multi_process else data_mesh(list(mesh.local_devices))


def replicated(mesh: Mesh) -> NamedSharding:
    """Sharding of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def by_batch(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """Sharding of arrays whose first axis, or another, is the batch."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, "data"))


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's rows of a batch -> the global sharded batch; starts the transfer and returns."""
    sharding = by_batch(mesh)
    return {k: jax.make_array_from_process_local_data(sharding, v) for k, v in batch.items()}


def put_replicated(tree: Tree, mesh: Mesh) -> Tree:
    """The tree on every device of the mesh; each process brings its own copy, all of them equal (see `differing`)."""
    if not mesh.is_multi_process:
        return jax.device_put(tree, replicated(mesh))
    # Of arrays for several processes device_put compares every leaf over all of them, one by one.
    return jax.tree.map(
        lambda leaf: jax.make_array_from_process_local_data(replicated(mesh), np.asarray(leaf), leaf.shape), tree
    )


def local_view(tree: Tree, mesh: Mesh) -> Tree:
    """Replicated arrays of all processes -> the same on the mesh of this process's devices; nothing is copied."""

    def view(array: jax.Array) -> jax.Array:
        if array.is_fully_addressable:
            return array
        shards = [shard.data for shard in array.addressable_shards]
        return jax.make_array_from_single_device_arrays(array.shape, replicated(mesh), shards)

    return jax.tree.map(view, tree)


def sum_over_processes(counts: np.ndarray) -> np.ndarray:
    """i64[...] of this process -> i64[...], the exact sum over all; every process calls it and gets it."""
    if jax.process_count() == 1:
        return counts
    processes.meet("sum")
    halves = np.ascontiguousarray(counts, np.int64).view(np.uint32)  # JAX would round i64 to i32
    return multihost_utils.process_allgather(halves).view(np.int64).sum(0)


def from_first_process(number: int) -> int:
    """The first process's number (64 bits) in all of them; every process calls it."""
    return int(sum_over_processes(np.array([number if jax.process_index() == 0 else 0]))[0])


def wait_for_all(name: str) -> None:
    """Return once every process has come here; `name` is that of the place."""
    if jax.process_count() > 1:
        processes.meet(name)
        multihost_utils.sync_global_devices(name)


def differing(values: dict[str, object]) -> list[str]:
    """The names of what is not the same in every process; all call it, with the same names.

    values  of any type with a `repr` that says it all; of arrays, `fingerprint`
    """
    if jax.process_count() == 1:
        return []
    processes.meet("compare")
    digests = np.stack([np.frombuffer(hashlib.sha256(repr(v).encode()).digest(), np.uint8) for v in values.values()])
    gathered = multihost_utils.process_allgather(digests)
    return [name for i, name in enumerate(values) if (gathered[:, i] != gathered[0, i]).any()]


def fingerprint(tree: Tree) -> str:
    """A hash of every bit of the tree's arrays, which are this process's own."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        digest.update(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
