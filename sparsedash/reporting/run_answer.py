"""The words for what pruning cost in one run: the sentence that pages open with, and what it leaves open."""

from sparsedash.reporting import wording
from sparsedash.reporting.charts.points import times
from sparsedash.reporting.readings import factor_interval
from sparsedash.reporting.run_results import Row, RunResults, best, method_of, unharmed
from sparsedash.reporting.verdicts import change_in_points
from sparsedash.schema.records import Record
from sparsedash.stats.significance import PairedComparison, judge, passages_needed

_JUDGED_BY = "the accuracy of last words"


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
    """What the answer leaves open where it shows no difference: too few passages, or a loss seen by perplexity only.

    Empty where nothing is open: the difference is known to be small, or the first sparsity shows one.
    """
    rows = unharmed(best(found))
    if not rows:
        return ""
    record, comparison, _ = rows[-1]
    if record.stopping and record.stopping.decision == "close":
        return ""
    return f"{_too_few(record, comparison)}{_by_perplexity(found, record)}"


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


def _by_perplexity(found: RunResults, record: Record) -> str:
    """A loss that accuracy does not show, where word perplexity does."""
    (reading,) = found.readings[record.key]["word perplexity"]
    if record.stopping or reading.high >= 0:
        return ""
    low, high = factor_interval(reading)
    return (
        f" Word perplexity does show a loss at {wording.permille(record.sparsity_permille)}: it is "
        f"{times(-reading.value)} the dense model's, 95{wording.NBSP}% interval {low} to {high.removesuffix(' ×')}."
    )


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
        return f"{verb} {upto}{shows_none}; measured at {free}: {change_in_points(free_rows[-1][1])}."
    record, comparison, p = harmed[0]
    if judge(comparison, p) == "borderline":
        says = "is borderline, at" if free_rows else f"is borderline in {_JUDGED_BY}, at"
    else:
        says = f"changes {'it' if free_rows else _JUDGED_BY} by"
    asked, cost = wording.permille(record.sparsity_permille), f"{says} {change_in_points(comparison)}"
    if not free_rows:
        return f"{verb} {asked} {what} {cost}, on {total:,} passages."
    return f"{verb} {shows_none}; {asked} {cost}."
