"""The faults of a data set, before training meets them: a quick look, and every sample of every split."""

import collections
import concurrent.futures
import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
from tqdm import tqdm

from ddrnet_jax.data import decode
from ddrnet_jax.data.check import files as check_files
from ddrnet_jax.data.check import findings, recognise
from ddrnet_jax.data.check.findings import SEVERITIES, SHARED, Finding, Tally
from ddrnet_jax.data.check.jpegs import Decoders
from ddrnet_jax.data.check.samples import Observation, inspect
from ddrnet_jax.data.errors import DataAway, DataError, MissingLabels
from ddrnet_jax.data.records.array_records import ArrayRecords
from ddrnet_jax.data.remarks import Remarks, misnamed
from ddrnet_jax.data.samples import Sample, Source
from ddrnet_jax.data.sets import layouts
from ddrnet_jax.data.sets.folder import Folder
from ddrnet_jax.data.sets.specs import DatasetSpec
from ddrnet_jax.data.sources import FolderPairs

QUICK_SAMPLES = 16  # of both splits together
QUICK_SECONDS = 2.0
PICTURED = 8
_CHUNK = 8  # samples a thread looks at before it reports


class Split(NamedTuple):
    """A split to look at: role ("training", "evaluation"), its name, and what opens its source."""

    role: str
    name: str
    open: Callable[[], Source]


@dataclasses.dataclass(frozen=True)
class Report:
    """The facts and the faults of a data set.

    tallies   one a split that could be opened: counts by class, sizes
    findings  errors first
    samples   some that are sound, of both splits, to look at; if none is, some whose label u8[H,W,3] is as in its file
    """

    name: str
    root: str
    spec: DatasetSpec
    tallies: tuple[Tally, ...]
    findings: tuple[Finding, ...]
    samples: tuple[Sample, ...]

    def count(self, severity: str) -> int:
        """Findings of a severity."""
        return sum(finding.severity == severity for finding in self.findings)

    @property
    def has_errors(self) -> bool:
        return self.count("error") > 0


def quick(
    train_source: Source, eval_source: Source, *, crop_hw: tuple[int, int], scale_range: tuple[float, float]
) -> list[str]:
    """Read a few samples, spread over both sources, in about two seconds at most, the first of both in any case.

    Returns warnings, a line each. Raises DataError naming the first file that cannot be used.
    """
    start, labelled, ignored = time.perf_counter(), 0, 0
    sizes: collections.Counter[tuple[int, int]] = collections.Counter()
    remarks = Remarks(train_source.spec)
    spec = train_source.spec
    if train_source.spec.classes != eval_source.spec.classes:
        odd = sorted(set(train_source.spec.classes) ^ set(eval_source.spec.classes))
        raise DataError(f"the classes of the training and evaluation data differ: {', '.join(map(repr, odd[:5]))}")
    for source, index in _spread_over_both(train_source, eval_source):
        if index and time.perf_counter() - start > QUICK_SECONDS:
            break
        sample = _read(source, index)
        _look_at_files(source, index, remarks)
        if source is train_source and spec.has_masks:
            sizes[sample["image"].shape[1::-1]] += 1
            is_ignored = int((sample["label"] >= spec.num_classes).sum())
            labelled, ignored = labelled + sample["label"].size - is_ignored, ignored + is_ignored
    lines = lines_about_shared(train_source, eval_source)
    if spec.has_masks:  # without masks there are millions of images, and labels that are no files
        more = _lines_about_files("training", train_source) + _lines_about_files("evaluation", eval_source)
        more += remarks.lines()
        more += _lines_about_samples(sizes, labelled, ignored, crop_hw, scale_range)
        lines += [f"{line}; --mode check_data tells more" for line in more]
    return [f"warning: {line}" for line in lines]


