"""The benchmark's PyTorch engine computes what ours does, by every protocol, with its batch norms fused."""

import jax
import numpy as np
import pytest
from flax import nnx

torch = pytest.importorskip("torch", reason="torch is not installed: make test-torch")

from ddrnet_jax import DDRNet  # noqa: E402
from ddrnet_jax.benchmark import device, files, ours, pytorch, run  # noqa: E402
from ddrnet_jax.benchmark.cases import PROTOCOLS  # noqa: E402

SIZE_HW = (72, 83)


@pytest.fixture(scope="module")
def networks():
    model = DDRNet("23_slim", num_classes=19, aux_head=True, rngs=nnx.Rngs(0))
    model.eval()
    return ours.OurNetwork(model, SIZE_HW), pytorch.TorchNetwork(model, SIZE_HW)


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=list(PROTOCOLS))
def test_every_protocol_computes_the_same(networks, protocol):
    (our_program, their_program) = (network.program(protocol, 2) for network in networks)
    expected, found = (np.asarray(jax.block_until_ready(p.start())) for p in (our_program, their_program))
    if protocol.name in ("mask", "file"):
        assert found.dtype == np.uint8
        assert (found == expected).mean() > 0.999
        flipped = np.stack([files.image_to_measure(SIZE_HW)[::-1]] * 2)
        assert (their_program.start(flipped) == our_program.start(flipped)).mean() > 0.999
        assert (their_program.start(flipped) != found).any(), "`file` gives it the image that was read"
    else:
        found = np.moveaxis(found, 1, -1)
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


def test_batch_norms_after_a_convolution_are_gone(networks):
    kinds = [type(module) for module in networks[1]._twin.modules()]
    assert kinds.count(torch.nn.Identity) > 40
    # What DAPPM and the head activate first: nine of the one, the first of the other.
    assert kinds.count(torch.nn.BatchNorm2d) == 12
    assert next(networks[1]._twin.parameters()).is_contiguous(memory_format=torch.channels_last)


def test_the_auxiliary_head_is_not_timed(networks):
    twin = networks[1]._twin
    assert not [name for name, _ in twin.named_parameters() if name.startswith("seghead_extra")]
    images = torch.zeros(1, 3, *SIZE_HW)
    with torch.inference_mode():
        assert twin(images)[1] is None


def test_what_does_not_fit_is_refused_before_it_takes_memory(networks, monkeypatch):
    needed = 2 * 3 * 4 * 19 * SIZE_HW[0] * SIZE_HW[1]
    monkeypatch.setattr(device, "available_bytes", lambda: needed - 1)
    for name in ("paper", "mask", "file"):
        networks[1].program(PROTOCOLS[name], 2)
        with pytest.raises(device.OutOfMemory):
            networks[1].program(PROTOCOLS[name], 3)
    networks[1].program(PROTOCOLS["logits"], 3)


def test_the_engine_is_offered():
    assert run.engines(["torch"])[-1].label == "torch"
