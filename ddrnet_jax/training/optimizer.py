"""SGD with momentum and its learning-rate schedules, through optax."""

import jax
import optax

from ddrnet_jax.models.ddrnet import SEGMENTER_LAYERS


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
    is_decayed = None if decay_norms_and_biases else _are_kernels
    steps = [
        optax.add_decayed_weights(weight_decay, is_decayed),
        optax.sgd(schedule, momentum=momentum, nesterov=nesterov),
    ]
    if trunk_lr_factor != 1:
        steps.append(_scaled_trunk(trunk_lr_factor))
    return optax.chain(*steps)


def _are_kernels(params: dict) -> dict:
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


def _scaled_trunk(factor: float) -> optax.GradientTransformation:
    """After the momentum, so that it is a factor of the learning rate and of nothing else."""

    def scale(updates: dict, _) -> dict:
        return {
            part: update if part in SEGMENTER_LAYERS else optax.tree.scale(factor, update)
            for part, update in updates.items()
        }

    return optax.stateless(scale)
