"""Channel-wise distillation: the formula, the teacher that a config names, steps and runs with one."""

import dataclasses
import functools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
from flax import nnx
from orbax.checkpoint import v1 as ocp

from ddrnet_jax import DDRNet, build
from ddrnet_jax.config import ConfigError, base
from ddrnet_jax.config import files as config_files
from ddrnet_jax.data.errors import DataError
from ddrnet_jax.data.teacher_logits import LOGITS
from ddrnet_jax.data.transforms import Augment
from ddrnet_jax.models import variables
from ddrnet_jax.runs import checkpoints
from ddrnet_jax.runtime import devices
from ddrnet_jax.training import distillation, loop, program, state
from ddrnet_jax.training.distillation import Teacher, channel_wise
from ddrnet_jax.training.step import make_step

Tiny = functools.partial(tiny.Tiny, num_classes=9, task="segmentation")


def tiny_teacher(seed):
    graphdef, *weights = variables.split(Tiny(nnx.Rngs(seed)))
    return Teacher("a tiny teacher", graphdef, tuple(weights))


def logits(seed, shape=(2, 2, 3, 4)):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32) * 3


def test_the_formula():
    student, teacher, temperature = logits(0), logits(1), 4.0
    total = 0
    for image in range(2):
        for channel in range(4):
            q, p = (np.exp(np.asarray(x[image, :, :, channel], np.float64) / temperature) for x in (student, teacher))
            q, p = q / q.sum(), p / p.sum()
            total += (p * np.log(p / q)).sum()
    assert channel_wise(student, teacher, temperature) == pytest.approx(temperature**2 * total / (2 * 4), rel=1e-5)


def test_a_teacher_equal_to_the_student_gives_no_loss_and_no_gradient():
    for teacher in (logits(0), logits(0) + 5):  # all logits of a class may be shifted
        value, gradient = jax.value_and_grad(channel_wise)(logits(0), teacher, 3.0)
        np.testing.assert_allclose(value, 0, atol=1e-5)
        np.testing.assert_allclose(gradient, 0, atol=1e-6)
    value, gradient = jax.value_and_grad(channel_wise)(logits(0), logits(1), 3.0)
    assert value > 0.1
    assert abs(gradient).max() > 0.01


def one_step(mesh, accumulate_steps=1):
    teacher = tiny_teacher(1)
    sgd = optax.sgd(0.1)
    graphdef, fresh = state.create(Tiny, sgd, seed=0)
    make_objective = program.objective_maker(experiment(), teacher=teacher)
    step = make_step(make_objective(graphdef, "cpu"), sgd, mesh, accumulate_steps=accumulate_steps)
    rng = np.random.default_rng(0)
    rows = {
        "images": rng.integers(0, 256, (8, 32, 32, 3), dtype=np.uint8),
        "labels": rng.integers(0, 9, (8, 32, 32), dtype=np.uint8),
    }
    fixed = devices.put_replicated(distillation.fixed(teacher), mesh)
    return step(devices.put_replicated(fresh, mesh), devices.put_batch(rows, mesh), fixed)


@pytest.mark.parametrize("accumulate_steps", [1, 2])
def test_sharded_equals_unsharded(accumulate_steps):
    alone, sharded = (one_step(devices.data_mesh(jax.devices()[:n]), accumulate_steps) for n in (1, 4))
    for ours, expected in zip(jax.tree.leaves(sharded), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-6)
    metrics = jax.tree.map(float, alone[1])
    assert metrics["loss"] == pytest.approx(
        metrics["loss_main"] + 0.4 * metrics["loss_aux"] + 3.0 * metrics["loss_distill"], rel=1e-5
    )
    assert metrics["loss_distill"] > 0.01


def experiment(total_steps=4):
    config = base()
    config.batch_size, config.total_steps, config.log_every_steps = 4, total_steps, 1
    config.data.crop_hw, config.data.scenes_hw = (32, 32), (32, 64)
    config.data.scenes_train, config.data.scenes_eval = 8, 2
    config.loss.name, config.checkpoint.every_steps = "cross_entropy", 2
    return dataclasses.replace(build.experiment(config), network=Tiny)


