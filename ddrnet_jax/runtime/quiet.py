"""Standard error without what C++ libraries write there by themselves."""

import contextlib
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def standard_error() -> Iterator[None]:
    """While the context lasts, what any thread or library writes to standard error goes nowhere."""
    sys.stderr.flush()
    before, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
        os.close(nowhere)
