"""Verdicts in sentences and in the table of numbers: the loss, its interval, the tolerance, what is still undecided.

Plain text: escape it before it becomes markup.
"""

from collections.abc import Mapping, Sequence
from math import isinf
from typing import assert_never, get_args

from sparsedash.reporting import wording
from sparsedash.reporting.charts.tradeoff_data import nats_as_factor
from sparsedash.reporting.html import Html, Table, element, escape, table
from sparsedash.reporting.run_results import Judged, RunResults, factor_interval, perplexity_reading
from sparsedash.reporting.wording import DENSE, NBSP, first_upper, plural, round_up, signed_points
from sparsedash.schema.records import Record, Stopping
from sparsedash.stats.significance import PairedComparison, accuracy_interval
from sparsedash.stats.tolerance import FEWEST_PASSAGES, Loss, LossMeasure, Tolerance, ToleranceVerdict, Verdict

MOST_PASSAGES = 1_000_000
VERDICT_SIGNS: dict[Verdict, str] = {"within": "✓ within", "beyond": "✕ beyond", "undecided": "? undecided"}
"""A verdict with its sign."""


def flip_words(comparison: PairedComparison) -> str:
    """How many answers broke and how many were mended."""
    broke, mended = comparison.broke, comparison.mended
    if not broke and not mended:
        return "Every verdict stayed the same: nothing broke and nothing was mended."
    was = "was" if mended == 1 else "were"
    return f"{broke:,} {plural(broke, 'answer')} broke, {mended:,} {was} mended."


def tolerance_words(tolerance: Tolerance, measures: Sequence[LossMeasure] = get_args(LossMeasure)) -> str:
    """ "1.1 × the word perplexity and 2 points of accuracy", or as much of it as these measures say."""
    points = plural(1 if tolerance.points == 1 else 2, "point")
    limits: dict[LossMeasure, str] = {
        "word perplexity": f"{tolerance.ratio:g} × the word perplexity",
        "accuracy": f"{tolerance.points:g} {points} of accuracy",
    }
    return " and ".join(limits[measure] for measure in measures)


def decision_words(found: ToleranceVerdict, tolerance: Tolerance) -> str:
    """ "stays within 1.1 × the word perplexity, with accuracy undecided": a verdict, by the measures behind it."""
    verb = "stays within" if found.verdict == "within" else "goes beyond"
    return f"{verb} {tolerance_words(tolerance, found.decided_by)}{accuracy_open(found)}"


def accuracy_open(found: ToleranceVerdict) -> str:
    """ ", with accuracy undecided": what the verdict within leaves open; nothing where accuracy is within too."""
    if found.verdict != "within" or "accuracy" in found.decided_by or _unchanged(found):
        return ""
    return f", with accuracy {'not judged' if found.accuracy is None else 'undecided'}"


def judgement(name: str, found: ToleranceVerdict, tolerance: Tolerance, beside: str = DENSE) -> str:
    """One model's verdict in a sentence. name: what it is called. beside: the model that it is compared with."""
    if name == beside:
        return f"{name} stands on both sides: a model loses nothing against itself."
    if found.verdict == "undecided":
        return f"{_undecided(found)} cannot tell whether {name} stays within {tolerance_words(tolerance)}."
    return f"{name} {decision_words(found, tolerance)}: {loss_words(found, beside)}."


def brief_judgement(name: str, found: ToleranceVerdict, beside: str = DENSE) -> str:
    """As `judgement`, without what is allowed and without the cost; `cost_and_open` and `grounds` say both."""
    if name == beside:
        return judgement(name, found, Tolerance(), beside)
    match found.verdict:
        case "within":
            return f"{name} stays within what is allowed{accuracy_open(found)}."
        case "beyond":
            return f"{name} goes beyond what is allowed."
        case "undecided":
            return f"{_undecided(found)} cannot tell whether {name} stays within what is allowed."
        case _:
            assert_never(found.verdict)


def cost_and_open(found: ToleranceVerdict, beside: str = DENSE) -> str:
    """What stands right under a `brief_judgement`: the cost; and what would decide it, where that is open."""
    left_open = still_open(found) if found.verdict == "undecided" else ""
    return f"{first_upper(loss_words(found, beside))}. {left_open}".strip()


