"""A model as plain nested dicts of arrays, and back.

Training, checkpoints and weight files all hold these dicts: stable to save, cheap to pass through jit.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx

Tree = dict  # str -> Tree or array
M = TypeVar("M", bound=nnx.Module)


def split(model: M) -> tuple[nnx.GraphDef[M], Tree, Tree]:
    """The parts of a model: (graphdef, params, batch_stats), the last two nested dicts with str keys."""
    graphdef, *states = nnx.split(model, nnx.Param, nnx.BatchStat)
    params, batch_stats = map(plain, states)
    return graphdef, params, batch_stats


@functools.lru_cache(maxsize=64)
def shapes(build: Callable[[nnx.Rngs], M]) -> tuple[nnx.GraphDef[M], Tree, Tree]:
    """`split` of the model that a function makes, with shapes and types in place of arrays; each is asked once."""
    return split(nnx.eval_shape(lambda: build(nnx.Rngs(0))))


def merge(graphdef: nnx.GraphDef[M], params: Tree, batch_stats: Tree) -> M:
    """The model again, from the parts `split` returned (or others of the same shapes)."""
    return nnx.merge(graphdef, params, batch_stats)


def batch_stats(model: nnx.Module) -> Tree:
    """The running statistics of a model as a nested dict."""
    return plain(nnx.state(model, nnx.BatchStat))


def leaves(model: nnx.Module) -> dict[str, Any]:
    """{"stage4.low.blocks.0.conv_bn1.bn.scale": leaf} of every parameter and running statistic."""
    _, params, stats = split(model)
    return paths(params) | paths(stats)


def replace_leaves(model: nnx.Module, new: Mapping[str, Any]) -> None:
    """Copy the arrays of `new`, by their paths, into `model`, each as the type that is there; others stay."""
    for kind in (nnx.Param, nnx.BatchStat):
        state = nnx.state(model, kind)
        own = paths(plain(state))
        nnx.replace_by_pure_dict(state, from_paths({k: jnp.asarray(new.get(k, v), v.dtype) for k, v in own.items()}))
        nnx.update(model, state)


def paths(tree: Tree) -> dict[str, Any]:
    """Flatten to {"stage4.low.blocks.0.conv_bn1.bn.scale": leaf}."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {".".join(entry.key for entry in path): leaf for path, leaf in flat}


def from_paths(flat: Mapping[str, Any]) -> Tree:
    """The inverse of `paths`."""
    tree: Tree = {}
    for path, leaf in flat.items():
        *parents, last = path.split(".")
        node = tree
        for name in parents:
            node = node.setdefault(name, {})
        node[last] = leaf
    return tree


def plain(state: nnx.State) -> Tree:
    """An NNX state as nested dicts with str keys."""

    def with_str_keys(node):
        return {str(k): with_str_keys(v) if isinstance(v, dict) else v for k, v in node.items()}

    return with_str_keys(nnx.to_pure_dict(state))
