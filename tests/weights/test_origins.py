"""State dicts by three namings: recognised, renamed bit by bit, or one message with what does not fit."""

import functools
import json
import re

import jax
import ml_dtypes
import numpy as np
import parity_fixtures as fixtures
import pytest
from flax import nnx

from ddrnet_jax import DDRNet
from ddrnet_jax.models import variables
from ddrnet_jax.weights import files as weight_files
from ddrnet_jax.weights.names import ORIGINS
from ddrnet_jax.weights.origins import WeightsMismatch, recognise, to_origin
from ddrnet_jax.weights.state_dicts import load_state_dict, read_checkpoint

VARIANTS = {
    "slim_seg": "23_slim",
    "23_seg": "23",
    "39_seg": "39",
    "slim_cls": "23_slim",
    "23_cls": "23",
    "39_cls": "39",
}
ORIGINS_OF = {
    "slim_seg": ORIGINS,
    "23_seg": ORIGINS,
    "39_seg": ("official", "super-gradients"),
    "slim_cls": ("official",),
    "23_cls": ("official",),
    "39_cls": ("official",),
}
ROUND_TRIPS = [(manifest, origin) for manifest, origins in ORIGINS_OF.items() for origin in origins]
EXPECTED_NAMES = (
    "expected names: conv1.0.weight, ... (official), backbone.stem.0.conv.weight, ... (mmsegmentation), "
    "_backbone.stem.0.0.weight, ... (super-gradients)"
)


@functools.lru_cache(maxsize=2)
def generated(manifest):
    return fixtures.state_dict(manifest)


def official(manifest="slim_seg", without=(), **changed):
    """The generated state dict, less some names, with others changed ("__" stands for ".")."""
    kept = {k: v for k, v in generated(manifest).items() if not k.startswith(tuple(without))}
    return kept | {k.replace("__", "."): v for k, v in changed.items()}


def without_counters(state):
    return {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}


def assert_equal(a, b):
    assert a.keys() == b.keys()
    for key, value in a.items():
        assert value.dtype == b[key].dtype, key
        np.testing.assert_array_equal(value, b[key], err_msg=key)


def refusal(state):
    """The message that a state dict is refused with: one line, and one screen of it."""
    with pytest.raises(WeightsMismatch) as caught:
        recognise(state)
    message = str(caught.value)
    assert len(message) <= 2000
    assert message.isprintable()
    return message


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize(("manifest", "origin"), ROUND_TRIPS)
def test_every_naming_makes_the_round_trip_through_files_bit_by_bit(tmp_path, manifest, origin, suffix):
    given = generated(manifest)
    theirs = to_origin(given, origin, VARIANTS[manifest])
    path = tmp_path / f"weights.{suffix}"
    {"pth": weight_files.write_pth, "safetensors": weight_files.write_safetensors}[suffix](path, theirs)
    found = recognise(read_checkpoint(path))
    path.unlink()  # up to 160 MB, and pytest keeps its folders
    assert (found.origin, found.variant) == (origin, VARIANTS[manifest])
    is_segmenter = manifest.endswith("seg")
    assert found.task == ("segmentation" if is_segmenter else "classification")
    assert (found.num_classes, found.aux_head) == ((19, True) if is_segmenter else (1000, False))
    assert found.left_out == {}
    if origin != "mmsegmentation":
        assert_equal(found.state_dict, without_counters(given))
    assert_equal(to_origin(found.state_dict, origin, found.variant), theirs)


def test_the_official_naming_keeps_names_and_counters():
    assert_equal(to_origin(generated("slim_seg"), "official", "23_slim"), generated("slim_seg"))


@pytest.mark.parametrize(("name", "manifest"), [("mmseg_slim_seg", "slim_seg"), ("mmseg_23_seg", "23_seg")])
def test_mmsegmentation_names_and_shapes_are_the_recorded_ones(name, manifest):
    entries = json.loads((fixtures.FOLDER / f"state_dict_{name}.json").read_text())["entries"]
    given = generated(manifest)
    theirs = to_origin(given, "mmsegmentation", VARIANTS[manifest])
    assert {k: (v.shape, str(v.dtype)) for k, v in theirs.items()} == {
        e["key"]: (tuple(e["shape"]), e["dtype"]) for e in entries
    }
    folded = ("conv1.1.running_mean", "conv1.4.running_mean")
    for entry in entries:
        if entry["official_key"] not in folded:
            np.testing.assert_array_equal(theirs[entry["key"]], given[entry["official_key"]], err_msg=entry["key"])


