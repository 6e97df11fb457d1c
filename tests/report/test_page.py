"""The page: numbers are those given, texts are escaped, what is missing is said in words, nothing is loaded."""

import base64
import dataclasses
import datetime
import itertools
import re

import cv2
import numpy as np
import pytest
from report.hand_made import CLASSES, SETTINGS, SPEC, config_json, metric_lines, shown_gallery
from report.html_page import Page

from ddrnet_jax.evaluation import panels
from ddrnet_jax.evaluation.gallery import Gallery, short_name
from ddrnet_jax.outputs import OutputError
from ddrnet_jax.report import page, style
from ddrnet_jax.report.run import Evaluation

WRITTEN = datetime.datetime(2026, 1, 2, 3, 4, tzinfo=datetime.UTC)
SECTIONS = ("summary", "classes", "curves", "confusions", "images", "config", "made")


def read(*runs):
    return Page(page.page(runs, WRITTEN))


def slow_iou(confusion, i):
    """IoU of class i from its pixels, None where there are none."""
    hits = confusion[i][i]
    union = sum(confusion[i]) + sum(row[i] for row in confusion) - hits
    return hits / union if union else None


def test_numbers_are_those_of_the_confusion_counts(run):
    found, confusion = read(run), run.evaluation.confusion.tolist()
    ious = {name: slow_iou(confusion, i) for i, name in enumerate(CLASSES)}
    present = [iou for iou in ious.values() if iou is not None]
    assert len(present) == 4
    assert ious['po"le'] == 0  # predicted, never labelled
    labelled = sum(map(sum, confusion))
    for name, iou in ious.items():
        _, shown, share = found.row(name)
        assert shown == ("–" if iou is None else f"{100 * iou:.2f} %")
        assert share == f"{100 * sum(confusion[CLASSES.index(name)]) / labelled:.2f} %"
    accuracy = sum(confusion[i][i] for i in range(5)) / labelled
    assert f"{100 * sum(present) / 4:.2f} %mIoU" in found.text
    assert f"{100 * accuracy:.2f} %pixel accuracy" in found.text
    rows = [row[0] for row in found.rows if row and row[0] in CLASSES][:5]
    assert rows == sorted(CLASSES, key=lambda name: -1 if ious[name] is None else ious[name], reverse=True)


def test_the_heat_map_has_every_count_on_hover(run):
    found, confusion = read(run), run.evaluation.confusion
    for i, j in zip(*np.nonzero(confusion), strict=True):
        share = confusion[i, j] / confusion[i].sum()
        about = f"{CLASSES[i]} predicted as {CLASSES[j]}: {share:.2%} ({confusion[i, j]:,} pixels)"
        assert found.text.count(about) == 1
    assert found.text.count(" pixels)") == (confusion > 0).sum()
    squares = [float(a["fill-opacity"]) for a in found.all("rect") if "fill-opacity" in a]
    assert sum(squares) == pytest.approx((confusion.sum(1) > 0).sum(), abs=0.01)  # each row is the whole of it
    wrong = confusion - np.diag(np.diag(confusion))
    i, j = np.unravel_index(wrong.argmax(), wrong.shape)
    first = found.rows[found.rows.index(["labelled", "predicted as", "of the label", "of all errors"]) + 1]
    of_label, of_errors = wrong[i, j] / confusion[i].sum(), wrong[i, j] / wrong.sum()
    assert first == [CLASSES[i], CLASSES[j], f"{100 * of_label:.2f} %", f"{100 * of_errors:.2f} %"]


def test_no_text_becomes_html(run):
    nasty = '"><script>alert(1)</script><img src=http://evil.example/x onerror=alert(2)>&amp;'
    spec = dataclasses.replace(SPEC, classes=(nasty, *CLASSES[1:]))
    config = config_json(**{"data.classes": (nasty, *CLASSES[1:]), "data.root": nasty, "data.eval_split": nasty})
    values = {"val/miou": 0.5, f"val/iou/{nasty}": 0.25}
    settings = {"data.root": nasty, "data.eval_split": nasty}
    evaluation = Evaluation(values, run.evaluation.confusion, 200, nasty, settings)
    gallery = Gallery()
    for seen in (*run.gallery.worst, *run.gallery.best):
        sample = {"name": f"beside {nasty}{seen.name}", "image": seen.image, "label": seen.label}
        gallery(sample, np.diag([1, 1, 1, 1, 1]), seen.prediction)
    made_by = {"command": nasty, "devices": nasty, "versions": {nasty: nasty}}
    texts = {"name": nasty, "made_by": made_by, "notes": [nasty]}
    bad = dataclasses.replace(run, spec=spec, config=config, evaluation=evaluation, gallery=gallery, **texts)
    for runs in ((bad,), (bad, bad)):
        found = read(*runs)
        assert not found.all("script")
        assert all(a["src"].startswith("data:image/") for a in found.all("img"))
        assert not any(key.startswith("on") for _, attributes in found.tags for key in attributes)
        assert found.text.count(nasty) > 12  # as text, to be read


