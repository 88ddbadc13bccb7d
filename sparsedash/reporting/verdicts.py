"""Verdicts in sentences and in the table of numbers: the loss, its interval, the limits, what is still undecided.

Plain text: escape it before it becomes markup.
"""

from collections.abc import Mapping
from math import exp, isinf

from sparsedash.reporting import wording
from sparsedash.reporting.html import Table, element, escape, table
from sparsedash.reporting.run_results import Judged, RunResults
from sparsedash.reporting.wording import DENSE, NBSP, percent, quantity
from sparsedash.schema.records import Record
from sparsedash.stats.significance import PairedComparison, accuracy_interval
from sparsedash.stats.tolerance import FEWEST_PASSAGES, Loss, Tolerance, ToleranceVerdict, Verdict

MOST_PASSAGES = 1_000_000
VERDICT_SIGNS: dict[Verdict, str] = {"within": "✓ within", "beyond": "✕ beyond", "undecided": "? undecided"}
"""A verdict with its sign."""


def flip_words(comparison: PairedComparison) -> str:
    """How many answers broke and how many were fixed."""
    return f"{quantity(comparison.broke, 'answer')} broke, {comparison.mended:,} fixed."


def tolerance_words(tolerance: Tolerance) -> str:
    """ "1.1 × word perplexity and 2 points of accuracy"."""
    points = "point" if tolerance.points == 1 else "points"
    return f"{tolerance.ratio:g} × word perplexity and {tolerance.points:g} {points} of accuracy"


def verdict_phrase(found: ToleranceVerdict, be: str = "is") -> str:
    """What is said after the name of a model: "costs too much", "is too close to call on 120 passages".

    Within says that accuracy is undecided, or not judged, where it is. be: "are" after several undecided models.
    """
    if found.verdict == "within":
        return f"stays within the limits{accuracy_open(found)}"
    if found.verdict == "beyond":
        return "costs too much"
    unclear = "cannot be judged" if found.too_few else f"{be} too close to call"
    return f"{unclear} on {quantity(found.n_passages, 'passage')}"


def decision_words(found: ToleranceVerdict) -> str:
    """ "costs too much: word perplexity 1.35 × (limit 1.1 ×)": a verdict with the measures that decided it."""
    if found.verdict == "undecided":
        return verdict_phrase(found)
    decisive = []
    for loss in found.losses:
        if loss.measure in found.decided_by:
            limit = f"{exp(loss.most):g} ×" if loss.measure == "word perplexity" else f"−{100 * loss.most:g}"
            decisive.append(f"{loss.measure} {loss_value(loss)} (limit {limit})")
    return f"{verdict_phrase(found)}: {', '.join(decisive)}"


def loss_value(loss: Loss) -> str:
    """ "1.35 ×", the word perplexity as a multiple of dense's; "−2.0 points", the change of accuracy."""
    return (
        wording.nats_as_factor(loss.value)
        if loss.measure == "word perplexity"
        else f"{wording.signed_points(-loss.value)} points"
    )


def loss_interval(loss: Loss) -> str:
    """ "1.32 to 1.38", "−3.1 to −0.9": the interval behind a verdict; empty where one passage gives none."""
    if isinf(loss.low):
        return ""
    nats = loss.measure == "word perplexity"
    return wording.factor_range(loss.low, loss.high) if nats else wording.signed_interval((-loss.high, -loss.low))


def accuracy_open(found: ToleranceVerdict) -> str:
    """ ", with accuracy undecided": what the verdict within leaves open; nothing where accuracy is within too."""
    if found.verdict != "within" or "accuracy" in found.decided_by or _is_unchanged(found):
        return ""
    return f", with accuracy {'not judged' if found.accuracy is None else 'undecided'}"


