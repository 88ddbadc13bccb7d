"""Searches for the largest sparsity within the tolerance: a run whose sparsities are chosen by bisection."""

from collections.abc import Sequence
from dataclasses import replace

from sparsedash.engine.models.loading import ModelShelf
from sparsedash.engine.models.matmul import fastest_products
from sparsedash.engine.run.pipeline import check_run, dense_record, finished_run, new_run, sparse_record
from sparsedash.engine.run.run_context import RunContext
from sparsedash.schema.errors import SettingsError
from sparsedash.schema.progress import OnStep, ignore_steps
from sparsedash.schema.records import Record, Run
from sparsedash.schema.settings import FindResult, FindSettings, Trial
from sparsedash.schema.store_keys import StopWithin
from sparsedash.stats.sparsity_search import channel_steps, most_trials, next_trial, search_bounds, weight_steps
from sparsedash.storage.store import Store
from sparsedash.storage.text_files import fingerprints


def find_sparsity(
    settings: FindSettings,
    store: Store,
    on_step: OnStep = ignore_steps,
    shelf: ModelShelf | None = None,
    run_key: str | None = None,
) -> FindResult:
    """Bisect over the sparsities that the model's widths can reach, until two neighbours are within and beyond.

    Calibrates once; the dense model is evaluated on all passages, every trial on as many as its verdict takes. What the
    store holds is not done again, so that an interrupted search resumes. The result and its run are kept after every
    trial. run_key: the key of both. Raises SparseDashError, and nothing half-done is kept.
    """
    with fastest_products(settings.dtype):
        # The first step stands in until the model's widths are known.
        run = RunContext(settings.run((1,)), store, on_step, shelf or ModelShelf())
        return _bisect(settings, run, run_key or settings.key(fingerprints(settings)))


def _bisect(settings: FindSettings, run: RunContext, key: str) -> FindResult:
    store = run.store
    grown = replace(new_run(key, run), find=settings)
    before, known = store.get(FindResult, key), store.get(Run, key)
    check_run(run)
    # The steps of an earlier search on the very same model save loading it.
    is_same = before is not None and known is not None and known.model_identity == grown.model_identity
    dense = dense_record(run)
    result = FindResult(
        key=key,
        ratio=settings.ratio,
        points=settings.points,
        n_passages=len(dense.outcomes),
        steps=before.steps if before is not None and is_same else _steps(settings, run),
        trials=(),
        answer=None,
        finished=False,
    )
    grown = replace(grown, dense=dense.key)
    run.stop_within = StopWithin(ratio=settings.ratio, points=settings.points, n_trials=most_trials(len(result.steps)))

    def keep() -> None:
        if before is None or not before.finished:
            store.put(key, result)
            store.put(key, replace(grown, warnings=tuple(run.log.warnings)))

    while (place := next_trial(len(result.steps), _verdicts(result))) is not None:
        permille = result.steps[place]
        tried = (*(trial.permille for trial in result.trials), permille)
        grown = replace(grown, settings=settings.run(tried))
        run.log.point = len(result.trials)
        keep()
        record = sparse_record(run, settings.method, permille, keep)
        result = replace(result, trials=(*result.trials, _trial(permille, record)))
        grown = replace(grown, sparse=(*grown.sparse, record.key))
    low, _ = search_bounds(len(result.steps), _verdicts(result))
    result = replace(result, answer=result.steps[low] if low >= 0 else None, finished=True)
    # By rising sparsity, instead of the order they were made in.
    by_permille = dict(sorted(zip(grown.settings.sparsities_permille, grown.sparse, strict=True)))
    ascending = replace(grown.settings, sparsities_permille=tuple(by_permille))
    store.put(key, result)
    store.put(key, finished_run(replace(grown, settings=ascending, sparse=tuple(by_permille.values())), run))
    return result


def _steps(settings: FindSettings, run: RunContext) -> tuple[int, ...]:
    if not settings.method.takes_channels:
        return weight_steps()
    widths = [mlp.width for mlp in run.loaded.mlps]
    steps = channel_steps(widths, settings.method.width_multiple)
    if not steps:
        allowed = f"less than the {max(widths):,} channels of the MLPs"
        raise SettingsError("width multiple", settings.method.width_multiple, allowed)
    return steps


def _verdicts(result: FindResult) -> Sequence[tuple[int, bool]]:
    return [(result.steps.index(trial.permille), trial.verdict == "within") for trial in result.trials]


def _trial(permille: int, record: Record) -> Trial:
    stopping = record.stopping
    assert stopping is not None, "every trial is to stop where it is decided"
    verdict = stopping.decision if stopping.decision in ("within", "beyond") else "undecided"
    return Trial(permille=permille, record=record.key, verdict=verdict, n_passages=stopping.n_answered)
