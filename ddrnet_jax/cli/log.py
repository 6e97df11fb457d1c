"""The package's log as the lines of a terminal; libraries are silent unless asked for."""

import logging
import sys

from tqdm import tqdm

from ddrnet_jax.runtime import processes
from ddrnet_jax.text import printable

_PACKAGE = __name__.split(".")[0]


class _Lines(logging.Handler):
    """One line a record on standard error, above any progress bar; of several processes the first speaks."""

    def emit(self, record: logging.LogRecord) -> None:
        if processes.is_first():
            prefix = "warning: " if record.levelno >= logging.WARNING else ""
            tqdm.write(prefix + printable(record.getMessage()), file=sys.stderr)
            sys.stderr.flush()


_lines = _Lines()
_libraries = logging.StreamHandler()
_libraries.setFormatter(logging.Formatter("%(name)s: %(message)s"))
_libraries.addFilter(lambda record: record.name.split(".")[0] != _PACKAGE)


def configure(*, verbose: bool) -> None:
    """Show what the package says; `verbose` lets the logs of libraries through."""
    package = logging.getLogger(_PACKAGE)
    package.setLevel(logging.INFO)
    package.addHandler(_lines)
    package.propagate = False  # a library's handler of the root would say every line a second time
    root = logging.getLogger()
    if verbose:
        root.setLevel(logging.INFO)
        root.addHandler(_libraries)
    else:
        root.removeHandler(_libraries)
    # Orbax logs the tracebacks of what it also raises, and of what we pass over; asyncio and uvicorn those of tasks.
    for name in ("absl", "asyncio", "uvicorn"):
        logging.getLogger(name).setLevel(logging.NOTSET if verbose else logging.CRITICAL)
