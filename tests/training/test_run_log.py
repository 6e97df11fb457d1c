"""TensorBoard gets scalars and the pictures of a few samples, each of its own step."""

import cv2
import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from ddrnet_jax.data.sets.scenes import SPEC as SCENES
from ddrnet_jax.evaluation import metrics, panels
from ddrnet_jax.evaluation.gallery import Seen
from ddrnet_jax.training.run_log import RunLog


def events(folder):
    """The events of a folder's files: records of (length u64, its checksum u32, the bytes, their checksum u32)."""
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        while data:
            length = int.from_bytes(data[:8], "little")
            yield event_pb2.Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]


def test_samples_are_pictures_beside_their_scores(tmp_path):
    rng = np.random.default_rng(0)
    squares = rng.integers(0, 256, (4, 6, 3)), rng.integers(0, SCENES.num_classes, (4, 6))
    image, label = (a.repeat(16, 0).repeat(16, 1).astype(np.uint8) for a in squares)  # which JPEG keeps
    samples = [Seen(f"val/{name}.png", 0.5, np.zeros(SCENES.num_classes), image, label, label) for name in ("a", "b/a")]
    log = RunLog(tmp_path, resumed_step=0, total_steps=10, eval_every_steps=5)
    log.train(5, {"loss": 1.0, "images_per_s": 2.0, "input_wait": 0.0}, seconds_left=1)
    log.evaluation(10, metrics.scores(np.eye(SCENES.num_classes, dtype=int)), SCENES, samples)
    log.close()

    found = [(e.step, v) for e in events(tmp_path / "tensorboard") for v in e.summary.value]
    scalars = {v.tag: (step, v.simple_value) for step, v in found if not v.HasField("image")}
    assert scalars["train/loss"] == (5, 1.0)
    assert scalars["val/miou"] == (10, 1.0)
    images = {v.tag: (step, v.image) for step, v in found if v.HasField("image")}
    assert list(images) == ["image, label, prediction/1 a", "image, label, prediction/2 a"]
    step, picture = images["image, label, prediction/1 a"]
    assert step == 10
    pixels = cv2.imdecode(np.frombuffer(picture.encoded_image_string, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert pixels.shape == (picture.height, picture.width, 3)
    laid_over = 0.45 * image + 0.55 * SCENES.palette()[label]
    for left, panel in ((0, image), (100, laid_over), (200, laid_over)):  # predicted as it is labelled
        assert np.abs(pixels[:64, left : left + 96] - panel.astype(float)).mean() < 8


def test_the_time_that_is_left_is_that_of_steps_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    clock = [0.0]
    monkeypatch.setattr("tqdm.std.time", lambda: clock[0])
    log = RunLog(tmp_path, resumed_step=0, total_steps=10, eval_every_steps=5)
    clock[0] += 80  # of compilation
    log.restart_clock()
    clock[0] += 2
    log.advance()
    bar = log._bar.format_dict
    log.close()
    assert (bar["n"], bar["elapsed"], bar["rate"]) == (1, 2, pytest.approx(1 / 2))


SCORES = metrics.scores(np.eye(SCENES.num_classes, dtype=int))


def sample(name):
    image = np.zeros((8, 8, 3), np.uint8)
    return Seen(name, 0.5, np.zeros(SCENES.num_classes), image, image[..., 0], image[..., 0])


def pictured(folder):
    """[(step, tag)] of the pictures."""
    return [(e.step, v.tag) for e in events(folder / "tensorboard") for v in e.summary.value if v.HasField("image")]


def test_a_name_that_is_no_text_has_its_picture(tmp_path, said):
    log = RunLog(tmp_path, resumed_step=0, total_steps=10, eval_every_steps=10)
    log.evaluation(10, SCORES, SCENES, [sample("val/a\udcff.png")])
    log.close()
    assert pictured(tmp_path) == [(10, "image, label, prediction/1 a?")]
    assert not any("warning" in line for line in said)


def test_pictures_that_cannot_be_made_are_one_warning(tmp_path, said, monkeypatch):
    def broken(*args):
        raise ValueError("no picture\nat all")

    monkeypatch.setattr(panels, "strip", broken)
    log = RunLog(tmp_path, resumed_step=0, total_steps=10, eval_every_steps=5)
    for step in (5, 10):
        log.evaluation(step, SCORES, SCENES, [sample("a.png")])
    log.close()
    warnings = [line for line in said if line.startswith("warning")]
    assert warnings == ["warning: TensorBoard lacks pictures of samples (ValueError: no picture)"]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2
    assert {e.step for e in events(tmp_path / "tensorboard") if e.summary.value} == {5, 10}


@pytest.mark.parametrize(("total_steps", "every", "count"), [(40, 1, 40), (50, 1, 50), (120, 1, 40), (205, 2, 35)])
def test_about_fifty_evaluations_of_a_run_leave_pictures(tmp_path, total_steps, every, count):
    log = RunLog(tmp_path, resumed_step=0, total_steps=total_steps, eval_every_steps=every)
    for step in sorted({*range(every, total_steps + 1, every), total_steps}):
        log.evaluation(step, SCORES, SCENES, [sample("a.png")])
    log.close()
    steps = [step for step, _ in pictured(tmp_path)]
    assert len(steps) == count
    assert steps[-1] == total_steps
