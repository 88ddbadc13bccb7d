"""A run's records together with what was measured on them: readings, comparisons with dense, the best method."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import takewhile

from sparsedash.catalog.published import LAST_WORD, PublishedRow, published_model
from sparsedash.jobs.job import Job
from sparsedash.reporting import model_names, wording
from sparsedash.reporting.charts.points import Live, Point, Readings, TradeoffData
from sparsedash.reporting.readings import answering, readings
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.records import Record, Run
from sparsedash.service.backend import Backend
from sparsedash.stats.significance import PairedComparison, compare, holm, judge

Row = tuple[Record, PairedComparison, float]
"""A sparse record, its comparison with dense, and the adjusted p-value of that."""


@dataclass(frozen=True, kw_only=True)
class RunResults:
    """The dense record of a run and the sparse ones there are so far, their outcomes without words and first choices.

    paired: each sparse record against dense, on the passages that it answered. p_values: of these, adjusted after Holm
    over the sweep. readings: of every record, by its key.
    """

    run: Run
    dense: Record
    sparse: tuple[Record, ...]
    paired: tuple[PairedComparison, ...]
    p_values: tuple[float, ...]
    readings: Mapping[str, Readings]

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
            leader=self.line_of(method_of(rows[0])) if rows else "",
            published=published_beside(self.dense),
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
            facts=[*removed, right, f"word perplexity {record.word_perplexity:,.2f}"],
            hollow=score.total < self.dense.last_word.total,
        )


def run_results(backend: Backend, run: Run | None) -> RunResults | None:
    """The run's records, or None while there is no dense one. Records that were lost are left out."""
    dense = _measured(backend, run.dense, run.dense) if run and run.dense else None
    if run is None or dense is None:
        return None
    sparse = [each for each in (_measured(backend, run.dense, key) for key in run.sparse) if each]
    return RunResults(
        run=run,
        dense=dense.record,
        sparse=tuple(each.record for each in sparse),
        paired=tuple(each.comparison for each in sparse),
        p_values=tuple(holm([each.comparison.p_value for each in sparse])),
        readings={each.record.key: each.readings for each in (dense, *sparse)},
    )


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """A record without the words of its outcomes, and what it came to beside dense."""

    record: Record
    comparison: PairedComparison
    readings: Readings


def _measured(backend: Backend, dense: str, key: str) -> _Measured | None:
    """The record with this key beside the dense one; None where one is lost or they answer other passages."""
    try:
        return _kept(backend, dense, key)
    except LookupError:
        return None


@lru_cache(maxsize=128)
def _kept(backend: Backend, dense_key: str, key: str) -> _Measured:
    """As `_measured`, kept for the next look at the page: measuring a sweep anew would take seconds.

    A sweep of many methods has more passages than fit into memory whole, so only verdicts and log-likelihoods of the
    outcomes stay. Raises LookupError; what raises is not kept, since the record may yet come.
    """
    stored = backend.record(key)
    if stored is None:
        raise LookupError(key)
    light = (replace(o, target="", answer="", tokens=(), top=()) for o in stored.outcomes)
    record = replace(stored, outcomes=tuple(light))
    dense = record if key == dense_key else _kept(backend, dense_key, dense_key).record
    if record.passages_key != dense.passages_key:
        raise LookupError(key)
    comparison = compare(dense, record)
    return _Measured(record=record, comparison=comparison, readings=readings(dense, record, comparison))


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
    if found.run.finished or job.point < len(found.run.sparse):
        return None
    method, permille = found.run.settings.points[job.point]
    return answering(found.line_of(method), permille, job.n_right, job.done)


def best(found: RunResults) -> list[Row]:
    """The rows of the best method, by rising sparsity: the one that removes most before a difference is shown.

    Ties go to the higher accuracy at the largest sparsity. Only methods that remove channels count, where there are
    any: what only sets weights to zero makes nothing smaller.
    """
    by_method: dict[str, list[Row]] = {}
    for row in zip(found.sparse, found.paired, found.p_values, strict=True):
        by_method.setdefault(wording.method(method_of(row)), []).append(row)
    ordered = [sorted(rows, key=lambda row: row[0].sparsity_permille) for rows in by_method.values()]
    channels = [rows for rows in ordered if method_of(rows[0]).takes_channels]
    return max(channels or ordered, key=_merit, default=[])


def headline(found: RunResults) -> Record | None:
    """The sparse record that the answer speaks of: the first with a difference, or the last without one."""
    rows = best(found)
    harmed = rows[len(unharmed(rows)) :]
    return next((row[0] for row in [*harmed[:1], *rows[-1:]]), None)


def adjusted(found: RunResults, left: Record, right: Record) -> float | None:
    """The p-value of this comparison among all of the run's; None where it is none of these."""
    if left.key != found.dense.key:
        return None
    keys = [record.key for record in found.sparse]
    return found.p_values[keys.index(right.key)] if right.key in keys else None


def unharmed(rows: list[Row]) -> list[Row]:
    """The rows up to the first one where a difference is shown or borderline."""
    return list(takewhile(lambda row: judge(row[1], row[2]) == "not-shown", rows))


def method_of(row: Row) -> MethodSettings:
    """The method that made the sparse model of a row."""
    assert row[0].pruned is not None, "a row is about a sparse model"
    return row[0].pruned.method


def _merit(rows: list[Row]) -> tuple[int, float]:
    free = max((row[0].sparsity_permille for row in unharmed(rows)), default=-1)
    return free, rows[-1][1].difference
