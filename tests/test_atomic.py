"""A file is there whole or as it was before, and nothing is left beside it."""

import os

import pytest

from ddrnet_jax import atomic


def test_a_file_takes_its_place_when_it_is_complete(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with atomic.replacing(path) as partial:
        partial.write_text("new")
        assert partial.parent == tmp_path
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["file"]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    atomic.write_text(path, "old")

    def fail_halfway():
        with atomic.replacing(path) as partial:
            partial.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_halfway()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_only_a_synced_file_waits_for_the_disk(tmp_path, monkeypatch):
    events = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: events.append(os.fstat(descriptor).st_size))
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda *paths: (events.append("named"), replace(*paths)))
    with atomic.replacing(tmp_path / "a", is_synced=True) as partial:
        partial.write_bytes(bytes(7))
    atomic.write_text(tmp_path / "b", "text")
    assert events == [7, "named", "named"]


def test_what_was_only_tried_is_removed(tmp_path):
    with atomic.beside(tmp_path / "file") as trial:
        trial.write_text("")
        assert os.listdir(tmp_path) == [trial.name]
    assert os.listdir(tmp_path) == []
