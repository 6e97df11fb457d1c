"""The parts of the page that are no scores: pictures, the config, how the run was made."""

from collections.abc import Mapping, Sequence

from ddrnet_jax import config
from ddrnet_jax.config import files as config_files
from ddrnet_jax.evaluation import panels
from ddrnet_jax.evaluation.gallery import Seen, short_name
from ddrnet_jax.report import sections
from ddrnet_jax.report.markup import DASH, Markup, element, name_of, table
from ddrnet_jax.report.run import Run
from ddrnet_jax.text import printable, versions

_LOWEST = 3  # classes of an image that are named


def pictures(runs: Sequence[Run]) -> Markup | None:
    """The worst and the best images of the first run, with the second's predictions beside."""
    first = runs[0]
    if first.config["task"] != "segmentation":
        return None
    title = element("h2", "Worst and best images")
    if not first.gallery.mious:
        text = "No pictures: they come from an evaluation by this report, and there was none with labelled pixels."
        return element("section", title, element("p", text), id="images")
    about = (
        f"By the mIoU of each image alone, out of {len(first.gallery.mious):,}"
        f"{' evaluated by the first process' if first.is_a_part else ''}"
        f"{', of run A' if len(runs) > 1 else ''}. Errors are red, ignored pixels black."
    )
    groups = [
        (element("h3", name), [_figure(runs, seen) for seen in chosen])
        for name, chosen in (("Worst", first.gallery.worst), ("Best", first.gallery.best))
        if chosen
    ]
    return element("section", title, element("p", about, class_="note"), sections.legend(first), groups, id="images")


def _figure(runs: Sequence[Run], seen: Seen) -> Markup:
    spec, name = runs[0].spec, short_name(seen.name, runs[0].data_root)
    shown, scores = [("image", panels.photo(seen)), ("label", panels.classes(seen.label, spec))], []
    for letter, run in zip(sections.LETTERS if len(runs) > 1 else [""], runs, strict=True):
        its = seen if run is runs[0] else run.gallery.by_name.get(name)
        if its is not None and run.spec.classes == spec.classes:
            prefix, score = f"{letter}: " if letter else "", sections.percent(its.miou)
            shown.append((f"{prefix}prediction", panels.classes(its.prediction, run.spec)))
            shown.append((f"{prefix}errors", panels.errors(its)))
        else:
            score = "no image of this name" if its is None and run.gallery.first else "not evaluated"
        scores.append(f"{letter} mIoU {score}".strip())
    images = [
        element(
            "div", element("img", src=uri, alt=f"{what} of {printable(name)}"), element("span", what), class_="panel"
        )
        for what, uri in shown
    ]
    caption = element("figcaption", element("b", name_of(name)), f" {', '.join(scores)}", _lowest(seen, spec.classes))
    return element("figure", caption, element("div", images, class_=f"panels of{len(shown)}"), class_="sample")


def _lowest(seen: Seen, classes: Sequence[str]) -> list:
    pairs = sorted((v, name) for v, name in zip(seen.iou, classes, strict=True) if v == v)[:_LOWEST]
    low = [[name_of(name), f" {100 * v:.0f}"] for v, name in pairs if v < 0.5]
    return [["; lowest: " if i == 0 else ", ", one] for i, one in enumerate(low)]


def configuration(runs: Sequence[Run]) -> Markup:
    """The keys that differ between two runs, those that differ from the defaults, then all."""
    flat = [config_files.flatten(run.config) for run in runs]
    default = config_files.flatten(config_files.to_json(config.base()))
    parts = []
    if len(runs) > 1:
        keys = [k for k in _keys(flat) if flat[0].get(k) != flat[1].get(k)]
        parts += [element("h3", "Different in the two runs"), _config_table(keys, {"A": flat[0], "B": flat[1]})]
    columns = dict(zip(sections.LETTERS if len(runs) > 1 else ["value"], flat, strict=False))
    changed = [k for k in _keys(flat) if any(values.get(k) != default.get(k) for values in flat)]
    parts += [
        element("h3", "Different from the defaults"),
        _config_table(changed, columns | {"default": default}),
        element("details", element("summary", "All keys"), _config_table(_keys(flat), columns)),
    ]
    return element("section", element("h2", "Config"), parts, id="config")


def _keys(flat: Sequence[Mapping]) -> list[str]:
    return list(dict.fromkeys(key for values in flat for key in values))


def _config_table(keys: Sequence[str], columns: Mapping[str, Mapping]) -> Markup:
    if not keys:
        return element("p", "None.")
    rows = [
        [element("code", key), *(element("code", _value(values, key)) for values in columns.values())] for key in keys
    ]
    return table(["key", *columns], rows, class_="config")


def _value(values: Mapping, key: str) -> str:
    """As it is typed in a config file."""
    return repr(config_files.tuples(values[key])) if key in values else DASH


def provenance(runs: Sequence[Run]) -> Markup:
    """The commands and the versions."""
    parts = []
    for letter, run in zip(sections.LETTERS, runs, strict=False):
        made_by = run.made_by
        parts.append(element("h3", letter) if len(runs) > 1 else None)
        command = made_by.get("command")
        parts.append(element("pre", command) if command else element("p", "The command was not recorded."))
        parts.append(element("p", versions(made_by.get("versions", {})) or "The versions were not recorded."))
    return element("section", element("h2", "How it was made"), parts, id="made")
