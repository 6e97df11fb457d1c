"""Whose naming a state dict has, its official naming, and the way back.

The same network comes with three namings: the official release's, mmsegmentation's (its stem convolutions have no
bias) and super-gradients' (its heads upsample inside; the tensors are the same).
"""

import contextlib
import dataclasses
import functools
import re
from collections import Counter
from collections.abc import Iterable, Iterator

import jax.numpy as jnp
import numpy as np

from ddrnet_jax.models import variables
from ddrnet_jax.models.ddrnet import TASKS, VARIANTS, builder
from ddrnet_jax.weights.files.safetensors import shown
from ddrnet_jax.weights.names import ORIGINS, names_in
from ddrnet_jax.weights.state_dicts import official_shape

# The biases that mmsegmentation does not have, and the running means that can hold them.
_STEM_BIASES = {"conv1.0.bias": "conv1.1.running_mean", "conv1.3.bias": "conv1.4.running_mean"}
_LOSS = re.compile(r"(?:^|\.)\w*(?:loss|criteri(?:on|a))\w*\.")
_COUNTER = re.compile(r"(?:^|\.)(?:n_averaged|num_updates|global_step|step|epoch)$")
_OF_CLASSES = re.compile(r"(final_layer\.conv2|seghead_extra\.conv2|linear)\.")
_STAGES = ("stem", *(f"layer{n}" for n in range(1, 6)), "spp", "final_layer", "seghead_extra")
_STAGES += ("down5", "last_layer", "linear")  # of classifiers
_AS_IN_RESNETS = ("conv1.", "layer1.", "layer2.", "layer3.", "layer4.")
_FEWEST = 10  # names beyond those of a ResNet that make it a DDRNet; any network may share a few
_OTHER_CLASSIFIER = "its classifier is another network than DDRNet's, with another fusion and no last_layer"
_PROBLEMS = ("missing", "of another shape", "unusable", "unexpected")
_ONE_SCREEN = 2000  # characters: 25 lines of 80


class WeightsMismatch(ValueError):
    """The tensors are not those of one whole network; the message says in one screen which are not, by stage."""


@dataclasses.dataclass(frozen=True)
class Recognised:
    """A state dict that is one whole DDRNet.

    origin      one of ORIGINS: whose naming it had
    state_dict  {official name: array in the official layout, its dtype as given}, every tensor of that network
                and nothing else; without num_batches_tracked
    left_out    {name as given: why} of what is no weight of the network; num_batches_tracked is not in it
    """

    origin: str
    variant: str
    task: str
    num_classes: int
    aux_head: bool
    state_dict: dict[str, np.ndarray]
    left_out: dict[str, str]


@dataclasses.dataclass(frozen=True)
class _Kind:
    """A network, and whose names it has."""

    origin: str
    variant: str
    task: str

    @property
    def exists(self) -> bool:
        segmenter = self.task == "segmentation" and (self.origin, self.variant) != ("mmsegmentation", "39")
        return self.origin == "official" or segmenter

    def __str__(self) -> str:
        noun = {"segmentation": "segmenter", "classification": "classifier"}[self.task]
        return f"DDRNet-{self.variant.replace('_', '-')} {noun}"


@dataclasses.dataclass(frozen=True)
class _Slot:
    """One tensor of a network; in its shape None stands for the number of classes."""

    official: str
    shape: tuple[int | None, ...]

    def accepts(self, shape: tuple[int, ...]) -> bool:
        pairs = zip(shape, self.shape, strict=False)
        return len(shape) == len(self.shape) and all(a > 0 if b is None else a == b for a, b in pairs)


