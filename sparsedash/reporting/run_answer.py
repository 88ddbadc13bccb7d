"""The sentences about one run or search: what pruning cost, how it ended, what is missing, what to do next.

Plain text: escape it before it becomes markup.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any

from sparsedash.catalog.choices import EVALUATION_CORPORA, CatalogEntry
from sparsedash.catalog.presets import DEFAULT_METHOD, method_named
from sparsedash.jobs.job import Job, JobState
from sparsedash.reporting import wording
from sparsedash.reporting.quantised_words import quantised_figures
from sparsedash.reporting.run_results import Judged, RunResults, judge, largest_within, measure, smallest_beyond
from sparsedash.reporting.verdicts import difference_words, limits_sentence, loss_words, tolerance_words, verdict_words
from sparsedash.reporting.wording import and_join, quantity, sparsity_percent
from sparsedash.schema.method_settings import FIXED_PERMILLE, MethodSettings
from sparsedash.schema.records import Run
from sparsedash.schema.settings import (
    BUILTIN_CLOZE,
    BUILTIN_CLOZE_402,
    EvaluationSettings,
    FindResult,
    FindSettings,
    RunSettings,
)
from sparsedash.stats.significance import passages_to_detect, smallest_loss
from sparsedash.stats.tolerance import FEWEST_PASSAGES, Tolerance, ToleranceVerdict

_MOST_PASSAGES = 1_000_000
_TOO_FEW = f"fewer than {FEWEST_PASSAGES} passages can never confirm a model"
_ENDED: dict[JobState, str] = {
    "cancelled": "was stopped",
    "failed": "failed",
    "crashed": "was interrupted (its worker process died)",
}


def answer_sentence(found: RunResults, ended: bool = False) -> str:
    """How much can be removed within the limits. ended: whether no more sparse models come."""
    rows, search = found.best, _search(found)
    if not rows:
        rest = "no sparse model yet"
        if ended or (found.missing and found.run.finished):
            rest = "no sparse model was" if ended else "the records of the sparse models are missing"
        return f"The dense model is evaluated; {rest}."
    method, verdicts = rows[0].method, {row.permille: row.verdict for row in rows}
    if search is not None and search.finished:
        return find_sentence(search, method, verdicts)
    by = f" with {_quoted(method)}" if found.run.settings.names_methods else ""
    notes = {row.permille: _rounding_note(row) for row in rows}
    said = [race_sentence(found), verdicts_sentence(verdicts, method, found.tolerance, by, notes)]
    sentence = " ".join(filter(None, said))
    return sentence if found.run.finished else f"So far: {sentence}"


def _quoted(method: MethodSettings) -> str:
    return f"“{wording.method_title(method)}”"


def race_sentence(found: RunResults) -> str:
    """Which method wins a race, at the sparsity that the answer names; nothing where no two were tested there."""
    if not found.race:
        return ""
    best, at = _quoted(found.best[0].method), sparsity_percent(found.race[0][0].permille)
    groups: dict[int, list[str]] = {-1: [], 0: [], 1: []}
    for rival, difference in found.race:
        groups[difference.is_shown * (1 if difference.value > 0 else -1)].append(_quoted(rival.method))
    ahead, alike, beaten = groups.values()
    p = max((difference.p_value for _, difference in found.race if difference.is_shown), default=1.0)
    sure = f"(perplexity, p{wording.NBSP}{'' if p < 0.001 else f'≤{wording.NBSP}'}{wording.p_number(p)}"
    sure += f" after{wording.NBSP}Holm)" if found.race[0][1].n_compared > 1 else ")"
    if ahead:
        return f"{and_join(ahead)} {'beats' if len(ahead) == 1 else 'beat'} {best} at {at} {sure}."
    n = quantity(min(difference.n_passages for _, difference in found.race), "passage")
    apart = f"cannot be told apart from {_some(alike, found.race)}"
    if not beaten:
        return f"{best} {apart} at {at} on {n}."
    if not alike:
        return f"{best} wins at {at} {sure}: it beats {_some(beaten, found.race)}."
    return f"{best} beats {_some(beaten, found.race)} at {at} {sure}, but {apart} on {n}."


def _some(methods: Sequence[str], race: Sequence[object]) -> str:
    """ "“a” and “b”"; of more "3 of 5 other methods", or "all 5 other methods"."""
    if len(methods) <= 2:
        return and_join(methods)
    return f"{'all' if len(methods) == len(race) else f'{len(methods)} of'} {len(race)} other methods"


def find_sentence(result: FindResult, method: MethodSettings, verdicts: Mapping[int, ToleranceVerdict]) -> str:
    """How much can be removed, as a search has found. verdicts: on the trials, by their sparsity in per mille."""
    tolerance = Tolerance(ratio=result.ratio, points=result.points)
    by = f" with {_quoted(method)}" if method.heal_steps else ""
    if not result.finished:
        return (
            f"So far: {verdicts_sentence(verdicts, method, tolerance, by)}" if verdicts else "The search has started."
        )
    ends = {step: verdicts[step] for step in (result.answer, result.next_step) if step is not None and step in verdicts}
    said = [verdicts_sentence(ends, method, tolerance, by)] if ends else []
    if result.answer not in ends and result.n_passages < FEWEST_PASSAGES:
        said.insert(0, f"{wording.first_upper(_TOO_FEW)}.")
    elif result.answer not in ends:
        said.insert(0, "No sparsity was found that stays within your limit.")
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
    """The largest sparsity within the limits, the smallest beyond, and what is undecided between or above them.

    verdicts: at least one. by: with which method. notes: what belongs after a sparsity. model: what a single one is
    called where its sparsity says nothing.
    """
    decided, undecided = answered(verdicts)
    said = []
    for each in decided:
        found, smaller = verdicts[each], [other for at, other in verdicts.items() if at < each]
        up_to = found.verdict == "within" and all(other.verdict == "within" for other in smaller)
        name, note = sparsity_percent(each), (notes or {}).get(each, "")
        said.append((f"up to {name}" if up_to else name, note, verdict_words(found)))
    if undecided:
        names = [f"{sparsity_percent(permille)}{(notes or {}).get(permille, '')}" for permille in undecided]
        several = len(undecided) > 1
        phrase = verdict_words(verdicts[undecided[0]], "are" if said and several else "is")
        said.append((and_join(names, "and" if said else "or"), "", phrase))
    verb, after = ("Removing", "") if method.takes_channels else ("Setting", " to zero")
    (subject, note, phrase), *rest = said
    sentences = [f"{model or f'{verb} {subject} {wording.share_of(method)}{after}{note}{by}'} {phrase}."]
    sentences += [f"{subject}{note} {phrase}." for subject, note, phrase in rest]
    if not decided:
        sentences.append(limits_sentence(verdicts[undecided[0]], tolerance))
    elif not undecided and "passage" not in sentences[0] and len({verdicts[each].n_passages for each in decided}) == 1:
        sentences.append(f"Tested on {quantity(verdicts[decided[0]].n_passages, 'passage')}.")
    return " ".join(sentences)


def answered(verdicts: Mapping[int, ToleranceVerdict]) -> tuple[list[int], list[int]]:
    """The sparsities that the answer names: the largest within and the smallest beyond, and the undecided ones.

    Of these only what lies above the largest within, and below the next beyond, can change the answer.
    """
    by_verdict: dict[str, list[int]] = {"within": [], "beyond": [], "undecided": []}
    for permille, found in sorted(verdicts.items()):
        by_verdict[found.verdict].append(permille)
    low = max(by_verdict["within"], default=-1)
    high = min((each for each in by_verdict["beyond"] if each > low), default=1001)
    undecided = [each for each in by_verdict["undecided"] if low < each < high]
    return list(dict.fromkeys([*by_verdict["within"][-1:], *by_verdict["beyond"][:1]])), undecided


def answer_figures(found: RunResults) -> list[str]:
    """The losses of the models that the answer names, and what healing did to them; of a race the differences; of a
    search how it got there.
    """
    rows, search = found.best, _search(found)
    ends = (largest_within(rows), smallest_beyond(rows))
    named = [row for row in ends if row] or rows[:1]
    if search is not None:
        named = [row for row in rows if search.finished and row.permille in (search.answer, search.next_step)]
    said = [
        f"{sparsity_percent(row.permille)} ({wording.measured_sparsity(row.record.pruned)}): {loss_words(row.verdict)}."
        for row in named
        if row.record.pruned
    ]
    said += [
        f"{_quoted(row.method)} at {sparsity_percent(row.permille)}: {wording.healing_words(row.record.pruned.healed)}."
        for row in (*named, *(rival for rival, _ in found.race))
        if row.record.pruned and row.record.pruned.healed
    ]
    if search is not None:
        return [*said, find_steps(search)] if search.finished else said
    said += [
        f"{_quoted(rival.method)} at {sparsity_percent(rival.permille)}: "
        f"{difference_words(difference, _quoted(rows[0].method))}."
        for rival, difference in found.race
    ]
    zeros = [_quoted(method) for method in found.run.settings.methods if not method.takes_channels]
    if rows and rows[0].method.takes_channels and zeros:
        said.append(f"Not compared: {and_join(zeros)}. Zeros make a model neither smaller nor faster.")
    return [*said, *quantised_figures(found)]


def _search(found: RunResults) -> FindResult | None:
    """The search that the run is, where its results are judged by the limits it was asked for; else None."""
    search = found.search
    same = search is not None and found.tolerance == Tolerance(ratio=search.ratio, points=search.points)
    return search if same else None


def _rounding_note(row: Judged) -> str:
    """The share that is removed, where rounding the widths moved it by a tenth or more of what was asked for."""
    reached = row.record.pruned.reached[row.method.budget] if row.record.pruned else 0.0
    if not row.method.takes_channels or abs(reached - row.permille / 1000) < row.permille / 10_000:
        return ""
    return f" ({wording.percent(reached)} after rounding the widths)"


def find_steps(result: FindResult) -> str:
    """How the search got there: trials, steps, and how undecided ones were treated."""
    answered, steps = sum(trial.n_passages for trial in result.trials), len(result.steps)
    trials, among = quantity(len(result.trials), "trial"), f"{quantity(steps, 'step')} of sparsity"
    said = f"{trials} among {among}: {answered:,} passages evaluated instead of {steps * result.n_passages:,}."
    unknown = sorted(trial.permille for trial in result.trials if trial.verdict == "undecided")
    if unknown:
        names, one = and_join([sparsity_percent(permille) for permille in unknown]), len(unknown) == 1
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
    """What to do next.

    link: the words of the link there; none where the page of the results is the place. asked: what the link fills the
    form in with; None: it leads to the files of the model that the answer names, or to what is tested. tested: keys of
    runs that took a part of it already, by the words of the links there.
    """

    said: str
    link: str
    asked: RunSettings | FindSettings | None
    tested: Mapping[str, str] = field(default_factory=dict)


def next_step(
    found: RunResults, runs: Sequence[Run] = (), lacks: Callable[[str], bool] = lambda _: False
) -> NextStep | None:
    """The next step after a finished run; None where none of its sparse models was judged, or it is not finished.

    Only steps that their passages can decide. runs: those that may have taken it already. lacks: whether a text is out
    of reach here.
    """
    if not found.best or not found.run.finished:
        return None
    step, asked = _next_step(found, runs, lacks), found.run.find
    if asked is None or (limits := Tolerance(ratio=asked.ratio, points=asked.points)) == found.tolerance:
        return step
    return replace(step, said=f"The search was made for {tolerance_words(limits)}. {step.said}")


def _next_step(found: RunResults, runs: Sequence[Run], lacks: Callable[[str], bool]) -> NextStep:
    rows, run, settings = found.best, found.run, found.run.settings
    within, beyond = largest_within(rows), smallest_beyond(rows)
    low, high = within.permille if within else -1, beyond.permille if beyond else 1001
    if run.find is not None and within is not None:
        said = f"Next: export the model at {sparsity_percent(low)}, or see which answers it changed."
        return NextStep(said=said, link="Export this model", asked=None)
    _, undecided = answered({row.permille: row.verdict for row in rows})
    if unknown := [row for row in rows if row.permille in undecided]:
        return _test_again(found, unknown, runs, lacks) or _too_close(found, low, unknown, runs)
    if run.find is not None:
        said = "Next: allow more, or search with another method."
        return NextStep(said=said, link="Search again", asked=_by_limits(run.find, found.tolerance))
    method = rows[0].method
    if method.pattern in FIXED_PERMILLE:
        return NextStep(said="Next: race other methods.", link="Race other methods", asked=settings)
    if within is not None and low < high < 1001:
        said = f"search for the largest sparsity within your limit, between {low / 10:g} and {sparsity_percent(high)}"
    elif within is not None:
        said = f"see whether more than {sparsity_percent(low)} can be removed"
    else:
        said = f"see whether less than {sparsity_percent(rows[0].permille)} can be removed"
        if method.takes_channels and not method.reads_text:
            # A method that knows nothing of the activations is no way to find how much can go.
            method = replace(method_named(DEFAULT_METHOD), budget=method.budget)
            said += f" with {_quoted(method)}"
    evaluation, on = _deciding_passages(found, lacks)
    if evaluation is None:
        return NextStep(said=f"{on} Next: upload more passages, or allow another loss.", link="", asked=settings)
    search = FindSettings(
        model=settings.model,
        dtype=settings.dtype,
        method=method,
        calibration=settings.calibration,
        evaluation=replace(evaluation, stop_early=False, tasks=()),
        ratio=found.tolerance.ratio,
        points=found.tolerance.points,
    )
    if there := next((each.key for each in runs if each.find == search and each.finished), ""):
        return NextStep(said=f"Next: {said}{on} That search is done.", link="", asked=None, tested={"See it": there})
    return NextStep(said=f"Next: {said}{on}", link="Set up a search", asked=search)


def _by_limits(search: FindSettings, tolerance: Tolerance) -> FindSettings:
    return replace(search, ratio=tolerance.ratio, points=tolerance.points)


def _deciding_passages(found: RunResults, lacks: Callable[[str], bool]) -> tuple[EvaluationSettings | None, str]:
    """Passages on which a search can decide, and the end of the sentence that says so; None, and why: there are none.

    Those of the run, or else of the smallest text with enough.
    """
    evaluation, n_tested, ratio = found.run.settings.evaluation, found.dense.last_word.total, found.tolerance.ratio
    needed = max(FEWEST_PASSAGES, passages_to_detect(ratio))
    if n_tested >= needed:
        return evaluation, "."
    for text in _longer_texts(evaluation, n_tested, lacks):
        if (text.n_texts or _MOST_PASSAGES) >= needed:
            part, passages = _part_of(text, needed)
            least, few = wording.factor(smallest_loss(n_tested)[0]), n_tested < FEWEST_PASSAGES
            why = _TOO_FEW if few else f"{n_tested:,} detect losses from {least} up"
            return replace(evaluation, corpus=text.name, n_passages=part), f", on {passages}: {why}."
    return None, f"No text here has the {wording.round_up(needed):,} passages that a limit of {ratio:.3g} × takes."


def _part_of(text: CatalogEntry, needed: int) -> tuple[int | None, str]:
    """How many of a text's passages to test on, None for all, and their name. Built-in texts are small: all of them."""
    n = wording.round_up(needed)
    if text.n_texts <= n or text.name in (BUILTIN_CLOZE, BUILTIN_CLOZE_402):
        return None, text.title
    return n, f"{n:,} of {text.title}"


