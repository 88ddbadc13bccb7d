"""Verdicts in sentences and in the table of numbers: the loss, its interval, the limits, what
decided.

Plain text: escape it before it becomes markup.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import exp, isfinite, isinf

from sparsedash.catalog.budgets import BUDGETS, removed_percent_field
from sparsedash.reporting import wording
from sparsedash.reporting.html import Cell, Table, Value, element, escape
from sparsedash.reporting.model_results import ModelResult
from sparsedash.reporting.run_results import RunResults
from sparsedash.reporting.wording import NBSP, and_join, percent, plural, quantity
from sparsedash.schema.method_settings import Budget
from sparsedash.schema.records import LARGEST_LOSS, Record
from sparsedash.schema.tolerance_settings import ALPHA, Tolerance
from sparsedash.stats.races import LikelihoodDifference
from sparsedash.stats.significance import PairedComparison, accuracy_interval
from sparsedash.stats.tolerance import (
    FEWEST_PASSAGES,
    FEWEST_RIGHT,
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
    f"{wording.LEVEL} where one verdict is made, more where several are, so that the "
    f"chance that any of them is wrong stays under {100 * ALPHA:g}{NBSP}%."
)
"""The levels of the intervals behind verdicts, and why they differ, as the end of a sentence."""
_MOST_NAMED = 3
_MOST_NATS = 700.0
"""More than any exponential of a float is."""
_TOO_FEW_RIGHT = "too few answers are right to judge accuracy"


def flip_words(comparison: PairedComparison) -> str:
    """How many answers broke and how many were fixed."""
    return f"{quantity(comparison.broke, 'answer')} broke, {comparison.fixed:,} fixed."


def limits_sentence(verdict: ToleranceVerdict, tolerance: Tolerance) -> str:
    """ "Limits: perplexity 1.10 ×, accuracy −2 points.": of the measures that are judged, and tasks
    with their own.
    """
    measures = [loss.measure for loss in verdict.losses]
    own_limits = [loss for loss in verdict.tasks if loss.most != tolerance.most(loss.measure)]
    limits = [
        wording.tolerance_words(tolerance, measures),
        *(
            f"{own_loss.task} {wording.limit_words(own_loss.measure, own_loss.most)}"
            for own_loss in own_limits
        ),
    ]
    return f"{plural(len(measures) + len(own_limits), 'Limit')}: {', '.join(limits)}."


def verdict_words(verdict: ToleranceVerdict, be: str = "is") -> str:
    """What follows the name of a model: "costs too much: perplexity 1.35 × (limit 1.10 ×)".

    With the measures that decided, and what within leaves open. be: "are" after several undecided
    models.
    """
    decisive = [loss for loss in verdict.deciding if not loss.task]
    tasks = task_names(verdict.deciding)
    if verdict.verdict == "undecided":
        passages = (
            [quantity(verdict.n_passages, "passage")] if verdict.perplexity in decisive else []
        )
        if verdict.too_few:
            return f"cannot be judged on {passages[0]}"
        if not passages and not tasks:
            return f"{be} undecided: not all tasks were answered"
        return f"{be} too close to call on {wording.and_join([*passages, *tasks])}"
    if verdict.verdict == "beyond":
        return f"costs too much: {', '.join(map(loss_with_limit, verdict.deciding))}"
    also = f", and on {wording.and_join(tasks)}" if tasks else ""
    if verdict.unjudged:
        be = "is" if len(verdict.unjudged) == 1 else "are"
        also += f"; {wording.and_join(verdict.unjudged)} {be} not judged"
    phrase = f"stays within your {plural(len(verdict.deciding), 'limit')}"
    return f"{phrase}: {', '.join(map(loss_with_limit, decisive))}{also}{accuracy_open(verdict)}"


def task_names(losses: Sequence[Loss]) -> list[str]:
    """The tasks of these losses; of many their number."""
    names = [loss.task for loss in losses if loss.task]
    return names if len(names) <= _MOST_NAMED else [quantity(len(names), "task")]


def loss_with_limit(loss: Loss) -> str:
    """ "perplexity 1.35 × (limit 1.10 ×)", "accuracy −3.1 points (limit −2)", "copying −9.0 points
    (limit −5)".
    """
    limit = wording.limit_words(loss.measure, loss.most).split(" point")[0]
    return f"{_name(loss)} {loss_value(loss)} (limit {limit})"


def _name(loss: Loss) -> str:
    return loss.task or wording.MEASURE_NAMES[loss.measure]


def loss_value(loss: Loss) -> str:
    """ "1.35 ×", the word perplexity as a multiple of dense's; "−2.0 points", the change of
    accuracy.
    """
    if loss.measure == "word perplexity":
        return wording.nats_as_factor(loss.value, _digits(loss))
    return f"{wording.signed_points(-loss.value, _digits(loss))} points"


def _digits(loss: Loss) -> int:
    """The fewest decimals that show the loss and its interval on the side of the limit where they
    are, if few do.
    """
    factor = loss.measure == "word perplexity"
    values = [
        exp(min(nats_or_share, _MOST_NATS)) if factor else 100 * nats_or_share
        for nats_or_share in (loss.value, loss.low, loss.high)
    ]
    limit = round(exp(loss.most) if factor else 100 * loss.most, 9)

    def side(value: float) -> int:
        return (value > limit) - (value < limit)

    def shown(value: float, digits: int) -> float:
        return round(
            value,
            wording.factor_digits(value, digits) if factor else digits,
        )

    usual = 2 if factor else 1
    known = [value for value in values if isfinite(value)]
    enough = (
        n
        for n in (usual, usual + 1)
        if all(
            side(shown(nats_or_share, n)) == side(round(nats_or_share, 9))
            for nats_or_share in known
        )
    )
    return next(enough, usual + 2)


def loss_interval(loss: Loss) -> str:
    """ "1.32 to 1.38", "−3.1 to −0.9": the interval behind a verdict; empty where one passage gives
    none.
    """
    if isinf(loss.low):
        return ""
    if loss.measure == "word perplexity":
        return wording.factor_range(
            loss.low,
            loss.high,
            digits=_digits(loss),
        )
    return wording.signed_interval((-loss.high, -loss.low), _digits(loss))


def accuracy_open(verdict: ToleranceVerdict) -> str:
    """ "; accuracy is undecided on 132 passages": what within leaves open; nothing where accuracy
    is within too.
    """
    if (
        verdict.verdict != "within"
        or verdict.accuracy in verdict.deciding
        or _is_unchanged(verdict)
    ):
        return ""
    if verdict.accuracy is None:
        return f"; {_TOO_FEW_RIGHT}"
    return f"; accuracy is undecided on {quantity(verdict.n_passages, 'passage')}"


def model_verdict(name: str, verdict: ToleranceVerdict, tolerance: Tolerance) -> list[str]:
    """One model's verdict against dense, its loss, and the limits. name: what it is called."""
    loss = wording.first_upper(loss_words(verdict))
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
        return f"{words} ({_interval_words(lost)}); {_TOO_FEW_RIGHT}"
    levels = and_join(
        list(dict.fromkeys(level_words(measured.level) for measured in (lost, accuracy)))
    )
    words = f"{words} ({loss_interval(lost)}), accuracy {loss_value(accuracy)} ({loss_interval(accuracy)})"
    return f"{words}; intervals of {levels}"


