"""A source, and the two forms of what it gives: a sample as encoded bytes, and the same sample decoded."""

from collections.abc import Hashable, Iterator
from typing import Any, NamedTuple, NotRequired, Protocol, TypedDict

import numpy as np

from ddrnet_jax.data import decode
from ddrnet_jax.data.errors import DataError
from ddrnet_jax.data.sets.specs import DatasetSpec


class Sample(TypedDict):
    """One decoded sample.

    image  u8[H,W,3] RGB
    label  u8[H,W] train ids (0..C-1 or 255); of a data set without masks the class number, an int
    name   what to call it in messages
    teacher_logits  f32[ceil(H/8),ceil(W/8),C], where a teacher has left some
    """

    image: np.ndarray
    label: Any  # np.ndarray or int: the spec says which
    name: str
    teacher_logits: NotRequired[np.ndarray]


class EncodedSample(NamedTuple):
    """One sample as it is stored.

    image       the bytes of a PNG, JPEG, ... file
    label       the bytes of a mask's file, with the data set's own values; or the class number
    name        of the image in messages, and label_name of the label
    """

    image: bytes
    label: Any  # bytes or int: the spec says which
    name: str
    label_name: str


class Source(Protocol):
    """Random access to the samples of a data set: files in folders, drawn scenes, ArrayRecords."""

    spec: DatasetSpec

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample:
        """The sample, decoded on the caller's thread; raises DataError naming the file that cannot be read."""

    def encoded(self, index: int) -> EncodedSample:
        """The sample as it is stored; raises DataError likewise."""

    def names(self) -> list[str]:
        """The names of the images, below the data set's root."""

    def places(self) -> Iterator[Hashable]:
        """The place of each image; two sources share the images whose places are equal."""


def decode_sample(encoded: EncodedSample, spec: DatasetSpec) -> Sample:
    """The decoded sample; raises DataError naming the file if it is damaged or image and label disagree."""
    image = decode.decode_image(encoded.image, encoded.name, spec.value_range)
    if not spec.has_masks:
        if not 0 <= encoded.label < spec.num_classes:
            raise DataError(
                f"{encoded.label_name}: class number {encoded.label}, expected 0..{spec.num_classes - 1} of {spec.name}"
            )
        return Sample(image=image, label=int(encoded.label), name=encoded.name)
    label = decode.decode_label(encoded.label, encoded.label_name, spec)
    decode.check_pair(image, label, encoded.label_name)
    return Sample(image=image, label=label, name=encoded.name)
