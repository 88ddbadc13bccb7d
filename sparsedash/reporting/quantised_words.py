"""Cost of quantising beside pruning: a sentence where quantising alone does better, and figures
of each type.

Plain text: escape it before it becomes markup.
"""

from collections.abc import Iterator

from sparsedash.catalog.gguf_names import tensor_types
from sparsedash.reporting import wording
from sparsedash.reporting.model_results import ModelResult
from sparsedash.reporting.run_results import RunResults
from sparsedash.reporting.verdicts import level_words
from sparsedash.schema.records import Quantised
from sparsedash.stats.races import LikelihoodDifference, likelihood_differences
from sparsedash.stats.significance import shared_outcomes

_AGAIN = (
    "Quantised again: the dense model comes from a {} file. Rounding its weights once more "
    "may cost less than rounding full ones, so no pruned file is ranked against it."
)


def quantised_figures(results: RunResults) -> list[str]:
    """The sentence on quantising alone, and of each type the sizes, divergences and types of
    tensors.
    """
    if not results.run.settings.quantise:
        return []
    source_type = results.run.source_type
    figures = [
        _AGAIN.format(source_type) if source_type else quantised_sentence(results)
    ]
    for kind in results.run.settings.quantise:
        models = []
        first = None
        for model, quantised in _quantised(results):
            if model.spec.quantise == kind:
                first = first or quantised
                name = results.names[model.record.key].rpartition(", ")[0]
                size = wording.size(quantised.n_bytes)
                models.append(f"{name} {size}, KL {quantised.divergence:.3f}")
        if first:
            text = f"mean KL divergence from dense on {first.n_tokens:,} tokens of the passages, without an interval"
            types = wording.first_upper(tensor_types(first.tensors, first.fell_back))
            figures.append(f"{kind.upper()}: {'; '.join(models)} ({text}). {types}.")
    return list(filter(None, figures))


def quantised_sentence(results: RunResults) -> str:
    """Where quantising dense is better than every pruned file that is not smaller, and by how much;
    else nothing.

    The smallest such file of dense, of a run that has all its results. Better: each pruned one
    loses more nats a word on the same passages, after Holm over the pairs of all types.
    """
    if not results.run.finished or results.missing:
        return ""
    pruned = []
    for model in results.sparse_models:
        if model.permille and model.method.is_structured and results.file_bytes(model):
            pruned.append(model)
    dense = [model for model, _ in _quantised(results) if not model.permille]
    dense.sort(key=lambda model: _n_bytes(results, model))
    pairs = []
    for dense_model in dense:
        for rival in pruned:
            if _n_bytes(results, rival) >= _n_bytes(results, dense_model):
                pairs.append((dense_model, rival))
    differences = likelihood_differences(
        [(one.record, two.record) for one, two in pairs]
    )
    for dense_model in dense:
        against = []
        for (one, rival), difference in zip(pairs, differences, strict=True):
            if one is dense_model:
                against.append((rival, difference))
        if against and all(lost.is_shown and lost.value > 0 for _, lost in against):
            best, lost = min(against, key=lambda pair: pair[1].value)
            return _better(results, dense_model, best, lost)
    return ""


def _n_bytes(results: RunResults, model: ModelResult) -> int:
    sizes = results.file_bytes(model)
    assert sizes is not None, "models with a file are compared"
    return sizes[0]


def _better(
    results: RunResults,
    dense: ModelResult,
    rival: ModelResult,
    lost: LikelihoodDifference,
) -> str:
    """That a quantised dense model does better than every pruned file. rival: the best of those."""
    name = results.names[dense.record.key]
    rival_name = results.names[rival.record.key]
    if not rival.spec.quantise:
        rival_name += " in 16 bits"
    right = 0
    for first, second in shared_outcomes(dense.record, rival.record):
        right += first.last_word_right - second.last_word_right
    more = "as many"
    if right:
        more = f"{right:,} more" if right > 0 else f"{-right:,} fewer"
    return (
        f"Quantising alone does better: {name} ({wording.size(_n_bytes(results, dense))}) beats every pruned file "
        f"that is not smaller. The best of them, {rival_name} ({wording.size(_n_bytes(results, rival))}), loses "
        f"{lost.value:.3f} nats a word more ({level_words(lost.level)} interval {lost.low:.3f} to {lost.high:.3f}); "
        f"{name} has {more} right of {lost.n_passages:,}."
    )


def _quantised(results: RunResults) -> Iterator[tuple[ModelResult, Quantised]]:
    for model in results.sparse_models:
        if model.record.pruned and model.record.pruned.quantised:
            yield model, model.record.pruned.quantised
