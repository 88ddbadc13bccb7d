"""The results of a run: its records, their comparisons with dense, verdicts, the best method, its
prompts.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache, partial
from itertools import chain
from math import isinf
from statistics import fmean
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, TypeVar

from sparsedash.catalog.published_results import LAST_WORD, PublishedRow, published_model
from sparsedash.jobs.job import Job
from sparsedash.reporting import wording
from sparsedash.reporting.charts import tradeoff_data
from sparsedash.reporting.charts.tradeoff_data import (
    Measure,
    Point,
    Reading,
    Readings,
    TradeoffData,
)
from sparsedash.schema.find_settings import FindResult
from sparsedash.schema.method_settings import Budget, MethodSettings
from sparsedash.schema.pair_records import Continuation, ContinuationSettings
from sparsedash.schema.records import Pruned, Record, Run
from sparsedash.schema.sparse_spec import SparseSpec
from sparsedash.schema.tolerance_settings import Tolerance
from sparsedash.service.answer_cache import AnswerCache
from sparsedash.service.stored_results import joined_continuation
from sparsedash.stats.races import LikelihoodDifference, likelihood_differences
from sparsedash.stats.significance import (
    PairedComparison,
    compare_records,
    holm,
    share_interval,
    shared_outcomes,
)
from sparsedash.stats.task_verdicts import JudgedAnswers
from sparsedash.stats.tolerance import (
    Loss,
    Losses,
    ToleranceVerdict,
    Verdict,
    judge_all,
    record_losses,
)
from sparsedash.storage.store import Store

if TYPE_CHECKING:
    from sparsedash.service.backend import Backend


@dataclass(frozen=True)
class StoredResults:
    """Records and searches of an open store, as the backend finds them."""

    store: Store

    def record(self, key: str) -> Record | None:
        """The record with this key."""
        return self.store.get(Record, key)

    def search(self, key: str) -> FindResult | None:
        """What the search behind the run with this key has found."""
        return self.store.get(FindResult, key)

    @cached_property
    def answers(self) -> AnswerCache:
        """The answers to tasks."""
        return AnswerCache(self.store)

    def continuation(self, settings: ContinuationSettings) -> Continuation | None:
        """What runs had these models write, or None."""
        return joined_continuation(
            settings, lambda request: self.store.get(Continuation, request.key())
        )

    def why_missing(self, key: str) -> str:
        """Why there is no record with this key, as the end of a sentence."""
        return self.store.why_missing(Record, key)

    def written_at(self, key: str) -> float | None:
        """When the record with this key was written; None where there is none."""
        return self.store.written_at(Record, key)


Results: TypeAlias = "Backend | StoredResults"
_Written: TypeAlias = tuple[str, float | None]
"""A record's key, and when it was written."""


@dataclass(frozen=True, kw_only=True)
class ModelResult:
    """A model of a run: its record, its comparison with dense, and its verdict.

    p_value: of equal accuracy, adjusted after Holm over the run's comparisons.
    """

    record: Record
    comparison: PairedComparison
    p_value: float
    verdict: ToleranceVerdict

    @property
    def pruned(self) -> Pruned:
        """How it was made. Raises AssertionError for the dense model."""
        assert self.record.pruned is not None, "the dense model was not pruned"
        return self.record.pruned

    @property
    def spec(self) -> SparseSpec:
        """How the model was pruned, healed and quantised."""
        return self.pruned.spec

    @property
    def method(self) -> MethodSettings:
        """The choices of pruning."""
        return self.spec.pruning

    @property
    def permille(self) -> int:
        """The sparsity asked for."""
        return self.spec.permille


Measured = tuple[Record, PairedComparison, Losses]
"""A record, and what it came to compared with dense."""


@dataclass(frozen=True, kw_only=True)
class ModelVerdict:
    """A sparse model of a run without its record, and its verdict."""

    spec: SparseSpec
    verdict: ToleranceVerdict

    @property
    def method(self) -> MethodSettings:
        """The choices of pruning."""
        return self.spec.pruning

    @property
    def permille(self) -> int:
        """The sparsity asked for."""
        return self.spec.permille


W = TypeVar("W", ModelResult, ModelVerdict)


