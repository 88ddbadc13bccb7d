"""How long the stages of a run take: by earlier runs of the same model, and by arithmetic where they say nothing."""

from collections.abc import Callable, Iterable, Sequence

from sparsedash.catalog.dimensions import Dimensions
from sparsedash.schema.cache_keys import shares_read
from sparsedash.schema.progress import Stage
from sparsedash.schema.records import Record, Run
from sparsedash.schema.settings import SELF, CalibrationSettings, RunSettings
from sparsedash.service.by_arithmetic import seconds_by_arithmetic
from sparsedash.service.machine_speed import Speeds

_LAST_LOADS = 5


def expected_seconds(
    settings: RunSettings,
    runs: Iterable[Run],
    record: Callable[[str], Record | None],
    speeds: Speeds | None = None,
    *,
    counted: Dimensions | None = None,
) -> dict[Stage, float | None]:
    """Seconds of each stage, for one model, by earlier runs of the same model; None where none has measured it.

    text: letting the model write it; nothing where it is read. runs, record, speeds, counted: as in
    `preflight.duration`; with both of the last, what none has measured is counted.
    """
    wanted = (settings.model, settings.dtype)
    before = [r for r in runs if r.finished and (r.settings.model, r.settings.dtype) == wanted]
    text, calibrate = _calibration_seconds(settings.calibration, before)
    measured: dict[Stage, float | None] = {
        "load": _loading_seconds(before),
        "text": text,
        "calibrate": calibrate,
        "prune": _pruning_seconds(settings, before),
        "evaluate": _evaluation_seconds(settings, before, record),
    }
    by_speed = seconds_by_arithmetic(settings, speeds, counted)
    return {stage: by_speed.get(stage) if seconds is None else seconds for stage, seconds in measured.items()}


def times(n: float, value: float | None) -> float | None:
    """So many times the value; None where that is not known."""
    return None if value is None else n * value


def _evaluation_seconds(
    settings: RunSettings, before: Sequence[Run], record: Callable[[str], Record | None]
) -> float | None:
    """For one model; the passages of another text set are taken to be as long as those measured."""
    evaluation = settings.evaluation
    n_passages, a_passage = evaluation.n_passages, None
    for run in before:
        dense = record(run.dense)
        if dense is None:
            continue
        if a_passage is None:
            a_passage = dense.seconds / len(dense.outcomes)
        whole = run.settings.evaluation.n_passages is None
        if n_passages is None and whole and run.settings.evaluation.corpus == evaluation.corpus:
            n_passages = len(dense.outcomes)
        if n_passages is not None:
            return n_passages * a_passage
    return None


def _loading_seconds(before: Sequence[Run]) -> float | None:
    """The longest of the last few: where the model was in memory still, loading took no time."""
    found = [run.seconds["load"] for run in before if "load" in run.seconds]
    return max(found[:_LAST_LOADS], default=None)


def _calibration_seconds(wanted: CalibrationSettings, before: Iterable[Run]) -> tuple[float, float] | tuple[None, None]:
    """For writing the text, which is nothing where it is read, and for one calibration."""
    for run in before:
        done = run.settings.calibration
        if "calibrate" not in run.seconds or (wanted.corpus == SELF != done.corpus):
            continue
        more = _n_tokens(wanted) / _n_tokens(done)
        written = run.seconds.get("text", 0.0) if wanted.corpus == SELF else 0.0
        return written * more, run.seconds["calibrate"] * more / max(1, len(shares_read(run.settings)))
    return None, None


def _pruning_seconds(settings: RunSettings, before: Sequence[Run]) -> float | None:
    """For one model, from runs of the same methods where there are any: one can take a hundred times as long as
    another.

    What methods take that read the text again grows with it, and no others tell of it; the largest, since a run that
    found in the store what it would have read for measured nothing.
    """
    same = [run for run in before if set(run.settings.methods) == set(settings.methods)]
    if _reads_again(settings):
        wanted = _n_tokens(settings.calibration)
        found = (times(wanted / _n_tokens(run.settings.calibration), _seconds_a_pruning(run)) for run in same)
        return max((value for value in found if value is not None), default=None)
    others = [run for run in before if not _reads_again(run.settings)]
    return _first(map(_seconds_a_pruning, (*same, *others)))


def _reads_again(settings: RunSettings) -> bool:
    return any(method.reads_again for method in settings.methods)


def _n_tokens(calibration: CalibrationSettings) -> int:
    return calibration.n_samples * calibration.length


def _seconds_a_pruning(run: Run) -> float | None:
    n_cached = sum(what.endswith("sparse") for what in run.cached)
    n_pruned = len(run.sparse) - n_cached
    return run.seconds["prune"] / n_pruned if "prune" in run.seconds and n_pruned > 0 else None


def _first(values: Iterable[float | None]) -> float | None:
    return next((value for value in values if value is not None), None)
