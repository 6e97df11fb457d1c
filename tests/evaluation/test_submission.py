"""The test server's zip: its names, sizes and label ids; and that its own script counts in it what we count."""

import dataclasses
import math
import os
import zipfile

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ddrnet_jax import build
from ddrnet_jax import config as config_lib
from ddrnet_jax import main as main_lib
from ddrnet_jax.config import ConfigError
from ddrnet_jax.config import files as config_files
from ddrnet_jax.data import decode
from ddrnet_jax.data.errors import DataError
from ddrnet_jax.data.sets import known
from ddrnet_jax.data.sets.cityscapes import SPEC as CITYSCAPES
from ddrnet_jax.data.sets.specs import HiddenTest
from ddrnet_jax.evaluation import metrics, submission
from ddrnet_jax.evaluation.submission import SubmissionError
from ddrnet_jax.evaluation.views import View, averaged_logits
from ddrnet_jax.models import variables
from ddrnet_jax.outputs import RECORD, OutputError, Outputs
from ddrnet_jax.runs import checkpoints
from ddrnet_jax.runtime import compilation
from ddrnet_jax.weights import loading

SIZE_HW = (32, 64)
NAMES = [
    *(f"berlin_{i:06d}_000019_leftImg8bit.png" for i in range(3)),
    *(f"bonn_{i:06d}_000019_leftImg8bit.png" for i in range(2)),
]
# By train id, apart from the tables of the package.
LABEL_IDS = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
RNG = np.random.default_rng(0)


@pytest.fixture
def small_split(monkeypatch):
    """A test split of five small images in place of 1525 large ones."""
    small = dataclasses.replace(CITYSCAPES, hidden_test=HiddenTest("test", len(NAMES), SIZE_HW))
    monkeypatch.setitem(known.SPECS, "cityscapes", small)


@pytest.fixture
def root(tmp_path):
    for name in NAMES:
        folder = tmp_path / "cityscapes/leftImg8bit/test" / name.split("_")[0]
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / name), RNG.integers(0, 256, (*SIZE_HW, 3), dtype=np.uint8))
    (folder / ".DS_Store").write_text("")
    return tmp_path / "cityscapes"