def test_mmsegmentation_has_the_stem_biases_in_its_running_means():
    given = generated("slim_seg")
    theirs = to_origin(given, "mmsegmentation", "23_slim")
    back = recognise(theirs).state_dict
    for conv, norm, stem in (("conv1.0", "conv1.1", 0), ("conv1.3", "conv1.4", 1)):
        mean = given[f"{norm}.running_mean"] - given[f"{conv}.bias"]
        np.testing.assert_array_equal(theirs[f"backbone.stem.{stem}.bn.running_mean"], mean)
        np.testing.assert_array_equal(back[f"{norm}.running_mean"], mean)
        np.testing.assert_array_equal(back[f"{conv}.bias"], np.zeros(32, np.float32))


SUPER_GRADIENTS_NAMES = {
    "23_seg": {
        "conv1.0.bias": "_backbone.stem.0.0.bias",
        "conv1.4.running_var": "_backbone.stem.1.1.running_var",
        "layer1.1.bn2.weight": "_backbone.layer1.1.bn2.weight",
        "layer2.0.downsample.1.bias": "_backbone.layer2.0.shortcut.1.bias",
        "layer3.1.conv1.weight": "_backbone.layer3.0.1.conv1.weight",
        "layer4.0.downsample.0.weight": "_backbone.layer4.0.shortcut.0.weight",
        "layer3_.0.conv1.weight": "layer3_skip.0.0.conv1.weight",
        "layer4_.1.bn1.bias": "layer4_skip.1.bn1.bias",
        "layer5_.0.downsample.0.weight": "layer5_skip.0.shortcut.0.weight",
        "layer5.0.downsample.1.weight": "layer5.0.shortcut.1.weight",
        "compression3.0.weight": "compression3.0.0.weight",
        "compression3.1.running_mean": "compression3.0.1.running_mean",
        "compression4.1.bias": "compression4.1.bias",
        "down3.1.weight": "down3.0.1.weight",
        "down4.0.weight": "down4.0.0.weight",
        "down4.1.bias": "down4.0.1.bias",
        "down4.3.weight": "down4.1.0.weight",
        "down4.4.running_var": "down4.1.1.running_var",
        "spp.scale0.2.weight": "spp.branches.0.down_scale.2.weight",
        "spp.scale4.1.bias": "spp.branches.4.down_scale.1.bias",
        "spp.process1.0.weight": "spp.branches.1.process.0.weight",
        "spp.process4.2.weight": "spp.branches.4.process.2.weight",
        "spp.compression.2.weight": "spp.compression.2.weight",
        "spp.shortcut.0.weight": "spp.shortcut.0.weight",
        "final_layer.conv2.bias": "final_layer.conv2.bias",
        "seghead_extra.bn1.weight": "seghead_extra.bn1.weight",
    },
    "39_seg": {
        "layer3_1.0.downsample.0.weight": "_backbone.layer3.0.0.shortcut.0.weight",
        "layer3_2.2.conv2.weight": "_backbone.layer3.1.2.conv2.weight",
        "layer3_1_.0.conv1.weight": "layer3_skip.0.0.conv1.weight",
        "layer3_2_.2.bn2.running_mean": "layer3_skip.1.2.bn2.running_mean",
        "compression3_1.1.bias": "compression3.0.1.bias",
        "compression3_2.0.weight": "compression3.1.0.weight",
        "down3_1.0.weight": "down3.0.0.weight",
        "down3_2.1.running_var": "down3.1.1.running_var",
        "layer2.3.bn2.weight": "_backbone.layer2.3.bn2.weight",
    },
}


@pytest.mark.parametrize("manifest", SUPER_GRADIENTS_NAMES)
def test_super_gradients_has_every_tensor_under_its_name(manifest):
    given = generated(manifest)
    theirs = to_origin(given, "super-gradients", VARIANTS[manifest])
    assert len(theirs) == len(given)
    for name, their_name in SUPER_GRADIENTS_NAMES[manifest].items():
        np.testing.assert_array_equal(theirs[their_name], given[name], err_msg=name)


