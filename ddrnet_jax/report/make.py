"""The report of `--mode report`: a run read and evaluated, or two, and the page written."""

from collections.abc import Callable
from pathlib import Path

from ml_collections import ConfigDict

from ddrnet_jax.report import page, run


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
    Raises ReportError, and what run.read raises.
    """
    output = output or run.workdir_of(shown)
    if output is None:
        raise run.ReportError(f"{shown}: no workdir of a run here; give one, or --output for the page of a copied step")
    runs = [run.read(shown, config=config, say=say)]
    if compare:
        names = [seen.name for seen in (*runs[0].gallery.worst, *runs[0].gallery.best)]
        runs.append(run.read(compare, config=config, also=names, say=say))
    return page.write(runs, output)
