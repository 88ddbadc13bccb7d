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
from sparsedash.stats.tolerance import FEWEST_PASSAGES, Tolerance, ToleranceVerdict, Verdict

_ENDED: dict[JobState, str] = {
    "cancelled": "was stopped",
    "failed": "failed",
    "crashed": "was interrupted (its worker process died)",
}


def answer_sentence(found: RunResults, ended: bool = False) -> str:
    """How much can be removed within the limits. ended: whether no more sparse models come."""
    rows, search = found.best, _search(found)
    if not rows:
        rest = "the sparse models are on their way"
        if ended or (found.missing and found.run.finished):
            rest = "no sparse model has" if ended else "the records of its sparse models are missing"
        return f"The dense model has answered; {rest}."
    method, verdicts = rows[0].method, {row.permille: row.verdict for row in rows}
    if search is not None and search.finished:
        return find_sentence(search, method, verdicts)
    by = f" with “{wording.method_title(method)}”" if found.several_methods else ""
    notes = {row.permille: _rounding_note(row) for row in rows}
    sentence = _verdicts_sentence(verdicts, method, found.tolerance, by, notes)
    return sentence if found.run.finished else f"So far: {sentence}"


def find_sentence(result: FindResult, method: MethodSettings, verdicts: Mapping[int, ToleranceVerdict]) -> str:
    """How much can be removed, as a search has found. verdicts: on the trials, by their sparsity in per mille."""
    tolerance = Tolerance(ratio=result.ratio, points=result.points)
    if not result.finished:
        return f"So far: {_verdicts_sentence(verdicts, method, tolerance)}" if verdicts else "The search has begun."
    ends = {step: verdicts[step] for step in (result.answer, result.next_step) if step is not None and step in verdicts}
    said = [_verdicts_sentence(ends, method, tolerance)] if ends else []
    if result.answer not in ends and result.n_passages < FEWEST_PASSAGES:
        passages = quantity(result.n_passages, "passage")
        said = [f"Too few to judge: {passages} cannot confirm that anything stays within {tolerance_words(tolerance)}."]
    elif result.answer not in ends:
        said.insert(0, f"No sparsity was found within {tolerance_words(tolerance)}.")
    elif result.next_step is None:
        said.append("It is the most that can be tried.")
    return " ".join(said)


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
    by_verdict: dict[Verdict, list[int]] = {"within": [], "beyond": [], "undecided": []}
    for permille, found in sorted(verdicts.items()):
        by_verdict[found.verdict].append(permille)
    # Only what lies above the largest within, or else below the smallest beyond, can change the answer.
    decided = list(dict.fromkeys([*by_verdict["within"][-1:], *by_verdict["beyond"][:1]]))
    low, high = max(by_verdict["within"], default=-1), min(by_verdict["beyond"], default=1001)
    undecided = [each for each in by_verdict["undecided"] if each > low and (low >= 0 or each < high)]
    said = [(sparsity_percent(each), (notes or {}).get(each, ""), decision_words(verdicts[each])) for each in decided]
    if undecided:
        phrase = verdict_phrase(verdicts[undecided[0]], "are" if said and len(undecided) > 1 else "is")
        said.append((and_join([sparsity_percent(permille) for permille in undecided]), "", phrase))
    verb, after = ("Removing", "") if method.takes_channels else ("Setting", " to zero")
    (subject, note, phrase), *rest = said
    sentences = [f"{verb} {subject} {wording.share_of(method)}{after}{note}{by} {phrase}"]
    sentences += [f"{subject}{note} {phrase}" for subject, note, phrase in rest]
    tested = {verdicts[permille].n_passages for permille in decided}
    if not decided:
        sentences.append(f"The limits are {tolerance_words(tolerance)}")
    elif not undecided and len(tested) == 1:
        sentences.append(f"Tested on {quantity(tested.pop(), 'passage')}")
    return " ".join(f"{sentence}." for sentence in sentences)


def answer_figures(found: RunResults, needed: bool = True) -> list[str]:
    """The losses of the models that the answer names; of a search also how it got there.

    needed: with what would settle the undecided ones.
    """
    rows, search = found.best, _search(found)
    ends = (largest_within(rows), smallest_beyond(rows))
    named = [row for row in ends if row] or rows[:1]
    if search is not None:
        named = rows = [row for row in rows if search.finished and row.permille in (search.answer, search.next_step)]
    said = [
        f"{sparsity_percent(row.permille)} ({wording.measured_sparsity(row.record.pruned)}): {loss_words(row.verdict)}."
        for row in named
        if row.record.pruned
    ]
    said += [find_steps(search)] if search is not None and search.finished else []
    return said + [
        f"{sparsity_percent(row.permille)} is undecided. {passages_to_decide(row.verdict)}"
        for row in rows
        if needed and row.verdict.verdict == "undecided"
    ]


def _search(found: RunResults) -> FindResult | None:
    """The search that the run is, where its results are judged by the limits it was asked for; else None."""
    search = found.search
    same = search is not None and found.tolerance == Tolerance(ratio=search.ratio, points=search.points)
    return search if same else None


