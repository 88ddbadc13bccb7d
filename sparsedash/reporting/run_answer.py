"""The sentences about one run or search: what pruning cost, how it ended, what is missing, what to do next.

Plain text: escape it before it becomes markup.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sparsedash.catalog.choices import EVALUATION_CORPORA
from sparsedash.jobs.job import Job, JobState
from sparsedash.reporting import wording
from sparsedash.reporting.run_results import Judged, RunResults, largest_within, smallest_beyond
from sparsedash.reporting.verdicts import (
    MOST_PASSAGES,
    decision_words,
    loss_words,
    needed_words,
    passages_to_decide,
    tolerance_words,
    verdict_phrase,
)
from sparsedash.reporting.wording import and_join, quantity, sparsity_percent
from sparsedash.schema.method_settings import FIXED_PERMILLE, MethodSettings
from sparsedash.schema.records import Run
from sparsedash.schema.settings import EvaluationSettings, FindResult, FindSettings, RunSettings
from sparsedash.stats.tolerance import FEWEST_PASSAGES, Tolerance, ToleranceVerdict

_COUNTED = 2
"""Undecided sparsities whose passages are given with the next step."""
_ENDED: dict[JobState, str] = {
    "cancelled": "was stopped",
    "failed": "failed",
    "crashed": "was interrupted (its worker process died)",
}


def answer_sentence(found: RunResults, ended: bool = False) -> str:
    """How much can be removed within the limits. ended: whether no more sparse models come."""
    rows, search = found.best, _search(found)
    verdicts = {row.permille: row.verdict for row in rows}
    if search is not None and not ended:
        return find_sentence(search, found.run.settings.methods[0], verdicts)
    if not rows:
        rest = "the sparse models are on their way"
        if ended or (found.missing and found.run.finished):
            rest = "no sparse model has" if ended else "the records of its sparse models are missing"
        return f"The dense model has answered; {rest}."
    method = rows[0].method
    by = f" with “{wording.method_title(method)}”" if found.several_methods else ""
    rounded = {row.permille: _rounding_note(row) for row in rows}
    sentence = _verdicts_sentence(verdicts, method, found.tolerance, by, rounded)
    return sentence if found.run.finished else f"So far: {sentence[0].lower()}{sentence[1:]}"


def find_sentence(result: FindResult, method: MethodSettings, verdicts: Mapping[int, ToleranceVerdict]) -> str:
    """How much can be removed, as a search has found. verdicts: on the trials, by their sparsity in per mille."""
    if not result.finished:
        inside = [trial.permille for trial in result.trials if trial.verdict == "within"]
        outside = [trial.permille for trial in result.trials if trial.verdict != "within"]
        parts = [f"{sparsity_percent(max(inside))} {wording.share_of(method)} is within the limits"] if inside else []
        parts += [f"{sparsity_percent(min(outside))} is not shown to be"] if outside else []
        return f"So far: {', '.join(parts)}; the search goes on." if parts else "The search has begun."
    steps = [step for step in (result.answer, result.next_step) if step is not None]
    ends = {step: verdicts[step] for step in steps if step in verdicts}
    tolerance = Tolerance(ratio=result.ratio, points=result.points)
    limits = tolerance_words(tolerance)
    if result.answer is None or result.answer not in ends:
        passages = quantity(result.n_passages, "passage")
        if result.n_passages < FEWEST_PASSAGES:
            return f"Too few to judge: {passages} cannot confirm that anything stays within {limits}."
        rest = f" {_verdicts_sentence(ends, method, tolerance)}" if ends else ""
        return f"No sparsity was found within {limits}.{rest}"
    last = " It is the most that can be tried." if result.next_step is None else ""
    return f"{_verdicts_sentence(ends, method, tolerance)}{last}"


def _verdicts_sentence(
    verdicts: Mapping[int, ToleranceVerdict],
    method: MethodSettings,
    tolerance: Tolerance,
    by: str = "",
    notes: Mapping[int, str] | None = None,
) -> str:
    """The largest sparsity within the limits, the smallest beyond, and what is undecided between or above them.

    verdicts: by rising sparsity, at least one. by: with which method. notes: what belongs after a sparsity.
    """
    within = max((permille for permille, found in verdicts.items() if found.verdict == "within"), default=None)
    beyond = min((permille for permille, found in verdicts.items() if found.verdict == "beyond"), default=None)
    undecided = [
        permille
        for permille, found in verdicts.items()
        if found.verdict == "undecided"
        and (permille > within if within is not None else beyond is None or permille < beyond)
    ]
    verb, after = ("Removing", "") if method.takes_channels else ("Setting", " to zero")
    said = []
    for permille in dict.fromkeys(each for each in (within, beyond) if each is not None):
        said.append((sparsity_percent(permille), (notes or {}).get(permille, ""), decision_words(verdicts[permille])))
    if undecided:
        phrase = verdict_phrase(verdicts[undecided[0]], len(undecided) if said else 1)
        said.append((and_join([sparsity_percent(permille) for permille in undecided]), "", phrase))
    (subject, note, phrase), *rest = said
    sentences = [f"{verb} {subject} {wording.share_of(method)}{after}{note}{by} {phrase}"]
    sentences += [f"{subject}{note} {phrase}" for subject, note, phrase in rest]
    if within is None and beyond is None:
        sentences.append(f"The limits are {tolerance_words(tolerance)}")
    tested = {verdicts[permille].n_passages for permille in (within, beyond) if permille is not None}
    if not undecided and len(tested) == 1:
        sentences.append(f"Tested on {quantity(tested.pop(), 'passage')}")
    return " ".join(f"{sentence}." for sentence in sentences)


def answer_figures(found: RunResults) -> list[str]:
    """What the answer rests on: the losses of the models it names, and what would settle the undecided ones."""
    search, rows = _search(found), found.best
    if search is not None:
        rows = _ends(search, rows)
    return answer_costs(found) + [
        f"{sparsity_percent(row.permille)} is undecided. {passages_to_decide(row.verdict)}"
        for row in rows
        if row.verdict.verdict == "undecided"
    ]


def answer_costs(found: RunResults) -> list[str]:
    """The losses of the models that the answer names; of a search also how it got there."""
    rows, search = found.best, _search(found)
    named = _ends(search, rows) if search else [row for row in (largest_within(rows), smallest_beyond(rows)) if row]
    said = []
    for row in named if search else named or rows[:1]:
        assert row.record.pruned is not None, "a judged model is sparse"
        measured = wording.measured_sparsity(row.record.pruned)
        said.append(f"{sparsity_percent(row.permille)} ({measured}): {loss_words(row.verdict)}.")
    return [*said, find_steps(search)] if search and search.finished else said


def _search(found: RunResults) -> FindResult | None:
    """The search that the run is, where its results are judged by the limits it was asked for; else None."""
    search = found.search
    same = search is not None and found.tolerance == Tolerance(ratio=search.ratio, points=search.points)
    return search if same else None


def _ends(search: FindResult, rows: Sequence[Judged]) -> list[Judged]:
    """The answer of a finished search, and the step after it."""
    ends = (search.answer, search.next_step) if search.finished else ()
    return [row for row in rows if row.permille in ends]


def _rounding_note(row: Judged) -> str:
    """The share that is removed, where the widths were rounded to less than half of what was asked for."""
    reached = row.record.pruned.mlp_sparsity if row.record.pruned else 0.0
    if not row.method.takes_channels or reached >= row.permille / 2000:
        return ""
    return f" ({wording.percent(reached)} after rounding the widths)"


def find_steps(result: FindResult) -> str:
    """How the search got there: trials, steps, and how undecided ones were treated."""
    answered, steps = sum(trial.n_passages for trial in result.trials), len(result.steps)
    said = (
        f"{quantity(len(result.trials), 'trial')} among {quantity(steps, 'step')} of sparsity, {answered:,} passages "
        f"answered instead of {steps * result.n_passages:,}."
    )
    unknown = sorted(trial.permille for trial in result.trials if trial.verdict == "undecided")
    if unknown:
        were = "was" if len(unknown) == 1 else "were"
        listed = and_join([sparsity_percent(permille) for permille in unknown])
        said += f" {listed} {were} undecided, so the search treated {'it' if were == 'was' else 'them'} as too much."
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


@dataclass(frozen=True, kw_only=True)
class NextStep:
    """What to do next. link: the words of the link there. asked: what it fills the form in with; None: it leads to the
    files of the model that the answer names.
    """

    said: str
    link: str
    asked: RunSettings | FindSettings | None


def next_step(found: RunResults) -> NextStep | None:
    """The next step after a finished run; None where none of its sparse models was judged, or it is not finished."""
    rows, run, settings = found.best, found.run, found.run.settings
    if not rows or not run.finished:
        return None
    within, beyond = largest_within(rows), smallest_beyond(rows)
    low, high = within.permille if within else -1, beyond.permille if beyond else 1001
    if run.find is not None and within is not None:
        said = f"Next: export the model at {sparsity_percent(low)}, or see which answers it changed."
        return NextStep(said=said, link="Export this model", asked=None)
    # Only what lies above the largest within and below the smallest beyond can change the answer.
    if unknown := [row for row in rows if row.verdict.verdict == "undecided" and low < row.permille < high]:
        return _test_more(found, unknown)
    if run.find is not None:
        said = "Next: allow more, or search with another method."
        return NextStep(said=said, link="Change the settings", asked=run.find)
    if rows[0].method.pattern in FIXED_PERMILLE:
        return NextStep(said="Next: race other methods.", link="Change the settings", asked=settings)
    if within is not None and beyond is not None:
        where = f"between {low / 10:g} and {sparsity_percent(high)}"
        said = f"Next: search for the largest sparsity within your limits, {where}."
    elif within is not None:
        said = f"Next: see whether more than {sparsity_percent(low)} can be removed."
    else:
        least = sparsity_percent(rows[0].permille)
        said = f"Next: see whether less than {least} can be removed, or race other methods."
    search = FindSettings(
        model=settings.model,
        dtype=settings.dtype,
        method=rows[0].method,
        calibration=settings.calibration,
        evaluation=replace(settings.evaluation, stop_early=False),
        ratio=found.tolerance.ratio,
        points=found.tolerance.points,
    )
    return NextStep(said=said, link="Set up a search", asked=search)


def _test_more(found: RunResults, unknown: Sequence[Judged]) -> NextStep:
    total, asked = found.dense.last_word.total, found.run.find or found.run.settings
    needs = [(row.verdict.passages_needed, row.permille) for row in unknown]
    needed = sorted((n, permille) for n, permille in needs if n is not None and n <= MOST_PASSAGES)
    if not needed and not any(row.verdict.too_few for row in unknown):
        near = f"{sparsity_percent(unknown[0].permille)} is so near the limit that over {MOST_PASSAGES:,} passages"
        said = f"Next: allow more or less, or try other sparsities. {near} would be needed to settle it."
        return NextStep(said=said, link="Change the settings", asked=asked)
    why, evaluation = f"Fewer than {FEWEST_PASSAGES} passages can never confirm a model.", asked.evaluation
    if needed:
        would = [f"{needed_words(n)} would settle {sparsity_percent(permille)}" for n, permille in needed[:_COUNTED]]
        why = f"{wording.first_upper(', '.join(would))}, estimated from these {total:,}."
    more = _more_passages(evaluation, needed[0][0] if needed else FEWEST_PASSAGES)
    more = more if needed else replace(more, n_passages=None)
    return NextStep(
        said=f"Next: test on more passages. {why}", link="Test on more passages", asked=replace(asked, evaluation=more)
    )


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


def still_to_come(job: Job, what: str) -> str:
    """What to expect of a live run that has not brought this yet. what: such as "The comparison is"."""
    if job.stopping:
        return "This run is being stopped."
    whose = "their" if what.endswith("are") else "its"
    return "This run waits for its turn." if job.state == "queued" else f"{what} on {whose} way."


def run_ending(run: Run, job: Job | None) -> str:
    """How the run ended early and how many of its sparse models there are; nothing while it goes on or is finished.

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
    """Why a run that had results has none. run: None where its own record is missing. why: the end of the sentence."""
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