def test_nothing_is_loaded_and_nothing_may_be(run, other):
    source = page.page((run, other), WRITTEN)
    found = Page(source)
    policy = found.all("meta", **{"http-equiv": "Content-Security-Policy"})
    assert "default-src 'none'" in policy[0]["content"]
    assert not re.search(r"https?:|url\(|@import|//[a-z]", re.sub(r'"data:[^"]*"', "", source.split("</head>")[1]))
    for _, attributes in found.tags:
        for key in ("src", "href"):
            assert attributes.get(key, "#").startswith(("#", "data:")), attributes
    ids = [a["id"] for _, a in found.tags if "id" in a]
    assert sorted(ids) == sorted(SECTIONS)
    assert {a["href"] for a in found.all("a")} <= {f"#{i}" for i in ids}
    assert all(a["alt"] for a in found.all("img"))


def test_pictures_are_the_worst_and_the_best_with_label_prediction_and_errors(run):
    found = read(run)
    images = [decoded(a["src"]) for a in found.all("img")]
    assert len(images) == 4 * 8
    order = [re.search(r"<i>(\d+)", a["alt"]).group(1) for a in found.all("img")][::4]
    ranked = sorted(run.gallery.mious, key=run.gallery.mious.get)
    assert order == [re.search(r"<i>(\d+)", name).group(1) for name in (*ranked[:4], *ranked[:-5:-1])]
    worst, (image, label, prediction, errors) = run.gallery.worst[0], images[:4]
    assert np.abs(image.astype(int) - worst.image).mean() < 10
    palette = SPEC.palette()
    np.testing.assert_array_equal(label, palette[worst.label])
    np.testing.assert_array_equal(prediction, palette[worst.prediction])
    is_red = (errors[..., 0].astype(int) - errors[..., 1] > 60).mean()
    is_wrong = ((worst.label != 255) & (worst.label != worst.prediction)).mean()
    assert is_red == pytest.approx(is_wrong, abs=0.02)
    assert f"mIoU {100 * worst.miou:.2f} %" in found.text
    assert "val/<i>0.png mIoU" in found.text  # below data.root


def decoded(uri):
    data = np.frombuffer(base64.b64decode(uri.split(",", 1)[1]), np.uint8)
    return cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def test_error_map_marks_wrong_and_ignored_pixels_only():
    image = np.full((2, 2, 3), 100, np.uint8)
    label, prediction = np.array([[0, 1], [255, 1]], np.uint8), np.array([[0, 0], [0, 1]], np.uint8)
    found = panels.error_map(image, label, prediction)
    assert found.dtype == np.uint8
    assert found.tolist() == [[[90] * 3, list(panels.WRONG)], [[0] * 3, [90] * 3]]


def test_large_images_are_made_small():
    for height, width in ((1024, 2048), (3000, 200), (10, 20)):
        picture = np.zeros((height, width, 3), np.uint8)
        found = decoded(panels.data_uri(panels.shrunk(picture, 480), is_photo=True)).shape
        assert max(found) == min(480, max(height, width))
        assert found[0] / found[1] == pytest.approx(height / width, rel=0.02)


def test_small_pictures_of_classes_have_no_other_colours():
    ids = np.random.default_rng(0).choice(np.array([*range(len(CLASSES)), 255], np.uint8), (700, 1100))
    found = decoded(panels.classes(ids, SPEC))
    assert found.shape == (305, 480, 3)
    assert set(map(tuple, found.reshape(-1, 3))) == {*SPEC.colors, (0, 0, 0)}


def test_curves_say_what_is_no_number_and_draw_the_rest(run):
    found = read(run)
    loss = found.all("svg", **{"aria-label": "loss over steps"})
    assert len(loss) == 1
    points = [a["points"].split() for a in found.all("polyline")]
    assert [len(p) for p in points] == [19, 20, 2]  # without the loss at step 30
    assert "1 not a finite number, first at step 30" in found.text
    assert "last 0.15 at step 200" in found.text
    assert "last 40 % at step 200" in found.text
    assert "40.00 % at step 200" in found.text  # the best in training
    assert "1 min 40 s, 8.0 images/s" in found.text  # 200 steps of 4 images, 8 a second
    assert all(0 <= float(v) <= 420 for p in points for pair in p for v in pair.split(","))


