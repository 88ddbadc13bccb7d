"""The sentences about one run or search: what pruning cost, how it ended, what is missing.

Plain text: escape it before it becomes markup.
"""

from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from typing import Any, NamedTuple

from sparsedash.jobs.job import Job, JobState
from sparsedash.reporting import wording
from sparsedash.reporting.quantised_words import quantised_figures
from sparsedash.reporting.run_results import (
    Judged,
    RunResults,
    is_one_layer_apart,
    largest_within,
    smallest_beyond,
)
from sparsedash.reporting.verdicts import (
    difference_words,
    limits_sentence,
    loss_words,
    task_names,
    verdict_words,
)
from sparsedash.reporting.wording import and_join, limit_factor, quantity, sparsity_percent
from sparsedash.schema.find_settings import FindResult
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.records import Run
from sparsedash.schema.tolerance_settings import Tolerance
from sparsedash.stats.sparsity_search import first_crossing
from sparsedash.stats.tolerance import FEWEST_PASSAGES, ToleranceVerdict

TOO_FEW = f"fewer than {FEWEST_PASSAGES} passages can never confirm a model"
_ENDED: dict[JobState, str] = {
    "cancelled": "was stopped",
    "failed": "failed",
    "crashed": "was interrupted (its worker process died)",
}


def answer_sentence(found: RunResults, ended: bool = False, race: bool = True) -> str:
    """How much can be removed within the limits. ended: whether no more sparse models come. race:
    who wins as well.
    """
    rows, search = found.best, _search(found)
    if not rows:
        if found.judged and not any(found.run.settings.made_permille):
            quantised = [each for each in found.judged if each.method.quantise]
            said = [
                f"{found.names[each.record.key]} {verdict_words(each.verdict)}."
                for each in quantised
            ]
            return " ".join(
                ["Nothing was removed: at 0 % the sparse model is the dense one.", *said]
            )
        rest = "no sparse model was" if ended or found.run.finished else "no sparse model yet"
        if found.missing and found.run.finished and not ended:
            rest = "the records of the sparse models are missing"
        return f"The dense model is evaluated; {rest}."
    method, verdicts = rows[0].method, {row.permille: row.verdict for row in rows}
    if search is not None and search.finished:
        return find_sentence(search, method, verdicts)
    by = f" with {quoted_method(method)}" if found.run.settings.names_methods else ""
    notes = {row.permille: _rounding_note(row) for row in rows}
    said = [
        verdicts_sentence(verdicts, method, found.tolerance, by, notes),
        race_sentence(found) if race else "",
    ]
    sentence = " ".join(filter(None, said))
    return sentence if found.run.finished or ended else f"So far: {sentence}"


def quoted_method(method: MethodSettings) -> str:
    """The title of a method in quotation marks."""
    return f"“{wording.method_title(method)}”"


def race_sentence(found: RunResults) -> str:
    """Which method wins a race, at the sparsity that the answer names; nothing where no two were
    tested there.
    """
    if not found.race:
        return ""
    best, at = quoted_method(found.best[0].method), sparsity_percent(found.race[0][0].permille)
    if (fewest := min(difference.n_passages for _, difference in found.race)) < FEWEST_PASSAGES:
        return f"{wording.too_few(fewest, 'passage')} to rank methods; test on {FEWEST_PASSAGES} or more."
    groups: dict[int, list[str]] = {-1: [], 0: [], 1: []}
    for rival, difference in found.race:
        groups[difference.is_shown * (1 if difference.value > 0 else -1)].append(
            quoted_method(rival.method)
        )
    ahead, alike, beaten = groups.values()
    p = max(
        (difference.p_value for _, difference in found.race if difference.is_shown), default=1.0
    )
    sure = f"(perplexity, {wording.p_at_most(p)}"
    sure += f" after{wording.NBSP}Holm)" if found.race[0][1].n_compared > 1 else ")"
    if ahead:
        return f"{and_join(ahead)} {'beats' if len(ahead) == 1 else 'beat'} {best} at {at} {sure}."
    n = quantity(fewest, "passage")
    apart = f"cannot be told apart from {_some(alike, found.race)}"
    if not beaten:
        return f"{best} {apart} at {at} on {n}."
    if alike:
        return f"{best} beats {_some(beaten, found.race)} at {at} {sure}, but {apart} on {n}."
    # Some may not be there yet, or no longer.
    if len(found.race) < len(found.raced) - 1:
        return (
            f"{best} beats {and_join(beaten)} at {at} {sure}; not all methods have a model there."
        )
    return f"{best} wins at {at} {sure}: it beats {_some(beaten, found.race)}."