def best_method(models: Sequence[W]) -> list[W]:
    """The models of the best method, by rising sparsity: the one with the largest sparsity within
    the limits.

    Ties go to the smaller loss of word perplexity, averaged over its models. Only methods that
    remove channels count, where there are any: zeros alone make nothing smaller. Quantised models
    do not count either, nor any of which nothing is gone.
    """
    by_method: dict[str, list[W]] = {}
    for model in sorted(models, key=lambda model: model.permille):
        # What quantising costs says nothing of the method: its models are judged as they are
        # before.
        if model.permille and not model.spec.is_quantised:
            by_method.setdefault(wording.spec_title(model.spec), []).append(model)
    candidates = list(by_method.values())
    channels = [models for models in candidates if models[0].method.is_structured]

    def merit(models: Sequence[W]) -> tuple[int, float]:
        most = largest_within(models)
        loss = fmean(model.verdict.perplexity.value for model in models)
        return most.permille if most else -1, -loss

    return max(
        channels or candidates,
        key=merit,
        default=[],
    )


def largest_within(rows: Sequence[W]) -> W | None:
    """The model with the largest sparsity that is within the limits; None where none is."""
    return next(
        (row for row in reversed(rows) if row.verdict.verdict == "within"),
        None,
    )


def smallest_beyond(rows: Sequence[W]) -> W | None:
    """The model with the smallest sparsity that is beyond the limits; None where none is."""
    return next(
        (row for row in rows if row.verdict.verdict == "beyond"),
        None,
    )


def is_one_layer_apart(within: ModelResult | None, beyond: ModelResult | None) -> bool:
    """Whether nothing lies between two models since the second has one layer less. within: None for
    dense.
    """
    if beyond is None or beyond.record.pruned is None or not beyond.method.removes_layers:
        return False
    before = within.record.pruned.widths.count(0) if within and within.record.pruned else 0
    return 0 <= beyond.record.pruned.widths.count(0) - before <= 1


def headline_model(models: Sequence[W], search: bool = False) -> W | None:
    """The model that the answer names: of the best method the largest within, the smallest beyond
    or the smallest.

    search: a search without any within ends at the smallest, however far beyond it began.
    """
    rows = best_method(models)
    return (
        largest_within(rows)
        or (None if search else smallest_beyond(rows))
        or next(iter(rows), None)
    )


def model_readings(model: ModelResult) -> Readings:
    """A model's values of every measure, with the intervals behind its verdict.

    Of perplexity what is farther than the chart reaches stands at its edge. One passage has no
    interval, and no bar.
    """
    record = model.record
    comparison = model.comparison
    score = record.last_word
    return {
        "word perplexity": (_perplexity_reading(model.verdict.perplexity),),
        "accuracy": (_accuracy_reading(model),),
        "flips": _flip_readings(comparison),
        "share right": (
            share_right(
                score.right,
                score.total,
                anytime=record.stopping is not None,
            ),
        ),
    }


def _perplexity_reading(loss: Loss) -> Reading:
    single = isinf(loss.low)
    bounds = (loss.value,) * 3 if single else (loss.value, loss.high, loss.low)
    nats, low, high = (
        min(
            tradeoff_data.FARTHEST_ABOVE,
            max(-tradeoff_data.FARTHEST_BELOW, -bound),
        )
        for bound in bounds
    )
    interval = "no interval" if single else f"{wording.factor_range(-high, -low)} ×"
    words = f"{wording.nats_as_factor(-nats)} that of dense ({interval})"
    return Reading(
        nats,
        low,
        high,
        words,
    )


def _accuracy_reading(model: ModelResult) -> Reading:
    change = model.comparison.difference
    loss = model.verdict.accuracy
    # Where the verdict leaves accuracy out, that has the interval of a comparison by itself.
    low, high = model.comparison.interval if loss is None else (-loss.high, -loss.low)
    interval = wording.signed_interval((low, high))
    words = f"{wording.signed_points(change)} points ({interval})"
    return Reading(
        100 * change,
        100 * low,
        100 * high,
        words,
    )


def _flip_readings(comparison: PairedComparison) -> tuple[Reading, Reading]:
    n = comparison.n_passages
    anytime = comparison.anytime
    broke = share_right(comparison.broke, n, anytime)
    fixed = share_right(comparison.fixed, n, anytime)
    words = f"{comparison.broke:,} broke, {comparison.fixed:,} fixed"
    return (
        Reading(
            -broke.value,
            -broke.high,
            -broke.low,
            words,
            "broke",
        ),
        replace(fixed, role="fixed", words=words),
    )