def grounds(name: str, found: ToleranceVerdict, tolerance: Tolerance, beside: str = DENSE) -> list[str]:
    """What a `brief_judgement` rests on beside the cost: what is allowed, and what only one measure leaves open."""
    if name == beside:
        return []
    left_open = still_open(found) if found.verdict != "undecided" else ""
    return [f"Allowed are {tolerance_words(tolerance)}.", *filter(None, [left_open])]


def _undecided(found: ToleranceVerdict) -> str:
    few = "Too few to judge" if found.too_few else "Undecided"
    return f"{few}: {found.n_passages:,} {plural(found.n_passages, 'passage')}"


def loss_words(found: ToleranceVerdict, beside: str = DENSE) -> str:
    """ "word perplexity 1.05 × dense's (95 % interval 1.02 to 1.08), accuracy −0.5 points (95 % interval ...)".

    beside: the model that it is compared with.
    """
    said = perplexity_loss_words(found.perplexity, beside)
    if found.accuracy is None:
        return f"{said}; too few answers are right to judge accuracy"
    two = found.accuracy
    low, high = signed_points(-two.high), signed_points(-two.low)
    return f"{said}, accuracy {signed_points(-two.value)} points ({_range(low, high, two)})"


def perplexity_loss_words(loss: Loss, beside: str = DENSE) -> str:
    """ "word perplexity 1.05 × dense's (95 % interval 1.02 to 1.08)". beside: as in `cost`."""
    factors = [nats_as_factor(nats).removesuffix(" ×") for nats in (loss.value, loss.low, loss.high)]
    whose = "dense's" if beside == DENSE else f"that of {beside}"
    return f"word perplexity {factors[0]} × {whose} ({_range(factors[1], factors[2], loss)})"


def headline_cost(found: ToleranceVerdict) -> tuple[str, str, str]:
    """For a card: the perplexity as a multiple of dense's, its interval, and the verdict with the accuracy's change."""
    one, two = found.perplexity, found.accuracy
    low, high = (nats_as_factor(nats).removesuffix(" ×") for nats in (one.low, one.high))
    accuracy = f", accuracy {signed_points(-two.value)} points" if two else ""
    interval = f"the dense word perplexity, {_range(low, high, one)}"
    return nats_as_factor(one.value), interval, f"{VERDICT_SIGNS[found.verdict]}{accuracy}"


def remarks(name: str, found: ToleranceVerdict, beside: str = DENSE) -> list[str]:
    """What belongs under a `judgement`: the cost where the sentence is without it, and what is left open."""
    if name == beside:
        return []
    said = [f"{first_upper(loss_words(found, beside))}."] if found.verdict == "undecided" else []
    return [*said, *filter(None, [still_open(found)])]


def still_open(found: ToleranceVerdict) -> str:
    """What the verdict leaves open; nothing where every measure says the same, or nothing changed at all."""
    if _unchanged(found):
        return "" if found.verdict == "within" else f"Open: {passages_to_decide(found)}"
    if found.verdict == "undecided":
        return f"Open: {passages_to_decide(found)}"
    if found.accuracy is not None and found.accuracy.verdict == "undecided":
        needed = found.accuracy.needed
        about = f"; {needed_words(needed)} passages would decide it" if needed else ""
        return f"Accuracy alone is undecided{about}. Word perplexity decides."
    return ""


def _unchanged(found: ToleranceVerdict) -> bool:
    """Whether the model gives every answer of the dense one, with its likelihood."""
    return all(loss.value == 0 for loss in found.losses) and found.perplexity.low == found.perplexity.high


def passages_to_decide(found: ToleranceVerdict) -> str:
    """What would decide it."""
    needed, n = found.passages_needed, found.n_passages
    if needed is None and found.too_few:
        what = f"{n:,} {plural(n, 'passage')}"
        return f"at least {FEWEST_PASSAGES} passages are needed; {what} cannot say how many would decide it."
    if needed is None or needed > MOST_PASSAGES:
        return f"its loss is so near to what is allowed that over {MOST_PASSAGES:,} passages would be needed."
    return f"{needed_words(needed)} passages would decide it, if its loss stays what it was on {n:,}."


def needed_words(needed: int) -> str:
    """ "about 420", of passages that would decide something."""
    return f"over {MOST_PASSAGES:,}" if needed > MOST_PASSAGES else f"about {round_up(needed):,}"


