"""import_weights and export through the command line: files in, checkpoints out, and back to the bit."""

import json
import re

import jax
import numpy as np
import parity_fixtures as fixtures
import pytest
from flax import nnx

from ddrnet_jax import build, config, load_checkpoint
from ddrnet_jax import main as main_lib
from ddrnet_jax.config import files as config_files
from ddrnet_jax.models import variables
from ddrnet_jax.models.ddrnet import normalise
from ddrnet_jax.runs import checkpoints
from ddrnet_jax.runs.save import Checkpoints
from ddrnet_jax.weights import files as weight_files
from ddrnet_jax.weights import importing
from ddrnet_jax.weights.fingerprint import fixed_images
from ddrnet_jax.weights.state_dicts import read_checkpoint, to_state_dict


def run(capsys, *arguments):
    """(exit code, stdout, stderr)"""
    code = main_lib.main([str(a) for a in arguments])
    return code, *capsys.readouterr()


def assert_one_error(result, text):
    code, _, err = result
    assert code == 1
    assert err.splitlines()[-1] == f"error: {text}"
    assert "Traceback" not in err


def without_counters(state):
    return {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}


@pytest.fixture(scope="module")
def official():
    """An official Cityscapes file's content: `model.` before every key, and the loss's own class weights."""
    state = {f"model.{k}": v for k, v in fixtures.state_dict("slim_seg").items()}
    return state | {"loss.criterion.weight": np.ones(19, np.float32)}


@pytest.fixture(scope="module")
def imported(official, tmp_path_factory):
    """(checkpoint, report) of the official file."""
    folder = tmp_path_factory.mktemp("imported")
    weight_files.write_pth(folder / "best_val_smaller.pth", official)
    report = importing.import_weights(folder / "best_val_smaller.pth", folder / "checkpoint")
    return folder / "checkpoint", report


def test_an_official_file_becomes_a_checkpoint(imported, official):
    checkpoint, report = imported
    model, config = load_checkpoint(checkpoint)
    for name, value in to_state_dict(model).items():
        np.testing.assert_array_equal(value, official[f"model.{name}"])
    assert (config.data.name, config.model.variant, config.model.aux_head) == ("cityscapes", "23_slim", True)
    assert report["tensors_moved"] == 346
    assert report["fresh"] == {}
    assert report["not_used"] == {"loss.criterion.weight": "a training loss's own tensor"}


def test_the_report_on_the_terminal(official, tmp_path, capsys):
    weight_files.write_pth(tmp_path / "w.pth", official)
    code, out, _ = run(
        capsys, "--mode", "import_weights", "--input", tmp_path / "w.pth", "--output", tmp_path / "checkpoint"
    )
    assert code == 0
    assert f"{tmp_path}/w.pth: official, DDRNet-23_slim segmentation, 19 classes, with auxiliary head" in out
    assert "moved 346 tensors; data set of the checkpoint: cityscapes, by its 19 classes" in out
    assert "not used: loss.criterion.weight: a training loss's own tensor" in out
    assert re.search(r"weights  sha256 [0-9a-f]{64}\n", out)


def test_the_forward_digest_is_the_networks(imported):
    """The digest's numbers, from a forward pass of the loaded model outside of it."""
    checkpoint, report = imported
    model, _ = load_checkpoint(checkpoint)
    graphdef, params, batch_stats = variables.split(model)
    forward = jax.jit(lambda *weights: variables.merge(graphdef, *weights)(normalise(fixed_images())).logits)
    logits = np.asarray(forward(params, batch_stats))
    digest = report["forward"]
    assert digest["mean"] == pytest.approx(logits.mean(), rel=1e-3)
    assert digest["max"] == pytest.approx(logits.max(), rel=1e-3)
    assert digest["samples"][0] == pytest.approx(logits.ravel()[0], rel=1e-3)
    assert digest["samples"][-1] == pytest.approx(logits.ravel()[-1], rel=1e-3)


