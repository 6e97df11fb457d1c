"""Schedules and SGD against their formulas."""

import jax.numpy as jnp
import numpy as np
import pytest

from ddrnet_jax.training import optimizer


def test_poly_is_the_reference_formula():
    rate = optimizer.learning_rate_schedule("poly", peak=0.01, total_steps=1000)
    for step in (0, 1, 500, 999):
        assert rate(step) == pytest.approx(0.01 * (1 - step / 1000) ** 0.9, rel=1e-4)


def test_warmup_is_linear_and_the_decay_ends_with_the_run():
    rate = optimizer.learning_rate_schedule("poly", peak=0.1, total_steps=110, warmup_steps=10)
    assert [float(rate(s)) for s in (0, 5, 10)] == pytest.approx([0, 0.05, 0.1])
    assert rate(60) == pytest.approx(0.1 * 0.5**0.9, rel=1e-4)
    assert rate(110) == pytest.approx(0, abs=1e-9)


def test_step_divides_by_ten_at_each_fraction():
    rate = optimizer.learning_rate_schedule("step", peak=1.0, total_steps=100, step_fractions=(0.3, 0.6, 0.9))
    assert [float(rate(s)) for s in (0, 29, 30, 59, 60, 90)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.001])


def test_cosine_starts_at_the_peak_and_ends_at_zero():
    rate = optimizer.learning_rate_schedule("cosine", peak=0.4, total_steps=100)
    assert [float(rate(s)) for s in (0, 50, 100)] == pytest.approx([0.4, 0.2, 0], abs=1e-7)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_is_pytorchs(nesterov):
    """torch.optim.SGD, written out: g += wd * p; buf = mu * buf + g; p -= lr * (g + mu * buf or buf)."""
    rng = np.random.default_rng(0)
    p = rng.standard_normal(5)
    gradients = rng.standard_normal((4, 5))
    tx = optimizer.sgd(lambda step: 0.1, momentum=0.9, nesterov=nesterov, weight_decay=0.01)
    ours = {"w": jnp.asarray(p)}
    opt_state = tx.init(ours)
    buffer = np.zeros(5)
    for g in gradients:
        updates, opt_state = tx.update({"w": jnp.asarray(g)}, opt_state, ours)
        ours = {"w": ours["w"] + updates["w"]}
        g = g + 0.01 * p
        buffer = 0.9 * buffer + g
        p = p - 0.1 * (g + 0.9 * buffer if nesterov else buffer)
        np.testing.assert_allclose(ours["w"], p, rtol=1e-5)