def _test_again(
    found: RunResults, unknown: Sequence[Judged], runs: Sequence[Run], lacks: Callable[[str], bool]
) -> NextStep | None:
    """Test those of these models that a text has enough passages for, the smallest such text; None where none has."""
    run, n_tested = found.run, found.dense.last_word.total
    texts = _longer_texts(run.settings.evaluation, n_tested, lacks)
    most = max((text.n_texts or _MOST_PASSAGES for text in texts), default=0)
    for text in texts:
        rows = list(unknown)
        # Judged in a run of their own, in which each has a wider share of the chance of error.
        while rows and max(needed := _needed(found, rows, most)) > (text.n_texts or _MOST_PASSAGES):
            rows.pop(needed.index(max(needed)))
        if not rows:
            continue
        n = min(wording.round_up(int(max(needed))), text.n_texts or _MOST_PASSAGES)
        part, passages = _part_of(text, n) if n > n_tested else (None, text.title)
        evaluation = replace(run.settings.evaluation, corpus=text.name, n_passages=part)
        asked: RunSettings | FindSettings
        if run.find is not None:
            asked, tested = replace(_by_limits(run.find, found.tolerance), evaluation=evaluation), {}
            said = "Next: search again"
        else:
            permilles = tuple(row.permille for row in rows)
            again = replace(run.settings, methods=(method := rows[0].method,), evaluation=evaluation)
            tested = _tested(replace(again, sparsities_permille=permilles), runs)
            left = tuple(permille for permille in permilles if permille not in tested)
            if not left:
                return NextStep(said=_tested_words(tested, passages), link="", asked=None, tested=_links(tested))
            # A healed model comes beside the one that it began from.
            methods = tuple(dict.fromkeys((method.unhealed, method)))
            asked = replace(again, methods=methods, sparsities_permille=left)
            said = f"Next: test {_percents(left)}"
        said += f" on {passages}."
        if n_tested < FEWEST_PASSAGES:
            said = f"{wording.first_upper(_TOO_FEW)}. {said}"
        elif n > n_tested:
            is_same = text.name == run.settings.evaluation.corpus
            other = not is_same and (run.settings.evaluation.corpus, text.name) != (BUILTIN_CLOZE, BUILTIN_CLOZE_402)
            there = ", if as much is lost there" if other else ""
            enough = "They" if part else f"About {n:,}"
            said += f" {enough} should settle it, estimated from these {n_tested:,}{there}."
        said += f" {_tested_words(tested, passages)}" if tested else ""
        return NextStep(said=said, link="Test on more passages", asked=asked, tested=_links(tested))
    return None