@pytest.mark.parametrize(
    ("file_format", "naming", "manifest"),
    [
        ("safetensors", "official", "slim_seg"),
        ("pth", "official", "slim_seg"),
        ("pth", "mmsegmentation", "mmseg_slim_seg"),
        ("safetensors", "super-gradients", None),
    ],
)
def test_export_and_back(file_format, naming, manifest, imported, tmp_path, capsys):
    checkpoint, report = imported
    path, card_path = tmp_path / f"w.{file_format}", tmp_path / f"w.{file_format}.json"
    flags = ("--format", file_format, "--naming", naming)
    code, out, _ = run(capsys, "--mode", "export", "--checkpoint", checkpoint, "--output", path, *flags)
    assert code == 0
    assert str(card_path) in out
    if manifest:
        assert read_checkpoint(path).keys() == fixtures.manifest_shapes(manifest).keys()

    card = json.loads(card_path.read_text())
    assert card["weights_sha256"] == report["weights_sha256"]
    assert card["classes"][0] == "road"
    assert card["colors"][0] == [128, 64, 128]
    assert card["config"]["model"]["variant"] == "23_slim"
    assert card["naming"] == naming
    assert card["val_miou"] is None  # imported, never evaluated
    assert card["output_stride"] == (1 if naming == "super-gradients" else 8)

    code, out, _ = run(capsys, "--mode", "import_weights", "--input", path, "--output", tmp_path / "back")
    assert code == 0
    back, original = (to_state_dict(load_checkpoint(c)[0]) for c in (tmp_path / "back", checkpoint))
    if naming == "mmsegmentation":  # its stem has no bias: the running means take it in
        for bias, mean in (("conv1.0.bias", "conv1.1.running_mean"), ("conv1.3.bias", "conv1.4.running_mean")):
            np.testing.assert_array_equal(back.pop(bias), 0)
            np.testing.assert_array_equal(back.pop(mean), original.pop(mean) - original.pop(bias))
    assert f"weights  sha256 {report['weights_sha256']}" in out  # of what the network computes, so equal for all
    assert f"mean {report['forward']['mean']:g}, std {report['forward']['std']:g}" in out
    assert back.keys() == original.keys()
    for name, value in back.items():
        np.testing.assert_array_equal(value, original[name])


def test_our_safetensors_carry_their_config(tmp_path, capsys):
    """A data set that no table knows comes back by itself."""

    from ddrnet_jax.models import variables

    ours = config.base()
    ours.data.name, ours.data.classes, ours.model.aux_head = "folder", ("lawn", "path", "hedge"), False
    model = build.experiment(ours).network(nnx.Rngs(0))
    checkpoints.save_weights(tmp_path / "c", *variables.split(model)[1:], config_files.to_json(ours))
    path = tmp_path / "w.safetensors"
    flags = ("--checkpoint", tmp_path / "c", "--format", "safetensors", "--output", path)
    assert run(capsys, "--mode", "export", *flags)[0] == 0
    assert run(capsys, "--mode", "import_weights", "--input", path, "--output", tmp_path / "back")[0] == 0
    _, config_back = load_checkpoint(tmp_path / "back")
    assert config_back.to_dict() == ours.to_dict()

    tensors = weight_files.read_safetensors(path)[0]
    for text in (
        "[1]",
        "not JSON",
        "[" * 100_000,
        '{"model": {"variant": 5}}',
        '{"model": {"variant": []}}',
        '{"seed": 1e400}',
        '{"data": {"name": "folder", "classes": [1, 2]}}',
    ):
        weight_files.write_safetensors(tmp_path / "bad.safetensors", tensors, {"config": text})
        code, _, err = run(
            capsys, "--mode", "import_weights", "--input", tmp_path / "bad.safetensors", "--output", tmp_path / "no"
        )
        assert code == 1
        assert f"{tmp_path}/bad.safetensors: the config in it or in bad.safetensors.json cannot be used" in err
        assert "Traceback" not in err
    assert not (tmp_path / "no").exists()

    weight_files.write_safetensors(tmp_path / "plain.safetensors", tensors)
    assert_one_error(
        run(capsys, "--mode", "import_weights", "--input", tmp_path / "plain.safetensors", "--output", tmp_path / "no"),
        f"{tmp_path}/plain.safetensors: DDRNet-23_slim segmentation, 3 classes, without auxiliary head; which data set "
        "that is cannot be told (known: 9 (scenes), 11 (camvid), 19 (cityscapes), 171 (coco_stuff_10k), "
        "171 (coco_stuff_164k), 1000 (imagenet)); say it with --mode import_weights --config",
    )


