"""The results of a run: its records, their comparisons with dense, verdicts, the best method, its
prompts.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache, partial
from math import isinf
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
from sparsedash.schema.records import Record, Run
from sparsedash.schema.tolerance_settings import Tolerance
from sparsedash.service.stored_results import AnswerCache, joined_continuation
from sparsedash.stats.races import LikelihoodDifference, likelihood_differences
from sparsedash.stats.significance import (
    PairedComparison,
    compare_records,
    holm,
    share_interval,
    shared_outcomes,
)
from sparsedash.stats.task_verdicts import JudgedAnswers
from sparsedash.stats.tolerance import Losses, ToleranceVerdict, judge_all, record_losses
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

    def written(self, asked: ContinuationSettings) -> Continuation | None:
        """What runs had these models write, or None."""
        return joined_continuation(asked, lambda each: self.store.get(Continuation, each.key()))

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
class Judged:
    """A model of a run: its record, its comparison with dense, and its verdict.

    p_value: of equal accuracy, adjusted after Holm over the run's comparisons.
    """

    record: Record
    comparison: PairedComparison
    p_value: float
    verdict: ToleranceVerdict

    @property
    def method(self) -> MethodSettings:
        """The method that made it."""
        assert self.record.pruned is not None, "a judged model is sparse"
        return self.record.pruned.method

    @property
    def permille(self) -> int:
        """The sparsity asked for."""
        return self.record.sparsity_permille


Measured = tuple[Record, PairedComparison, Losses]
"""A record, and what it came to compared with dense."""


@dataclass(frozen=True, kw_only=True)
class Weighed:
    """A sparse model of a run without its record: what made it, the sparsity asked for, its
    verdict.
    """

    method: MethodSettings
    permille: int
    verdict: ToleranceVerdict


W = TypeVar("W", Judged, Weighed)


def best_method(models: Sequence[W]) -> list[W]:
    """The models of the best method, by rising sparsity: the one with the largest sparsity within
    the limits.

    Ties go to the smaller loss of word perplexity, averaged over its models. Only methods that
    remove channels count, where there are any: zeros alone make nothing smaller. Quantised models
    do not count either, nor any of which nothing is gone.
    """
    by_method: dict[str, list[W]] = {}
    # What quantising costs says nothing of the method: its models are judged as they are before.
    for each in (own for own in models if own.permille and not own.method.quantise):
        by_method.setdefault(wording.method_title(each.method), []).append(each)
    ordered = [sorted(rows, key=lambda row: row.permille) for rows in by_method.values()]
    channels = [rows for rows in ordered if rows[0].method.takes_channels]

    def merit(rows: Sequence[W]) -> tuple[int, float]:
        most = largest_within(rows)
        return most.permille if most else -1, -sum(
            row.verdict.perplexity.value for row in rows
        ) / len(rows)

    return max(channels or ordered, key=merit, default=[])


def largest_within(rows: Sequence[W]) -> W | None:
    """The model with the largest sparsity that is within the limits; None where none is."""
    return next((row for row in reversed(rows) if row.verdict.verdict == "within"), None)


def smallest_beyond(rows: Sequence[W]) -> W | None:
    """The model with the smallest sparsity that is beyond the limits; None where none is."""
    return next((row for row in rows if row.verdict.verdict == "beyond"), None)


def is_one_layer_apart(within: Judged | None, beyond: Judged | None) -> bool:
    """Whether nothing lies between two models since the second has one layer less. within: None for
    dense.
    """
    if beyond is None or beyond.record.pruned is None or not beyond.method.takes_layers:
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


def model_readings(model: Judged) -> Readings:
    """A model's values of every measure, with the intervals behind its verdict.

    Of perplexity what is farther than the chart reaches stands at its edge. One passage has no
    interval, and no bar.
    """
    record, comparison, verdict = model.record, model.comparison, model.verdict
    score, broke, fixed = record.last_word, comparison.broke, comparison.fixed
    below, above = (
        share_right(count, comparison.n_passages, comparison.anytime) for count in (broke, fixed)
    )
    flips, loss, single = (
        f"{broke:,} broke, {fixed:,} fixed",
        verdict.perplexity,
        isinf(verdict.perplexity.low),
    )
    bounds = (loss.value,) * 3 if single else (loss.value, loss.high, loss.low)
    nats, low, high = (
        min(tradeoff_data.FARTHEST_ABOVE, max(-tradeoff_data.FARTHEST_BELOW, -each))
        for each in bounds
    )
    around = "no interval" if single else f"{wording.factor_range(-high, -low)} ×"
    # Where the verdict leaves accuracy out, that has the interval of a comparison by itself.
    lost, change = verdict.accuracy, comparison.difference
    ends = comparison.interval if lost is None else (-lost.high, -lost.low)
    points = f"{wording.signed_points(change)} points ({wording.signed_interval(ends)})"
    return {
        "word perplexity": (
            Reading(nats, low, high, f"{wording.nats_as_factor(-nats)} that of dense ({around})"),
        ),
        "accuracy": (Reading(100 * change, 100 * ends[0], 100 * ends[1], points),),
        "flips": (
            Reading(-below.value, -below.high, -below.low, flips, "broke"),
            replace(above, role="fixed", words=flips),
        ),
        "share right": (
            share_right(score.right, score.total, anytime=record.stopping is not None),
        ),
    }


def share_right(right: int, total: int, anytime: bool = False) -> Reading:
    """Right answers among all, with an interval of the share. anytime: it must hold however long
    was counted.
    """
    share, (low, high) = (
        100 * right / total,
        (100 * bound for bound in share_interval(right, total, anytime)),
    )
    return Reading(share, low, high, f"{share:.1f} % ({low:.1f} to {high:.1f})")


def live_point(permille: int, right: int, done: int) -> Point:
    """The point of a model that has answered `done` passages so far. permille: asked for."""
    reading, said = share_right(right, done), f"{right:,} of {done:,} right so far"
    readings: Readings = {"share right": (reading,)}
    return Point(
        key="",
        permille=permille,
        sparsity=permille / 10,
        readings=readings,
        facts=[said],
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
    models: tuple[Judged, ...]
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
    def judged(self) -> tuple[Judged, ...]:
        """The sparse models, in the order they were made."""
        return self.models[1:]

    @property
    def sparse(self) -> tuple[Record, ...]:
        """The sparse records, in the order they were made."""
        return tuple(each.record for each in self.judged)

    @property
    def records(self) -> dict[str, Record]:
        """Every record by the name it has within the run, dense first."""
        return {self.names[each.record.key]: each.record for each in self.models}

    @property
    def best(self) -> list[Judged]:
        """The models of the run's best method, by rising sparsity: see `best_method`."""
        return best_method(self.judged)

    @property
    def headline(self) -> Record | None:
        """The sparse record that the answer names."""
        return self._named.record if self._named else None

    @cached_property
    def _named(self) -> Judged | None:
        return headline_model(self.judged, search=self.run.find is not None)

    @property
    def raced(self) -> dict[str, MethodSettings]:
        """The methods that are compared with the best one, itself included, by their titles."""
        if self._named is None:
            return {}
        channels = self._named.method.takes_channels
        own = [
            each
            for each in self.run.settings.methods
            if each.takes_channels == channels and not each.quantise
        ]
        return {wording.method_title(method): method for method in own}

    @cached_property
    def race(self) -> list[tuple[Judged, LikelihoodDifference]]:
        """Of several methods the others' models at the sparsity that the answer names, each against
        the best one's.

        The one that loses least first. All pairs of methods at all sparsities count, since the
        answers chose the best one and where it is best. Zeros are not compared with channels.
        """
        best, raced = self._named, self.raced
        if best is None:
            return []
        asked = self.run.settings.sparsities_permille
        shares = {
            permille
            for method in raced.values()
            for permille in method.sparsities(asked)
            if permille
        }
        titles = raced.keys() - {wording.method_title(best.method)}
        rivals = [
            each
            for each in self.judged
            if each.permille == best.permille and not each.method.quantise
        ]
        rivals = [each for each in rivals if wording.method_title(each.method) in titles]
        pairs, n = [(best.record, each.record) for each in rivals], len(raced)
        found = likelihood_differences(pairs, n * (n - 1) // 2 * len(shares))
        return sorted(zip(rivals, found, strict=True), key=lambda each: each[1].value)

    @property
    def comparisons(self) -> dict[str, dict[str, str]]:
        """What the address of the compare page says of each sparse model beside dense, by its
        record's key.
        """
        return {
            each.record.key: {"run": self.run.key, "right": self.names[each.record.key]}
            for each in self.judged
        }

    @cached_property
    def names(self) -> dict[str, str]:
        """The names of its records within the run, by their keys, dense first."""
        return wording.record_names(self.run)

    def line_method(self, method: MethodSettings) -> MethodSettings:
        """The method whose line a model is on: dense quantised begins that of the first one
        quantised alike.
        """
        if not method.quantise or method in self.run.settings.methods:
            return method
        return next(own for own in self.run.settings.methods if own.quantise == method.quantise)

    def line_of(self, method: MethodSettings) -> str:
        """The label of a method's line in a chart: "sparse", or its name where it has to be
        said.
        """
        method = self.line_method(method)
        name = (
            wording.method_title(method.unquantised)
            if self.run.settings.names_methods
            else "sparse"
        )
        return wording.typed(name, method, again=bool(self.run.source_type))

    def file_bytes(self, model: Judged) -> tuple[int, int] | None:
        """Bytes of a model's GGUF file and of dense's in 16 bits; None where nothing was quantised
        to compare with.

        Of one in 16 bits those of the file that quantised ones were made of, with all its widths
        filled up if it must.
        """
        made = model.record.pruned
        for own in (each.record.pruned for each in (model, *self.judged)):
            if made and own and (of := own.quantised):
                if own is made:
                    return of.n_bytes, of.dense_bytes
                if (own.method.unquantised, own.sparsity_permille) == (
                    made.method,
                    made.sparsity_permille,
                ):
                    return of.full_bytes, of.dense_bytes
        return None

    def removed(self, model: Judged, budget: Budget) -> float:
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
        asked, axis = self.run.settings.budget, axis or self.run.settings.axis
        lines: dict[str, list[Point]] = {
            self.line_of(method): [] for method in self.run.settings.methods
        }
        for each in self.judged:
            lines.setdefault(self.line_of(each.method), []).append(self.point_of(each, axis))
        if live is not None and axis == asked:
            lines[live[0]].append(live[1])
        return TradeoffData(
            dense=self.point_of(self.models[0], axis),
            lines=lines,
            n_passages=self.dense.last_word.total,
            taken=wording.sparsity_axis_title((each.method for each in self.judged), axis),
            asked=self.run.settings.made_permille if axis == asked else (),
            leader=self.line_of(self.best[0].method) if self.best else "",
            published=published_beside(self.dense) if axis == "channels" else (),
            allowed=self.allowed,
        )

    @property
    def allowed(self) -> dict[Measure, float]:
        """The limits of the measures that are judged, in nats and points."""
        points: dict[Measure, float] = {"accuracy": self.tolerance.points}
        judged = points if any(each.verdict.accuracy for each in self.judged) else {}
        return {"word perplexity": self.tolerance.most("word perplexity"), **judged}

    @property
    def has_task_lines(self) -> bool:
        """Whether a share of right answers to a task was judged of the best method."""
        return any(loss.measure == "accuracy" for row in self.best for loss in row.verdict.tasks)

    def task_tradeoff(self, axis: Budget) -> TradeoffData:
        """The data of the chart with a line for each task, of the best method."""
        lines, limits = dict[str, list[Point]](), set[float]()
        for row in self.best:
            answers, point = self.tasks.get(row.record.key), self.point_of(row, axis)
            for result in answers.results if answers else ():
                if (loss := result.loss) is None or loss.measure != "accuracy":
                    continue
                words = f"{wording.signed_points(-loss.value)} points"
                change = Reading(-100 * loss.value, -100 * loss.high, -100 * loss.low, words)
                facts = [
                    point.facts[0],
                    f"{wording.percent(result.dense)} to {wording.percent(result.other)} right",
                ]
                told = replace(
                    point,
                    readings={"tasks": (change,)},
                    facts=facts,
                    verdicts={"tasks": loss.verdict},
                )
                lines.setdefault(result.task, []).append(replace(told, hollow=False))
                limits.add(100 * loss.most)
        whole, dense = self.tradeoff(axis), Reading(0.0, 0.0, 0.0, "dense")
        return replace(
            whole,
            dense=replace(whole.dense, readings={"tasks": (dense,)}),
            lines=lines,
            leader="",
            published=(),
            allowed={"tasks": max(limits)} if len(limits) == 1 else {},
        )

    def point_of(self, model: Judged, axis: Budget) -> Point:
        """The point of one of its models in a chart over the shares of a budget."""
        record, score, pruned = model.record, model.record.last_word, model.record.pruned
        sparsity = 100 * self.removed(model, axis)
        removed = [f"{sparsity:.1f} % {wording.removed_or_zeroed(pruned.method)}"] if pruned else []
        if pruned and (of := pruned.quantised):
            removed = [f"{wording.size(of.n_bytes)}, {sparsity:.1f} % less than dense in 16 bits"]
        right = f"{score.right:,} of {score.total:,} right"
        return Point(
            key=record.key,
            permille=record.sparsity_permille,
            sparsity=sparsity,
            readings=model_readings(model),
            facts=[
                *removed,
                right,
                f"word perplexity {wording.perplexity(record.word_perplexity)}",
            ],
            hollow=score.total < self.dense.last_word.total,
            verdicts={loss.measure: loss.verdict for loss in model.verdict.losses}
            if pruned
            else {},
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
    measured, missing = dict[str, Measured](), {}
    for key, named in wording.record_names(run).items():
        try:
            measured[named] = measure_beside(results, run.dense, key)
        except LookupError as error:
            missing[named] = str(error.args[0])
    if wording.DENSE not in measured:
        return None
    limits, (dense, *sparse) = tolerance or Tolerance(), measured.values()
    judged = judge(sparse, limits, run.n_compared)
    verdicts = results.answers.with_tasks(
        run, {each.record.key: each.verdict for each in judged}, limits
    )
    judged = [replace(each, verdict=verdicts[each.record.key]) for each in judged]
    return RunResults(
        run=run,
        models=(*judge([dense], Tolerance()), *judged),
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


def prompt_texts(results: Results, found: RunResults) -> Iterator[PromptTexts]:
    """Continuations of the run's prompts by dense and headline model; none of a prompt that dense
    has not continued.
    """
    dense = found.dense.key
    for prompt in found.run.settings.prompts:
        asked = ContinuationSettings(left=dense, right=dense, prompt=prompt)
        if (own := results.written(asked)) is not None:
            sparse = found.headline and results.written(asked.by_one(found.headline.key))
            yield PromptTexts(prompt, own.left, sparse.left if sparse else None)


def judge(models: Sequence[Measured], tolerance: Tolerance, n_compared: int = 0) -> list[Judged]:
    """The models judged together. n_compared: models that were compared, where that is more."""
    p_values = holm([comparison.p_value for _, comparison, _ in models], n_compared)
    verdicts = judge_all([losses for *_, losses in models], tolerance, n_compared)
    return [
        Judged(record=record, comparison=comparison, p_value=p_value, verdict=verdict)
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
    return _measured(results, *((each, results.written_at(each)) for each in (dense_key, key)))


@lru_cache(maxsize=512)
def _measured(results: Results, dense_written: _Written, written: _Written) -> Measured:
    dense, record = _light_record(results, *dense_written), _light_record(results, *written)
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
            replace(o, target="", answer="", tokens=(), top=()) for o in stored.outcomes
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


def live_model(found: RunResults, job: Job) -> tuple[str, Point] | None:
    """The line and the point of the sparse model that a job is evaluating now; None where it does
    something else.

    A run's records come in the order of its points: one whose record is there is drawn already.
    """
    at, points = job.progress, found.run.settings.points
    if at.point is None or at.n_right is None or not at.done or found.run.finished:
        return None
    if not len(found.run.sparse) <= at.point < len(points):
        return None
    method, permille = points[at.point]
    return found.line_of(method), live_point(permille, at.n_right, at.done)


def verdict_of(found: RunResults, left: Record, right: Record) -> ToleranceVerdict:
    """The verdict on a model against a dense one: among all of the run's, or by itself where it is
    none of these.
    """
    among = found.judged if left.key == found.dense.key else ()
    own = next((each.verdict for each in among if each.record.key == right.key), None)
    return own or judge_all([record_losses(left, right)], found.tolerance)[0]


def difference_of(found: RunResults, left: Record, right: Record) -> LikelihoodDifference:
    """How the right model differs from a sparse left one: as in the run's race, or else by
    itself.
    """
    best = found.headline
    for rival, difference in found.race:
        if best and (best.key, rival.record.key) == (left.key, right.key):
            return difference
        if best and (rival.record.key, best.key) == (left.key, right.key):
            return replace(
                difference, value=-difference.value, low=-difference.high, high=-difference.low
            )
    return likelihood_differences([(left, right)])[0]