def recognise(state_dict: dict[str, np.ndarray]) -> Recognised:
    """Find out whose naming a state dict has and which network it is; give it in the official naming.

    state_dict   names as any of ORIGINS has them, all behind one prefix that ends in ".", or none
    Raises       WeightsMismatch if the naming is none of them, or if the tensors are not exactly one network's.
    """
    tensors = {str(name): np.asarray(array) for name, array in state_dict.items()}
    likely = _likely(tensors)
    if likely is not None:
        with contextlib.suppress(WeightsMismatch):
            return _as(likely, "", tensors, {})
    prefixes = {name: _prefix(name) for name in tensors}
    prefix = _most_common_prefix(prefixes.values())
    left_out = {name: why for name, found in prefixes.items() if found is None and (why := _why_left_out(name, prefix))}
    own = {name: array for name, array in tensors.items() if name not in left_out}
    given = {name.removeprefix(prefix): array for name, array in own.items() if name.startswith(prefix)}
    kind = _most_similar(given)
    if kind is None:
        raise WeightsMismatch(_not_recognised(own))
    if kind.origin == "super-gradients" and any(name.startswith("high_to_low_fusion.") for name in given):
        raise WeightsMismatch(f"a classifier of super-gradients: {_OTHER_CLASSIFIER}; only its segmenters can be read")
    return _as(kind, prefix, own, left_out)


def _likely(tensors: dict[str, np.ndarray]) -> _Kind | None:
    """The official network that they probably are: asked first, it spares the shapes of all others."""
    stem = tensors.get("conv1.0.weight")
    for variant, v in VARIANTS.items():
        depth1 = [f"layer1.{i}.conv1.weight" in tensors for i in (v.depth1 - 1, v.depth1)]
        if stem is not None and stem.shape[:1] == (v.width,) and depth1 == [True, False]:
            return _Kind("official", variant, "classification" if "linear.weight" in tensors else "segmentation")
    return None


def _as(kind: _Kind, prefix: str, own: dict[str, np.ndarray], left_out: dict[str, str]) -> Recognised:
    """Tensors as this network's. Raises WeightsMismatch if they are not exactly that."""
    given = {name.removeprefix(prefix): array for name, array in own.items() if name.startswith(prefix)}
    aux_head = any(name in given for name, slot in _slots(kind).items() if slot.official.startswith("seghead_extra."))
    num_classes = _num_classes(given, _slots(kind))
    slots = _slots(kind, aux_head, num_classes)
    problems = list(_problems(prefix, own, slots))
    if problems or num_classes is None:
        raise WeightsMismatch(_mismatch(kind, num_classes, problems))
    official = {slot.official: given[name] for name, slot in slots.items()}
    stem_biases = {bias: np.zeros_like(official[mean]) for bias, mean in _STEM_BIASES.items()}
    return Recognised(kind.origin, kind.variant, kind.task, num_classes, aux_head, stem_biases | official, left_out)


@functools.cache
def _known_names() -> frozenset[str]:
    """The names of all tensors of all networks."""
    return frozenset(name for kind in _kinds(*ORIGINS) for name in _slots(kind))


def _prefix(name: str) -> str | None:
    """The text before a tensor's name in one of our networks; None if it has no such name."""
    ends = [0, *(match.end() for match in re.finditer(r"\.", name))]
    return next((name[:end] for end in ends if name[end:] in _known_names()), None)


def _most_common_prefix(prefixes: Iterable[str | None]) -> str:
    """Raises WeightsMismatch if two are about as common: two networks side by side."""
    found = Counter(prefix for prefix in prefixes if prefix is not None).most_common(2) or [("", 0)]
    if len(found) == 2 and 2 * found[1][1] > found[0][1]:
        both = " and ".join(shown(repr(prefix)) for prefix, _ in found)
        raise WeightsMismatch(f"two networks, their names behind {both}; save one of them alone")
    return found[0][0]


def _why_left_out(name: str, prefix: str) -> str:
    """Why a tensor is no part of the network; "" if it may well be."""
    if _LOSS.search(name):
        return "a training loss's own tensor"
    if _COUNTER.search(name):
        return "a counter"
    return "" if name.startswith(prefix) else "it stands beside the network"


