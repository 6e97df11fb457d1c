"""The reader of the output may go away, its disk may be full, it may never have been there: no run ends for it."""

import subprocess
import sys

import pytest

from ddrnet_jax.cli import streams

PROGRAM = """
import logging, os, sys
from ddrnet_jax.cli import log, streams
streams.install()
log.configure(verbose=False)
file = open(sys.argv[1], "w")
for i in range(20000):
    print("output", i)
    logging.getLogger("ddrnet_jax").info(f"log {i} \\udcff")
os.write(2, b"from C++")
print("done", file=file)
sys.exit(3 if streams.output_problem() else 0)
"""


@pytest.mark.parametrize(
    ("redirection", "code"),
    [
        ("2>&1 | head -1", 0),
        ("2>&1 >/dev/null | head -1", 0),
        (">/dev/full 2>&1", 3),
        ("2>/dev/full >/dev/null", 0),
        ("2>&- >/dev/null", 0),
        (">&- 2>&-", 0),
        ("<&- >&- 2>&-", 0),
    ],
)
def test_the_program_goes_on(tmp_path, redirection, code):
    script = f'set -o pipefail; "$0" -c "$1" "$2" {redirection}'
    command = ["bash", "-c", script, sys.executable, PROGRAM, str(tmp_path / "file")]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert done.stderr == ""
    assert (tmp_path / "file").read_text() == "done\n"  # no log among it


def test_what_is_written_before_is_there(tmp_path):
    with open(tmp_path / "out", "wb") as file:
        stream = streams.Stream(file, "ascii", "backslashreplace")
        stream.write("grün \udcff\n")
        stream.flush()
        assert stream.problem is None
    assert (tmp_path / "out").read_bytes() == rb"gr\xfcn \udcff" + b"\n"


def test_in_a_notebook_the_streams_are_the_notebooks():
    before = sys.stdout
    assert streams.output_problem() is None
    assert sys.stdout is before