def test_config_says_first_what_differs_from_the_defaults(run):
    found = read(run)
    headings = found.rows.index(["key", "value", "default"])
    first = {row[0]: row[1:] for row in found.rows[headings + 1 : headings + 6]}
    assert first["batch_size"] == ["4", "12"]
    assert found.row("data.crop_hw")[-1] == "(1024, 1024)"  # as it is typed, not JSON
    assert "seed" not in first
    assert found.row("seed") == ["0"]
    assert "python -m ddrnet_jax.main --config '<mine>.py'" in found.text
    assert "jax 0.10.2" in found.text


def test_compare_shows_differences_of_scores_and_of_configs(run, other):
    found = read(run, other)
    both = [r.evaluation.values for r in (run, other)]
    assert found.row("mIoU") == [
        *(f"{100 * v['val/miou']:.2f} %" for v in both),
        f"{100 * (both[1]['val/miou'] - both[0]['val/miou']):+.2f}",
    ]
    for name in CLASSES:
        a, b = (v.get(f"val/iou/{name}") for v in both)
        _, *shown = found.row(name)
        if a is None:
            assert shown == ["–", "–", "–"]
        else:
            delta = 100 * (b - a)
            expected = "0.00" if abs(delta) < 0.005 else f"{delta:+.2f}"
            assert shown == [f"{100 * a:.2f}", f"{100 * b:.2f}", expected]
    assert found.row("optimizer.learning_rate") == ["0.01", "0.123"]
    different = found.rows.index(["key", "A", "B"])
    assert found.rows[different + 1][0] == "optimizer.learning_rate"
    assert found.rows[different + 2][:1] != ["seed"]
    assert [a["class"] for a in found.all("polyline")] == ["curve run0", "curve run1"] * 3
    assert len(found.all("img")) == 8 * 6  # image, label, and prediction and errors of both
    worst = short_name(run.gallery.worst[0].name, "/data")
    assert f"B mIoU {100 * other.gallery.by_name[worst].miou:.2f} %" in found.text


def test_compare_finds_the_images_below_another_root(run, other):
    also = [short_name(seen.name, "/data") for seen in (*run.gallery.worst, *run.gallery.best)]
    gallery, _ = shown_gallery(also=also[1:], seed=1, root="/elsewhere")
    text = read(run, dataclasses.replace(other, gallery=gallery)).text
    for name in also[1:]:
        assert f"B mIoU {100 * gallery.by_name[name].miou:.2f} %" in text
    assert text.count("B mIoU no image of this name") == 1
    text = read(run, dataclasses.replace(other, gallery=Gallery())).text
    assert text.count("B mIoU not evaluated") == 8


def test_compare_says_when_scores_are_of_different_things(run, other):
    assert "differently" not in read(run, other).text
    evaluation = dataclasses.replace(
        other.evaluation, settings=SETTINGS | {"eval.flip": True, "data.eval_split": "test"}
    )
    text = read(run, dataclasses.replace(other, evaluation=evaluation)).text
    assert "200 of 200 on val, evaluated for this report" in text
    assert "200 of 200 on test, evaluated for this report" in text
    assert "evaluated differently: data.eval_split, eval.flip differ" in text
    spec = dataclasses.replace(SPEC, classes=(*CLASSES[:4], "water"))
    text = read(run, dataclasses.replace(other, spec=spec)).text
    assert "different classes" in text
    assert "B mIoU not evaluated" in text


@pytest.mark.parametrize("missing", ["evaluation", "lines", "gallery", "made_by", "confusion", "everything"])
def test_what_is_missing_is_said(run, missing):
    empty = {"evaluation": None, "lines": [], "gallery": Gallery(), "made_by": {}}
    if missing == "confusion":
        changed = {"evaluation": dataclasses.replace(run.evaluation, confusion=None)}
    elif missing == "everything":
        changed = empty | {"notes": ["No weights to evaluate: <none>"]}
    else:
        changed = {missing: empty[missing]}
    partial = dataclasses.replace(run, **changed)
    words = {
        "evaluation": ("not evaluated yet", "no evaluation yet"),
        "lines": ("no line of training has it yet",),
        "gallery": ("No pictures",),
        "made_by": ("The command was not recorded",),
        "confusion": ("Not known: only an evaluation",),
        "everything": ("not evaluated yet", "No pictures", "No weights to evaluate: <none>"),
    }
    for runs in ((partial,), (partial, run), (run, partial)):
        found = read(*runs)
        assert {a["id"] for a in found.all("section")} == set(SECTIONS)
        for text in words[missing]:
            assert text in found.text or (text == "No pictures" and runs[0] is run)
        assert not re.search(r"\bnan\b", found.text, re.IGNORECASE)
        for name in CLASSES:  # of the run that has them
            assert missing in ("evaluation", "everything") and len(runs) == 1 or found.row(name)


