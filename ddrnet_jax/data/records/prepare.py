"""Folders -> ArrayRecords that TFDS and this package read: parallel, resumable, checked. TensorFlow is not needed."""

import concurrent.futures
import contextlib
import hashlib
import io
import logging
import os
import re
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path

import cv2
import filelock
from tqdm import tqdm

from ddrnet_jax import atomic
from ddrnet_jax.data import decode, matlab
from ddrnet_jax.data.check.jpegs import Decoders
from ddrnet_jax.data.errors import DataError
from ddrnet_jax.data.records import folders
from ddrnet_jax.data.records.folders import SHARD, Folder
from ddrnet_jax.data.records.manifest import OF_TFDS, TRAIN_IDS, Manifest, RecordFile
from ddrnet_jax.data.samples import EncodedSample, decode_sample
from ddrnet_jax.data.sets.specs import DatasetSpec
from ddrnet_jax.data.sources import FolderPairs, Scenes
from ddrnet_jax.text import printable

_log = logging.getLogger(__name__)

SHARD_BYTES = 256 * 2**20
_PROBES = 16  # samples whose mean size tells how many make a shard
_WRITER_OPTIONS = "group_size:1,uncompressed"  # random access; PNG and JPEG do not get smaller
_PNG_LEVEL = (cv2.IMWRITE_PNG_COMPRESSION, 6)


class _Stopped(Exception):
    """Another shard failed, or the user stopped the run."""


def prepare(
    sources: Mapping[str, FolderPairs | Scenes],
    output: str | Path,
    *,
    name: str,
    num_threads: int = 2,
    jpeg_quality: int = 0,
    shard_bytes: int = SHARD_BYTES,
) -> dict[str, int]:
    """Write the samples of every split as ArrayRecords into `output`; run again, only what is missing is written.

    sources       {split: source}; each sample is decoded once, so what is written is known to be good.
                  A shard whose files have changed since (their sizes or times) is written again
    output        a path, or an address gs://BUCKET/FOLDER: there each file goes once it is written on this disk
    name          of the data set, part of the file names
    jpeg_quality  1..100: images that are no JPEGs are stored as JPEGs of this quality; 0: the files' own bytes
    shard_bytes   what a file should hold, about
    Returns {split: number of samples}. Raises DataError naming the file that is damaged or cannot be written.
    """
    _check_arguments(sources, name)
    folder = folders.at(output)
    try:
        folder.local.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(folder.local / ".prepare.lock", timeout=0):
            _prepare(sources, folder, name, num_threads, jpeg_quality, shard_bytes)
    except filelock.Timeout as e:
        raise DataError(f"--output {output}: another prepare_data is writing here; wait for it") from e
    except OSError as e:
        raise DataError(f"--output {output}: cannot be written ({e.strerror or e})") from e
    return {split: len(source) for split, source in sources.items()}


def _check_arguments(sources, name: str) -> None:
    for split in sources:
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", split):
            raise DataError(f"split {split!r}: expected letters, digits and '_' in the name of a prepared split")
    if len({(_label_kind(source.spec), source.spec.classes) for source in sources.values()}) != 1:
        raise DataError(f"{name}: the splits differ in their classes or the form of their labels; prepare each apart")


def _prepare(sources, folder: Folder, name: str, num_threads: int, jpeg_quality: int, shard_bytes: int) -> None:
    spec = next(iter(sources.values())).spec
    manifest = Manifest.read_or_new(folder, name=name, labels=_label_kind(spec), jpeg_quality=jpeg_quality)
    names = {split: source.names() for split, source in sources.items()}
    for split, source in sources.items():
        manifest.plan(split, names[split], _samples_per_shard(source, jpeg_quality, shard_bytes))
    files = [file for split in sources for file in manifest.files(split)]
    made_of = {file: _sources_sha256(sources[file.split], file) for file in files}  # before they are read
    if changed := manifest.forget_changed(made_of):
        splits = ", ".join(sorted({file.split for file in changed}))
        _log.info(
            f"{len(changed)} of {len(files)} files are written again: images or labels of {splits} have other "
            "sizes or times than when they were written (so has a copy that does not keep times)"
        )
    for stale in folder.local.glob(f".{name}-*.partial"):
        stale.unlink()
    features = _features(spec)
    complaints: list[str] = []

    def work(file: RecordFile, advance: Callable) -> dict | None:
        if manifest.is_intact(file):
            advance(file.count)
            return None
        samples = _samples(sources[file.split], file, decoders, complaints.append)
        records = _records(samples, names[file.split][file.first :], features, spec, jpeg_quality)
        return manifest.keep(file, _write_file(file.path, records, advance), made_of[file])

    with Decoders() as decoders, contextlib.closing(_in_parallel(work, files, num_threads)) as finished:
        for file, entry in finished:
            if entry is not None:
                manifest.record(file, entry)
    for complaint in complaints:
        _log.warning(f"{complaint}; the decoder filled in the rest, and so it is stored")
    _write_metadata(manifest, features)


def _sources_sha256(source, file: RecordFile) -> str:
    return hashlib.sha256(os.fsencode("\n".join(source.stamp(index) for index in file.indices))).hexdigest()


def _in_parallel(
    work: Callable, files: list[RecordFile], num_threads: int
) -> Generator[tuple[RecordFile, dict | None], None, None]:
    """Yields (file, work(file, advance)) as they are done, under one progress bar; the first error stops all."""
    stop, lock = threading.Event(), threading.Lock()

    def advance(count: int = 1) -> None:
        if stop.is_set():
            raise _Stopped
        with lock:
            bar.update(count)

    with (
        tqdm(total=sum(file.count for file in files), unit="image", disable=None, ncols=80) as bar,
        concurrent.futures.ThreadPoolExecutor(num_threads) as pool,
    ):
        futures = {pool.submit(work, file, advance): file for file in files}
        try:
            for future in concurrent.futures.as_completed(futures):
                yield futures[future], future.result()
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


