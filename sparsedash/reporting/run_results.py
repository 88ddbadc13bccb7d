"""A run's records together with what can be said of them. Knows no Streamlit."""

from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import takewhile

from sparsedash.jobs.job import Job
from sparsedash.reporting import model_names, wording
from sparsedash.reporting.charts.measures import Lines, Live, Same, TradeoffData, readings, times
from sparsedash.reporting.charts.published_points import published_beside
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.records import Record, Run
from sparsedash.service.backend import Backend
from sparsedash.stats.significance import PairedComparison, compare, holm, judge, passages_needed

_JUDGED_BY = "the accuracy of last words"

Row = tuple[Record, PairedComparison, float]
"""A sparse record, its comparison with dense, and the adjusted p-value of that."""


@dataclass(frozen=True, kw_only=True)
class RunResults:
    """The dense record of a run and the sparse ones there are so far, their outcomes without words and first choices.

    paired: each sparse record against dense, on the passages that it answered. p_values: of these, adjusted after Holm
    over the sweep.
    """

    run: Run
    dense: Record
    sparse: tuple[Record, ...]
    paired: tuple[PairedComparison, ...]
    p_values: tuple[float, ...]

    @property
    def records(self) -> dict[str, Record]:
        """Every record by the name it has within the run, dense first."""
        return {self.name_of(record): record for record in (self.dense, *self.sparse)}

    @property
    def several_methods(self) -> bool:
        """Whether the names of its models have to say the method."""
        return model_names.has_several_methods(self.run.settings)

    def name_of(self, record: Record) -> str:
        """The name of one of its records."""
        return model_names.record_name(record, self.several_methods)

    @property
    def lines(self) -> Lines:
        """The sparse records by the label of their line in a chart."""
        lines: dict[str, list[Record]] = {}
        for record in self.sparse:
            if record.pruned is not None:
                lines.setdefault(self.line_of(record.pruned.method), []).append(record)
        return lines

    def line_of(self, method: MethodSettings) -> str:
        """The label of a method's line in a chart."""
        return model_names.line_name(method, self.several_methods)

    def tradeoff(self, live: Live | None = None) -> TradeoffData:
        """All of it as a chart takes it. live: the model that is answering now."""
        rows = best(self)
        return TradeoffData(
            dense=self.dense,
            lines={self.line_of(m): [] for m in self.run.settings.methods} | dict(self.lines),
            asked=self.run.settings.made_permille,
            live=live,
            leader=self.line_of(method_of(rows[0])) if rows else "",
            published=published_beside(self.dense),
        )


def run_results(backend: Backend, run: Run | None) -> RunResults | None:
    """The run's records, or None while there is no dense one. Records that were lost are left out."""
    dense = _light(backend, run.dense) if run and run.dense else None
    if run is None or dense is None:
        return None
    found = [_light(backend, key) for key in run.sparse]
    sparse = tuple(r for r in found if r and r.passages_key == dense.passages_key)
    compared = tuple(_compared(Same(dense), Same(record)) for record in sparse)
    p_values = tuple(holm([c.p_value for c in compared]))
    return RunResults(run=run, dense=dense, sparse=sparse, paired=compared, p_values=p_values)


def _light(backend: Backend, key: str) -> Record | None:
    """The record with only the verdicts and log-likelihoods of its outcomes, or None."""
    try:
        return _kept_light(backend, key)
    except LookupError:
        return None


@lru_cache(maxsize=128)
def _kept_light(backend: Backend, key: str) -> Record:
    """As `_light`. A sweep of many methods has more passages than fit into memory whole. Raises LookupError."""
    record = backend.record(key)
    if record is None:
        # What raises is not kept: the record may yet come.
        raise LookupError(key)
    light = (replace(o, target="", answer="", tokens=(), top=()) for o in record.outcomes)
    return replace(record, outcomes=tuple(light))


@lru_cache(maxsize=512)
def _compared(left: Same, right: Same) -> PairedComparison:
    return compare(left.record, right.record)


