"""Schedules, SGD, AdamW and Muon against their formulas."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small
from flax import nnx

from ddrnet_jax import DDRNet
from ddrnet_jax.models import variables
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


def slow_rate(name, step, peak, total, warmup, power, fractions):
    if step < warmup:
        return peak * step / warmup
    done = (step - warmup) / (total - warmup)
    if name == "poly":
        return peak * (1 - done) ** power
    if name == "cosine":
        return peak * (1 + math.cos(math.pi * done)) / 2
    return peak * 0.1 ** sum(step >= round(f * total) for f in fractions)


@pytest.mark.parametrize("warmup", [0, 7])
@pytest.mark.parametrize("name", ["poly", "cosine", "step"])
def test_every_schedule_is_its_formula_at_every_step(name, warmup):
    options = {"peak": 0.3, "warmup_steps": warmup, "poly_power": 0.7, "step_fractions": (0.25, 0.5, 0.9)}
    rate = optimizer.learning_rate_schedule(name, total_steps=60, **options)
    ours = jax.vmap(rate)(jnp.arange(60))
    expected = [slow_rate(name, step, 0.3, 60, warmup, 0.7, (0.25, 0.5, 0.9)) for step in range(60)]
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-7)


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


@pytest.mark.parametrize("nesterov", [False, True])
def test_adamw_is_its_formula(nesterov):
    """torch.optim.AdamW (NAdam's look ahead with nesterov), written out, at a rate that changes."""
    rng = np.random.default_rng(0)
    p = rng.standard_normal(5)
    gradients = rng.standard_normal((4, 5))
    tx = optimizer.make_optimizer(
        "adamw", lambda step: 0.1 / (step + 1), momentum=0.8, nesterov=nesterov, weight_decay=0.02
    )
    ours = {"w": jnp.asarray(p)}
    opt_state = tx.init(ours)
    mean, square = np.zeros(5), np.zeros(5)
    for t, g in enumerate(gradients, start=1):
        updates, opt_state = tx.update({"w": jnp.asarray(g)}, opt_state, ours)
        ours = {"w": ours["w"] + updates["w"]}
        mean, square = 0.8 * mean + 0.2 * g, 0.999 * square + 0.001 * g**2
        ahead = 0.8 * mean / (1 - 0.8 ** (t + 1)) + 0.2 * g / (1 - 0.8**t)
        step = (ahead if nesterov else mean / (1 - 0.8**t)) / (np.sqrt(square / (1 - 0.999**t)) + 1e-8)
        p = p - 0.1 / t * (step + 0.02 * p)
        np.testing.assert_allclose(ours["w"], p, rtol=1e-5, atol=2e-6)


def orthogonalised(matrix):
    """Five steps of Newton and Schulz with Jordan's coefficients: singular values end between 0.7 and 1.2."""
    x = matrix / np.linalg.norm(matrix)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.775 * gram + 2.0315 * gram @ gram) @ x
    return x


@pytest.mark.parametrize("nesterov", [False, True])
def test_muon_is_its_formula(nesterov):
    rng = np.random.default_rng(0)
    kernel = rng.standard_normal((3, 3, 4, 8))
    gradients = rng.standard_normal((3, *kernel.shape))
    tx = optimizer.muon(lambda step: 0.1 / (step + 1), momentum=0.8, nesterov=nesterov, weight_decay=0.02)
    ours = {"conv": {"kernel": jnp.asarray(kernel)}}
    opt_state = tx.init(ours)
    momentum = np.zeros_like(kernel)
    for t, g in enumerate(gradients, start=1):
        updates, opt_state = tx.update({"conv": {"kernel": jnp.asarray(g)}}, opt_state, ours)
        ours = jax.tree.map(jnp.add, ours, updates)
        momentum = 0.8 * momentum + 0.2 * g
        ahead = 0.8 * momentum / (1 - 0.8 ** (t + 1)) + 0.2 * g / (1 - 0.8**t)
        moved = (ahead if nesterov else momentum / (1 - 0.8**t)).reshape(36, 8)
        step = 0.2 * 36**0.5 * orthogonalised(moved).reshape(kernel.shape)
        kernel = kernel - 0.1 / t * (step + 0.02 * kernel)
        np.testing.assert_allclose(ours["conv"]["kernel"], kernel, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(3, 3, 16, 8), (1, 1, 8, 24), (3, 3, 2, 64)])
def test_muon_is_optaxs(shape):
    """Kernels taller and wider, gradients of low rank too; and the state of one is that of the other."""
    rng = np.random.default_rng(0)
    params = {"conv": {"kernel": jnp.ones(shape), "bias": jnp.ones(3)}}
    as_matrix, rate = optax.contrib.MuonDimensionNumbers((0, 1, 2), 3), optax.constant_schedule(0.1)
    theirs = optax.contrib.muon(
        rate,
        beta=0.8,
        adam_b1=0.8,
        weight_decay=0.02,
        adam_weight_decay=0.02,
        consistent_rms=0.2,
        muon_weight_dimension_numbers={"conv": {"kernel": as_matrix, "bias": None}},
    )
    ours = optimizer.muon(rate, momentum=0.8, nesterov=True, weight_decay=0.02)
    states = [tx.init(params) for tx in (theirs, ours)]
    assert jax.tree.structure((states[0],)) == jax.tree.structure(states[1])
    for rank in (1, 2, 99):
        matrix = rng.standard_normal((np.prod(shape[:3]), rank)) @ rng.standard_normal((rank, shape[3]))
        gradients = {"conv": {"kernel": jnp.asarray(matrix.reshape(shape), jnp.float32), "bias": jnp.ones(3)}}
        moves = []
        for i, tx in enumerate((theirs, ours)):
            updates, states[i] = tx.update(gradients, states[i], params)
            moves.append(updates["conv"])
        np.testing.assert_allclose(moves[1]["bias"], moves[0]["bias"], rtol=1e-6)
        error = jnp.abs(moves[1]["kernel"] - moves[0]["kernel"]).max()
        assert error < 1e-3 * jnp.abs(moves[0]["kernel"]).max()