def difference_sentence(first: str, right: str, difference: LikelihoodDifference) -> str:
    """Which of two models has the lower perplexity, or that they cannot be told apart, or not on so
    few passages.
    """
    n = quantity(difference.n_passages, "passage")
    if difference.n_passages < FEWEST_PASSAGES:
        few = wording.too_few(difference.n_passages, "passage")
        return f"{few} to say which is better; test on {FEWEST_PASSAGES} or more."
    if not difference.is_shown:
        return f"{right} and {first} cannot be told apart on {n}."
    better, worse = (first, right) if difference.value > 0 else (right, first)
    return f"{better} has a lower perplexity than {worse}, tested on {n}."


def difference_words(difference: LikelihoodDifference, beside: str) -> str:
    """ "perplexity 0.85 × that of 20 % (95 % interval 0.80 to 0.91, p < 0.001)". beside: the other
    model.
    """
    times = wording.nats_as_factor(difference.value)
    return f"perplexity {times} that of {beside} ({_difference_interval(difference)}, {difference_p(difference)})"


def headline_baseline(dense: Record) -> tuple[str, str, str]:
    """For a card: the dense model on the scale of `headline_loss`, its word perplexity and its
    accuracy.
    """
    score = dense.last_word
    interval = wording.interval(accuracy_interval(dense))
    right = f"{score.right:,} of {score.total:,} right, {wording.LEVEL} interval {interval}"
    below = f"word perplexity {wording.perplexity(dense.word_perplexity)}"
    return f"1{NBSP}×", below, f"accuracy {percent(score.accuracy)}: {right}"