def test_the_function_stays_the_same_through_mmsegmentation():
    there_and_back = recognise(to_origin(generated("slim_seg"), "mmsegmentation", "23_slim")).state_dict
    model = DDRNet("23_slim", num_classes=19, aux_head=True, rngs=nnx.Rngs(0))
    model.eval()
    graphdef, _, _ = variables.split(model)
    forward = jax.jit(lambda params, stats, images: variables.merge(graphdef, params, stats)(images))
    outputs = []
    for state in (generated("slim_seg"), there_and_back):
        load_state_dict(model, state)
        outputs.append(forward(*variables.split(model)[1:], fixtures.images((1, 3, 64, 64))))
    for ours, theirs in zip(*outputs, strict=True):
        assert np.abs(ours - theirs).max() < 1e-5 * np.abs(ours).max()


@pytest.mark.parametrize("origin", ORIGINS)
@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "module.",
        "model.module.",
        "_orig_mod.",
        "module._orig_mod.",
        "net.",
        "ema_model.module.",
        "backbone.",
        "a.b.",
    ],
)
def test_prefixes_of_wrappers_are_seen_through(prefix, origin):
    theirs = to_origin(generated("slim_seg"), origin, "23_slim")
    beside = {
        prefix.removesuffix("model.") + "loss.criterion.weight": "a training loss's own tensor",
        "criterion.weight": "a training loss's own tensor",
        "n_averaged": "a counter",
    }
    if prefix:
        beside["val_iou.confmat"] = "it stands beside the network"
    found = recognise({prefix + k: v for k, v in theirs.items()} | dict.fromkeys(beside, np.ones(19, np.float32)))
    assert found.origin == origin
    assert_equal(found.state_dict, recognise(theirs).state_dict)
    assert found.left_out == beside


def test_two_networks_side_by_side_are_refused():
    both = {f"{prefix}.{k}": v for prefix in ("student", "teacher") for k, v in generated("slim_seg").items()}
    assert refusal(both) == "two networks, their names behind 'student.' and 'teacher.'; save one of them alone"


@pytest.mark.parametrize("wrapper", ["state_dict", "model"])
def test_what_trainers_save_beside_the_state_dict_is_no_matter(monkeypatch, wrapper):
    content = {wrapper: {f"module.{k}": v for k, v in generated("slim_seg").items()}, "epoch": 3}
    monkeypatch.setattr(weight_files, "read_tensors", lambda path: content)
    assert_equal(recognise(read_checkpoint("w.pth")).state_dict, without_counters(generated("slim_seg")))


@pytest.mark.parametrize("origin", ORIGINS)
def test_a_segmenter_without_auxiliary_head_is_complete(origin):
    given = official(without=["seghead_extra"])
    found = recognise(to_origin(given, origin, "23_slim"))
    assert (found.origin, found.variant, found.task, found.aux_head) == (origin, "23_slim", "segmentation", False)
    assert not any(k.startswith("seghead_extra") for k in found.state_dict)


@pytest.mark.parametrize("classes", [1, 2, 11, 150])
def test_the_class_count_is_the_heads(classes):
    sizes = {"final_layer__conv2__weight": (classes, 64, 1, 1), "final_layer__conv2__bias": (classes,)}
    given = official(without=["seghead_extra"], **{k: np.ones(v, np.float32) for k, v in sizes.items()})
    assert recognise(given).num_classes == classes


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ml_dtypes.bfloat16])
@pytest.mark.parametrize("origin", ORIGINS)
def test_floating_point_of_any_width_is_kept(origin, dtype):
    given = {k: v.astype(dtype) for k, v in without_counters(generated("slim_seg")).items()}
    theirs = to_origin(given, origin, "23_slim")
    found = recognise(theirs)
    assert {v.dtype for v in found.state_dict.values()} == {np.dtype(dtype)}
    assert_equal(to_origin(found.state_dict, origin, "23_slim"), theirs)


def test_state_dicts_without_counters_are_complete():
    assert recognise(without_counters(generated("slim_seg"))).variant == "23_slim"