def make_config(root, **changes):
    config = config_lib.base()
    config.data.name, config.data.root, config.model.aux_head = "cityscapes", str(root), False
    config.update_from_flattened_dict(changes)
    return config


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Random weights that predict several classes."""
    return save_random_weights(tmp_path_factory.mktemp("run") / "weights", make_config(""))


def save_random_weights(folder, config):
    abstract = nnx.eval_shape(lambda: build.experiment(config).network(nnx.Rngs(0)))
    _, params, batch_stats = variables.split(abstract)
    params = jax.tree.map(
        lambda a: RNG.normal(0, np.sqrt(2 / np.prod(a.shape[:-1])), a.shape).astype(np.float32), params
    )
    batch_stats = jax.tree.map(lambda a: RNG.uniform(0.5, 1, a.shape).astype(np.float32), batch_stats)
    checkpoints.save_weights(folder, params, batch_stats, config_files.to_json(config))
    return folder


def test_the_zip_holds_what_evaluation_predicts_as_label_ids(root, small_split, checkpoint, tmp_path, capsys):
    config_file = tmp_path / "mine.py"
    config_file.write_text(
        "from ddrnet_jax.config import base\n"
        "def get_config():\n"
        "    config = base()\n"
        "    config.data.name = 'cityscapes'\n"
        "    config.eval.flip = True\n"
        "    config.eval.tile_hw = (32, 32)\n"
        "    return config\n"
    )
    output = tmp_path / "new/mine.zip"
    flags = ["--mode", "submit", "--config", config_file, f"--config.data.root={root}"]
    code = main_lib.main([str(f) for f in [*flags, "--checkpoint", checkpoint, "--output", output]])
    out, err = capsys.readouterr()
    assert code == 0, err
    assert out.startswith(f"5 predictions are in {output}")
    assert sorted(os.listdir(output.parent)) == [RECORD, "mine.zip"]

    model, _ = loading.load_checkpoint(checkpoint)
    graphdef, *weights = variables.split(model)
    logits = jax.jit(
        lambda w, images: averaged_logits(variables.merge(graphdef, *w), images, View(flip=True, tile_hw=(32, 32))),
        compiler_options=compilation.options(),
    )
    images = np.stack([cv2.imread(str(root / "leftImg8bit/test" / n.split("_")[0] / n))[..., ::-1] for n in NAMES])
    expected = np.asarray(logits(weights, images)).argmax(-1)
    assert len(np.unique(expected)) > 1
    with zipfile.ZipFile(output) as archive:
        assert archive.namelist() == NAMES
        for name, ids in zip(NAMES, expected, strict=True):
            mask = cv2.imdecode(np.frombuffer(archive.read(name), np.uint8), cv2.IMREAD_UNCHANGED)
            assert (mask.dtype, mask.shape) == (np.uint8, SIZE_HW)
            np.testing.assert_array_equal(mask, np.array(LABEL_IDS)[ids])


def submit(config, checkpoint="nowhere", output="x.zip"):
    return submission.submit(build.experiment(config), checkpoint, output)


def test_another_data_set_or_other_images_are_refused_before_the_checkpoint_is_read(root, small_split, tmp_path):
    with pytest.raises(ConfigError, match="data.name: 'camvid' given, expected 'cityscapes'"):
        submit(make_config(root, **{"data.name": "camvid"}))
    with pytest.raises(ConfigError, match="storage='array_record' given, expected the folder with leftImg8bit/test"):
        submit(make_config(root, **{"data.storage": "array_record"}))
    with pytest.raises(SubmissionError, match="--output x: expected the name of a file that ends in .zip"):
        submit(make_config(root), output="x")
    with pytest.raises(checkpoints.CheckpointError, match="nowhere: no checkpoint here"):
        submit(make_config(root))
    with pytest.raises(DataError, match="leftImg8bit/test: no such folder, expected the cities"):
        submit(make_config(tmp_path))

    images = root / "leftImg8bit/test"
    cv2.imwrite(str(images / "bonn" / NAMES[-1]), np.zeros((32, 63, 3), np.uint8))
    with pytest.raises(DataError, match=f"{NAMES[-1]}: 63x32, expected 64x32"):
        submit(make_config(root))
    (images / "bonn" / NAMES[-1]).write_text("")
    with pytest.raises(DataError, match=f"{NAMES[-1]}: no PNG, expected 64x32"):
        submit(make_config(root))
    (images / "bonn" / NAMES[-1]).unlink()
    with pytest.raises(DataError, match="test: has 4 images, the test split has 5; unzip leftImg8bit_trainvaltest.zip"):
        submit(make_config(root))
    (images / "bonn" / NAMES[0]).write_bytes((images / "berlin" / NAMES[0]).read_bytes())
    with pytest.raises(DataError, match=f"{NAMES[0]}: expected CITY_SEQUENCE_FRAME_leftImg8bit.png, each once"):
        submit(make_config(root))


def test_cityscapes_has_1525_test_images_of_1024x2048(root):
    assert CITYSCAPES.hidden_test == HiddenTest("test", images=1525, size_hw=(1024, 2048))
    with pytest.raises(DataError, match="has 5 images, the test split has 1525"):
        submit(make_config(root))


def test_a_truncated_image_leaves_no_zip(root, small_split, checkpoint, tmp_path):
    path = root / "leftImg8bit/test/berlin" / NAMES[0]
    path.write_bytes(path.read_bytes()[:-20])
    output = tmp_path / "out/x.zip"
    Outputs(output.parent).write("x.zip", b"the one before")
    with pytest.raises(DataError, match=f"{NAMES[0]}: truncated PNG"):
        submit(make_config(root), checkpoint, output)
    assert output.read_text() == "the one before"
    assert sorted(os.listdir(output.parent)) == [RECORD, "x.zip"]


def test_a_zip_of_the_users_is_refused_before_the_checkpoint_is_read(root, small_split, tmp_path):
    (tmp_path / "x.zip").write_text("leftImg8bit")
    with pytest.raises(OutputError, match=r"x\.zip: is not of this program"):
        submit(make_config(root), tmp_path / "no checkpoint", tmp_path / "x.zip")
    assert (tmp_path / "x.zip").read_text() == "leftImg8bit"


def test_the_checkpoint_is_of_cityscapes(root, small_split, tmp_path):
    config = make_config(root, **{"data.name": "camvid"})
    camvid = save_random_weights(tmp_path / "camvid", config)
    with pytest.raises(checkpoints.CheckpointError, match="trained on 11 classes of 'camvid', but .* 'cityscapes' has"):
        submit(make_config(root), camvid)


def masks():
    return {name: RNG.choice(LABEL_IDS, SIZE_HW).astype(np.uint8) for name in NAMES}


def write(output, given, sizes_hw=None):
    submission.write(output, given, sizes_hw or dict.fromkeys(NAMES, SIZE_HW), set(LABEL_IDS))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda m: m.pop(NAMES[1]), f"has 4 files, expected 5; it has no prediction of {NAMES[1]}"),
        (lambda m: m.update(extra=m[NAMES[0]]), "has 6 files, expected 5; it has extra, which is no test image"),
        (lambda m: m.update({NAMES[2]: m[NAMES[2]][:, :-1]}), rf"{NAMES[2]}: 63x32 \(WxH\), but its image is 64x32"),
        (lambda m: m[NAMES[3]].put(7, 18), f"{NAMES[3]}: has the value 18, which is no label id that is evaluated"),
        (lambda m: m[NAMES[3]].put(7, 255), f"{NAMES[3]}: has the value 255"),
        (lambda m: m[NAMES[3]].put(7, 0), f"{NAMES[3]}: has the value 0"),
        (lambda m: m.update({NAMES[0]: np.dstack([m[NAMES[0]]] * 3)}), f"{NAMES[0]}: not an 8-bit PNG of one channel"),
        (lambda m: m.update({NAMES[0]: m[NAMES[0]].astype(np.uint16)}), f"{NAMES[0]}: not an 8-bit PNG"),
    ],
)
def test_a_zip_that_the_server_would_not_take_is_not_written(spoil, message, tmp_path):
    given = masks()
    write(tmp_path / "sound.zip", given.items())
    spoil(given)
    with pytest.raises(SubmissionError, match=message) as caught:
        write(tmp_path / "x.zip", given.items())
    assert "\n" not in str(caught.value)
    assert sorted(os.listdir(tmp_path)) == [RECORD, "sound.zip"]


def test_a_zip_with_a_prediction_twice_or_damaged_is_refused(tmp_path):
    given = list(masks().items())
    with (
        pytest.warns(UserWarning, match="Duplicate name"),
        pytest.raises(SubmissionError, match="has 6 files, expected 5; it has .*, which is .* or there twice"),
    ):
        write(tmp_path / "x.zip", [*given, given[0]])
    write(tmp_path / "x.zip", given)
    data = bytearray((tmp_path / "x.zip").read_bytes())
    data[data.index(b"IDAT") + 50] ^= 1
    (tmp_path / "x.zip").write_bytes(data)
    with pytest.raises(SubmissionError, match="the zip cannot be read again .*CRC"):
        submission.validate(tmp_path / "x.zip", dict.fromkeys(NAMES, SIZE_HW), set(LABEL_IDS))
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="--output .*file/x.zip: cannot be written"):
        write(tmp_path / "file/x.zip", given)


def test_label_ids_are_those_of_the_release():
    assert submission.label_values(CITYSCAPES).tolist() == LABEL_IDS


def test_the_scripts_of_cityscapes_count_what_we_count(tmp_path, monkeypatch):
    """Absent classes, classes never labelled or never predicted, every ignored id: the server's scores are ours."""
    evaluation = pytest.importorskip(
        "cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling",
        reason="the scripts of Cityscapes are in the dev extra: pip install cityscapesscripts",
    )
    labelled = [i for i in range(34) if i not in (31, 28, 12)]  # no train, bus and wall
    predicted = [i for i in LABEL_IDS if i not in (31, 28, 33)]  # no train and bus; bicycles are never found
    truth, ours, paths = {}, {}, []
    for name in NAMES:
        truth[name] = RNG.choice(labelled, SIZE_HW).astype(np.uint8)
        is_hit = (RNG.random(SIZE_HW) < 0.5) & np.isin(truth[name], predicted)
        ours[name] = np.where(is_hit, truth[name], RNG.choice(predicted, SIZE_HW)).astype(np.uint8)
        ours[name][truth[name] == 3] = 28  # buses, but only where nothing counts
        path = tmp_path / "gtFine" / name.replace("leftImg8bit", "gtFine_labelIds")
        path.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path), truth[name])
        paths.append(str(path))
    write(tmp_path / "x.zip", ours.items())
    with zipfile.ZipFile(tmp_path / "x.zip") as archive:
        archive.extractall(tmp_path / "results")
    monkeypatch.setenv("CITYSCAPES_RESULTS", str(tmp_path / "results"))
    arguments = evaluation.args
    arguments.evalInstLevelScore, arguments.JSONOutput, arguments.quiet = False, False, True
    arguments.predictionPath = arguments.predictionWalk = None
    theirs = evaluation.evaluateImgLists([evaluation.getPrediction(arguments, p) for p in paths], paths, arguments)

    counts = np.zeros((19, 19), np.int64)
    for path, mask in zip(paths, ours.values(), strict=True):
        with open(path, "rb") as file:
            ids = decode.decode_label(file.read(), path, CITYSCAPES)
        train_ids = np.array([LABEL_IDS.index(v) for v in mask.ravel()]).reshape(SIZE_HW)
        counts += np.asarray(metrics.confusion(jnp.asarray(ids.astype(np.int32)), jnp.asarray(train_ids), 19))
    scores = metrics.scores(counts)
    per_class = [theirs["classScores"][name] for name in CITYSCAPES.classes]
    np.testing.assert_array_equal(scores.iou, per_class)
    assert scores.miou == pytest.approx(theirs["averageScoreClasses"], abs=1e-15)
    by_name = dict(zip(CITYSCAPES.classes, per_class, strict=True))
    assert [name for name, iou in by_name.items() if math.isnan(iou)] == ["bus", "train"]
    assert [name for name, iou in by_name.items() if iou == 0] == ["wall", "bicycle"]