def _look_at_files(source: Source, index: int, remarks: Remarks) -> None:
    """Remark on what the files of a sample do silently. Raises DataError if a label is not what its name says."""
    if not (isinstance(source, FolderPairs | ArrayRecords) and source.spec.has_masks):
        return
    encoded = source.encoded(index)
    remarks.add(encoded.image, encoded.name, encoded.label)
    has_values = not (source.spec.has_color_masks or source.spec.has_polygons)
    reason = misnamed(encoded.label, encoded.label_name, source.spec) if has_values else ""
    if reason:
        raise DataError(f"{encoded.label_name}: {reason} (--mode check_data lists all such files)")


def lines_about_shared(train_source: Source, eval_source: Source) -> list[str]:
    """A line if evaluation images are trained on."""
    held_out = set(eval_source.places())
    shared = sum(place in held_out for place in train_source.places())
    if not shared:
        return []
    part = "all" if shared == len(eval_source) else f"{shared:,} of the {len(eval_source):,}"
    return [
        f"{part} evaluation images are trained on too (data.train_split, data.eval_split): "
        "their scores say nothing about new images"
    ]


def _lines_about_files(role: str, source: Source) -> list[str]:
    findings = _beside(role, list(getattr(source, "pairs", ())), source.spec)
    return [f"{finding.message}, first {finding.names[0]}" for finding in findings]


