"""Checkpoints: best and latest kept, restored elsewhere, found from a workdir or a copied step."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from damage import arrays_file, flip_bit
from flax import nnx

from ddrnet_jax import build, load_checkpoint
from ddrnet_jax import config as config_lib
from ddrnet_jax.config import files as config_files
from ddrnet_jax.models import variables
from ddrnet_jax.runs import checkpoints
from ddrnet_jax.runs.save import Checkpoints
from ddrnet_jax.runtime import devices
from ddrnet_jax.training import optimizer, state


@pytest.fixture(scope="module", autouse=True)
def tiny_network():
    with pytest.MonkeyPatch.context() as patch:
        tiny.use(patch.setattr)
        yield


def small_config():
    config = config_lib.base()
    config.data.crop_hw = (64, 64)
    config.checkpoint.keep = 2
    return config


def fresh_state(config, ema_decay=0.0):
    sgd = optimizer.sgd(lambda step: 0.1, momentum=0.9, nesterov=False, weight_decay=0.0)
    _, fresh = state.create(build.experiment(config).network, sgd, seed=3, ema_decay=ema_decay)
    return jax.device_put(fresh, devices.replicated(devices.data_mesh()))


def at_step(run_state, step):
    """The state with every parameter shifted by the step, so that steps can be told apart."""
    return run_state | {"step": jnp.int32(step), "params": jax.tree.map(lambda a: a + step, run_state["params"])}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A workdir with steps 1..5 saved on 4 devices, the best mIoU at 2; (workdir, config, state)."""
    workdir = tmp_path_factory.mktemp("run")
    config = small_config()
    run_state = fresh_state(config)
    manager = Checkpoints(workdir, config_files.to_json(config), keep=config.checkpoint.keep)
    for step, miou in ((1, 0.1), (2, 0.5), (3, 0.2), (4, None), (5, 0.3)):
        manager.save(step, at_step(run_state, step), miou)
    manager.close()
    return workdir, config, run_state


def test_best_and_latest_are_kept(saved):
    workdir, config, _ = saved
    steps = sorted(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit())
    assert steps == [2, 4, 5]
    manager = Checkpoints(workdir, config_files.to_json(config), keep=config.checkpoint.keep)
    assert manager.latest_step() == 5
    manager.close()


def test_a_classifiers_best_is_by_top1(tmp_path):
    config = small_config()
    config.task, config.model.aux_head = "classification", False
    manager = Checkpoints(tmp_path, config_files.to_json(config), keep=config.checkpoint.keep)
    for step, top1 in ((1, 0.3), (2, 0.7), (3, 0.1), (4, 0.2)):
        manager.save(step, {"step": jnp.int32(step)}, top1)
    manager.close()
    assert sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit()) == [2, 3, 4]
    best = checkpoints.find_step(tmp_path)
    assert best.name == "2"
    assert json.loads((best / "_CHECKPOINT_METADATA").read_text())["custom_metadata"]["val/top1"] == 0.7


def test_a_loaded_checkpoint_says_what_it_reached(saved):
    loaded = checkpoints.load_weights(saved[0])
    assert (loaded.metric, loaded.score, loaded.miou) == ("val/miou", 0.5, 0.5)
    unevaluated = checkpoints.load_weights(saved[0] / "checkpoints" / "4")
    assert (unevaluated.score, unevaluated.miou) == (None, None)


def test_resuming_gives_the_state_bit_for_bit(saved):
    workdir, config, run_state = saved
    resumed = Checkpoints(workdir, config_files.to_json(config), keep=config.checkpoint.keep).resume(like=run_state)
    assert (resumed.step, resumed.warnings) == (5, [])
    assert jax.tree.structure(resumed.state) == jax.tree.structure(run_state)
    for a, b in zip(jax.tree.leaves(resumed.state), jax.tree.leaves(at_step(run_state, 5)), strict=True):
        np.testing.assert_array_equal(a, b, strict=True)


