"""The page: one file that needs no network, no script and nothing beside it."""

import datetime
from collections.abc import Sequence
from pathlib import Path

from ddrnet_jax.outputs import Outputs
from ddrnet_jax.report import details, sections
from ddrnet_jax.report.markup import Markup, document, element, name_of
from ddrnet_jax.report.run import ReportError, Run
from ddrnet_jax.report.style import CSS
from ddrnet_jax.runs.workdir import REPORT

NAME = REPORT
_LINKS = {
    "classes": "Classes",
    "curves": "Curves",
    "confusions": "Confusions",
    "images": "Images",
    "config": "Config",
    "made": "How it was made",
}


def page(runs: Sequence[Run], written: datetime.datetime) -> str:
    """The report on a run, or on two side by side, as the text of an HTML file.

    written  when, to the minute
    """
    parts = [
        sections.summary(runs),
        sections.per_class(runs),
        sections.curves(runs),
        sections.confusions(runs),
        details.pictures(runs),
        details.configuration(runs),
        details.provenance(runs),
    ]
    text = "".join(part for part in parts if part)
    links = [element("a", name, href=f"#{i}") for i, name in _LINKS.items() if f'id="{i}"' in text]
    title = " and ".join(dict.fromkeys(_title(run) for run in runs))
    header = element(
        "header",
        element("h1", title),
        [_where(run, i if len(runs) > 1 else None) for i, run in enumerate(runs)],
        element("p", f"written {written:%Y-%m-%d %H:%M} UTC", class_="where"),
        element("nav", links),
        _notes(runs),
    )
    return document(title, CSS, header, element("main", [part for part in parts if part]))


def _title(run: Run) -> str:
    return f"DDRNet-{run.config['model']['variant']} on {run.config['data']['name']}"


def _where(run: Run, index: int | None) -> Markup:
    letter = None if index is None else [element("b", sections.LETTERS[index], class_=f"letter{index}"), " "]
    return element("p", letter, name_of(run.name), class_="where")


def _notes(runs: Sequence[Run]) -> Markup | None:
    notes = [(i, note) for i, run in enumerate(runs) for note in run.notes]
    if len(runs) > 1:
        notes = [(i, f"{sections.LETTERS[i]}: {note}") for i, note in notes]
        notes += [(0, note) for note in _not_comparable(*runs)]
    return element("div", [element("p", note) for _, note in notes], class_="notes") if notes else None


def _not_comparable(first: Run, second: Run) -> list[str]:
    """The reasons why the scores of the two runs do not compare."""
    tasks = first.config["task"], second.config["task"]
    notes = []
    if tasks[0] != tasks[1]:
        notes.append(f"The runs have different tasks, {tasks[0]} and {tasks[1]}: their scores do not compare.")
    elif first.spec.classes != second.spec.classes:
        notes.append("The runs have different classes: their means are over different things.")
    if first.evaluation and second.evaluation:
        ways = first.evaluation.settings, second.evaluation.settings
        differing = [key for key in ways[0] if ways[0][key] != ways[1].get(key)]
        if differing:
            notes.append(f"The runs were evaluated differently: {', '.join(differing)} differ.")
    return notes


def prepare(path: str | Path) -> Path:
    """Make the folder of a page and check that the page can be written there; its path, see write.

    Raises ReportError or OutputError if it cannot be written, or something of the user's is there.
    """
    path = Path(path)
    path = path if path.suffix.lower() in (".html", ".htm") and not path.is_dir() else path / NAME
    if path.is_dir():
        raise ReportError(f"{path}: cannot be written (it is a folder)")
    Outputs(path.parent).require([path.name])
    return path


def write(runs: Sequence[Run], path: str | Path) -> Path:
    """Write the report to `path`, a file that ends in .html, or else a folder that gets a report.html; its path.

    Raises what `prepare` does. What was there before is replaced only by a whole page.
    """
    path = prepare(path)
    text = page(runs, datetime.datetime.now(datetime.UTC))
    Outputs(path.parent).write(path.name, text.encode("utf-8", "replace"))  # a file's name may hold what is no text
    return path