def _samples_per_shard(source, jpeg_quality: int, shard_bytes: int) -> int:
    if not len(source):
        raise DataError("a split without samples cannot be prepared; check data.root and the splits")
    probes = sorted({len(source) * i // _PROBES for i in range(_PROBES)})
    stored = [_stored(source.encoded(i), source.spec, jpeg_quality) for i in probes]
    size = sum(len(image) + (len(label) if isinstance(label, bytes) else 0) for image, label in stored)
    return max(1, shard_bytes * len(probes) // size)


def _samples(source, file: RecordFile, decoders: Decoders, complain: Callable[[str], None]) -> Iterator[EncodedSample]:
    """The samples of a file, each known to be good; of a JPEG that is damaged inside, `complain` is told."""
    for index in file.indices:
        encoded = source.encoded(index)
        decode_sample(encoded, source.spec)
        if decode.is_jpeg(encoded.image) and (complaint := decoders.complaint(encoded.image)):
            complain(f"{encoded.name}: {complaint}")
        yield encoded


def _records(
    samples: Iterator[EncodedSample], names: list[str], features, spec: DatasetSpec, jpeg_quality: int
) -> Iterator[bytes]:
    """The samples serialised."""
    for encoded, name in zip(samples, names, strict=False):
        image, label = _stored(encoded, spec, jpeg_quality)
        stored = io.BytesIO(label) if isinstance(label, bytes) else label
        yield features.serialize_example({"image": io.BytesIO(image), "label": stored, "name": printable(name)})


def _write_file(path: Path, records: Iterator[bytes], advance: Callable[[], None]) -> int:
    """Writes the file, then gives it its name. Returns the bytes of its records."""
    from array_record.python import array_record_module

    def writer(partial: Path):
        return contextlib.closing(array_record_module.ArrayRecordWriter(str(partial), _WRITER_OPTIONS))

    total = 0
    try:
        with atomic.replacing(path) as partial, writer(partial) as file:
            for record in records:
                file.write(record)
                total += len(record)
                advance()
    except RuntimeError as e:  # the writer's own, a full disk above all
        raise DataError(f"{path}: cannot be written ({str(e).split(';')[0]})") from e
    return total


def _stored(encoded: EncodedSample, spec: DatasetSpec, jpeg_quality: int) -> tuple[bytes, bytes | int]:
    """Image and label bytes as they go into a record; MATLAB labels become PNGs of their values, JSON of train ids."""
    image, label = encoded.image, encoded.label
    if jpeg_quality and not decode.is_jpeg(image):
        pixels = cv2.cvtColor(decode.decode_image(image, encoded.name, spec.value_range), cv2.COLOR_RGB2BGR)
        image = cv2.imencode(".jpg", pixels, (cv2.IMWRITE_JPEG_QUALITY, jpeg_quality))[1].tobytes()
    if isinstance(label, bytes) and label.startswith(matlab.MAGIC):
        label = cv2.imencode(".png", matlab.read_label_map(label, encoded.label_name), _PNG_LEVEL)[1].tobytes()
    if spec.has_polygons:
        ids = decode.decode_label(label, encoded.label_name, spec)
        label = cv2.imencode(".png", ids, _PNG_LEVEL)[1].tobytes()
    return image, label


def _label_kind(spec: DatasetSpec) -> str:
    if not spec.has_masks:
        return "classes"
    if getattr(spec, "label_kind", "") == "labelTrainIds":
        return TRAIN_IDS
    return "colors" if spec.has_color_masks else "indices"


def _features(spec: DatasetSpec):
    import tensorflow_datasets as tfds

    if spec.has_masks:
        label = tfds.features.Image(shape=(None, None, 3 if spec.has_color_masks else 1))
    else:
        label = tfds.features.ClassLabel(names=list(spec.classes))
    image = tfds.features.Image(shape=(None, None, 3))
    return tfds.features.FeaturesDict({"image": image, "label": label, "name": tfds.features.Text()})


def _write_metadata(manifest: Manifest, features) -> None:
    """features.json and dataset_info.json, with every split that is complete."""
    import tensorflow_datasets as tfds

    name, folder = manifest.values["name"], manifest.folder
    template = tfds.core.ShardedFileTemplate(
        data_dir=folder.local, dataset_name=name, filetype_suffix=SHARD.removeprefix(".")
    )
    complete = [split for split in manifest.values["splits"] if manifest.is_complete(split)]
    for file in (file for split in complete for file in manifest.files(split)):
        if not file.path.exists():  # but in a bucket; TFDS looks for the names
            file.path.touch()
    splits = [
        tfds.core.SplitInfo(
            name=split,
            shard_lengths=[file.count for file in manifest.files(split)],
            num_bytes=manifest.record_bytes(split),
            filename_template=template.replace(split=split),
        )
        for split in complete
    ]
    tfds.folder_dataset.write_metadata(
        data_dir=folder.local,
        features=features,
        split_infos=splits,
        version="1.0.0",
        check_data=False,
        description=f"{name}: encoded images, and labels with the data set's own values",
    )
    for written in (*sorted(path.name for path in folder.local.glob("*.labels.txt")), *OF_TFDS):
        folder.keep(written)
