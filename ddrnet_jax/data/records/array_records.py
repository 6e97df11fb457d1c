"""Random access to ArrayRecords through TFDS: what prepare_data wrote, or what TFDS itself prepared."""

import dataclasses
import itertools
from collections.abc import Hashable, Iterator
from pathlib import Path

import numpy as np

from ddrnet_jax import regular_files
from ddrnet_jax.data.errors import DataError
from ddrnet_jax.data.labels import IGNORE
from ddrnet_jax.data.records import manifest
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
        root   the folder with dataset_info.json
        split  as TFDS writes it: "train", "train+val", "train[:90%]"

        Raises DataError if the folder is no such directory, is incomplete, or holds another data set.
        """
        import tensorflow_datasets as tfds

        self.root = Path(root)
        builder = _builder(self.root, tfds)
        info = builder.info
        self._image, self._label, self._name = _feature_names(self.root, info.features)
        prepared = self._check_shards(info, split, spec)
        if isinstance(spec, Cityscapes) and prepared and prepared.values.get("labels") == manifest.TRAIN_IDS:
            spec = spec.of_train_ids()
        actual = _actual_spec(self.root, info.features[self._label], spec, tfds)
        self.spec = dataclasses.replace(actual, value_range=spec.value_range)
        encoded = {self._image: tfds.decode.SkipDecoding()}
        if self.spec.has_masks:
            encoded[self._label] = tfds.decode.SkipDecoding()
        self._records = builder.as_data_source(split, decoders=encoded)

    def __len__(self) -> int:
        return len(self._records)

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
        name = str(self.root / self._name_of(record, index))
        label = record[self._label]
        return EncodedSample(record[self._image], label if self.spec.has_masks else int(label), name, f"{name} (label)")

    def _record(self, index: int) -> dict:
        if not 0 <= index < len(self):
            raise IndexError(index)
        try:
            return self._records[index]
        except Exception as e:  # what the readers of records and messages raise for damage
            path = self._files[np.searchsorted(self._ends, index, side="right")]
            reason = (str(e).splitlines() or [type(e).__name__])[0].split(";")[0]
            raise DataError(f"{path}: cannot be read ({reason}); copy it again or run prepare_data again") from e

    def _name_of(self, record: dict, index: int) -> str:
        return record[self._name].decode(errors="replace") if self._name else f"record {index}"

    def _check_shards(self, info, split: str, spec: DatasetSpec) -> manifest.Manifest | None:
        """The manifest, if prepare_data wrote the records."""
        prepared = manifest.Manifest.read(self.root)
        if prepared and prepared.values["name"] != spec.name:
            raise DataError(f"{self.root}: holds {prepared.values['name']!r}, but data.name is {spec.name!r}")
        try:
            instructions = info.splits[split].file_instructions
        except (KeyError, ValueError) as e:
            raise DataError(f"{self.root}: has no split {split!r}; it has {', '.join(sorted(info.splits))}") from e
        if not instructions:
            raise DataError(f"{self.root}: split {split!r} has no samples")
        self._instructions = instructions
        self._files = [Path(instruction.filename) for instruction in instructions]
        self._ends = list(itertools.accumulate(instruction.take for instruction in instructions))
        if prepared:
            for part in prepared.values["splits"]:
                if any(path.name.startswith(f"{spec.name}-{part}.") for path in self._files):
                    prepared.require_complete(part)
        for path in self._files:
            if not path.is_file():
                raise DataError(f"{path}: no such file, expected a shard of split {split!r}; copy it again")
        return prepared


def _builder(root: Path, tfds):
    if not (root / "dataset_info.json").is_file():
        reason = "expected what prepare_data or TFDS wrote"
        if (root / manifest.FILE).is_file():
            reason = "prepare_data did not finish: run it again"
        raise DataError(f"{root}: has no dataset_info.json; {reason}")
    try:
        regular_files.require_in(root)
        builder = tfds.builder_from_directory(root)
        file_format = builder.info.file_format
    except Exception as e:  # metadata of any kind of damage
        raise DataError(f"{root}: its TFDS metadata cannot be read ({(str(e).splitlines() or [''])[0]})") from e
    if file_format is None or file_format.value != "array_record":
        raise DataError(
            f"{root}: holds {getattr(file_format, 'value', 'unknown')} files; only array_record can be read without "
            "TensorFlow: prepare the data with file_format='array_record'"
        )
    return builder


def _feature_names(root: Path, features) -> tuple[str, str, str | None]:
    def first(candidates):
        return next((name for name in candidates if name in features), None)

    image, label = first(_IMAGE_FEATURES), first(_LABEL_FEATURES)
    if image is None or label is None:
        raise DataError(
            f"{root}: has the features {', '.join(features)}; expected one of {', '.join(_IMAGE_FEATURES)} "
            f"and one of {', '.join(_LABEL_FEATURES)}"
        )
    return image, label, first(_NAME_FEATURES)


def _actual_spec(root: Path, label, spec: DatasetSpec, tfds) -> DatasetSpec:
    """The spec with the form and the class names that the records have. Raises DataError if they are another's."""
    has_masks = isinstance(label, tfds.features.Image)
    if has_masks != spec.has_masks:
        has, needs = ("masks", "class numbers") if has_masks else ("class numbers", "masks")
        raise DataError(f"{root}: its labels are {has}, but those of {spec.name!r} are {needs}")
    if spec.has_polygons:
        return dataclasses.replace(spec, values={**{i: i for i in range(spec.num_classes)}, IGNORE: IGNORE})
    if has_masks:
        return camvid.COLOR if spec.name == "camvid" and label.shape[-1] == 3 else spec
    if label.num_classes != spec.num_classes:
        raise DataError(
            f"{root}: has {label.num_classes} classes, but {spec.name!r} has {spec.num_classes}; set data.classes"
        )
    names = tuple(label.names or spec.classes)
    if spec.classes not in (imagenet.CLASSES, names):
        raise DataError(f"{root}: its classes are {', '.join(names[:5])}, ...; data.classes names others")
    return dataclasses.replace(spec, classes=names)
