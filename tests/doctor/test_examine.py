"""Every known cause of a low mIoU, planted, is found and named; and sound ones are left in peace.

The network is the smallest that segments: each pixel's class is that of the nearest mean colour.
"""

import collections

import cv2
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ddrnet_jax import build
from ddrnet_jax import main as main_lib
from ddrnet_jax.config import base, validate
from ddrnet_jax.config import files as config_files
from ddrnet_jax.doctor import checkpoint_causes, config_causes, examine, prediction_causes
from ddrnet_jax.evaluation import metrics
from ddrnet_jax.evaluation.views import View
from ddrnet_jax.models import variables
from ddrnet_jax.models.batch_norm import BatchNorm
from ddrnet_jax.models.ddrnet import Output, normalise
from ddrnet_jax.runs import checkpoints

CLASSES = ("sky", "road", "car", "tree")
COLORS = np.array([(200, 170, 150), (150, 170, 200), (120, 120, 120), (245, 245, 245)], np.float32)
VIEW = View()


class NearestColour(nnx.Module):
    """Stride-8 logits by the distance to each class's colour, after a batch norm that knows the colours' statistics."""

    def __init__(self, colors=COLORS):
        inputs = normalise(jnp.asarray(colors))
        self.bn = BatchNorm(3)
        self.bn.mean[...], self.bn.var[...] = inputs.mean(0), inputs.var(0)
        inputs = (inputs - inputs.mean(0)) / jnp.sqrt(inputs.var(0) + 1e-5)
        self.kernel = nnx.Param(2 * inputs.T)
        self.bias = nnx.Param(-(inputs**2).sum(-1))

    def __call__(self, x):
        x = self.bn(x.reshape(x.shape[0], x.shape[1] // 8, 8, x.shape[2] // 8, 8, 3).mean((2, 4)))
        return Output(x @ self.kernel[...] + self.bias[...])


def samples(count=4, *, seed=0, colors=COLORS):
    """Images of blocks of the classes' colours, a little noisy."""
    rng = np.random.default_rng(seed)
    for i in range(count):
        label = np.kron(rng.permutation(np.arange(16) % 4).reshape(4, 4), np.ones((16, 16))).astype(np.uint8)
        image = np.clip(colors[label] + rng.normal(0, 4, (64, 64, 3)), 0, 255).astype(np.uint8)
        yield {"image": image, "label": label, "name": f"{i}.png"}


def loaded(model, **of_config):
    config = base()
    config.data.name, config.data.classes, config.init_from = "folder", CLASSES, "imagenet.pth"
    with config.unlocked():
        config.update(of_config)
    graphdef, params, batch_stats = variables.split(model)
    return checkpoints.Loaded(graphdef, params, batch_stats, config, "val/miou", None, None, False)


def messages(model, held_out, *, raw=None, trained_on=()):
    scores, findings = prediction_causes.findings(loaded(model), raw, CLASSES, VIEW, held_out, trained_on)
    return scores, [f"{f.severity}: {f.message}" for f in findings]


def test_a_sound_network_is_left_in_peace():
    held_out = list(samples())
    scores, found = messages(NearestColour(), held_out, raw=loaded(NearestColour()), trained_on=held_out)
    assert scores.miou > 0.8
    assert found == []


@pytest.mark.parametrize("name", prediction_causes.OTHER_INPUTS)
def test_weights_that_expect_other_inputs_are_found(name):
    """A network that was trained on images as another project prepares them."""
    theirs = NearestColour(prediction_causes.OTHER_INPUTS[name](COLORS))
    _, found = messages(theirs, list(samples()))
    assert found[0].startswith(f"error: with images {name} the mIoU is "), found


def test_running_statistics_of_other_images_are_found():
    model = NearestColour()
    model.bn.mean[...] += 3.0
    _, found = messages(model, list(samples()))
    assert any("running statistics do not fit these images" in line for line in found), found


def test_classes_of_another_order_are_found_and_named():
    held_out = [s | {"label": np.array([2, 1, 3, 0], np.uint8)[s["label"]]} for s in samples()]
    _, findings = prediction_causes.findings(loaded(NearestColour()), None, CLASSES, VIEW, held_out, ())
    (finding,) = [f for f in findings if "another order" in f.message]
    assert finding.names == (
        "labelled sky (0): predicted as tree (3)",
        "labelled car (2): predicted as sky (0)",
        "labelled tree (3): predicted as car (2)",
    )


def test_the_best_assignment_is_a_permutation_that_keeps_what_is_unknown():
    confusion = np.zeros((5, 5), int)
    confusion[0, 3], confusion[3, 0], confusion[1, 1] = 10, 7, 5
    assert prediction_causes.best_assignment(confusion).tolist() == [3, 1, 2, 0, 4]


def test_an_average_that_lags_behind_is_found():
    behind = NearestColour()
    behind.kernel[...] *= 0
    _, found = messages(behind, list(samples()), raw=loaded(NearestColour()))
    assert any(line.startswith("warning: the weights themselves reach") for line in found), found


def test_a_network_that_predicts_one_class_is_found():
    model = NearestColour()
    model.kernel[...] *= 0
    model.bias[...] = jnp.array([0.0, 1.0, 0.0, 0.0])
    _, found = messages(model, list(samples()))
    assert any("predicts 1 of the 4 classes that are labelled here: road" in line for line in found), found


def test_a_network_that_knows_its_training_images_alone_is_found():
    other_colors = COLORS[:, ::-1] * 0.5 + 100
    _, found = messages(NearestColour(), list(samples(colors=other_colors)), trained_on=list(samples()))
    assert any(line.startswith("warning: on training images the mIoU is") for line in found), found


def test_images_of_several_sizes_are_cut_to_one_around_their_centres():
    def sample(height, width):
        label = np.arange(height * width).reshape(height, width)
        return {"image": np.dstack([label] * 3), "label": label, "name": ""}

    cut = prediction_causes.of_one_size([sample(8, 10), sample(10, 8), sample(12, 12)])
    assert [(s["image"].shape, s["label"].shape) for s in cut] == [((8, 8, 3), (8, 8))] * 2
    assert cut[0]["label"][0, 0] == 1
    assert cut[1]["label"][0, 0] == 8
    assert prediction_causes.of_one_size([sample(8, 8)]) == []
    assert prediction_causes.of_one_size([sample(8, 8)] * 2, (16, 16)) == []


def test_a_view_of_tiles_is_examined_but_for_batch_norm():
    tiles = View(tile_hw=(32, 32))
    _, findings = prediction_causes.findings(loaded(NearestColour()), None, CLASSES, tiles, list(samples()), ())
    assert [f.message for f in findings] == ["batch norm's statistics were not examined, since eval.tile_hw is set"]


@pytest.mark.parametrize("confusion", [[[0, 90], [0, 10]], [[30, 0, 0], [30, 0, 0], [30, 0, 0]]])
def test_a_class_that_swallows_others_is_no_other_order(confusion):
    own = metrics.scores(np.array(confusion))
    assert prediction_causes._class_map(own, CLASSES) is None


# --- what config and checkpoint tell ---


def config_findings(config, sizes=None):
    sizes = collections.Counter(sizes or {(1280, 960): 8})
    ours = build.experiment(config)
    return [*config_causes.of_training(ours, 1000, sizes, sizes), *config_causes.of_evaluation(ours, sizes)]


def config_messages(**changes):
    config = base()
    config.data.name, config.data.classes, config.init_from = "folder", CLASSES, "imagenet.pth"
    config.data.crop_hw = (720, 960)
    config.update_from_flattened_dict(changes)
    return [f.message for f in config_findings(config)]


def test_a_usual_config_has_no_finding():
    assert config_messages() == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"init_from": ""}, "starts from random weights"),
        ({"init_from": "", "optimizer.trunk_lr_factor": 0.1}, "trunk learns at 0.001 (optimizer.trunk_lr_factor=0.1)"),
        (
            {
                "init_from": "",
                "optimizer.name": "adamw",
                "optimizer.learning_rate": 0.002,
                "optimizer.trunk_lr_factor": 0.1,
            },
            "trunk learns at 0.0002",
        ),
        ({"total_steps": 500}, "see each of 1,000 training images 6.0 times"),
        ({"batch_size": 6, "optimizer.accumulate_steps": 3}, "see 2 images at a time"),
        ({"ema_decay": 0.99999}, "reaches back 100,000 steps"),
        ({"eval.size_hw": (512, 512)}, "resized to 512x512"),
        ({"data.crop_hw": (2048, 2048)}, "of the average training crop is padding"),
        ({"data.crop_hw": (128, 128)}, "training crop of 128x128 shows 1% of a scaled image"),
        ({"data.flip": False, "data.scale_range": (1.0, 1.0)}, "not varied by data.scale_range and data.flip"),
    ],
)
def test_what_a_config_gives_away_is_found(changes, expected):
    found = config_messages(**changes)
    assert any(expected in message for message in found), found


