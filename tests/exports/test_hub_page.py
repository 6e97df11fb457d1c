"""Exported weights in half precision, and the page of a model hub beside them."""

import hashlib
import json

import jax.numpy as jnp
import numpy as np
import pytest
import yaml
from flax import nnx

from ddrnet_jax import build, config
from ddrnet_jax import main as main_lib
from ddrnet_jax.config import files as config_files
from ddrnet_jax.exports import export, hub_page
from ddrnet_jax.models import variables
from ddrnet_jax.runs import checkpoints
from ddrnet_jax.runs.save import Checkpoints
from ddrnet_jax.weights import files as weight_files
from ddrnet_jax.weights import fingerprint, loading


@pytest.fixture(scope="module")
def model():
    """The network of a CamVid run, its running variances beyond what float16 holds."""
    model = build.experiment(of_camvid()).network(nnx.Rngs(0))
    leaves = variables.leaves(model)
    variables.replace_leaves(
        model, {p: np.full(v.shape, 1e5, np.float32) for p, v in leaves.items() if p.endswith("var")}
    )
    return model


def of_camvid():
    ours = config.base()
    ours.data.name, ours.data.root, ours.init_from, ours.init_head = (
        "camvid",
        "/home/me/camvid",
        "/home/me/w.pth",
        "fresh",
    )
    ours.batch_size, ours.total_steps, ours.model.aux_head = 8, 450, False
    return ours


@pytest.fixture(scope="module")
def workdir(model, tmp_path_factory):
    """As a run leaves it, but for its log."""
    folder = tmp_path_factory.mktemp("run")
    steps = Checkpoints(folder, config_files.to_json(of_camvid()), keep=2)
    _, params, batch_stats = variables.split(model)
    steps.save(300, {"params": params, "batch_stats": batch_stats, "step": jnp.int32(300)}, 0.4375)
    steps.close()
    lines = (
        {"step": 150, "loss": 2.0, "images_per_s": 1.0},
        {"step": 150, "val/miou": 0.25, "val/iou/sky": 0.5},
        {"step": 300, "loss": 1.0, "images_per_s": 0.5},
        {"step": 300, "val/miou": 0.4375, "val/iou/sky": 0.75},
        {"step": 450, "loss": 1.0, "images_per_s": 0.5},
        {"step": 450, "val/miou": 0.375},
    )
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture(scope="module")
def page(workdir, tmp_path_factory):
    """A new folder with the weights in half precision."""
    path = tmp_path_factory.mktemp("page") / "hub" / "model.safetensors"
    export.export(workdir, path, file_format="safetensors", dtype="float16")
    return path


def head_and_text(readme):
    _, head, text = readme.read_text().split("---\n", 2)
    return yaml.safe_load(head), text


def test_kernels_are_halves_and_all_else_is_exact(page, model):
    assert page.stat().st_size < 12e6
    given, found = variables.leaves(model), loading.load_weights(page)
    loaded = variables.paths(found.params) | variables.paths(found.batch_stats)
    for path, array in given.items():
        expected = np.asarray(array).astype(np.float16) if array.ndim > 1 else np.asarray(array)
        np.testing.assert_array_equal(loaded[path], expected)
    kinds = {array.dtype for array in weight_files.read_safetensors(page)[0].values() if array.ndim > 1}
    assert kinds == {np.dtype(np.float16)}
    merged = variables.merge(found.graphdef, found.params, found.batch_stats)
    assert json.loads((page.parent / f"{page.name}.json").read_text())["weights_sha256"] == fingerprint.weights_sha256(
        merged
    )


def test_the_card_says_how_the_weights_came_to_be(page):
    card = json.loads((page.parent / "model.safetensors.json").read_text())
    assert card["file_sha256"] == hashlib.sha256(page.read_bytes()).hexdigest()
    assert (card["val_miou"], card["step"], card["config"]["seed"], card["dtype"]) == (0.4375, 300, 0, "float16")
    assert card["training_hours"] == round((150 * 8 / 1.0 + 150 * 8 / 0.5) / 3600, 3)
    assert card["evaluations"] == [
        {"step": 150, "val/miou": 0.25, "val/iou/sky": 0.5},
        {"step": 300, "val/miou": 0.4375, "val/iou/sky": 0.75},
    ]
    assert "for research" in card["terms"]
    assert card["not_for"].startswith("Not for driving")


def test_nothing_that_is_exported_names_a_place_of_this_machine(page):
    for path in page.parent.iterdir():
        assert b"/home/me" not in path.read_bytes(), path
    found = loading.load_weights(page).config
    assert (found.data.root, found.init_from, found.init_head) == ("", "", "load")