def to_origin(state_dict: dict[str, np.ndarray], origin: str, variant: str) -> dict[str, np.ndarray]:
    """An official state dict in the naming of `origin`, complete for strict loading there.

    state_dict   every tensor of the `variant`, with the official names
    origin       mmsegmentation: the stem's biases go into the running means before them, the same function up to
                 one rounding. Its head always has the auxiliary part: a model without one loads there, not strictly
    Returns      {name: array}, with num_batches_tracked i64[] = 0 beside every running variance
    Raises       ValueError if `origin` has no such network, WeightsMismatch if the state dict is not the variant's.
    """
    if origin not in ORIGINS:
        raise ValueError(f"unknown origin {origin!r}; one of {', '.join(ORIGINS)}")
    found = recognise(state_dict)
    source = _Kind(found.origin, found.variant, found.task)
    if (found.origin, found.variant) != ("official", variant):
        raise WeightsMismatch(f"a {source} ({found.origin} naming), where the official {variant!r} is expected")
    target = dataclasses.replace(source, origin=origin)
    if not target.exists:
        why = f" ({_OTHER_CLASSIFIER})" if origin == "super-gradients" else ""
        raise ValueError(f"{origin} has no {target}{why}; it has: {', '.join(str(k) for k in _kinds(origin))}")
    state = found.state_dict if origin != "mmsegmentation" else without_stem_bias(found.state_dict)
    names = {slot.official: name for name, slot in _slots(target).items()}
    renamed = {names[official]: array for official, array in state.items()}
    return renamed | {_counter(name): np.zeros((), np.int64) for name in renamed if name.endswith("running_var")}


def _kinds(*origins: str) -> list[_Kind]:
    kinds = (_Kind(origin, variant, task) for task in TASKS for variant in VARIANTS for origin in origins)
    return [kind for kind in kinds if kind.exists]


def _counter(running_var: str) -> str:
    return running_var.removesuffix("running_var") + "num_batches_tracked"


def official_names(variant: str, task: str) -> dict[str, str]:
    """{our path: official name} of every parameter and running statistic, with every head."""
    return names_in("official", _shapes(variant, task))


@functools.lru_cache
def _shapes(variant: str, task: str) -> dict[str, tuple[int, ...]]:
    """{our path: shape in the official layout} for one class, with every head."""
    build = builder(variant, task=task, num_classes=1, aux_head=task == "segmentation")
    leaves = variables.leaves(variables.merge(*variables.shapes(build)))
    return {path: official_shape(path, leaf.shape) for path, leaf in leaves.items()}


@functools.lru_cache
def _slots(kind: _Kind, aux_head: bool = True, num_classes: int | None = None) -> dict[str, _Slot]:
    """{name in the naming of the origin: slot} of a network, in the order of its stages."""
    shapes = _shapes(kind.variant, kind.task)
    official, theirs = names_in("official", shapes), names_in(kind.origin, shapes)
    slots = {}
    for path in sorted(shapes, key=lambda path: (_STAGES.index(_stage(official[path])), official[path])):
        name, shape = official[path], shapes[path]
        if name in _STEM_BIASES and kind.origin == "mmsegmentation":
            continue
        if name.startswith("seghead_extra.") and not aux_head:
            continue
        slots[theirs[path]] = _Slot(name, (num_classes, *shape[1:]) if _OF_CLASSES.match(name) else shape)
    return slots


def _stage(official: str) -> str:
    top = official.split(".")[0].replace("conv1", "stem")
    return top if top in _STAGES else "layer" + next(re.finditer(r"\d", top))[0]


