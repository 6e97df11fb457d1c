"""The parts of the page about numbers: summary, classes, curves, confusions. Each takes one run, or two to compare."""

import math
from collections.abc import Sequence

import numpy as np

from ddrnet_jax.report import charts
from ddrnet_jax.report.markup import DASH, Markup, element, name_of, table
from ddrnet_jax.report.run import Run
from ddrnet_jax.runs.metrics_file import not_finite, series, training_time

Ious = Sequence[tuple[str, Sequence[float | None]]]  # (class, its IoU in each run)
LETTERS = "AB"
_MOST_CLASSES = 40  # of a heat map; more cannot be read
_PAIRS = 10
_HEADLINES = {
    "segmentation": (("val/miou", "mIoU"), ("val/pixel_accuracy", "pixel accuracy")),
    "classification": (("val/top1", "top-1 accuracy"), ("val/top5", "top-5 accuracy")),
}


def percent(value: float | None) -> str:
    """0.6041 -> "60.41 %", a dash where there is no number."""
    return DASH if value is None or not math.isfinite(value) else f"{100 * value:.2f} %"


def difference(values: Sequence[float | None]) -> Markup:
    """The second less the first of two fractions, in points."""
    before, after = values[:2]
    if before is None or after is None or not (math.isfinite(before) and math.isfinite(after)):
        return element("span", DASH)
    delta = 100 * (after - before)
    kind = "same" if abs(delta) < 0.005 else "better" if delta > 0 else "worse"
    return element("span", f"{delta:+.2f}" if kind != "same" else "0.00", class_=kind)


def summary(runs: Sequence[Run]) -> Markup:
    """The headline scores and what was trained on what for how long."""
    facts = [_facts(run) for run in runs]
    if len(runs) == 1:
        cards = [
            element("div", element("b", percent(_value(runs[0], key))), element("span", name), class_="card")
            for key, name in _HEADLINES[runs[0].config["task"]]
        ]
        pairs = [(element("dt", name), element("dd", text)) for name, text in facts[0].items()]
        return element("section", element("div", cards, class_="cards"), element("dl", pairs), id="summary")
    rows = []
    for key, name in dict.fromkeys(pair for run in runs for pair in _HEADLINES[run.config["task"]]):
        values = [_value(run, key) for run in runs]
        rows.append([name, *map(percent, values), difference(values)])
    scores = table(["", "A", "B", "B − A"], rows, class_="compared")
    rows = [[name, *(f.get(name, DASH) for f in facts)] for name in dict.fromkeys(n for f in facts for n in f)]
    return element("section", scores, table(["", "A", "B"], rows, class_="compared"), id="summary")


def _value(run: Run, key: str) -> float | None:
    return run.evaluation.values.get(key) if run.evaluation else None


def _facts(run: Run) -> dict[str, str]:
    c, facts = run.config, {}
    if run.evaluation is None:
        facts["scores"] = "not evaluated yet"
    else:
        step = "unknown" if run.evaluation.step is None else f"{run.evaluation.step:,} of {c['total_steps']:,}"
        split = run.evaluation.settings["data.eval_split"]
        facts["scores of step"] = f"{step} on {split}, {run.evaluation.origin}"
    best = run.best_recorded()
    if best:
        facts["best in training"] = f"{percent(best[1])} at step {best[0]:,}"
    facts["network"] = f"DDRNet-{c['model']['variant']} {c['task']}, {c['model']['dtype']}"
    facts["data set"] = f"{c['data']['name']}, {run.spec.num_classes} classes"
    if run.gallery.mious and not run.is_a_part:
        facts["images evaluated"] = f"{len(run.gallery.mious):,}"
    seconds, rate = _training_time(run)
    if seconds:
        facts["training steps took"] = f"{duration(seconds)}, {rate:.1f} images/s"
    if run.made_by.get("devices"):
        facts["devices"] = run.made_by["devices"]
    return facts


def _training_time(run: Run) -> tuple[float, float]:
    """(seconds of the logged steps, images a second in them); compilation, evaluations and saves are not in it."""
    seconds, images = training_time(run.lines, run.config["batch_size"])
    return seconds, images / seconds if seconds else 0.0


