"""What a comparison shows, what it leaves open, and why it ended, in sentences.

Plain text: whoever shows it escapes it.
"""

from collections.abc import Mapping
from math import isinf
from typing import assert_never

from sparsedash.reporting.charts.points import times
from sparsedash.reporting.wording import NBSP, plural, round_up, signed, signed_interval
from sparsedash.schema.records import Record, Stopping
from sparsedash.stats.significance import PairedComparison
from sparsedash.stats.tolerance import Loss, Tolerance, ToleranceVerdict, Verdict

_WORDS: dict[Verdict, str] = {"within": "✓ within", "beyond": "✕ beyond", "undecided": "? undecided"}


def flips(comparison: PairedComparison) -> str:
    """How many answers broke and how many were mended, and whether flips so lopsided come by chance."""
    broke, mended = comparison.broke, comparison.mended
    if not broke and not mended:
        return "Every verdict stayed the same: nothing broke and nothing was mended."
    was = "was" if mended == 1 else "were"
    return f"{broke:,} {plural(broke, 'answer')} broke, {mended:,} {was} mended: {change_in_points(comparison)}."


def change_in_points(comparison: PairedComparison) -> str:
    """ "−3.0 points, 95 % interval −6.5 to +0.4"."""
    return f"{signed(comparison.difference)} points, 95{NBSP}% interval {signed_interval(comparison.interval)}"


def allowed(tolerance: Tolerance) -> str:
    """ "1.1 × the word perplexity and 2 points of accuracy"."""
    points = "point" if tolerance.points == 1 else "points"
    return f"{tolerance.ratio:g} × the word perplexity and {tolerance.points:g} {points} of accuracy"


def judgement(name: str, found: ToleranceVerdict, tolerance: Tolerance) -> str:
    """One model's verdict in a sentence. name: what it is called."""
    most = allowed(tolerance)
    match found.verdict:
        case "within":
            return f"{name} stays within what is allowed, {most}: {cost(found)}."
        case "beyond":
            return f"{name} goes beyond what is allowed, {most}: {cost(found)}."
        case "undecided":
            few = "Too few to judge" if found.too_few else "Undecided"
            what = f"{found.n_passages:,} {plural(found.n_passages, 'passage')}"
            return f"{few}: {what} cannot tell whether {name} stays within {most}."
        case _:
            assert_never(found.verdict)


def cost(found: ToleranceVerdict) -> str:
    """ "word perplexity 1.05 × dense's (95 % interval 1.02 to 1.08), accuracy −0.5 points (95 % interval ...)"."""
    one = found.perplexity
    factors = [times(nats).removesuffix(" ×") for nats in (one.value, one.low, one.high)]
    said = f"word perplexity {factors[0]} × dense's ({_range(factors[1], factors[2], one)})"
    if found.accuracy is None:
        return f"{said}; too little is right to judge accuracy"
    two = found.accuracy
    low, high = signed(-two.high), signed(-two.low)
    return f"{said}, accuracy {signed(-two.value)} points ({_range(low, high, two)})"


def headline_cost(found: ToleranceVerdict) -> tuple[str, str, str]:
    """For a card: the perplexity as a multiple of dense's, its interval, and the verdict with the accuracy's change."""
    one, two = found.perplexity, found.accuracy
    low, high = (times(nats).removesuffix(" ×") for nats in (one.low, one.high))
    accuracy = f", accuracy {signed(-two.value)} points" if two else ""
    interval = f"the dense word perplexity, {_range(low, high, one)}"
    return times(one.value), interval, f"{_WORDS[found.verdict]}{accuracy}"


def still_open(found: ToleranceVerdict) -> str:
    """What the verdict leaves open; nothing where every measure says the same."""
    if found.verdict == "undecided":
        return f"Open: {undecided(found)}"
    if found.accuracy is not None and found.accuracy.verdict == "undecided":
        needed = found.accuracy.needed
        about = f"; about {round_up(needed):,} passages would decide it" if needed else ""
        return f"Accuracy alone is undecided{about}. Word perplexity decides."
    return ""


def undecided(found: ToleranceVerdict) -> str:
    """What would decide it."""
    needed = found.passages_needed
    if needed is None:
        return "its loss is about what is allowed, and no number of passages tells the two apart."
    return f"about {round_up(needed):,} passages would decide it, if it goes on as it did on {found.n_passages:,}."


def _range(low: str, high: str, loss: Loss) -> str:
    level = f"{100 * loss.level:.3g}{NBSP}%"
    return "no interval" if isinf(loss.low) else f"{level} interval {low} to {high}"


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
