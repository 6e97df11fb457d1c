"""ImageNet to segmentation on the command line: a classifier trains, is evaluated, resumes, and starts a segmenter."""

import json
import shutil

import cv2
import numpy as np
import pytest
import small
import tiny
from flax import nnx

from ddrnet_jax import build
from ddrnet_jax import main as main_lib
from ddrnet_jax.config import files as config_files
from ddrnet_jax.models import variables
from ddrnet_jax.runs import checkpoints

CLASSES = ("n01", "n02", "n03")
CONFIG = """\
from ddrnet_jax.config import base
def get_config():
    config = base()
    config.task = 'classification'
    config.model.aux_head = False
    config.data.name = 'imagenet'
    config.data.classes = ('n01', 'n02', 'n03')
    config.data.crop_hw = (64, 64)
    config.batch_size = 4
    config.total_steps = 3
    config.log_every_steps = 1
    config.loss.name = 'cross_entropy'
    config.loss.label_smoothing = 0.1
    config.eval.every_steps = 2
    config.checkpoint.every_steps = 1
    return config
"""
SEGMENTER = """\
from ddrnet_jax.config import base
def get_config():
    config = base()
    config.data.name = 'folder'
    config.data.classes = ('background', 'road', 'car')
    config.data.crop_hw = (64, 64)
    config.data.scale_range = (1.0, 1.5)
    config.batch_size = 4
    config.total_steps = 4
    config.log_every_steps = 1
    config.loss.name = 'cross_entropy'
    return config
"""


def draw(rng, number, size_hw):
    """A picture of class `number`: its own colour, a box, noise."""
    image = np.zeros((*size_hw, 3), np.uint8) + np.array(
        [(200, 60, 60), (60, 200, 60), (60, 60, 200)][number], np.uint8
    )
    cv2.rectangle(image, (10, 10), tuple(int(v) for v in rng.integers(20, 60, 2)), (255, 255, 255), -1)
    return image - rng.integers(0, 40, image.shape).astype(np.uint8)


def write_images(root):
    """ImageNet's layout: 9 images of several sizes to train on, 7 to evaluate, so that a batch of 4 stays partial."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 9), ("val", 7)):
        for i in range(count):
            path = root / split / CLASSES[i % 3] / f"{i}.JPEG"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = draw(rng, i % 3, (70 + 5 * i, 90 - 3 * i))
            path.write_bytes(cv2.imencode(".jpg", pixels)[1].tobytes())
    return root


def write_masks(root):
    """Images and labels of 64x72, as test_main.py has them."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for i in range(4):
            for kind, array in (
                ("images", rng.integers(0, 256, (64, 72, 3), dtype=np.uint8)),
                ("labels", rng.integers(0, 3, (64, 72), dtype=np.uint8)),
            ):
                path = root / kind / split / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(path), array)
    return root


@pytest.fixture
def run(capsys):
    """run(*arguments) -> (exit code, stdout, stderr) of the command line."""

    def call(*arguments):
        code = main_lib.main([str(a) for a in arguments])
        return code, *capsys.readouterr()

    return call


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def without_times(entries):
    return [{k: v for k, v in entry.items() if k not in ("images_per_s", "input_wait")} for entry in entries]


def test_a_classifier_trains_is_evaluated_and_resumes(tmp_path, run, monkeypatch):
    tiny.use(monkeypatch.setattr)
    images, workdir = write_images(tmp_path / "images"), tmp_path / "classifier"
    (tmp_path / "imagenet.py").write_text(CONFIG)
    flags = ("--config", tmp_path / "imagenet.py", f"--config.data.root={images}")
    code, out, err = run(*flags, "--workdir", workdir)
    assert code == 0, err
    assert "DDRNet-23_slim classification: " in err
    assert "<span>top-1 accuracy</span>" in (workdir / "report.html").read_text()
    assert "imagenet: 9 training, 7 evaluation images, 3 classes" in err
    assert out.splitlines()[0] == "7 images, 3 classes"
    whole = lines(workdir)
    assert [(e["step"], "loss" in e) for e in whole] == [(1, True), (2, True), (2, False), (3, True), (3, False)]
    assert whole[-1].keys() == {"step", "val/top1", "val/top5"}
    assert whole[-1]["val/top1"] * 7 == pytest.approx(round(whole[-1]["val/top1"] * 7))
    assert whole[-1]["val/top5"] == 1.0

    # Evaluated alone, the best checkpoint gives what training said.
    loaded = checkpoints.load_weights(workdir)
    assert loaded.metric == "val/top1"
    assert loaded.score == max(e["val/top1"] for e in whole if "val/top1" in e)
    assert loaded.miou is None
    code, out, err = run(*flags, "--mode", "evaluate", "--checkpoint", workdir)
    assert code == 0, err
    assert out.splitlines()[2].split()[:2] == ["top-1", f"{100 * loaded.score:.2f}"]

    # Without its last step, the run goes on and ends where it ended.
    shutil.rmtree(workdir / "checkpoints" / "3")
    code, out, err = run(*flags, "--workdir", workdir)
    assert code == 0, err
    assert "resuming after step 2 of 3" in err
    assert without_times(lines(workdir)) == without_times(whole)

    # What a classifier cannot do is said.
    code, _, err = run("--mode", "predict", "--checkpoint", workdir, "--input", images / "val" / "n01")
    assert (code, len(err.splitlines())) == (1, 1)
    assert f"error: {workdir}: a classifier, expected a segmenter" in err

    (tmp_path / "mine.py").write_text(SEGMENTER)
    masks = write_masks(tmp_path / "masks")
    flags = ("--config", tmp_path / "mine.py", f"--config.data.root={masks}")
    code, _, err = run(*flags, "--mode", "evaluate", "--checkpoint", workdir)
    assert code == 1
    assert "trained for classification, but the config's task is segmentation" in err.splitlines()[-1]


def test_a_classifier_starts_a_segmenter(tmp_path, run):
    (tmp_path / "imagenet.py").write_text(CONFIG)
    (tmp_path / "mine.py").write_text(SEGMENTER)
    classifier, weights = config_files.load(str(tmp_path / "imagenet.py")), tmp_path / "classifier"
    flags = ("--config", tmp_path / "mine.py", f"--config.data.root={write_masks(tmp_path / 'masks')}")
    with small.in_place_of_23_slim():
        model = build.experiment(classifier).network(nnx.Rngs(0))
        checkpoints.save_weights(weights, *variables.split(model)[1:], config_files.to_json(classifier))
        code, out, err = run(*flags, "--workdir", tmp_path / "segmenter", f"--config.init_from={weights}")
    assert code == 0, err
    assert f"initial weights from {weights}: DDRNet-23_slim classification, 3 classes" in err
    assert "moved 182 tensors" in err  # all but DAPPM and the heads
    assert "mIoU" in out
