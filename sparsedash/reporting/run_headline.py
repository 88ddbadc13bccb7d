"""The answer of a run in at most fourteen words, the line under it, and the models that it names.

Plain text: escape it before it becomes markup.
"""

import re
from collections.abc import Sequence

from sparsedash.catalog.presets import DEFAULT_METHOD
from sparsedash.reporting.findings import (
    AnswerKind,
    Findings,
    Race,
    RaceKind,
    findings,
    search_ends,
)
from sparsedash.reporting.model_results import (
    Bounds,
    ModelResult,
    is_one_layer_apart,
    limit_bounds,
)
from sparsedash.reporting.run_results import RunResults
from sparsedash.reporting.wording import (
    NBSP,
    and_join,
    budget_titles,
    limit_factor,
    quantity,
    size,
    sparsity_percent,
    spec_title,
)
from sparsedash.schema.find_settings import FindResult
from sparsedash.schema.method_settings import FIXED_PERMILLE

MAX_WORDS = 14
_MAX_IN_NAME = 3
"""Words of a method's name that a headline has room for."""
_MAX_SHARES = 2
_SHARE = re.compile(rf"[\d.]+{NBSP}%")
_WITHOUT_MODELS = {
    AnswerKind.WAITING: "The dense model is evaluated; no sparse model yet.",
    AnswerKind.NO_MODEL: "The dense model is evaluated; no sparse model was.",
    AnswerKind.MISSING: "The dense model is evaluated; the sparse records are missing.",
    AnswerKind.NOTHING_REMOVED: "Nothing was removed: the dense model was only quantised.",
}
_RACE_ENDS = {
    RaceKind.WON: "{best} keeps most",
    RaceKind.INCOMPLETE: "{best} keeps most",
    RaceKind.TIED: "{tied}",
    RaceKind.PARTLY_TIED: "{tied}",
    RaceKind.BEATEN: "{ahead} beats {best}, yet with {best}",
}


def n_words(text: str) -> int:
    """Words of a text; a number with its sign counts as one."""
    return len([word for word in text.split() if re.search(r"\w", word)])


def headline(results: RunResults, ended: bool = False) -> str:
    """The share that can be removed within the limit, in at most fourteen words.

    ended: no more sparse models come, though the run is not finished.
    """
    facts = findings(results, ended)
    files = _files_sentence(results)
    if files:
        sentences = [files]
    elif facts.kind in _WITHOUT_MODELS:
        sentences = [_WITHOUT_MODELS[facts.kind]]
    else:
        sentences = _sentences(results, facts)
    if facts.is_so_far:
        sentences[0] = f"So far: {sentences[0]}"
    while len(sentences) > 1 and n_words(" ".join(sentences)) > MAX_WORDS:
        sentences.pop()
    words = " ".join(sentences)
    named = _with_whole(results, words)
    return named if n_words(named) <= MAX_WORDS else words


def _with_whole(results: RunResults, words: str) -> str:
    """The words with what the first share is a share of behind it."""
    whole = f" of {_whole(results)}"
    return words if whole in words else _SHARE.sub(rf"\g<0>{whole}", words, count=1)


def _whole(results: RunResults) -> str:
    """What the shares of the headline are shares of: "MLP channels"."""
    named = headline_models(results) or results.sparse_models[:1]
    methods = [model.method for model in results.best or named]
    return budget_titles(methods)[results.run.settings.budget]


def headline_models(results: RunResults) -> list[ModelResult]:
    """The models that the headline names, first those of a decided verdict; of files the smallest
    within.
    """
    smallest = smallest_file(results)
    if smallest is not None:
        return [smallest]
    bounds = limit_bounds(_shown(results.best))
    decided = [model for model in (bounds.within, bounds.beyond) if model]
    return [*decided, *bounds.between, *bounds.contradicting]


def basis_words(results: RunResults) -> str:
    """The passages, what the verdict rests on, and what the shares are shares of."""
    parts = [quantity(results.n_passages, "passage")]
    named = headline_models(results) or list(results.sparse_models)
    if named:
        parts.append(_judged_by(named[0]))
        whole = _whole(results)
        has_shares = any(model.permille for model in named)
        if has_shares and f" of {whole}" not in headline(results):
            parts.append(f"% of the {whole}")
    titles = [spec_title(model.spec.before_healing) for model in results.sparse_models]
    if DEFAULT_METHOD in titles:
        parts.append(f"{DEFAULT_METHOD}: our recommended method")
    search = results.run.find
    if search is not None and search.tolerance != results.tolerance:
        parts.append(f"searched for {limit_factor(search.tolerance.ratio)}")
    lacks_files = results.run.finished and not results.run.settings.quantises
    if search is not None and search.quantise and lacks_files:
        parts.append("nothing was quantised")
    if results.run.source_type and results.run.settings.quantise:
        parts.append("files are not ranked: the source was quantised already")
    return " · ".join(parts)