def test_what_is_missing_misshapen_and_unexpected_is_told_by_stage():
    given = official(
        without=["conv1.0.bias"],
        extra__weight=np.zeros(3, np.float32),
        final_layer__conv2__weight=np.zeros((11, 64, 1, 1), np.float32),
    )
    assert refusal(given) == (
        "not a complete DDRNet-23-slim segmenter (official naming, 19 classes): 1 missing in stem: conv1.0.bias; "
        "1 of another shape in final_layer: final_layer.conv2.weight (11, 64, 1, 1) where (19, 64, 1, 1) is expected; "
        "1 unexpected: extra.weight"
    )


def test_of_many_names_five_are_told():
    assert refusal(official(without=["layer3_.", "down4.3"])) == (
        "not a complete DDRNet-23-slim segmenter (official naming, 19 classes): 20 missing in layer3: "
        "layer3_.0.bn1.bias, layer3_.0.bn1.running_mean, layer3_.0.bn1.running_var, layer3_.0.bn1.weight, "
        "layer3_.0.bn2.bias and 15 more; 1 missing in layer4: down4.3.weight"
    )
    extra = {f"extra{i}": np.zeros(1, np.float32) for i in range(7)}
    assert refusal(official(**extra)).endswith(": 7 unexpected: extra0, extra1, extra2, extra3, extra4 and 2 more")


def test_names_are_told_as_the_file_has_them():
    theirs = to_origin(generated("23_seg"), "mmsegmentation", "23")
    theirs["backbone.stem.1.conv.bias"] = np.zeros(64, np.float32)
    del theirs["backbone.spp.processes.0.bn.weight"]
    del theirs["decode_head.aux_cls_seg.bias"]
    assert refusal({f"module.{k}": v for k, v in theirs.items()}) == (
        "not a complete DDRNet-23 segmenter (mmsegmentation naming, 19 classes): "
        "1 missing in spp: module.backbone.spp.processes.0.bn.weight; "
        "1 missing in seghead_extra: module.decode_head.aux_cls_seg.bias; "
        "1 unexpected: module.backbone.stem.1.conv.bias"
    )
    theirs = to_origin(generated("39_seg"), "super-gradients", "39")
    del theirs["layer3_skip.1.2.bn2.running_mean"]
    assert refusal(theirs) == (
        "not a complete DDRNet-39 segmenter (super-gradients naming, 19 classes): "
        "1 missing in layer3: layer3_skip.1.2.bn2.running_mean"
    )


def test_a_classifier_is_told_by_its_stages_too():
    assert refusal(official("slim_cls", without=["down5.3", "linear.bias"])) == (
        "not a complete DDRNet-23-slim classifier (official naming, 1000 classes): 1 missing in down5: down5.3.weight; "
        "1 missing in linear: linear.bias"
    )


def test_a_stage_of_another_width_is_told():
    other = {k.replace(".", "__"): v for k, v in generated("23_seg").items() if k.startswith("compression4")}
    assert refusal(official(**other)) == (
        "not a complete DDRNet-23-slim segmenter (official naming, 19 classes): 5 of another shape in layer4: "
        "compression4.0.weight (128, 512, 1, 1) where (64, 256, 1, 1) is expected, "
        "compression4.1.bias (128,) where (64,) is expected, compression4.1.running_mean (128,) where (64,) is "
        "expected, compression4.1.running_var (128,) where (64,) is expected, "
        "compression4.1.weight (128,) where (64,) is expected"
    )


def test_half_of_the_tensors_from_another_width_fit_one_screen():
    slim, wide = generated("slim_seg"), generated("23_seg")
    message = refusal({k: (wide if i % 2 else slim)[k] for i, k in enumerate(slim)})
    assert message.startswith(
        "not a complete DDRNet-23-slim segmenter (official naming, 19 classes): 6 of another shape in stem: "
        "conv1.0.bias (64,) where (32,) is expected, conv1.1.bias (64,) where (32,) is expected and 4 more; "
    )
    for stage in ("layer1", "layer2", "layer3", "layer4", "layer5", "spp", "final_layer", "seghead_extra"):
        assert f" of another shape in {stage}: " in message