def share_right(right: int, total: int, anytime: bool = False) -> Reading:
    """Right answers among all, with an interval of the share. anytime: it must hold however long
    was counted.
    """
    share = 100 * right / total
    low, high = (100 * bound for bound in share_interval(right, total, anytime))
    return Reading(
        share,
        low,
        high,
        f"{share:.1f} % ({low:.1f} to {high:.1f})",
    )


def live_point(permille: int, right: int, done: int) -> Point:
    """The point of a model that has answered `done` passages so far. permille: asked for."""
    readings: Readings = {"share right": (share_right(right, done),)}
    return Point(
        key="",
        permille=permille,
        sparsity=permille / 10,
        readings=readings,
        facts=[f"{right:,} of {done:,} right so far"],
        live=True,
    )


@dataclass(frozen=True, kw_only=True)
class RunResults:
    """The dense model of a run and the sparse ones there are so far, their outcomes without words
    and first choices.

    models: each compared with dense on the passages that it answered, dense itself first. search:
    what was found so far, where the run is a search. name: given by users, or "". missing: why
    others of its sparse records are not here, by their names. judge_tasks: finds the verdicts on
    its tasks, by the keys of sparse records.
    """

    run: Run
    models: tuple[ModelResult, ...]
    tolerance: Tolerance
    search: FindResult | None = None
    name: str = ""
    missing: Mapping[str, str] = field(default_factory=dict)
    judge_tasks: Callable[[], Mapping[str, JudgedAnswers]] = dict

    @cached_property
    def tasks(self) -> Mapping[str, JudgedAnswers]:
        """The verdicts on its tasks, by the keys of sparse records; their questions are read when
        it is asked for.
        """
        return self.judge_tasks()

    @property
    def title(self) -> str:
        """What the run is called, and what it is about."""
        return wording.stored_run_title(self.run, self.name)

    @property
    def dense(self) -> Record:
        """The dense record."""
        return self.models[0].record

    @property
    def n_passages(self) -> int:
        """Passages that the dense model answered."""
        return self.dense.last_word.total

    @property
    def judged_search(self) -> FindResult | None:
        """The search that the run is, where it is judged by the limits that it was made for."""
        is_same = self.search is not None and self.search.tolerance == self.tolerance
        return self.search if is_same else None

    @property
    def judged(self) -> tuple[ModelResult, ...]:
        """The sparse models, in the order they were made."""
        return self.models[1:]

    @property
    def sparse(self) -> tuple[Record, ...]:
        """The sparse records, in the order they were made."""
        return tuple(model.record for model in self.judged)

    @property
    def records(self) -> dict[str, Record]:
        """Every record by the name it has within the run, dense first."""
        return {self.names[model.record.key]: model.record for model in self.models}

    @property
    def best(self) -> list[ModelResult]:
        """The models of the run's best method, by rising sparsity: see `best_method`."""
        return best_method(self.judged)

    @property
    def headline(self) -> Record | None:
        """The sparse record that the answer names."""
        return self._named.record if self._named else None

    @cached_property
    def _named(self) -> ModelResult | None:
        return headline_model(self.judged, search=self.run.find is not None)

    @property
    def raced(self) -> dict[str, list[SparseSpec]]:
        """Models that are compared with the best ones, these included, by their method's title."""
        by_title: dict[str, list[SparseSpec]] = {}
        if self._named is None:
            return by_title
        channels = self._named.method.is_structured
        for spec in self.run.settings.points:
            if spec.method and not spec.is_quantised and spec.method.is_structured == channels:
                by_title.setdefault(wording.spec_title(spec), []).append(spec)
        return by_title

    @cached_property
    def race(self) -> list[tuple[ModelResult, LikelihoodDifference]]:
        """Of several methods the others' models at the sparsity that the answer names, each against
        the best one's.

        The one that loses least first. All pairs of methods at all sparsities count, since the
        answers chose the best one and where it is best. Zeros are not compared with channels.
        """
        best = self._named
        raced = self.raced
        if best is None:
            return []
        shares = {spec.permille for spec in chain.from_iterable(raced.values())}
        titles = raced.keys() - {wording.spec_title(best.spec)}
        rivals = [
            model
            for model in self.judged
            if model.permille == best.permille
            and not model.spec.is_quantised
            and wording.spec_title(model.spec) in titles
        ]
        pairs = [(best.record, rival.record) for rival in rivals]
        n_pairs = len(raced) * (len(raced) - 1) // 2 * len(shares)
        differences = likelihood_differences(pairs, n_pairs)
        ranked = zip(rivals, differences, strict=True)
        return sorted(ranked, key=lambda pair: pair[1].value)

    @property
    def comparisons(self) -> dict[str, dict[str, str]]:
        """What the address of the compare page says of each sparse model beside dense, by its
        record's key.
        """
        return {
            record.key: {"run": self.run.key, "right": self.names[record.key]}
            for record in self.sparse
        }

    @cached_property
    def names(self) -> dict[str, str]:
        """The names of its records within the run, by their keys, dense first."""
        return wording.record_names(self.run)

    def line_of(self, spec: SparseSpec) -> str:
        """The label of a model's line in a chart: "sparse", or its method where that has to be said.

        Dense quantised begins the line of the first method that is quantised alike.
        """
        if spec.method is None:
            alike = (pruned_spec for pruned_spec in self.run.settings.points if pruned_spec.method)
            spec = next(
                (pruned_spec for pruned_spec in alike if pruned_spec.weights == spec.weights),
                spec,
            )
        name = wording.spec_title(spec) if self.run.settings.names_methods else "sparse"
        return wording.with_type(
            name,
            spec,
            again=bool(self.run.source_type),
        )

    @property
    def lines(self) -> list[str]:
        """The labels of all lines of its chart, in the order of its methods."""
        pruned = [spec for spec in self.run.settings.points if spec.method]
        return list(dict.fromkeys(map(self.line_of, pruned or self.run.settings.points)))

    def file_bytes(self, model: ModelResult) -> tuple[int, int] | None:
        """Bytes of a model's GGUF file and of dense's in 16 bits; None where nothing was quantised
        to compare with.

        Of one in 16 bits those of the file that quantised ones were made of, with all its widths
        filled up if it must.
        """
        pruned = model.record.pruned
        if pruned is None:
            return None
        if pruned.quantised:
            return pruned.quantised.n_bytes, pruned.quantised.dense_bytes
        for sibling in (model.pruned for model in self.judged):
            if sibling.quantised and sibling.spec.before_quantising == pruned.spec:
                return sibling.quantised.full_bytes, sibling.quantised.dense_bytes
        return None

    def removed(self, model: ModelResult, budget: Budget) -> float:
        """The share of a budget that is gone: of bytes by the files where there are some to
        compare.
        """
        if budget == "bytes" and (sizes := self.file_bytes(model)):
            return max(0.0, 1 - sizes[0] / sizes[1])
        return model.record.pruned.reached[budget] if model.record.pruned else 0.0

    def tradeoff(
        self, axis: Budget | None = None, live: tuple[str, Point] | None = None
    ) -> TradeoffData:
        """The data of this run's trade-off chart. axis: the budget whose shares it shows; None: the
        run's axis.

        live: the label of its line and the model that is answering now, drawn at the share asked
        for.
        """
        budget = self.run.settings.budget
        axis = axis or self.run.settings.axis
        lines: dict[str, list[Point]] = {label: [] for label in self.lines}
        for model in self.judged:
            lines.setdefault(self.line_of(model.spec), []).append(self.point_of(model, axis))
        if live is not None and axis == budget:
            lines[live[0]].append(live[1])
        return TradeoffData(
            dense=self.point_of(self.models[0], axis),
            lines=lines,
            n_passages=self.n_passages,
            taken=wording.sparsity_axis_title(
                (model.method for model in self.judged),
                axis,
            ),
            asked=self.run.settings.made_permille if axis == budget else (),
            leader=self.line_of(self.best[0].spec) if self.best else "",
            published=published_beside(self.dense) if axis == "channels" else (),
            allowed=self.allowed,
        )

    @property
    def allowed(self) -> dict[Measure, float]:
        """The limits of the measures that are judged, in nats and points."""
        limits: dict[Measure, float] = {"word perplexity": self.tolerance.most("word perplexity")}
        if any(model.verdict.accuracy for model in self.judged):
            limits["accuracy"] = self.tolerance.points
        return limits

    @property
    def has_task_lines(self) -> bool:
        """Whether a share of right answers to a task was judged of the best method."""
        return any(
            loss.measure == "accuracy"
            for loss in chain.from_iterable(model.verdict.tasks for model in self.best)
        )

    def task_tradeoff(self, axis: Budget) -> TradeoffData:
        """The data of the chart with a line for each task, of the best method."""
        lines = dict[str, list[Point]]()
        limits = set[float]()
        for model in self.best:
            answers = self.tasks.get(model.record.key)
            point = self.point_of(model, axis)
            for result in answers.results if answers else ():
                loss = result.loss
                if loss is None or loss.measure != "accuracy":
                    continue
                words = f"{wording.signed_points(-loss.value)} points"
                change = Reading(
                    -100 * loss.value,
                    -100 * loss.high,
                    -100 * loss.low,
                    words,
                )
                shares = f"{wording.percent(result.dense)} to {wording.percent(result.other)} right"
                task_point = replace(
                    point,
                    readings={"tasks": (change,)},
                    facts=[point.facts[0], shares],
                    verdicts={"tasks": loss.verdict},
                    hollow=False,
                )
                lines.setdefault(result.task, []).append(task_point)
                limits.add(100 * loss.most)
        passages = self.tradeoff(axis)
        dense = Reading(0.0, 0.0, 0.0, "dense")
        return replace(
            passages,
            dense=replace(passages.dense, readings={"tasks": (dense,)}),
            lines=lines,
            leader="",
            published=(),
            allowed={"tasks": max(limits)} if len(limits) == 1 else {},
        )

    def point_of(self, model: ModelResult, axis: Budget) -> Point:
        """The point of one of its models in a chart over the shares of a budget."""
        record = model.record
        score = record.last_word
        sparsity = 100 * self.removed(model, axis)
        facts = [
            f"{score.right:,} of {score.total:,} right",
            f"word perplexity {wording.perplexity(record.word_perplexity)}",
        ]
        verdicts: dict[Measure, Verdict] = {}
        if record.pruned:
            gone = f"{sparsity:.1f} % {wording.removed_or_zeroed(model.method)}"
            if quantised := record.pruned.quantised:
                gone = f"{wording.size(quantised.n_bytes)}, {sparsity:.1f} % less than dense in 16 bits"
            facts.insert(0, gone)
            verdicts = {loss.measure: loss.verdict for loss in model.verdict.losses}
        return Point(
            key=record.key,
            permille=record.sparsity_permille,
            sparsity=sparsity,
            readings=model_readings(model),
            facts=facts,
            hollow=score.total < self.n_passages,
            verdicts=verdicts,
        )


