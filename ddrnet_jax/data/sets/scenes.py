"""Drawn street scenes, with masks or with a class each."""

from ddrnet_jax.data.labels import IGNORE
from ddrnet_jax.data.scenes import scenes
from ddrnet_jax.data.sets.specs import DatasetSpec

SPEC = DatasetSpec(
    name="scenes",
    classes=scenes.CLASSES,
    colors=scenes.COLORS,
    values={**{i: i for i in range(len(scenes.CLASSES))}, IGNORE: IGNORE},
)
IMAGES = DatasetSpec(name="scenes", classes=scenes.IMAGE_CLASSES, colors=(), values={})