def _range(low: str, high: str, loss: Loss) -> str:
    if isinf(loss.low):
        return "no interval"
    # With as many digits as it takes not to be 100 %.
    level = next(said for digits in range(3, 17) if (said := f"{100 * loss.level:.{digits}g}") != "100") + f"{NBSP}%"
    # Both ends may be farther than a number says.
    both = low if low == high and not low[0].isdigit() else f"{low} to {high}"
    return f"{level} interval {both}"


def early_stopping_words(records: Mapping[str, Record]) -> str:
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
        case "within" | "beyond":
            why = f"its loss is {stopping.decision} what is allowed"
        case "open":
            why = "nothing was decided before"
        case _:
            assert_never(stopping.decision)
    return f"{ended} {asked:,} passages: {why}"


def numbers_table(found: RunResults, comparisons: Mapping[str, str] | None = None) -> Table:
    """Every model of the run with its accuracy, its change from dense and their intervals, as a table.

    comparisons: the address of each one's with dense, by its key.
    """
    addresses = comparisons or {}
    names = [_name(name, addresses.get(record.key, "")) for name, record in found.records.items()]
    methods = found.run.settings.methods
    gone = "removed" if all(m.takes_channels for m in methods) else "removed or zero"
    head = [
        "Model",
        f"MLP {gone}",
        f"Linear weights {gone}",
        f"Right of {found.dense.last_word.total:,}",
        "Accuracy",
        "95 % interval",
        "Change, points",
        "Interval",
        "p",
        "Broke",
        "Mended",
        "Word perplexity",
        "Times dense",
        "Interval",
        "Verdict",
    ]
    return table("The numbers of this run", _numbers_caption(found), head, _number_rows(found), names)


def _name(name: str, address: str) -> Html:
    if not address:
        return escape(name)
    return element("a", escape(name), href=address, aria_label=f"{name} beside dense")


def _number_rows(found: RunResults) -> list[list[str]]:
    rows = []
    for (name, record), judged in zip(found.records.items(), [None, *found.judged], strict=True):
        score = record.last_word
        fewer = "" if score.total == found.dense.last_word.total else f" of {score.total:,}"
        row = [name, *_sparsity_cells(record), f"{score.right:,}{fewer}"]
        row += [wording.percent(score.accuracy), wording.interval(accuracy_interval(record)), *change_cells(judged)]
        row += [wording.perplexity(record.word_perplexity), *times_dense_cells(judged)]
        rows.append(row)
    return rows


def _sparsity_cells(record: Record) -> list[str]:
    pruned = record.pruned
    if pruned is None:
        return ["0", "0"]
    return [wording.percent(share) for share in (pruned.mlp_sparsity, pruned.matmul_ratio)]


def change_cells(judged: Judged | None) -> list[str]:
    """The change of accuracy with the interval that the verdict is made from; none where it is left out of that."""
    if judged is None:
        return [""] * 5
    compared, lost = judged.comparison, judged.verdict.accuracy
    return [
        wording.signed_points(compared.difference),
        f"{wording.signed_interval((-lost.high, -lost.low))}{_level(lost)}" if lost else "",
        wording.p_number(judged.p_value),
        f"{compared.broke:,}",
        f"{compared.mended:,}",
    ]


def times_dense_cells(judged: Judged | None) -> list[str]:
    """The perplexity as a multiple of dense's, the interval that the verdict is made from, and that verdict."""
    if judged is None:
        return ["", "", ""]
    lost = judged.verdict.perplexity
    interval = "none" if isinf(lost.low) else f"{factor_interval(perplexity_reading(lost))}{_level(lost)}"
    return [nats_as_factor(lost.value), interval, VERDICT_SIGNS[judged.verdict.verdict]]


def _level(lost: Loss) -> str:
    return f" ({100 * lost.level:.3g}{wording.NBSP}%)"


def _numbers_caption(found: RunResults) -> str:
    n = max(found.run.n_compared, len(found.sparse))
    several = f" over {n} comparisons" if n > 1 else ""
    early = any(record.stopping for record in found.sparse)
    looked = " Of models that were to stop early they, and p, are valid at any look." if early else ""
    whose = "The dense model's interval is" if early else "Intervals of accuracies are"
    return (
        f"Last word of each passage. {whose} Wilson's. Changes are paired with dense; their intervals are those of "
        f"the verdict, at levels that hold for all of the run together.{looked} p: for equal accuracy, "
        f"{'' if early else 'exact McNemar, '}adjusted after Holm{several}."
    )