def headline_loss(judged: ToleranceVerdict) -> tuple[str, ...]:
    """For a card: the perplexity as a multiple of dense's, its interval, and the verdict of every
    measure and task.
    """
    lost = judged.perplexity
    accuracy = judged.accuracy
    lines = [
        loss_value(lost),
        f"the dense word perplexity, {_interval_words(lost)}",
        _measure_verdict(lost),
    ]
    few = f"accuracy not judged: under {FEWEST_RIGHT} right"
    lines.append(_measure_verdict(accuracy, f" {loss_value(accuracy)}") if accuracy else few)
    # Each task that costs too much with its loss; the others by their verdicts.
    lines += [
        _measure_verdict(loss, f" {loss_value(loss)}")
        for loss in judged.tasks
        if loss.verdict == "beyond"
    ]
    for verdict in ("undecided", "within"):
        if names := task_names([loss for loss in judged.tasks if loss.verdict == verdict]):
            sign, word = VERDICT_SIGNS[verdict].split()
            lines.append(f"{sign} {wording.and_join(names)} {word}")
    lines += [f"{wording.and_join(judged.unjudged)} not judged"] if judged.unjudged else []
    lines += ["tasks not answered"] if judged.unanswered else []
    return tuple(lines)


def _measure_verdict(loss: Loss, value: str = "") -> str:
    """ "✕ accuracy −9.0 points beyond"."""
    sign, verdict = VERDICT_SIGNS[loss.verdict].split()
    return f"{sign} {_name(loss)}{value} {verdict}"


def headline_difference(best: str, difference: LikelihoodDifference) -> tuple[str, ...]:
    """For a card: how a method compares with the best one, passage by passage. best: its name."""
    below = f"the word perplexity of {best}, paired, {_difference_interval(difference)}"
    return wording.nats_as_factor(difference.value), below, difference_p(difference)


def _difference_interval(difference: LikelihoodDifference) -> str:
    return _with_level(
        wording.factor_range(difference.low, difference.high) if not isinf(difference.low) else "",
        difference.level,
    )


def difference_p(difference: LikelihoodDifference) -> str:
    """ "p = 0.0023, Holm over 3 pairs": the p-value, with what it is corrected for; none of too few
    passages.
    """
    if difference.n_passages < FEWEST_PASSAGES:
        return f"not tested on fewer than {FEWEST_PASSAGES} passages"
    over = f", Holm over {difference.n_compared} pairs" if difference.n_compared > 1 else ""
    p_words = (
        f"p{NBSP}{_p_number(difference.p_value)}"
        if difference.p_value > 0.5
        else wording.p_value(difference.p_value)
    )
    return f"{p_words}{over}"


def _p_number(p: float) -> str:
    # Larger ones are not looked for.
    return f">{NBSP}0.5" if p > 0.5 else wording.p_number(p)


def race_table(results: RunResults) -> Table:
    """The other methods of a race beside the best one, at the sparsity that the answer names, the
    closest first.
    """
    best = wording.spec_title(results.best[0].spec)
    share = wording.sparsity_percent(results.race[0][0].permille)
    rows = []
    for rival, difference in results.race:
        ends = wording.factor_range(difference.low, difference.high)
        under = (
            "no interval" if isinf(difference.low) else f"{ends} ({level_words(difference.level)})"
        )
        few = difference.n_passages < FEWEST_PASSAGES
        p = difference_p(difference) if few else _p_number(difference.p_value)
        rows.append(
            [
                wording.spec_title(rival.spec),
                f"{wording.nats_as_factor(difference.value)}\n{under}",
                p,
            ]
        )
    caption = (
        f"Word perplexity as a multiple of that of “{best}” at {share}, with its interval; "
        "p after Holm over all pairs."
    )
    return Table(
        "The methods compared",
        caption,
        ["Method", "Perplexity", "p"],
        rows,
        stacked=True,
    )