def run_results(
    results: Results, run: Run | None, tolerance: Tolerance | None = None, name: str = ""
) -> RunResults | None:
    """The run's records, or None while there is no dense one. Missing ones count among the
    comparisons.

    tolerance: the limits; None: the usual ones. name: given by users.
    """
    if run is None or not run.dense:
        return None
    measured = dict[str, Measured]()
    missing = dict[str, str]()
    for key, record_name in wording.record_names(run).items():
        try:
            measured[record_name] = measure_beside(results, run.dense, key)
        except LookupError as error:
            missing[record_name] = str(error.args[0])
    if wording.DENSE not in measured:
        return None
    limits = tolerance or Tolerance()
    dense, *sparse = measured.values()
    losses = {record.key: loss for record, _, loss in sparse}
    verdicts = results.answers.verdicts(run, losses, limits)
    return RunResults(
        run=run,
        models=(
            *judge([dense], Tolerance()),
            *_with_verdicts(
                sparse,
                list(verdicts.values()),
                run.n_compared,
            ),
        ),
        tolerance=limits,
        search=results.search(run.key) if run.find is not None else None,
        name=name,
        missing=missing,
        judge_tasks=partial(results.answers.of_run, run, limits),
    )


class PromptTexts(NamedTuple):
    """A prompt and its continuations. sparse: None where there is no such model yet, or its text is
    not stored.
    """

    prompt: str
    dense: str
    sparse: str | None


