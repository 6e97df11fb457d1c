"""`loss.class_weights = "auto"`: counted once, kept in the workdir, in the loss of the run."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from ddrnet_jax import build
from ddrnet_jax.config import ConfigError, base
from ddrnet_jax.data import class_balance
from ddrnet_jax.data.errors import DataError
from ddrnet_jax.training import class_weights, loop, program


@pytest.fixture(autouse=True)
def tiny_network(monkeypatch):
    tiny.use(monkeypatch.setattr)


def experiment():
    config = base()
    config.batch_size, config.total_steps = 4, 1
    config.data.crop_hw, config.data.scenes_hw = (32, 32), (32, 64)
    config.data.scenes_train, config.data.scenes_eval = 8, 2
    config.loss.name, config.loss.class_weights = "cross_entropy", "auto"
    return build.experiment(config)


def test_a_run_counts_keeps_and_uses_them(tmp_path, monkeypatch):
    used, make = [], program.objective_maker
    monkeypatch.setattr(program, "objective_maker", lambda e, counted, *rest: used.append(counted) or make(e, counted))
    loop.train(experiment(), tmp_path)
    kept = json.loads((tmp_path / class_weights.FILE).read_text())
    expected = class_balance.class_weights(class_balance.count_pixels(experiment().train_source()))
    assert used == [expected]
    assert kept["weights"] == list(expected)
    assert min(expected) < 0.7


def test_the_loss_has_the_counted_weights():
    weights = np.linspace(0.5, 2, 9)
    logits = jnp.asarray(np.random.default_rng(0).standard_normal((1, 2, 2, 9)), jnp.float32)
    labels = jnp.array([[[0, 8], [3, 255]]])
    losses = [-jnp.log(jnp.exp(logits[0, y, x, c]) / jnp.exp(logits[0, y, x]).sum()) for y, x, c in _PLACES]
    used = weights[[0, 8, 3]]
    ours = program.loss(experiment(), counted_weights=weights)(logits, labels)
    assert ours == pytest.approx((used * np.array(losses)).sum() / used.sum(), rel=1e-5)


_PLACES = ((0, 0, 0), (0, 1, 8), (1, 0, 3))


def test_a_resumed_run_has_those_it_began_with(tmp_path):
    source = experiment().train_source()
    first = class_weights.counted(tmp_path, source, is_resumed=False, num_threads=1)
    path = tmp_path / class_weights.FILE
    kept = json.loads(path.read_text())
    kept["pixels"][2] //= 4  # the labels are others by now
    path.write_text(json.dumps(kept))
    resumed = class_weights.counted(tmp_path, source, is_resumed=True, num_threads=1)
    assert resumed[2] == pytest.approx(2 * first[2], rel=0.5)
    assert resumed != first
    assert class_weights.counted(tmp_path, source, is_resumed=False, num_threads=1) == first


def test_classes_that_no_label_has_are_named_and_no_class_at_all_is_an_error(tmp_path, monkeypatch, caplog):
    source = experiment().train_source()
    counts = np.array([[5, 0, 7, *[1] * 6], [9, 0, 9, *[9] * 6]])
    monkeypatch.setattr(class_balance, "count_pixels", lambda *_: counts)
    weights = class_weights.counted(tmp_path, source, is_resumed=False, num_threads=1)
    assert weights[1] == 1
    assert f"in no training label, and with a weight of 1: {source.spec.classes[1]}" in caplog.text
    monkeypatch.setattr(class_balance, "count_pixels", lambda *_: 0 * counts)
    with pytest.raises(DataError, match="no pixel of the 8 training labels is of a class"):
        class_weights.counted(tmp_path / "none", source, is_resumed=False, num_threads=1)


NINE = ", 1" * 8
WRONG = ("{", "[]", '{"pixels": [1], "pixels_of_images": [1]}', '{"pixels": ["a"]}', "[" * 100_000)
OUT_OF_RANGE = [f'{{"pixels": [{n}{NINE}], "pixels_of_images": [1{NINE}]}}' for n in ("-1", "1" + 30 * "0")]


@pytest.mark.parametrize("text", [*WRONG, *OUT_OF_RANGE], ids=lambda text: text[:30])
def test_counts_that_cannot_be_read_end_in_one_line(tmp_path, text):
    (tmp_path / class_weights.FILE).write_text(text)
    with pytest.raises(ConfigError, match=r"class_pixels.json: not the counts of 9 classes; delete it"):
        class_weights.counted(tmp_path, experiment().train_source(), is_resumed=True, num_threads=1)
