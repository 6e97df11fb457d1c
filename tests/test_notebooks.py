"""The notebooks run from a clean kernel on one device, and so does what they restore: saved on eight devices."""

import base64
import hashlib
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import nbclient
import nbformat
import numpy as np
import parity_fixtures
import pytest

from ddrnet_jax.data.sets.cityscapes import SPEC as CITYSCAPES
from ddrnet_jax.data.sets.scenes import SPEC as SCENES
from ddrnet_jax.weights import files as weight_files

NOTEBOOKS = ("restore", "import_official")
WITH_TESTS = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])

# Eight devices, the arrays cut into eight along their last axis wherever that divides.
SAVE_ON_EIGHT = """
import sys
import jax
import small
jax.config.update("jax_num_cpu_devices", 8)
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from ddrnet_jax import build, config
from ddrnet_jax.config import files as config_files
from ddrnet_jax.models import variables
from ddrnet_jax.training import optimizer, state
from ddrnet_jax.runs.save import Checkpoints
from ddrnet_jax.runtime import compilation, devices

small.use()
compilation.enable_cache()
workdir, numbers = sys.argv[1:]
ours = config.base()
ours.data.scenes_hw = ours.data.crop_hw = (64, 64)
ours.data.scenes_eval = ours.eval.batch_size = 4
sgd = optimizer.sgd(lambda step: 0.1, momentum=0.9, nesterov=False, weight_decay=0.0)
_, fresh = state.create(build.experiment(ours).network, sgd, seed=3)
fresh["batch_stats"] = jax.tree.map(lambda a: a + 0.25, fresh["batch_stats"])
mesh = devices.data_mesh()

def spread(array):
    parts = (None,) * (array.ndim - 1) + ("data",) if array.ndim and array.shape[-1] % 8 == 0 else ()
    return jax.device_put(array, NamedSharding(mesh, PartitionSpec(*parts)))

fresh = jax.tree.map(spread, fresh)
kernel = fresh["params"]["stem"]["0"]["conv"]["kernel"]
assert len(kernel.sharding.device_set) == 8 and not kernel.sharding.is_fully_replicated
run = Checkpoints(workdir, config_files.to_json(ours), keep=ours.checkpoint.keep)
run.save(3, fresh, 0.25)
run.close()
leaves = variables.paths(fresh["params"]) | variables.paths(fresh["batch_stats"])
np.savez(numbers, **{path: np.asarray(leaf) for path, leaf in leaves.items()})
"""

# Before restore.ipynb: the network whose layers the checkpoint has.
SMALL = "import small\nsmall.use()"

# Appended to restore.ipynb: what its kernel holds in the end, for comparing bit for bit.
DUMP = """
import numpy as np

assert jax.device_count() == 1
for name, network in (("restored", model), ("mine", mine)):
    _, *parts = variables.split(network)
    leaves = variables.paths(parts[0]) | variables.paths(parts[1])
    np.savez(f"{name}.npz", **{path: np.asarray(leaf) for path, leaf in leaves.items()})
"""


def read(repo, name):
    """The committed notebook."""
    return nbformat.read(repo / "notebooks" / f"{name}.ipynb", as_version=4)


