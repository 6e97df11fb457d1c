"""Config files, overrides, and one clear line for every mistake."""

import os
import subprocess
import sys

import pytest

from ddrnet_jax import config as config_lib
from ddrnet_jax.config import ConfigError
from ddrnet_jax.config import files as config_files
from ddrnet_jax.models.variants import VARIANTS, Variant


def write(tmp_path, body, name="mine.py"):
    path = tmp_path / name
    path.write_text("from ddrnet_jax.config import base\ndef get_config(size='64'):\n    config = base()\n")
    with path.open("a") as file:
        file.writelines(f"    {line}\n" for line in body)
        file.write("    return config\n")
    return str(path)


def test_overrides_arguments_and_json_round_trip(tmp_path):
    path = write(tmp_path, ["config.data.crop_hw = (int(size), 128)"])
    config = config_files.load(
        path + ":96",
        ["optimizer.learning_rate=1", "eval.size_hw=(64, 128)", "model.variant=39", "data.flip=false", "ema_decay=.5"],
    )
    assert config.data.crop_hw == (96, 128)
    assert config.optimizer.learning_rate == 1.0
    assert config.eval.size_hw == (64, 128)
    assert config.model.variant == "39"
    assert config.data.flip is False
    values = config_files.to_json(config)
    again = config_files.from_json(values)
    assert again.to_dict() == config.to_dict()
    assert config_files.changed_keys(values, config_files.to_json(again)) == []


def test_only_free_keys_may_change():
    old, new = config_lib.base(), config_lib.base()
    new.eval.every_steps = 1
    new.checkpoint.keep = 9
    new.log_every_steps = 3
    new.trackers = ("mlflow",)
    new.data.root = "elsewhere"
    new.data.num_threads = 9
    new.model.remat = False
    assert config_files.changed_keys(config_files.to_json(old), config_files.to_json(new)) == []
    new.seed = 5
    new.data.flip = False
    changed = config_files.changed_keys(config_files.to_json(old), config_files.to_json(new))
    assert changed == ["data.flip: True -> False", "seed: 0 -> 5"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.learing_rate=0.1", "optimizer.learing_rate: unknown key; did you mean 'learning_rate'"),
        ("optimiser.learning_rate=0.1", "unknown key; did you mean 'optimizer'"),
        ("batch_size", "expected --config.KEY=VALUE"),
        ("batch_size=many", "batch_size=many: expected an integer, like 12"),
        ("batch_size=2.5", "batch_size=2.5: expected an integer"),
        ("batch_size=0", "batch_size: 0 given, expected at least 1"),
        ("batch_size=1", "at least 2: the global branch"),
        ("batch_size=True", "batch_size"),
        ("trackers=('wandb', 'wnadb')", "trackers: ('wandb', 'wnadb') given, expected a tuple of 'wandb', 'mlflow'"),
        ("trackers=('wandb', 'wandb')", "each at most once"),
        ("trackers=wandb", "trackers=wandb: expected a tuple"),
        ("total_steps=-5", "total_steps: -5 given, expected at least 1"),
        ("data.crop_hw=0", "data.crop_hw=0: expected a tuple"),
        ("data.crop_hw=(0, 0)", "data.crop_hw: (0, 0) given, expected two multiples of 8"),
        ("data.crop_hw=(100, 100)", "expected two multiples of 8"),
        ("data.crop_hw=(64.0, 64)", "data.crop_hw"),
        ("data.crop_hw=('a', 64)", "data.crop_hw"),
        ("data.scale_range=(2.0, 0.5)", "0 < low <= high"),
        ("data.scale_range=()", "0 < low <= high"),
        ("data.flip=maybe", "data.flip=maybe: expected True or False"),
        ("data=3", "is a group of keys"),
        ("data.name=cityscape", "data.name: 'cityscape' given, expected one of"),
        ("data.name=imagenet", "task: 'segmentation' given, expected 'classification' for data.name='imagenet'"),
        ("task=classification", "model.aux_head: True given, expected False: a classifier has no auxiliary head"),
        ("data.area_range=(0.5, 1.5)", "data.area_range: (0.5, 1.5) given, expected (low, high), 0 < low <= high <= 1"),
        ("init_head=new", "init_head: 'new' given, expected one of 'load', 'fresh'"),
        ("model.variant=40", "'40' given, expected one of '23_slim', '23', '39'"),
        ("model.dtype=float16", "expected one of 'float32', 'bfloat16'"),
        ("loss.name=dice", "expected one of 'cross_entropy', 'ohem'"),
        ("loss.ohem_threshold=1.5", "between 0 and 1"),
        ("loss.edge_weight=2", "loss.edge_weight: 2.0 given, expected between 0 and 1"),
        ("loss.edge_size=4", "loss.edge_size: 4 given, expected an odd number of pixels"),
        ("loss.dice_weight=-1", "loss.dice_weight: -1.0 given, expected at least 0"),
        ("optimizer.trunk_lr_factor=-0.1", "optimizer.trunk_lr_factor: -0.1 given, expected at least 0"),
        ("optimizer.decay_norms_and_biases=1", "expected True or False"),
        ("optimizer.accumulate_steps=0", "accumulate_steps: 0 given, expected at least 1, in equal parts of 2 or more"),
        ("optimizer.accumulate_steps=5", "images of batch_size=12"),
        ("optimizer.accumulate_steps=12", "in equal parts of 2 or more images of batch_size=12"),
        ("optimizer.learning_rate=nan", "learning_rate"),
        ("optimizer.learning_rate=-1", "above 0"),
        ("optimizer.warmup_steps=500000", "below total_steps"),
        ("ema_decay=1", "below 1"),
        ("seed=-1", "seed: -1 given, expected at least 0"),
        ("optimizer.learning_rate=1e400", "learning_rate: inf given, expected finite numbers"),
        ("data.scale_range=(0.5, 1e400)", "scale_range: (0.5, inf) given, expected finite numbers"),
        ("optimizer.step_fractions=(0.6, 0.3)", "increasing fractions between 0 and 1"),
        ("optimizer.step_fractions=(2.0,)", "increasing fractions between 0 and 1"),
        ("eval.scales=()", "one or more scales"),
        ("eval.average=mean", "eval.average: 'mean' given, expected one of 'logits', 'probabilities'"),
        ("data.colour=(0.1, 0.5, 0.5)", "data.colour: (0.1, 0.5, 0.5) given, expected () or four ranges"),
        ("data.colour=(0.1, -0.5, 0.5, 0.1)", "expected () or four ranges from 0 to 1"),
        ("data.colour=(0.1, 0.5, 1.5, 0.1)", "expected () or four ranges from 0 to 1"),
        ("data.colour=('red', 0, 0, 0)", "expected () or four ranges from 0 to 1"),
        ("loss.class_weights=often", "loss.class_weights=often: expected True or False or 'auto', like False"),
        ("data.max_class_share=0.0", "data.max_class_share: 0.0 given, expected above 0 and at most 1"),
        ("data.rare_class_share=1.5", "data.rare_class_share: 1.5 given, expected between 0 and 1"),
        ("data.pseudo_share=1.0", "data.pseudo_share: 1.0 given, expected above 0 and below 1"),
        ("distill.temperature=0.0", "distill.temperature: 0.0 given, expected above 0"),
        ("optimizer.name=adam", "optimizer.name: 'adam' given, expected one of 'sgd', 'adamw', 'muon'"),
        ("eval.size_hw=12", "eval.size_hw"),
    ],
)
def test_wrong_overrides_are_named(tmp_path, override, message):
    path = write(tmp_path, [])
    with pytest.raises(ConfigError) as caught:
        config_files.load(path, [override])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("given", [True, False, "auto"])
