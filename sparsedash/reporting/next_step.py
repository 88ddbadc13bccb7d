"""The step to suggest after a run: the share whose verdict is worth most, a search, or an export.

Plain text: escape it before it becomes markup.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isfinite, log
from typing import Literal

from sparsedash.catalog.choices import EVALUATION_CORPORA
from sparsedash.catalog.presets import DEFAULT_METHOD, method_named
from sparsedash.reporting.findings import estimate_limit, search_ends
from sparsedash.reporting.model_results import (
    Bounds,
    ModelResult,
    is_one_layer_apart,
    limit_bounds,
)
from sparsedash.reporting.run_headline import smallest_file
from sparsedash.reporting.run_results import RunResults
from sparsedash.reporting.wording import (
    method_title,
    percents,
    reference_title,
    round_up,
    sparsity_percent,
    too_few,
)
from sparsedash.schema.find_settings import FindSettings
from sparsedash.schema.method_settings import FIXED_PERMILLE, MethodSettings
from sparsedash.schema.settings import (
    BUILTIN_CLOZE_402,
    MAX_SPARSITY_PERMILLE,
    EvaluationSettings,
    RunSettings,
)
from sparsedash.schema.tolerance_settings import ALPHA
from sparsedash.service.run_checks import RequestRules
from sparsedash.stats.tolerance import MIN_PASSAGES, SPREAD_NATS, passages_to_judge

Suggestion = Literal["more passages", "another share", "search", "export"]
ANYTHING = RequestRules()
"""Nothing is refused."""
_LENGTHS = {choice.name: choice.n_texts for choice in EVALUATION_CORPORA}
_LARGER_LOSS = "Upload more passages, or allow a larger loss."
_MORE_QUESTIONS = "Choose tasks with more questions, or allow a larger loss."
_MIN_GAIN = 1.1
"""A share is worth a run from so many times what is known to be within."""
_MIN_PART = 0.5
"""A share is worth a run from this part of where the limit is estimated: a smaller one saves little."""
_FINE_TO = 50
"""Shares up to this many per mille are tried in halves of a percent, larger ones in whole ones."""
_MAX_SPREAD = 1e3


@dataclass(frozen=True, kw_only=True)
class NextStep:
    """A suggestion. link: its words; empty where nothing can be started.

    request: what the form is filled in with; None of an export, and where there is no link.
    """

    kind: Suggestion
    sentence: str
    link: str = ""
    request: RunSettings | FindSettings | None = None


def next_step(results: RunResults, rules: RequestRules = ANYTHING) -> NextStep | None:
    """The step to suggest after a finished run; None without a verdict.

    rules: what can be started here. What cannot has no link, and a sentence that says why.
    """
    if not results.best or not results.run.finished:
        return None
    step = _suggestion(results, _lengths(results.run.settings.evaluation.corpus, rules))
    problems = rules.problems(step.request) if step.request is not None else ()
    if problems:
        sentence = f"{step.sentence} It cannot start: {problems[0]}"
        return replace(step, sentence=sentence, link="")
    return step


def _lengths(corpus: str, rules: RequestRules) -> dict[str, int]:
    """Passages of the run's text and of longer ones; 0 where they are not known or out of reach."""
    lengths = {}
    for reference in (corpus, BUILTIN_CLOZE_402, "lambada_openai"):
        length = _LENGTHS.get(reference) or rules.n_passages(reference)
        lengths[reference] = 0 if rules.lacks(reference) else length or 0
    return lengths


