"""The step to suggest after a run: the share whose verdict is worth most, a search, or an export.

Plain text: escape it before it becomes markup.
"""

from dataclasses import dataclass, replace
from itertools import pairwise
from math import isfinite, log
from typing import Literal

from sparsedash.catalog.choices import EVALUATION_CORPORA
from sparsedash.catalog.presets import DEFAULT_METHOD, method_named
from sparsedash.reporting.findings import search_ends
from sparsedash.reporting.model_results import (
    Bounds,
    ModelResult,
    is_one_layer_apart,
    limit_bounds,
)
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
from sparsedash.schema.method_settings import FIXED_PERMILLE
from sparsedash.schema.settings import (
    BUILTIN_CLOZE_402,
    MAX_SPARSITY_PERMILLE,
    EvaluationSettings,
    RunSettings,
)
from sparsedash.schema.tolerance_settings import ALPHA
from sparsedash.service.run_checks import Reach
from sparsedash.stats.tolerance import FEWEST_PASSAGES, SPREAD_NATS, passages_to_judge

Suggestion = Literal["more passages", "another share", "search", "export"]
ANYTHING = Reach()
"""Nothing is refused."""
_LENGTHS = {choice.name: choice.n_texts for choice in EVALUATION_CORPORA}
_LARGER_LOSS = "Upload more passages, or allow a larger loss."
_LEAST_GAIN = 1.1
"""A share is worth a run from so many times what is known to be within."""
_FINE_TO = 50
"""Shares up to this many per mille are tried in halves of a percent, larger ones in whole ones."""
_LEAST_NATS = 1e-4


@dataclass(frozen=True, kw_only=True)
class NextStep:
    """A suggestion. link: its words; empty where nothing can be started.

    request: what the form is filled in with; None of an export, and where there is no link.
    """

    kind: Suggestion
    sentence: str
    link: str = ""
    request: RunSettings | FindSettings | None = None


def next_step(results: RunResults, reach: Reach = ANYTHING) -> NextStep | None:
    """The step to suggest after a finished run; None without a verdict.

    reach: what can be started here. What cannot has no link, and a sentence that says why.
    """
    if not results.best or not results.run.finished:
        return None
    step = _suggestion(results, reach)
    if step.request is not None and (problems := reach.problems(step.request)):
        step = replace(
            step,
            sentence=f"{step.sentence} It cannot start: {problems[0]}",
            link="",
        )
    return step


def _suggestion(results: RunResults, reach: Reach) -> NextStep:
    bounds = limit_bounds(results.best)
    if results.n_passages < FEWEST_PASSAGES and not bounds.beyond:
        return _more_passages(results, reach)
    method = results.best[0].method
    if method.pattern in FIXED_PERMILLE:
        return _after_fixed_pattern(results, bounds, reach)
    permille = None
    if not is_one_layer_apart(bounds.within, bounds.beyond):
        permille = _share_worth_most(results, bounds, reach)
    if permille is not None:
        return _test_share(results, bounds, permille, reach)
    if bounds.within and not bounds.between:
        return _export(bounds.within)
    if not bounds.within and not bounds.between:
        return _search_with_best(results, reach)
    names = percents(model.permille for model in bounds.between)
    sentence = f"{names} would take more passages than any text here has. {_LARGER_LOSS}"
    return NextStep(kind="more passages", sentence=sentence)


def _export(model: ModelResult) -> NextStep:
    share = sparsity_percent(model.permille)
    return NextStep(
        kind="export",
        sentence=f"Next: export the model at {share}, or see which answers it changed.",
        link=f"Export {share}",
    )