def verdict_words(name: str, found: ToleranceVerdict, tolerance: Tolerance, beside: str = DENSE) -> list[str]:
    """One model's verdict; its loss, with what would settle an open verdict; then what both rest on.

    name: what it is called. beside: the model that it is compared with; beside itself there is only the verdict.
    """
    if name == beside:
        return [f"{name} stands on both sides: a model loses nothing against itself."]
    settled = f" {passages_to_decide(found)}" if found.verdict == "undecided" else ""
    said = [f"{name} {verdict_phrase(found)}.", f"{wording.first_upper(loss_words(found, beside))}.{settled}"]
    said.append(f"The limits are {tolerance_words(tolerance)}.")
    accuracy = found.accuracy
    if accuracy and "undecided" == accuracy.verdict != found.verdict and not _is_unchanged(found):
        about = f"; {needed_words(accuracy.needed)} passages would settle it" if accuracy.needed else ""
        said.append(f"Accuracy alone is undecided{about}. Word perplexity decides.")
    return said


def loss_words(found: ToleranceVerdict, beside: str = DENSE) -> str:
    """ "word perplexity 1.05 × dense's (95 % interval 1.02 to 1.08), accuracy −0.5 points (95 % interval ...)".

    beside: the model that it is compared with.
    """
    lost, accuracy = found.perplexity, found.accuracy
    whose = "dense's" if beside == DENSE else f"that of {beside}"
    said = f"word perplexity {loss_value(lost)} {whose} ({_interval_words(lost)})"
    if accuracy is None:
        return f"{said}; too few answers are right to judge accuracy"
    return f"{said}, accuracy {loss_value(accuracy)} ({_interval_words(accuracy)})"


def headline_baseline(dense: Record) -> tuple[str, str, str]:
    """For a card: the dense model on the scale of `headline_loss`, its word perplexity and its accuracy."""
    score = dense.last_word
    right = f"{score.right:,} of {score.total:,} right, 95{NBSP}% interval {wording.interval(accuracy_interval(dense))}"
    below = f"word perplexity {wording.perplexity(dense.word_perplexity)}"
    return f"1{NBSP}×", below, f"accuracy {percent(score.accuracy)}: {right}"


def headline_loss(found: ToleranceVerdict) -> tuple[str, str, str]:
    """For a card: the perplexity as a multiple of dense's, its interval, and the verdict with the accuracy's change."""
    accuracy = f", accuracy {loss_value(found.accuracy)}" if found.accuracy else ""
    below = f"the dense word perplexity, {_interval_words(found.perplexity)}"
    return loss_value(found.perplexity), below, f"{VERDICT_SIGNS[found.verdict]}{accuracy}"


def passages_to_decide(found: ToleranceVerdict) -> str:
    """How many passages would settle an undecided verdict."""
    needed, n = found.passages_needed, found.n_passages
    if needed is None and found.too_few:
        return f"At least {FEWEST_PASSAGES} passages are needed; {n:,} cannot show how many would settle it."
    if needed is None or needed > MOST_PASSAGES:
        return f"The loss is so near the limit that over {MOST_PASSAGES:,} passages would be needed."
    return (
        f"{wording.first_upper(needed_words(needed))} passages would settle it, if the loss stays what it was on {n:,}."
    )


def needed_words(needed: int) -> str:
    """ "about 420", of passages that would settle something."""
    return f"over {MOST_PASSAGES:,}" if needed > MOST_PASSAGES else f"about {wording.round_up(needed):,}"


def early_stopping_words(records: Mapping[str, Record]) -> str:
    """How the evaluations ended that were to stop early; empty where none was. records: by their names."""
    found = []
    for name, stopping in ((name, record.stopping) for name, record in records.items() if record.stopping):
        answered, planned = stopping.n_answered, stopping.n_passages
        ended = f"stopped after {answered:,} of" if answered < planned else "answered all"
        why = {
            "difference": "a difference to the dense model is shown",
            "close": f"the difference to the dense model is under {100 * stopping.margin:g} points",
            "open": "nothing was decided before",
        }.get(stopping.decision, f"its loss is {stopping.decision} the limits")
        found.append(f"{name} {ended} {planned:,} passages: {why}.")
    return " ".join([*found, "Intervals and p-values allow for the looks on the way."]) if found else ""


