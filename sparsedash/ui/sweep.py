"""A run's records together with what can be said of them. Knows no Streamlit."""

from dataclasses import dataclass
from itertools import takewhile

from sparsedash.backend import Backend
from sparsedash.charts import Lines
from sparsedash.records import Record, Run
from sparsedash.significance import Paired, holm, judge, paired
from sparsedash.ui import wording

Row = tuple[Record, Paired, float]
"""A sparse record, its comparison with dense, and the adjusted p-value of that."""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """The dense record of a run and the sparse ones there are so far.

    paired: each sparse record against dense. p_values: McNemar's, adjusted after Holm over the sweep.
    """

    run: Run
    dense: Record
    sparse: tuple[Record, ...]
    paired: tuple[Paired, ...]
    p_values: tuple[float, ...]

    @property
    def records(self) -> dict[str, Record]:
        """Every record by the name it has within the run, dense first."""
        several = len(self.run.settings.methods) > 1
        return {wording.record_name(r, several): r for r in (self.dense, *self.sparse)}

    @property
    def lines(self) -> Lines:
        """The sparse records by the label of their line in a chart."""
        lines: dict[str, list[Record]] = {}
        for record in self.sparse:
            lines.setdefault(self.method(record), []).append(record)
        return {"sparse" if len(lines) == 1 else name: found for name, found in lines.items()}

    @staticmethod
    def method(record: Record) -> str:
        """The name of the method that made a sparse record."""
        return wording.method(record.pruned.method) if record.pruned else "dense"


def sweep(backend: Backend, run: Run | None) -> Sweep | None:
    """The run's records, or None while there is no dense one. Records that were lost are left out."""
    dense = backend.record(run.dense) if run and run.dense else None
    if run is None or dense is None:
        return None
    found = [backend.record(key) for key in run.sparse]
    sparse = tuple(r for r in found if r and len(r.outcomes) == len(dense.outcomes))
    compared = tuple(compare(dense, record) for record in sparse)
    p_values = tuple(holm([c.p_value for c in compared]))
    return Sweep(run=run, dense=dense, sparse=sparse, paired=compared, p_values=p_values)


def compare(left: Record, right: Record) -> Paired:
    """Last-word verdicts of the second record against the first."""
    verdicts = ([o.last_word_right for o in record.outcomes] for record in (left, right))
    return paired(*verdicts)


def best(found: Sweep) -> list[Row]:
    """The rows, by rising sparsity, of the method that removes most before a difference is shown; ties by accuracy."""
    by_method: dict[str, list[Row]] = {}
    for row in zip(found.sparse, found.paired, found.p_values, strict=True):
        by_method.setdefault(found.method(row[0]), []).append(row)
    ordered = [
        sorted(rows, key=lambda row: row[0].sparsity_permille) for rows in by_method.values()
    ]
    return max(ordered, key=_merit, default=[])


def answer(found: Sweep) -> str:
    """What pruning cost, in one sentence."""
    rows = best(found)
    if not rows:
        return "The dense model has answered; the sparse models are on their way."
    sentence = _sentence(rows, found.dense.last_word.total)
    if len(found.run.settings.methods) > 1:
        sentence = f"With {found.method(rows[0][0])}, {sentence[0].lower()}{sentence[1:]}"
    return sentence if found.run.finished else f"So far: {sentence[0].lower()}{sentence[1:]}"


def unharmed(rows: list[Row]) -> list[Row]:
    """The rows up to the first one where a difference is shown or borderline."""
    return list(takewhile(lambda row: judge(row[1], row[2]) == "not-shown", rows))


def _merit(rows: list[Row]) -> tuple[int, float]:
    free = max((row[0].sparsity_permille for row in unharmed(rows)), default=-1)
    return free, rows[-1][1].difference


def _sentence(rows: list[Row], total: int) -> str:
    free_rows = unharmed(rows)
    harmed = rows[len(free_rows) :]
    free = wording.permille(free_rows[-1][0].sparsity_permille) if free_rows else ""
    if not harmed:
        upto = "up to " if len(rows) > 1 else ""
        return (
            f"Removing {upto}{free} of the MLP shows no difference on {total:,} passages; at {free} accuracy "
            f"changes by {_points(free_rows[-1][1])}."
        )
    record, comparison, p = harmed[0]
    says = "is borderline, at" if judge(comparison, p) == "borderline" else "changes accuracy by"
    cost = f"{wording.permille(record.sparsity_permille)} {says} {_points(comparison)}"
    if not free_rows:
        return f"Removing {cost}, on {total:,} passages."
    return f"Removing {free} of the MLP shows no difference on {total:,} passages; {cost}."


def _points(comparison: Paired) -> str:
    low, high = (wording.signed(bound) for bound in comparison.interval)
    return f"{wording.signed(comparison.difference)} points, 95{wording.NBSP}% interval {low} to {high}"
