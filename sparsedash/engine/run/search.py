"""A search for the largest sparsity: a run whose sparsities are chosen by bisection."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from sparsedash.catalog.budgets import layer_share, mlp_share
from sparsedash.engine.models.loading import ModelCache
from sparsedash.engine.models.matmul import bf16_matmul_in_fp32
from sparsedash.engine.run.pipeline import (
    check_run,
    dense_record,
    finished_run,
    keep_unfinished,
    new_run,
    sparse_record,
    with_answers,
)
from sparsedash.engine.run.run_context import RunContext
from sparsedash.schema.find_settings import FindResult, FindSettings, Trial, TrialVerdict
from sparsedash.schema.progress import OnStep, ignore_steps
from sparsedash.schema.question_records import QuestionSet
from sparsedash.schema.records import Run
from sparsedash.schema.store_keys import StopWithin
from sparsedash.stats.sparsity_search import (
    WEIGHT_STEPS,
    channel_steps,
    most_trials,
    next_trial,
    search_bounds,
)
from sparsedash.stats.task_verdicts import is_unanswered, judge_run, overall_verdict
from sparsedash.storage.file_hashes import contents
from sparsedash.storage.store import Store


def find_sparsity(
    settings: FindSettings,
    store: Store,
    on_step: OnStep = ignore_steps,
    model_cache: ModelCache | None = None,
    run_key: str | None = None,
) -> FindResult:
    """Bisect over the sparsities that the model's widths can reach, until two neighbours are within
    and beyond.

    Calibrates once; the dense model is evaluated on all passages, every trial on as many as its
    verdict takes. What the store holds is not done again, so that an interrupted search resumes.
    The result and its run are kept after every trial. run_key: the key of both. Raises
    SparseDashError, and nothing half-done is kept.
    """
    with bf16_matmul_in_fp32(settings.dtype):
        # The first step stands in until the model's widths are known.
        context = RunContext(settings.run((1,)), store, on_step, model_cache or ModelCache())
        return _bisect(settings, context, run_key or settings.key(contents(settings, store)))


def _bisect(settings: FindSettings, context: RunContext, key: str) -> FindResult:
    store, new = context.store, replace(new_run(key, context), find=settings)
    before, known = store.get(FindResult, key), store.get(Run, key)
    check_run(context)
    dense = dense_record(context)
    # The steps of an earlier search on the very same model save loading it.
    is_same = known is not None and known.model_identity == new.model_identity
    steps = before.steps if before is not None and is_same else _steps(settings, context)
    result = FindResult(
        key=key,
        tolerance=settings.tolerance,
        n_passages=len(dense.outcomes),
        steps=steps,
        trials=(),
        answer=None,
        finished=False,
    )
    context.stop_within = StopWithin(tolerance=settings.tolerance, n_trials=most_trials(len(steps)))

    def grown(trials: Sequence[Trial], *at_work: int) -> Run:
        tried = settings.run((*(trial.permille for trial in trials), *at_work))
        made = tuple(trial.record for trial in trials)
        return with_answers(replace(new, settings=tried, dense=dense.key, sparse=made), context)

    def keep() -> None:
        store.change(FindResult, key, lambda now: now if now and now.finished else result)
        keep_unfinished(grown(result.trials, permille), context)

    verdicts: list[tuple[int, bool]] = []
    while (place := next_trial(len(steps), verdicts)) is not None:
        permille, context.log.point = steps[place], len(verdicts)
        keep()
        trial = _tried(context, settings, permille, keep, partial(grown, result.trials, permille))
        result = replace(result, trials=(*result.trials, trial))
        verdicts.append((place, trial.verdict == "within"))
    low, _ = search_bounds(len(steps), verdicts)
    result = replace(result, answer=steps[low] if low >= 0 else None, finished=True)
    store.put(key, result)
    # By rising sparsity, instead of the order they were made in.
    store.put(
        key, finished_run(grown(sorted(result.trials, key=lambda trial: trial.permille)), context)
    )
    return result


def _tried(
    context: RunContext,
    settings: FindSettings,
    permille: int,
    keep: Callable[[], None],
    run: Callable[[], Run],
) -> Trial:
    """One sparsity made, evaluated and judged. run: gives the run so far, asked once the model's
    answers are there.
    """
    record = sparse_record(context, settings.method, permille, keep)
    assert record.stopping is not None, "every trial is to stop where it is decided"
    decision = record.stopping.decision
    verdict: TrialVerdict = decision if decision in ("within", "beyond") else "undecided"
    if verdict == "within":
        verdict = _verdict_on_tasks(replace(run(), sparse=(record.key,)), settings, context.store)
    return Trial(
        permille=permille, record=record.key, verdict=verdict, n_passages=record.stopping.n_answered
    )


def _verdict_on_tasks(run: Run, settings: FindSettings, store: Store) -> TrialVerdict:
    """The verdict on the one model of this run by its tasks; within where none can be judged."""
    judged = judge_run(run, partial(store.get, QuestionSet), settings.tolerance)
    found = overall_verdict([result for each in judged.values() for result in each.results])
    if found == "beyond" or not is_unanswered(run, run.sparse[0], judged):
        return "within" if found == "not judged" else found
    return "undecided"


def _steps(settings: FindSettings, context: RunContext) -> tuple[int, ...]:
    if not settings.method.takes_channels:
        return WEIGHT_STEPS
    shape, multiple = context.shape, settings.method.width_multiple
    if settings.method.takes_layers:
        n = len(shape.widths)
        return channel_steps([n], 1, n * layer_share(shape, settings.method.budget))
    return channel_steps(shape.widths, multiple, mlp_share(shape, settings.method.budget))
