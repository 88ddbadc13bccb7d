"""The sentences about one run or search: what pruning cost, how it ended, what is missing, what to do next.

Plain text: escape it before it becomes markup.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sparsedash.catalog.choices import EVALUATION_CORPORA
from sparsedash.jobs.job import Job, JobState
from sparsedash.reporting import wording
from sparsedash.reporting.run_results import Judged, RunResults, best, largest_within, smallest_beyond
from sparsedash.reporting.verdicts import (
    MOST_PASSAGES,
    accuracy_open,
    decision_words,
    loss_words,
    needed_words,
    passages_to_decide,
    perplexity_loss_words,
    tolerance_words,
)
from sparsedash.schema.method_settings import FIXED_PERMILLE, MethodSettings
from sparsedash.schema.records import Run
from sparsedash.schema.settings import EvaluationSettings, FindResult, FindSettings, RunSettings
from sparsedash.stats.tolerance import FEWEST_PASSAGES, Tolerance, ToleranceVerdict


def find_sentence(result: FindResult, method: MethodSettings, verdicts: Mapping[int, ToleranceVerdict]) -> str:
    """How much can go, in one sentence. verdicts: on the trials, by their sparsity in per mille."""
    tolerance = Tolerance(ratio=result.ratio, points=result.points)
    if not result.finished:
        return _so_far(result, method)
    if result.answer is not None and result.answer in verdicts:
        found = verdicts[result.answer]
        cost = perplexity_loss_words(found.perplexity)
        can = f"{wording.sparsity_percent(result.answer)} {_of_what(method)} can {_go(method)}"
        return f"{can}: {cost}, allowed {result.ratio:g} ×{accuracy_open(found)}{_what_is_next(result, verdicts)}."
    if result.n_passages < FEWEST_PASSAGES:
        what = f"{result.n_passages:,} {wording.plural(result.n_passages, 'passage')}"
        return f"Too few to judge: {what} cannot show that anything stays within {tolerance_words(tolerance)}."
    nothing = f"Nothing was found that can {_go(method)} within {tolerance_words(tolerance)}"
    return f"{nothing}{_what_is_next(result, verdicts)}."


def find_steps(result: FindResult) -> str:
    """How the search got there: trials, steps and what was made of those that stayed undecided."""
    n, steps = len(result.trials), len(result.steps)
    said = f"{n} {wording.plural(n, 'trial')} among {steps:,} {wording.plural(steps, 'step')} of sparsity"
    answered = sum(trial.n_passages for trial in result.trials)
    said += f", {answered:,} passages answered instead of {steps * result.n_passages:,}."
    unknown = [trial.permille for trial in result.trials if trial.verdict == "undecided"]
    if unknown:
        said += f" {wording.sparsity_percents(tuple(sorted(unknown)))} stayed undecided and counted as too much."
    return said


def find_document(
    result: FindResult, method: MethodSettings, verdicts: Mapping[int, ToleranceVerdict]
) -> dict[str, Any]:
    """The search as JSON values; docs/cli.md describes its fields."""
    return {
        "answer_percent": None if result.answer is None else result.answer / 10,
        "sentence": find_sentence(result, method, verdicts).replace(wording.NBSP, " "),
        "tolerance": {"ratio": result.ratio, "points": result.points},
        "passages": result.n_passages,
        "steps_percent": [step / 10 for step in result.steps],
        "trials": [
            {"sparsity_percent": trial.permille / 10, "verdict": trial.verdict, "passages": trial.n_passages}
            for trial in result.trials
        ],
        "finished": result.finished,
    }


def _so_far(result: FindResult, method: MethodSettings) -> str:
    inside = [trial.permille for trial in result.trials if trial.verdict == "within"]
    outside = [trial.permille for trial in result.trials if trial.verdict != "within"]
    can = [f"{wording.sparsity_percent(max(inside))} {_of_what(method)} can {_go(method)}"] if inside else []
    cannot = [f"{wording.sparsity_percent(min(outside))} is not shown to be within"] if outside else []
    found = ", ".join([*can, *cannot])
    return f"So far: {found}; the search goes on." if found else "The search for how much can go has begun."


def _what_is_next(result: FindResult, verdicts: Mapping[int, ToleranceVerdict]) -> str:
    """What was found one step further."""
    step = result.next_step
    if step is None:
        return "; it is the most that can be tried"
    judged, where = verdicts.get(step), wording.sparsity_percent(step)
    if judged is not None and judged.verdict == "beyond":
        return f"; at {where} {judged.decided_by[0]} is beyond what is allowed"
    n = judged.n_passages if judged is not None else result.n_passages
    return f"; {n:,} {wording.plural(n, 'passage')} leave {where} undecided"


def _of_what(method: MethodSettings) -> str:
    return "of the MLP channels" if method.takes_channels else wording.share_of(method)


def _go(method: MethodSettings) -> str:
    return "go" if method.takes_channels else "be zero"


def answer_sentence(found: RunResults, ended: bool = False) -> str:
    """How much can go within what is allowed, in one sentence. ended: whether no more sparse models come."""
    rows = best(found)
    if (search := _search(found)) is not None and not ended:
        return find_sentence(search, found.run.settings.methods[0], _verdicts(rows))
    if not rows and found.missing and found.run.finished:
        return "The dense model has answered; the records of its sparse models are missing."
    if not rows and ended:
        return "The dense model has answered; no sparse model has."
    if not rows:
        return "The dense model has answered; the sparse models are on their way."
    sentence = _sentence(rows, found.tolerance, found.several_methods)
    if found.run.finished:
        return sentence
    # "So far: removing ...", but "So far undecided: ..."
    colon = "" if _all_open(rows) else ":"
    return f"So far{colon} {sentence[0].lower()}{sentence[1:]}"


def answer_figures(found: RunResults) -> list[str]:
    """What the answer rests on: what the models it speaks of cost, and what would decide those that are undecided."""
    search, rows = _search(found), best(found)
    if search is None:
        return answer_costs(found) + _undecided(rows)
    return answer_costs(found) + (_undecided(_ends(search, rows)) if search.finished else [])


def answer_costs(found: RunResults) -> list[str]:
    """What the models cost that the answer speaks of; of a search also how it got there."""
    rows = best(found)
    if (search := _search(found)) is not None:
        said = [f"{_removed(row)}: {loss_words(row.verdict)}." for row in _ends(search, rows)]
        return [*said, find_steps(search)] if search.finished else said
    spoken_of = [row for row in (largest_within(rows), smallest_beyond(rows)) if row]
    return [f"{_removed(row)}: {loss_words(row.verdict)}." for row in spoken_of or rows[:1]]


def _ends(search: FindResult, rows: Sequence[Judged]) -> list[Judged]:
    """The answer of a finished search, and the step after it."""
    ends = (search.answer, search.next_step) if search.finished else ()
    return [row for row in rows if row.record.sparsity_permille in ends]


def _undecided(rows: Sequence[Judged]) -> list[str]:
    """What would decide each of these that is undecided."""
    unknown = [row for row in rows if row.verdict.verdict == "undecided"]
    return [f"{_asked(row)} is undecided: {passages_to_decide(row.verdict)}" for row in unknown]


def _search(found: RunResults) -> FindResult | None:
    """The search that the run is, where its results are judged by what it was asked for; else None."""
    search = found.search
    same = search is not None and found.tolerance == Tolerance(ratio=search.ratio, points=search.points)
    return search if same else None


def _verdicts(rows: Sequence[Judged]) -> dict[int, ToleranceVerdict]:
    return {row.record.sparsity_permille: row.verdict for row in rows}


def _sentence(rows: Sequence[Judged], tolerance: Tolerance, several_methods: bool) -> str:
    by = f" with “{wording.method_title(rows[0].method)}”" if several_methods else ""
    within, beyond = largest_within(rows), smallest_beyond(rows)
    total = rows[0].verdict.n_passages
    if within is not None:
        rest = _beyond_it(rows, within, beyond, tolerance)
        return f"{_taking(within)}{by} {decision_words(within.verdict, tolerance)}{rest}, on {total:,} passages."
    if beyond is not None:
        smaller = [row for row in rows if row.record.sparsity_permille < beyond.record.sparsity_permille]
        rest = f"; {_list(smaller)} {_is(smaller)} undecided" if smaller else ""
        return f"{_taking(beyond)}{by} {decision_words(beyond.verdict, tolerance)}{rest}, on {total:,} passages."
    most = tolerance_words(tolerance)
    if rows[0].verdict.too_few:
        what = f"{total:,} {wording.plural(total, 'passage')}"
        return f"Too few to judge: {what} cannot show that {_taking(rows[0], lower=True)}{by} stays within {most}."
    return f"Undecided: {total:,} passages cannot tell whether {_taking(rows[0], lower=True)}{by} stays within {most}."


def _all_open(rows: Sequence[Judged]) -> bool:
    """Whether nothing is decided of any of these models."""
    return all(row.verdict.verdict == "undecided" for row in rows)


def _beyond_it(rows: Sequence[Judged], within: Judged, beyond: Judged | None, tolerance: Tolerance) -> str:
    """What the sentence says of larger sparsities."""
    larger = [row for row in rows if row.record.sparsity_permille > within.record.sparsity_permille]
    unknown = [row for row in larger if row.verdict.verdict == "undecided"]
    parts = [f"{_list(unknown)} {_is(unknown)} undecided"] if unknown else []
    if beyond is not None:
        parts.append(f"{_asked(beyond)} {decision_words(beyond.verdict, tolerance)}")
    return f"; {', '.join(parts)}" if parts else ""


def _taking(row: Judged, lower: bool = False) -> str:
    """ "Removing 20 % of the MLP"; where the widths were rounded to less than half of that, also how much is gone."""
    pruned = row.record.pruned
    assert pruned is not None, "what is judged is a sparse model"
    verb, after = ("Removing", "") if row.method.takes_channels else ("Setting", " to zero")
    if row.method.takes_channels and pruned.mlp_sparsity < row.permille / 2000:
        after = f" ({wording.percent(pruned.mlp_sparsity)} after rounding the widths)"
    return f"{verb.lower() if lower else verb} {_asked(row)} {wording.share_of(row.method)}{after}"


def _asked(row: Judged) -> str:
    return wording.sparsity_percent(row.record.sparsity_permille)


def _removed(row: Judged) -> str:
    """ "20 % (19.8 % of the MLP, 11.7 % of all linear weights)": asked for, measured, and what that means."""
    pruned = row.record.pruned
    assert pruned is not None, "what is judged is a sparse model"
    return f"{_asked(row)} ({wording.measured_sparsity(pruned)})"


def _list(rows: Sequence[Judged]) -> str:
    return wording.sparsity_percents(tuple(row.record.sparsity_permille for row in rows))


def _is(rows: Sequence[Judged]) -> str:
    return "is" if len(rows) == 1 else "are"


_SAID = 2
"""Undecided sparsities whose passages are told."""


@dataclass(frozen=True, kw_only=True)
class NextStep:
    """What to do next. link: what the way there is called. asked: what it asks the form for; None: it leads to the
    files of the model that the answer speaks of.
    """

    said: str
    link: str
    asked: RunSettings | FindSettings | None


def next_step(found: RunResults) -> NextStep | None:
    """The next step after a finished run; None where none of its sparse models was judged, or it is not finished."""
    rows = best(found)
    if not rows or not found.run.finished:
        return None
    within, beyond = largest_within(rows), smallest_beyond(rows)
    if found.run.find is not None and within is not None:
        said = (
            f"Next: export the model at {wording.sparsity_percent(within.permille)}, or see which answers it changed."
        )
        return NextStep(said=said, link="Export this model", asked=None)
    if unknown := _open(rows, within, beyond):
        return _ask_more(found, unknown)
    if found.run.find is not None:
        said = "Next: allow more, or search with another method."
        return NextStep(said=said, link="Change the settings", asked=found.run.find)
    return _look_between(found, rows, within, beyond)


def _open(rows: Sequence[Judged], within: Judged | None, beyond: Judged | None) -> list[Judged]:
    """Those undecided that the answer depends on: above what is within, below what is beyond."""
    low = within.permille if within else -1
    high = beyond.permille if beyond else 1001
    return [row for row in rows if row.verdict.verdict == "undecided" and low < row.permille < high]


def _ask_more(found: RunResults, unknown: Sequence[Judged]) -> NextStep:
    total, asked = found.dense.last_word.total, found.run.find or found.run.settings
    counted = sorted((n, row.permille) for row in unknown if (n := _needed(row)) is not None)
    too_few = any(row.verdict.too_few for row in unknown)
    if not counted and not too_few:
        percent = wording.sparsity_percent(unknown[0].permille)
        near = f"{percent} loses nearly what is allowed: over {MOST_PASSAGES:,} passages"
        said = f"Next: allow more or less, or try other sparsities. {near} would be needed to decide it."
        return NextStep(said=said, link="Change the settings", asked=asked)
    if counted:
        would = [
            f"{needed_words(n)} would decide {wording.sparsity_percent(permille)}" for n, permille in counted[:_SAID]
        ]
        told = f"{wording.first_upper(', '.join(would))}, judging by these {total:,}."
    else:
        told = f"With fewer than {FEWEST_PASSAGES} nothing is ever called within."
    evaluation = _more_passages(asked.evaluation, counted[0][0] if counted else FEWEST_PASSAGES)
    more = replace(asked, evaluation=evaluation if counted else replace(evaluation, n_passages=None))
    return NextStep(said=f"Next: ask more passages. {told}", link="Ask more passages", asked=more)


def _needed(row: Judged) -> int | None:
    n = row.verdict.passages_needed
    return None if n is None or n > MOST_PASSAGES else n


def _more_passages(now: EvaluationSettings, needed: int) -> EvaluationSettings:
    """So many of the same text, if it has them or is not known here; else all of the smallest that has them, or of the
    largest there is.
    """
    known = {choice.name: choice.n_texts for choice in EVALUATION_CORPORA}
    n = max(FEWEST_PASSAGES, wording.round_up(needed))
    if known.get(now.corpus, n) >= needed:
        return replace(now, n_passages=n if n < known.get(now.corpus, n + 1) else None)
    enough = [name for name, count in known.items() if count >= needed]
    return replace(now, corpus=enough[0] if enough else max(known, key=lambda name: known[name]), n_passages=None)


def _look_between(found: RunResults, rows: Sequence[Judged], within: Judged | None, beyond: Judged | None) -> NextStep:
    if within is not None and beyond is not None:
        said = f"Next: search for the most that can go, between {_both(within, beyond)}."
    elif within is not None:
        said = f"Next: see whether more than {wording.sparsity_percent(within.permille)} can go."
    else:
        said = (
            f"Next: see whether less than {wording.sparsity_percent(rows[0].permille)} can go, or race other methods."
        )
    settings, method = found.run.settings, rows[0].method
    if method.pattern in FIXED_PERMILLE:
        return NextStep(said="Next: race other methods.", link="Change the settings", asked=settings)
    search = FindSettings(
        model=settings.model,
        dtype=settings.dtype,
        method=method,
        calibration=settings.calibration,
        evaluation=replace(settings.evaluation, stop_early=False),
        ratio=found.tolerance.ratio,
        points=found.tolerance.points,
    )
    return NextStep(said=said, link="Set up a search", asked=search)


def _both(low: Judged, high: Judged) -> str:
    return f"{low.permille / 10:g} and {wording.sparsity_percent(high.permille)}"


_WAY = {"is": "its", "are": "their"}
_ENDED: dict[JobState, str] = {
    "cancelled": "was stopped",
    "failed": "failed",
    "crashed": "broke off, since its worker died",
}


def still_to_come(job: Job, what: str) -> str:
    """What to expect of a live run that has not brought this yet. what: such as "The comparison is"."""
    if job.stopping:
        return "This run is being stopped."
    return "This run waits for its turn." if job.state == "queued" else f"{what} on {_WAY[what.split()[-1]]} way."


def run_ending(run: Run, job: Job | None) -> str:
    """How the run ended early and how many of its sparse models there are; nothing while it goes on or is whole.

    job: its newest; None where there is none, as of a run from a shell.
    """
    if run.finished or (job is not None and job.live):
        return ""
    how = _ENDED.get(job.state, "did not finish") if job is not None else "did not finish"
    made, asked = len(run.sparse), run.settings.n_sparse
    if run.find is not None:
        return f"This search {how} after {made or 'no'} {'trial' if made == 1 else 'trials'}."
    if made == asked:
        return f"This run {how} after its last sparse model had answered."
    there = f"{made or 'none'} of its {asked} sparse models {'is' if made <= 1 else 'are'} there"
    return f"This run {how}: {there if asked > 1 else 'its sparse model is not there'}."


def no_results(run: Run | None, why: str) -> str:
    """Why nothing can be shown of a run that had results. run: None where its own record is missing. why: the end of
    the sentence.
    """
    return f"This run has no results any more: {'its own' if run is None else 'its dense'} record {why}."


def missing_records(run: Run, missing: Mapping[str, str]) -> str:
    """Which sparse records of a run are missing, and what that means for the others; nothing where all are there.

    missing: why, by their names within the run.
    """
    if not missing:
        return ""
    said = " ".join(f"The record of {name} {why}." for name, why in missing.items())
    counts = "It still counts as a comparison" if len(missing) == 1 else "They still count as comparisons"
    return f"{said} {counts} in the verdicts on the others." if run.n_compared > len(missing) else said