def _tested_words(tested: Mapping[int, str], passages: str) -> str:
    return f"{_percents(tested)} {'is' if len(tested) == 1 else 'are'} tested on {passages} already."


def _links(tested: Mapping[int, str]) -> dict[str, str]:
    return {f"See {sparsity_percent(permille)}": key for permille, key in tested.items()}


def _percents(permilles: Iterable[int]) -> str:
    return and_join(list(map(sparsity_percent, permilles)))


def _tested(asked: RunSettings, runs: Sequence[Run]) -> dict[int, str]:
    """Which sparsities of its one method finished runs have tested alike, each with the key of such a run."""

    def alike(settings: RunSettings) -> tuple[object, ...]:
        return settings.model, settings.dtype, settings.calibration, settings.evaluation

    return {
        permille: run.key
        for run in runs
        if run.finished and run.find is None and alike(run.settings) == alike(asked)
        for method, permille in run.settings.points
        if (method, permille) in asked.points
    }


def _needed(found: RunResults, rows: Sequence[Judged], most: int) -> list[float]:
    """Passages that would decide each model in a run of these alone; infinite where no number would.

    most: how many the longest text has.
    """
    n_tested = found.dense.last_word.total
    if n_tested < FEWEST_PASSAGES:
        # So few say nothing of how many it takes.
        return [min(most, max(FEWEST_PASSAGES, passages_to_detect(found.tolerance.ratio)))] * len(rows)
    # A healed model is judged beside the one that it began from.
    n_compared = len({(method, row.permille) for row in rows for method in (row.method.unhealed, row.method)})
    measured = [measure(found.dense, row.record) for row in rows]
    judged = [each.verdict for each in judge(measured, found.tolerance, n_compared)]
    return [
        inf
        if each.verdict == "undecided" and each.passages_needed is None
        else max(each.passages_needed or 0, n_tested)
        for each in judged
    ]


