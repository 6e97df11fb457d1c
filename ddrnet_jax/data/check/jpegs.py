"""JPEGs that are damaged inside: decoders fill the rest in and only mention it on their process's standard error."""

import contextlib
import subprocess
import sys
from typing import IO

from ddrnet_jax.data.errors import DataError

_SCRIPT = """
import sys, cv2, numpy
stream = sys.stdin.buffer
while True:
    print("ready", file=sys.stderr, flush=True)
    if not (data := stream.read(int.from_bytes(stream.read(8), "little"))):
        break
    try:
        cv2.imdecode(numpy.frombuffer(data, numpy.uint8), cv2.IMREAD_REDUCED_GRAYSCALE_8)
    except cv2.error:
        pass
"""
_READY = b"ready\n"


class _Process(subprocess.Popen[bytes]):
    """One that is started with both pipes."""

    stdin: IO[bytes]
    stderr: IO[bytes]


class Decoders(contextlib.ExitStack):
    """Processes that decode JPEGs for their complaints alone, one at a time each: so a complaint is about one file.

    They start when they are needed, one for each thread that asks, and end with the context.
    """

    def __init__(self) -> None:
        super().__init__()
        self._idle: list[_Process] = []

    def complaint(self, jpeg: bytes) -> str:
        """The first complaint of a decoder about these bytes of a JPEG file; "" if it has none."""
        try:
            process = self._idle.pop()
        except IndexError:
            process = self._start()
        with contextlib.suppress(BrokenPipeError):  # told when it is read from
            process.stdin.write(len(jpeg).to_bytes(8, "little") + jpeg)
            process.stdin.flush()
        said = _until_ready(process)
        self._idle.append(process)
        return said[0] if said else ""

    def _start(self) -> _Process:
        command = [sys.executable, "-c", _SCRIPT]
        process = _Process(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
        self.callback(_end, process)
        _until_ready(process)
        return process


def _until_ready(process: _Process) -> list[str]:
    said: list[str] = []
    for line in process.stderr:
        if line == _READY:
            return said
        said.append(line.decode(errors="replace").strip())
    raise DataError(f"a process that decodes JPEGs has ended ({said[-1] if said else 'killed'}); run again")


def _end(process: _Process) -> None:
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()
    process.stderr.close()
    process.wait()
