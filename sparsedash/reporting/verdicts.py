"""Verdicts in sentences and in the table of numbers: the loss, its interval, the limits, what
decided.

Plain text: escape it before it becomes markup.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import exp, isfinite, isinf

from sparsedash.catalog.budgets import BUDGETS, removed_percent_field
from sparsedash.reporting.html import Cell, Table, Value, element, escape
from sparsedash.reporting.model_results import ModelResult
from sparsedash.reporting.run_results import RunResults
from sparsedash.reporting.wording import (
    LEVEL,
    MEASURE_NAMES,
    NBSP,
    and_join,
    budget_titles,
    factor_digits,
    factor_range,
    file_stem,
    first_upper,
    interval,
    limit_words,
    nats_as_factor,
    p_number,
    p_value,
    percent,
    perplexity,
    plural,
    quantity,
    signed_interval,
    signed_points,
    sparsity_percent,
    spec_title,
    tolerance_words,
    too_few,
)
from sparsedash.schema.method_settings import Budget
from sparsedash.schema.records import MAX_LOSS, Record
from sparsedash.schema.tolerance_settings import ALPHA, Tolerance
from sparsedash.stats.races import LikelihoodDifference
from sparsedash.stats.significance import PairedComparison, accuracy_interval
from sparsedash.stats.tolerance import (
    MIN_PASSAGES,
    Loss,
    ToleranceVerdict,
    Verdict,
)

VERDICT_SIGNS: dict[Verdict, str] = {
    "within": "✓ within",
    "beyond": "✕ beyond",
    "undecided": "? undecided",
}
"""A verdict with its sign."""
LEVELS = (
    f"{LEVEL} where one verdict is made, more where several are, so that the "
    f"chance that any of them is wrong stays under {100 * ALPHA:g}{NBSP}%."
)
"""The levels of the intervals behind verdicts, and why they differ, as the end of a sentence."""
_MAX_NAMED = 3
_MAX_NATS = 700.0
"""More than any exponential of a float is."""
_TOO_FEW_RIGHT = "too few answers are right to judge accuracy"


def flip_words(comparison: PairedComparison) -> str:
    """Numbers of answers that broke and that were fixed."""
    return f"{quantity(comparison.broke, 'answer')} broke, {comparison.fixed:,} fixed."


def limits_sentence(verdict: ToleranceVerdict, tolerance: Tolerance) -> str:
    """ "Limits: perplexity 1.10 ×, accuracy −2 points.": of the measures that are judged, and tasks
    with their own.
    """
    measures = [loss.measure for loss in verdict.losses]
    limits = [tolerance_words(tolerance, measures)]
    for loss in verdict.tasks:
        if loss.most != tolerance.most(loss.measure):
            limits.append(f"{loss.task} {limit_words(loss.measure, loss.most)}")
    n_limits = len(measures) + len(limits) - 1
    return f"{plural(n_limits, 'Limit')}: {', '.join(limits)}."


def verdict_words(verdict: ToleranceVerdict, be: str = "is") -> str:
    """Verdict after the name of a model: "costs too much: perplexity 1.35 × (limit 1.10 ×)".

    With the measures that decided, and what within leaves open. be: "are" after several undecided
    models.
    """
    tasks = task_names(verdict.deciding)
    if verdict.verdict == "beyond":
        return f"costs too much: {', '.join(map(loss_with_limit, verdict.deciding))}"
    decisive = [loss for loss in verdict.deciding if not loss.task]
    if verdict.verdict == "undecided":
        passages = quantity(verdict.n_passages, "passage")
        if verdict.too_few:
            return f"cannot be judged on {passages}"
        basis = [passages, *tasks] if verdict.perplexity in decisive else tasks
        if not basis:
            return f"{be} undecided: not all tasks were answered"
        return f"{be} too close to call on {and_join(basis)}"
    also = f", and on {and_join(tasks)}" if tasks else ""
    if verdict.unjudged:
        be = "is" if len(verdict.unjudged) == 1 else "are"
        also += f"; {and_join(verdict.unjudged)} {be} not judged"
    phrase = f"stays within your {plural(len(verdict.deciding), 'limit')}"
    return f"{phrase}: {', '.join(map(loss_with_limit, decisive))}{also}{accuracy_open(verdict)}"


def task_names(losses: Sequence[Loss]) -> list[str]:
    """The tasks of these losses; of many their number."""
    names = [loss.task for loss in losses if loss.task]
    return names if len(names) <= _MAX_NAMED else [quantity(len(names), "task")]


def loss_with_limit(loss: Loss) -> str:
    """ "perplexity 1.35 × (limit 1.10 ×)", "accuracy −3.1 points (limit −2)", "copying −9.0 points
    (limit −5)".
    """
    limit = limit_words(loss.measure, loss.most).split(" point")[0]
    return f"{_name(loss)} {loss_value(loss)} (limit {limit})"


def _name(loss: Loss) -> str:
    return loss.task or MEASURE_NAMES[loss.measure]


def loss_value(loss: Loss) -> str:
    """ "1.35 ×", the word perplexity as a multiple of dense's; "−2.0 points", the change of
    accuracy.
    """
    if loss.measure == "word perplexity":
        return nats_as_factor(loss.value, _digits(loss))
    return f"{signed_points(-loss.value, _digits(loss))} points"


def _digits(loss: Loss) -> int:
    """The fewest decimals that show the loss and its interval on the side of the limit where they
    are, if few do.
    """
    is_factor = loss.measure == "word perplexity"
    n_digits = 2 if is_factor else 1
    limit = _in_its_unit(loss, loss.most)
    values = [_in_its_unit(loss, end) for end in (loss.value, loss.low, loss.high)]
    values = [value for value in values if isfinite(value)]
    sides = [(value > limit) - (value < limit) for value in values]
    for digits in (n_digits, n_digits + 1):
        shown_sides = []
        for value in values:
            shown = round(value, factor_digits(value, digits) if is_factor else digits)
            shown_sides.append((shown > limit) - (shown < limit))
        if shown_sides == sides:
            return digits
    return n_digits + 2


def _in_its_unit(loss: Loss, value: float) -> float:
    """A value of the loss as a factor or in points, free of what floats add or lose."""
    if loss.measure == "word perplexity":
        return round(exp(min(value, _MAX_NATS)), 9)
    return round(100 * value, 9)


def loss_interval(loss: Loss) -> str:
    """ "1.32 to 1.38", "−3.1 to −0.9": the interval behind a verdict; empty where one passage gives
    none.
    """
    if isinf(loss.low):
        return ""
    if loss.measure == "word perplexity":
        return factor_range(
            loss.low,
            loss.high,
            digits=_digits(loss),
        )
    return signed_interval((-loss.high, -loss.low), _digits(loss))


def accuracy_open(verdict: ToleranceVerdict) -> str:
    """ "; accuracy needs more than 132 passages": what within leaves open; nothing where accuracy
    is within too.
    """
    # A model that gives every answer of dense with its likelihood has lost nothing.
    is_unchanged = (
        all(loss.value == 0 for loss in verdict.losses)
        and verdict.perplexity.low == verdict.perplexity.high
    )
    if (
        verdict.verdict != "within"
        or verdict.accuracy in verdict.deciding
        or is_unchanged
    ):
        return ""
    if verdict.accuracy is None:
        return f"; {_TOO_FEW_RIGHT}"
    return f"; accuracy needs more than {quantity(verdict.n_passages, 'passage')}"


def model_verdict(
    name: str, verdict: ToleranceVerdict, tolerance: Tolerance
) -> list[str]:
    """One model's verdict against dense, its loss, and the limits. name: what it is called."""
    loss = first_upper(loss_words(verdict))
    return [
        f"{name} {verdict_words(verdict)}.",
        f"{loss}.",
        limits_sentence(verdict, tolerance),
    ]


