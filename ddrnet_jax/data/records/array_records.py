"""Random access to ArrayRecords through TFDS: what prepare_data wrote, or what TFDS itself prepared."""

import dataclasses
import itertools
import os
from collections.abc import Hashable, Iterator
from pathlib import Path

import numpy as np

from ddrnet_jax import regular_files
from ddrnet_jax.data.errors import DataError
from ddrnet_jax.data.labels import IGNORE
from ddrnet_jax.data.records import folders, manifest
from ddrnet_jax.data.records.folders import Folder
from ddrnet_jax.data.samples import EncodedSample, Sample, decode_sample
from ddrnet_jax.data.sets import camvid, imagenet
from ddrnet_jax.data.sets.cityscapes import Cityscapes
from ddrnet_jax.data.sets.specs import DatasetSpec

# What the features are called: by prepare_data, and by TFDS in cityscapes and imagenet2012.
_IMAGE_FEATURES = ("image", "image_left")
_LABEL_FEATURES = ("label", "segmentation_label")
_NAME_FEATURES = ("name", "image_id", "file_name")


class ArrayRecords:
    """The samples of a TFDS directory whose files are ArrayRecords; images stay encoded until they are decoded here.

    spec  of the labels as they lie there
    """

    def __init__(self, root: str | Path, split: str, spec: DatasetSpec):
        """
        root   the folder with dataset_info.json, or its address gs://BUCKET/FOLDER
        split  as TFDS writes it: "train", "train+val", "train[:90%]"

        Raises DataError if the folder is no such directory, is incomplete, or holds another data set.
        """
        import tensorflow_datasets as tfds
        from array_record.python import array_record_data_source

        self._folder = folders.at(root)
        info = _info(self._folder, tfds)
        self._features = info.features
        self._image, self._label, self._name = _feature_names(self._folder, info.features)
        prepared = self._check_shards(info, split, spec)
        if isinstance(spec, Cityscapes) and prepared and prepared.values.get("labels") == manifest.TRAIN_IDS:
            spec = spec.of_train_ids()
        actual = _actual_spec(self._folder, info.features[self._label], spec, tfds)
        self.spec = dataclasses.replace(actual, value_range=spec.value_range)
        stored = (self._image, self._label) if self.spec.has_masks else (self._image,)
        self._decoders = {name: tfds.decode.SkipDecoding() for name in stored}
        self._records = array_record_data_source.ArrayRecordDataSource(self._instructions)

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Sample:
        """Sample; raises DataError naming the record if it cannot be read or image and label disagree."""
        return decode_sample(self.encoded(index), self.spec)

    def names(self) -> list[str]:
        """The images' names, as the records have them; reads all of them."""
        return [self._name_of(self._record(index), index) for index in range(len(self))]

    def places(self) -> Iterator[Hashable]:
        """The place of each record, its file and number; two sources share those that are equal."""
        return ((i.filename, i.skip + n) for i in self._instructions for n in range(i.take))

    def encoded(self, index: int) -> EncodedSample:
        """The bytes of a record; raises DataError naming the shard that cannot be read."""
        record = self._record(int(index))
        name = self._folder.path(self._name_of(record, index))
        label = record[self._label]
        return EncodedSample(record[self._image], label if self.spec.has_masks else int(label), name, f"{name} (label)")

    def _record(self, index: int) -> dict:
        if not 0 <= index < len(self):
            raise IndexError(index)
        try:
            return self._features.deserialize_example_np(self._records[index], decoders=self._decoders)
        except Exception as e:  # what the readers of records and messages raise for damage
            path = self._instructions[np.searchsorted(self._ends, index, side="right")].filename
            self._folder.check(os.path.basename(path))
            reason = (str(e).splitlines() or [type(e).__name__])[0].split(";")[0]
            raise DataError(f"{path}: cannot be read ({reason}); copy it again or run prepare_data again") from e

    def _name_of(self, record: dict, index: int) -> str:
        return record[self._name].decode(errors="replace") if self._name else f"record {index}"

    def _check_shards(self, info, split: str, spec: DatasetSpec) -> manifest.Manifest | None:
        """The manifest, if prepare_data wrote the records."""
        folder = self._folder
        prepared = manifest.Manifest.read(folder)
        if prepared and prepared.values["name"] != spec.name:
            raise DataError(f"{folder}: holds {prepared.values['name']!r}, but data.name is {spec.name!r}")
        try:
            instructions = info.splits[split].file_instructions
        except (KeyError, ValueError) as e:
            raise DataError(f"{folder}: has no split {split!r}; it has {', '.join(sorted(info.splits))}") from e
        if not instructions:
            raise DataError(f"{folder}: split {split!r} has no samples")
        names = [os.path.basename(instruction.filename) for instruction in instructions]
        self._instructions = [
            dataclasses.replace(instruction, filename=folder.path(name))
            for instruction, name in zip(instructions, names, strict=True)
        ]
        self._ends = list(itertools.accumulate(instruction.take for instruction in instructions))
        if prepared:
            for part in prepared.values["splits"]:
                if any(name.startswith(f"{spec.name}-{part}.") for name in names):
                    prepared.require_complete(part)
        for name in names:
            if folder.size(name) is None:
                raise DataError(
                    f"{folder.path(name)}: no such file, expected a shard of split {split!r}; copy it again"
                )
        return prepared


