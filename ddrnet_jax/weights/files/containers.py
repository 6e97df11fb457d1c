"""Files of weights that are not read, and the way to one that is."""

import sys
from collections.abc import Iterable

from ddrnet_jax.weights.files.safetensors import WeightsFile, WeightsFileError, shown
from ddrnet_jax.weights.files.torch_tensors import RESAVE

SAVE_SAFETENSORS = "safetensors.numpy.save_file({name: array, ...}, 'weights.safetensors')"
_UNPACK = "unpack it, and give the weights file that is in it"
_TENSORFLOW = f"with the names of the official release it can be read: {SAVE_SAFETENSORS}"
_WEIGHTS = (".pth", ".pt", ".ckpt", ".safetensors", ".tar", ".pkl")

# How a file begins: what it is, what to do.
_HEADS = {
    b"\x89HDF": ("an HDF5 file, as Keras writes them", _TENSORFLOW),
    b"\x1f\x8b": ("packed with gzip", _UNPACK),
    b"BZh": ("packed with bzip2", _UNPACK),
    b"\xfd7zXZ": ("packed with xz", _UNPACK),
    b"7z\xbc\xaf": ("a 7z archive", _UNPACK),
    b"Rar!": ("a RAR archive", _UNPACK),
    b"\x93NUMPY": ("a single array of numpy", f"a network has many, with names: {SAVE_SAFETENSORS}"),
    b"<": ("a web page", "download the weights themselves"),
    b"version https:": ("a Git LFS pointer", "fetch the weights themselves: git lfs pull"),
}
# How the name of a file ends, where its beginning says nothing.
_SUFFIXES = {
    ".onnx": ("an ONNX program", "take the .pth file that it was exported from"),
    ".tflite": ("a TensorFlow Lite program", "take the weights that it was made from"),
    ".pb": ("a TensorFlow graph", _TENSORFLOW),
    ".index": ("part of a TensorFlow checkpoint", _TENSORFLOW),
    ".pdparams": (
        "a file of PaddlePaddle",
        f"with the names of the official release it can be read: {SAVE_SAFETENSORS}",
    ),
}


def not_weights(file: WeightsFile, head: bytes) -> WeightsFileError:
    """The error for a file that begins with `head` and is no file of torch.save or safetensors."""
    expected = "expected a file of torch.save or safetensors"
    name = str(file.path).lower()
    known = next((known for start, known in _HEADS.items() if head.startswith(start)), None)
    known = known or next((known for end, known in _SUFFIXES.items() if name.endswith(end)), None)
    if ".data-" in name and known is None:
        known = _SUFFIXES[".index"]
    if known is None:
        remedy = "if it is packed or from another library, save its tensors with safetensors"
        return file.error(f"begins with {head!r}, {expected}", remedy)
    return file.error(f"is {known[0]}, {expected}", known[1])


def other_zip(file: WeightsFile, members: Iterable[str]) -> WeightsFileError | None:
    """The error for a zip file that is known not to be of torch.save; None if it may be."""
    names = [name.rpartition("/")[2] for name in members if not name.endswith("/")]
    if "constants.pkl" in names:
        script = "torch.save(torch.jit.load(path, map_location='cpu').state_dict(), 'weights.pth')"
        return file.error("is a TorchScript program", f"in PyTorch: {script}")
    if names and all(name.endswith(".npy") for name in names):
        return file.error(
            "is an .npz file of numpy", "safetensors.numpy.save_file(dict(numpy.load(path)), 'w.safetensors')"
        )
    if "model.weights.h5" in names:
        return file.error("is a file of Keras", _TENSORFLOW)
    packed = [name for name in names if name.lower().endswith(_WEIGHTS)]
    if packed and "data.pkl" not in names:
        return file.error(f"is a zip archive around {shown(packed[0])}", _UNPACK)
    return None


def refused_name(file: WeightsFile, name: str, *, is_whole: bool) -> WeightsFileError:
    """The error for a pickle that asks for something else than tensors.

    is_whole  it is the first thing in the pickle: what was saved is an object of this class
    """
    problem = f"refusing {shown(name)}: only tensors are read, nothing is run"
    if name.endswith("multiarray._reconstruct"):
        made = f"PaddlePaddle's .pdparams are such: {SAVE_SAFETENSORS}, with the names of the official release"
        return file.error(f"it holds arrays of numpy ({shown(name)})", made)
    module, _, kind = name.rpartition(".")
    if is_whole and kind[:1].isupper() and module.split(".")[0] not in sys.stdlib_module_names:
        whole = "torch.save(torch.load(path, weights_only=False).state_dict(), 'weights.pth')"
        return file.error(problem, f"a whole model was saved; where its code is and if you trust it: {whole}")
    return file.error(problem, RESAVE)