def loss_words(verdict: ToleranceVerdict) -> str:
    """ "perplexity 1.05 × dense's (1.02 to 1.08), accuracy −0.5 points (−2.1 to +1.1); intervals of
    at least 95 %".
    """
    lost = verdict.perplexity
    accuracy = verdict.accuracy
    words = f"perplexity {loss_value(lost)} dense's"
    if accuracy is None:
        return f"{words} ({interval_words(lost)}); {_TOO_FEW_RIGHT}"
    levels = dict.fromkeys([level_words(lost.level), level_words(accuracy.level)])
    return (
        f"{words} ({loss_interval(lost)}), "
        f"accuracy {loss_value(accuracy)} ({loss_interval(accuracy)}); "
        f"intervals of {and_join(list(levels))}"
    )


def difference_sentence(
    first: str, right: str, difference: LikelihoodDifference
) -> str:
    """Which of two models has the lower perplexity, or that they cannot be told apart, or not on so
    few passages.
    """
    n = quantity(difference.n_passages, "passage")
    if difference.n_passages < MIN_PASSAGES:
        few = too_few(difference.n_passages, "passage")
        return f"{few} to say which is better; test on {MIN_PASSAGES} or more."
    if not difference.is_shown:
        return f"{right} and {first} cannot be told apart on {n}."
    better, worse = (first, right) if difference.value > 0 else (right, first)
    return f"{better} has a lower perplexity than {worse}, tested on {n}."


