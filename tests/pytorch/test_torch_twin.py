"""The PyTorch twin is the official network: its names in order, its outputs, its training step."""

import numpy as np
import parity_fixtures as fixtures
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: make test-torch")

from ddrnet_jax.benchmark.torch_twin import DDRNet  # noqa: E402

MANIFESTS = {
    "slim_seg": "23_slim",
    "23_seg": "23",
    "39_seg": "39",
    "slim_cls": "23_slim",
    "23_cls": "23",
    "39_cls": "39",
}
EVALUATIONS = {
    "seg_slim_eval_128x256": "slim_seg",
    "seg_slim_eval_72x584": "slim_seg",
    "seg_39_eval_128x256": "39_seg",
    "cls_23_eval_224": "23_cls",
}
COUNTER = "num_batches_tracked"


def build(manifest, aux_head=True):
    if manifest.endswith("cls"):
        return DDRNet(MANIFESTS[manifest], task="classification", num_classes=1000)
    return DDRNet(MANIFESTS[manifest], num_classes=19, aux_head=aux_head)


def tensors(state):
    return {key: torch.from_numpy(value) for key, value in state.items()}


def loaded(manifest, dtype=torch.float32):
    model = build(manifest)
    model.load_state_dict(tensors(fixtures.state_dict(manifest)), strict=True)
    return model.to(dtype)


def nchw(shape, dtype=torch.float32):
    return torch.from_numpy(fixtures.images(shape)).permute(0, 3, 1, 2).contiguous().to(dtype)


def error(ours, theirs):
    """max|a-b| / max|b|, the measure of fixtures/README.md"""
    ours = ours.detach().double().numpy()
    assert ours.shape == theirs.shape
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


@pytest.mark.parametrize("manifest", MANIFESTS)
def test_names_shapes_and_their_order_are_the_official_ones(manifest):
    with torch.device("meta"):
        state = build(manifest).state_dict()
    assert [(key, tuple(value.shape)) for key, value in state.items()] == [*fixtures.manifest_shapes(manifest).items()]


@pytest.mark.parametrize("manifest", ["slim_seg", "23_seg", "39_seg"])
def test_the_auxiliary_head_is_all_that_leaves_with_it(manifest):
    with torch.device("meta"):
        keys = build(manifest, aux_head=False).state_dict().keys()
    assert list(keys) == [k for k in fixtures.manifest_shapes(manifest) if not k.startswith("seghead_extra.")]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", EVALUATIONS)
@torch.inference_mode()
def test_eval_outputs_equal_the_official_ones(name, dtype):
    fixture = fixtures.load(name)
    model = loaded(EVALUATIONS[name], dtype).eval()
    logits, aux_logits = model(nchw(fixture["meta"]["input_shape"], dtype))
    limit = 2e-5 if dtype == torch.float32 else 1e-6
    if "logits" in fixture:
        assert error(logits, fixture["logits"]) < limit
        assert aux_logits is None
    else:
        assert error(logits, fixture["main"]) < limit
        assert error(aux_logits, fixture["aux"]) < limit


def test_a_training_step_equals_the_official_one():
    fixture = fixtures.load("seg_slim_train_128x256")
    model = loaded("slim_seg", torch.float64).train()
    labels = torch.from_numpy(fixtures.labels((2, 16, 32)))
    logits, aux_logits = model(nchw(fixture["meta"]["input_shape"], torch.float64))
    main, aux = (torch.nn.functional.cross_entropy(x, labels, ignore_index=255) for x in (logits, aux_logits))
    total = main + 0.4 * aux
    total.backward()

    assert error(logits, fixture["main"]) < 1e-6
    assert error(aux_logits, fixture["aux"]) < 1e-6
    np.testing.assert_allclose([x.item() for x in (total, main, aux)], fixture["losses"], rtol=1e-9)
    assert [name for name, _ in model.named_parameters()] == fixture["grad_keys"].tolist()
    for (name, parameter), norm in zip(model.named_parameters(), fixture["grad_norms"], strict=True):
        assert parameter.grad.norm().item() == pytest.approx(norm, rel=1e-6, abs=1e-9), name
    state = model.state_dict()
    for key in (key for key in fixture if key.startswith("after/")):
        assert error(state[key.removeprefix("after/")], fixture[key]) < 1e-6, key
    assert {value.item() for key, value in state.items() if key.endswith(COUNTER)} == {1}


@pytest.mark.parametrize("size", [(1, 1), (61, 97), (64, 96)])
@torch.inference_mode()
def test_any_size_gives_an_eighth_rounded_up(size):
    logits, aux_logits = loaded("slim_seg").eval()(nchw((1, 3, *size)))
    assert logits.shape == aux_logits.shape == (1, 19, -(-size[0] // 8), -(-size[1] // 8))


def test_counters_may_be_missing_from_a_plain_dict_and_only_there():
    model = build("slim_seg")
    given = tensors(fixtures.state_dict("slim_seg"))
    without = {key: value for key, value in given.items() if not key.endswith(COUNTER)}
    model.load_state_dict(without, strict=True)
    state = model.state_dict()
    assert all(torch.equal(state[key], given[key]) for key in given)

    # What state_dict() returns carries versions, and a batch norm of version 2 wants its counter.
    for key in given.keys() - without.keys():
        del state[key]
    with pytest.raises(RuntimeError, match="Missing key.*conv1.1.num_batches_tracked"):
        model.load_state_dict(state, strict=True)


def test_nothing_missing_and_nothing_foreign_loads():
    given = tensors(fixtures.state_dict("slim_seg"))
    with pytest.raises(RuntimeError, match="Unexpected key.*seghead_extra"):
        build("slim_seg", aux_head=False).load_state_dict(given, strict=True)
    del given["conv1.0.bias"]
    with pytest.raises(RuntimeError, match="Missing key.*conv1.0.bias"):
        build("slim_seg").load_state_dict(given, strict=True)
