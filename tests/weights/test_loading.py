"""A weights file, or its address, in the place of a checkpoint: the same network, and what does not fit in one line."""

import functools
import http.server
import json
import subprocess
import sys
import threading
import types

import jax
import numpy as np
import parity_fixtures as fixtures
import pytest
from flax import nnx

from ddrnet_jax import build, config, downloads, load_checkpoint
from ddrnet_jax import main as main_lib
from ddrnet_jax.config import files as config_files
from ddrnet_jax.downloads import DownloadError
from ddrnet_jax.models import variables
from ddrnet_jax.prediction import segmenter
from ddrnet_jax.runs import checkpoints
from ddrnet_jax.weights import files as weight_files
from ddrnet_jax.weights import loading, pretrained
from ddrnet_jax.weights.pretrained import PretrainedError


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder with weights as one step, and as a file of export."""
    folder = tmp_path_factory.mktemp("run")
    ours = config.base()
    ours.data.name, ours.data.classes, ours.model.aux_head = "folder", ("lawn", "path", "hedge"), False
    model = build.experiment(ours).network(nnx.Rngs(0))
    checkpoints.save_weights(folder / "step", *variables.split(model)[1:], config_files.to_json(ours))
    export(folder / "step", folder / "w.safetensors")
    return folder


def export(checkpoint, output):
    flags = ["--mode", "export", "--checkpoint", str(checkpoint), "--format", "safetensors", "--output", str(output)]
    assert main_lib.main(flags) == 0


@pytest.fixture
def served(run, tmp_path, monkeypatch):
    """The address of that folder."""
    kept = types.SimpleNamespace(made=lambda name: tmp_path)  # of downloads alone, not of compiled programs
    monkeypatch.setattr(downloads, "cache_folder", kept)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(run))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, (a.params, a.batch_stats), (b.params, b.batch_stats))


def test_a_file_of_export_is_its_checkpoint(run):
    given, found = (loading.load_weights(run / name) for name in ("step", "w.safetensors"))
    assert_equal(given, found)
    assert found.config.to_dict() == given.config.to_dict()
    assert (found.metric, found.score, found.step, found.is_averaged) == ("val/miou", None, None, False)
    assert found.experiment.spec.classes == ("lawn", "path", "hedge")
    assert segmenter.load(run / "w.safetensors").classes == ("lawn", "path", "hedge")


def test_a_file_says_how_well_its_network_did(run, tmp_path):
    tensors, metadata = weight_files.read_safetensors(run / "w.safetensors")
    for text, score in (("0.625", 0.625), ("7", None), ("much", None), ("nan", None)):
        weight_files.write_safetensors(tmp_path / "w.safetensors", tensors, metadata | {"val_miou": text})
        assert loading.load_weights(tmp_path / "w.safetensors").score == score
    weight_files.write_safetensors(tmp_path / "w.safetensors", tensors, metadata | {"val_miou": "0.625"})
    export(tmp_path / "w.safetensors", tmp_path / "again.safetensors")
    assert loading.load_weights(tmp_path / "again.safetensors").score == 0.625


def test_anyones_file_is_of_the_data_set_with_that_many_classes(tmp_path, capsys):
    weight_files.write_pth(tmp_path / "best_val_smaller.pth", fixtures.state_dict("slim_seg"))
    model, found = load_checkpoint(tmp_path / "best_val_smaller.pth")
    assert (found.data.name, model.num_classes, model.aux_head is not None) == ("cityscapes", 19, True)
    weight_files.write_pth(tmp_path / "c.pth", fixtures.state_dict("slim_cls"))
    assert load_checkpoint(tmp_path / "c.pth")[1].task == "classification"


def test_a_file_whose_config_is_of_something_else_is_refused(run, tmp_path):
    path = tmp_path / "w.safetensors"
    tensors, metadata = weight_files.read_safetensors(run / "w.safetensors")
    other = json.loads(metadata["config"])
    other["model"]["variant"] = "39"
    weight_files.write_safetensors(path, tensors, {"config": json.dumps(other)})
    with pytest.raises(PretrainedError, match="holds DDRNet-23_slim segmentation.* the model is a DDRNet-39"):
        loading.load_weights(path)
    other["model"]["variant"], other["data"]["classes"] = "23_slim", ["a", "b"]
    weight_files.write_safetensors(path, tensors, {"config": json.dumps(other)})
    with pytest.raises(PretrainedError, match="holds 3 classes, but the model has 2"):
        loading.load_weights(path)
    of_images = config.base()
    of_images.task, of_images.data.name, of_images.loss.name = "classification", "imagenet", "cross_entropy"
    of_images.model.aux_head = False
    weight_files.write_safetensors(path, tensors, {"config": json.dumps(config_files.to_json(of_images))})
    with pytest.raises(PretrainedError, match="holds DDRNet-23_slim segmentation, 3 classes, .* is of classification"):
        loading.load_weights(path)
    with pytest.raises(PretrainedError, match="a file is of a DDRNet; of a network of your own give a checkpoint"):
        loading.load_weights(run / "w.safetensors", network=lambda rngs: None)


def test_an_address_is_as_good_as_its_file(run, served, tmp_path, capsys):
    address = f"{served}/w.safetensors"
    assert_equal(loading.load_weights(address), loading.load_weights(run / "step"))
    assert pretrained.read(address).path == address
    flags = ["--mode", "import_weights", "--input", address, "--output", str(tmp_path / "imported")]
    assert main_lib.main(flags) == 0
    assert f"{address}: official, DDRNet-23_slim segmentation, 3 classes" in capsys.readouterr().out
    assert_equal(loading.load_weights(tmp_path / "imported"), loading.load_weights(run / "step"))
    with pytest.raises(DownloadError, match="w.onnx: no program is run from an address; download it and give the file"):
        segmenter.load(f"{served}/w.onnx#sha256={'0' * 64}")


def test_an_address_that_leads_nowhere_ends_in_one_line_before_anything_is_made(served, tmp_path, capsys):
    config_file = tmp_path / "mine.py"
    config_file.write_text("from ddrnet_jax.config import base as get_config\n")
    address = f"{served}/nothing.pth"
    small = ("--config.data.scenes_train=8", "--config.data.scenes_eval=4", "--config.batch_size=4")
    for flags in (
        ("--config", config_file, "--workdir", tmp_path / "run", f"--config.init_from={address}", *small),
        ("--mode", "import_weights", "--input", address, "--output", tmp_path / "out"),
        ("--mode", "export", "--checkpoint", address, "--format", "pth", "--output", tmp_path / "out.pth"),
        ("--mode", "evaluate", "--config", config_file, "--checkpoint", address, *small),
    ):
        assert main_lib.main([str(flag) for flag in flags]) == 1
        err = capsys.readouterr().err
        assert err.splitlines()[-1] == f"error: {address}: there is no such file; look at the address"
        assert "compiling" not in err
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.pth").exists()


@pytest.mark.parametrize(
    "flags",
    [
        ("--mode", "report", "--checkpoint", "hf://owner/repo/w.safetensors"),
        ("--mode", "pseudo_label", "--checkpoint", "run", "--input", "https://example.com/street.jpg"),
        ("--mode", "predict", "--checkpoint", "run", "--input", "gs://bucket/streets"),
        ("--mode", "predict", "--checkpoint", "run", "--output", "gs://bucket/out"),
        ("--config", "configs/demo.py", "--workdir", "s3://bucket/run"),
    ],
)
def test_where_an_address_is_of_no_weights_it_is_refused(flags, capsys):
    assert main_lib.main(list(flags)) == 1
    assert "an address cannot be used here; download it, or mount the bucket" in capsys.readouterr().err


def test_loading_imports_nothing_that_reads_training_data():
    """Half a second of a prediction's start."""
    code = "import sys, ddrnet_jax.weights.loading; print({'grain', 'array_record'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200, check=True)
    assert done.stdout.strip() == "set()"