def difference_words(difference: LikelihoodDifference, beside: str) -> str:
    """ "perplexity 0.85 × that of 20 % (95 % interval 0.80 to 0.91, p < 0.001)". beside: the other
    model.
    """
    times = nats_as_factor(difference.value)
    return f"perplexity {times} that of {beside} ({_difference_interval(difference)}, {difference_p(difference)})"


def _difference_interval(difference: LikelihoodDifference) -> str:
    if isinf(difference.low):
        return "no interval"
    ends = factor_range(difference.low, difference.high)
    return f"{level_words(difference.level)} interval {ends}"


def difference_p(difference: LikelihoodDifference) -> str:
    """ "p = 0.0023, Holm over 3 pairs": the p-value, with what it is corrected for; none of too few
    passages.
    """
    if difference.n_passages < MIN_PASSAGES:
        return f"not tested on fewer than {MIN_PASSAGES} passages"
    p_words = p_value(difference.p_value)
    if difference.p_value > 0.5:
        p_words = f"p{NBSP}{_p_number(difference.p_value)}"
    if difference.n_compared > 1:
        return f"{p_words}, Holm over {difference.n_compared} pairs"
    return p_words


def _p_number(p: float) -> str:
    # Larger ones are not looked for.
    return f">{NBSP}0.5" if p > 0.5 else p_number(p)


def race_table(results: RunResults) -> Table:
    """The other methods of a race beside the best one, at the sparsity that the answer names, the
    closest first.
    """
    best = spec_title(results.best[0].spec)
    share = sparsity_percent(results.race[0][0].permille)
    rows = []
    for rival, difference in results.race:
        ends_text = "no interval"
        if not isinf(difference.low):
            ends = factor_range(difference.low, difference.high)
            ends_text = f"{ends} ({level_words(difference.level)})"
        p = _p_number(difference.p_value)
        if difference.n_passages < MIN_PASSAGES:
            p = difference_p(difference)
        factor = f"{nats_as_factor(difference.value)}\n{ends_text}"
        rows.append([spec_title(rival.spec), factor, p])
    caption = (
        f"Word perplexity as a multiple of that of “{best}” at {share}, with its interval; "
        "p after Holm over all pairs."
    )
    head = ["Method", "Perplexity", "p"]
    return Table("The methods compared", caption, head, rows, stacked=True)


