"""A run's records together with what was measured on them: readings, comparisons with dense, the best method."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Protocol

from sparsedash.catalog.published import LAST_WORD, PublishedRow, published_model
from sparsedash.jobs.job import Job
from sparsedash.reporting import model_names, wording
from sparsedash.reporting.charts.points import Live, Point, Readings, TradeoffData
from sparsedash.reporting.readings import answering, judged, readings
from sparsedash.reporting.runs.leading import best_method, spoken_of
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.records import Record, Run
from sparsedash.schema.searches import FindResult
from sparsedash.stats.significance import PairedComparison, compare, holm, shared_outcomes
from sparsedash.stats.tolerance import Losses, Tolerance, ToleranceVerdict, judge_all, losses
from sparsedash.storage.store import Store


class Results(Hashable, Protocol):
    """Where records and searches are looked up by their keys: the backend, or an open store."""

    def record(self, key: str) -> Record | None:
        """The record with this key, or None."""

    def search(self, key: str) -> FindResult | None:
        """What the search behind the run with this key has found, or None."""

    def why_missing(self, key: str) -> str:
        """Why there is no record with this key, as the end of a sentence."""


@dataclass(frozen=True)
class StoredResults:
    """The results of a store that is open."""

    store: Store

    def record(self, key: str) -> Record | None:
        """See Results."""
        return self.store.get(Record, key)

    def search(self, key: str) -> FindResult | None:
        """See Results."""
        return self.store.get(FindResult, key)

    def why_missing(self, key: str) -> str:
        """See Results."""
        return self.store.why_missing(Record, key)


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A sparse model of a run: its record, its comparison with dense, and what that says of what is allowed.

    p_value: of equal accuracy, adjusted after Holm over the run's comparisons.
    """

    record: Record
    comparison: PairedComparison
    p_value: float
    verdict: ToleranceVerdict

    @property
    def method(self) -> MethodSettings:
        """The method that made it."""
        assert self.record.pruned is not None, "what is judged is a sparse model"
        return self.record.pruned.method

    @property
    def permille(self) -> int:
        """The sparsity asked for."""
        return self.record.sparsity_permille