def test_a_classifier_has_its_accuracies_and_no_pixels(run):
    config = config_json(task="classification", **{"model.aux_head": False, "data.name": "imagenet"})
    lines = [line | {"val/top1": 0.25} if "val/miou" in line else line for line in metric_lines()]
    evaluation = Evaluation({"val/top1": 0.25, "val/top5": 0.75}, None, 200, "evaluated for this report", SETTINGS)
    classifier = dataclasses.replace(run, config=config, lines=lines, evaluation=evaluation, gallery=Gallery())
    found = read(classifier)
    assert "25.00 %top-1 accuracy" in found.text
    assert "75.00 %top-5 accuracy" in found.text
    assert {a["id"] for a in found.all("section")} == {"summary", "curves", "config", "made"}
    assert "25.00 % at step 100" in found.text  # the first of two equal ones
    assert "different tasks" in read(classifier, run).text
    assert "different tasks" in read(run, classifier).text


def test_a_data_set_of_many_classes_stays_readable_and_small(run):
    rng = np.random.default_rng(0)
    names = tuple(f"class number {i}" for i in range(171))
    spec = dataclasses.replace(SPEC, classes=names, colors=tuple((i, i, i) for i in range(171)))
    confusion = rng.integers(0, 1000, (171, 171))
    confusion[7] *= 9
    values = {"val/miou": 0.1} | {f"val/iou/{name}": 0.1 for name in names}
    large = dataclasses.replace(
        run, spec=spec, evaluation=Evaluation(values, confusion, 1, "", SETTINGS), gallery=Gallery()
    )
    source = page.page((large,), WRITTEN)
    assert len(source) < 1_500_000
    found = Page(source)
    assert "40 of 171 classes" in found.text
    assert len([a for a in found.all("rect") if "fill-opacity" in a]) <= 40 * 40
    share = confusion[7, 7] / confusion[7].sum()  # of all its pixels, not of the 40 columns
    assert f"class number 7 predicted as class number 7: {share:.2%}" in found.text


def test_write_takes_a_file_or_a_folder_and_replaces_whole_pages(run, tmp_path):
    assert page.write([run], tmp_path / "a" / "b") == tmp_path / "a" / "b" / "report.html"
    assert page.write([run], tmp_path / "page.HTML").name == "page.HTML"
    (tmp_path / "folder.html").mkdir()
    assert page.write([run], tmp_path / "folder.html") == tmp_path / "folder.html" / "report.html"
    assert not list(tmp_path.rglob(".*.partial"))
    unprintable = dataclasses.replace(run, name="/runs/\udcff")  # a file's name that is not UTF-8
    Page(page.write([unprintable], tmp_path / "page.html").read_text())
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"file.*cannot be written"):
        page.write([run], tmp_path / "file" / "x.html")


def luminance(rgb):
    """Of sRGB 0..1. Source: WCAG 2."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first, second):
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [0, 1])
def test_every_text_is_told_from_what_is_behind_it(theme):
    themes = re.findall(r":root \{(.*?)\}", style.CSS, re.DOTALL)
    found = dict(re.findall(r"--([\w-]+): #(\w+);", themes[0]) + re.findall(r"--([\w-]+): #(\w+);", themes[theme]))
    full = {name: code if len(code) == 6 else "".join(2 * c for c in code) for name, code in found.items()}
    color = {name: np.array([int(code[i : i + 2], 16) / 255 for i in (0, 2, 4)]) for name, code in full.items()}
    for text, behind in itertools.product(("ink", "muted"), ("paper", "soft")):
        assert contrast(color[text], color[behind]) >= 4.5
    for name in ("run0", "run1", "wrong"):  # as text, and behind a letter
        assert contrast(color[name], color["paper"]) >= 4.5
    for cell, share in itertools.product(("cell-right", "cell-wrong"), np.linspace(0, 1, 101)):
        behind = share * color[cell] + (1 - share) * color["soft"]
        assert contrast(color["ink"], behind) >= 4.5


def test_the_numbers_of_the_heat_map_are_a_table_too(run):
    html = page.page([run], WRITTEN)
    numbers = html[html.index('<table class="numbers">') :].split("</table>")[0]
    confusion = run.evaluation.confusion
    cells = re.findall(r"<td>([^<]*)</td>", numbers)
    shares = 100 * confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    assert cells == [f"{share:.1f}" if share else "" for share in shares.ravel()]
    assert numbers.count("<bdi>") == 2 * len(run.spec.classes)


def test_names_turn_nothing_around(run):
    names = ("left_side", "\u05d0\u05d1", "a\u202eb", "d", "e")
    html = page.page([dataclasses.replace(run, spec=dataclasses.replace(run.spec, classes=names))], WRITTEN)
    assert html.count("<bdi>\u05d0\u05d1</bdi>") > 4
    assert "\u202e" not in html
