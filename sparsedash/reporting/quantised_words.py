"""What quantising costs beside pruning: a sentence where quantising alone does better, and figures
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


def quantised_figures(results: RunResults) -> list[str]:
    """The sentence on quantising alone, and of each type the sizes, divergences and types of
    tensors.
    """
    figures = [_again(results) if results.run.source_type else quantised_sentence(results)]
    for kind in results.run.settings.quantise:
        of_kind = [
            (model, quantised)
            for model, quantised in _quantised(results)
            if model.spec.quantise == kind
        ]
        models = []
        for model, quantised in of_kind:
            name = results.names[model.record.key].rpartition(", ")[0]
            size = wording.size(quantised.n_bytes)
            models.append(f"{name} {size}, KL {quantised.divergence:.3f}")
        if of_kind:
            first = of_kind[0][1]
            text = f"mean KL divergence from dense on {first.n_tokens:,} tokens of the passages, without an interval"
            types = wording.first_upper(tensor_types(first.tensors, first.fell_back))
            figures.append(f"{kind.upper()}: {'; '.join(models)} ({text}). {types}.")
    return [model for model in figures if model] if results.run.settings.quantise else []


def _again(results: RunResults) -> str:
    return (
        f"Quantised again: the dense model comes from a {results.run.source_type} file. Rounding its weights once more "
        "may cost less than rounding full ones, so no pruned file is ranked against it."
    )


def quantised_sentence(results: RunResults) -> str:
    """Where quantising dense is better than every pruned file that is not smaller, and by how much;
    else nothing.

    The smallest such file of dense, of a run that has all its results. Better: each pruned one
    loses more nats a word on the same passages, after Holm over the pairs of all types.
    """
    if not results.run.finished or results.missing:
        return ""
    pruned = [
        (model, sizes[0])
        for model in results.judged
        if model.permille and model.method.is_structured and (sizes := results.file_bytes(model))
    ]
    alone = sorted(
        (
            (model, quantised.n_bytes)
            for model, quantised in _quantised(results)
            if not model.permille
        ),
        key=lambda size: size[1],
    )
    pairs = [(dense, rival) for dense in alone for rival in pruned if rival[1] >= dense[1]]
    lost = likelihood_differences(
        [(dense.record, rival.record) for (dense, _), (rival, _) in pairs]
    )
    for dense in alone:
        against = [
            (rival, quantised)
            for (size, rival), quantised in zip(pairs, lost, strict=True)
            if size is dense
        ]
        if against and all(quantised.is_shown and quantised.value > 0 for _, quantised in against):
            return _better(
                results,
                dense,
                *min(against, key=lambda pair: pair[1].value),
            )
    return ""


def _better(
    results: RunResults,
    dense: tuple[ModelResult, int],
    rival: tuple[ModelResult, int],
    lost: LikelihoodDifference,
) -> str:
    name, rival_name = (results.names[model.record.key] for model, _ in (dense, rival))
    both = shared_outcomes(dense[0].record, rival[0].record)
    right = sum(first.last_word_right - second.last_word_right for first, second in both)
    more = "as many"
    if right:
        more = f"{right:,} more" if right > 0 else f"{-right:,} fewer"
    if not rival[0].spec.quantise:
        rival_name += " in 16 bits"
    return (
        f"Quantising alone does better: {name} ({wording.size(dense[1])}) beats every pruned file that is not smaller. "
        f"The best of them, {rival_name} ({wording.size(rival[1])}), loses {lost.value:.3f} nats a word more "
        f"({level_words(lost.level)} interval {lost.low:.3f} to {lost.high:.3f}); {name} has {more} "
        f"right of {lost.n_passages:,}."
    )


def _quantised(results: RunResults) -> Iterator[tuple[ModelResult, Quantised]]:
    for model in results.judged:
        if model.record.pruned and model.record.pruned.quantised:
            yield model, model.record.pruned.quantised