def _share_worth_most(results: RunResults, bounds: Bounds[ModelResult], reach: Reach) -> int | None:
    """The largest undecided share, per mille, that a text within reach is likely to confirm, or
    else the largest of all; None where that is hardly more than what is known.
    """
    search = results.judged_search
    is_exact = search is not None and bounds.beyond in search_ends(search, results.best)
    if is_exact and bounds.within:
        return None
    low = bounds.within.permille if bounds.within else 0
    high = bounds.beyond.permille if bounds.beyond else MAX_SPARSITY_PERMILLE + 1
    longest = max(length for _, length in _texts(results.run.settings.evaluation.corpus, reach))
    shares = [model.permille for model in reversed(bounds.between)]
    shares += range(MAX_SPARSITY_PERMILLE, _FINE_TO, -10)
    shares += range(_FINE_TO, 0, -5)
    for permille in shares:
        if not max(low * _LEAST_GAIN, low + 4) < permille < high:
            continue
        n = passages_needed(results, permille)
        if n is not None and n <= max(longest, results.n_passages):
            return permille
    return None


def passages_needed(results: RunResults, permille: int) -> int | None:
    """Passages that confirm a share four times of five; None where it is likely to lose too much.

    Loss and spread are those of the best method at this share, on straight lines between its models
    over logarithms of both.
    """
    losses = [(0.0, 0.0, 0.0)]
    for model in results.best:
        falls = model.losses.nats
        if isfinite(falls.mean) and falls.n > 1:
            losses.append((float(model.permille), max(falls.mean, _LEAST_NATS), falls.deviation))
    if len(losses) < 2:
        return passages_to_judge(0.0, results.tolerance.ratio, ALPHA / 2)
    ends = next((pair for pair in pairwise(losses) if permille <= pair[1][0]), losses[-2:])
    (start, nats, spread), (end, next_nats, next_spread) = ends
    if not start:
        part = permille / end
        nats = next_nats * part
        spread = next_spread * part**0.5
    else:
        part = log(permille / start) / log(end / start)
        nats = nats * (next_nats / nats) ** part
        spread = spread * (max(next_spread, _LEAST_NATS) / max(spread, _LEAST_NATS)) ** part
    if nats >= log(results.tolerance.ratio):
        return None
    return passages_to_judge(nats, results.tolerance.ratio, ALPHA / 2, min(spread, 1e3))


def _test_share(
    results: RunResults, bounds: Bounds[ModelResult], permille: int, reach: Reach
) -> NextStep:
    """A run at one share on the passages that it takes; it names what stays open."""
    n = passages_needed(results, permille)
    assert n is not None, "the share can be confirmed"
    is_tested = any(model.permille == permille for model in bounds.between)
    if is_tested:
        n = max(n, results.n_passages + 1)
    evaluation = _evaluation(results, n, reach)
    assert evaluation is not None, "some text has as many"
    spec = results.best[0].spec
    request = replace(
        results.run.settings,
        methods=(spec.pruning,),
        heal_steps=tuple(dict.fromkeys((0, spec.heal_steps))),
        quantise=(),
        sparsities_permille=(permille,),
        evaluation=evaluation,
    )
    share = sparsity_percent(permille)
    sentence = f"Next: test {share} on {_passages_words(results, evaluation, n, reach)}."
    others = [model for model in bounds.between if model.permille != permille]
    if others:
        needed = [passages_needed(results, model.permille) for model in others]
        known = [n for n in needed if n is not None]
        verb = "stays" if len(others) == 1 else "stay"
        open_words = f"{percents(model.permille for model in others)} {verb} open"
        if known:
            open_words = f"{open_words}: about {round_up(max(known)):,} passages would decide"
        sentence = f"{sentence} {open_words}."
    return NextStep(
        kind="more passages" if is_tested else "another share",
        sentence=sentence,
        link=f"Test {share}",
        request=request,
    )


def _more_passages(results: RunResults, reach: Reach) -> NextStep:
    """The same shares on as many passages as a verdict takes, or the longest text has."""
    texts = _texts(results.run.settings.evaluation.corpus, reach)
    longest = max(length for _, length in texts)
    few = too_few(results.n_passages, "passage")
    if longest <= results.n_passages:
        return NextStep(kind="more passages", sentence=f"{few} for a verdict. {_LARGER_LOSS}")
    n = passages_to_judge(0.0, results.tolerance.ratio, ALPHA / 2, SPREAD_NATS) or longest
    n = min(n, longest)
    evaluation = _evaluation(results, n, reach)
    assert evaluation is not None, "some text has as many"
    n_passages = _passages_words(results, evaluation, n, reach)
    return NextStep(
        kind="more passages",
        sentence=f"{few} for a verdict. Next: test again on {n_passages}.",
        link="Test on more passages",
        request=replace(results.run.settings, evaluation=evaluation),
    )


