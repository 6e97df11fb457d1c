"""DDRNet for JAX and Flax NNX: train, evaluate, predict.

Each line may import what stands below it, never above.

main.py      python -m ddrnet_jax.main
cli/         flags, one function a mode, exit codes
api.py       what a person calls from Python
benchmark/   how fast, by which protocol, beside whom
plan/        what a config costs on accelerators that nobody here owns
doctor/      why is the mIoU low
report/      what a run was, as one HTML page
prediction/  masks, overlays and videos for people
exports/     a checkpoint as a file for others, and engines that run such files
training/    state, step, losses, optimiser, loop
evaluation/  mIoU on whole images; top-1 and top-5 of a classifier; views, submission, gallery
weights/     anyone's weights in and out: files, names, origins, what of them fits
runs/        all that a run has on disk: workdir, checkpoints, metrics, provenance
build.py     what a config describes, made: data, model
data/        from files to batches; no jax
config/      every key, its unit, its limits; configs from files, flags and JSON
models/      the network alone
downloads.py files at an address: fetched once, checked, kept
runtime/     devices, processes, compilation
errors.py    what ends in one line
memory.py    what of it is free, and who says that there is too little
atomic.py    files that others find whole or not at all
regular_files.py  files as they are opened: regular ones only, text as UTF-8
text.py      sizes, shares and long lists as people read them
"""

from importlib import import_module

__version__ = "0.1.0"

_LAZY = {
    "DDRNet": "ddrnet_jax.models.ddrnet",
    "Segmenter": "ddrnet_jax.prediction.segmenter",
    "batches": "ddrnet_jax.api",
    "evaluate": "ddrnet_jax.api",
    "export": "ddrnet_jax.exports.export",
    "load": "ddrnet_jax.prediction.segmenter",
    "load_checkpoint": "ddrnet_jax.weights.loading",
    "load_pretrained": "ddrnet_jax.weights.pretrained",
    "train": "ddrnet_jax.api",
}
__all__ = sorted(_LAZY)


def __getattr__(name: str) -> object:
    """Resolve the public names on first use, so that importing a submodule does not load jax."""
    if name not in _LAZY:
        raise AttributeError(f"module 'ddrnet_jax' has no attribute {name!r}; it offers {', '.join(_LAZY)}")
    return getattr(import_module(_LAZY[name]), name)
