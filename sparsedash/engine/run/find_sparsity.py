"""Searches for the largest sparsity within the tolerance: a run whose sparsities are chosen by bisection."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from sparsedash.engine.models.loading import ModelShelf
from sparsedash.engine.models.matmul import fastest_products
from sparsedash.engine.run.pipeline import Stages, finished_run, new_run
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
    """Bisect over the sparsities that the model's widths can reach, until neighbours are found that part.

    Calibrates once; the dense model answers all passages, every trial as many as its verdict takes. What the store
    holds is not done again, so that a search that was stopped goes on. The result and its run are kept after every
    trial. run_key: the name to keep both under. Raises SparseDashError, and nothing half-done is kept.
    """
    with fastest_products(settings.dtype):
        return _bisect(settings, store, on_step, shelf or ModelShelf(), run_key)


def _bisect(
    settings: FindSettings, store: Store, on_step: OnStep, shelf: ModelShelf, run_key: str | None
) -> FindResult:
    # The first step stands in until the model's widths are known.
    stages = Stages(settings.run((1,)), store, on_step, shelf)
    key = run_key or settings.key(fingerprints(settings))
    run = replace(new_run(key, settings.run((1,)), stages), find=settings)
    before = store.get(FindResult, key)
    known = before if _is_of(store, key, run) else None
    stages.check()
    shown = before is None or not before.finished
    result = _new_result(key, settings, stages, known)
    run = replace(run, dense=stages.dense_record.key)
    within = StopWithin(ratio=settings.ratio, points=settings.points, n_trials=most_trials(len(result.steps)))
    stages.search(within)
    while (place := _next_step(result)) is not None:
        permille = result.steps[place]
        run = replace(run, settings=settings.run((*(trial.permille for trial in result.trials), permille)))
        stages.run_log.point = len(result.trials)
        keep = _keeper(store, stages, result, run) if shown else lambda: None
        keep()
        record = stages.sparse_record(settings.method, permille, keep)
        result = replace(result, trials=(*result.trials, _trial(permille, record)))
        run = replace(run, sparse=(*run.sparse, record.key))
    low, _ = search_bounds(len(result.steps), _verdicts(result))
    result = replace(result, answer=result.steps[low] if low >= 0 else None, finished=True)
    store.put(key, result)
    store.put(key, finished_run(_ascending(run, result), stages))
    return result


def _is_of(store: Store, key: str, run: Run) -> bool:
    """Whether what is kept under this key is of the very same model."""
    known = store.get(Run, key)
    return known is not None and known.model_identity == run.model_identity


def _new_result(key: str, settings: FindSettings, stages: Stages, before: FindResult | None) -> FindResult:
    """A result without trials. before: an earlier one of the same model, whose steps save loading it."""
    return FindResult(
        key=key,
        ratio=settings.ratio,
        points=settings.points,
        n_passages=len(stages.dense_record.outcomes),
        steps=before.steps if before is not None else _steps(settings, stages),
        trials=(),
        answer=None,
        finished=False,
    )


def _steps(settings: FindSettings, stages: Stages) -> tuple[int, ...]:
    if not settings.method.takes_channels:
        return weight_steps()
    widths = [mlp.width for mlp in stages.loaded.mlps]
    steps = channel_steps(widths, settings.method.width_multiple)
    if not steps:
        allowed = f"less than the {max(widths):,} channels of the MLPs"
        raise SettingsError("width multiple", settings.method.width_multiple, allowed)
    return steps


def _verdicts(result: FindResult) -> Sequence[tuple[int, bool]]:
    return [(result.steps.index(trial.permille), trial.verdict == "within") for trial in result.trials]


def _next_step(result: FindResult) -> int | None:
    return next_trial(len(result.steps), _verdicts(result))


def _trial(permille: int, record: Record) -> Trial:
    stopping = record.stopping
    assert stopping is not None, "every trial is to stop where it is decided"
    verdict = stopping.decision if stopping.decision in ("within", "beyond") else "undecided"
    return Trial(permille=permille, record=record.key, verdict=verdict, n_passages=stopping.n_answered)


def _keeper(store: Store, stages: Stages, result: FindResult, run: Run) -> Callable[[], None]:
    def keep() -> None:
        store.put(result.key, result)
        store.put(run.key, replace(run, warnings=tuple(stages.run_log.warnings)))

    return keep


def _ascending(run: Run, result: FindResult) -> Run:
    """The run with its trials by rising sparsity, as one reads them, instead of the order they were made in."""
    by_permille = dict(zip(run.settings.sparsities_permille, run.sparse, strict=True))
    ordered = tuple(sorted(by_permille))
    settings = replace(run.settings, sparsities_permille=ordered)
    return replace(run, settings=settings, sparse=tuple(by_permille[permille] for permille in ordered))
