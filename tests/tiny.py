"""A network that compiles in a second, in the place of DDRNet where a test is about something else.

Also a config file, configs/demo.py with this network and Muon, whose state has the most kinds of parts, for runs in
processes of their own.
"""

import dataclasses
import functools
from pathlib import Path

from flax import nnx

from ddrnet_jax import build
from ddrnet_jax.config import files as config_files
from ddrnet_jax.models import blocks
from ddrnet_jax.models.ddrnet import Output

REPO = Path(build.__file__).resolve().parent.parent
CONFIG = str(REPO / "tests" / "tiny.py")


class Tiny(nnx.Module):
    """Logits at an eighth of the image, or of the whole image, by one convolution, batch norm, and two heads."""

    def __init__(self, rngs, num_classes, task):
        self.trunk = nnx.Conv(3, 64, (8, 8), strides=8, rngs=rngs)
        self.bn = blocks.BatchNorm(64)
        self.head = nnx.Conv(64, num_classes, (1, 1), rngs=rngs)
        self.aux_head = nnx.Conv(64, num_classes, (1, 1), rngs=rngs) if task == "segmentation" else None

    def __call__(self, images):
        features = self.bn(self.trunk(images))
        if self.aux_head is None:
            return Output(self.head(features.mean((1, 2), keepdims=True))[:, 0, 0])
        return Output(self.head(features), self.aux_head(features))


def of_scenes(rngs):
    """The segmenter of the drawn scenes' nine classes."""
    return Tiny(rngs, 9, "segmentation")


def use(setattr=setattr):
    """Every experiment has the tiny network; give `monkeypatch.setattr` for one test."""
    of_config = build.experiment

    def experiment(config):
        made = of_config(config)
        return dataclasses.replace(
            made, network=functools.partial(Tiny, num_classes=made.spec.num_classes, task=made.task)
        )

    setattr(build, "experiment", experiment)


def get_config():
    use()
    config = config_files.load(str(REPO / "configs" / "demo.py"))
    config.optimizer.name, config.optimizer.learning_rate = "muon", 0.005
    return config
