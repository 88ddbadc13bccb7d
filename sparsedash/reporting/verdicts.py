"""What a comparison shows, what it leaves open, and why it ended, in sentences.

Plain text: whoever shows it escapes it.
"""

from collections.abc import Mapping
from typing import assert_never

from sparsedash.reporting.wording import NBSP, p_value, plural, round_up, signed, signed_interval
from sparsedash.schema.records import Record, Stopping
from sparsedash.stats.significance import SHOWN_BELOW, Judgement, PairedComparison, judge, passages_needed

_JUDGEMENTS: dict[Judgement, str] = {
    "shown": "a difference is shown",
    "borderline": "a borderline difference",
    "not-shown": "no difference shown",
}


def shown(judgement: Judgement) -> str:
    """Whether a difference is shown, in words."""
    return _JUDGEMENTS[judgement]


def verdict(comparison: PairedComparison) -> str:
    """The comparison in one sentence."""
    broke, mended = comparison.broke, comparison.mended
    if not broke and not mended:
        return "Every verdict stayed the same: nothing broke and nothing was mended."
    was = "was" if mended == 1 else "were"
    return (
        f"{broke:,} {plural(broke, 'answer')} broke, {mended:,} {was} mended; {shown(judge(comparison))}: "
        f"{change_in_points(comparison)}, {p_value(comparison.p_value)}."
    )


def change_in_points(comparison: PairedComparison) -> str:
    """ "−3.0 points, 95 % interval −6.5 to +0.4"."""
    return f"{signed(comparison.difference)} points, 95{NBSP}% interval {signed_interval(comparison.interval)}"


def among(comparison: PairedComparison, adjusted: float | None, n: int) -> str:
    """What the verdict becomes where this is one of a run's n comparisons; nothing where it stays.

    adjusted: the p-value among them; None where the comparison is none of them.
    """
    if adjusted is None or judge(comparison, adjusted) == judge(comparison):
        return ""
    becomes = shown(judge(comparison, adjusted))
    return f"That is by itself. Among the {n:,} comparisons of this run {p_value(adjusted)} after Holm: {becomes}."


def doubt(comparison: PairedComparison) -> str:
    """What the verdict leaves open, and how many passages would close it; nothing where a difference is shown."""
    match judge(comparison):
        case "shown":
            return ""
        case "borderline":
            outside = comparison.p_value >= SHOWN_BELOW
            why = (
                "Borderline: the interval leaves zero out, but the exact test does not call flips this lopsided rare."
                if outside
                else "Borderline: the exact test calls flips this lopsided rare, but the interval covers zero."
            )
        case "not-shown":
            why = "The interval covers zero, which does not prove that the models are equally good."
    needed = passages_needed(comparison)
    if needed is None:
        return why if comparison.broke else ""
    return f"{why} About {round_up(needed):,} passages would be needed to show a difference of this size."


def endings(records: Mapping[str, Record]) -> str:
    """How the evaluations ended that were to stop early; empty where none was. records: by their names."""
    found = [f"{name} {_ending(record.stopping)}." for name, record in records.items() if record.stopping]
    if not found:
        return ""
    return f"{' '.join(found)} Intervals and p-values allow for having looked on the way."


def _ending(stopping: Stopping) -> str:
    answered, asked = stopping.n_answered, stopping.n_passages
    ended = f"stopped after {answered:,} of" if answered < asked else "answered all"
    match stopping.decision:
        case "difference":
            why = "a difference to the dense model is shown"
        case "close":
            why = f"the difference to the dense model is under {100 * stopping.margin:g} points"
        case "open":
            why = "nothing was decided before"
        case _:
            assert_never(stopping.decision)
    return f"{ended} {asked:,} passages: {why}"