def _some(methods: Sequence[str], race: Sequence[object]) -> str:
    """ "“a” and “b”"; of more "3 of 5 other methods", or "all 5 other methods"."""
    if len(methods) <= 2:
        return and_join(methods)
    return (
        f"{'all' if len(methods) == len(race) else f'{len(methods)} of'} {len(race)} other methods"
    )


def find_sentence(
    result: FindResult, method: MethodSettings, verdicts: Mapping[int, ToleranceVerdict]
) -> str:
    """How much can be removed, by a finished search. verdicts: on the trials, by their sparsity in
    per mille.
    """
    by = f" with {quoted_method(method)}" if method.heal_steps else ""
    ends = {
        step: verdicts[step]
        for step in (result.answer, result.next_step)
        if step is not None and step in verdicts
    }
    said = [verdicts_sentence(ends, method, result.tolerance, by)] if ends else []
    if result.answer not in ends and result.n_passages < FEWEST_PASSAGES:
        said.insert(0, f"{wording.first_upper(TOO_FEW)}.")
    elif result.answer is None:
        said.insert(0, "No sparsity was found that stays within your limit.")
    elif result.answer not in ends:
        said.insert(
            0, f"{sparsity_percent(result.answer)} stayed within your limit; its record is missing."
        )
    elif result.next_step is None:
        said.append("It is the largest sparsity that a search tries.")
    return " ".join(said)


def verdicts_sentence(
    verdicts: Mapping[int, ToleranceVerdict],
    method: MethodSettings,
    tolerance: Tolerance,
    by: str = "",
    notes: Mapping[int, str] | None = None,
    model: str = "",
) -> str:
    """The largest sparsity within the limits, the smallest beyond, and what is undecided between or
    above them.

    verdicts: at least one. by: with which method. notes: what belongs after a sparsity. model: what
    a single one is called where its sparsity says nothing.
    """
    decided, undecided = answered(verdicts)
    said = []
    for each in decided:
        found, smaller = verdicts[each], [other for at, other in verdicts.items() if at < each]
        up_to = found.verdict == "within" and all(other.verdict == "within" for other in smaller)
        name, note = sparsity_percent(each), (notes or {}).get(each, "")
        said.append((f"up to {name}" if up_to else name, note, verdict_words(found)))
    alike: dict[str, list[int]] = {}
    for permille in undecided:
        alike.setdefault(verdict_words(verdicts[permille]), []).append(permille)
    for group in alike.values():
        names = [
            f"{sparsity_percent(permille)}{(notes or {}).get(permille, '')}" for permille in group
        ]
        phrase = verdict_words(verdicts[group[0]], "are" if said and len(group) > 1 else "is")
        said.append((and_join(names, "and" if said else "or"), "", phrase))
    verb, after = ("Removing", "") if method.takes_channels else ("Setting", " to zero")
    (subject, note, phrase), *rest = said
    sentences = [
        f"{model or f'{verb} {subject} {wording.share_of(method)}{after}{note}{by}'} {phrase}."
    ]
    sentences += [f"{subject}{note} {phrase}." for subject, note, phrase in rest]
    if not decided:
        sentences.append(limits_sentence(verdicts[undecided[0]], tolerance))
    elif (
        not undecided
        and "passage" not in sentences[0]
        and len({verdicts[each].n_passages for each in decided}) == 1
    ):
        tested = {tuple(task_names(verdicts[each].tasks)) for each in decided}
        tasks = tested.pop() if len(tested) == 1 else ()
        sentences.append(
            f"Tested on {and_join([quantity(verdicts[decided[0]].n_passages, 'passage'), *tasks])}."
        )
    return " ".join(sentences)


