"""Every recipe of configs/, with every argument it takes: loads, fits its data set, and says how it is run."""

import ast
import re
from pathlib import Path

import pytest

from ddrnet_jax import build
from ddrnet_jax.config import ConfigError
from ddrnet_jax.config import files as config_files

FILES = sorted((Path(__file__).resolve().parent.parent / "configs").glob("*.py"))


def arguments(file):
    """What the config takes after the colon, as the message on a wrong one lists it."""
    with pytest.raises(ConfigError) as caught:
        config_files.load(f"{file}:no such argument")
    message = str(caught.value)
    if "takes 0 positional arguments" in message:
        return []
    found = re.findall(r"'(\w+)'", message.split("expected")[1])
    assert found, message
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_argument_makes_a_valid_config(file):
    plain = config_files.load(str(file))
    every = [config_files.load(f"{file}:{argument}") for argument in arguments(file)]
    assert not every or plain.to_dict() in [config.to_dict() for config in every], "the default is one of them"
    for config in (plain, *every):
        assert config.init_from == "", "whose file it would be?"
        assert build.dataset_spec(config).num_classes > 1
        build.experiment(config).class_weights()


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_docstring_says_how_to_run_it_and_what_to_expect(file):
    text = ast.get_docstring(ast.parse(file.read_text()))
    assert f"python -m ddrnet_jax.main --config configs/{file.name} " in text
    for argument in arguments(file):
        assert re.search(rf"\b{argument}\b", text), f"{argument} is not described"
    assert re.search(r"mIoU|Top-1", text)
    assert re.search(r"Not run by us|Measured|minutes on 2 CPU cores", text)


def test_what_the_recipes_are_made_of(repo):
    def load(name):
        return config_files.load(str(repo / "configs" / name))

    paper, modern = load("cityscapes.py"), load("cityscapes_modern.py:39")
    assert paper.total_steps == 119_548  # 484 epochs of 247 steps
    assert load("cityscapes.py:39_trainval").data.train_split == "train+val"
    assert modern.model.variant == "39"
    assert modern.optimizer.learning_rate * modern.optimizer.trunk_lr_factor == pytest.approx(0.0075)
    assert (modern.loss.name, modern.loss.edge_weight, modern.loss.edge_size) == ("dice_edge", 0.5, 5)
    assert (modern.data.colour, paper.data.colour) == ((0.125, 0.5, 0.5, 0.0), ())
    assert load("folder.py").data.colour == (0.125, 0.5, 0.5, 0.1)
    distilled = load("cityscapes_distilled.py:23")
    assert (distilled.distill.weight, distilled.distill.temperature, distilled.model.aux_head) == (6, 3, False)
    assert load("camvid_strong.py").total_steps == load("camvid_small.py").total_steps
    assert load("camvid.py").total_steps == 968 * 30
    assert load("camvid.py:23_cityscapes").init_head == "fresh"
    assert load("coco_stuff.py:164k_39").data.name == "coco_stuff_164k"