def _after_fixed_pattern(
    results: RunResults, bounds: Bounds[ModelResult], reach: Reach
) -> NextStep:
    """An export of what is within; more passages for what is open; else a search of another
    method.
    """
    if bounds.within:
        return _export(bounds.within)
    if not bounds.between:
        return _search_with_best(results, reach)
    permille = bounds.between[0].permille
    n = passages_needed(results, permille)
    if n is None or _evaluation(results, max(n, results.n_passages + 1), reach) is None:
        sentence = f"More passages than any text here has would decide. {_LARGER_LOSS}"
        return NextStep(kind="more passages", sentence=sentence)
    return _test_share(results, bounds, permille, reach)


def _search_with_best(results: RunResults, reach: Reach) -> NextStep:
    """A search by the recommended method, on the longest text within reach."""
    settings = results.run.settings
    budget = settings.budget
    if budget == "kv-cache":
        # Neither channels nor experts are part of the cache.
        budget = "weights"
    name = DEFAULT_METHOD
    if results.best[0].method.prunes_experts:
        # Its experts are most of such a model.
        name = "experts"
    method = replace(method_named(name), budget=budget)
    texts = _texts(settings.evaluation.corpus, reach)
    longest = max(length for _, length in texts)
    evaluation = _evaluation(results, longest, reach)
    assert evaluation is not None, "the longest text has as many"
    if method == results.best[0].spec.pruning:
        sentence = (
            f"A smaller share would take more passages than any text here has. {_LARGER_LOSS}"
        )
        return NextStep(kind="more passages", sentence=sentence)
    request = FindSettings(
        model=settings.model,
        dtype=settings.dtype,
        method=method,
        calibration=settings.calibration,
        evaluation=evaluation,
        tolerance=results.tolerance,
    )
    sentence = f"Next: search for the largest share within your limit with “{method_title(method)}”"
    if evaluation.corpus != settings.evaluation.corpus:
        sentence = f"{sentence}, on {reference_title(evaluation.corpus)}"
    return NextStep(
        kind="search",
        sentence=f"{sentence}.",
        link=f"Search with {method_title(method)}",
        request=request,
    )


def _passages_words(
    results: RunResults, evaluation: EvaluationSettings, n: int, reach: Reach
) -> str:
    """ "about 700 passages from “LAMBADA”", "all 402 passages"."""
    words = f"about {round_up(max(n, results.n_passages)):,} passages"
    if evaluation.n_passages is None:
        n_all = _length(evaluation.corpus, reach) or results.n_passages
        words = f"all {n_all:,} passages"
    if evaluation.corpus != results.run.settings.evaluation.corpus:
        words = f"{words} from “{reference_title(evaluation.corpus)}”"
    return words


def _evaluation(results: RunResults, n: int, reach: Reach) -> EvaluationSettings | None:
    """Settings that test on so many passages: of the run, or of the first longer text within reach;
    None without one.
    """
    evaluation = replace(results.run.settings.evaluation, stop_early=False)
    if n <= results.n_passages:
        return evaluation
    for reference, length in _texts(evaluation.corpus, reach):
        if n <= length:
            n_rounded = round_up(n)
            part = n_rounded if n_rounded < length else None
            return replace(evaluation, corpus=reference, n_passages=part)
    return None


def _texts(corpus: str, reach: Reach) -> list[tuple[str, int]]:
    """The run's text and longer ones, with their lengths; 0 of what is out of reach."""
    references = (corpus, BUILTIN_CLOZE_402, "lambada_openai")
    return [(reference, _length(reference, reach)) for reference in references]


def _length(reference: str, reach: Reach) -> int:
    """Passages of a text; 0 where they are not known or out of reach."""
    if reach.lacks(reference):
        return 0
    return _LENGTHS.get(reference) or reach.n_passages(reference) or 0