@dataclass(frozen=True, kw_only=True)
class RunResults:
    """The dense record of a run and the sparse ones there are so far, their outcomes without words and first choices.

    judged: every sparse record beside dense, on the passages that it answered. tolerance: what they are judged by.
    readings: of every record, by its key. search: what was found so far, where the run is a search.
    name: what visitors called the run, or "". missing: why others of its sparse records are not here, by their names.
    """

    run: Run
    dense: Record
    judged: tuple[Judged, ...]
    tolerance: Tolerance
    readings: Mapping[str, Readings]
    search: FindResult | None = None
    name: str = ""
    missing: Mapping[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """What the run is called, and what it is about."""
        return wording.title_of(self.run, self.name)

    @property
    def sparse(self) -> tuple[Record, ...]:
        """The sparse records, in the order they were made."""
        return tuple(each.record for each in self.judged)

    @property
    def several_methods(self) -> bool:
        """Whether the names of its models have to say the method."""
        return model_names.has_several_methods(self.run.settings)

    @property
    def records(self) -> dict[str, Record]:
        """Every record by the name it has within the run, dense first."""
        return {self.name_of(record): record for record in (self.dense, *self.sparse)}

    def name_of(self, record: Record) -> str:
        """The name of one of its records."""
        return model_names.record_name(record, self.several_methods)

    def line_of(self, method: MethodSettings) -> str:
        """The label of a method's line in a chart."""
        return model_names.line_name(method, self.several_methods)

    def tradeoff(self, live: Live | None = None) -> TradeoffData:
        """The data of this run's trade-off chart. live: the model that is answering now."""
        lines: dict[str, list[Point]] = {self.line_of(method): [] for method in self.run.settings.methods}
        made = [(record, record.pruned.method) for record in self.sparse if record.pruned]
        for record, method in made:
            lines.setdefault(self.line_of(method), []).append(self.point_of(record))
        rows = best(self)
        return TradeoffData(
            dense=self.point_of(self.dense),
            lines=lines,
            n_passages=self.dense.last_word.total,
            taken=model_names.taken_by(method for _, method in made),
            asked=self.run.settings.made_permille,
            live=live,
            leader=self.line_of(rows[0].method) if rows else "",
            published=published_beside(self.dense),
            allowed={"word perplexity": self.tolerance.most("word perplexity"), "accuracy": self.tolerance.points},
        )

    def point_of(self, record: Record) -> Point:
        """The point of one of its records in a chart."""
        score, pruned = record.last_word, record.pruned
        sparsity = 100 * pruned.mlp_sparsity if pruned else 0.0
        removed = [f"{sparsity:.1f} % {wording.gone(pruned.method)}"] if pruned else []
        right = f"{score.right:,} of {score.total:,} right"
        return Point(
            key=record.key,
            permille=record.sparsity_permille,
            sparsity=sparsity,
            readings=self.readings[record.key],
            facts=[*removed, right, f"word perplexity {wording.perplexity(record.word_perplexity)}"],
            hollow=score.total < self.dense.last_word.total,
            verdict=next((each.verdict.verdict for each in self.judged if each.record is record), ""),
        )


def run_results(
    results: Results, run: Run | None, tolerance: Tolerance | None = None, name: str = ""
) -> RunResults | None:
    """The run's records, or None while there is no dense one. Those that are missing count among the comparisons.

    tolerance: what may be lost; None: as usual. name: what visitors called the run.
    """
    dense = _measured(results, run.dense, run.dense) if run and run.dense else None
    if run is None or dense is None or dense.record.pruned:
        return None
    names = dict(model_names.record_names(run)[1:])
    measured = {key: _measured(results, run.dense, key) for key in names}
    found = [each for each in measured.values() if each]
    # One of each name, which tells them apart on every page.
    several = model_names.has_several_methods(run.settings)
    by_name = {model_names.record_name(each.record, several): each for each in found if each.record.pruned}
    sparse = list(by_name.values())
    allowed = tolerance or Tolerance()
    p_values = holm([each.comparison.p_value for each in sparse], run.n_compared)
    verdicts = judge_all([each.losses for each in sparse], allowed, run.n_compared)
    return RunResults(
        run=run,
        dense=dense.record,
        judged=tuple(
            Judged(record=each.record, comparison=each.comparison, p_value=p_value, verdict=verdict)
            for each, p_value, verdict in zip(sparse, p_values, verdicts, strict=True)
        ),
        tolerance=allowed,
        readings={dense.record.key: dense.readings}
        | {
            each.record.key: {**each.readings, **judged(each.comparison, verdict)}
            for each, verdict in zip(sparse, verdicts, strict=True)
        },
        search=results.search(run.key) if run.find is not None else None,
        name=name,
        missing={names[key]: _why_missing(results, key) for key, each in measured.items() if each is None},
    )


def _why_missing(results: Results, key: str) -> str:
    if results.record(key) is None:
        return results.why_missing(key)
    return "answers other passages than the dense model"


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """A record without the words of its outcomes, and what it came to beside dense."""

    record: Record
    comparison: PairedComparison
    losses: Losses
    readings: Readings


def _measured(results: Results, dense: str, key: str) -> _Measured | None:
    """The record with this key beside the dense one; None where one is lost or they answer other passages."""
    try:
        return _kept(results, dense, key)
    except LookupError:
        return None


@lru_cache(maxsize=128)
def _kept(results: Results, dense_key: str, key: str) -> _Measured:
    """As `_measured`, kept for the next look at the page: measuring a sweep anew would take seconds.

    A sweep of many methods has more passages than fit into memory whole, so only verdicts and log-likelihoods of the
    outcomes stay. Raises LookupError; what raises is not kept, since the record may yet come.
    """
    stored = results.record(key)
    if stored is None:
        raise LookupError(key)
    light = (replace(o, target="", answer="", tokens=(), top=()) for o in stored.outcomes)
    record = replace(stored, outcomes=tuple(light))
    dense = record if key == dense_key else _kept(results, dense_key, dense_key).record
    if record.passages_key != dense.passages_key or not shared_outcomes(dense, record):
        raise LookupError(key)
    comparison, lost = compare(dense, record), losses(dense, record)
    (alone,) = judge_all([lost], Tolerance())
    return _Measured(record=record, comparison=comparison, losses=lost, readings=readings(record, comparison, alone))


def published_beside(dense: Record) -> tuple[PublishedRow, ...]:
    """The published rows that a record can be compared with: the same model, passages and number format."""
    if dense.corpus != "lambada_openai":
        return ()
    return tuple(
        row
        for row in LAST_WORD
        if row.dtype == dense.dtype and dense.model in (row.model, published_model(row.model).reference)
    )


def live(found: RunResults, job: Job) -> Live | None:
    """The point of the sparse model that a job is asking just now; None where the job does something else.

    A run's records come in the order of its points: one whose record is there is drawn already.
    """
    if job.point is None or job.n_right is None or not job.done:
        return None
    points = found.run.settings.points
    if found.run.finished or not len(found.run.sparse) <= job.point < len(points):
        return None
    method, permille = points[job.point]
    return answering(found.line_of(method), permille, job.n_right, job.done)


def best(found: RunResults) -> list[Judged]:
    """The models of the run's best method, by rising sparsity: see `best_method`."""
    return best_method(found.judged)


def headline(found: RunResults) -> Record | None:
    """The sparse record that the answer speaks of."""
    judged = spoken_of(found.judged)
    return judged.record if judged else None


def judged_alone(dense: Record, sparse: Record, tolerance: Tolerance) -> Judged:
    """The sparse record beside dense, where the run that it is of is not known."""
    pairs = compare(dense, sparse)
    (verdict,) = judge_all([losses(dense, sparse)], tolerance)
    return Judged(record=sparse, comparison=pairs, p_value=pairs.p_value, verdict=verdict)


def verdict_of(found: RunResults, left: Record, right: Record) -> ToleranceVerdict:
    """What this comparison says of what is allowed: among all of the run's, or by itself where it is none of these."""
    if left.key == found.dense.key:
        for each in found.judged:
            if each.record.key == right.key:
                return each.verdict
    return judge_all([losses(left, right)], found.tolerance)[0]