def test_muon_moves_convolutions_and_adamw_the_rest(network):
    options = {"weight_decay": 0.5, "trunk_lr_factor": 0.1, "decay_norms_and_biases": False}
    ours, adamw = (moves(network, name=name, **options) for name in ("muon", "adamw"))
    decays = moves(network, name="adamw", **options | {"weight_decay": 0.0})
    for path, gradient in network[1].items():
        if gradient.ndim == 4 and "classifier" not in path:
            move = (ours[path] - (adamw[path] - decays[path])).reshape(-1, gradient.shape[-1])
            values = np.linalg.svd(move, compute_uv=False)
            rate = 0.1 * (1 if path.split(".")[0] in ("dappm", "head", "aux_head") else 0.1)
            relative = values / (rate * 0.2 * max(move.shape) ** 0.5)
            assert np.median(relative) > 0.6, path  # a square of random numbers has a few next to 0
            assert relative.max() < 1.25, path
        else:
            np.testing.assert_allclose(ours[path], decays[path], rtol=1e-5, atol=1e-8, err_msg=path)


@pytest.fixture(scope="module")
def network():
    """Parameters of a whole segmenter, all at 1, and gradients, by our dotted paths."""
    with small.in_place_of_23_slim():
        model = nnx.eval_shape(lambda: DDRNet("23_slim", num_classes=19, aux_head=True, rngs=nnx.Rngs(0)))
    shapes = variables.paths(variables.split(model)[1])
    rng = np.random.default_rng(0)
    ones = {path: np.ones(leaf.shape, np.float32) for path, leaf in shapes.items()}
    return ones, {path: rng.standard_normal(leaf.shape).astype(np.float32) for path, leaf in shapes.items()}


def moves(network, steps=1, name="sgd", **options):
    """By how much each parameter moves in some steps with the same gradients, at learning rate 0.1."""
    params, gradients = (variables.from_paths(flat) for flat in network)
    tx = optimizer.make_optimizer(name, lambda step: 0.1, momentum=0.9, nesterov=False, **options)

    @jax.jit
    def last_update(params, gradients):
        opt_state = tx.init(params)
        for _ in range(steps):
            updates, opt_state = tx.update(gradients, opt_state, params)
        return updates

    return {path: np.asarray(update) for path, update in variables.paths(last_update(params, gradients)).items()}


def test_the_trunk_has_a_learning_rate_of_its_own(network):
    ours = moves(network, steps=2, weight_decay=0.01, trunk_lr_factor=0.1)
    for path, gradient in network[1].items():
        factor = 1 if path.split(".")[0] in ("dappm", "head", "aux_head") else 0.1
        expected = -0.1 * factor * 1.9 * (gradient + 0.01)
        np.testing.assert_allclose(ours[path], expected, rtol=1e-5, atol=1e-7, err_msg=path)
    fresh = {path.split(".")[0] for path in ours} - {"stem", "layer1", "layer2", "stage3", "stage4", "low5", "high5"}
    assert fresh == {"dappm", "head", "aux_head"}


def test_decay_may_leave_norms_and_biases_alone(network):
    ours = moves(network, weight_decay=0.01, decay_norms_and_biases=False)
    undecayed = set()
    for path, gradient in network[1].items():
        is_kernel = gradient.ndim > 1
        np.testing.assert_allclose(ours[path], -0.1 * (gradient + 0.01 * is_kernel), rtol=1e-5, atol=1e-8, err_msg=path)
        undecayed |= set() if is_kernel else {path.rsplit(".", 1)[1]}
    assert undecayed == {"scale", "bias"}


def test_adamw_has_a_rate_for_the_trunk_and_decay_for_kernels_alone(network):
    ours = moves(network, name="adamw", weight_decay=0.5, trunk_lr_factor=0.1, decay_norms_and_biases=False)
    for path, gradient in network[1].items():
        factor = 1 if path.split(".")[0] in ("dappm", "head", "aux_head") else 0.1
        expected = -0.1 * factor * (gradient / (abs(gradient) + 1e-8) + 0.5 * (gradient.ndim > 1))
        np.testing.assert_allclose(ours[path], expected, rtol=1e-4, atol=1e-6, err_msg=path)


def test_the_options_add_nothing_to_the_optimisers_state(network):
    """It is one momentum a parameter and the count of steps, whatever the config."""
    params = variables.from_paths(network[0])

    def structure(**options):
        tx = optimizer.sgd(lambda step: 0.1, momentum=0.9, nesterov=False, weight_decay=0.01, **options)
        return jax.tree.leaves(jax.eval_shape(tx.init, params))

    assert structure() == structure(trunk_lr_factor=0.1, decay_norms_and_biases=False)
    assert len(structure()) == len(network[0]) + 1