def test_the_page_is_one_that_a_hub_reads(page):
    head, text = head_and_text(page.parent / "README.md")
    assert head["license"] == "other"
    assert head["library_name"] == "ddrnet_jax"
    assert head["pipeline_tag"] == "image-segmentation"
    assert head["datasets"] == ["camvid"]
    assert "arxiv:2101.06085" in head["tags"]
    assert "| mIoU | 43.75 % on its split val |" in text
    assert hashlib.sha256(page.read_bytes()).hexdigest() in text
    assert "## Licence" in text
    ours = config_files.from_json(json.loads((page.parent / "config.json").read_text()))
    assert (ours.data.name, ours.total_steps) == ("camvid", 450)


def test_the_hubs_own_library_takes_the_page(page):
    pytest.importorskip("huggingface_hub")
    from huggingface_hub import ModelCard

    (result,) = ModelCard.load(page.parent / "README.md").data.eval_results
    assert (result.task_type, result.dataset_name, result.dataset_split) == ("image-segmentation", "camvid", "val")
    assert (result.metric_type, result.metric_value) == ("mean_iou", 0.4375)


@pytest.mark.parametrize("name", ["README.md", "config.json"])
def test_no_file_is_written_over(name, workdir, tmp_path, capsys):
    (tmp_path / name).write_text("somebody's")
    flags = ["--mode", "export", "--checkpoint", str(workdir), "--format", "safetensors"]
    assert main_lib.main([*flags, "--output", str(tmp_path / "w.safetensors")]) == 0
    assert (
        f"no page for a model hub: {tmp_path / name} is there already; a new folder gets one" in capsys.readouterr().out
    )
    assert (tmp_path / name).read_text() == "somebody's"
    assert {path.name for path in tmp_path.iterdir()} == {name, "w.safetensors", "w.safetensors.json"}


@pytest.mark.parametrize(
    ("data_set", "license"), [("scenes", "apache-2.0"), ("folder", "other"), ("cityscapes", "other")]
)
def test_the_terms_are_those_of_the_data(data_set, license):
    """Own classes may hold anything that a text can."""
    classes = ["a: b", "#c", '"d', "---", "e|f"]
    card = {
        **{"network": "DDRNet-23", "task": "segmentation", "val_miou": None, "classes": classes, "naming": "official"},
        **{"dtype": "float32", "file_sha256": "0" * 64, "input": {"mean": (0.5,), "std": (0.25,)}},
        "config": {"data": {"name": data_set, "eval_split": "val"}, "total_steps": 3, "batch_size": 2, "seed": 0},
    }
    terms = hub_page.terms(card["config"])
    card |= {"license": terms.license, "terms": terms.text}
    texts = hub_page.files(card, hub_page.Path("w.safetensors"))
    head = yaml.safe_load(texts["README.md"].split("---\n")[1])
    assert head["license"] == ("apache-2.0" if data_set == "scenes" else "other")
    assert ("license_name" in head) == (data_set != "scenes")
    assert head.get("datasets") == (None if data_set == "folder" else [data_set])
    assert "model-index" not in head
    assert "| mIoU | not evaluated |" in texts["README.md"]
    assert json.loads(texts["config.json"])["model_type"] == "ddrnet"


@pytest.mark.parametrize(
    ("others", "parts"),
    [
        ({"init_from": "camvid_23_slim"}, ["draws: free", "(init_from)", "began with camvid_23_slim", "CamVid (Br"]),
        ({"init_from": "/w.pth"}, ["(init_from), and their terms hold too: say here which"]),
        ({"distill": {"teacher": "runs/23"}}, ["(distill.teacher)"]),
        ({"init_from": "camvid_23_slim", "distill": {"teacher": "t"}}, ["(init_from, distill.teacher)", "say here"]),
    ],
)
def test_the_terms_of_other_weights_hold_too(others, parts):
    """Drawn scenes alone are free; what began with CamVid's weights is not."""
    terms = hub_page.terms({"data": {"name": "scenes"}} | others)
    assert terms.license == "other"
    assert all(part in terms.text for part in parts)


def test_what_cannot_be_halved_is_refused(model, tmp_path, capsys):
    ours, copy = of_camvid(), nnx.clone(model)
    variables.replace_leaves(copy, {"stem.0.conv.kernel": np.full((3, 3, 3, 32), 1e5, np.float32)})
    checkpoints.save_weights(tmp_path / "step", *variables.split(copy)[1:], config_files.to_json(ours))
    flags = ["--mode", "export", "--checkpoint", str(tmp_path / "step"), "--dtype", "float16"]
    assert main_lib.main([*flags, "--format", "safetensors", "--output", str(tmp_path / "w.safetensors")]) == 1
    assert "has kernels beyond the range of float16; leave --dtype out" in capsys.readouterr().err
    assert main_lib.main([*flags, "--format", "stablehlo", "--output", str(tmp_path / "w.stablehlo")]) == 1
    assert (
        "--dtype float16: stablehlo files compute in float32; it is of safetensors and pth" in capsys.readouterr().err
    )
    assert [path.name for path in tmp_path.iterdir()] == ["step"]