def test_whatever_does_not_fit_fits_one_screen():
    given = {k: v[:-1] if i % 3 and v.ndim else v for i, (k, v) in enumerate(generated("slim_seg").items())}
    given = {k: v for i, (k, v) in enumerate(given.items()) if i % 4}
    given |= {f"{'é' * 90}{i}": np.zeros(1) for i in range(1000)}
    message = refusal(given)
    assert " missing in layer4" in message
    assert " of another shape in layer4" in message
    assert "; 1000 unexpected" in message


def test_one_block_too_many_is_unexpected():
    given = official(**{f"layer2__2__{leaf}": np.zeros(64, np.float32) for leaf in ("bn1__weight", "bn1__bias")})
    assert refusal(given) == (
        "not a complete DDRNet-23-slim segmenter (official naming, 19 classes): "
        "2 unexpected: layer2.2.bn1.weight, layer2.2.bn1.bias"
    )


def test_the_trunk_alone_is_not_complete():
    assert refusal(official(without=["spp", "final_layer", "seghead_extra"])) == (
        "not a complete DDRNet-23-slim segmenter (official naming): 55 missing in spp: spp.compression.0.bias, "
        "spp.compression.0.running_mean, spp.compression.0.running_var, spp.compression.0.weight, "
        "spp.compression.2.weight and 50 more; 11 missing in final_layer: final_layer.bn1.bias, "
        "final_layer.bn1.running_mean, final_layer.bn1.running_var, final_layer.bn1.weight, final_layer.bn2.bias "
        "and 6 more"
    )


def test_a_segmenter_with_a_linear_layer_is_not_one():
    assert refusal(official(linear__bias=np.zeros(1000, np.float32))) == (
        "not a complete DDRNet-23-slim segmenter (official naming, 19 classes): 1 unexpected: linear.bias"
    )


def test_heads_of_different_class_counts_are_refused():
    main = {"final_layer__conv2__weight": np.zeros((11, 64, 1, 1)), "final_layer__conv2__bias": np.zeros(11)}
    assert refusal(official(**main)) == (
        "not a complete DDRNet-23-slim segmenter (official naming, 11 classes): 2 of another shape in seghead_extra: "
        "seghead_extra.conv2.bias (19,) where (11,) is expected, "
        "seghead_extra.conv2.weight (19, 64, 1, 1) where (11, 64, 1, 1) is expected"
    )


def test_heads_without_classes_are_refused():
    none = {"final_layer__conv2__weight": np.zeros((0, 64, 1, 1)), "final_layer__conv2__bias": np.zeros(())}
    assert refusal(official(without=["seghead_extra"], **none)) == (
        "not a complete DDRNet-23-slim segmenter (official naming): 2 of another shape in final_layer: "
        "final_layer.conv2.bias () where (classes,) is expected, "
        "final_layer.conv2.weight (0, 64, 1, 1) where (classes, 64, 1, 1) is expected"
    )


def test_part_of_an_auxiliary_head_is_not_dropped():
    assert refusal(official(without=["seghead_extra.conv1", "seghead_extra.bn"])) == (
        "not a complete DDRNet-23-slim segmenter (official naming, 19 classes): 9 missing in seghead_extra: "
        "seghead_extra.bn1.bias, seghead_extra.bn1.running_mean, seghead_extra.bn1.running_var, "
        "seghead_extra.bn1.weight, seghead_extra.bn2.bias and 4 more"
    )


def test_tensors_outside_the_prefix_are_unexpected():
    given = {f"model.{k}": v for k, v in generated("slim_seg").items()}
    given["conv1.0.bias"] = given["model.conv1.0.bias"]
    given["model.extra.num_batches_tracked"] = np.zeros((), np.int64)
    del given["model.conv1.3.bias"]
    assert refusal(given) == (
        "not a complete DDRNet-23-slim segmenter (official naming, 19 classes): 1 missing in stem: model.conv1.3.bias; "
        "2 unexpected: conv1.0.bias, model.extra.num_batches_tracked"
    )