def answered(verdicts: Mapping[int, ToleranceVerdict]) -> tuple[list[int], list[int]]:
    """The sparsities that the answer names: the largest within and the smallest beyond, and the
    undecided ones.

    Of these only what lies above the largest within, and below the next beyond, can change the
    answer.
    """
    by_verdict: dict[str, list[int]] = {"within": [], "beyond": [], "undecided": []}
    for permille, found in sorted(verdicts.items()):
        by_verdict[found.verdict].append(permille)
    low = max(by_verdict["within"], default=-1)
    high = min((each for each in by_verdict["beyond"] if each > low), default=1001)
    undecided = [each for each in by_verdict["undecided"] if low < each < high]
    return list(dict.fromkeys([*by_verdict["within"][-1:], *by_verdict["beyond"][:1]])), undecided


_FAR = 10
"""Times the limit."""


class LimitEstimate(NamedTuple):
    """The share in percent of a run's budget at which word perplexity meets its limit. high: None
    where it meets none.

    low, high: by the upper and the lower ends of the intervals.
    """

    percent: float
    low: float
    high: float | None


def limit_estimate(found: RunResults) -> LimitEstimate | None:
    """Where the best method meets the limit on straight lines from dense through its models; None
    where it does not.

    None where the first model over the limit loses _FAR times as much, since losses do not grow
    evenly so far; where it has one layer less than the one before; of a search, which has an answer
    of its own; and where the passages are too few for any verdict.
    """
    enough = [row for row in found.best if row.verdict.n_passages >= FEWEST_PASSAGES]
    rows = [row for row in enough if isfinite(row.verdict.perplexity.low)]
    losses = [row.verdict.perplexity for row in rows]
    shares = [100 * found.removed(row, found.run.settings.budget) for row in rows]

    def meets(values: Iterable[float]) -> float | None:
        return first_crossing(zip([0.0, *shares], [0.0, *values], strict=True), losses[0].most)

    over = next((loss for loss in losses if loss.value > loss.most), None)
    if over is None or over.value >= _FAR * over.most or found.search is not None:
        return None
    at = losses.index(over)
    if is_one_layer_apart(rows[at - 1] if at else None, rows[at]):
        return None
    percent = meets(loss.value for loss in losses)
    assert percent is not None, "one model is over the limit, and dense is not"
    low = meets(loss.high for loss in losses) or percent
    return LimitEstimate(percent, low, meets(loss.low for loss in losses))


def estimate_words(found: RunResults) -> str:
    """Where word perplexity meets its limit; nothing where it does not."""
    if (at := limit_estimate(found)) is None:
        return ""
    method = found.best[0].method
    ends = (
        f"{at.low:.2g}{wording.NBSP}% or more"
        if at.high is None
        else f"{at.low:.2g} to {at.high:.2g}{wording.NBSP}%"
    )
    limit, gone = limit_factor(found.tolerance.ratio), wording.removed_or_zeroed(method)
    by = f" by {quoted_method(method)}" if found.run.settings.names_methods else ""
    share = f"{at.percent:.2g}{wording.NBSP}% {wording.share_of(method)} {gone}{by}"
    return (
        f"By linear interpolation perplexity reaches {limit} at {share} (by the intervals {ends})."
    )


def answer_figures(found: RunResults, race: bool = True) -> list[str]:
    """The losses of the models that the answer names, and what healing did to them; of a race the
    differences, unless a table has them; of a search how it got there.
    """
    rows, search = found.best, _search(found)
    ends = (largest_within(rows), smallest_beyond(rows))
    named = [row for row in ends if row] or rows[:1]
    if search is not None:
        named = [
            row
            for row in rows
            if search.finished and row.permille in (search.answer, search.next_step)
        ]
    said = [
        f"{sparsity_percent(row.permille)} ({wording.measured_sparsity(row.record.pruned)}): {loss_words(row.verdict)}."
        for row in named
        if row.record.pruned
    ]
    said += [
        f"{quoted_method(row.method)} at {sparsity_percent(row.permille)}: "
        f"{wording.healing_words(row.record.pruned.healed)}."
        for row in (*named, *(rival for rival, _ in found.race))
        if row.record.pruned and row.record.pruned.healed
    ]
    if search is not None:
        tasks = ["Trials whose passages are within answer the tasks as well."] * bool(
            found.run.answers
        )
        return [*said, find_steps(search), *tasks] if search.finished else said
    said += [
        f"{quoted_method(rival.method)} at {sparsity_percent(rival.permille)}: "
        f"{difference_words(difference, quoted_method(rows[0].method))}."
        for rival, difference in (found.race if race else ())
    ]
    zeros = [
        quoted_method(method) for method in found.run.settings.methods if not method.takes_channels
    ]
    if rows and rows[0].method.takes_channels and zeros:
        said.append(
            f"Not compared: {and_join(zeros)}. Zeros make a model neither smaller nor faster."
        )
    return [*said, *quantised_figures(found)]


