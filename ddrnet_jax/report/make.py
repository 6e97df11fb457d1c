"""The report of `--mode report`: a run read and evaluated, or two, and the page written."""

from collections.abc import Callable
from pathlib import Path

from ml_collections import ConfigDict

from ddrnet_jax.evaluation.evaluate import check_same_classes
from ddrnet_jax.report import page, run
from ddrnet_jax.report.gallery import short_name


def make(
    shown: str | Path,
    output: str | Path | None = None,
    *,
    compare: str | Path | None = None,
    config: ConfigDict | None = None,
    say: Callable[[str], None] = lambda message: None,
) -> Path:
    """Write the report on a workdir or one step's directory; returns the page's path.

    output   a file that ends in .html, or a folder; None: report.html in the workdir
    compare  the same of a second run, side by side
    config   see run.read
    Raises ReportError before anything is evaluated, and what run.read raises.
    """
    output = output or run.workdir_of(shown)
    if output is None:
        raise run.ReportError(f"{shown}: no workdir of a run here; give one, or --output for the page of a copied step")
    found = [run.find(path) for path in (shown, compare) if path]
    for each in found:
        if config is not None and each.step_folder is not None:
            check_same_classes(config, each.step_folder, each.config)
    output = page.prepare(output)
    first = run.read(found[0], config=config, say=say)
    names = [short_name(seen.name, first.data_root) for seen in (*first.gallery.worst, *first.gallery.best)]
    return page.write([first, *(run.read(each, config=config, also=names, say=say) for each in found[1:])], output)