def _suggestion(results: RunResults, lengths: Mapping[str, int]) -> NextStep:
    bounds = limit_bounds(results.best)
    if results.n_passages < MIN_PASSAGES and not bounds.beyond:
        return _more_passages(results, lengths)
    names = percents(model.permille for model in bounds.between)
    if bounds.between and all(_is_open_on_tasks(model) for model in bounds.between):
        sentence = f"Passages cannot decide {names}: tasks are open. {_MORE_QUESTIONS}"
        return NextStep(kind="more passages", sentence=sentence)
    permille = _share_worth_most(results, bounds, max(lengths.values()))
    if permille:
        return _test_share(results, bounds, permille, lengths)
    if bounds.between:
        sentence = f"{names} would take more passages than any text here has."
        return NextStep(kind="more passages", sentence=f"{sentence} {_LARGER_LOSS}")
    if bounds.within is None:
        return _search_with_best(results, lengths)
    share = sparsity_percent(bounds.within.permille)
    # The headline may name a quantised file instead.
    type_words = ", not quantised" if smallest_file(results) is not None else ""
    return NextStep(
        kind="export",
        sentence=f"Next: export the model at {share}, or see which answers it changed.",
        link=f"Export {share}{type_words}",
    )


def _is_open_on_tasks(model: ModelResult) -> bool:
    """Whether an undecided model is within by its passages."""
    return model.verdict.perplexity.verdict == "within"


def _share_worth_most(
    results: RunResults, bounds: Bounds[ModelResult], longest: int
) -> int:
    """The largest undecided share that a text within reach is likely to confirm, or else the largest
    of all, in per mille.

    0 where that is hardly more than what is known, or less than half of where the limit is
    estimated. longest: passages of the longest text.
    """
    high = 2 * results.best[-1].permille + 1
    if bounds.beyond:
        high = bounds.beyond.permille
    ends = results.judged_search and search_ends(results.judged_search, results.best)
    is_searched = bounds.within and bounds.beyond in (ends or ())
    if is_searched or is_one_layer_apart(bounds.within, bounds.beyond):
        return 0
    shares = [model.permille for model in reversed(bounds.between)]
    # Of shares that are all open no estimate is known.
    limit = shares[0] if shares else 0
    estimate = estimate_limit(results)
    if estimate is not None:
        limit = round(10 * estimate.percent)
    low = bounds.within.permille if bounds.within else 0
    least = max(low * _MIN_GAIN, limit * _MIN_PART)
    if results.best[0].method.pattern not in FIXED_PERMILLE:
        shares += range(MAX_SPARSITY_PERMILLE, _FINE_TO, -10)
        shares += range(_FINE_TO, 0, -5)
    for permille in shares:
        if least <= permille < high:
            n = passages_needed(results, permille)
            if n is not None and n <= max(longest, results.n_passages):
                return permille
    return 0


def passages_needed(results: RunResults, permille: int) -> int | None:
    """Passages that confirm a share four times of five; None where it is likely to lose too much.

    The loss lies on straight lines between the best method's models, as for the estimated limit; the
    spread is that of the next one, and grows with the root of the share. A model that is still
    undecided takes more than it had.
    """
    start = end = (0, 0.0)
    spread = SPREAD_NATS
    least = 0
    for model in results.best:
        falls = model.losses.nats
        if end[0] < permille and isfinite(falls.mean) and falls.n > 1:
            start = end
            end = (model.permille, falls.mean)
            spread = min(falls.deviation, _MAX_SPREAD)
        if model.permille == permille:
            least = results.n_passages + 1
    slope = (end[1] - start[1]) / max(1, end[0] - start[0])
    nats = max(0.0, start[1] + slope * (permille - start[0]))
    if nats >= log(results.tolerance.ratio):
        return None
    if end[0]:
        spread *= (permille / end[0]) ** 0.5
    n = passages_to_judge(nats, results.tolerance.ratio, ALPHA / 2, spread)
    return None if n is None else max(n, least)


