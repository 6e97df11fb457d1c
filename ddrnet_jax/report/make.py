"""A page about a run that is read and evaluated, or about two; and about one that has just been trained."""

import logging
from pathlib import Path

from ddrnet_jax.bucket import is_address
from ddrnet_jax.build import Experiment
from ddrnet_jax.evaluation.evaluate import check_same_classes
from ddrnet_jax.evaluation.gallery import Gallery, short_name
from ddrnet_jax.evaluation.metrics import Accuracy, Scores
from ddrnet_jax.report import page, run
from ddrnet_jax.runs import find

_log = logging.getLogger(__name__)


def make(
    shown: str | Path,
    output: str | Path | None = None,
    *,
    compare: str | Path | None = None,
    experiment: Experiment | None = None,
) -> Path | str:
    """Write the report on a workdir or one step's directory; returns the page's path, in a bucket its address.

    shown    its path, or its address gs://...
    output   a file that ends in .html, or a folder; None: report.html in the workdir
    compare  the same of a second run, side by side
    experiment  see run.read
    Raises ReportError or OutputError before anything is evaluated, and what run.read raises.
    """
    is_in_bucket = output is None and is_address(shown)
    output = output or run.workdir_of(shown)
    if output is None:
        raise run.ReportError(f"{shown}: no workdir of a run here; give one, or --output for the page of a copied step")
    found = [run.find(path) for path in (shown, compare) if path]
    for each in found:
        if experiment is not None and each.step_folder is not None:
            check_same_classes(experiment, each.step_folder, each.experiment)
    output = page.prepare(output)
    first = run.read(found[0], experiment=experiment)
    names = [short_name(seen.name, first.data_root) for seen in (*first.gallery.worst, *first.gallery.best)]
    others = [run.read(each, experiment=experiment, also=names) for each in found[1:]]
    path = page.write([first, *others], output)
    return f"{find.put_back(shown)}/{path.name}" if is_in_bucket else path


def after_training(
    workdir: str | Path,
    experiment: Experiment,
    *,
    step: int,
    result: Scores | Accuracy,
    gallery: Gallery,
    made_by: dict,
) -> None:
    """Write report.html of a run that has just evaluated its last step; what keeps it from that is a warning."""
    try:
        shown = run.of_training(workdir, experiment, step, result, gallery, made_by)
        page.write([shown], find.on_this_disk(workdir, needs_step=False) / page.NAME)
        if is_address(workdir):
            find.put_back(workdir)
    except Exception as e:  # whatever it is, the run is done and must end as one
        problem = (str(e).splitlines() or [""])[0]
        _log.warning(f"{workdir}/{page.NAME} is not written ({type(e).__name__}: {problem})")