def smallest_file(results: RunResults) -> ModelResult | None:
    """The smallest file within the limit, pruned or not; None where none is, where nothing was
    quantised, and where the source had been quantised already.
    """
    if results.run.source_type or not results.run.settings.quantise:
        return None
    smallest = None
    least = 0
    for model in results.sparse_models:
        sizes = results.file_bytes(model)
        if sizes is None or model.verdict.verdict != "within":
            continue
        if smallest is None or sizes[0] < least:
            smallest = model
            least = sizes[0]
    return smallest


def _judged_by(model: ModelResult) -> str:
    """ "judged by perplexity; accuracy needs more passages"."""
    verdict = model.verdict
    counted = ["perplexity"]
    if verdict.accuracy is not None and verdict.accuracy.verdict != "undecided":
        counted.append("accuracy")
    if verdict.tasks:
        counted.append(quantity(len(verdict.tasks), "task"))
    words = f"judged by {and_join(counted)}"
    if verdict.accuracy is not None and verdict.accuracy.verdict == "undecided":
        words += "; accuracy needs more passages"
    return words


def _files_sentence(results: RunResults) -> str:
    """The smallest file within the limit; empty where files are not ranked or not there yet."""
    model = smallest_file(results)
    if model is None:
        ranks_files = results.run.settings.quantise and not results.run.source_type
        if ranks_files and not results.best and results.sparse_models:
            return "No quantised file is shown within your limit."
        return ""
    sizes = results.file_bytes(model)
    assert sizes is not None, "only files are ranked"
    kind = model.spec.quantise.upper() if model.spec.is_quantised else "16 bits"
    how = "unpruned"
    if model.permille:
        how = f"with {sparsity_percent(model.permille)} gone"
    return f"Smallest file within: {kind} {how}, {size(sizes[0])} (dense {size(sizes[1])})."


def _sentences(results: RunResults, facts: Findings) -> list[str]:
    """The answer in sentences, the most important first."""
    models = _shown(results.best)
    if not models:
        share = sparsity_percent(results.best[0].permille)
        return [f"At {share} nothing was removed: the widths were rounded up."]
    search = results.judged_search
    if search is not None and search.finished:
        return _search_sentences(results, facts, search)
    bounds = limit_bounds(models)
    if models[0].verdict.too_few and bounds.beyond is None:
        return [
            f"{quantity(models[0].verdict.n_passages, 'passage')} cannot decide anything."
        ]
    if bounds.contradicting and bounds.beyond:
        beyond = sparsity_percent(bounds.beyond.permille)
        within = sparsity_percent(bounds.contradicting[-1].permille)
        return [f"Results contradict: {beyond} is too much, yet {within} can go."]
    lead = _race_words(facts.race) if facts.race else ""
    has_more = results.run.settings.evaluation.n_passages is not None
    clauses = _clauses(bounds, has_more, first_decided=not lead)
    if lead:
        named = [_with_whole(results, clauses[0]), *clauses[1:]]
        for shown in (named, named[:2], clauses, clauses[:2]):
            sentence = f"{lead}: {', '.join(shown)}."
            if n_words(sentence) <= MAX_WORDS:
                return [sentence]
        return [f"{lead}: {clauses[0]}."]
    sentences = [f"{clause}." for clause in clauses]
    if len(clauses) == 1 and not facts.is_so_far:
        sentences += _not_tested(bounds)
    is_gap = len(clauses) > 1 and not bounds.between and not facts.is_so_far
    if is_gap and not is_one_layer_apart(bounds.within, bounds.beyond):
        sentences.append("Between them: not tested.")
    return sentences


def _shown(models: Sequence[ModelResult]) -> list[ModelResult]:
    """Those of these models of which something is gone."""
    return [model for model in models if not model.is_unchanged]


