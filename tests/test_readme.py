"""What the README says can be typed, can be typed: every command parses, and runs unless it needs what is not here."""

import contextlib
import os
import re
import shlex
import subprocess
import sys

import cv2
import numpy as np
import pytest

from ddrnet_jax import main as main_lib
from ddrnet_jax.cli import flags
from ddrnet_jax.config import files as config_files

PAGES = (
    "README.md",
    "docs/api.md",
    "docs/command_line.md",
    "docs/data.md",
    "docs/results.md",
    "docs/answers.md",
    "docs/scale.md",
    "docs/speed.md",
    "docs/weights.md",
    "docs/architecture.md",
    "CONTRIBUTING.md",
)
OURS = "python -m ddrnet_jax.main "
# Commands that are parsed only, by a word of theirs, and why.
NEEDS = {
    "cityscapes": "the data set",
    "best_val_smaller": "a published file",
    "hf://": "a model hub",
    "https://": "a server",
    "rtsp://": "a camera; tests/prediction/test_streams.py reads a stream",
    "gs://": "a bucket; tests/training/test_bucket_runs.py has one",
    "--input frames": "frames without labels; tests/cli/test_main.py trains on what it writes",
    "data.pseudo_root=pseudo": "what the line before writes; the same test",
    "--mode plan": "libtpu, and minutes",
    "--mode serve": "it ends with Ctrl-C; tests/serving",
    "onnxruntime,torch": "torch, which the tests do without; tests/pytorch runs that engine",
}
# What else the README's shell blocks hold, and who runs it.
OTHERS = {
    "make demo": "its commands are run below",
    "make test": "CI runs it",
    "cp configs/folder.py mine.py": "the fixture first_hour makes the copy",
    "PROCESSES=2 launch/local.sh": "run below",
}
# What makes a command of a mode small enough for a test.
SMALL_CONFIG = (
    "--config.total_steps=2",
    "--config.batch_size=4",
    "--config.data.crop_hw=(64, 64)",
    "--config.eval.batch_size=2",
    "--config.log_every_steps=1",
    "--config.optimizer.warmup_steps=0",
)
SMALL_FLAGS = {"benchmark": ("--sizes", "64x96", "--seconds", "0.2")}
SMALL_SCENES = ("--config.data.scenes_hw=(64, 96)", "--config.data.scenes_train=8", "--config.data.scenes_eval=4")


def commands(repo, page="README.md"):
    """The arguments of every `python -m ddrnet_jax.main` in the page's shell blocks."""
    for line in shell_lines(repo, page):
        if line.startswith(OURS):
            yield shlex.split(line.removeprefix(OURS), comments=True)


def shell_lines(repo, page="README.md"):
    """What the page says to type, a command each."""
    for block in re.findall(r"```bash\n(.*?)```", (repo / page).read_text(), re.DOTALL):
        yield from filter(None, block.replace("\\\n", " ").splitlines())


def commands_of_make_demo(repo):
    """The arguments of every `python -m ddrnet_jax.main` that `make demo` runs."""
    done = subprocess.run(["make", "-n", "demo"], cwd=repo, capture_output=True, text=True, check=True)
    for line in done.stdout.replace("\\\n", " ").splitlines():
        if OURS in line:
            yield shlex.split(line.partition(OURS)[2])


def test_every_command_of_the_readme_is_run_somewhere(repo):
    for line in shell_lines(repo):
        assert line.startswith((OURS, *OTHERS)), f"who runs {line!r}?"
    assert len(list(commands_of_make_demo(repo))) == 2


@pytest.mark.parametrize("page", PAGES)
def test_every_command_is_one(page, repo):
    found = list(commands(repo, page))
    assert len(found) > 10 or page != "README.md"
    for arguments in found:
        if "--help" in arguments:
            continue
        parsed, overrides = flags.parse([text.replace("gs://BUCKET/", "gs://bucket/") for text in arguments])
        if parsed.config:
            file, colon, argument = parsed.config.replace("mine.py", "configs/folder.py").partition(":")
            config_files.load(f"{repo / file}{colon}{argument}", overrides)


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_points_to_exists(page, repo):
    text = (repo / page).read_text()
    folder = (repo / page).parent
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert "://" in target or (folder / target).exists(), target
    for name in re.findall(r"(?:benchmarks|configs|launch|tests|docs|ddrnet_jax)/[\w/.]+\.\w+", text):
        assert (repo / name).exists() or "<" in name, name
    targets = re.findall(r"^(\w[\w-]*):", (repo / "Makefile").read_text(), re.MULTILINE)
    for name in re.findall(r"`?make ([a-z][\w-]*)", text):
        assert name in targets, name
    for target, anchor in re.findall(r"\]\((?!\w+://)([^)#]*)#([^)]+)\)", text):
        assert anchor in anchors(folder / target if target else repo / page), f"{target}#{anchor}"


