"""The sentences about one run or search: what pruning cost, how it ended, what is missing.

Plain text: escape it before it becomes markup.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sparsedash.jobs.job import Job, JobState
from sparsedash.reporting.findings import (
    AnswerKind,
    Findings,
    Race,
    RaceKind,
    estimate_limit,
    findings,
    search_ends,
    search_kind,
)
from sparsedash.reporting.model_results import (
    M,
    ModelResult,
    ModelVerdict,
    named_shares,
)
from sparsedash.reporting.quantised_words import quantised_figures
from sparsedash.reporting.run_results import RunResults
from sparsedash.reporting.verdicts import (
    difference_words,
    limits_sentence,
    loss_words,
    task_names,
    verdict_words,
)
from sparsedash.reporting.wording import (
    NBSP,
    and_join,
    healing_words,
    limit_factor,
    measured_sparsity,
    method_title,
    p_at_most,
    percent,
    percents,
    quantity,
    quoted_method,
    removed_or_zeroed,
    share_of,
    sparsity_percent,
    too_few,
)
from sparsedash.schema.find_settings import FindResult
from sparsedash.schema.records import Run
from sparsedash.schema.tolerance_settings import Tolerance
from sparsedash.stats.tolerance import MIN_PASSAGES

_ANSWERS = {
    AnswerKind.WAITING: "The dense model is evaluated; no sparse model yet.",
    AnswerKind.NO_MODEL: "The dense model is evaluated; no sparse model was.",
    AnswerKind.MISSING: "The dense model is evaluated; "
    "the records of the sparse models are missing.",
    AnswerKind.NOTHING_REMOVED: "Nothing was removed: at 0 % the sparse model is the dense one. "
    "{verdicts}",
    AnswerKind.VERDICTS: "{verdicts}",
    AnswerKind.SEARCH_TOO_FEW: f"Fewer than {MIN_PASSAGES} passages can never confirm a "
    "model. {verdicts}",
    AnswerKind.SEARCH_NONE: "No sparsity was found that stays within your limit. {verdicts}",
    AnswerKind.SEARCH_MISSING: "{answer} stayed within your limit; its record is missing. "
    "{verdicts}",
    AnswerKind.SEARCH_LARGEST: "{verdicts} It is the largest sparsity that a search tries.",
}
_RACES = {
    RaceKind.TOO_FEW: "{too_few} to rank methods; test on {fewest} or more.",
    RaceKind.BEATEN: "{ahead} {beat} {best} at {share} {sure}.",
    RaceKind.TIED: "{best} cannot be told apart from {tied} at {share} on {passages}.",
    RaceKind.PARTLY_TIED: "{best} beats {beaten} at {share} {sure}, but cannot be told apart from "
    "{tied} on {passages}.",
    RaceKind.INCOMPLETE: "{best} beats {all_beaten} at {share} {sure}; not all methods have a "
    "model there.",
    RaceKind.WON: "{best} wins at {share} {sure}: it beats {beaten}.",
}
_ENDED: dict[JobState, str] = {
    "cancelled": "was stopped",
    "failed": "failed",
    "crashed": "was interrupted (its worker process died)",
}


def answer_sentence(results: RunResults, ended: bool = False) -> str:
    """Sentence on the share that can be removed within the limits, and the winner of a race.

    ended: no more sparse models come, though the run is not finished.
    """
    facts = findings(results, ended)
    answer = _ANSWERS[facts.kind].format(
        verdicts=_verdicts(results, facts),
        answer=_answer_share(results.search),
    )
    if facts.race is not None and facts.kind is AnswerKind.VERDICTS:
        answer = f"{answer} {race_words(facts.race)}"
    return f"So far: {answer}" if facts.is_so_far else answer.strip()


def _verdicts(results: RunResults, findings: Findings) -> str:
    """The verdicts that an answer states, of the best method; else those of the quantised
    models.
    """
    if findings.kind is AnswerKind.NOTHING_REMOVED:
        sentences = []
        for model in results.sparse_models:
            if model.spec.is_quantised:
                name = results.names[model.record.key]
                sentences.append(f"{name} {verdict_words(model.verdict)}.")
        return " ".join(sentences)
    models = results.best
    search = results.judged_search
    if search is not None and search.finished:
        return _search_verdicts(search, models)
    with_method = ""
    if models and results.run.settings.names_methods:
        with_method = f" with {quoted_method(models[0].spec)}"
    return shares_sentence(models, results.tolerance, with_method)


def _search_verdicts(search: FindResult, models: Sequence[M]) -> str:
    ends = search_ends(search, models)
    with_method = ""
    if ends and ends[0].spec.is_healed:
        with_method = f" with {quoted_method(ends[0].spec)}"
    return shares_sentence(ends, search.tolerance, with_method)


def _answer_share(search: FindResult | None) -> str:
    answer = search.answer if search else None
    return "" if answer is None else sparsity_percent(answer)


def find_sentence(search: FindResult, models: Sequence[M]) -> str:
    """Sentence on the share that can be removed, by a finished search. models: its trials."""
    kind = search_kind(search, search_ends(search, models))
    verdicts = _search_verdicts(search, models)
    return (
        _ANSWERS[kind].format(verdicts=verdicts, answer=_answer_share(search)).strip()
    )


def race_words(race: Race) -> str:
    """Which method wins a race."""
    n_rivals = len(race.ahead) + len(race.tied) + len(race.beaten)
    holm = f" after{NBSP}Holm" if race.n_compared > 1 else ""
    return _RACES[race.kind].format(
        best=quoted_method(race.best.spec),
        share=sparsity_percent(race.best.permille),
        ahead=and_join(_methods(race.ahead)),
        beat="beats" if len(race.ahead) == 1 else "beat",
        tied=_some(race.tied, n_rivals),
        beaten=_some(race.beaten, n_rivals),
        all_beaten=and_join(_methods(race.beaten)),
        sure=f"(perplexity, {p_at_most(race.p_value)}{holm})",
        passages=quantity(race.n_passages, "passage"),
        too_few=too_few(race.n_passages, "passage"),
        fewest=MIN_PASSAGES,
    )


def _methods(models: Sequence[ModelResult]) -> list[str]:
    return [quoted_method(model.spec) for model in models]


def _some(models: Sequence[ModelResult], n_rivals: int) -> str:
    """ "“a” and “b”"; of more "3 of 5 other methods", or "all 5 other methods"."""
    if len(models) <= 2:
        return and_join(_methods(models))
    share = "all" if len(models) == n_rivals else f"{len(models)} of"
    return f"{share} {n_rivals} other methods"


def shares_sentence(
    models: Sequence[M],
    tolerance: Tolerance,
    with_method: str = "",
    model_name: str = "",
) -> str:
    """The largest share within the limits, the smallest beyond, and what is undecided between or
    above them; empty without models.

    models: of one method. with_method: such as " with “best”". model_name: what a single model is called where
    its share says nothing.
    """
    if not models:
        return ""
    shares = named_shares(models)
    decided = [model for model in (shares.within, shares.beyond) if model]
    clauses = []
    for model in decided:
        name = sparsity_percent(model.permille)
        if model is shares.within and shares.is_up_to:
            name = f"up to {name}"
        clauses.append((name, rounding_note(model), verdict_words(model.verdict)))
    clauses += _undecided_clauses(shares.undecided, is_first=not decided)
    method = models[0].method
    verb = "Removing"
    after = ""
    if not method.is_structured:
        verb = "Setting"
        after = " to zero"
    (name, note, verdict), *others = clauses
    subject = f"{verb} {name} {share_of(method)}{after}{note}{with_method}"
    sentences = [f"{model_name or subject} {verdict}."]
    sentences += [f"{name}{note} {verdict}." for name, note, verdict in others]
    if not decided:
        sentences.append(limits_sentence(shares.undecided[0].verdict, tolerance))
    elif not shares.undecided and "passage" not in sentences[0]:
        sentences.append(_tested_on(decided))
    return " ".join(filter(None, sentences))


def _undecided_clauses(
    models: Sequence[M], is_first: bool
) -> list[tuple[str, str, str]]:
    """Shares, a note and the verdict of undecided models, those with one verdict together."""
    alike: dict[str, list[M]] = {}
    for model in models:
        alike.setdefault(verdict_words(model.verdict), []).append(model)
    clauses = []
    for group in alike.values():
        names = [
            f"{sparsity_percent(model.permille)}{rounding_note(model)}"
            for model in group
        ]
        be = "is" if is_first or len(group) == 1 else "are"
        name = and_join(names, "or" if is_first else "and")
        clauses.append((name, "", verdict_words(group[0].verdict, be)))
        is_first = False
    return clauses


def _tested_on(models: Sequence[M]) -> str:
    """The passages and tasks that all these models answered; empty where they answered different
    numbers.
    """
    first = models[0].verdict
    if len({model.verdict.n_passages for model in models}) > 1:
        return ""
    tasks = {tuple(task_names(model.verdict.tasks)) for model in models}
    task_words: list[str] = task_names(first.tasks) if len(tasks) == 1 else []
    passages = quantity(first.n_passages, "passage")
    return f"Tested on {and_join([passages, *task_words])}."


def estimate_words(results: RunResults) -> str:
    """Sparsity at which word perplexity meets its limit; empty if it does not."""
    estimate = estimate_limit(results)
    if estimate is None:
        return ""
    method = results.best[0].method
    limit = limit_factor(results.tolerance.ratio)
    by_method = ""
    if results.run.settings.names_methods:
        by_method = f" by {quoted_method(results.best[0].spec)}"
    share = f"{estimate.percent:.2g}{NBSP}% {share_of(method)}"
    return (
        f"By linear interpolation perplexity reaches {limit} at {share} "
        f"{removed_or_zeroed(method)}{by_method} (by the intervals {estimate.interval})."
    )


def answer_figures(results: RunResults, race: bool = True) -> list[str]:
    """The losses of the models that the answer names, and what healing did to them.

    race: of a race the differences as well. Of a search how it got there.
    """
    models = results.best
    search = results.judged_search
    shares = named_shares(models)
    named = [model for model in (shares.within, shares.beyond) if model] or models[:1]
    if search is not None:
        named = search_ends(search, models) if search.finished else []
    figures = []
    for model in named:
        measured = measured_sparsity(model.pruned)
        share = sparsity_percent(model.permille)
        figures.append(f"{share} ({measured}): {loss_words(model.verdict)}.")
    for model in (*named, *(rival for rival, _ in results.race)):
        if model.pruned.healed:
            healing = healing_words(model.pruned.healed)
            figures.append(f"{_method_at_share(model)}: {healing}.")
    figures += filter(
        None, (_healing_harm(results, model) for model in results.sparse_models)
    )
    if search is not None:
        if search.finished:
            figures.append(find_steps(search))
        if search.finished and results.run.answers:
            figures.append("Trials whose passages are within answer the tasks as well.")
        return figures
    for rival, difference in results.race if race else ():
        words = difference_words(difference, quoted_method(models[0].spec))
        figures.append(f"{_method_at_share(rival)}: {words}.")
    methods = results.run.settings.methods
    zeros = [method_title(method) for method in methods if not method.is_structured]
    if models and models[0].method.is_structured and zeros:
        names = and_join([f"“{name}”" for name in zeros])
        figures.append(
            f"Not compared: {names}. Zeros make a model neither smaller nor faster."
        )
    return [*figures, *quantised_figures(results)]


def _healing_harm(results: RunResults, healed: ModelResult) -> str:
    """Why the right words may become less likely although healing lowered the divergence; empty
    where they did not.
    """
    if not healed.pruned.healed or not healed.pruned.healed.kept_step:
        return ""
    for model in results.sparse_models:
        if model.spec == healed.spec.before_healing:
            lost = healed.verdict.perplexity.value - model.verdict.perplexity.value
            if lost > 0:
                return (
                    f"{_method_at_share(healed)}: healing lowered the divergence, yet the right words became less "
                    "likely: it follows the dense model's whole prediction on calibration text, not these words."
                )
    return ""


def _method_at_share(model: ModelResult) -> str:
    return f"{quoted_method(model.spec)} at {sparsity_percent(model.permille)}"


def rounding_note(model: ModelResult | ModelVerdict) -> str:
    """The share that is removed, where rounding moved it by a tenth or more of what was asked
    for.
    """
    if not isinstance(model, ModelResult) or not model.method.is_structured:
        return ""
    reached = model.pruned.reached[model.method.budget]
    if abs(reached - model.permille / 1000) < model.permille / 10_000:
        return ""
    how = "to whole layers" if model.method.removes_layers else "the widths"
    return f" ({percent(reached)} after rounding {how})"


def find_steps(search: FindResult) -> str:
    """Course of the search: trials, steps, and the treatment of undecided ones."""
    n_evaluated = sum(trial.n_passages for trial in search.trials)
    n_steps = len(search.steps)
    sentence = (
        f"Tried {len(search.trials)} of {n_steps} possible sparsities: "
        f"{n_evaluated:,} passages evaluated instead of {n_steps * search.n_passages:,}."
    )
    undecided = sorted(
        trial.permille for trial in search.trials if trial.verdict == "undecided"
    )
    if not undecided:
        return sentence
    names = percents(undecided)
    if len(undecided) == 1:
        return (
            f"{sentence} {names} was undecided, so the search treated it as too much."
        )
    return f"{sentence} {names} were undecided, so the search treated them as too much."


def find_document(search: FindResult, models: Sequence[M]) -> dict[str, Any]:
    """The search as JSON values; docs/cli.md describes its fields. models: its trials."""
    trials = [
        {
            "sparsity_percent": trial.permille / 10,
            "verdict": trial.verdict,
            "passages": trial.n_passages,
        }
        for trial in search.trials
    ]
    return {
        "answer_percent": None if search.answer is None else search.answer / 10,
        "sentence": find_sentence(search, models).replace(NBSP, " "),
        "tolerance": search.tolerance.as_document(),
        "passages": search.n_passages,
        "steps_percent": [step / 10 for step in search.steps],
        "trials": trials,
        "finished": search.finished,
    }


def still_to_come(job: Job, running: str) -> str:
    """What to expect of a live run without results. running: said of one that runs."""
    if job.stopping:
        return "This run is stopping."
    return "This run is queued." if job.state == "queued" else running


def run_ending(run: Run, job: Job | None) -> str:
    """How the run ended early, and how many of its sparse models are done; empty while it goes on
    or is finished.

    job: its newest; None where there is none, as of a run from a shell.
    """
    if run.finished or (job is not None and job.live):
        return ""
    how = _ENDED.get(job.state if job is not None else "done", "did not finish")
    n_done = len(run.sparse)
    if run.find is not None:
        return f"This search {how} after {quantity(n_done, 'trial')}."
    n_sparse = run.settings.n_sparse
    if n_sparse == 1:
        state = "done" if n_done else "not done"
        return f"This run {how}: its sparse model is {state}."
    verb = "is" if n_done == 1 else "are"
    return f"This run {how}: {n_done} of its {n_sparse} sparse models {verb} done."


def no_results(run: Run | None, why: str) -> str:
    """Why a run that had results has none. run: None where its own record is missing. why: the end
    of the sentence.
    """
    whose = "its own" if run is None else "its dense"
    return f"The results of this run are gone: {whose} record {why}."


def missing_records(run: Run, missing: Mapping[str, str]) -> str:
    """Which sparse records of a run are missing, and what that means for the others; empty where
    all are there.

    missing: why, by their names within the run.
    """
    sentences = [f"The record of {name} {why}." for name, why in missing.items()]
    if 0 < len(missing) < run.n_compared:
        sentences.append("Missing models still count as comparisons in the verdicts.")
    return " ".join(sentences)
