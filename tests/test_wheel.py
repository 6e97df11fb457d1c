"""A built wheel installs and runs outside of the repository, by its module and by its console script."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def installed(repo, tmp_path_factory):
    """The folder into which the wheel was installed, without what it depends on."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    sources = folder / "sources"  # setuptools leaves its build folder beside the sources
    files = subprocess.run(["git", "ls-files", "-z"], cwd=repo, capture_output=True, text=True)
    if files.returncode:
        pytest.skip("not a git checkout")
    for name in filter(None, files.stdout.split("\0")):
        if name.startswith("ddrnet_jax/") or name in ("pyproject.toml", "requirements.txt", "README.md", "LICENSE"):
            (sources / name).parent.mkdir(parents=True, exist_ok=True)
            (sources / name).write_bytes((repo / name).read_bytes())
    options = ["--no-deps", "--no-build-isolation", "--wheel-dir", str(folder)]
    subprocess.run([*pip, "wheel", *options, str(sources)], check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", str(folder / "site"), str(wheel)], check=True)
    return folder / "site"


def environment(site: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(site)}


def test_every_module_the_page_and_the_marker_of_types_are_in_it(repo, installed):
    sources = {str(p.relative_to(repo)) for p in (repo / "ddrnet_jax").rglob("*.py")} | {
        "ddrnet_jax/py.typed",
        "ddrnet_jax/serving/page.html",
    }
    assert sources <= {str(path.relative_to(installed)) for path in (installed / "ddrnet_jax").rglob("*")}
    (wheel,) = installed.parent.glob("*.whl")
    assert not [n for n in zipfile.ZipFile(wheel).namelist() if n.startswith(("tests", "configs", "benchmarks"))]


@pytest.mark.parametrize("command", [[sys.executable, "-m", "ddrnet_jax.main"], ["bin/ddrnet"]])
def test_it_runs_outside_of_the_repository(installed, tmp_path, command):
    if command[0] == "bin/ddrnet":
        command = [sys.executable, str(installed / "bin" / "ddrnet")]
    where = "import ddrnet_jax; print(ddrnet_jax.__file__)"
    options = {"cwd": tmp_path, "env": environment(installed), "capture_output": True, "text": True}
    found = subprocess.run([sys.executable, "-c", where], check=True, **options).stdout.strip()
    assert Path(found).is_relative_to(installed)
    assert "--config FILE" in subprocess.run([*command, "--help"], check=True, **options).stdout
    (tmp_path / "mine.py").write_text("from ddrnet_jax.config import base as get_config\n")
    wrong = subprocess.run([*command, "--config", "mine.py", "--config.total_step=3"], **options)
    assert (wrong.returncode, wrong.stderr) == (
        1,
        "error: --config.total_step: unknown key; did you mean 'total_steps'?\n",
    )