def early_stopping_words(records: Mapping[str, Record]) -> str:
    """How the evaluations ended that were to stop early; empty where none was. records: by their
    names.
    """
    sentences = []
    whole = []
    early = {name: record.stopping for name, record in records.items() if record.stopping}
    for name, stopping in early.items():
        if stopping.n_answered >= stopping.n_passages:
            whole.append(name)
            continue
        why = {
            "difference": "a difference to the dense model is shown",
            "close": f"the difference to the dense model is under {100 * stopping.margin:g} points",
        }.get(stopping.decision, "decided by the limits of the search")
        sentences.append(
            f"{name} stopped after {stopping.n_answered:,} of {stopping.n_passages:,} passages: {why}."
        )
    if whole:
        counts = " and ".join(f"{n:,}" for n in sorted({early[name].n_passages for name in whole}))
        sentences.append(f"{wording.and_join(whole)} answered all {counts} passages.")
    return (
        " ".join([*sentences, "Intervals and p-values account for the repeated looks."])
        if sentences
        else ""
    )


def _is_unchanged(verdict: ToleranceVerdict) -> bool:
    """Whether the model gives every answer of the dense one, with its likelihood."""
    return (
        all(loss.value == 0 for loss in verdict.losses)
        and verdict.perplexity.low == verdict.perplexity.high
    )


def _interval_words(loss: Loss) -> str:
    """ "97.5 % interval 1.32 to 1.38"."""
    return _with_level(loss_interval(loss), loss.level)


def _with_level(interval: str, level: float) -> str:
    return f"{level_words(level)} interval {interval}" if interval else "no interval"


def level_words(level: float) -> str:
    """ "97.5 %", with as many digits as it takes not to be 100 %."""
    shown = next(text for digits in range(3, 17) if (text := f"{100 * level:.{digits}g}") != "100")
    return f"{shown}{NBSP}%"


def loss_cells(judged: ModelResult) -> list[Cell]:
    """The loss of a sparse model with its verdict; none for dense."""
    if judged.record.pruned is None:
        return []
    compared = judged.comparison
    lost = judged.verdict.perplexity
    accuracy = judged.verdict.accuracy
    change = compared.difference
    values = verdict_values(judged.verdict)
    points = loss_interval(accuracy) if accuracy else "not judged"
    return [
        Cell(
            "Times dense",
            f"{loss_value(lost)}\n{loss_interval(lost) or 'no interval'}",
        ),
        Cell(
            "Change, points",
            f"{wording.signed_points(change)}\n{points}",
            {**values, "change_points": 100 * change},
        ),
        Cell(
            "p",
            wording.p_number(judged.p_value),
            {"p": judged.p_value},
        ),
        Cell(
            "Broke",
            f"{compared.broke:,}",
            {"broke": compared.broke},
        ),
        Cell(
            "Fixed",
            f"{compared.fixed:,}",
            {"fixed": compared.fixed},
        ),
        Cell(
            "Verdict",
            verdict_sign(judged.verdict).replace(" by ", "\nby "),
        ),
    ]


def finite_ratio(nats: float) -> float | None:
    """A loss in nats as a multiple of dense's word perplexity; None where it is no number of
    JSON.
    """
    return exp(nats) if -LARGEST_LOSS < nats < LARGEST_LOSS else None


def verdict_values(verdict: ToleranceVerdict) -> dict[str, Value]:
    """A verdict with its losses as numbers for a file."""
    accuracy = verdict.accuracy
    lost = verdict.perplexity
    ends = (accuracy.value, accuracy.high, accuracy.low, -accuracy.level) if accuracy else ()
    values: list[Value] = [0.0 - 100 * share for share in ends] or [None] * 4
    ratios = [finite_ratio(nats) for nats in (lost.value, lost.low, lost.high)]
    ends_named = ("", "_low", "_high", "_level_percent")
    names = [f"{name}{end}" for name in ("change_points", "perplexity_ratio") for end in ends_named]
    decided_by = ", ".join(loss.name for loss in verdict.deciding)
    numbers = dict(
        zip(
            names,
            [*values, *ratios, 100 * lost.level],
            strict=True,
        )
    )
    return {
        **numbers,
        "verdict": verdict.verdict,
        "decided_by": decided_by,
    }


