"""What decoders say on standard error is heard; what others say there still arrives, whoever says it."""

import os
import subprocess
import sys

from ddrnet_jax.data.check.jpegs import Overheard


def test_what_is_no_decoders_is_passed_on(capfd):
    os.write(2, b"before\n")
    with Overheard() as overheard:
        print("from Python", file=sys.stderr)
        mark = overheard.mark()
        os.write(2, b"Corrupt JPEG data: 3 extraneous bytes\nanother library\n")
        assert overheard.text_since(mark) == "Corrupt JPEG data: 3 extraneous bytes\nanother library\n"
        assert overheard.mark() == mark + 54
    os.write(2, b"after\n")
    assert sorted(capfd.readouterr().err.splitlines()) == ["after", "another library", "before", "from Python"]


def test_standard_error_is_as_before_even_after_an_error():
    script = (
        "import sys\n"
        "from ddrnet_jax.data.check.jpegs import Overheard\n"
        "try:\n"
        "    with Overheard():\n"
        "        print('inside', file=sys.stderr)\n"
        "        raise ValueError\n"
        "except ValueError:\n"
        "    pass\n"
        "print('outside', file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr == "inside\noutside\n"