def test_class_weights_are_a_word_or_a_truth_value(tmp_path, given):
    path = write(tmp_path, [f"config.loss.class_weights = {given!r}"])
    assert config_files.load(path).loss.class_weights == given
    for before in (False, "auto"):
        path = write(tmp_path, [f"config.loss.class_weights = {before!r}"])
        overridden = config_files.load(path, [f"loss.class_weights={given}"])
        assert overridden.loss.class_weights == given
    assert config_files.from_json(config_files.to_json(overridden)).loss.class_weights == given


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["config.loss.class_weights = 'median'"], "expected True or False or 'auto'"),
        (["config.data.crop = (64, 64)"], "mine.py, line 4: "),
        (["config.batch_size = 'many'"], "mine.py, line 4: "),
        (["x = 1", "raise RuntimeError('no disk')"], "mine.py, line 5: no disk"),
        (["config = 3"], "returned int, expected a ConfigDict"),
        (["config.x ="], "mine.py, line 4: invalid syntax"),
        (["config.unlock()", "config.surprise = 1"], "config.surprise: unknown key"),
        (["config.unlock()", "del config.seed"], "config.seed: missing"),
        (["config.eval.scales = ('big',)"], "config.eval.scales"),
        (["config.data.classes = 'road'"], "mine.py, line 4"),
    ],
)
def test_wrong_files_are_named_with_their_line(tmp_path, lines, message):
    path = write(tmp_path, lines)
    with pytest.raises(ConfigError) as caught:
        config_files.load(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("loss.name=ohem", "loss.name: 'ohem' given, expected 'cross_entropy'"),
        ("loss.class_weights=True", "loss.class_weights: True given, expected False"),
        ("eval.scales=(1.0, 2.0)", "eval.scales: (1.0, 2.0) given, expected (1.0,)"),
        ("eval.flip=True", "eval.flip: True given, expected False"),
        ("data.name=camvid", "task: 'classification' given, expected 'segmentation' for data.name='camvid'"),
    ],
)
def test_what_a_classifier_cannot_have_is_named(tmp_path, override, message):
    lines = ["config.task = 'classification'", "config.model.aux_head = False", "config.loss.name = 'cross_entropy'"]
    path = write(tmp_path, lines)
    assert config_files.load(path, ["data.name=imagenet"]).task == config_files.load(path).task == "classification"
    with pytest.raises(ConfigError) as caught:
        config_files.load(path, [override])
    assert message in str(caught.value)