def _test_share(
    results: RunResults,
    bounds: Bounds[ModelResult],
    permille: int,
    lengths: Mapping[str, int],
) -> NextStep:
    """A run at one share on the passages that it needs."""
    evaluation = _evaluation(results, passages_needed(results, permille) or 0, lengths)
    spec = results.best[0].spec
    method = spec.pruning
    if results.run.settings.quantises:
        # The widths that the types needed leave few shares.
        method = replace(method, width_multiple=MethodSettings.width_multiple)
    request = replace(
        results.run.settings,
        methods=(method,),
        heal_steps=tuple(dict.fromkeys((0, spec.heal_steps))),
        quantise=(),
        quantised_permille=(),
        sparsities_permille=(permille,),
        evaluation=evaluation,
    )
    share = sparsity_percent(permille)
    sentence = f"Next: test {share} on {_passages_words(results, evaluation, lengths)}."
    tested = [model.permille for model in bounds.between]
    still_open = [share for share in tested if share != permille]
    if still_open:
        verb = "stays" if len(still_open) == 1 else "stay"
        sentence = f"{sentence} {percents(still_open)} {verb} open."
    return NextStep(
        kind="more passages" if permille in tested else "another share",
        sentence=sentence,
        link=f"Test {share}",
        request=request,
    )


def _more_passages(results: RunResults, lengths: Mapping[str, int]) -> NextStep:
    """The same shares on as many passages as a verdict takes, or the longest text has."""
    few = f"{too_few(results.n_passages, 'passage')} for a verdict."
    longest = max(lengths.values())
    if longest <= results.n_passages:
        return NextStep(kind="more passages", sentence=f"{few} {_LARGER_LOSS}")
    n = min(passages_needed(results, 0) or longest, longest)
    evaluation = _evaluation(results, n, lengths)
    passages = _passages_words(results, evaluation, lengths)
    return NextStep(
        kind="more passages",
        sentence=f"{few} Next: test again on {passages}.",
        link="Test on more passages",
        request=replace(results.run.settings, evaluation=evaluation),
    )


def _search_with_best(results: RunResults, lengths: Mapping[str, int]) -> NextStep:
    """A search by the recommended method, on the longest text within reach."""
    settings = results.run.settings
    # Neither channels nor experts are part of the cache.
    budget = "weights" if settings.budget == "kv-cache" else settings.budget
    # The experts of a mixture are most of it.
    name = "experts" if results.best[0].method.prunes_experts else DEFAULT_METHOD
    method = replace(method_named(name), budget=budget)
    if method == results.best[0].spec.pruning:
        sentence = f"A smaller share would take more passages than any text here has. {_LARGER_LOSS}"
        return NextStep(kind="more passages", sentence=sentence)
    request = FindSettings(
        model=settings.model,
        dtype=settings.dtype,
        method=method,
        calibration=settings.calibration,
        evaluation=_evaluation(results, max(lengths.values()), lengths),
        tolerance=results.tolerance,
    )
    return NextStep(
        kind="search",
        sentence=f"Next: search for the largest share within your limit with “{method_title(method)}”.",
        link=f"Search with {method_title(method)}",
        request=request,
    )


def _passages_words(
    results: RunResults, evaluation: EvaluationSettings, lengths: Mapping[str, int]
) -> str:
    """ "about 700 passages from “LAMBADA”", "all 402 passages"."""
    n = evaluation.n_passages
    words = (
        f"about {n:,} passages" if n else f"all {lengths[evaluation.corpus]:,} passages"
    )
    if evaluation.corpus != results.run.settings.evaluation.corpus:
        words = f"{words} from “{reference_title(evaluation.corpus)}”"
    return words


def _evaluation(
    results: RunResults, n: int, lengths: Mapping[str, int]
) -> EvaluationSettings:
    """Settings that test on so many passages: of the run, or of the first text that has them.

    n: at most those of the run, or of the longest text.
    """
    evaluation = replace(results.run.settings.evaluation, stop_early=False)
    if n <= results.n_passages:
        return evaluation
    corpus = next(text for text, length in lengths.items() if n <= length)
    n_rounded = round_up(n)
    n_passages = n_rounded if n_rounded < lengths[corpus] else None
    return replace(evaluation, corpus=corpus, n_passages=n_passages)
