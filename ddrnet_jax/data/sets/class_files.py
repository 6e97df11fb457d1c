"""Files in which tools write the names of their classes: CVAT's, Roboflow's, and that of CamVid's copies."""

import csv
import re
from pathlib import Path
from typing import NamedTuple

from ddrnet_jax.data.errors import DataError
from ddrnet_jax.data.files import read_file
from ddrnet_jax.data.sets.specs import Color


class Classes(NamedTuple):
    """Names, and the colour or the value of each in the masks, where the file says it."""

    names: tuple[str, ...]
    colors: tuple[Color, ...] = ()
    values: tuple[int, ...] = ()


def read(path: Path) -> Classes | None:
    """The classes of a file of one of these names; None if there are none in it."""
    try:
        text = read_file(path).decode("utf-8-sig", errors="replace")
        found = READERS[path.name](text)
        return found if found.names else None
    except (DataError, ValueError, csv.Error):
        return None


def _labelmap(text: str) -> Classes:
    """CVAT's: "road:128,64,128::" a line."""
    found = re.findall(r"^([^#:\n][^:\n]*):(\d+),(\d+),(\d+):", text, re.MULTILINE)
    return Classes(tuple(name for name, *_ in found), tuple((int(r), int(g), int(b)) for _, r, g, b in found))


def _roboflow(text: str) -> Classes:
    """Roboflow's: "1, road" a line, after a heading."""
    rows = [(int(row[0]), row[1].strip()) for row in csv.reader(text.splitlines()[1:]) if len(row) >= 2]
    return Classes(tuple(name for _, name in rows), values=tuple(value for value, _ in rows))


def _class_dict(text: str) -> Classes:
    """That of copies of CamVid: "Car, 64, 0, 128" a line, after a heading."""
    rows = [row for row in csv.reader(text.splitlines()[1:]) if len(row) >= 4]
    return Classes(tuple(row[0].strip() for row in rows), tuple((int(r), int(g), int(b)) for _, r, g, b, *_ in rows))


READERS = {"labelmap.txt": _labelmap, "_classes.csv": _roboflow, "class_dict.csv": _class_dict}