def last_step(workdir):
    folder = workdir / "checkpoints" / "4"
    like = jax.tree.map(lambda m: np.zeros(m.shape, m.dtype), ocp.metadata(folder).metadata)
    return jax.tree.leaves(ocp.load(folder, like))


def test_a_resumed_run_is_the_run_that_was_not_interrupted_and_wants_its_teacher(tmp_path, monkeypatch, said):
    monkeypatch.setattr(distillation, "read_teacher", lambda e: tiny_teacher(1))
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    loop.train(experiment(), whole)
    assert said.count("a tiny teacher") == 1
    shutil.copytree(whole, resumed)
    shutil.rmtree(resumed / "checkpoints" / "4")
    loop.train(experiment(), resumed)
    assert "resuming after step 2 of 4" in said
    for ours, expected in zip(last_step(resumed), last_step(whole), strict=True):
        np.testing.assert_array_equal(ours, expected)
    lines = [json.loads(line) for line in (resumed / "metrics.jsonl").read_text().splitlines()]
    assert all(line["loss_distill"] > 0 for line in lines if "loss" in line)
    monkeypatch.setattr(distillation, "read_teacher", lambda e: tiny_teacher(2))
    (resumed / "teacher.json").write_bytes(b"\xff no text")
    with pytest.raises(ConfigError, match=r"teacher.json: this run began with another teacher; restore it"):
        loop.train(experiment(), resumed)
    shutil.copy(whole / "teacher.json", resumed)
    with pytest.raises(ConfigError, match=r"teacher.json: this run began with another teacher; restore it"):
        loop.train(experiment(), resumed)


@pytest.fixture(scope="module")
def camvid_teacher(tmp_path_factory):
    """A checkpoint of random weights, and its network."""
    config = base()
    config.data.name, config.model.variant = "camvid", "23"
    model = build.experiment(config).network(nnx.Rngs(0))
    _, params, batch_stats = variables.split(model)
    folder = tmp_path_factory.mktemp("teacher") / "weights"
    checkpoints.save_weights(folder, params, batch_stats, config_files.to_json(config))
    return folder, model


def student(teacher, **data):
    config = base()
    config.distill.teacher = str(teacher)
    for key, value in data.items():
        config.data[key] = value
    return build.experiment(config)


def test_a_checkpoint_of_any_variant_teaches(camvid_teacher):
    folder, model = camvid_teacher
    teacher = distillation.read_teacher(student(folder, name="camvid"))
    expected = variables.leaves(model)
    params, batch_stats = map(variables.paths, teacher.weights)
    assert params.keys() | batch_stats.keys() == {path for path in expected if not path.startswith("aux_head.")}
    for path, leaf in (params | batch_stats).items():
        np.testing.assert_array_equal(leaf, expected[path], err_msg=path)
    assert isinstance(variables.merge(teacher.graphdef, *teacher.weights), DDRNet)
    assert (
        teacher.line == f"teacher from {folder}: DDRNet-23 segmentation, 11 classes, with auxiliary head (ddrnet_jax)"
    )
    assert distillation.read_teacher(student("", name="camvid")) is None


NAMES = tuple("abcdefghijk")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"name": "cityscapes"}, "has 11 classes, the data set 'cityscapes' has 19; teacher and student need the same"),
        ({"name": "folder", "classes": NAMES}, "has 11 classes of other names, the data set 'folder' has 11"),
    ],
)
@pytest.mark.parametrize("is_file", [False, True])
def test_a_teacher_of_other_classes_ends_in_one_line(camvid_teacher, data, message, is_file):
    teacher = "camvid_23_slim" if is_file else camvid_teacher[0]
    with pytest.raises(ConfigError, match=rf"config.distill.teacher: .*{message}"):
        distillation.read_teacher(student(teacher, **data))


