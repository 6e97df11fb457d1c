"""DDRNet for JAX and Flax NNX: train, evaluate, predict.

main.py          flags -> one command
command_line.py  the flags, and --help
processes.py     several processes as one run
devices.py       the mesh of devices, batches onto it
config.py        every key, its unit, its checks
config_files.py  configs from files, flags and JSON
factory.py       what a config describes, made: data, model
compilation.py   XLA options per platform, compilation cache
provenance.py    the command and the versions that made a run
checkpoints.py   one checkpoint for use anywhere: found, loaded, written
checkpoint_files.py  one step on disk, read and verified
pretrained.py    weights to start from, ours or anyone's, and what of them fits
models/          the network
data/            from files to batches
training/        state, step, losses, optimiser, loop
evaluation/      mIoU on whole images; top-1 and top-5 of a classifier
inference/       masks, overlays and videos for people; weights in and out; how fast it is, what a run costs elsewhere
doctor/          why is the mIoU low
report/          what a run was, as one HTML page
"""

from importlib import import_module

__version__ = "0.1.0"

_LAZY = {
    "DDRNet": "ddrnet_jax.models.ddrnet",
    "load_checkpoint": "ddrnet_jax.checkpoints",
    "load_pretrained": "ddrnet_jax.pretrained",
}
__all__ = ["DDRNet", "load_checkpoint", "load_pretrained"]


def __getattr__(name: str) -> object:
    """Resolve the public names on first use, so that importing a submodule does not load jax."""
    if name not in _LAZY:
        raise AttributeError(f"module 'ddrnet_jax' has no attribute {name!r}; it offers {', '.join(_LAZY)}")
    return getattr(import_module(_LAZY[name]), name)
