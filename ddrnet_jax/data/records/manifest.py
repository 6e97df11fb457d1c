"""The list of files beside prepared ArrayRecords: what belongs there, how large it is, its SHA-256."""

import hashlib
import itertools
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ddrnet_jax import atomic, regular_files
from ddrnet_jax.data.errors import DataError
from ddrnet_jax.data.records.folders import SHARD, Folder, sha256_of_file

FILE = "manifest.json"
TRAIN_IDS = "train_ids"  # the labels of Cityscapes where they are no label ids
_FORMAT = 1
OF_TFDS = ("features.json", "dataset_info.json")  # beside the manifest; without the last nothing is read


class RecordFile(NamedTuple):
    """One file of a split: samples first .. first + count - 1.

    path  where it is written, and on a disk stays
    """

    split: str
    path: Path
    first: int
    count: int  # type: ignore[assignment]  # hides tuple's method

    @property
    def indices(self) -> range:
        return range(self.first, self.first + self.count)


class Manifest:
    """manifest.json of a folder; written whole after every file, so a killed run loses at most the open ones."""

    def __init__(self, folder: Folder, values: dict):
        self.folder, self.values = folder, values

    @classmethod
    def read(cls, folder: Folder) -> "Manifest | None":
        """The manifest of a folder, or None where there is none. Raises DataError if it is damaged."""
        path = folder.local / FILE
        if not path.exists():
            return None
        try:
            values = json.loads(regular_files.read_text(path))
            if values["format"] == _FORMAT:
                return cls(folder, values)
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise DataError(
                f"{folder.path(FILE)}: damaged, or not of prepare_data; put back a copy, or choose another folder"
            ) from e
        raise DataError(
            f"{folder.path(FILE)}: format {values['format']}, expected {_FORMAT}; prepare the data again elsewhere"
        )

    @classmethod
    def read_or_new(cls, folder: Folder, **about: object) -> "Manifest":
        """The manifest of what `about` describes. Raises DataError if the folder holds something else."""
        manifest = cls.read(folder)
        if manifest is None:
            _check_free(folder)
            return cls(folder, {"format": _FORMAT, **about, "splits": {}})
        for key, value in about.items():
            if manifest.values.get(key) != value:
                raise DataError(
                    f"{folder}: was prepared with {key}={manifest.values.get(key)!r}, now {key}={value!r}; "
                    "choose another --output"
                )
        return manifest

    def plan(self, split: str, names: Sequence[str], samples_per_shard: int) -> None:
        """Cut a split into files, or keep how it was cut. Raises DataError if it had other samples."""
        digest = hashlib.sha256(os.fsencode("\n".join(names))).hexdigest()
        planned = self.values["splits"].get(split)
        if planned is None:
            shards = -(-len(names) // samples_per_shard)
            lengths = [len(names) * (i + 1) // shards - len(names) * i // shards for i in range(shards)]
            self.values["splits"][split] = {"names_sha256": digest, "lengths": lengths, "files": {}}
            self.save()
        elif planned["names_sha256"] != digest:
            raise DataError(
                f"{self.folder}: split {split!r} was prepared from {sum(planned['lengths'])} other images than the "
                f"{len(names)} given now; choose another --output, or remove that folder"
            )

    def files(self, split: str) -> list[RecordFile]:
        """The files of a split, in order."""
        name, lengths = self.values["name"], self.values["splits"][split]["lengths"]
        firsts = itertools.accumulate(lengths[:-1], initial=0)
        return [
            RecordFile(split, self.folder.local / f"{name}-{split}{SHARD}-{i:05d}-of-{len(lengths):05d}", first, length)
            for i, (first, length) in enumerate(zip(firsts, lengths, strict=True))
        ]

    def keep(self, file: RecordFile, record_bytes: int, sources_sha256: str) -> dict:
        """Bring a file that was written to its place. Returns its size and SHA-256, and what it was made of."""
        size, digest = file.path.stat().st_size, sha256_of_file(file.path)
        self.folder.keep(file.path.name, digest)
        return {"bytes": size, "sha256": digest, "record_bytes": record_bytes, "sources_sha256": sources_sha256}

    def record(self, file: RecordFile, entry: dict) -> None:
        """Note a file that is in its place, and save."""
        self._entries(file.split)[file.path.name] = entry
        self.save()

    def forget_changed(self, sources_sha256: Mapping[RecordFile, str]) -> list[RecordFile]:
        """The files that were made of other sources than now; they count as not written, and it is saved."""
        written = {file: entry for file in sources_sha256 if (entry := self._entry(file))}
        changed = [file for file, entry in written.items() if entry.get("sources_sha256") != sources_sha256[file]]
        for file in changed:
            del self._entries(file.split)[file.path.name]
        if changed:
            self.save()
        return changed

    def is_intact(self, file: RecordFile) -> bool:
        """True if the file is there, whole: reads all of it."""
        entry = self._entry(file)
        return entry is not None and self._has_size(file) and self.folder.has(file.path.name, entry["sha256"])

    def is_complete(self, split: str) -> bool:
        """True if all files of a split are there, by their sizes."""
        return all(self._has_size(file) for file in self.files(split))

    def require_complete(self, split: str) -> None:
        """Raises DataError naming the first file of the split that is missing or of another size than written."""
        for file in self.files(split):
            if not self._has_size(file):
                entry, size = self._entry(file), self.folder.size(file.path.name)
                expected = f"{entry['bytes']} bytes" if entry else "a shard that prepare_data did not finish"
                found = "no such file" if size is None else f"{size} bytes"
                place = self.folder.path(file.path.name)
                raise DataError(f"{place}: {found}, expected {expected}; copy it again or run prepare_data again")

    def record_bytes(self, split: str) -> int:
        """Bytes of all records of a split, before they became files."""
        return sum(entry["record_bytes"] for entry in self._entries(split).values())

    def save(self) -> None:
        """Write manifest.json, whole or not at all."""
        atomic.write_text(self.folder.local / FILE, json.dumps(self.values, indent=1) + "\n")
        self.folder.keep(FILE)

    def _entries(self, split: str) -> dict[str, dict]:
        return self.values["splits"][split]["files"]

    def _entry(self, file: RecordFile) -> dict | None:
        """The note made of a file when it was written."""
        return self._entries(file.split).get(file.path.name)

    def _has_size(self, file: RecordFile) -> bool:
        entry = self._entry(file)
        return entry is not None and self.folder.size(file.path.name) == entry["bytes"]


def _check_free(folder: Folder) -> None:
    """Raises DataError if a folder that is not ours has a data set in it: its files would be written over."""
    for name in folder.names():
        if name in OF_TFDS or SHARD in name:
            raise DataError(
                f"{folder.path(name)}: is not of prepare_data and is not written over; choose another --output"
            )