def prompt_texts(stored: Results, results: RunResults) -> Iterator[PromptTexts]:
    """Continuations of the run's prompts by dense and headline model; none of a prompt that dense
    has not continued.
    """
    dense = results.dense.key
    for prompt in results.run.settings.prompts:
        request = ContinuationSettings(
            left=dense,
            right=dense,
            prompt=prompt,
        )
        if (continued := stored.continuation(request)) is not None:
            sparse = results.headline and stored.continuation(request.by_one(results.headline.key))
            yield PromptTexts(
                prompt,
                continued.left,
                sparse.left if sparse else None,
            )


def judge(
    models: Sequence[Measured], tolerance: Tolerance, n_compared: int = 0
) -> list[ModelResult]:
    """The models judged together by their passages. n_compared: models that were compared, where
    that is more.
    """
    losses = [lost for *_, lost in models]
    return _with_verdicts(
        models,
        judge_all(losses, tolerance, n_compared),
        n_compared,
    )


def _with_verdicts(
    models: Sequence[Measured], verdicts: Sequence[ToleranceVerdict], n_compared: int
) -> list[ModelResult]:
    p_values = holm(
        [comparison.p_value for _, comparison, _ in models],
        n_compared,
    )
    return [
        ModelResult(
            record=record,
            comparison=comparison,
            p_value=p_value,
            verdict=verdict,
        )
        for (record, comparison, _), p_value, verdict in zip(
            models, p_values, verdicts, strict=True
        )
    ]


