"""A model as plain nested dicts of arrays, and back.

Training, checkpoints and weight files all hold these dicts: stable to save, cheap to pass through jit.
"""

import jax
from flax import nnx

Tree = dict  # str -> Tree or array


def split(model: nnx.Module) -> tuple[nnx.GraphDef, Tree, Tree]:
    """The parts of a model: (graphdef, params, batch_stats), the last two nested dicts with str keys."""
    graphdef, params, batch_stats = nnx.split(model, nnx.Param, nnx.BatchStat)
    return graphdef, plain(params), plain(batch_stats)


def merge(graphdef: nnx.GraphDef, params: Tree, batch_stats: Tree) -> nnx.Module:
    """The model again, from the parts `split` returned (or others of the same shapes)."""
    return nnx.merge(graphdef, params, batch_stats)


def batch_stats(model: nnx.Module) -> Tree:
    """The running statistics of a model as a nested dict."""
    return plain(nnx.state(model, nnx.BatchStat))


def paths(tree: Tree) -> dict[str, object]:
    """Flatten to {"stage4.low.blocks.0.conv_bn1.bn.scale": leaf}."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {".".join(entry.key for entry in path): leaf for path, leaf in flat}


def from_paths(flat: dict[str, object]) -> Tree:
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