def _is_unchanged(found: ToleranceVerdict) -> bool:
    """Whether the model gives every answer of the dense one, with its likelihood."""
    return all(loss.value == 0 for loss in found.losses) and found.perplexity.low == found.perplexity.high


def _interval_words(loss: Loss) -> str:
    """ "97.5 % interval 1.32 to 1.38"."""
    if isinf(loss.low):
        return "no interval"
    # With as many digits as it takes not to be 100 %.
    level = next(said for digits in range(3, 17) if (said := f"{100 * loss.level:.{digits}g}") != "100")
    return f"{level}{NBSP}% interval {loss_interval(loss)}"


LOSS_HEAD = ["Change, points", "Interval", "p", "Broke", "Fixed", "Times dense", "Interval", "Verdict"]


def loss_cells(judged: Judged) -> list[str]:
    """The cells under LOSS_HEAD; blank for dense."""
    if judged.record.pruned is None:
        return [""] * len(LOSS_HEAD)
    compared, lost, accuracy = judged.comparison, judged.verdict.perplexity, judged.verdict.accuracy
    points = f"{loss_interval(accuracy)}{_level(accuracy)}" if accuracy else ""
    times = f"{loss_interval(lost)} ×{_level(lost)}" if loss_interval(lost) else "none"
    changed = [wording.signed_points(compared.difference), points, wording.p_number(judged.p_value)]
    flips = [f"{compared.broke:,}", f"{compared.mended:,}"]
    return [*changed, *flips, loss_value(lost), times, VERDICT_SIGNS[judged.verdict.verdict]]


def _level(lost: Loss) -> str:
    return f" ({100 * lost.level:.3g}{NBSP}%)"


def numbers_table(found: RunResults, comparisons: Mapping[str, str] | None = None) -> Table:
    """Every model of the run with its accuracy, its change from dense and their intervals.

    comparisons: the address of each one's comparison with dense, by its key.
    """
    addresses, total = comparisons or {}, found.dense.last_word.total
    gone = "removed" if all(m.takes_channels for m in found.run.settings.methods) else "removed or zero"
    head = ["Model", f"MLP {gone}", f"Linear weights {gone}", f"Right of {total:,}", "Accuracy", "95 % interval"]
    rows, links = [], []
    for judged in found.models:
        record, name, score = judged.record, found.names[judged.record.key], judged.record.last_word
        pruned = record.pruned
        shares = [percent(pruned.mlp_sparsity), percent(pruned.matmul_ratio)] if pruned else ["0", "0"]
        right = f"{score.right:,}" if score.total == total else f"{score.right:,} of {score.total:,}"
        accuracy = [percent(score.accuracy), wording.interval(accuracy_interval(record))]
        rows.append([name, *shares, right, *accuracy, wording.perplexity(record.word_perplexity), *loss_cells(judged)])
        address = addresses.get(record.key, "")
        link = element("a", escape(name), href=address, aria_label=f"{name} against dense")
        links.append(link if address else escape(name))
    head += ["Word perplexity", *LOSS_HEAD]
    return table("The numbers of this run", _numbers_caption(found), head, rows, links)


def _numbers_caption(found: RunResults) -> str:
    n, early = max(found.run.n_compared, len(found.sparse)), any(record.stopping for record in found.sparse)
    looked = " Of models that were to stop early they, and p, are valid at any look." if early else ""
    return (
        f"Last word of each passage. {'The dense interval is' if early else 'Intervals of accuracies are'} Wilson's. "
        "Changes are paired with dense; their intervals are those of the verdict, at levels that hold for all of the "
        f"run together.{looked} p: for equal accuracy, {'' if early else 'exact McNemar, '}adjusted after Holm"
        f"{f' over {n} comparisons' if n > 1 else ''}."
    )