def duration(seconds: float) -> str:
    """3725 -> "1 h 2 min"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def per_class(runs: Sequence[Run]) -> Markup | None:
    """A bar of IoU for every class, the best first; of two runs a bar each and the difference."""
    segmenters = [run for run in runs if run.config["task"] == "segmentation"]
    if not segmenters:
        return None
    title = element("h2", "IoU of each class")
    if all(run.evaluation is None for run in segmenters):
        text = "There is no evaluation yet, so no class has an IoU."
        return element("section", title, element("p", text), id="classes")
    names = dict.fromkeys(name for run in segmenters for name in run.spec.classes)
    ious = {name: [_value(run, f"val/iou/{name}") for run in runs] for name in names}
    best_first = sorted(ious.items(), key=lambda item: 1 if item[1][0] is None else -item[1][0])
    bars = _bars_of_one(runs[0], best_first) if len(runs) == 1 else _bars_of_two(segmenters, best_first)
    notes = [f"Run {LETTERS[i]} has no evaluation yet." for i, run in enumerate(runs) if run.evaluation is None]
    if any(_value(run, f"val/iou/{n}") is None for run in segmenters if run.evaluation for n in run.spec.classes):
        notes.insert(0, f"{DASH}: in neither labels nor predictions, so without an IoU and left out of the mean.")
    return element("section", title, bars, [element("p", note, class_="note") for note in notes], id="classes")


def _bars_of_one(run: Run, ious: Ious) -> Markup:
    shares, rows = _label_shares(run), []
    for name, (iou,) in ious:
        row = [_swatch(run, name), charts.bar(iou or 0, _colour(run, name)), percent(iou)]
        rows.append(row + [percent(shares[name])] if shares else row)
    return table(["class", "", "IoU", *(["of labels"] if shares else [])], rows, class_="classes")


def _bars_of_two(segmenters: Sequence[Run], ious: Ious) -> Markup:
    rows = []
    for name, pair in ious:
        swatch = _swatch(next(run for run in segmenters if name in run.spec.classes), name)
        bars = [charts.bar(iou or 0, "", run=i) for i, iou in enumerate(pair)]
        rows.append([swatch, bars, *(percent(iou).removesuffix(" %") for iou in pair), difference(pair)])
    return table(["class", "", "A, %", "B, %", "B − A"], rows, class_="classes")


def _label_shares(run: Run) -> dict[str, float]:
    confusion = None if run.evaluation is None else run.evaluation.confusion
    if confusion is None or not confusion.sum():
        return {}
    return dict(zip(run.spec.classes, map(float, confusion.sum(1) / confusion.sum()), strict=True))


def _colour(run: Run, name: str) -> str:
    return "rgb({}, {}, {})".format(*run.spec.palette()[run.spec.classes.index(name)])


def _swatch(run: Run, name: str) -> list[Markup]:
    return [element("i", class_="swatch", style=f"background: {_colour(run, name)}"), element("span", name_of(name))]


def legend(run: Run) -> Markup:
    """Every class with its colour."""
    return element("ul", [element("li", _swatch(run, name)) for name in run.spec.classes], class_="legend")


def curves(runs: Sequence[Run]) -> Markup:
    """Loss, learning rate and score over the steps, the runs' on the same axes."""
    score = runs[0].score_name
    name = dict(_HEADLINES[runs[0].config["task"]])[score]
    charts_of = (
        ("loss", "loss", "", 1, False),
        ("learning_rate", "learning rate", "", 1, False),
        (score, f"{name} on held-out images, %", " %", 100, True),
    )
    figures = [_curve_figure(runs, *of) for of in charts_of]
    return element("section", element("h2", "Curves"), element("div", figures, class_="charts"), id="curves")


def _curve_figure(runs: Sequence[Run], key: str, title: str, unit: str, factor: float, has_points: bool) -> Markup:
    found = [series(run.lines, key) for run in runs]
    drawn = [charts.Curve(steps, [factor * v for v in values]) for steps, values in found]
    said = [_about_curve(run, key, curve, unit) for run, curve in zip(runs, drawn, strict=True)]
    if len(runs) > 1:
        said = [
            element("span", element("b", LETTERS[i], class_=f"letter{i}"), f" {text}") for i, text in enumerate(said)
        ]
    caption = element("figcaption", element("b", title), [element("span", text, class_="note") for text in said])
    has_any = any(curve.steps for curve in drawn)
    chart = charts.line_chart(drawn, title=title, unit=unit, has_points=has_points) if has_any else None
    return element("figure", caption, chart)