def _longer_texts(now: EvaluationSettings, n_tested: int, lacks: Callable[[str], bool]) -> list[CatalogEntry]:
    """What has more passages than were tested, with a title for the sentence: the same text, then others.

    n_texts: 0 where it is not known, as of a file of which only a part was asked for.
    """
    known = {choice.name: choice.n_texts for choice in EVALUATION_CORPORA}
    whole = now.n_passages is None or n_tested < now.n_passages
    there = known.get(now.corpus, n_tested if whole else 0)
    of = f"passages of {wording.reference_title(now.corpus)}"
    if now.corpus in (BUILTIN_CLOZE, BUILTIN_CLOZE_402):
        of = "built-in passages"
    same = CatalogEntry(now.corpus, f"the {there:,} {of}" if there else f"all {of}", "", n_texts=there)
    built_in, n = known[BUILTIN_CLOZE_402], known["lambada_openai"]
    others = [
        CatalogEntry(BUILTIN_CLOZE_402, f"the {built_in:,} built-in passages", "", n_texts=built_in),
        CatalogEntry("lambada_openai", f"the {n:,} passages of LAMBADA, fetched once from the hub", "", n_texts=n),
    ]
    longer = [text for text in others if text.n_texts > there > 0]
    return [text for text in (same, *longer) if (text.n_texts or inf) > n_tested and not lacks(text.name)]