def _info(folder: Folder, tfds):
    if folder.size("dataset_info.json") is None:
        reason = "expected what prepare_data or TFDS wrote"
        if folder.size(manifest.FILE) is not None:
            reason = "prepare_data did not finish: run it again"
        raise DataError(f"{folder}: has no dataset_info.json; {reason}")
    try:
        regular_files.require_in(folder.local)
        info = tfds.builder_from_directory(folder.local).info
        file_format = info.file_format
    except Exception as e:  # metadata of any kind of damage
        raise DataError(f"{folder}: its TFDS metadata cannot be read ({(str(e).splitlines() or [''])[0]})") from e
    if file_format is None or file_format.value != "array_record":
        raise DataError(
            f"{folder}: holds {getattr(file_format, 'value', 'unknown')} files; only array_record can be read without "
            "TensorFlow: prepare the data with file_format='array_record'"
        )
    return info


def _feature_names(folder: Folder, features) -> tuple[str, str, str | None]:
    def first(candidates):
        return next((name for name in candidates if name in features), None)

    image, label = first(_IMAGE_FEATURES), first(_LABEL_FEATURES)
    if image is None or label is None:
        raise DataError(
            f"{folder}: has the features {', '.join(features)}; expected one of {', '.join(_IMAGE_FEATURES)} "
            f"and one of {', '.join(_LABEL_FEATURES)}"
        )
    return image, label, first(_NAME_FEATURES)


def _actual_spec(folder: Folder, label, spec: DatasetSpec, tfds) -> DatasetSpec:
    """The spec with the form and the class names that the records have. Raises DataError if they are another's."""
    has_masks = isinstance(label, tfds.features.Image)
    if has_masks != spec.has_masks:
        has, needs = ("masks", "class numbers") if has_masks else ("class numbers", "masks")
        raise DataError(f"{folder}: its labels are {has}, but those of {spec.name!r} are {needs}")
    if spec.has_polygons:
        return dataclasses.replace(spec, values={**{i: i for i in range(spec.num_classes)}, IGNORE: IGNORE})
    if has_masks:
        return camvid.COLOR if spec.name == "camvid" and label.shape[-1] == 3 else spec
    if label.num_classes != spec.num_classes:
        raise DataError(
            f"{folder}: has {label.num_classes} classes, but {spec.name!r} has {spec.num_classes}; set data.classes"
        )
    names = tuple(label.names or spec.classes)
    if spec.classes not in (imagenet.CLASSES, names):
        raise DataError(f"{folder}: its classes are {', '.join(names[:5])}, ...; data.classes names others")
    return dataclasses.replace(spec, classes=names)