def _about_curve(run: Run, key: str, curve: charts.Curve, unit: str) -> str:
    if not curve.steps:
        text = f"no line of {'metrics' if run.lines else 'training'} has it yet"
    else:
        text = f"last {curve.values[-1]:.4g}{unit} at step {curve.steps[-1]:,}"
        group = charts.lines_a_point(len(curve.steps))
        text += f"; a point is the mean of {group} lines" if group > 1 else ""
    broken = not_finite(run.lines, key)
    return f"{text}; {len(broken)} not a finite number, first at step {broken[0]:,}" if broken else text


def confusions(runs: Sequence[Run]) -> Markup | None:
    """The predictions for the pixels of each class, and the most frequent mistakes."""
    shown = [(LETTERS[i], run) for i, run in enumerate(runs) if run.config["task"] == "segmentation"]
    if not shown:
        return None
    parts = [_confusion(run, letter if len(runs) > 1 else "") for letter, run in shown]
    parts = element("div", parts, class_="halves") if len(runs) > 1 else parts
    about = (
        "Each row is 100 % of the pixels labelled so; its cells say what they were predicted as, in percent. "
        "Blue is right, orange wrong. Hover for counts."
    )
    return element("section", element("h2", "Confusions"), element("p", about, class_="note"), parts, id="confusions")


def _confusion(run: Run, letter: str) -> Markup:
    title = element("h3", letter) if letter else None
    confusion = run.evaluation.confusion if run.evaluation else None
    if confusion is None:
        return element("div", title, element("p", "Not known: only an evaluation by this report counts confusions."))
    totals = confusion.sum(1)
    if not totals.any():
        return element("div", title, element("p", "No labelled pixel was evaluated."))
    chosen = np.sort(np.argsort(-totals, kind="stable")[:_MOST_CLASSES])
    classes = [run.spec.classes[i] for i in chosen]
    counts = confusion[np.ix_(chosen, chosen)]
    heat = charts.heat_map(counts, classes, totals[chosen])
    cut = len(chosen) < len(totals)
    note = f"The {len(chosen)} of {len(totals)} classes with the most labelled pixels." if cut else None
    heat = element("div", heat, class_="scroll", tabindex=0)
    numbers = _numbers(counts, classes, totals[chosen])
    left = element("div", title, note and element("p", note, class_="note"), heat, numbers)
    mistakes = _most_frequent(confusion, run.spec.classes)
    return element("div", left, mistakes, class_=None if letter else "halves")


def _numbers(counts: np.ndarray, classes: Sequence[str], totals: np.ndarray) -> Markup:
    """The heat map as a table, for those who do not see it."""
    names = [name_of(name) for name in classes]
    rows = [
        [name, *(f"{100 * n / total:.1f}" if n else "" for n in row)]
        for name, row, total in zip(names, counts.tolist(), totals.tolist(), strict=True)
    ]
    title = element("summary", "The numbers of the map as a table")
    about = element("p", "A row is a label, a column what it was predicted as, in percent of the label.", class_="note")
    return element("details", title, about, table(["labelled as", *names], rows, class_="numbers"))


def _most_frequent(confusion: np.ndarray, classes: Sequence[str]) -> Markup:
    wrong = confusion - np.diag(np.diag(confusion))
    if not wrong.any():
        return element("div", element("p", "No labelled pixel was predicted wrong."))
    order = np.argsort(-wrong, axis=None, kind="stable")[:_PAIRS]
    pairs = [np.unravel_index(flat, wrong.shape) for flat in order]
    rows = [
        [
            name_of(classes[i]),
            name_of(classes[j]),
            percent(wrong[i, j] / confusion[i].sum()),
            percent(wrong[i, j] / wrong.sum()),
        ]
        for i, j in pairs
        if wrong[i, j]
    ]
    head = ["labelled", "predicted as", "of the label", "of all errors"]
    return element("div", element("h3", "Most frequent mistakes"), table(head, rows, class_="mistakes"))