def reached_percents(results: RunResults, model: ModelResult) -> dict[str, float]:
    """The share of every budget that is gone, for a file: channels_removed_percent and so on; zeros
    for dense.
    """
    return {
        removed_percent_field(budget): 100 * results.removed(model, budget) for budget in BUDGETS
    }


def verdict_sign(verdict: ToleranceVerdict) -> str:
    """ "✕ beyond by perplexity", or "✕ beyond" where several measures say so."""
    decided_by = (
        f" by {_name(verdict.deciding[0])}"
        if len(verdict.deciding) == 1 and verdict.verdict != "undecided"
        else ""
    )
    return VERDICT_SIGNS[verdict.verdict] + decided_by


def numbers_table(results: RunResults, comparisons: Mapping[str, str] | None = None) -> Table:
    """Every model of the run with what is gone, its accuracy, its change from dense and their
    intervals.

    Above one that answered fewer passages dense stands once more, on the same. comparisons: the
    address of each one's comparison with dense, by its key.
    """
    addresses = comparisons or {}
    dense = results.dense
    total = dense.last_word.total
    compared = {dense.last_word.total}
    methods = results.run.settings.methods
    axis = results.run.settings.axis
    rows = []
    links = []
    gone = "removed" if all(method.is_structured for method in methods) else "removed or zero"
    # Four columns of shares would not fit beside the rest; the file has them.
    heads = {
        item: f"{wording.first_upper(title)} {gone}"
        for item, title in wording.budget_titles(methods).items()
    }
    shown: tuple[Budget, ...] = ("channels", "weights" if axis == "channels" else axis)

    def cells(name: str, judged: ModelResult, record: Record) -> list[Cell]:
        score = record.last_word
        perplexity = record.word_perplexity
        right = (
            f"{score.right:,}" if score.total == total else f"{score.right:,} of {score.total:,}"
        )
        low, high = accuracy_interval(record)
        ends = {
            "accuracy_percent_low": 100 * low,
            "accuracy_percent_high": 100 * high,
        }
        accuracy = f"{percent(score.accuracy)}\n{wording.interval((low, high))}"
        return [
            Cell(
                "Model",
                name,
                {"model": name, **reached_percents(results, judged)},
            ),
            *(
                Cell(
                    heads[budget],
                    percent(results.removed(judged, budget)) if record.pruned else "0",
                )
                for budget in shown
            ),
            Cell(
                f"Right of {total:,}",
                right,
                {"right": score.right, "passages": score.total},
            ),
            Cell(
                "Accuracy",
                accuracy,
                {"accuracy_percent": 100 * score.accuracy, **ends},
            ),
            Cell(
                "Word perplexity", wording.perplexity(perplexity), {"word_perplexity": perplexity}
            ),
        ]

    for judged in results.models:
        record = judged.record
        name = results.names[judged.record.key]
        if (n := record.last_word.total) not in compared:
            compared.add(n)
            same = {outcome.index for outcome in record.outcomes}
            on_same = replace(
                dense,
                outcomes=tuple(item for item in dense.outcomes if item.index in same),
            )
            rows.append(
                cells(
                    f"dense, same {n:,}",
                    results.models[0],
                    on_same,
                )
            )
            links.append(escape(f"dense, same {n:,}"))
        rows.append([*cells(name, judged, record), *loss_cells(judged)])
        address = addresses.get(record.key, "")
        link = element(
            "a",
            escape(name),
            href=address,
            aria_label=f"{name} against dense",
        )
        links.append(link if address else escape(name))
    return Table.of_cells(
        "The numbers of this run",
        _numbers_caption(results),
        rows,
        links,
        wording.file_stem(results.run),
    )


def _numbers_caption(results: RunResults) -> str:
    n = max(results.run.n_compared, len(results.sparse))
    early = any(record.stopping for record in results.sparse)
    looked = " With early stopping, intervals and p are valid at any look." if early else ""
    accuracies = "Dense interval" if early else "Accuracies"
    test = "" if early else ", exact McNemar"
    holm = f", Holm over {n} comparisons" if n > 1 else ""
    return (
        f"Last word of each passage; intervals stand under their numbers. {accuracies}: Wilson, "
        f"{wording.LEVEL}. Changes are paired with dense, their intervals the verdict's: "
        f"{LEVELS}{looked} p: equal accuracy{test}{holm}."
    )