def test_integers_are_no_weights():
    assert refusal(official(layer1__0__conv1__weight=np.ones((32, 32, 3, 3), np.int8))) == (
        "not a usable DDRNet-23-slim segmenter (official naming, 19 classes): 1 unusable in layer1: "
        "layer1.0.conv1.weight holds int8 where floating point is expected"
    )


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused(value, dtype):
    spoilt = generated("slim_seg")["spp.scale0.0.running_var"].astype(dtype)
    spoilt[-1] = value
    assert refusal(official(spp__scale0__0__running_var=spoilt)) == (
        "not a usable DDRNet-23-slim segmenter (official naming, 19 classes): 1 unusable in spp: "
        "spp.scale0.0.running_var holds values that are not finite"
    )


def test_the_classifier_of_super_gradients_is_refused():
    theirs = to_origin(official(without=["seghead_extra"]), "super-gradients", "23_slim")
    given = {k: v for k, v in theirs.items() if not k.startswith(("spp.", "final_layer."))}
    given |= {"high_to_low_fusion.0.0.weight": np.zeros((256, 128, 3, 3)), "fc.weight": np.zeros((1000, 512))}
    assert refusal(given) == (
        "a classifier of super-gradients: its classifier is another network than DDRNet's, with another fusion and no "
        "last_layer; only its segmenters can be read"
    )


def test_other_networks_are_not_recognised():
    resnet = {
        k: v for k, v in generated("slim_cls").items() if k.startswith(("layer1.", "layer2.", "layer3.", "layer4."))
    }
    given = {"conv1.weight": np.zeros((64, 3, 7, 7)), "bn1.weight": np.zeros(64)} | resnet
    assert refusal(given) == (
        f"not the tensors of a DDRNet: conv1.weight, bn1.weight, layer1.0.conv1.weight and {len(given) - 3} more; "
        f"{EXPECTED_NAMES}"
    )


@pytest.mark.parametrize("given", [{}, {"loss.criterion.weight": np.ones(19)}])
def test_an_empty_state_dict_is_not_recognised(given):
    assert refusal(given) == f"not the tensors of a DDRNet: it is empty; {EXPECTED_NAMES}"


@pytest.mark.parametrize(
    ("name", "told"), [(7, "7"), ("a\nb", r"a\nb"), ("x" * 500, "x" * 100 + "..."), ("module.", "module.")]
)
def test_strange_names_are_told_in_one_line(name, told):
    assert refusal({name: np.zeros(1)}) == f"not the tensors of a DDRNet: {told}; {EXPECTED_NAMES}"


@pytest.mark.parametrize(
    ("manifest", "origin", "variant", "message"),
    [
        (
            "39_seg",
            "mmsegmentation",
            "39",
            "mmsegmentation has no DDRNet-39 segmenter; it has: DDRNet-23-slim segmenter, DDRNet-23 segmenter",
        ),
        (
            "slim_cls",
            "mmsegmentation",
            "23_slim",
            "mmsegmentation has no DDRNet-23-slim classifier; it has: DDRNet-23-slim segmenter, DDRNet-23 segmenter",
        ),
        (
            "slim_cls",
            "super-gradients",
            "23_slim",
            "super-gradients has no DDRNet-23-slim classifier (its classifier is another network than DDRNet's, with "
            "another fusion and no last_layer); it has: DDRNet-23-slim segmenter, DDRNet-23 segmenter, "
            "DDRNet-39 segmenter",
        ),
        ("slim_seg", "timm", "23_slim", "unknown origin 'timm'; one of official, mmsegmentation, super-gradients"),
        (
            "slim_seg",
            "official",
            "23",
            "a DDRNet-23-slim segmenter (official naming), where the official '23' is expected",
        ),
    ],
)
def test_what_an_origin_does_not_have_is_refused(manifest, origin, variant, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        to_origin(generated(manifest), origin, variant)


def test_only_official_names_are_given_to_an_origin():
    theirs = to_origin(generated("slim_seg"), "mmsegmentation", "23_slim")
    with pytest.raises(WeightsMismatch, match="mmsegmentation naming.*where the official '23_slim' is expected"):
        to_origin(theirs, "super-gradients", "23_slim")
    with pytest.raises(WeightsMismatch, match=r"1 missing in stem: conv1\.0\.bias$"):
        to_origin(official(without=["conv1.0.bias"]), "super-gradients", "23_slim")
