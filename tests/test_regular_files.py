"""Only regular files are opened: what would keep its reader waiting for ever gets an error at once."""

import os
import socket

import pytest

from ddrnet_jax import regular_files
from ddrnet_jax.data import files
from ddrnet_jax.data.errors import DataError
from ddrnet_jax.runs import metrics_file, step_files


@pytest.fixture(params=["FIFO", "socket", "device"])
def special(request, tmp_path, monkeypatch):
    """A path below tmp_path that is no regular file."""
    path = tmp_path / metrics_file.METRICS_FILE
    if request.param == "FIFO":
        os.mkfifo(path)
        yield path
    elif request.param == "device":
        path.symlink_to("/dev/zero")
        yield path
    else:
        monkeypatch.chdir(tmp_path)  # the whole path may be longer than a socket's may
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(path.name)
            yield path


def test_what_is_no_regular_file_is_refused_at_once(special):
    for use in (
        regular_files.read_bytes,
        regular_files.read_text,
        lambda path: regular_files.write(path, "text"),
        lambda path: regular_files.opened(path, "a"),
        regular_files.require,
        lambda path: regular_files.require_in(path.parent),
        lambda path: metrics_file.read_lines(path.parent),
        lambda path: metrics_file.drop_later_lines(path, 1),
    ):
        with pytest.raises(OSError, match="not a regular file.*metrics.jsonl"):
            use(special)


def test_our_errors_say_so(special):
    with pytest.raises(DataError, match=r"metrics.jsonl: cannot be read \(not a regular file\)"):
        files.read_file(special)
    with pytest.raises(step_files.CheckpointError, match="cannot be read.*not a regular file"):
        step_files.read_metadata(special.parent)


def test_files_and_folders_are_what_they_were(tmp_path):
    regular_files.write(tmp_path / "a", "grün\n")
    assert regular_files.read_bytes(tmp_path / "a") == "grün\n".encode()
    regular_files.write(tmp_path / "a", b"\xef\xbb\xbfgr\xc3\xbcn")  # a byte order mark, as Windows writes it
    assert regular_files.read_text(tmp_path / "a") == "grün"
    for path, error in ((tmp_path, IsADirectoryError), (tmp_path / "none", FileNotFoundError)):
        with pytest.raises(error):
            regular_files.read_bytes(path)
    regular_files.require_in(tmp_path)