def test_the_imagenet_recipes(repo):
    paper, long = (config_files.load(str(repo / "configs" / f"imagenet.py{recipe}")) for recipe in ("", ":long"))
    assert paper.total_steps * paper.batch_size == pytest.approx(100 * 1_281_167, rel=1e-3)
    assert long.total_steps == 3 * paper.total_steps
    assert (paper.optimizer.schedule, long.optimizer.schedule) == ("step", "cosine")
    with pytest.raises(ConfigError, match=r"imagenet.py, line \d+: recipe 'timm' given, expected 'paper' or 'long'"):
        config_files.load(str(repo / "configs" / "imagenet.py:timm"))


def test_missing_file_and_missing_function(tmp_path):
    with pytest.raises(ConfigError, match="nothere.py: no such file"):
        config_files.load(str(tmp_path / "nothere.py"))
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(ConfigError, match=r"empty.py: defines no get_config\(\)"):
        config_files.load(str(tmp_path / "empty.py"))


def test_the_configs_of_the_repository_are_valid(repo, tmp_path):
    files = sorted((repo / "configs").glob("*.py"))
    assert {"demo.py", "camvid_small.py", "folder.py"} <= {f.name for f in files}
    for file in files:
        config = config_files.load(str(file))
        assert "python -m ddrnet_jax.main" in file.read_text()
        assert config.total_steps > 0


def test_configs_load_no_jax():
    """So that a wrong key or value is answered at once."""
    code = "import sys, ddrnet_jax.config.files; print({'jax', 'flax', 'orbax', 'cv2', 'grain'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200, check=True)
    assert done.stdout.strip() == "set()"


def test_a_line_in_the_table_is_all_that_a_config_of_a_new_variant_needs(monkeypatch):
    config = config_lib.base()
    config.model.variant = "24"
    with pytest.raises(ConfigError, match="model.variant: '24' given, expected one of '23_slim', '23', '39'$"):
        config_lib.validate(config)
    monkeypatch.setitem(VARIANTS, "24", Variant(8, 1, 1, 1, 1, 1, head_width=8, last_width=8))
    config_lib.validate(config)


@pytest.mark.parametrize(
    ("head", "encoding"),
    [("", "utf-8"), ("\ufeff", "utf-8"), ("# -*- coding: latin-1 -*-\n", "latin-1"), ("# coding: cp1252\n", "cp1252")],
    ids=["UTF-8", "byte order mark", "latin-1", "cp1252"],
)
def test_python_s_own_rules_say_how_a_config_is_encoded(tmp_path, head, encoding):
    path = write(tmp_path, ["config.data.root = 'straße'"])
    text = head + (tmp_path / "mine.py").read_text("utf-8")
    (tmp_path / "mine.py").write_bytes(text.encode(encoding))
    assert config_files.load(path).data.root == "straße"


def test_a_config_is_read_as_utf_8_under_an_ascii_locale(tmp_path):
    path = write(tmp_path, ["config.data.root = 'straße'"])
    code = f"from ddrnet_jax.config import files; print(ascii(files.load({path!r}).data.root))"
    environment = os.environ | {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == r"'stra\xdfe'", done.stderr


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("raise BaseException('enough')", "line 4: BaseException enough"),
        ("raise GeneratorExit", "line 4: GeneratorExit"),
        ("raise type('E', (Exception,), {'__str__': lambda self: 1 / 0})", "line 4: E"),
        ("raise type('E', (Exception,), {'__str__': lambda self: exit()})", "line 4: E"),
        ("import sys; sys.exit(0)", "line 4: SystemExit 0"),
        ("config.batch_size = None", "config.batch_size: None given, expected an integer"),
        ("config.batch_size = 10**5000", "config.batch_size: a int given, expected finite numbers below 1e+15"),
        ("config.data.root = 'a' + chr(0)", "config.data.root: 'a\\x00' given, expected finite numbers below 1e+15"),
        ("config.data.scale_range = (0.5, float('nan'))", "config.data.scale_range: (0.5, nan) given, expected finite"),
    ],
)
def test_whatever_a_config_does_it_ends_in_one_line(tmp_path, line, message):
    with pytest.raises(ConfigError) as caught:
        config_files.load(write(tmp_path, [line]))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("digits", [30, 400, 5000])
def test_numbers_that_nothing_holds_are_refused(tmp_path, digits):
    path, number = write(tmp_path, []), "9" * digits
    for key, value in config_files.flatten(config_lib.base().to_dict()).items():
        text = number if isinstance(value, int | float) else f"({number}, {number})"
        if isinstance(value, bool | str):
            continue
        with pytest.raises(ConfigError) as caught:
            config_files.load(path, [f"{key}={text}"])
        assert len(str(caught.value)) < 300, key


def test_sizes_that_no_machine_holds_are_refused(tmp_path):
    path = write(tmp_path, [])
    for key in ("data.scenes_hw", "data.crop_hw", "eval.size_hw", "eval.tile_hw"):
        with pytest.raises(ConfigError, match=key):
            config_files.load(path, [f"{key}=(1000000000, 1000000000)"])
