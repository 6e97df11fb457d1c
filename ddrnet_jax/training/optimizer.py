"""SGD, AdamW, Muon and their learning-rate schedules, through optax."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from ddrnet_jax.models.ddrnet import SEGMENTER_LAYERS

_QUINTIC, _ITERATIONS = (3.4445, -4.7750, 2.0315), 5  # Muon's
_ADAMW_RMS = 0.2  # of a step at rate 1


def learning_rate_schedule(
    schedule: str,
    *,
    peak: float,
    total_steps: int,
    warmup_steps: int = 0,
    poly_power: float = 0.9,
    step_fractions: tuple[float, ...] = (),
) -> optax.Schedule:
    """Learning rate by step (0-based): linear warm-up, then the named decay to the last step.

    schedule  "poly": peak * (1 - t/T)**poly_power; "cosine"; "step": divided by 10 at each fraction of T
    """
    decay_steps = total_steps - warmup_steps
    decay = {
        "poly": lambda: optax.polynomial_schedule(peak, 0.0, poly_power, decay_steps),
        "cosine": lambda: optax.cosine_decay_schedule(peak, decay_steps),
        "step": lambda: optax.piecewise_constant_schedule(
            peak, {round(f * total_steps) - warmup_steps: 0.1 for f in step_fractions}
        ),
    }[schedule]()
    if not warmup_steps:
        return decay
    warmup = optax.linear_schedule(0.0, peak, warmup_steps)
    return optax.join_schedules([warmup, decay], [warmup_steps])


def sgd(
    schedule: optax.Schedule,
    *,
    momentum: float,
    nesterov: bool,
    weight_decay: float,
    decay_norms_and_biases: bool = True,
    trunk_lr_factor: float = 1.0,
) -> optax.GradientTransformation:
    """SGD as PyTorch has it: decay added to the gradient before the momentum; a learning rate of its own for the trunk.

    schedule                of the learning rate of SEGMENTER_LAYERS
    decay_norms_and_biases  False: decay moves the kernels of convolutions and linear layers only
    trunk_lr_factor         of that learning rate, for every other layer: those an ImageNet classifier has trained
    Source: the reference decays all parameters at one learning rate; super-gradients' recipe does neither.
    """
    steps = [
        optax.add_decayed_weights(weight_decay, _decayed(decay_norms_and_biases)),
        optax.sgd(schedule, momentum=momentum, nesterov=nesterov),
    ]
    return optax.chain(*steps, *_trunk_steps(trunk_lr_factor))


def adamw(
    schedule: optax.Schedule,
    *,
    momentum: float,
    nesterov: bool,
    weight_decay: float,
    decay_norms_and_biases: bool = True,
    trunk_lr_factor: float = 1.0,
) -> optax.GradientTransformation:
    """AdamW: steps of the learning rate's own size, and decay beside the gradient; arguments as of `sgd`.

    momentum  Adam's first beta; its second is 0.999
    Source: Loshchilov and Hutter, arXiv 1711.05101; the decay is a factor of the learning rate, as in PyTorch.
    """
    steps = optax.adamw(
        schedule,
        b1=momentum,
        nesterov=nesterov,
        weight_decay=weight_decay,
        mask=_decayed(decay_norms_and_biases),
    )
    return optax.chain(steps, *_trunk_steps(trunk_lr_factor))


def muon(
    schedule: optax.Schedule,
    *,
    momentum: float,
    nesterov: bool,
    weight_decay: float,
    decay_norms_and_biases: bool = True,
    trunk_lr_factor: float = 1.0,
) -> optax.GradientTransformation:
    """Muon for the convolutions within the network, AdamW for all else; arguments as of `sgd`.

    A kernel's momentum, as a matrix of inputs by outputs, is moved to the nearest one whose singular values are equal:
    directions with small gradients are learned as fast as those with large ones.
    momentum                Muon's, and Adam's first beta
    decay_norms_and_biases  False: decay moves the kernels that Muon does
    Source: Jordan, Muon (2024); steps as large as AdamW's, so that rates carry over (Liu et al., arXiv 2502.16982).
    """
    convolutions = optax.chain(
        optax.contrib.scale_by_muon(
            beta=momentum, nesterov=nesterov, ns_steps=0, weight_dimension_numbers=_as_matrices
        ),
        optax.stateless(lambda updates, _: jax.tree.map(_of_equal_singular_values, updates)),
        optax.add_decayed_weights(weight_decay),
        optax.scale_by_learning_rate(schedule),
    )
    rest = optax.adamw(
        schedule, b1=momentum, nesterov=nesterov, weight_decay=weight_decay if decay_norms_and_biases else 0.0
    )
    steps = optax.partition({"muon": convolutions, "adam": rest}, _muon_or_adam)
    return optax.chain(steps, *_trunk_steps(trunk_lr_factor))


def _muon_or_adam(params: dict) -> dict:
    """Whose each parameter is: a kernel [h,w,in,out] is Muon's, but a classifier's."""

    def of(path: tuple, leaf: jax.Array) -> str:
        is_last = any(step.key == "classifier" for step in path)
        return "muon" if path[-1].key == "kernel" and leaf.ndim == 4 and not is_last else "adam"

    return jax.tree_util.tree_map_with_path(of, params)


def _as_matrices(kernels: dict) -> dict:
    as_matrix = optax.contrib.MuonDimensionNumbers(reduction_axis=(0, 1, 2), output_axis=3)
    return jax.tree.map(lambda _: as_matrix, kernels)


def _of_equal_singular_values(kernel: jax.Array) -> jax.Array:
    """A kernel f32[h,w,in,out] of norm 1, its singular values near 1, then as large as a step of AdamW.

    Source: Jordan's quintic iteration. It is taken on the Gram matrix, which is a ninth of a 3x3 kernel: fewer
    work than optax.contrib.muon's, equal but for rounding, of which a square takes more: so in full precision.
    """
    matrix = kernel.reshape(-1, kernel.shape[-1])
    wide = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    a, b, c = _QUINTIC
    multiply = functools.partial(jnp.matmul, precision="highest")

    def polynomial(gram: jax.Array) -> jax.Array:
        return a * jnp.eye(len(gram), dtype=gram.dtype) + b * gram + c * multiply(gram, gram)

    gram = multiply(wide, wide.T)
    factor = product = polynomial(gram)
    for _ in range(_ITERATIONS - 1):
        gram = multiply(multiply(factor, gram), factor)
        factor = polynomial(gram)
        product = multiply(factor, product)
    result = multiply(product, wide)
    scale = _ADAMW_RMS * max(matrix.shape) ** 0.5
    return scale * (result.T if wide is not matrix else result).reshape(kernel.shape)


OPTIMIZERS = {"sgd": sgd, "adamw": adamw, "muon": muon}


def make_optimizer(name: str, schedule: optax.Schedule, **settings: Any) -> optax.GradientTransformation:
    """The named optimiser; settings are the arguments that all of them share."""
    return OPTIMIZERS[name](schedule, **settings)


def _decayed(norms_and_biases: bool) -> Callable[[dict], dict] | None:
    return None if norms_and_biases else _are_kernels


def _are_kernels(params: dict) -> dict:
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


def _trunk_steps(factor: float) -> list[optax.GradientTransformation]:
    """After the momentum, so that it is a factor of the learning rate and of nothing else."""
    if factor == 1:
        return []

    def scale(updates: dict, _) -> dict:
        return {
            part: update if part in SEGMENTER_LAYERS else optax.tree.scale(factor, update)
            for part, update in updates.items()
        }

    return [optax.stateless(scale)]