def anchors(page):
    """The names by which the headings of a page can be linked to."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return [re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings]


def test_the_table_of_modes_names_the_flags_that_they_take(repo):
    values = {"--engine": "jax", "--format": "onnx", "--naming": "official", "--dtype": "float16"}
    text = (repo / "docs" / "command_line.md").read_text()
    rows = {mode: names.split() for mode, names in re.findall(r"^\| `(\w+)`.*\| `(--.+)` \|$", text, re.MULTILINE)}
    assert rows.keys() == flags.FLAGS.keys()
    for mode, names in rows.items():
        for name in set().union(*rows.values()) - {"--workdir"}:  # which the page speaks of apart
            given = [name] if name in ("--side_by_side", "--int8", "--live") else [name, values.get(name, "1")]
            with contextlib.nullcontext() if name in names else pytest.raises(flags.UsageError):
                flags.parse(["--mode", mode, *given])


def test_the_readme_is_a_page_that_is_read(repo):
    assert len((repo / "README.md").read_text().splitlines()) <= 170


@pytest.fixture
def first_hour(repo, tmp_path, monkeypatch):
    """A folder like a newcomer's: the configs, a video, own images with colour masks and the config for them."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(repo / "configs")
    writer = cv2.VideoWriter("drive.mp4", cv2.VideoWriter_fourcc(*"mp4v"), 10.0, (96, 64))
    for i in range(3):
        writer.write(np.full((64, 96, 3), 50 * i, np.uint8))
    writer.release()
    cv2.imwrite("street.jpg", np.full((64, 96, 3), 90, np.uint8))
    colors = np.array([(0, 0, 0), (128, 64, 128), (0, 0, 142)], np.uint8)
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for i in range(10):
            ids = np.kron(rng.integers(0, 3, (4, 6)), np.ones((16, 16), int))
            for kind, picture in (("labels", colors[ids]), ("images", colors[ids] + rng.integers(0, 90, (64, 96, 3)))):
                path = tmp_path / "mine" / kind / split / f"{split}{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(path), picture[..., ::-1].astype(np.uint8))
    text = (repo / "configs" / "folder.py").read_text().replace('"data/mine"', '"mine"')
    text = re.sub(r"(config\.data\.colors = )\(\).*", rf"\1{tuple(map(tuple, colors.tolist()))}", text)
    (tmp_path / "mine.py").write_text(text)


@pytest.fixture
def environment(repo):
    """For programs of their own: this Python, this package."""
    found = {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(repo), "BACKOFF_S": "1"}
    return {name: value for name, value in found.items() if name != "XLA_FLAGS"}


@pytest.mark.slow
def test_every_command_that_needs_nothing_more_runs(first_hour, repo, capsys):
    ran = {}
    for arguments in (*commands_of_make_demo(repo), *(a for page in PAGES for a in commands(repo, page))):
        line = " ".join(arguments)
        if line in ran or "--help" in arguments or any(word in line for word in NEEDS):
            continue
        parsed, _ = flags.parse(arguments)
        small = (*SMALL_CONFIG, *(SMALL_SCENES if "demo.py" in line else ())) if parsed.config else ()
        code = main_lib.main([*arguments, *small, *SMALL_FLAGS.get(parsed.mode, ())])
        out, err = capsys.readouterr()
        assert code in (0, int(parsed.mode == "doctor")), f"{line}\n{out}{err}"
        assert "Traceback" not in err, line
        ran[line] = parsed.mode
    assert {"train", "evaluate", "predict", "check_data", "doctor", "report", "export", "benchmark"} <= {*ran.values()}
    run_the_python_of_the_readme(repo)


def run_the_python_of_the_readme(repo):
    """In a folder with the demo's run; the shape is that of the comment beside it."""
    (text,) = re.findall(r"```python\n(.*?)```", (repo / "README.md").read_text(), re.DOTALL)
    names = {}
    exec(text, names)
    (shape,) = re.findall(r"^out\.logits +# f32(\[[\d,]+\])", text, re.MULTILINE)
    assert list(names["out"].logits.shape) == eval(shape)
    assert names["model"].num_classes == 9
    assert names["config"].data.name == "scenes"


@pytest.mark.slow
def test_two_processes_train_the_demo_by_the_launcher(first_hour, repo, environment):
    (line,) = (line.partition("#")[0] for line in shell_lines(repo) if "launch/" in line)
    command = line.replace("launch/", f"{shlex.quote(str(repo))}/launch/")
    done = subprocess.run(
        ["bash", "-c", f"{command} {shlex.join((*SMALL_CONFIG, *SMALL_SCENES))}"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("mIoU") == 1  # the first of the two says it
    assert "2 processes" in done.stderr