def live(found: RunResults, job: Job) -> Live | None:
    """The sparse model that a job is asking just now, with what it has right so far; None where it does something else.

    A run's records come in the order of its points: one whose record is there is drawn already.
    """
    if job.point is None or job.n_right is None or not job.done:
        return None
    if found.run.finished or job.point < len(found.run.sparse):
        return None
    method, permille = found.run.settings.points[job.point]
    label = found.line_of(method)
    return Live(label=label, permille=permille, right=job.n_right, done=job.done)


def best(found: RunResults) -> list[Row]:
    """The rows, by rising sparsity, of the method that removes most before a difference is shown; ties by accuracy.

    Of those that remove channels, where there are any: what only sets weights to zero makes nothing smaller.
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


def answer(found: RunResults) -> str:
    """What pruning cost, in one sentence."""
    rows = best(found)
    if not rows:
        return "The dense model has answered; the sparse models are on their way."
    sentence = _sentence(rows)
    if found.several_methods:
        sentence = f"With “{wording.method(method_of(rows[0]))}”, {sentence[0].lower()}{sentence[1:]}"
    return sentence if found.run.finished else f"So far: {sentence[0].lower()}{sentence[1:]}"


def doubt(found: RunResults) -> str:
    """What the answer leaves open where it says that no difference is shown; nothing where that one is known to be
    small.
    """
    rows = unharmed(best(found))
    if not rows:
        return ""
    record, comparison, _ = rows[-1]
    if record.stopping and record.stopping.decision == "close":
        return ""
    return f"{_too_few(record, comparison)}{_by_perplexity(found.dense, record)}"


def _too_few(record: Record, comparison: PairedComparison) -> str:
    total, needed = comparison.n_passages, passages_needed(comparison)
    if needed is None:
        return f"That does not prove that there is none: {total:,} passages are too few to show a small one."
    if needed <= total:
        # Only a run that may stop early gets here: its test is stricter than the one that these would be enough for.
        return f"{total:,} passages are too few for a test that allows for stopping early."
    size = f"a difference as small as that at {wording.permille(record.sparsity_permille)}"
    about = f"about {wording.round_up(needed):,} would be needed"
    return f"{total:,} passages are too few to show {size}: {about}."


def _by_perplexity(dense: Record, record: Record) -> str:
    """A loss that accuracy does not show, where word perplexity does."""
    (reading,) = readings("word perplexity", dense, record)
    if record.stopping or reading.high >= 0:
        return ""
    low, high = (times(-bound).removesuffix(" ×") for bound in (reading.high, reading.low))
    return (
        f" Word perplexity does show a loss at {wording.permille(record.sparsity_permille)}: it is "
        f"{times(-reading.value)} the dense model's, 95{wording.NBSP}% interval {low} to {high}."
    )


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


def _sentence(rows: list[Row]) -> str:
    free_rows = unharmed(rows)
    harmed = rows[len(free_rows) :]
    free = wording.permille(free_rows[-1][0].sparsity_permille) if free_rows else ""
    method = method_of(rows[0])
    verb, zero = ("Removing", "") if method.takes_channels else ("Setting", " to zero")
    what = f"{wording.of_what(method)}{zero}"
    total = (harmed[0] if harmed and not free_rows else free_rows[-1])[1].n_passages
    shows_none = f"{free} {what} shows no difference in {_JUDGED_BY} on {total:,} passages"
    if not harmed:
        upto = "up to " if len(rows) > 1 else ""
        return f"{verb} {upto}{shows_none}; measured at {free}: {_points(free_rows[-1][1])}."
    record, comparison, p = harmed[0]
    if judge(comparison, p) == "borderline":
        says = "is borderline, at" if free_rows else f"is borderline in {_JUDGED_BY}, at"
    else:
        says = f"changes {'it' if free_rows else _JUDGED_BY} by"
    asked, cost = wording.permille(record.sparsity_permille), f"{says} {_points(comparison)}"
    if not free_rows:
        return f"{verb} {asked} {what} {cost}, on {total:,} passages."
    return f"{verb} {shows_none}; {asked} {cost}."


def _points(comparison: PairedComparison) -> str:
    low, high = (wording.signed(bound) for bound in comparison.interval)
    return f"{wording.signed(comparison.difference)} points, 95{wording.NBSP}% interval {low} to {high}"
