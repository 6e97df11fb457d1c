"""The command line: what a user can get wrong ends in one clear line; what is right ends in files."""

import json
import shutil

import cv2
import filelock
import numpy as np
import pytest
import tiny
from flax import nnx

from ddrnet_jax import build
from ddrnet_jax import main as main_lib
from ddrnet_jax.cli import commands, flags
from ddrnet_jax.config import files as config_files
from ddrnet_jax.data.check import check
from ddrnet_jax.models import variables
from ddrnet_jax.runs import checkpoints

RNG = np.random.default_rng(0)
CLASSES = ("background", "road", "car")


@pytest.fixture(autouse=True)
def tiny_network(monkeypatch):
    tiny.use(monkeypatch.setattr)


def write_folder(root, count=4, size_hw=(64, 72)):
    """A tiny data set of the user's own: images/{train,val} and labels/{train,val}."""
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for i in range(count):
            label = RNG.integers(0, 3, (size_hw[0] // 8, size_hw[1] // 8), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
            image = (label[..., None] * 80 + RNG.integers(0, 40, (*size_hw, 3))).astype(np.uint8)
            cv2.imwrite(str(root / "images" / split / f"{i}.png"), image)
            cv2.imwrite(str(root / "labels" / split / f"{i}.png"), label)
    return root


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("pristine") / "data")


@pytest.fixture
def data(pristine, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(pristine, tmp_path / "data")


CONFIG = f"""\
from ddrnet_jax.config import base
def get_config():
    config = base()
    config.data.name = 'folder'
    config.data.classes = {CLASSES}
    config.data.crop_hw = (64, 64)
    config.data.scale_range = (1.0, 1.5)
    config.batch_size = 4
    config.total_steps = 4
    config.log_every_steps = 1
    config.loss.name = 'cross_entropy'
    return config
"""


@pytest.fixture
def config_file(tmp_path):
    """A user's own config, outside the repository."""
    path = tmp_path / "mine.py"
    path.write_text(CONFIG)
    return path


@pytest.fixture(scope="module")
def trained(pristine, tmp_path_factory):
    """A workdir of that config, on `pristine`."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "mine.py").write_text(CONFIG)
    flags = ["--config", f"{folder}/mine.py", f"--config.data.root={pristine}", "--workdir", f"{folder}/run"]
    with pytest.MonkeyPatch.context() as patch:
        tiny.use(patch.setattr)
        assert main_lib.main(flags) == 0
    return folder / "run"


def run(capsys, *arguments):
    """(exit code, stdout, stderr) of the command line."""
    code = main_lib.main([str(a) for a in arguments])
    out, err = capsys.readouterr()
    return code, out, err


def assert_one_error(result, *parts):
    """One line on stderr that begins with "error: " and holds every part; nothing was compiled before it."""
    code, _, err = result
    lines = err.strip().splitlines()
    assert code == 1
    assert lines[-1].startswith("error: "), err
    assert "Traceback" not in err
    assert "compiling" not in err
    for part in parts:
        assert str(part) in lines[-1], err


def test_a_networks_own_labels_train_the_next_one(config_file, data, tmp_path, capsys):
    flags = ("--config", config_file, f"--config.data.root={data}", "--config.total_steps=1")
    code, out, err = run(capsys, *flags, "--workdir", tmp_path / "first")
    assert code == 0, err
    made, frames = tmp_path / "made", data / "images" / "val"
    label = ("--mode", "pseudo_label", "--checkpoint", tmp_path / "first", "--input", frames, "--output", made)
    code, out, err = run(capsys, *flags, *label, "--confidence", "0.3", "--config.eval.flip=true")
    assert code == 0, err
    assert [line.split()[0] for line in out.splitlines()[:4]] == [*CLASSES, "all"]
    assert len(list((made / "labels" / "pseudo").iterdir())) == 4
    assert_one_error(run(capsys, *flags, *label), "has files already, none is overwritten; choose a new folder")
    settings = (
        "optimizer.name=adamw",
        "loss.class_weights=auto",
        "data.rare_class_share=0.5",
        f"data.pseudo_root={made}",
    )
    more = [f"--config.{setting}" for setting in settings]
    code, out, err = run(capsys, *flags, *more, "--workdir", tmp_path / "second")
    assert code == 0, err
    assert (tmp_path / "second" / "class_pixels.json").exists()


def test_own_config_from_another_folder_trains_evaluates_and_predicts(config_file, data, tmp_path, capsys, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    flags = ("--config", config_file, f"--config.data.root={data}")
    code, out, err = run(capsys, *flags, "--workdir", "run")
    assert code == 0, err
    assert "mIoU" in out
    workdir = tmp_path / "elsewhere" / "run"
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if "loss" in line]
    assert steps == [1, 2, 3, 4]
    assert {"loss", "learning_rate", "images_per_s", "input_wait"} <= lines[0].keys()
    evaluation = lines[-1]
    assert evaluation["step"] == 4
    assert 0 <= evaluation["val/miou"] <= 1
    assert {f"val/iou/{c}" for c in CLASSES} <= evaluation.keys()
    assert json.loads((workdir / "config.json").read_text())["data"]["crop_hw"] == [64, 64]
    assert any((workdir / "tensorboard").iterdir())
    score = f"{100 * evaluation['val/miou']:.2f} %"
    written = (workdir / "report.html").read_text()
    assert f"<b>{score}</b>" in written
    assert f"--config {config_file}" in written  # the command
    assert written.count("<img") == 4 * 4  # of four images
    (workdir / "report.html").unlink()
    code, out, err = run(capsys, "--mode", "report", "--workdir", workdir, "--compare", workdir / "checkpoints" / "4")
    assert code == 0, err
    assert str(workdir / "report.html") in out
    written = (workdir / "report.html").read_text()
    assert written.count(f"<td>{score}</td><td>{score}</td>") == 1
    assert written.count(f"--config {config_file}") == 2

    # Without the data the report shows what training has written down, and says so; a given config has to fit.
    data.rename(tmp_path / "away")
    code, out, err = run(capsys, "--mode", "report", "--workdir", workdir, "--output", "out.html")
    assert code == 0, err
    assert "warning: Not evaluated for this report: " in err
    written = (tmp_path / "elsewhere" / "out.html").read_text()
    assert "Not evaluated for this report: " in written
    assert f"<b>{score}</b>" in written
    assert "<img" not in written
    assert_one_error(run(capsys, *flags, "--mode", "report", "--workdir", workdir), data)
    (tmp_path / "away").rename(data)
    assert_one_error(run(capsys, "--mode", "report"), "--mode report needs --checkpoint")
    assert_one_error(run(capsys, "--mode", "report", "--workdir", tmp_path), tmp_path, "no workdir of a run here")

    code, out, err = run(capsys, *flags, "--mode", "evaluate", "--checkpoint", workdir)
    assert code == 0, err
    assert f"{100 * evaluation['val/miou']:.2f}" in out.splitlines()[-1]

    code, out, err = run(
        capsys, "--mode", "predict", "--checkpoint", workdir, "--input", data / "images/val", "--output", "out"
    )
    assert code == 0, err
    for i in range(4):
        mask = cv2.imread(f"out/masks/{i}.png", cv2.IMREAD_UNCHANGED)
        assert mask.shape == (64, 72)
        assert mask.dtype == np.uint8
        assert mask.max() < 3
        assert cv2.imread(f"out/overlays/{i}.png").shape == (64, 72, 3)
    code, out, err = run(capsys, "--mode", "predict", "--checkpoint", workdir, "--output", "held_out")
    assert code == 0, err
    assert cv2.imread("held_out/samples.png") is not None

    # The network is the checkpoint's: a config of another says so, and changes nothing.
    code, out, err = run(capsys, *flags, "--mode", "evaluate", "--checkpoint", workdir, "--config.model.variant=39")
    assert code == 0, err
    assert f"{100 * evaluation['val/miou']:.2f}" in out.splitlines()[-1]
    assert (
        "warning: the checkpoint's network is used, model.variant='23_slim'; the config has model.variant='39'" in err
    )

    # The same workdir under another config is refused, and a finished run runs again without training.
    assert_one_error(run(capsys, *flags, "--workdir", "run", "--config.seed=7"), "seed: 0 -> 7", "another --workdir")
    (workdir / "report.html").write_text("a page of the user's")
    code, out, err = run(capsys, *flags, "--workdir", "run")
    assert code == 0, err
    assert "compiling the training step" not in err
    assert "report.html is not written" in err
    road = "to train longer, start from its weights: --config.init_from=run and another --workdir"
    assert f"the run is complete; {road}" in err
    longer = run(capsys, *flags, "--workdir", "run", "--config.total_steps=40")
    assert_one_error(longer, "total_steps: ", "-> 40", f"so a run keeps its length; {road}")

    # Weights of three classes do not fit four.
    four = "--config.data.classes=('a', 'b', 'c', 'd')"
    assert_one_error(run(capsys, *flags, four, "--mode", "evaluate", "--checkpoint", workdir), "3 classes", "has 4")


def test_weights_of_three_classes_do_not_start_a_network_of_four(config_file, pristine, tmp_path, capsys, monkeypatch):
    monkeypatch.undo()  # the real network
    ours = config_files.load(str(config_file))
    ours.data.classes, weights = ("x", "y", "z"), tmp_path / "weights"
    model = build.experiment(ours).network(nnx.Rngs(0))
    checkpoints.save_weights(weights, *variables.split(model)[1:], config_files.to_json(ours))
    flags = ("--config", config_file, f"--config.data.root={pristine}", "--config.data.classes=('a', 'b', 'c', 'd')")
    assert_one_error(
        run(capsys, *flags, "--workdir", tmp_path / "run", f"--config.init_from={weights}"),
        f"{weights}: holds 3 classes, but the model has 4; --config.init_head=fresh "
        "(fresh_head=True) moves everything but the heads",
    )


def no_label(data):
    (data / "labels/train/2.png").unlink()
    return "images have no label", data / "images/train/2.png"


def label_out_of_range(data):
    path = data / "labels/train/1.png"
    cv2.imwrite(str(path), np.full((64, 72), 3, np.uint8))
    return path, "label value 3 is not one of folder's: 0, 1, 2, 255"


def label_of_another_size(data):
    path = data / "labels/train/3.png"
    cv2.imwrite(str(path), np.zeros((64, 64), np.uint8))
    return path, "64x64 (WxH)", "72x64"


def truncated_image(data):
    path = data / "images/train/0.png"
    path.write_bytes(path.read_bytes()[:-200])
    return path, "truncated PNG"


def truncated_eval_label(data):
    path = data / "labels/val/0.png"
    path.write_bytes(path.read_bytes()[:-5])
    return path, "truncated PNG"


def not_an_image(data):
    path = data / "images/train/1.png"
    path.write_text("hello")
    return path, "not a readable image"


def empty_folder(data):
    for path in (data / "images/train").iterdir():
        path.unlink()
    return data / "images/train", "no images here"


@pytest.mark.parametrize(
    "damage",
    [
        no_label,
        label_out_of_range,
        label_of_another_size,
        truncated_image,
        truncated_eval_label,
        not_an_image,
        empty_folder,
    ],
)
def test_broken_data_is_named_before_training_starts(damage, config_file, data, tmp_path, capsys):
    expected = damage(data)
    result = run(capsys, "--config", config_file, f"--config.data.root={data}", "--workdir", tmp_path / "run")
    assert_one_error(result, *expected)


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["--config.data.root=/no/such/folder"], ["/no/such/folder/images/train: no such folder", "data.root"]),
        (["--config.data.crop=(64, 64)"], ["config.data.crop: unknown key", "did you mean 'crop_hw'"]),
        (["--config.batch_size=many"], ["config.batch_size=many", "expected an integer"]),
        (["--config.batch_size=6"], ["config.batch_size: 6 given, expected a multiple of the 4 devices"]),
        (["--config.total_steps=99999999999"], ["config.total_steps: 99999999999 given, expected below 2**31"]),
        (["--checkpoint", "run"], ["--mode train does not take --checkpoint"]),
        (["--config.batch_size=0"], ["config.batch_size: 0 given, expected at least 1"]),
        (["--config.data.crop_hw=(0, 64)"], ["config.data.crop_hw: (0, 64) given"]),
        (["--config.loss.class_weights=True"], ["has no class weights"]),
        (["--config.init_from=/no/such/run"], ["/no/such/run: no such file; expected a checkpoint's folder, or a"]),
        (["--config.init_head=fresh"], ["config.init_head: 'fresh' given, but config.init_from names no weights"]),
        (["--config.data.root="], ["config.data.root: '' given, expected the folder of the data set"]),
        (["--mode", "import_weights"], ["--mode import_weights needs --input"]),
        (["--mode", "import_weights", "--input", "/no/w.pth", "--output", "o"], ["/no/w.pth: no such file"]),
        (["--mode", "pseudo_label", "--checkpoint", "r", "--output", "o"], ["--mode pseudo_label needs --input"]),
        (
            ["--mode", "pseudo_label", "--confidence", "1.5"],
            ["--confidence 1.5: expected a probability"],
        ),
        (
            ["--config.distill.teacher=/no/such/run"],
            ["config.distill.teacher: /no/such/run: no such file; expected a"],
        ),
        (["--config.data.pseudo_root=/no/such"], ["/no/such/pseudo_labels.json: cannot be read; expected a folder"]),
        (["--mode", "prepare_data"], ["--mode prepare_data needs --output"]),
        (["--mode", "submit", "--checkpoint", "r"], ["--mode submit needs --output"]),
        (
            ["--mode", "submit", "--checkpoint", "r", "--output", "o.zip"],
            ["config.data.name: 'folder' given, expected 'cityscapes'"],
        ),
        (["--config.eval.tile_hw=(60, 64)"], ["config.eval.tile_hw: (60, 64) given, expected None or two multiples"]),
        (["--mode", "export"], ["--mode export takes no --config"]),
        (["--config.data.classes=()"], ["data.classes is empty"]),
        (["--lr=3"], ["unknown argument '--lr=3'"]),
        (["--mode", "fly"], ["argument --mode: invalid choice: 'fly'"]),
        (["--engine"], ["argument --engine: expected one argument"]),
        (["--mode", "evaluate"], ["needs --checkpoint"]),
        (["--mode", "predict"], ["needs --checkpoint"]),
        (["--mode", "evaluate", "--checkpoint", "/no/such/run"], ["/no/such/run: no checkpoint here"]),
    ],
)
def test_wrong_flags_are_named(flags, parts, config_file, pristine, tmp_path, capsys):
    workdir = [] if "--mode" in flags else ["--workdir", tmp_path / "run"]
    result = run(capsys, "--config", config_file, f"--config.data.root={pristine}", *workdir, *flags)
    assert_one_error(result, *parts)


@pytest.mark.parametrize("flag", ["workdir", "checkpoint", "input", "output", "config", "compare", "size", "engines"])
def test_an_empty_text_is_no_value(flag, capsys):
    """As of a shell's variable that is not set: --input "$FILE" would predict something else."""
    assert_one_error(run(capsys, f"--{flag}", "", "--mode", "predict"), f"--{flag}: an empty text given")


@pytest.mark.parametrize("size", ["1000000000000x8", "100000x100000", "9" * 5000 + "x8", "²x8"])
def test_sizes_that_no_network_sees_are_refused(size, capsys):
    flags = ("--mode", "export", "--format", "onnx", "--checkpoint", "run", "--output", "a.onnx", "--size", size)
    assert_one_error(run(capsys, *flags), "--size", "expected")


def test_a_tilde_is_the_users_folder_in_every_path(config_file, pristine, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copytree(pristine, tmp_path / "home_data")
    (tmp_path / "mine.py").write_text(
        config_file.read_text().replace("    return", "    config.data.root = '~/home_data'\n    return")
    )
    flags = ("--mode", "check_data", "--config=~/mine.py", "--output=~/report")
    code, out, err = run(capsys, *flags)
    assert code == 0, out + err
    assert (tmp_path / "report/findings.txt").exists()
    code, out, err = run(capsys, *flags, "--config.data.root=~/home_data")
    assert code == 0, out + err
    flags = ("--mode", "prepare_data", "--config=~/mine.py", "--output=~/records", "--config.data.root=~/nothing")
    assert_one_error(run(capsys, *flags), f"{tmp_path}/nothing/images/train")
    flags = ("--mode", "evaluate", "--config=~/mine.py", "--checkpoint=~/run")
    assert_one_error(run(capsys, *flags), f"{tmp_path}/run: no checkpoint here")
    assert config_files.load(str(tmp_path / "mine.py"), ["init_from=~/w"]).init_from == f"{tmp_path}/w"


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        ("train", "stopped; a training run goes on from its last checkpoint with the same command"),
        ("prepare_data", "stopped; run it again with the same --output, it completes what is missing"),
        ("check_data", "stopped; nothing was written"),
        ("submit", "stopped; no zip was written"),
        ("evaluate", "stopped"),
    ],
)
def test_ctrl_c_says_what_is_left_of_the_mode(mode, said, config_file, capsys, monkeypatch):
    def stop(arguments, overrides):
        raise KeyboardInterrupt

    monkeypatch.setitem(commands.RUN, mode, stop)
    code, _, err = run(capsys, "--mode", mode, "--config", config_file)
    assert code == 130
    assert err.strip() == said


def test_a_workdir_that_cannot_be_written_is_named(config_file, pristine, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    flags = ("--config", config_file, f"--config.data.root={pristine}")
    assert_one_error(run(capsys, *flags, "--workdir", tmp_path / "file" / "run"), "file/run: cannot be written")
    assert_one_error(run(capsys, "--config", "nowhere.py"), "nowhere.py: no such file")
    assert_one_error(run(capsys), "needs --config")
    assert_one_error(run(capsys, "--mode", "predict"), "needs --checkpoint")


def test_a_broken_evaluation_image_costs_no_steps(config_file, data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(check, "QUICK_SAMPLES", 2)  # so that the quick check does not meet it
    label = data / "labels/val/2.png"
    sound = label.read_bytes()
    label.write_bytes(sound[:-5])
    flags = ("--config", config_file, f"--config.data.root={data}", "--workdir", tmp_path / "run")
    code, _, err = run(capsys, *flags)
    assert code == 1
    assert f"error: {label}: truncated PNG" in err.splitlines()[-1]
    assert (tmp_path / "run/checkpoints/4").is_dir()
    label.write_bytes(sound)
    code, out, err = run(capsys, *flags)
    assert code == 0, err
    assert "compiling the training step" not in err
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4]
    (evaluated,) = (line for line in lines if "val/miou" in line)
    assert evaluated["step"] == 4
    # The step that was saved without a score has one now, so it can be the best.
    assert checkpoints.load_weights(tmp_path / "run").miou == pytest.approx(evaluated["val/miou"])


def test_one_run_at_a_time_and_its_config_stays(config_file, pristine, tmp_path, capsys):
    workdir = tmp_path / "run"
    (workdir / "checkpoints/4").mkdir(parents=True)
    flags = ("--config", config_file, f"--config.data.root={pristine}", "--workdir", workdir)
    assert_one_error(run(capsys, *flags), f"{workdir}/config.json: gone, but there are checkpoints")
    (workdir / "checkpoints/4").rmdir()
    with filelock.FileLock(workdir / ".lock"):
        assert_one_error(run(capsys, *flags), f"--workdir {workdir}: another run is writing there")
    (tmp_path / "imported").mkdir()
    (tmp_path / "imported/_CHECKPOINT_METADATA").touch()
    assert_one_error(run(capsys, *flags, "--workdir", tmp_path / "imported"), "is a checkpoint itself")


def test_a_damaged_checkpoint_is_named_on_resume(config_file, pristine, trained, tmp_path, capsys):
    workdir = shutil.copytree(trained, tmp_path / "run")
    flags = ("--config", config_file, f"--config.data.root={pristine}", "--workdir", workdir)
    for path in (workdir / "checkpoints/4/state").rglob("*"):
        if path.is_file() and path.stat().st_size > 10_000:
            path.write_bytes(path.read_bytes()[:1000])
    assert_one_error(run(capsys, *flags), workdir / "checkpoints/4", "can be read", "put back a copy")


def test_predicting_names_what_it_cannot_read_and_still_writes_the_rest(config_file, data, trained, tmp_path, capsys):
    broken = data / "images/val/1.png"
    broken.write_bytes(broken.read_bytes()[:-100])
    flags = ("--mode", "predict", "--checkpoint", trained, "--output", tmp_path / "out")
    code, _, err = run(capsys, *flags, "--input", data / "images/val")
    assert code == 1
    assert "1 of 4 images were left out" in err
    assert f"{broken}: truncated PNG" in err
    assert sorted(p.name for p in (tmp_path / "out/masks").iterdir()) == ["0.png", "2.png", "3.png"]
    assert_one_error(run(capsys, *flags, "--input", tmp_path / "nothing.png"), "nothing.png: no such file or folder")
    (tmp_path / "notes.txt").write_text("x")
    assert_one_error(run(capsys, *flags, "--input", tmp_path / "notes.txt"), "notes.txt: not an image or video")
    held_out = ("--config", config_file, f"--config.data.root={data}")
    both = "--config.data.eval_split=train+val"
    assert_one_error(run(capsys, *flags, *held_out, both), "2 images to predict are called 0")
    four = "--config.data.classes=('a', 'b', 'c', 'd')"
    assert_one_error(run(capsys, *flags, *held_out, four), "trained on 3 classes", "has 4")
    shutil.copy(data / "images/val/0.png", data / "images/val/0.jpg")
    assert_one_error(run(capsys, *flags, "--input", data / "images/val"), "same stem")


def test_a_diverging_run_stops_and_names_the_step(config_file, pristine, tmp_path, capsys):
    workdir = tmp_path / "run"
    code, _, err = run(
        capsys,
        *("--config", config_file, f"--config.data.root={pristine}", "--workdir", workdir),
        *("--config.optimizer.learning_rate=1e14", "--config.total_steps=6", "--config.log_every_steps=3"),
    )
    assert code == 1
    assert "at step 2" in err.splitlines()[-1] or "at step 3" in err.splitlines()[-1]
    assert not list((workdir / "checkpoints").glob("[0-9]*"))


def test_help_is_readable_and_fits_80_columns(capsys):
    with pytest.raises(SystemExit) as caught:
        main_lib.main(["--help"])
    out = capsys.readouterr().out
    assert caught.value.code == 0
    assert max(map(len, out.splitlines())) <= 80
    assert all(mode in out for mode in ("train", "evaluate", "predict"))


@pytest.mark.parametrize("wrong", ["gs://", "gs://runs", "gs://Runs/x", "gs://runs/my run"])
def test_what_is_no_address_in_a_bucket_is_refused_with_its_flag(wrong):
    for mode, name in (
        ("train", "workdir"),
        ("evaluate", "checkpoint"),
        ("report", "compare"),
        ("prepare_data", "output"),
    ):
        with pytest.raises(
            flags.UsageError, match=f"--{name} {wrong}: expected gs://BUCKET/FOLDER, the bucket of small"
        ):
            flags.parse(["--mode", mode, f"--{name}", wrong])


def test_an_address_in_a_bucket_is_written_in_one_way():
    for given in ("gs://runs/a/b", "gs:/runs/a/b", "gs://runs/a/b/"):
        assert flags.parse(["--workdir", given])[0].workdir == "gs://runs/a/b"


def test_only_predict_reads_addresses_and_only_streams(tmp_path, capsys):
    arguments, _ = flags.parse(["--mode", "predict", "--input", "rtsp://camera/1", "--live"])
    assert (arguments.input, arguments.live) == ("rtsp://camera/1", True)
    for mode, address in (("predict", "gs://bucket/a.mp4"), ("pseudo_label", "http://host/a.mp4")):
        with pytest.raises(flags.UsageError, match=f"--input {address}: "):
            flags.parse(["--mode", mode, "--input", address])
    code = main_lib.main(["--mode", "predict", "--checkpoint", str(tmp_path), "--live"])
    assert code == 1
    assert capsys.readouterr().err == ("error: --live: drops frames of a camera or a stream; say which with --input\n")
