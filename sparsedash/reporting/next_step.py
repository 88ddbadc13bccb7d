"""The step to suggest after a run: the share whose verdict is worth most, a search, or an export.

Plain text: escape it before it becomes markup.
"""

from collections.abc import Mapping, Sequence
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
_FINE_TO = 50
"""Shares up to this many per mille are tried in halves of a percent, larger ones in whole ones."""
_MIN_NATS = 1e-4


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
    if bounds.between and all(_is_open_on_tasks(model) for model in bounds.between):
        names = percents(model.permille for model in bounds.between)
        sentence = f"Passages cannot decide {names}: tasks are open. {_MORE_QUESTIONS}"
        return NextStep(kind="more passages", sentence=sentence)
    if not is_one_layer_apart(bounds.within, bounds.beyond):
        step = _share_worth_most(results, bounds, lengths)
        if step is not None:
            return step
    if bounds.between:
        names = percents(model.permille for model in bounds.between)
        sentence = (
            f"{names} would take more passages than any text here has. {_LARGER_LOSS}"
        )
        return NextStep(kind="more passages", sentence=sentence)
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
    results: RunResults, bounds: Bounds[ModelResult], lengths: Mapping[str, int]
) -> NextStep | None:
    """A test of the largest undecided share that a text within reach is likely to confirm, or else
    of the largest of all; None where that is hardly more than what is known.
    """
    search = results.judged_search
    is_exact = search is not None and bounds.beyond in search_ends(search, results.best)
    if is_exact and bounds.within:
        return None
    low = bounds.within.permille if bounds.within else 0
    high = bounds.beyond.permille if bounds.beyond else MAX_SPARSITY_PERMILLE + 1
    tested = [model.permille for model in reversed(bounds.between)]
    shares = list(tested)
    if results.best[0].method.pattern not in FIXED_PERMILLE:
        shares += range(MAX_SPARSITY_PERMILLE, _FINE_TO, -10)
        shares += range(_FINE_TO, 0, -5)
    for permille in shares:
        if not max(low * _MIN_GAIN, low + 4) < permille < high:
            continue
        n = passages_needed(results, permille)
        if n is not None and permille in tested:
            n = max(n, results.n_passages + 1)
        if n is not None and n <= max(*lengths.values(), results.n_passages):
            return _test_share(results, tested, permille, n, lengths)
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
            losses.append(
                (float(model.permille), max(falls.mean, _MIN_NATS), falls.deviation)
            )
    if len(losses) < 2:
        return passages_to_judge(0.0, results.tolerance.ratio, ALPHA / 2)
    ends = next(
        (pair for pair in pairwise(losses) if permille <= pair[1][0]), losses[-2:]
    )
    (start, nats, spread), (end, next_nats, next_spread) = ends
    if not start:
        part = permille / end
        nats = next_nats * part
        spread = next_spread * part**0.5
    else:
        part = log(permille / start) / log(end / start)
        nats = nats * (next_nats / nats) ** part
        spread = spread * (max(next_spread, _MIN_NATS) / max(spread, _MIN_NATS)) ** part
    if nats >= log(results.tolerance.ratio):
        return None
    return passages_to_judge(nats, results.tolerance.ratio, ALPHA / 2, min(spread, 1e3))


def _test_share(
    results: RunResults,
    tested: Sequence[int],
    permille: int,
    n: int,
    lengths: Mapping[str, int],
) -> NextStep:
    """A run at one share on so many passages. tested: shares that are open, largest first."""
    evaluation = _evaluation(results, n, lengths)
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
    sentence = (
        f"Next: test {share} on {_passages_words(results, evaluation, n, lengths)}."
    )
    still_open = [share for share in reversed(tested) if share != permille]
    if still_open:
        verb = "stays" if len(still_open) == 1 else "stay"
        sentence = f"{sentence} {percents(still_open)} {verb} open"
        needed = [passages_needed(results, share) or 0 for share in still_open]
        if any(needed):
            sentence = (
                f"{sentence}: about {round_up(max(needed)):,} passages would decide"
            )
        sentence = f"{sentence}."
    return NextStep(
        kind="more passages" if permille in tested else "another share",
        sentence=sentence,
        link=f"Test {share}",
        request=request,
    )


def _more_passages(results: RunResults, lengths: Mapping[str, int]) -> NextStep:
    """The same shares on as many passages as a verdict takes, or the longest text has."""
    longest = max(lengths.values())
    few = too_few(results.n_passages, "passage")
    if longest <= results.n_passages:
        return NextStep(
            kind="more passages", sentence=f"{few} for a verdict. {_LARGER_LOSS}"
        )
    n = (
        passages_to_judge(0.0, results.tolerance.ratio, ALPHA / 2, SPREAD_NATS)
        or longest
    )
    n = min(n, longest)
    evaluation = _evaluation(results, n, lengths)
    n_passages = _passages_words(results, evaluation, n, lengths)
    return NextStep(
        kind="more passages",
        sentence=f"{few} for a verdict. Next: test again on {n_passages}.",
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
    evaluation = _evaluation(results, max(lengths.values()), lengths)
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
    results: RunResults,
    evaluation: EvaluationSettings,
    n: int,
    lengths: Mapping[str, int],
) -> str:
    """ "about 700 passages from “LAMBADA”", "all 402 passages"."""
    words = f"about {round_up(max(n, results.n_passages)):,} passages"
    if evaluation.n_passages is None:
        words = f"all {lengths[evaluation.corpus] or results.n_passages:,} passages"
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
