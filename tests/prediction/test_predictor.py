"""What a network is predicted in, by the device that is there."""

import types

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from ddrnet_jax.data.sets.folder import folder_spec
from ddrnet_jax.prediction import predictor
from ddrnet_jax.prediction.segmenter import Segmenter
from ddrnet_jax.runtime import compilation


@pytest.mark.parametrize(
    ("capability", "expected", "is_said"),
    [("7.5", jnp.float16, True), ("9.0", jnp.bfloat16, False), (None, jnp.bfloat16, False)],
)
def test_a_gpu_without_bfloat16_predicts_in_float16_and_says_so(monkeypatch, said, capability, expected, is_said):
    device = types.SimpleNamespace(device_kind="RTX 2080 Ti", compute_capability=capability)
    monkeypatch.setattr(jax, "devices", lambda: [device])
    assert predictor._for_device(jnp.bfloat16) == expected
    assert said == (["RTX 2080 Ti has no bfloat16: predicting in float16"] if is_said else [])


@pytest.mark.parametrize(("platform", "at_a_time"), [("cpu", 1), ("gpu", 2), ("tpu", 2)])
def test_an_accelerator_is_given_two_images_together(monkeypatch, platform, at_a_time):
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    monkeypatch.setattr(compilation, "options", lambda: {})
    found = predictor.Predictor(nnx.Linear(1, 1, rngs=nnx.Rngs(0)))
    assert Segmenter(found, folder_spec(("ground", "car"))).at_a_time == at_a_time
    assert Segmenter(lambda image: image, folder_spec(("ground", "car"))).at_a_time == 1