def execute(notebook, folder, monkeypatch, **environment):
    """Run a notebook in `folder`, in a kernel of its own with one CPU device and nobody's settings."""
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR"):
        monkeypatch.setenv(name, str(folder / "jupyter"))
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "1")  # the kernel of this environment, whoever installed others
    alone = {k: v for k, v in os.environ.items() if not k.startswith("DDRNET_")}
    alone |= {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"}
    alone |= {"DDRNET_JAX_CACHE_DIR": os.environ["DDRNET_JAX_CACHE_DIR"], "PYTHONPATH": WITH_TESTS}
    client = nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    return client.execute(env=alone | {k: str(v) for k, v in environment.items()})


def execute_after_nothing(notebook, then, folder, monkeypatch, **environment):
    """The same, in a kernel in which its first cell found nothing to open. Returns that cell, as it ended.

    then  what puts there what it opens
    """
    first = next(cell for cell in notebook.cells if cell.cell_type == "code")
    nothing = nbformat.v4.new_code_cell(first.source, metadata={"tags": ["raises-exception"]})
    notebook.cells[:0] = [nothing, nbformat.v4.new_code_cell(then)]
    execute(notebook, folder, monkeypatch, **environment)
    del notebook.cells[:2]
    return nothing


def outputs(notebook):
    return [output for cell in notebook.cells for output in cell.get("outputs", ())]


def printed(notebook):
    """What the notebook printed; nothing may have gone to stderr."""
    streams = [output for output in outputs(notebook) if output.output_type == "stream"]
    assert not [s.text for s in streams if s.name == "stderr"]
    return "".join(s.text for s in streams)


def displayed(notebook):
    """The pictures, u8[H,W,3] each."""
    data = [o.data["image/png"] for o in outputs(notebook) if o.output_type == "display_data"]
    return [cv2.imdecode(np.frombuffer(base64.b64decode(png), np.uint8), cv2.IMREAD_COLOR_RGB) for png in data]


def colors_in(picture):
    return set(map(tuple, picture.reshape(-1, 3).tolist()))


@pytest.fixture(scope="module")
def saved_on_eight(tmp_path_factory):
    """A workdir saved by a process with eight devices, and its weights: (workdir, {path: array})."""
    folder = tmp_path_factory.mktemp("eight")
    workdir, numbers = folder / "run", folder / "numbers.npz"
    environment = os.environ | {"PYTHONPATH": WITH_TESTS}
    subprocess.run([sys.executable, "-c", SAVE_ON_EIGHT, str(workdir), str(numbers)], env=environment, check=True)
    with np.load(numbers) as file:
        return workdir, dict(file)


@pytest.fixture(scope="module")
def restored(repo, saved_on_eight, tmp_path_factory):
    """restore.ipynb, run on one device, first with nothing to open: its `notebook`, the cell that found `nothing`,
    the weights of its `model`, and `mine`, those of its five-class model.
    """
    folder = tmp_path_factory.mktemp("restore")
    notebook = read(repo, "restore")
    notebook.cells.append(nbformat.v4.new_code_cell(DUMP))
    then = f"{SMALL}\nos.environ['DDRNET_CHECKPOINT'] = {str(saved_on_eight[0])!r}"
    with pytest.MonkeyPatch.context() as patch:
        nothing = execute_after_nothing(notebook, then, folder, patch)
    with np.load(folder / "restored.npz") as model, np.load(folder / "mine.npz") as mine:
        return SimpleNamespace(notebook=notebook, nothing=nothing, folder=folder, model=dict(model), mine=dict(mine))


def test_what_eight_devices_saved_is_restored_on_one_bit_for_bit(restored, saved_on_eight):
    model, expected = restored.model, saved_on_eight[1]
    assert model.keys() == expected.keys()
    for path, leaf in model.items():
        np.testing.assert_array_equal(leaf, expected[path], strict=True)


def test_the_backbone_alone_moves_to_another_number_of_classes(restored, saved_on_eight):
    mine, expected = restored.mine, saved_on_eight[1]
    heads = ("head.", "aux_head.")
    for path, leaf in mine.items():
        if not path.startswith(heads):
            np.testing.assert_array_equal(leaf, expected[path], strict=True)
    for head in heads:
        assert mine[f"{head}classifier.conv.kernel"].shape[-1] == 5
        assert not np.array_equal(mine[f"{head}hidden.conv.kernel"], expected[f"{head}hidden.conv.kernel"])
    text = printed(restored.notebook)
    assert "holds 9 classes, but the model has 5" in text
    assert "moved 248 tensors" in text  # of 274: a head has 13, two batch norms of 5 and two convolutions, one biased
    assert "fresh: head: left out as asked (the weights have 9 classes, the model 5)" in text
    assert "fresh: aux_head: left out as asked" in text
    assert "the same first kernel: True" in text


def test_restore_shows_predictions_and_the_table(restored):
    (sheet,) = displayed(restored.notebook)
    assert sheet.shape[0] > 3 * 64
    assert sheet.shape[1] > 3 * 64
    assert colors_in(sheet) >= set(SCENES.colors)  # the legend
    lines = printed(restored.notebook).splitlines()
    table = lines[next(i for i, line in enumerate(lines) if line.split()[:2] == ["class", "IoU"]) + 1 :]
    for name, line in zip(SCENES.classes, table, strict=False):
        assert line.startswith(name)
    miou = table[len(SCENES.classes)].split()
    assert miou[0] == "mIoU"
    assert 0 <= float(miou[1]) <= 100


@pytest.fixture(scope="module")
def imported(repo, tmp_path_factory):
    """import_official.ipynb, run on a file as the official code saves it, first without it: its `notebook`, the cell
    that found `nothing`, its `folder`, and the `tensors`.
    """
    folder = tmp_path_factory.mktemp("import")
    tensors = parity_fixtures.state_dict("slim_seg")
    as_saved = {f"model.{name}": array for name, array in tensors.items()}
    as_saved["loss.criterion.weight"] = np.ones(19, np.float32)
    weight_files.write_pth(folder / "later.pth", as_saved)
    notebook = read(repo, "import_official")
    then = "os.rename('later.pth', 'best_val_smaller.pth')"
    with pytest.MonkeyPatch.context() as patch:
        nothing = execute_after_nothing(notebook, then, folder, patch, DDRNET_OUTPUT=folder / "out")
    return SimpleNamespace(notebook=notebook, nothing=nothing, folder=folder, tensors=tensors)


def test_an_official_file_is_recognised_and_reported(imported):
    tensors, text = dict(imported.tensors), printed(imported.notebook)
    assert "official: DDRNet-23_slim segmentation, 19 classes, with auxiliary head" in text
    assert "moved 346 tensors; data set of the checkpoint: cityscapes" in text
    assert "not used: loss.criterion.weight: a training loss's own tensor" in text
    digest = hashlib.sha256((imported.folder / "best_val_smaller.pth").read_bytes()).hexdigest()
    assert f"file     sha256 {digest}" in text
    weights = hashlib.sha256()
    for conv, bn in (("conv1.0", "conv1.1"), ("conv1.3", "conv1.4")):  # the same for namings without a bias there
        tensors[f"{bn}.running_mean"] = tensors[f"{bn}.running_mean"] - tensors[f"{conv}.bias"]
    for name, array in sorted(tensors.items()):
        if not name.endswith(("num_batches_tracked", "conv1.0.bias", "conv1.3.bias")):
            weights.update(name.encode() + b"\0" + array.astype("<f4").tobytes())
    assert f"weights  sha256 {weights.hexdigest()}" in text
    assert "logits on the fixed input: mean" in text


def test_an_official_file_predicts(imported):
    (picture,) = displayed(imported.notebook)
    assert picture.shape[0] > 256
    assert picture.shape[1] == 2 * 512
    assert colors_in(picture) >= set(CITYSCAPES.colors)  # the legend


def test_an_official_file_goes_out_as_it_came(imported):
    assert "the same weights: True" in printed(imported.notebook)
    written = weight_files.read_tensors(imported.folder / "out" / "ddrnet.safetensors")
    assert written.keys() == imported.tensors.keys()
    for name, array in imported.tensors.items():
        np.testing.assert_array_equal(written[name], array)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ("restored", "no checkpoint here; expected a workdir or one step's directory\nTrain one with `make demo`"),
        ("imported", "no such file.\nThe table of public weights in docs/weights.md"),
    ],
    ids=NOTEBOOKS,
)
def test_nothing_to_open_is_one_clear_message(request, made, message):
    made = request.getfixturevalue(made)
    (error,) = [output for output in made.nothing.outputs if output.output_type == "error"]
    assert error.ename == "SystemExit"
    assert message in error.evalue
    assert str(made.folder) in error.evalue
    assert "Cell In" not in "".join(error.traceback)  # the message alone, no lines of code
    assert "ddrnet_jax" not in "".join(error.traceback)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_committed_notebooks_hold_no_outputs(repo, name):
    notebook = read(repo, name)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


def test_every_notebook_is_tested(repo):
    assert {path.stem for path in (repo / "notebooks").glob("*.ipynb")} == set(NOTEBOOKS)
