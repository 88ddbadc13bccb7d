"""A search for the largest sparsity: a run whose sparsities are chosen by bisection."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import chain

from sparsedash.catalog.budgets import expert_steps, layer_share, mlp_share
from sparsedash.engine.evaluation.early_stopping import StopRule
from sparsedash.engine.models.loading import ModelCache
from sparsedash.engine.models.matmul import bf16_matmul_in_fp32
from sparsedash.engine.run.pipeline import (
    RunDraft,
    check_run,
    dense_record,
    prepare_model,
    prepare_quantising,
    sparse_record,
)
from sparsedash.engine.run.run_context import RunContext
from sparsedash.engine.run.task_answering import TaskAnswers
from sparsedash.schema.find_settings import FindResult, FindSettings, Trial, TrialVerdict
from sparsedash.schema.progress import OnStep, ignore_steps
from sparsedash.schema.question_records import QuestionSet
from sparsedash.schema.records import Record, Run
from sparsedash.schema.settings import RunSettings
from sparsedash.schema.sparse_spec import SparseSpec
from sparsedash.schema.store_keys import StopWithin
from sparsedash.stats.sparsity_search import (
    WEIGHT_STEPS,
    channel_steps,
    most_trials,
    next_trial,
    require_passages,
    search_bounds,
)
from sparsedash.stats.task_verdicts import is_unanswered, judge_run, overall_verdict
from sparsedash.storage.file_hashes import file_hashes_of
from sparsedash.storage.store import Store


def find_sparsity(
    settings: FindSettings,
    store: Store,
    on_step: OnStep = ignore_steps,
    model_cache: ModelCache | None = None,
    run_key: str | None = None,
) -> FindResult:
    """Bisect the reachable sparsities until two neighbours are within and beyond.

    Calibrates once; the dense model is evaluated on all passages, every trial on as many as its
    verdict takes; then dense and the answer are quantised where that is asked for. What the store
    holds is not done again, so that an interrupted search resumes. The result and its run are kept
    after every trial. run_key: the key of both. Raises SparseDashError, and nothing half-done is
    kept.
    """
    with bf16_matmul_in_fp32(settings.dtype):
        # The first step stands in until the model's widths are known.
        first = settings.run((1,), (1,))
        context = RunContext(first, store, on_step, model_cache or ModelCache())
        return _bisect(settings, context, run_key or settings.key(file_hashes_of(settings, store)))


def _bisect(settings: FindSettings, context: RunContext, key: str) -> FindResult:
    store = context.store
    before = store.get(FindResult, key)
    known = store.get(Run, key)
    prepare_quantising(context)
    tasks = TaskAnswers(context)
    draft = RunDraft(key, context, tasks, settings)
    check_run(context, tasks.tasks)
    require_passages(len(context.passages.indices))
    dense = dense_record(context, tasks)
    draft.grow(dense=dense.key)
    # The steps of an earlier search on the very same model save loading it.
    is_same = known is not None and known.model_identity == context.identity
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
    n_trials = most_trials(len(steps)) + 2 * len(settings.quantise)
    trials = context.for_trials(StopWithin(tolerance=settings.tolerance, n_trials=n_trials))
    stop = StopRule(dense=dense.outcomes, n_comparisons=n_trials, tolerance=settings.tolerance)
    verdicts: list[tuple[int, bool]] = []
    while (place := next_trial(len(steps), verdicts)) is not None:
        permille = steps[place]
        _grow(draft, settings, result.trials, permille)
        keep = partial(_keep, result, draft, store)
        keep()
        model = prepare_model(trials, settings.spec(permille), len(verdicts))
        keep()
        with context.log.at_point(len(verdicts)):
            record = sparse_record(trials, tasks, model, stop)
        trial = _judged(record, permille, draft.so_far(), settings, store)
        result = replace(result, trials=(*result.trials, trial))
        verdicts.append((place, trial.verdict == "within"))
    # The last trial shows while the answer is quantised, which takes long.
    _grow(draft, settings, result.trials)
    _keep(result, draft, store)
    low, _ = search_bounds(len(steps), verdicts)
    answer = steps[low] if low >= 0 else None
    if settings.quantise and answer is None:
        context.log.warn("Nothing was quantised: no share is shown within the limits.")
    # By rising sparsity, instead of the order they were made in.
    permilles = tuple(sorted(trial.permille for trial in result.trials))
    final = settings.run(permilles, () if answer is None else (answer,))
    keys = {settings.spec(trial.permille): trial.record for trial in result.trials}
    keys |= _quantise(final, len(keys), trials, tasks, stop)
    result = replace(result, answer=answer, finished=True)
    store.put(key, result)
    draft.grow(settings=final, sparse=tuple(keys[spec] for spec in final.points))
    draft.finish()
    return result


def _quantise(
    settings: RunSettings, n_made: int, context: RunContext, tasks: TaskAnswers, stop: StopRule
) -> dict[SparseSpec, str]:
    """Evaluate the quantised models of a run; the keys of their records. n_made: models before
    them.
    """
    keys = {}
    quantised = [spec for spec in settings.points if spec.is_quantised]
    for number, spec in enumerate(quantised, n_made):
        model = prepare_model(context, spec, number)
        with context.log.at_point(number, quantised=True):
            keys[spec] = sparse_record(context, tasks, model, stop).key
    return keys


def _grow(draft: RunDraft, settings: FindSettings, trials: Sequence[Trial], *at_work: int) -> None:
    """Have the run consist of these trials, and of the sparsity in per mille that is at work."""
    permilles = [trial.permille for trial in trials]
    draft.grow(
        settings=settings.run((*permilles, *at_work)),
        sparse=tuple(trial.record for trial in trials),
    )


def _keep(result: FindResult, draft: RunDraft, store: Store) -> None:
    store.change(FindResult, result.key, lambda now: now if now and now.finished else result)
    draft.keep()


def _judged(record: Record, permille: int, run: Run, settings: FindSettings, store: Store) -> Trial:
    """The trial of one sparsity. run: with the answers to tasks of the record's model."""
    assert record.stopping is not None, "every trial is to stop where it is decided"
    decision = record.stopping.decision
    verdict: TrialVerdict = decision if decision in ("within", "beyond") else "undecided"
    if verdict == "within":
        verdict = _verdict_on_tasks(replace(run, sparse=(record.key,)), settings, store)
    return Trial(
        permille=permille,
        record=record.key,
        verdict=verdict,
        n_passages=record.stopping.n_answered,
    )


def _verdict_on_tasks(run: Run, settings: FindSettings, store: Store) -> TrialVerdict:
    """The verdict on the one model of this run by its tasks; within where none can be judged."""
    judged = judge_run(run, partial(store.get, QuestionSet), settings.tolerance)
    results = chain.from_iterable(answers.results for answers in judged.values())
    verdict = overall_verdict(list(results))
    if verdict == "beyond" or not is_unanswered(run, run.sparse[0], judged):
        return "within" if verdict == "not judged" else verdict
    return "undecided"


def _steps(settings: FindSettings, context: RunContext) -> tuple[int, ...]:
    method = settings.method
    if not method.is_structured:
        return WEIGHT_STEPS
    if method.prunes_experts:
        return expert_steps(context.shape, method)
    widths = context.shape.widths
    if method.removes_layers:
        n_layers = len(widths)
        return channel_steps([n_layers], 1, n_layers * layer_share(context.shape, method.budget))
    return channel_steps(widths, method.width_multiple, mlp_share(context.shape, method.budget))
