"""The compilation cache: where it is, who may read it, and that a damaged one costs no more than a compile."""

import os
import re
import stat
import subprocess
import sys
import time

import jax
import jaxlib
import pytest

from ddrnet_jax.runtime import cache_folder, compilation

PROGRAM = """
import jax, jax.numpy as jnp
from ddrnet_jax.runtime import cache_folder, compilation
print(compilation.enable_cache())
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event) if event.endswith("cache_hits") else None)
print(float(jax.jit(lambda x: jnp.sin(x) @ x.T)(jnp.ones((4, 4))).sum()))
print(len(hits))
"""


@pytest.fixture(autouse=True)
def settings_back():
    names = (
        "jax_compilation_cache_dir",
        "jax_compilation_cache_max_size",
        "jax_persistent_cache_min_compile_time_secs",
    )
    before = {name: getattr(jax.config, name) for name in names}
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def run(folder):
    """(value computed, programs read from the cache, stderr) of a new process with its cache below `folder`."""
    env = os.environ | {"DDRNET_JAX_CACHE_DIR": str(folder), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=env, capture_output=True, text=True, check=True)
    _, value, hits = done.stdout.split()
    return float(value), int(hits), done.stderr


def test_programs_are_kept_and_damaged_ones_cost_a_compile(tmp_path):
    value, hits, _ = run(tmp_path)
    assert hits == 0
    entries = sorted(tmp_path.glob("*/*-cache"))
    assert entries
    assert run(tmp_path)[:2] == (value, len(entries))
    for i, entry in enumerate(entries):
        entry.write_bytes(entry.read_bytes()[: 0 if i == 0 else entry.stat().st_size // 2])
    again, hits, err = run(tmp_path)
    assert again == value
    assert hits == 0
    assert "Traceback" not in err


def test_the_folder_is_the_users_alone_and_of_this_cpu(tmp_path, monkeypatch):
    monkeypatch.setenv(cache_folder.VARIABLE, str(tmp_path))
    folder = compilation.enable_cache()
    assert folder.parent == tmp_path
    assert re.fullmatch(rf"jaxlib-{re.escape(jaxlib.__version__)}-\w+-[0-9a-f]{{8}}", folder.name)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.chmod(0o755)
    compilation.enable_cache()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert jax.config.jax_compilation_cache_max_size == 2 * 2**30


def test_another_cpu_has_another_folder(monkeypatch):
    ours = compilation.cache_key()
    monkeypatch.setattr(compilation.regular_files, "read_text", lambda path: "flags\t: fpu sse2\n")
    theirs = compilation.cache_key()
    monkeypatch.setattr(compilation.regular_files, "read_text", lambda path: "Features\t: sse2 fpu\n")
    assert theirs == compilation.cache_key() != ours


def test_it_can_be_off_or_impossible(tmp_path, monkeypatch):
    before = jax.config.jax_compilation_cache_dir
    (tmp_path / "file").touch()
    for setting in ("off", str(tmp_path / "file")):
        monkeypatch.setenv(cache_folder.VARIABLE, setting)
        assert compilation.enable_cache() is None
    assert jax.config.jax_compilation_cache_dir == before


def test_what_was_never_finished_is_removed(tmp_path, monkeypatch):
    monkeypatch.setenv(cache_folder.VARIABLE, str(tmp_path))
    folder = compilation.enable_cache()
    for name in ("done-cache", "done-atime", "cut-cache", "young-cache"):
        (folder / name).write_bytes(b"12345678")
    hour_ago = time.time() - 3600
    for name in ("done-cache", "cut-cache"):
        os.utime(folder / name, (hour_ago, hour_ago))
    compilation._remove_unfinished.cache_clear()  # as in a new process
    compilation.enable_cache()
    assert {p.name for p in folder.glob("*-*")} == {"done-cache", "done-atime", "young-cache"}


def test_options_are_those_that_this_jaxlib_knows(monkeypatch):
    assert compilation.options("tpu") == {}
    compilation.options.cache_clear()
    known, training = compilation.OPTIONS["cpu"], compilation.TRAINING_OPTIONS["cpu"]
    monkeypatch.setattr(compilation, "OPTIONS", {"cpu": {"xla_no_such_option": "1"} | known})
    assert compilation.options("cpu") == known
    assert compilation.options("cpu", is_training=True) == known | training
    compilation.options.cache_clear()


def test_a_user_without_a_name_writes_to_the_cache_too(tmp_path, monkeypatch):
    """As docker run --user makes one, without a home too: JAX cannot say whose its files are."""
    from jax._src.lru_cache import LRUCache  # what JAX writes by

    def unknown(uid):
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr("pwd.getpwuid", unknown)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setenv(cache_folder.VARIABLE, str(tmp_path))
    folder = compilation.enable_cache()
    for _ in range(2):  # the second finds the first
        LRUCache(str(folder), max_size=jax.config.jax_compilation_cache_max_size).put("a", b"program")
        compilation.enable_cache()
    LRUCache(str(folder), max_size=jax.config.jax_compilation_cache_max_size).put("b", b"program")
    assert {path.name for path in folder.glob("*-cache")} == {"a-cache", "b-cache"}
