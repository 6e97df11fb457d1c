"""What a network is predicted in, by the device that is there."""

import types

import jax
import jax.numpy as jnp
import pytest

from ddrnet_jax.prediction import predictor


@pytest.mark.parametrize(
    ("capability", "expected", "is_said"),
    [("7.5", jnp.float16, True), ("9.0", jnp.bfloat16, False), (None, jnp.bfloat16, False)],
)
def test_a_gpu_without_bfloat16_predicts_in_float16_and_says_so(monkeypatch, said, capability, expected, is_said):
    device = types.SimpleNamespace(device_kind="RTX 2080 Ti", compute_capability=capability)
    monkeypatch.setattr(jax, "devices", lambda: [device])
    assert predictor._for_device(jnp.bfloat16) == expected
    assert said == (["RTX 2080 Ti has no bfloat16: predicting in float16"] if is_said else [])
