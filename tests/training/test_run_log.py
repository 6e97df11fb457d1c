"""TensorBoard gets scalars and the pictures of a few samples, each of its own step."""

import cv2
import numpy as np
from tensorboardX.proto import event_pb2

from ddrnet_jax.data.specs import SCENES
from ddrnet_jax.evaluation import metrics
from ddrnet_jax.report.gallery import Seen
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
    log = RunLog(tmp_path, resumed_step=0, total_steps=10)
    log.train(5, {"loss": 1.0, "images_per_s": 2.0}, seconds_left=1)
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