def _spread_over_both(*sources: Source) -> Iterator[tuple[Source, int]]:
    """(source, index): the first of each, then the others in turn."""
    indices = [spread(len(source), QUICK_SAMPLES // 2) for source in sources]
    for row in itertools.zip_longest(*indices):
        yield from ((source, index) for source, index in zip(sources, row, strict=True) if index is not None)


def _lines_about_samples(
    sizes: collections.Counter,
    labelled: int,
    ignored: int,
    crop_hw: tuple[int, int],
    scale_range: tuple[float, float],
) -> list[str]:
    lines = []
    if not labelled:
        lines.append(f"every pixel of the {sum(sizes.values())} labels looked at is ignored")
    elif ignored > labelled:
        lines.append(f"{ignored / (ignored + labelled):.0%} of the labels' pixels are ignored")
    padding = findings.padding_share(sizes, crop_hw, scale_range)
    if padding > 0.5:
        lines.append(f"{padding:.0%} of the average crop is padding: data.crop_hw is larger than the images")
    return lines


def _read(source: Source, index: int) -> Sample:
    try:
        return source[index]
    except DataError as e:
        raise DataError(f"{e} (--mode check_data lists all such files)") from e


def spread(length: int, count: int) -> list[int]:
    """At most `count` indices, from the first to the last."""
    return sorted({i * (length - 1) // max(count - 1, 1) for i in range(count)})


def check(
    splits: Sequence[Split],
    spec: DatasetSpec,
    *,
    root: str | Path,
    crop_hw: tuple[int, int],
    scale_range: tuple[float, float],
    eval_size_hw: tuple[int, int] | None = None,
    num_threads: int = 2,
) -> Report:
    """Look at every sample of every split, on threads, under a progress bar. What is wrong is in the report.

    Raises DataAway where a bucket does not answer.
    """
    cv2.setNumThreads(0)  # the threads here are the parallelism
    found, opened = [], []
    for split in splits:
        source, of_files = _open(split, root, spec)
        found += of_files
        if source is not None and len(source):
            opened.append((split, source))
    tallies = _tallies(opened, num_threads)
    found += findings.of_samples(tallies, spec)
    for tally in tallies:
        found += findings.of_classes(tally)
    found += findings.of_images(tallies, crop_hw, scale_range, eval_size_hw)
    found += _layout(splits, spec, root, found)
    found.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    actual = opened[0][1].spec if opened else spec
    return Report(spec.name, str(root), actual, tuple(tallies), tuple(found), _some(opened, tallies))


def read_all(source: Source) -> None:
    """Read every sample under a progress bar. Raises DataError naming the first that cannot be used."""
    for index in tqdm(range(len(source)), unit="image", disable=None, ncols=80):
        source[index]


def _layout(splits: Sequence[Split], spec: DatasetSpec, root: str | Path, found: list[Finding]) -> list[Finding]:
    """How the files of the user's own folder lie, where something is wrong with how they are read."""
    if not isinstance(spec, Folder) or not any(f.severity == "error" or f.message.endswith(SHARED) for f in found):
        return []
    layout = recognise.finding(root, spec, *(split.name for split in splits))
    return [layout] if layout else []


def _open(split: Split, root: str | Path, spec: DatasetSpec) -> tuple[Source | None, list[Finding]]:
    """The source, as far as it can be read, and what is wrong with which files are there."""
    alone, findings = [], []
    try:
        source = split.open()
    except MissingLabels as e:
        source, alone = check_files.KnownPairs(root, e.pairs, layouts.spec_of_files(root, split.name, spec)), e.missing
        names = tuple(f"{image}: no {label}" for image, label in alone)
        message = f"{split.role}: {len(alone)} of {len(alone) + len(source)} images have no label"
        findings.append(Finding("error", message, e.advice, names))
    except DataAway:
        raise
    except DataError as e:
        message, _, advice = str(e).partition("; ")
        advice = advice or "correct this"
        return None, [Finding("error", message, f"{advice}. Then run again: split {split.name!r} was not read")]
    return source, findings + _beside(split.role, [*getattr(source, "pairs", ()), *alone], source.spec)


def _beside(role: str, pairs: list, spec: DatasetSpec) -> list[Finding]:
    """Files in the folders of a split that are no part of it."""
    findings = []
    if spec.has_masks:
        orphans = tuple(check_files.labels_without_image(pairs))
        if orphans:
            message, advice = f"{role}: {len(orphans)} label(s) without image", "add the images or remove them"
            findings.append(Finding("warning", message, advice, orphans))
    unread = tuple(check_files.unread_files(pairs))
    if unread:
        message = f"{role}: {len(unread)} file(s) or folder(s) beside the images are no images and not read"
        findings.append(Finding("warning", message, "convert them to PNG or JPEG, or move them away", unread))
    return findings


def _tallies(opened: list[tuple[Split, Source]], num_threads: int) -> list[Tally]:
    tallies = []
    total = sum(len(source) for _, source in opened)
    with Decoders() as decoders, tqdm(total=total, unit="image", disable=None, ncols=80) as bar:
        for split, source in opened:
            tally = Tally(split.role, split.name, source.spec, count=len(source))
            for index, seen in enumerate(_observations(source, num_threads, decoders)):
                tally.add(index, seen)
                bar.update()
            tallies.append(tally)
    return tallies


def _observations(source: Source, num_threads: int, decoders: Decoders) -> Iterator[Observation]:
    """Yields what every sample is, in order; a few are looked at ahead."""

    def look(start: int) -> list[Observation]:
        return [inspect(source, i, decoders) for i in range(start, min(start + _CHUNK, len(source)))]

    with concurrent.futures.ThreadPoolExecutor(num_threads) as pool:
        waiting: collections.deque[concurrent.futures.Future[list[Observation]]] = collections.deque()
        try:
            for start in range(0, len(source), _CHUNK):
                waiting.append(pool.submit(look, start))
                if len(waiting) > 2 * num_threads:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _some(opened: list[tuple[Split, Source]], tallies: list[Tally]) -> tuple[Sample, ...]:
    """Samples to look at, spread over the splits."""
    for read, kind in ((lambda source, index: source[index], "sound"), (_as_stored, "unfit")):
        usable = [(s, getattr(t, kind)) for (_, s), t in zip(opened, tallies, strict=True) if getattr(t, kind)]
        if usable:
            count = PICTURED // len(usable)
            return tuple(read(s, indices[i]) for s, indices in usable for i in spread(len(indices), count))
    return ()


def _as_stored(source: Source, index: int) -> Sample:
    """The sample with the colours of its label's file."""
    encoded = source.encoded(index)
    image, label = (decode.decode_image(data, encoded.name) for data in (encoded.image, encoded.label))
    return Sample(image=image, label=label, name=encoded.name)