def measure(dense: Record, record: Record) -> Measured:
    """The record compared with dense."""
    return record, compare_records(dense, record), record_losses(dense, record)


def measure_beside(results: Results, dense_key: str, key: str) -> Measured:
    """The record with this key against a dense one, or another baseline, cached: a sweep anew would
    take seconds.

    Raises LookupError with the reason, which is not cached, since the record may yet come.
    """
    dense_version = (dense_key, results.written_at(dense_key))
    return _measured(
        results,
        dense_version,
        (key, results.written_at(key)),
    )


@lru_cache(maxsize=512)
def _measured(results: Results, dense_written: _Written, written: _Written) -> Measured:
    dense = _light_record(results, *dense_written)
    record = _light_record(results, *written)
    if record.passages_key != dense.passages_key or not shared_outcomes(dense, record):
        raise LookupError("answers other passages than the dense model")
    return measure(dense, record)


@lru_cache(maxsize=512)
def _light_record(results: Results, key: str, _written_at: float | None) -> Record:
    """A record, of whose outcomes only verdicts and log-likelihoods stay: those of many sweeps must
    fit into memory.
    """
    stored = results.record(key)
    if stored is None:
        raise LookupError(results.why_missing(key))
    return replace(
        stored,
        outcomes=tuple(
            replace(
                o,
                target="",
                answer="",
                tokens=(),
                top=(),
            )
            for o in stored.outcomes
        ),
    )


def published_beside(dense: Record) -> tuple[PublishedRow, ...]:
    """The published rows that a record can be compared with: the same model, passages and number
    format.
    """
    if dense.corpus != "lambada_openai":
        return ()
    return tuple(
        row
        for row in LAST_WORD
        if row.dtype == dense.dtype
        and dense.model in (row.model, published_model(row.model).reference)
    )


def live_model(results: RunResults, job: Job) -> tuple[str, Point] | None:
    """The line and the point of the sparse model that a job is evaluating now; None where it does
    something else.

    A run's records come in the order of its points: one whose record is there is drawn already.
    """
    progress = job.progress
    points = results.run.settings.points
    if progress.point is None or progress.n_right is None or results.run.finished:
        return None
    if not progress.done or not len(results.run.sparse) <= progress.point < len(points):
        return None
    spec = points[progress.point]
    return results.line_of(spec), live_point(
        spec.permille,
        progress.n_right,
        progress.done,
    )


def verdict_of(results: RunResults, dense: Record, right: Record) -> ToleranceVerdict:
    """The verdict on a model against a dense one: among all of the run's, or by itself where it is
    none of these.
    """
    models = results.judged if dense.key == results.dense.key else ()
    for model in models:
        if model.record.key == right.key:
            return model.verdict
    return judge_all([record_losses(dense, right)], results.tolerance)[0]


def difference_of(results: RunResults, first: Record, right: Record) -> LikelihoodDifference:
    """How the right model differs from a sparse left one: as in the run's race, or else by
    itself.
    """
    best = results.headline
    for rival, difference in results.race:
        keys = (best.key, rival.record.key) if best else ()
        if keys == (first.key, right.key):
            return difference
        if keys == (right.key, first.key):
            return replace(
                difference,
                value=-difference.value,
                low=-difference.high,
                high=-difference.low,
            )
    return likelihood_differences([(first, right)])[0]