@pytest.fixture
def folder_of_logits(tmp_path):
    """Logits, twice as sure as the images are bright, for the drawn scenes of `experiment`."""
    source = experiment().train_source()
    for sample in (source[i] for i in range(len(source))):
        cells = sample["image"].reshape(4, 8, 8, 8, 3).mean((1, 3)).astype(np.float16)
        np.save(tmp_path / f"{sample['name']}.npy", np.concatenate([cells] * 3, -1))
    return tmp_path


def with_teacher(folder, **changes):
    return dataclasses.replace(experiment(), distill=experiment().distill | {"teacher": str(folder)}, **changes)


def test_logits_on_disk_teach_in_the_places_of_the_crop(folder_of_logits, tmp_path_factory):
    e = with_teacher(folder_of_logits)
    teacher = distillation.read_teacher(e)
    assert distillation.fixed(teacher) == {}
    sample = distillation.taught(e.train_source(), e)[0]
    augment = Augment((32, 32), (1.0, 1.0), True)
    for seed in range(6):  # a crop at a multiple of 8 has the very cells
        rows = augment(sample, np.random.default_rng(seed))
        means = rows["images"].reshape(4, 8, 4, 8, 3).mean((1, 3))
        assert rows[LOGITS].shape == (4, 4, 9)
        assert np.corrcoef(rows[LOGITS][..., :3].ravel(), means.ravel())[0, 1] > 0.8
    logits = jnp.zeros((1, 4, 4, 9))
    assert distillation.distance(teacher, "cpu", 4.0)(logits, {LOGITS: rows[LOGITS][None]}) == pytest.approx(
        channel_wise(logits, rows[LOGITS][None], 4.0)
    )
    loop.train(e, tmp_path_factory.mktemp("run"))
    program.lower_train_step(e, devices.data_mesh())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "scene_0_00003.npy: no such file; 1 of 8 images have no logits there"),
        (lambda path: np.save(path, np.zeros((4, 8, 5), np.float32)), r"float32\[4, 8, 5\] given, expected float16 or"),
        (lambda path: path.write_bytes(b"no array"), "scene_0_00003.npy: cannot be read as an array"),
        (lambda path: _archive(path), r"scene_0_00003.npy: cannot be read as an array \(an archive of arrays"),
        (lambda path: np.save(path, np.load(path) * np.nan), "scene_0_00003.npy: has logits that are not finite"),
    ],
)
def test_logits_that_are_not_of_the_image_end_in_one_line(folder_of_logits, damage, message):
    damage(folder_of_logits / "scene_0_00003.npy")
    e = with_teacher(folder_of_logits)
    with pytest.raises(DataError, match=message):
        distillation.taught(e.train_source(), e)[3]


def _archive(path):
    with path.open("wb") as file:
        np.savez(file, np.load(path.with_name("scene_0_00002.npy")))


def test_two_images_of_one_file_end_in_one_line(folder_of_logits):
    e = with_teacher(folder_of_logits)
    source = e.train_source()
    source.names = lambda: ["a/scene_0_00003.png", "b/scene_0_00003.png"]
    with pytest.raises(DataError, match=r"a/scene_0_00003.png and b/scene_0_00003.png would share scene_0_00003.npy"):
        distillation.taught(source, e)


def test_pseudo_labelled_images_have_no_logits(folder_of_logits):
    e = with_teacher(folder_of_logits, pseudo_source=experiment().train_source)
    with pytest.raises(ConfigError, match="a folder of logits given, which data.pseudo_root has none of"):
        distillation.taught(e.train_source(), e)


def test_without_a_teacher_nothing_is_added():
    objective = program.objective_maker(experiment())
    graphdef, params, batch_stats = variables.split(nnx.eval_shape(lambda: Tiny(nnx.Rngs(0))))
    batch = {"images": np.zeros((2, 32, 32, 3), np.uint8), "labels": np.ones((2, 32, 32), np.uint8)}
    _, (_, metrics) = jax.eval_shape(objective(graphdef, "cpu"), params, batch_stats, batch)
    assert metrics.keys() == {"loss", "loss_main", "loss_aux"}