RECIPES = {
    "cityscapes": ((2048, 1024), 2975, []),
    "cityscapes_modern": ((2048, 1024), 2975, []),
    "camvid": ((960, 720), 367, []),
    "coco_stuff": ((640, 480), 9000, []),
    "camvid_small": ((480, 360), 367, ["random weights"]),
    "camvid_strong": ((480, 360), 367, ["random weights"]),
    "cityscapes_distilled": ((2048, 1024), 2975, []),
    "demo": ((256, 128), 1000, []),
}


@pytest.mark.parametrize("name", RECIPES)
def test_our_own_recipes_are_left_in_peace(name, repo):
    size, images, expected = RECIPES[name]
    config = config_files.load(str(repo / "configs" / f"{name}.py"), [])
    if "random weights" not in expected and name != "demo":
        config.init_from = "imagenet.pth"
    sizes = collections.Counter({size: 8})
    ours = build.experiment(config)
    found = [*config_causes.of_training(ours, images, sizes, sizes), *config_causes.of_evaluation(ours, sizes)]
    assert len(found) == len(expected), found
    assert all(text in finding.message for text, finding in zip(expected, found, strict=True))


@pytest.mark.parametrize("total_steps", [10, 900, 20_000, 240_000])
def test_what_the_doctor_says_to_paste_is_a_config(total_steps):
    config = base()
    config.total_steps, config.ema_decay = total_steps, 0.999999
    config.optimizer.trunk_lr_factor, config.data.flip, config.data.scale_range = 0.001, False, (1.0, 1.0)
    config.data.crop_hw, config.eval.size_hw, config.data.name = (64, 64), (64, 64), "folder"
    config.data.classes = CLASSES
    lines = [line for finding in config_findings(config) for line in finding.paste]
    assert len(lines) >= 7
    for line in lines:
        exec(line, {"config": config})
    validate(config)