def _rounding_note(row: Judged) -> str:
    """The share that is removed, where the widths were rounded to less than half of what was asked for."""
    reached = row.record.pruned.mlp_sparsity if row.record.pruned else 0.0
    if not row.method.takes_channels or reached >= row.permille / 2000:
        return ""
    return f" ({wording.percent(reached)} after rounding the widths)"


def find_steps(result: FindResult) -> str:
    """How the search got there: trials, steps, and how undecided ones were treated."""
    answered, steps = sum(trial.n_passages for trial in result.trials), len(result.steps)
    trials, among = quantity(len(result.trials), "trial"), f"{quantity(steps, 'step')} of sparsity"
    said = f"{trials} among {among}, {answered:,} passages answered instead of {steps * result.n_passages:,}."
    unknown = sorted(trial.permille for trial in result.trials if trial.verdict == "undecided")
    if unknown:
        said += f" Undecided, which the search treated as too much: {wording.sparsity_percents(unknown)}."
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
    if run.find is not None or rows[0].method.pattern in FIXED_PERMILLE:
        said = "Next: race other methods." if run.find is None else "Next: allow more, or search with another method."
        return NextStep(said=said, link="Change the settings", asked=run.find or settings)
    if within is not None and beyond is not None:
        said = f"search for the largest sparsity within your limits, between {low / 10:g} and {sparsity_percent(high)}."
    elif within is not None:
        said = f"see whether more than {sparsity_percent(low)} can be removed."
    else:
        said = f"see whether less than {sparsity_percent(rows[0].permille)} can be removed, or race other methods."
    search = FindSettings(
        model=settings.model,
        dtype=settings.dtype,
        method=rows[0].method,
        calibration=settings.calibration,
        evaluation=replace(settings.evaluation, stop_early=False),
        ratio=found.tolerance.ratio,
        points=found.tolerance.points,
    )
    return NextStep(said=f"Next: {said}", link="Set up a search", asked=search)


def _test_more(found: RunResults, unknown: Sequence[Judged]) -> NextStep:
    asked, needs = (
        found.run.find or found.run.settings,
        [(row.verdict.passages_needed, row.permille) for row in unknown],
    )
    if needed := sorted((n, permille) for n, permille in needs if n is not None and n <= MOST_PASSAGES):
        n, permille = needed[0]
        settled = f"{wording.first_upper(needed_words(n))} would settle {sparsity_percent(permille)}"
        why = f"{settled}, estimated from these {found.dense.last_word.total:,}."
        more = _more_passages(asked.evaluation, n)
    elif any(row.verdict.too_few for row in unknown):
        why = f"Fewer than {FEWEST_PASSAGES} passages can never confirm a model."
        more = replace(_more_passages(asked.evaluation, FEWEST_PASSAGES), n_passages=None)
    else:
        why = f"{sparsity_percent(unknown[0].permille)} is undecided. {passages_to_decide(unknown[0].verdict)}"
        said = f"Next: allow more or less, or try other sparsities. {why}"
        return NextStep(said=said, link="Change the settings", asked=asked)
    said, asked = f"Next: test on more passages. {why}", replace(asked, evaluation=more)
    return NextStep(said=said, link="Test on more passages", asked=asked)


def _more_passages(now: EvaluationSettings, needed: int) -> EvaluationSettings:
    """So many of the same text, if it may have them; else all of the smallest text that does, or of the largest."""
    known = {choice.name: choice.n_texts for choice in EVALUATION_CORPORA}
    n = max(FEWEST_PASSAGES, wording.round_up(needed))
    if known.get(now.corpus, n) >= needed:
        return replace(now, n_passages=n if n < known.get(now.corpus, n + 1) else None)
    enough = [name for name, count in known.items() if count >= needed]
    return replace(now, corpus=enough[0] if enough else max(known, key=lambda name: known[name]), n_passages=None)


def still_to_come(job: Job, what: str) -> str:
    """What to expect of a live run that has not brought this yet. what: said of one that runs."""
    if job.stopping:
        return "This run is being stopped."
    return "This run waits for its turn." if job.state == "queued" else what


def run_ending(run: Run, job: Job | None) -> str:
    """How the run ended early and how many of its sparse models there are; nothing while it goes on or is finished.

    job: its newest; None where there is none, as of a run from a shell.
    """
    if run.finished or (job is not None and job.live):
        return ""
    how, made = _ENDED.get(job.state if job is not None else "done", "did not finish"), len(run.sparse)
    if run.find is not None:
        return f"This search {how} after {quantity(made, 'trial')}."
    had = f"with {made} of" if made else "without any of"
    return f"This run {how} {had} its {quantity(run.settings.n_sparse, 'sparse model')}."


def no_results(run: Run | None, why: str) -> str:
    """Why a run that had results has none. run: None where its own record is missing. why: the end of the sentence."""
    return f"This run has no results any more: {'its own' if run is None else 'its dense'} record {why}."


def missing_records(run: Run, missing: Mapping[str, str]) -> str:
    """Which sparse records of a run are missing, and what that means for the others; nothing where all are there.

    missing: why, by their names within the run.
    """
    said = [f"The record of {name} {why}." for name, why in missing.items()]
    counts = "Missing models still count as comparisons in the verdicts on the others."
    return " ".join([*said, counts] if 0 < len(missing) < run.n_compared else said)