def _too_close(found: RunResults, low: int, unknown: Sequence[Judged], runs: Sequence[Run]) -> NextStep:
    """What can be done where no passages decide: a smaller sparsity, where these decide on it, or another limit."""
    names, n_tested = _percents(row.permille for row in unknown), found.dense.last_word.total
    verb = "is" if len(unknown) == 1 else "are"
    why = f"{names} {verb} too close to the limit to settle with the passages available."
    asked, method = found.run.find or found.run.settings, unknown[0].method
    between = (max(low, 0) + unknown[0].permille) // 20 * 10
    decides = n_tested >= passages_to_detect(found.tolerance.ratio) and method.pattern not in FIXED_PERMILLE
    if isinstance(asked, RunSettings) and decides and between > max(low, 0):
        asked, name = replace(asked, methods=(method,), sparsities_permille=(between,)), sparsity_percent(between)
        if there := _tested(asked, runs):
            return NextStep(
                said=f"{why} {name} is tested.", link="", asked=None, tested={f"See {name}": there[between]}
            )
        return NextStep(said=f"{why} Next: try {name}, or allow another loss.", link=f"Try {name}", asked=asked)
    said = f"{why} Next: allow another loss."
    if isinstance(asked, FindSettings):
        return NextStep(said=said, link="Allow another loss", asked=_by_limits(asked, found.tolerance))
    return NextStep(said=said, link="", asked=asked)