def early_stopping_words(records: Mapping[str, Record]) -> str:
    """How the evaluations ended that were to stop early; empty where none was. records: by their
    names.
    """
    sentences = []
    completed: dict[str, int] = {}
    for name, record in records.items():
        stopping = record.stopping
        if stopping is None:
            continue
        if stopping.n_answered >= stopping.n_passages:
            completed[name] = stopping.n_passages
            continue
        why = "decided by the limits of the search"
        if stopping.decision == "difference":
            why = "a difference to the dense model is shown"
        elif stopping.decision == "close":
            why = f"the difference to the dense model is under {100 * stopping.margin:g} points"
        sentences.append(
            f"{name} stopped after {stopping.n_answered:,} of {stopping.n_passages:,} passages: {why}."
        )
    if completed:
        counts = " and ".join(f"{n:,}" for n in sorted(set(completed.values())))
        sentences.append(f"{and_join(list(completed))} answered all {counts} passages.")
    if sentences:
        sentences.append("Intervals and p-values account for the repeated looks.")
    return " ".join(sentences)


def interval_words(loss: Loss) -> str:
    """ "97.5 % interval 1.32 to 1.38"."""
    ends_text = loss_interval(loss)
    return (
        f"{level_words(loss.level)} interval {ends_text}"
        if ends_text
        else "no interval"
    )


def level_words(level: float) -> str:
    """ "97.5 %", with as many digits as it takes not to be 100 %."""
    shown = next(
        text
        for digits in range(3, 17)
        if (text := f"{100 * level:.{digits}g}") != "100"
    )
    return f"{shown}{NBSP}%"


def loss_cells(judged: ModelResult) -> list[Cell]:
    """The loss of a sparse model with its verdict; none for dense."""
    if judged.record.pruned is None:
        return []
    compared = judged.comparison
    loss = judged.verdict.perplexity
    accuracy = judged.verdict.accuracy
    ratio = f"{loss_value(loss)}\n{loss_interval(loss) or 'no interval'}"
    ends_text = loss_interval(accuracy) if accuracy else "not judged"
    change = f"{signed_points(compared.difference)}\n{ends_text}"
    values = verdict_values(judged.verdict) | {
        "change_points": 100 * compared.difference
    }
    return [
        Cell("Times dense", ratio),
        Cell("Change, points", change, values),
        Cell("p", p_number(judged.p_value), {"p": judged.p_value}),
        Cell("Broke", f"{compared.broke:,}", {"broke": compared.broke}),
        Cell("Fixed", f"{compared.fixed:,}", {"fixed": compared.fixed}),
        Cell("Verdict", verdict_sign(judged.verdict).replace(" by ", "\nby ")),
    ]


def accuracy_cell(record: Record) -> Cell:
    """The share of right last words of a model by itself, with its interval."""
    accuracy = record.last_word.accuracy
    low, high = accuracy_interval(record)
    values: dict[str, Value] = {
        "accuracy_percent": 100 * accuracy,
        "accuracy_percent_low": 100 * low,
        "accuracy_percent_high": 100 * high,
    }
    return Cell("Accuracy", f"{percent(accuracy)}\n{interval((low, high))}", values)


def finite_ratio(nats: float) -> float | None:
    """A loss in nats as a multiple of dense's word perplexity; None where it is no number of
    JSON.
    """
    return exp(nats) if -MAX_LOSS < nats < MAX_LOSS else None


def verdict_values(verdict: ToleranceVerdict) -> dict[str, Value]:
    """A verdict with its losses as numbers for a file."""
    values: dict[str, Value] = {}
    losses = {"change_points": verdict.accuracy, "perplexity_ratio": verdict.perplexity}
    for name, loss in losses.items():
        value, low, high = loss_values(loss) if loss else (None, None, None)
        values[name] = value
        values[f"{name}_low"] = low
        values[f"{name}_high"] = high
        values[f"{name}_level_percent"] = 100 * loss.level if loss else None
    decided_by = ", ".join(loss.name for loss in verdict.deciding)
    return values | {"verdict": verdict.verdict, "decided_by": decided_by}


def loss_values(loss: Loss) -> tuple[float | None, float | None, float | None]:
    """A loss and its interval for a file: as multiples of dense's perplexity, or in points gained."""
    if loss.measure == "word perplexity":
        return finite_ratio(loss.value), finite_ratio(loss.low), finite_ratio(loss.high)
    return 0.0 - 100 * loss.value, 0.0 - 100 * loss.high, 0.0 - 100 * loss.low