def test_a_workdir_stands_for_its_best_and_a_copied_step_for_itself(saved, tmp_path):
    workdir, config, run_state = saved
    assert checkpoints.find_step(workdir).name == "2"
    copied = shutil.copytree(workdir / "checkpoints" / "4", tmp_path / "copied")
    model, loaded_config = load_checkpoint(copied)
    assert loaded_config.to_dict() == config.to_dict()
    expected = variables.paths(at_step(run_state, 4)["params"])
    for path, leaf in variables.paths(variables.split(model)[1]).items():
        np.testing.assert_array_equal(leaf, expected[path])
    out = model(jnp.zeros((1, 64, 64, 3)))
    assert out.logits.shape == (1, 8, 8, 9)
    assert model.bn.use_running_average is not False  # eval mode


def test_another_device_count_and_process_loads_the_same_numbers(saved, tmp_path):
    workdir, _, run_state = saved
    code = (
        "import sys, jax, numpy as np\n"
        "import tiny\n"
        "from ddrnet_jax import load_checkpoint\n"
        "tiny.use()\n"
        "assert jax.device_count() == 1\n"
        "model, config = load_checkpoint(sys.argv[1])\n"
        "np.save(sys.argv[2], np.asarray(model.trunk.kernel[...]))\n"
    )
    command = [sys.executable, "-c", code, str(workdir), str(tmp_path / "kernel.npy")]
    subprocess.run(command, check=True, cwd=Path(tiny.__file__).parent)
    expected = at_step(run_state, 2)["params"]["trunk"]["kernel"]
    np.testing.assert_array_equal(np.load(tmp_path / "kernel.npy"), expected)


def test_the_moving_average_is_what_loads(tmp_path):
    config = small_config()
    config.ema_decay = 0.9
    run_state = fresh_state(config, ema_decay=0.9)
    manager = Checkpoints(tmp_path, config_files.to_json(config), keep=config.checkpoint.keep)
    manager.save(7, at_step(run_state, 7), 0.5)
    manager.close()
    model, _ = load_checkpoint(tmp_path)
    np.testing.assert_array_equal(model.trunk.kernel[...], run_state["ema"]["params"]["trunk"]["kernel"])


def test_an_unfinished_save_is_not_a_checkpoint(saved, tmp_path):
    workdir, _, _ = saved
    copy = shutil.copytree(workdir, tmp_path / "run")
    (copy / "checkpoints" / "2").rename(copy / "checkpoints" / "2.orbax-checkpoint-tmp-1")
    (copy / "checkpoints" / "5" / "_CHECKPOINT_METADATA").unlink()
    assert checkpoints.find_step(copy).name == "4"


def test_what_is_no_checkpoint_is_named(tmp_path, saved):
    with pytest.raises(checkpoints.CheckpointError, match="no checkpoint here; expected a workdir or one step"):
        load_checkpoint(tmp_path)
    copy = shutil.copytree(saved[0] / "checkpoints" / "4", tmp_path / "4")
    for path in sorted(copy.rglob("*")):
        if path.is_file() and path.stat().st_size > 10_000:
            path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(checkpoints.CheckpointError, match="cannot be read") as caught:
        load_checkpoint(copy)
    assert "\n" not in str(caught.value)


def test_a_model_rebuilds_from_nested_dicts():
    model = nnx.eval_shape(lambda: build.experiment(small_config()).network(nnx.Rngs(0)))
    graphdef, params, stats = variables.split(model)
    assert variables.paths(variables.from_paths(variables.paths(params))).keys() == variables.paths(params).keys()
    again = variables.merge(graphdef, params, stats)
    assert variables.paths(variables.split(again)[1]).keys() == variables.paths(params).keys()


def test_no_other_model_takes_the_place_of_a_damaged_best(saved, tmp_path):
    copy = shutil.copytree(saved[0], tmp_path / "run")
    root = copy / "checkpoints"
    flip_bit(arrays_file(root / "2"), 5000)
    with pytest.raises(checkpoints.CheckpointError) as caught:
        load_checkpoint(copy)
    message = str(caught.value)
    assert message.startswith(f"{root / '2'}: the checkpoint cannot be read (its files have changed: params differ")
    assert message.endswith(f"; beside it are 5, 4: choose one, as --checkpoint {root / '5'}")
    load_checkpoint(root / "5")
    (root / "4" / "_CHECKPOINT_METADATA").write_text("{")
    with pytest.raises(checkpoints.CheckpointError, match="/4: .*and it may be the best; beside it are 5, 2"):
        load_checkpoint(copy)
