"""The step that `plan` compiles from shapes alone is the step that the run compiles."""

import jax
import numpy as np
import pytest
import tiny

from ddrnet_jax import build
from ddrnet_jax.config import ConfigError
from ddrnet_jax.config import files as config_files
from ddrnet_jax.runtime import devices
from ddrnet_jax.training import program, state

CITYSCAPES = ["data.crop_hw=(64,64)", "batch_size=8", "ema_decay=0.9"]
IMAGENET = ["data.crop_hw=(64,64)", "batch_size=8"]


@pytest.mark.parametrize(("name", "overrides"), [("cityscapes", CITYSCAPES), ("imagenet", IMAGENET)])
def test_lowered_from_shapes_as_from_arrays(repo, name, overrides, monkeypatch):
    tiny.use(monkeypatch.setattr)
    config = config_files.load(str(repo / "configs" / f"{name}.py"), overrides)
    mesh = devices.data_mesh(jax.devices()[:4])
    _, sgd = program.schedule_and_optimizer(build.experiment(config))
    graphdef, fresh = state.create(build.experiment(config).network, sgd, seed=0, ema_decay=config.ema_decay)
    images = np.zeros((8, 64, 64, 3), np.uint8)
    labels = np.zeros((8, 64, 64), np.uint8) if name == "cityscapes" else np.zeros(8, np.int32)
    batch = devices.put_batch({"images": images, "labels": labels}, mesh)
    experiment = build.experiment(config)
    of_arrays = program.train_step(experiment, graphdef, sgd, mesh, program.objective_maker(experiment)).lower(
        jax.device_put(fresh, devices.replicated(mesh)), batch
    )
    assert program.lower_train_step(build.experiment(config), mesh).as_text() == of_arrays.as_text()


@pytest.mark.parametrize(("parts", "batch_size"), [(1, 6), (2, 12)])
def test_a_batch_must_be_spread_evenly(repo, parts, batch_size):
    overrides = [f"batch_size={batch_size}", f"optimizer.accumulate_steps={parts}"]
    config = config_files.load(str(repo / "configs" / "cityscapes.py"), overrides)
    with pytest.raises(ConfigError, match=f"batch_size: {batch_size} given, expected a multiple of the 4 devices"):
        program.lower_train_step(build.experiment(config), devices.data_mesh(jax.devices()[:4]))