def test_a_config_says_what_is_wanted(official, tmp_path, capsys):
    path, config_file = tmp_path / "w.pth", tmp_path / "mine.py"
    weight_files.write_pth(path, official)
    config_file.write_text(
        "from ddrnet_jax.config import base\n"
        "def get_config():\n"
        "    config = base()\n"
        "    config.data.name = 'camvid'\n"
        "    return config\n"
    )
    flags = ("--mode", "import_weights", "--input", path, "--output", tmp_path / "c", "--config", config_file)
    assert_one_error(
        run(capsys, *flags),
        f"{path}: holds 19 classes, but the model has 11; --config.init_head=fresh "
        "(fresh_head=True) moves everything but the heads",
    )
    assert_one_error(
        run(capsys, *flags, "--config.model.variant=39"),
        f"{path}: holds DDRNet-23_slim segmentation, 19 classes, with auxiliary head, but the model is a DDRNet-39; "
        "choose the file of this variant or set model.variant",
    )
    code, out, _ = run(capsys, *flags, "--config.init_head=fresh")
    assert code == 0
    assert "moved 320 tensors; data set of the checkpoint: camvid" in out
    assert "fresh (random): head: left out as asked (the weights have 19 classes, the model 11)" in out
    model, config = load_checkpoint(tmp_path / "c")
    assert (model.num_classes, config.init_head) == (11, "load")


def test_a_classifier_is_imported_as_one(tmp_path, capsys):
    path = tmp_path / "DDRNet23s_imagenet.pth"
    given = fixtures.state_dict("slim_cls")
    weight_files.write_pth(path, given)
    flags = ("--mode", "import_weights", "--input", path, "--output", tmp_path / "c")
    config_file = tmp_path / "mine.py"
    config_file.write_text("from ddrnet_jax.config import base as get_config\n")
    assert_one_error(
        run(capsys, *flags, "--config", config_file),
        f"{path}: holds DDRNet-23_slim classification, 1000 classes, but the config's task is 'segmentation'; import "
        "it without --config and train with config.init_from, or --config.init_head=fresh fills what is missing with "
        "random weights",
    )
    code, out, _ = run(capsys, *flags)
    assert code == 0
    assert "moved 274 tensors; data set of the checkpoint: imagenet, by its 1000 classes" in out
    model, config = load_checkpoint(tmp_path / "c")
    assert (model.task, config.task) == ("classification", "classification")
    for name, value in to_state_dict(model).items():
        np.testing.assert_array_equal(value, given[name])


def test_what_stands_in_the_way_is_named(imported, tmp_path, capsys):
    checkpoint, _ = imported
    full = tmp_path / "full"
    full.mkdir()
    (full / "something").touch()
    path = tmp_path / "w.pth"
    weight_files.write_pth(path, fixtures.state_dict("slim_cls"))
    flags = ("--mode", "import_weights", "--input")
    assert_one_error(
        run(capsys, *flags, path, "--output", full), f"--output {full}: exists already; choose a new folder"
    )
    assert_one_error(
        run(capsys, *flags, full, "--output", tmp_path / "c"),
        f"--input {full}: a folder; expected a .pth, .pt or .safetensors file",
    )
    for output, why in ((path / "x", "Not a directory"), ("/proc/nope/x", "No such file or directory")):
        assert_one_error(run(capsys, *flags, path, "--output", output), f"--output {output}: cannot be written ({why})")
    assert_one_error(
        run(capsys, *flags, path, "--output", tmp_path / "c", "--naming", "official"),
        "--mode import_weights does not take --naming; --help lists the modes and flags",
    )
    flags = ("--mode", "export", "--checkpoint", checkpoint, "--output")
    assert_one_error(
        run(capsys, *flags, path, "--format", "pth"), f"--output {path}: exists already; choose a new name"
    )
    assert_one_error(
        run(capsys, *flags, tmp_path / "w.bin", "--format", "pth"),
        f"--output {tmp_path}/w.bin: expected a name that ends in .pth, the format asked for",
    )
    assert_one_error(run(capsys, *flags, tmp_path / "new.pth"), "--mode export needs --format")
    assert_one_error(
        run(capsys, *flags, full / "something" / "w.pth", "--format", "pth"),
        f"--output {full}/something/w.pth: cannot be written (File exists)",
    )