def _clauses(
    bounds: Bounds[ModelResult], has_more: bool, first_decided: bool = True
) -> list[str]:
    """Clauses on the shares that can go, are too much, or are open, without full stops.

    has_more: whether the text has passages that the run did not ask.
    """
    clauses = []
    if bounds.within:
        verb = "can go"
        if not bounds.within.method.is_structured:
            verb = "can be set to zero"
        clauses.append(f"{sparsity_percent(bounds.within.permille)} {verb}")
    if bounds.beyond:
        clauses.append(f"{sparsity_percent(bounds.beyond.permille)} is too much")
    if bounds.between:
        is_first = first_decided and not bounds.within
        clauses.insert(
            0 if is_first else len(clauses), _open_words(bounds.between, has_more)
        )
    return clauses


def _open_words(models: Sequence[ModelResult], has_more: bool) -> str:
    """ "10 % needs more passages", "10 to 30 % are undecided"."""
    shares = [model.permille for model in models]
    names = and_join([sparsity_percent(share) for share in shares])
    if len(shares) > _MAX_SHARES:
        names = f"{shares[0] / 10:g} to {sparsity_percent(shares[-1])}"
    is_one = len(shares) == 1
    is_perplexity_open = all(
        model.verdict.perplexity.verdict == "undecided" for model in models
    )
    if has_more and is_perplexity_open:
        verb = "needs" if is_one else "need"
        return f"{names} {verb} more passages"
    verb = "is" if is_one else "are"
    return f"{names} {verb} undecided"


def _not_tested(bounds: Bounds[ModelResult]) -> list[str]:
    """That no more, or no less, was tested; empty of a fixed pattern."""
    model = bounds.within or bounds.beyond
    if model is None or model.method.pattern in FIXED_PERMILLE:
        return []
    return ["More: not tested." if bounds.within else "Less: not tested."]


def _race_words(race: Race) -> str:
    """Which method keeps most, or which are tied; empty where too few passages tell."""
    if race.kind is RaceKind.TOO_FEW:
        return ""
    best = _short_name(race.best)
    rivals = [_short_name(model) for model in race.tied]
    tied = f"{and_join([best, *rivals])} are tied"
    if len(rivals) > 1:
        tied = f"{best} ties {len(rivals)} others"
    ahead = race.ahead[0] if race.ahead else race.best
    return _RACE_ENDS[race.kind].format(
        best=best,
        tied=tied,
        ahead=_short_name(ahead),
    )


def _short_name(model: ModelResult) -> str:
    """The name of a method in quotation marks, of a long one its saliency: "best" is a word, too."""
    name = spec_title(model.spec.before_healing)
    is_long = n_words(name) + model.spec.is_healed > _MAX_IN_NAME
    if is_long:
        return f"the {model.method.saliency} method"
    return f"healed “{name}”" if model.spec.is_healed else f"“{name}”"


def _search_sentences(
    results: RunResults, facts: Findings, search: FindResult
) -> list[str]:
    """Result of a finished search, with its estimate if that lies between the two ends."""
    if facts.kind is AnswerKind.SEARCH_TOO_FEW:
        return [f"{quantity(search.n_passages, 'passage')} cannot confirm any share."]
    if facts.kind is AnswerKind.SEARCH_LARGEST and search.answer is not None:
        return [
            f"Even {sparsity_percent(search.answer)} can go, the largest share a search tries."
        ]
    if facts.kind is AnswerKind.SEARCH_MISSING and search.answer is not None:
        return [f"{sparsity_percent(search.answer)} can go; its record is missing."]
    beyond = limit_bounds(results.best).beyond
    too_much = f"{sparsity_percent(beyond.permille)} is too much" if beyond else ""
    probably = ""
    if facts.estimate is not None:
        low = (search.answer or 0) / 10
        high = beyond.permille / 10 if beyond else 100.0
        if low < facts.estimate.percent < high:
            probably = f"probably {facts.estimate.percent:.2g}{NBSP}%"
    if search.answer is None:
        bound = "No share is shown within the limit"
        if probably:
            bound = f"{bound}, {probably} can go"
        return [f"{'; '.join(filter(None, [bound, too_much]))}."]
    answer = sparsity_percent(search.answer)
    if beyond is not None and beyond in search_ends(search, results.best):
        return [f"{answer} can go; {too_much}."]
    bound = ", ".join(filter(None, [f"At least {answer} can go", probably]))
    return [f"{'; '.join(filter(None, [bound, too_much]))}."]