def _search(found: RunResults) -> FindResult | None:
    """The search that the run is, where its results are judged by the limits it was asked for; else
    None.
    """
    search = found.search
    if search is None or search.tolerance != found.tolerance:
        return None
    return search


def _rounding_note(row: Judged) -> str:
    """The share that is removed, where rounding moved it by a tenth or more of what was asked
    for.
    """
    reached = row.record.pruned.reached[row.method.budget] if row.record.pruned else 0.0
    if not row.method.takes_channels or abs(reached - row.permille / 1000) < row.permille / 10_000:
        return ""
    how = "to whole layers" if row.method.takes_layers else "the widths"
    return f" ({wording.percent(reached)} after rounding {how})"


def find_steps(result: FindResult) -> str:
    """How the search got there: trials, steps, and how undecided ones were treated."""
    answered, steps = sum(trial.n_passages for trial in result.trials), len(result.steps)
    tried = f"Tried {len(result.trials)} of {steps} possible sparsities"
    said = f"{tried}: {answered:,} passages evaluated instead of {steps * result.n_passages:,}."
    unknown = sorted(trial.permille for trial in result.trials if trial.verdict == "undecided")
    if unknown:
        names, one = (
            and_join([sparsity_percent(permille) for permille in unknown]),
            len(unknown) == 1,
        )
        was, it = ("was", "it") if one else ("were", "them")
        said += f" {names} {was} undecided, so the search treated {it} as too much."
    return said


def find_document(
    result: FindResult, method: MethodSettings, verdicts: Mapping[int, ToleranceVerdict]
) -> dict[str, Any]:
    """The search as JSON values; docs/cli.md describes its fields."""
    return {
        "answer_percent": None if result.answer is None else result.answer / 10,
        "sentence": find_sentence(result, method, verdicts).replace(wording.NBSP, " "),
        "tolerance": result.tolerance.as_document(),
        "passages": result.n_passages,
        "steps_percent": [step / 10 for step in result.steps],
        "trials": [
            {
                "sparsity_percent": trial.permille / 10,
                "verdict": trial.verdict,
                "passages": trial.n_passages,
            }
            for trial in result.trials
        ],
        "finished": result.finished,
    }


def still_to_come(job: Job, what: str) -> str:
    """What to expect of a live run that has not brought this yet. what: said of one that runs."""
    if job.stopping:
        return "This run is stopping."
    return "This run is queued." if job.state == "queued" else what


def run_ending(run: Run, job: Job | None) -> str:
    """How the run ended early and how many of its sparse models there are; nothing while it goes on
    or is finished.

    job: its newest; None where there is none, as of a run from a shell.
    """
    if run.finished or (job is not None and job.live):
        return ""
    how, made = (
        _ENDED.get(job.state if job is not None else "done", "did not finish"),
        len(run.sparse),
    )
    if run.find is not None:
        return f"This search {how} after {quantity(made, 'trial')}."
    if (asked := run.settings.n_sparse) == 1:
        return f"This run {how}: its sparse model is {'done' if made else 'not done'}."
    return (
        f"This run {how}: {made} of its {asked} sparse models {'is' if made == 1 else 'are'} done."
    )


def no_results(run: Run | None, why: str) -> str:
    """Why a run that had results has none. run: None where its own record is missing. why: the end
    of the sentence.
    """
    return f"The results of this run are gone: {'its own' if run is None else 'its dense'} record {why}."


def missing_records(run: Run, missing: Mapping[str, str]) -> str:
    """Which sparse records of a run are missing, and what that means for the others; nothing where
    all are there.

    missing: why, by their names within the run.
    """
    said = [f"The record of {name} {why}." for name, why in missing.items()]
    counts = "Missing models still count as comparisons in the verdicts."
    return " ".join([*said, counts] if 0 < len(missing) < run.n_compared else said)
