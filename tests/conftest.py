"""One compilation cache for all tests and the processes they start; four virtual CPU devices."""

import gc
import logging
import os
from pathlib import Path

import quick_compilation

REPO = Path(__file__).resolve().parent.parent
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("DDRNET_JAX_CACHE_DIR", str(REPO / ".cache" / "xla"))
os.environ.setdefault("XLA_FLAGS", quick_compilation.FLAGS)

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_num_cpu_devices", 4)

from ddrnet_jax.runtime import compilation  # noqa: E402

compilation.enable_cache()


@pytest.fixture
def said():
    """The lines that the package logs, as a terminal shows them."""
    lines = []

    class Lines(logging.Handler):
        def emit(self, record):
            lines.append(("warning: " if record.levelno >= logging.WARNING else "") + record.getMessage())

    package, handler = logging.getLogger("ddrnet_jax"), Lines()
    level = package.level
    package.setLevel(logging.INFO)
    package.addHandler(handler)
    yield lines
    package.removeHandler(handler)
    package.setLevel(level)


@pytest.fixture(scope="session")
def repo() -> Path:
    """The root of the repository."""
    return REPO


@pytest.fixture(scope="session")
def storage():
    """A server of Google's storage on this machine with a bucket "runs"; tests tell it what to answer."""
    import buckets

    with buckets.server() as url, pytest.MonkeyPatch.context() as patched:
        between = buckets.Between(url)
        for name, value in buckets.environment(between.url).items():
            patched.setenv(name, value)
        buckets.make(url, "runs")
        yield between
        between.shutdown()
        between.server_close()


_LONGEST = ("test_demo.py", "test_notebooks.py", "test_faults.py", "test_processes.py", "test_step.py", "test_api.py")
_LONGEST += ("test_remat.py", "test_classifier.py", "test_in_and_out.py")


def pytest_collection_finish():
    """Tracing makes millions of objects that stay: without this a tenth of the time is looking for garbage."""
    gc.freeze()
    gc.set_threshold(50_000, 10, 10)


def pytest_collection_modifyitems(items):
    """The longest files first, so that two workers end together."""
    items.sort(key=lambda item: _LONGEST.index(item.path.name) if item.path.name in _LONGEST else len(_LONGEST))
