"""mIoU of any engine or exported file on the eval split of an experiment, and two of them side by side."""

import contextlib
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

from tqdm import tqdm

from ddrnet_jax.build import Experiment, experiment
from ddrnet_jax.data.samples import Sample
from ddrnet_jax.evaluation import comparison, metrics
from ddrnet_jax.evaluation.comparison import Comparison
from ddrnet_jax.evaluation.evaluate import check_same_classes, samples_to_evaluate
from ddrnet_jax.exports.onnx_engine import EngineError
from ddrnet_jax.prediction import engines
from ddrnet_jax.prediction.segmenter import Segmenter

_log = logging.getLogger(__name__)
FILES = (".onnx", ".stablehlo")
_LEAVE_OUT = "leave --engine or these settings out"


def evaluate(wanted: Experiment, checkpoint: str | Path, engine: str) -> metrics.Scores:
    """Scores on the eval split of an experiment. Raises EngineError, CheckpointError or DataError with one line."""
    segmenter = _loaded(wanted, checkpoint, engine)
    with _samples(wanted) as samples:
        return comparison.scores_of_masks(segmenter.predict, samples, wanted.spec.num_classes)


def compare(wanted: Experiment, first: tuple[str | Path, str], second: tuple[str | Path, str]) -> Comparison:
    """Both (checkpoint or file, engine) on the eval split of an experiment. Raises as `evaluate` does."""
    ours, theirs = (_loaded(wanted, *each) for each in (first, second))
    with _samples(wanted) as samples:
        return comparison.compare(ours.predict, theirs.predict, samples, wanted.spec.num_classes)


@contextlib.contextmanager
def _samples(wanted: Experiment) -> Iterator[Iterable[Sample]]:
    source = wanted.eval_source()
    with samples_to_evaluate(source, None, num_threads=wanted.num_threads) as samples:
        yield tqdm(samples, total=len(source), unit="image", disable=None, ncols=80)


def _loaded(wanted: Experiment, checkpoint: str | Path, engine: str) -> Segmenter:
    """Raises EngineError where an engine would be compared by another view than the config's."""
    is_file = Path(checkpoint).suffix in FILES
    several = [key for key in ("scales", "flip") if wanted.view[key] not in (False, (1.0,))]
    if several and not is_file:
        raise EngineError(f"{_settings(wanted, several)}: an engine sees an image once; {_LEAVE_OUT}")
    segmenter = engines.load(checkpoint, engine)
    trained = experiment(segmenter.config)
    check_same_classes(wanted, checkpoint, trained)
    sizes = [key for key in ("size_hw", "tile_hw") if wanted.view[key] != trained.view[key]]
    if sizes and not is_file:
        raise EngineError(
            f"{_settings(wanted, sizes)}: an engine sees an image as the checkpoint's config says "
            f"({_settings(trained, sizes)}); {_LEAVE_OUT}"
        )
    if several or sizes:
        names = " and ".join(f"eval.{key}" for key in several + sizes)
        _log.warning(f"the file sees an image once, as it was exported to: without {names} of the config")
    return segmenter


def _settings(of: Experiment, keys: Iterable[str]) -> str:
    return ", ".join(f"eval.{key}={of.view[key]!r}" for key in keys)
