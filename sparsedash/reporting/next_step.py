"""The step to suggest after a run: more passages, another share, a search, or an export.

Plain text: escape it before it becomes markup.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from sparsedash.catalog.choices import EVALUATION_CORPORA
from sparsedash.catalog.presets import DEFAULT_METHOD, method_named
from sparsedash.reporting.model_results import ModelResult, Shares, is_one_layer_apart, named_shares
from sparsedash.reporting.run_results import RunResults
from sparsedash.reporting.wording import (
    limit_factor,
    method_title,
    percents,
    reference_title,
    round_up,
    sparsity_percent,
    tolerance_words,
    too_few,
)
from sparsedash.schema.find_settings import FindSettings
from sparsedash.schema.method_settings import FIXED_PERMILLE
from sparsedash.schema.settings import BUILTIN_CLOZE_402, EvaluationSettings, RunSettings
from sparsedash.schema.tolerance_settings import ALPHA
from sparsedash.service.run_checks import Reach
from sparsedash.stats.sparsity_search import passages_to_search
from sparsedash.stats.tolerance import FEWEST_PASSAGES, passages_to_judge

Suggestion = Literal["more passages", "another share", "search", "export"]
ANYTHING = Reach()
"""Nothing is refused."""
_LENGTHS = {choice.name: choice.n_texts for choice in EVALUATION_CORPORA}
_LARGER_LOSS = "Next: upload more passages, or allow a larger loss."


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
    search = results.run.find
    if search is None or search.tolerance == results.tolerance:
        return step
    limits = tolerance_words(search.tolerance)
    return replace(
        step,
        sentence=f"The search was made for {limits}. {step.sentence}",
    )


def _suggestion(results: RunResults, reach: Reach) -> NextStep:
    search = results.run.find
    spec = results.best[0].spec
    method = spec.pruning
    heal_steps = spec.heal_steps
    ends = named_shares(results.best)
    within = ends.within
    if ends.undecided and not (search and within):
        return _more_passages(results, ends.undecided, reach)
    no_share_between = (
        search is not None
        or method.pattern in FIXED_PERMILLE
        or is_one_layer_apart(within, ends.beyond)
    )
    if within and no_share_between:
        sentence = (
            f"Next: export the model at {sparsity_percent(within.permille)}, "
            "or see which answers it changed."
        )
        return NextStep(
            kind="export",
            sentence=sentence,
            link="Export this model",
        )
    if within is None and (no_share_between or not method.reads_text):
        # No channel is part of the cache.
        budget = "weights" if method.budget == "kv-cache" else method.budget
        recommended = replace(method_named(DEFAULT_METHOD), budget=budget)
        if search and method == recommended and not heal_steps:
            return NextStep(kind="search", sentence="Next: allow a larger loss, and search again.")
        method = recommended
        heal_steps = 0
    settings = results.run.settings
    n = passages_to_search(results.tolerance)
    evaluation = _evaluation(results, n, reach)
    if evaluation is None:
        return _another_share(results, ends, n)
    with_method = "" if method == spec.pruning else f" with “{method_title(method)}”"
    on = ""
    if evaluation.corpus != settings.evaluation.corpus:
        on = f", on {reference_title(evaluation.corpus)}"
    request = FindSettings(
        model=settings.model,
        dtype=settings.dtype,
        method=method,
        heal_steps=heal_steps,
        calibration=settings.calibration,
        evaluation=evaluation,
        tolerance=results.tolerance,
    )
    sentence = f"Next: search for the largest share within your limit{with_method}{on}."
    return NextStep(
        kind="search",
        sentence=sentence,
        link="Set up a search",
        request=request,
    )


def _more_passages(results: RunResults, undecided: Sequence[ModelResult], reach: Reach) -> NextStep:
    """More passages for all undecided shares that some text within reach can decide."""
    run = results.run
    needed = {}
    for model in undecided:
        n = _needed(results, model, reach)
        if n is not None and _evaluation(results, n, reach) is not None:
            needed[model.permille] = n
    if not needed:
        names = percents(model.permille for model in undecided)
        sentence = f"The passages within reach cannot settle {names}. {_LARGER_LOSS}"
        return NextStep(kind="more passages", sentence=sentence)
    n = max(needed.values())
    evaluation = _evaluation(results, n, reach)
    assert evaluation is not None, "some text has as many"
    spec = undecided[0].spec
    request: RunSettings | FindSettings = replace(
        run.settings,
        methods=(spec.pruning,),
        heal_steps=tuple(dict.fromkeys((0, spec.heal_steps))),
        quantise=(),
        sparsities_permille=tuple(needed),
        evaluation=evaluation,
    )
    verb = f"test {percents(needed)}"
    if run.find is not None:
        request = replace(
            run.find,
            evaluation=evaluation,
            tolerance=results.tolerance,
        )
        verb = "search again"
    n_passages = f"about {round_up(n):,} passages"
    if evaluation.n_passages is None:
        n_all = _length(evaluation.corpus, reach) or results.n_passages
        n_passages = f"all {n_all:,} passages"
    if evaluation.corpus != run.settings.evaluation.corpus:
        n_passages = f"{n_passages} from “{reference_title(evaluation.corpus)}”"
    sentence = f"Next: {verb} on {n_passages}, which should settle it."
    if results.n_passages < FEWEST_PASSAGES:
        few_sentence = too_few(results.n_passages, "passage")
        sentence = f"{few_sentence} for a verdict. Next: {verb} on {n_passages}."
    return NextStep(
        kind="more passages",
        sentence=sentence,
        link="Test on more passages",
        request=request,
    )


def _another_share(results: RunResults, ends: Shares[ModelResult], n_search: int) -> NextStep:
    """A share half way between the largest within and the smallest beyond, where no text has the
    passages for a search.
    """
    low = ends.within.permille if ends.within else 0
    high = ends.beyond.permille if ends.beyond else min(4 * low, 1000)
    permille = (low + high) // 20 * 10
    limit = limit_factor(results.tolerance.ratio)
    why = f"A search at a limit of {limit} takes about {round_up(n_search):,} passages"
    why += ", more than any text within reach has."
    if not low < permille < high:
        return NextStep(
            kind="more passages",
            sentence=f"{why} {_LARGER_LOSS}",
        )
    share = sparsity_percent(permille)
    request = replace(results.run.settings, sparsities_permille=(permille,))
    return NextStep(
        kind="another share",
        sentence=f"{why} Next: try {share}.",
        link=f"Try {share}",
        request=request,
    )


def _needed(results: RunResults, model: ModelResult, reach: Reach) -> int | None:
    """Passages that should decide a model; None where no number would, or no text has more."""
    if results.n_passages < FEWEST_PASSAGES:
        # So few say nothing of how many it takes: the longest text may be enough.
        most = max(length for _, length in _texts(results.run.settings.evaluation.corpus, reach))
        n = passages_to_judge(0.0, results.tolerance.ratio, ALPHA / 2)
        return min(n or most, most) if most > results.n_passages else None
    n = replace(
        model.verdict,
        tasks=(),
        unanswered=False,
    ).passages_needed
    if n is None or model.record.stopping:
        return n
    return max(n, results.n_passages + 1)


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