def reached_percents(results: RunResults, model: ModelResult) -> dict[str, float]:
    """The share of every budget that is gone, for a file: channels_removed_percent and so on; zeros
    for dense.
    """
    return {
        removed_percent_field(budget): 100 * results.removed(model, budget)
        for budget in BUDGETS
    }


def verdict_sign(verdict: ToleranceVerdict) -> str:
    """ "✕ beyond by perplexity", or "✕ beyond" where several measures say so."""
    sign = VERDICT_SIGNS[verdict.verdict]
    if len(verdict.deciding) == 1 and verdict.verdict != "undecided":
        return f"{sign} by {_name(verdict.deciding[0])}"
    return sign


def numbers_table(
    results: RunResults, comparisons: Mapping[str, str] | None = None
) -> Table:
    """Every model of the run with what is gone, its accuracy, its change from dense and their
    intervals.

    Above one that answered fewer passages dense stands once more, on the same. comparisons: the
    address of each one's comparison with dense, by its key.
    """
    addresses = comparisons or {}
    dense = results.dense
    n_compared = {results.n_passages}
    rows = []
    links = []
    for model in results.models:
        record = model.record
        name = results.names[record.key]
        n = record.last_word.total
        if n not in n_compared:
            n_compared.add(n)
            indices = {outcome.index for outcome in record.outcomes}
            outcomes = tuple(
                outcome for outcome in dense.outcomes if outcome.index in indices
            )
            dense_name = f"dense, same {n:,}"
            dense_model = replace(
                results.models[0], record=replace(dense, outcomes=outcomes)
            )
            rows.append(_score_cells(results, dense_name, dense_model))
            links.append(escape(dense_name))
        rows.append([*_score_cells(results, name, model), *loss_cells(model)])
        link = escape(name)
        if address := addresses.get(record.key):
            link = element("a", link, href=address, aria_label=f"{name} against dense")
        links.append(link)
    title = "The numbers of this run"
    stem = file_stem(results.run)
    return Table.of_cells(title, _numbers_caption(results), rows, links, stem)


def _score_cells(results: RunResults, name: str, model: ModelResult) -> list[Cell]:
    """A model with what is gone, its right answers, its accuracy and its word perplexity."""
    record = model.record
    score = record.last_word
    settings = results.run.settings
    total = results.n_passages
    removed = "removed or zero"
    if all(method.is_structured for method in settings.methods):
        removed = "removed"
    titles = budget_titles(settings.methods)
    # Four columns of shares would not fit beside the rest; the file has them.
    budgets: tuple[Budget, ...] = ("channels", settings.axis)
    if settings.axis == "channels":
        budgets = ("channels", "weights")
    cells = [Cell("Model", name, {"model": name, **reached_percents(results, model)})]
    for budget in budgets:
        share = percent(results.removed(model, budget)) if record.pruned else "0"
        cells.append(Cell(f"{first_upper(titles[budget])} {removed}", share))
    right = f"{score.right:,}"
    if score.total != total:
        right = f"{right} of {score.total:,}"
    word_perplexity = record.word_perplexity
    return [
        *cells,
        Cell(
            f"Right of {total:,}",
            right,
            {"right": score.right, "passages": score.total},
        ),
        accuracy_cell(record),
        Cell(
            "Word perplexity",
            perplexity(word_perplexity),
            {"word_perplexity": word_perplexity},
        ),
    ]


def _numbers_caption(results: RunResults) -> str:
    n = max(results.run.n_compared, len(results.sparse_records))
    early = any(record.stopping for record in results.sparse_records)
    looked = (
        " With early stopping, intervals and p are valid at any look." if early else ""
    )
    accuracies = "Dense interval" if early else "Accuracies"
    test = "" if early else ", exact McNemar"
    holm = f", Holm over {n} comparisons" if n > 1 else ""
    return (
        f"Last word of each passage; intervals stand under their numbers. {accuracies}: Wilson, "
        f"{LEVEL}. Changes are paired with dense, their intervals the verdict's: "
        f"{LEVELS}{looked} p: equal accuracy{test}{holm}."
    )