def test_a_fine_tuned_network_goes_out_and_comes_back_with_its_heads(tmp_path, capsys):
    """Its config says how its own run began (init_head): that must not be done to it again."""
    ours = config.base()
    ours.data.name, ours.data.classes, ours.init_from, ours.init_head = "folder", ("a", "b"), "w.pth", "fresh"
    ours.model.aux_head = False
    model = build.experiment(ours).network(nnx.Rngs(0))
    manager = Checkpoints(tmp_path / "run", config_files.to_json(ours), keep=ours.checkpoint.keep)
    original = to_state_dict(model)
    _, params, batch_stats = variables.split(model)
    manager.save(3, {"params": params, "batch_stats": batch_stats}, 0.25)
    manager.close()
    for file_format in ("safetensors", "pth"):
        path = tmp_path / f"w.{file_format}"
        flags = ("--checkpoint", tmp_path / "run", "--format", file_format, "--output", path)
        assert run(capsys, "--mode", "export", *flags)[0] == 0
        assert json.loads((tmp_path / f"w.{file_format}.json").read_text())["val_miou"] == 0.25
        back = tmp_path / f"back_{file_format}"
        assert run(capsys, "--mode", "import_weights", "--input", path, "--output", back)[0] == 0
        loaded, config_back = load_checkpoint(back)
        assert config_back.data.classes == ("a", "b")
        for name, value in to_state_dict(loaded).items():
            np.testing.assert_array_equal(value, original[name])
    flags = ("--checkpoint", tmp_path / "run", "--format", "pth", "--output", tmp_path / "mm.pth")
    out = run(capsys, "--mode", "export", *flags, "--naming", "mmsegmentation")[1]
    assert "note: without an auxiliary head, which mmsegmentation's always has" in out


def test_values_beyond_float32_are_refused(tmp_path, capsys):
    state = {k: np.asarray(v, np.float64) if v.ndim else v for k, v in fixtures.state_dict("slim_cls").items()}
    state["linear.weight"][0, 0] = 1e200
    weight_files.write_pth(tmp_path / "w.pth", state)
    assert_one_error(
        run(capsys, "--mode", "import_weights", "--input", tmp_path / "w.pth", "--output", tmp_path / "c"),
        f"{tmp_path}/w.pth: linear.weight holds values beyond the range of float32",
    )


def test_a_segmenter_becomes_a_classifiers_trunk_when_asked_for(official, tmp_path, capsys):
    weight_files.write_pth(tmp_path / "w.pth", official)
    config_file = tmp_path / "mine.py"
    config_file.write_text(
        "from ddrnet_jax.config import base\n"
        "def get_config():\n"
        "    config = base()\n"
        "    config.task, config.data.name, config.loss.name = 'classification', 'imagenet', 'cross_entropy'\n"
        "    config.model.aux_head = False\n"
        "    return config\n"
    )
    flags = ("--input", tmp_path / "w.pth", "--output", tmp_path / "c", "--config", config_file)
    code, out, err = run(capsys, "--mode", "import_weights", *flags, "--config.init_head=fresh")
    assert code == 0, err
    assert "moved 254 tensors; data set of the checkpoint: imagenet" in out
