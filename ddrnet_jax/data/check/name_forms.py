"""The form of file names: what stands before and after the part that the names of image and label share."""

import collections
import os
import re
from collections.abc import Iterator
from typing import NamedTuple

from ddrnet_jax.data.check.tree import File
from ddrnet_jax.data.files import IMAGE_SUFFIXES

_PROBES = 24  # files whose names are compared
_MOST_FORMS = 4
_LEAST_SHARE = 0.9  # of them has a label


class Form(NamedTuple):
    """Image "frame_{stem}_rgb.jpg" and label "mask_{stem}.png"; the image's suffix only where it tells them apart."""

    image_before: str
    image_after: str
    label_before: str
    label_after: str
    label_suffix: str
    image_suffix: str

    def image_pattern(self) -> str:
        """The pattern of an image's name; "" where every name will do."""
        given = self.image_before + self.image_after + self.image_suffix
        return f"{self.image_before}{{stem}}{self.image_after}{self.image_suffix}" if given else ""

    def label_pattern(self) -> str:
        """The pattern of a label's name; "" where it is the image's."""
        given = self.label_before + self.label_after + self.image_before + self.image_after + self.image_suffix
        is_json = self.label_suffix.lower() == ".json"
        return f"{self.label_before}{{stem}}{self.label_after}{self.label_suffix}" if given or is_json else ""

    def is_of_label(self, file: File) -> bool:
        """True if a file beside the images is a label by its name."""
        fits = file.stem.startswith(self.label_before) and file.stem.endswith(self.label_after)
        return fits and file.suffix == self.label_suffix


def common_forms(images: list[File], labels: list[File], *, is_same: bool) -> list[tuple[Form, File, File]]:
    """The forms that nearly all images and their labels have, the plainest first, each with an example of both.

    is_same  images and labels are in one folder
    """
    images = [file for file in images if file.suffix.lower() in IMAGE_SUFFIXES]
    by_folder = collections.defaultdict(list)
    for label in labels:
        by_folder[label.folder].append(label)
    probes = images[:: max(1, len(images) // _PROBES)]
    examples: dict[Form, tuple[File, File]] = {}
    votes: collections.Counter[Form] = collections.Counter()
    for before, after in _affixes_of([file.stem for file in images]):
        for probe in probes:
            for form, label in _forms(probe, by_folder[probe.folder], before, after, is_same=is_same):
                votes[form] += 1
                examples.setdefault(form, (probe, label))
    good = []
    for form, count in votes.items():
        sought = sum(not (is_same and form.is_of_label(probe)) for probe in probes)
        if count >= _LEAST_SHARE * sought:
            good.append((form, *examples[form]))
    return sorted(good, key=lambda found: (len("".join(found[0])), found[0]))[:_MOST_FORMS]


def _forms(image: File, labels: list[File], before: str, after: str, *, is_same: bool) -> Iterator[tuple[Form, File]]:
    core = image.stem[len(before) : len(image.stem) - len(after)]
    for label in labels:
        start, found, end = label.stem.partition(core)
        if found and not (is_same and label == image):
            suffix = image.suffix if is_same and (start, end) == (before, after) else ""
            yield Form(before, after, start, end, label.suffix, suffix), label


def _affixes_of(stems: list[str]) -> list[tuple[str, str]]:
    """The beginning and end that all stems share beside the part that is the label's too; digits are of that part."""
    if len(stems) < 2:
        return [("", "")]
    before = re.sub(r"[0-9]+$", "", os.path.commonprefix(stems))
    after = re.sub(r"[0-9]+$", "", os.path.commonprefix([stem[::-1] for stem in stems]))[::-1]
    if any(len(stem) <= len(before) + len(after) for stem in stems):
        return [("", "")]
    return list(dict.fromkeys([("", ""), (before, ""), ("", after), (before, after)]))
