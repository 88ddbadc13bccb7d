"""A search for the largest sparsity: a run whose sparsities are chosen by bisection."""

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
from sparsedash.schema.find_settings import (
    FindResult,
    FindSettings,
    Trial,
    TrialVerdict,
)
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
        return _bisect(
            settings, context, run_key or settings.key(file_hashes_of(settings, store))
        )


def _bisect(settings: FindSettings, context: RunContext, key: str) -> FindResult:
    search = _Search(settings, context, key)
    n_steps = len(search.steps)
    verdicts: list[tuple[int, bool]] = []
    while (place := next_trial(n_steps, verdicts)) is not None:
        verdicts.append((place, search.is_within(search.steps[place])))
    low, _ = search_bounds(n_steps, verdicts)
    return search.finish(search.steps[low] if low >= 0 else None)


class _Search:
    """A search at work: its result and its run, both kept after every trial."""

    def __init__(self, settings: FindSettings, context: RunContext, key: str) -> None:
        """Evaluate the dense model, or read its record. key: of result and run."""
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
        self.steps = (
            before.steps
            if before is not None and is_same
            else _steps(settings, context)
        )
        n_trials = most_trials(len(self.steps)) + 2 * len(settings.quantise)
        tolerance = settings.tolerance
        self._settings = settings
        self._store = store
        self._context = context
        self._trials = context.for_trials(
            StopWithin(tolerance=tolerance, n_trials=n_trials)
        )
        self._stop = StopRule(
            dense=dense.outcomes, n_comparisons=n_trials, tolerance=tolerance
        )
        self._tasks = tasks
        self._draft = draft
        self._result = FindResult(
            key=key,
            tolerance=tolerance,
            n_passages=len(dense.outcomes),
            steps=self.steps,
            trials=(),
            answer=None,
            finished=False,
        )

    def is_within(self, permille: int) -> bool:
        """Make and judge the model with this sparsity."""
        n_judged = len(self._result.trials)
        self._grow(permille)
        self._keep()
        model = prepare_model(self._trials, self._settings.spec(permille), n_judged)
        self._keep()
        with self._context.log.at_point(n_judged):
            record = sparse_record(self._trials, self._tasks, model, self._stop)
        trial = self._judged(record, permille)
        self._result = replace(self._result, trials=(*self._result.trials, trial))
        return trial.verdict == "within"

    def finish(self, answer: int | None) -> FindResult:
        """Quantise dense and answer where that is asked for, and keep the finished result."""
        # The last trial shows meanwhile, since quantising takes long.
        self._grow()
        self._keep()
        settings = self._settings
        if settings.quantise and answer is None:
            self._context.log.warn(
                "Nothing was quantised: no share is shown within the limits."
            )
        # By rising sparsity, instead of the order they were made in.
        permilles = sorted(trial.permille for trial in self._result.trials)
        final = settings.run(tuple(permilles), () if answer is None else (answer,))
        keys = {
            settings.spec(trial.permille): trial.record for trial in self._result.trials
        }
        keys |= self._quantise(final)
        result = replace(self._result, answer=answer, finished=True)
        self._store.put(result.key, result)
        self._draft.grow(
            settings=final, sparse=tuple(keys[spec] for spec in final.points)
        )
        self._draft.finish()
        return result

    def _quantise(self, run: RunSettings) -> dict[SparseSpec, str]:
        """Evaluate the quantised models of a run; the keys of their records."""
        keys = {}
        quantised = [spec for spec in run.points if spec.is_quantised]
        for number, spec in enumerate(quantised, len(self._result.trials)):
            model = prepare_model(self._trials, spec, number)
            with self._trials.log.at_point(number, quantised=True):
                keys[spec] = sparse_record(
                    self._trials, self._tasks, model, self._stop
                ).key
        return keys

    def _grow(self, *at_work: int) -> None:
        """Have the run consist of the trials, and of the sparsity in per mille that is at work."""
        trials = self._result.trials
        permilles = [trial.permille for trial in trials]
        self._draft.grow(
            settings=self._settings.run((*permilles, *at_work)),
            sparse=tuple(trial.record for trial in trials),
        )

    def _keep(self) -> None:
        result = self._result
        self._store.change(
            FindResult, result.key, lambda now: now if now and now.finished else result
        )
        self._draft.keep()

    def _judged(self, record: Record, permille: int) -> Trial:
        """The trial of one sparsity, by its passages and by the tasks that it answered."""
        assert record.stopping is not None, "every trial is to stop where it is decided"
        decision = record.stopping.decision
        verdict: TrialVerdict = (
            decision if decision in ("within", "beyond") else "undecided"
        )
        if verdict == "within":
            run = replace(self._draft.so_far(), sparse=(record.key,))
            verdict = self._verdict_on_tasks(run)
        return Trial(
            permille=permille,
            record=record.key,
            verdict=verdict,
            n_passages=record.stopping.n_answered,
        )

    def _verdict_on_tasks(self, run: Run) -> TrialVerdict:
        """The verdict on the one model of this run by its tasks; within where none can be judged."""
        judged = judge_run(
            run, partial(self._store.get, QuestionSet), self._settings.tolerance
        )
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
        return channel_steps(
            [n_layers], 1, n_layers * layer_share(context.shape, method.budget)
        )
    return channel_steps(
        widths, method.width_multiple, mlp_share(context.shape, method.budget)
    )
