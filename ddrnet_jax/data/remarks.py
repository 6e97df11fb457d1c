"""Facts that a user may not expect, of files that decode: told in check_data, training and prediction."""

import numpy as np

from ddrnet_jax.data import decode, exif
from ddrnet_jax.data.sets.specs import DatasetSpec

FEW_LEVELS = 32  # of 256 grey levels
_ABOUT = {
    "oriented": "image(s) are turned as their EXIF orientation says, as viewers show them; labels as theirs say",
    "narrow": "16-bit image(s) use little of their range, and most of what they show is lost: set data.value_range",
    "no number": "image(s) have pixels that are no finite numbers (NaN), which become black: fill them",
}
_RAW = DatasetSpec("raw", (), (), values={value: value for value in range(256)})


def of_image(data: bytes, spec: DatasetSpec, label: bytes = b"") -> dict[str, str]:
    """{kind: what} of an image's file.

    oriented   not as its label is
    narrow     16 bits, mostly unused
    no number  floats that are not finite
    """
    found = {}
    orientations = exif.orientation(data), exif.orientation(label)
    if orientations[0] != orientations[1]:
        found["oriented"] = f"EXIF orientation {orientations[0]}" + (f", its label {orientations[1]}" if label else "")
    values = None if spec.value_range else decode.deep_range(data)
    if values and decode.grey_levels(*values) < FEW_LEVELS:
        found["narrow"] = f"values {values[0]}..{values[1]}, {decode.grey_levels(*values)} of 256 grey levels"
    if spec.value_range and (share := decode.share_not_finite(data)):
        found["no number"] = f"{share:.1%} of the pixels"
    return found


def misnamed(label: bytes, name: str, spec: DatasetSpec) -> str:
    """The contents of an index mask, if not those of its name, and what to do; "" where nothing is wrong.

    Raises DataError if it is no index mask.
    """
    values = np.bincount(decode.decode_label(label, name, _RAW).ravel())
    return spec.misnamed(frozenset(np.flatnonzero(values).tolist()))


class Remarks:
    """The kinds that were met in many images, how often, and first where."""

    def __init__(self, spec: DatasetSpec):
        self._spec = spec
        self._names: dict[str, list[str]] = {}

    def add(self, data: bytes, name: str, label: bytes = b"") -> None:
        """Look at the bytes of an image's file, and at those of its label."""
        for kind, what in of_image(data, self._spec, label).items():
            self._names.setdefault(kind, []).append(f"{name} ({what})")

    def lines(self) -> list[str]:
        """One a kind."""
        return [f"{len(names)} {_ABOUT[kind]}; first {names[0]}" for kind, names in self._names.items()]
