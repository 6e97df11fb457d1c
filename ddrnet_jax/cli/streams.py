"""Standard output and error of a program whose reader may go away: no run ends for its log."""

import io
import os
import sys


class Stream(io.TextIOWrapper):
    """Text to a file descriptor; once its reader is gone or its disk is full, to nowhere.

    problem  the first error, None before it
    """

    problem: OSError | None = None

    def write(self, text: str) -> int:
        """See io.TextIOWrapper; it raises no OSError."""
        try:
            return super().write(text)
        except OSError as e:
            self._go_nowhere(e)
            return len(text)

    def flush(self) -> None:
        """See io.TextIOWrapper; it raises no OSError."""
        try:
            super().flush()
        except OSError as e:
            self._go_nowhere(e)

    def _go_nowhere(self, problem: OSError) -> None:
        self.problem = self.problem or problem
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())  # what is in the buffers, and what C++ says, follows
        os.close(nowhere)


def install() -> None:
    """Make sys.stdout and sys.stderr such streams; names that are no text are written with backslashes.

    A descriptor that was closed is opened to nowhere: else the next file of the run would be the standard error.
    """
    _open_all()
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        before = getattr(sys, name)
        encoding = before.encoding if before is not None else "utf-8"
        if before is not None:
            before.flush()
        raw = io.FileIO(descriptor, "w", closefd=False)
        by_line = descriptor == 2 or raw.isatty()
        setattr(sys, name, Stream(io.BufferedWriter(raw), encoding, "backslashreplace", line_buffering=by_line))


def output_problem() -> OSError | None:
    """The error that has kept standard output from being written, None where there is none or nobody reads it."""
    if not isinstance(sys.stdout, Stream):
        return None
    sys.stdout.flush()
    return None if isinstance(sys.stdout.problem, BrokenPipeError) else sys.stdout.problem


def _open_all() -> None:
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
