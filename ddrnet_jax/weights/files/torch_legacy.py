"""The container of torch.save before PyTorch 1.6: pickles, then the raw bytes of every storage."""

from typing import Any

from ddrnet_jax.weights.files.safetensors import WeightsFile, shown
from ddrnet_jax.weights.files.torch_pickle import MAX_PICKLE_BYTES, PickleMachine
from ddrnet_jax.weights.files.torch_tensors import RESAVE, Storage, Tensors

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001


def read_legacy(file: WeightsFile) -> Any:
    """The content of `file`: five pickles, then each storage as its element count and its bytes."""
    tensors = Tensors(file, lambda key, size: file.reserve(size, f"storage {shown(key)}"))
    pickles = PickleMachine(file, file.read(0, min(file.size, MAX_PICKLE_BYTES), "the pickle"), tensors)
    if not _is_int(pickles.load(), LEGACY_MAGIC) or not _is_int(pickles.load(), LEGACY_PROTOCOL):
        raise file.error("it is a pickle and not a file of torch.save", RESAVE)
    system = pickles.load()
    if type(system) is not dict or system.get("little_endian") is not True:
        raise file.error("it is not from a little-endian machine", "save it again on one")
    value, keys = pickles.load(), pickles.load()
    if type(keys) is not list or not all(type(key) is str for key in keys):
        raise file.error("its list of storages is not a list of names")
    if len(set(keys)) != len(keys) or set(keys) != tensors.storages.keys():
        raise file.error("its list of storages is not that of its tensors")
    _fill_storages(file, [tensors.storages[key] for key in keys], pickles.position)
    tensors.check_bools()
    return value


def _is_int(value: object, expected: int) -> bool:
    return type(value) is int and value == expected


def _fill_storages(file: WeightsFile, storages: list[Storage], position: int) -> None:
    for storage in storages:
        what = f"storage {shown(storage.key)}"
        count = int.from_bytes(file.read(position, 8, what), "little", signed=True)
        if count != storage.count:
            raise file.error(f"{what} has {count} elements, its tensors were told {storage.count}")
        file.fill(storage.data, position + 8, what)
        position += 8 + storage.data.size