def test_weights_that_are_no_numbers_and_statistics_that_never_moved_are_found():
    model = NearestColour()
    model.kernel[...] = model.kernel[...].at[0, 0].set(jnp.nan)
    model.bn = BatchNorm(3)
    first, second = checkpoint_causes.findings(loaded(model).experiment, loaded(model))
    assert first.names == ("kernel",)
    assert "2 of 2 running statistics of the batch norms are as they were made" in second.message


def test_another_network_and_a_run_that_is_not_over_are_found():
    ours = loaded(NearestColour())._replace(step=1000)
    config = base()
    config.model.variant = "39"
    unfinished, other = checkpoint_causes.findings(build.experiment(config), ours)
    assert "the checkpoint is of step 1,000 of 120,000" in unfinished.message
    assert "model.variant='23_slim'; the config has model.variant='39'" in other.message


# --- the command ---


@pytest.fixture(scope="module")
def untrained(tmp_path_factory, repo):
    """DDRNet as it was made, saved as if imported."""
    config = config_files.load(str(repo / "configs" / "demo.py"), list(TINY))
    _, params, batch_stats = variables.split(build.experiment(config).network(nnx.Rngs(0)))
    folder = tmp_path_factory.mktemp("untrained") / "checkpoint"
    checkpoints.save_weights(folder, params, batch_stats, config_files.to_json(config))
    return folder


TINY = ("data.scenes_hw=(64, 96)", "data.scenes_train=8", "data.scenes_eval=8", "data.crop_hw=(64, 64)")


def run(capsys, *flags):
    code = main_lib.main(["--mode", "doctor", *flags])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_checkpoint_that_was_never_trained_is_diagnosed(untrained, repo, capsys):
    flags = ["--config", str(repo / "configs" / "demo.py"), *(f"--config.{text}" for text in TINY)]
    code, out, _ = run(capsys, *flags, "--checkpoint", str(untrained))
    assert code == 1
    assert "on 8 held-out images" in out
    assert "running statistics of the batch norms are as they were made" in " ".join(out.split())
    assert max(map(len, out.splitlines())) <= 80


def test_a_folder_of_dark_images_and_ignored_labels_is_diagnosed_without_a_checkpoint(tmp_path, repo, capsys):
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (tmp_path / kind / split).mkdir(parents=True)
        for i in range(4):
            label = np.full((64, 96), 255, np.uint8)
            label[:10] = i % 3
            cv2.imwrite(str(tmp_path / "images" / split / f"{split}{i}.png"), np.full((64, 96, 3), i % 2, np.uint8))
            cv2.imwrite(str(tmp_path / "labels" / split / f"{split}{i}.png"), label)
    flags = ["--config", str(repo / "configs" / "folder.py"), f"--config.data.root={tmp_path}"]
    code, out, _ = run(capsys, *flags)
    text = " ".join(out.split())
    assert code == 0  # warnings
    assert "the training images are nearly all dark: 0 of 255 on average" in text
    assert "of the 4 training labels looked at are ignored" in text
    assert "starts from random weights" in text


def test_imported_weights_are_not_told_about_a_training_that_was_not(untrained, repo):
    config = config_files.load(str(repo / "configs" / "demo.py"), list(TINY))
    found = examine.examine(build.experiment(config), untrained).findings
    assert not any("random weights" in f.message or "training images" in f.message for f in found), found


@pytest.mark.parametrize(
    ("file", "variant", "expected"),
    [
        ("missing.pth", "39", "no such file"),
        ("", "39", "the model is a DDRNet-39"),
        ("camvid_23_slim", "23_slim", "holds 11 classes, but the model has 9"),
        ("gs://b", "23_slim", "expected gs://BUCKET/FOLDER"),
    ],
)
def test_initial_weights_that_cannot_be_used_are_found(file, variant, expected, untrained, repo):
    config = config_files.load(str(repo / "configs" / "demo.py"), [*TINY, f"model.variant={variant}"])
    config.init_from = file or str(untrained)
    assert any(
        expected in f.message for f in examine.examine(build.experiment(config), None).findings if f.severity == "error"
    )


def test_a_classifier_is_refused(repo, capsys):
    flags = ["--config", str(repo / "configs" / "imagenet.py")]
    code, _, err = run(capsys, *flags)
    assert code == 1
    assert err == "error: config.task: 'classification' given, but --mode doctor examines segmenters\n"