def _most_similar(given: dict[str, np.ndarray]) -> _Kind | None:
    """The network and naming with the most names and shapes in common; None if that is next to nothing."""
    shapes = {name: array.shape for name, array in given.items() if not name.endswith("num_batches_tracked")}
    best, most = None, 0
    for kind in _kinds(*ORIGINS):
        slots = _slots(kind)
        common = [name for name in shapes if name in slots]
        score = len(common) + sum(slots[name].accepts(shapes[name]) for name in common)
        distinctive = sum(not slots[name].official.startswith(_AS_IN_RESNETS) for name in common)
        if score > most and distinctive >= _FEWEST:
            best, most = kind, score
        if score == 2 * len(shapes):
            break
    return best


def _num_classes(given: dict[str, np.ndarray], slots: dict[str, _Slot]) -> int | None:
    """The number of classes by most tensors of the heads, by the main head's in doubt."""
    arrays = [given[name] for name, slot in slots.items() if None in slot.shape and name in given]
    counts = Counter(a.shape[0] for a in arrays if a.ndim and a.size)
    return counts.most_common(1)[0][0] if counts else None


def _problems(prefix: str, own: dict[str, np.ndarray], slots: dict[str, _Slot]) -> Iterator[tuple[str, str, str]]:
    """(what, stage, text) of every tensor that does not fit."""
    for name, slot in slots.items():
        stage, text, array = f" in {_stage(slot.official)}", shown(prefix + name), own.get(prefix + name)
        if array is None:
            yield "missing", stage, text
        elif not slot.accepts(array.shape):
            expected = str(slot.shape).replace("None", "classes")
            yield "of another shape", stage, f"{text} {array.shape} where {expected} is expected"
        elif not jnp.issubdtype(array.dtype, jnp.floating):
            yield "unusable", stage, f"{text} holds {array.dtype} where floating point is expected"
        elif not np.isfinite(array).all():
            yield "unusable", stage, f"{text} holds values that are not finite"
        elif name.endswith("running_var") and (array < 0).any():
            yield "unusable", stage, f"{text} holds negative variances"
    counters = {_counter(name) for name in slots if name.endswith("running_var")}
    known = {prefix + name for name in slots.keys() | counters}
    yield from (("unexpected", "", shown(name)) for name in own if name not in known)


def _mismatch(kind: _Kind, num_classes: int | None, problems: Iterable[tuple[str, str, str]]) -> str:
    groups: dict[tuple[str, str], list[str]] = {}
    for what, stage, text in sorted(problems, key=lambda problem: _PROBLEMS.index(problem[0])):
        groups.setdefault((what, stage), []).append(text)
    classes = "" if num_classes is None else f", {num_classes} class{'es' * (num_classes > 1)}"
    adjective = "usable" if all(what == "unusable" for what, _ in groups) else "complete"
    for names in (5, 2, 1, 0):
        found = [f"{len(texts)} {what}{stage}{_some(texts, names)}" for (what, stage), texts in groups.items()]
        message = f"not a {adjective} {kind} ({kind.origin} naming{classes}): {'; '.join(found)}"
        if len(message) <= _ONE_SCREEN:
            break
    return message


def _some(texts: list[str], count: int) -> str:
    more = f" and {len(texts) - count} more" if len(texts) > count else ""
    return f": {', '.join(texts[:count])}{more}" if count else ""


def _not_recognised(own: dict[str, np.ndarray]) -> str:
    found = _some([shown(name) for name in own], 3) if own else ": it is empty"
    first = {origin: names_in(origin, ["stem.0.conv.kernel"]).popitem()[1] for origin in ORIGINS}
    expected = ", ".join(f"{name}, ... ({origin})" for origin, name in first.items())
    return f"not the tensors of a DDRNet{found}; expected names: {expected}"


def without_stem_bias(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """An official state dict without the stem's biases, the running means after them smaller by them instead.

    Source: batch norm subtracts the running mean, so the function is the same, up to one rounding.
    """
    means = {
        mean: (state[mean].astype(np.float64) - state[bias].astype(np.float64)).astype(state[mean].dtype)
        for bias, mean in _STEM_BIASES.items()
    }
    return {name: array for name, array in (state | means).items() if name not in _STEM_BIASES}
