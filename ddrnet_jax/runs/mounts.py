"""Which file systems are buckets: there a folder cannot be renamed."""

import re
from pathlib import Path

from ddrnet_jax import regular_files

_TYPES = ("fuse.gcsfuse", "gcsfuse", "fuse")  # the last by the driver of GKE, which mounts them itself
_TABLE = Path("/proc/mounts")  # of Linux, as gcsfuse is


def is_bucket(path: Path, table: Path | None = None) -> bool:
    """True if a path, which need not be there yet, lies in a bucket that gcsfuse has mounted.

    table  a file as /proc/mounts; None: that one
    """
    try:
        lines = regular_files.read_text(table or _TABLE, "surrogateescape").splitlines()
    except OSError:
        return False
    types = {Path(_plain(place)): kind for _, place, kind, *_ in (line.split(" ") for line in lines)}
    here = path.resolve()
    return next((types[folder] for folder in (here, *here.parents) if folder in types), "") in _TYPES


def _plain(place: str) -> str:
    """A name without the table's escapes, as \\040 for a space."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), place)
