"""A second, trained network whose logits the network in training imitates; or its logits alone, from a folder."""

import dataclasses
import json
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from ddrnet_jax import atomic, regular_files
from ddrnet_jax.build import Experiment
from ddrnet_jax.config import ConfigError
from ddrnet_jax.data import teacher_logits
from ddrnet_jax.data.samples import Source
from ddrnet_jax.data.sets.of_config import dataset_spec
from ddrnet_jax.data.teacher_logits import LOGITS
from ddrnet_jax.errors import UserError
from ddrnet_jax.models import platforms, variables
from ddrnet_jax.models.ddrnet import DDRNet, normalise
from ddrnet_jax.models.inference import Weights, merged
from ddrnet_jax.runs.workdir import TEACHER
from ddrnet_jax.runtime import devices
from ddrnet_jax.training.objective import Distance
from ddrnet_jax.weights import importing, places, pretrained

FILE = TEACHER


class Teacher(NamedTuple):
    """A network with its fixed weights, which the compiled step takes as an argument.

    line      what it is, for people
    graphdef  None of a teacher whose logits come with the samples
    weights   its parameters and running statistics
    """

    line: str
    graphdef: nnx.GraphDef | None = None
    weights: Weights = ({}, {})


def fixed(teacher: Teacher | None) -> dict[str, Weights]:
    """The weights that a step is given beside its batch (see `step.make_step`)."""
    return {} if teacher is None or teacher.graphdef is None else {"teacher": teacher.weights}


def taught(source: Source, experiment: Experiment) -> Source:
    """The training samples, with a teacher's logits where they come from a folder.

    Raises DataError that names the first image without logits, ConfigError of pseudo-labelled images, which have none.
    """
    folder = experiment.distill["teacher"]
    if not teacher_logits.is_folder_of_logits(folder):
        return source
    if experiment.pseudo_source:
        raise ConfigError("config.distill.teacher: a folder of logits given, which data.pseudo_root has none of")
    return teacher_logits.WithLogits(source, folder)


def distance(teacher: Teacher, platform: str, temperature: float) -> Distance:
    """`channel_wise` of a student's logits from those the teacher, in eval mode, has of the batch's images."""
    graphdef = teacher.graphdef
    if graphdef is None:
        return lambda logits, batch: channel_wise(logits, batch[LOGITS], temperature)

    def from_teacher(logits: jax.Array, batch: dict) -> jax.Array:
        with platforms.compiled_for(platform):
            theirs = merged(graphdef, batch["teacher"])(normalise(batch["images"])).logits
        return channel_wise(logits, theirs, temperature)

    return from_teacher


def channel_wise(student: jax.Array, teacher: jax.Array, temperature: float) -> jax.Array:
    """The distance between two networks' opinions of where each class is, the mean over images and classes.

    student, teacher  f32[B,h,w,C], logits
    temperature       above 0; above 1 the places of lower logits count more
    Returns           f32[], 0 or more; its gradient is 0 where the two are equal
    Source: Shu et al., ICCV 2021 (channel-wise distillation): softmax over the positions of each class of each image,
    T**2 times Kullback and Leibler's divergence of the student's from the teacher's. Labels play no part.
    """
    ours, theirs = (jax.nn.log_softmax(logits / temperature, axis=(1, 2)) for logits in (student, teacher))
    divergence = (jnp.exp(theirs) * (theirs - ours)).sum((1, 2))
    return temperature**2 * divergence.mean()


def read_teacher(experiment: Experiment) -> Teacher | None:
    """The teacher of an experiment, None where it has none.

    Raises ConfigError, PretrainedError, CheckpointError or WeightsFileError with one line.
    """
    path = experiment.distill["teacher"]
    if not path:
        return None
    if teacher_logits.is_folder_of_logits(path):
        return Teacher(f"teacher: the logits in {path}")
    try:
        weights = pretrained.read(path)
    except UserError as e:
        more = "" if "://" in path or Path(path).is_file() else " (or a folder with each image's logits, STEM.npy)"
        raise ConfigError(f"config.distill.teacher: {e}{more}") from e
    if weights.classes is None and (config := importing.config_in(places.local(path))):  # of a file of ours
        weights = dataclasses.replace(weights, classes=dataset_spec(config).classes)
    _check_classes(weights, experiment)
    model = nnx.eval_shape(
        lambda: DDRNet(weights.variant, num_classes=weights.num_classes, aux_head=False, rngs=nnx.Rngs(0))
    )
    graphdef, *trees = variables.split(model)
    params, batch_stats = (
        variables.from_paths({name: jnp.asarray(weights.leaves[name]) for name in variables.paths(tree)})
        for tree in trees
    )
    return Teacher(f"teacher from {path}: {weights.describe()} ({weights.origin})", graphdef, (params, batch_stats))


def check_the_same(workdir: Path, teacher: Teacher, *, is_resumed: bool) -> None:
    """Keep the teacher's hash in the workdir. Raises ConfigError if a resumed run began with another."""
    path = workdir / FILE
    text = json.dumps({"weights_sha256": devices.fingerprint(teacher.weights)}) + "\n"
    if is_resumed and path.exists() and regular_files.read_text(path, "replace") != text:
        raise ConfigError(f"{path}: this run began with another teacher; restore it, or choose another --workdir")
    if jax.process_index() == 0:
        atomic.write_text(path, text)


def _check_classes(weights: pretrained.Weights, experiment: Experiment) -> None:
    spec = experiment.spec
    if weights.task != "segmentation":
        raise ConfigError(f"config.distill.teacher: {weights.path} is a classifier, expected a segmenter")
    if weights.num_classes != spec.num_classes or weights.classes not in (None, spec.classes):
        same = " of other names" if weights.num_classes == spec.num_classes else ""
        raise ConfigError(
            f"config.distill.teacher: {weights.path} has {weights.num_classes} classes{same}, "
            f"the data set {experiment.data_name!r} has {spec.num_classes}; teacher and student need the same"
        )