def still_to_come(job: Job, what: str) -> str:
    """What to expect of a live run that has not brought this yet. what: said of one that runs."""
    if job.stopping:
        return "This run is stopping."
    return "This run is queued." if job.state == "queued" else what


def run_ending(run: Run, job: Job | None) -> str:
    """How the run ended early and how many of its sparse models there are; nothing while it goes on or is finished.

    job: its newest; None where there is none, as of a run from a shell.
    """
    if run.finished or (job is not None and job.live):
        return ""
    how, made = _ENDED.get(job.state if job is not None else "done", "did not finish"), len(run.sparse)
    if run.find is not None:
        return f"This search {how} after {quantity(made, 'trial')}."
    are = "is" if made == 1 else "are"
    return f"This run {how}: {made} of its {quantity(run.settings.n_sparse, 'sparse model')} {are} done."


def no_results(run: Run | None, why: str) -> str:
    """Why a run that had results has none. run: None where its own record is missing. why: the end of the sentence."""
    return f"The results of this run are gone: {'its own' if run is None else 'its dense'} record {why}."


def missing_records(run: Run, missing: Mapping[str, str]) -> str:
    """Which sparse records of a run are missing, and what that means for the others; nothing where all are there.

    missing: why, by their names within the run.
    """
    said = [f"The record of {name} {why}." for name, why in missing.items()]
    counts = "Missing models still count as comparisons in the verdicts."
    return " ".join([*said, counts] if 0 < len(missing) < run.n_compared else said)
