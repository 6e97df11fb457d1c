"""SGD with momentum and its learning-rate schedules, through optax."""

import optax


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
    schedule: optax.Schedule, *, momentum: float, nesterov: bool, weight_decay: float
) -> optax.GradientTransformation:
    """SGD as PyTorch has it: decay on every parameter, added to the gradient before the momentum."""
    return optax.chain(
        optax.add_decayed_weights(weight_decay),
        optax.sgd(schedule, momentum=momentum, nesterov=nesterov),
    )
