"""What quantising costs beside pruning: a sentence where quantising alone does better, and figures
of each type.

Plain text: escape it before it becomes markup.
"""

from collections.abc import Iterator

from sparsedash.catalog.gguf_names import tensor_types
from sparsedash.reporting import wording
from sparsedash.reporting.run_results import ModelResult, RunResults
from sparsedash.reporting.verdicts import level_words
from sparsedash.schema.records import Quantised
from sparsedash.stats.races import LikelihoodDifference, likelihood_differences
from sparsedash.stats.significance import shared_outcomes


def quantised_figures(found: RunResults) -> list[str]:
    """The sentence on quantising alone, and of each type the sizes, divergences and types of
    tensors.
    """
    said = [_again(found) if found.run.source_type else quantised_sentence(found)]
    for kind in found.run.settings.quantise:
        of_kind = [(each, of) for each, of in _quantised(found) if each.spec.quantise == kind]
        models = "; ".join(
            f"{found.names[each.record.key].rpartition(', ')[0]} {wording.size(of.n_bytes)}, KL {of.divergence:.3f}"
            for each, of in of_kind
        )
        if of_kind:
            first = of_kind[0][1]
            text = f"mean KL divergence from dense on {first.n_tokens:,} tokens of the passages, without an interval"
            types = wording.first_upper(tensor_types(first.tensors, first.fell_back))
            said.append(f"{kind.upper()}: {models} ({text}). {types}.")
    return [each for each in said if each] if found.run.settings.quantise else []


def _again(found: RunResults) -> str:
    return (
        f"Quantised again: the dense model comes from a {found.run.source_type} file. Rounding its weights once more "
        "may cost less than rounding full ones, so no pruned file is ranked against it."
    )


def quantised_sentence(found: RunResults) -> str:
    """Where quantising dense is better than every pruned file that is not smaller, and by how much;
    else nothing.

    The smallest such file of dense, of a run that has all its results. Better: each pruned one
    loses more nats a word on the same passages, after Holm over the pairs of all types.
    """
    if not found.run.finished or found.missing:
        return ""
    pruned = [
        (each, sizes[0])
        for each in found.judged
        if each.permille and each.method.takes_channels and (sizes := found.file_bytes(each))
    ]
    alone = sorted(
        ((each, of.n_bytes) for each, of in _quantised(found) if not each.permille),
        key=lambda own: own[1],
    )
    pairs = [(dense, rival) for dense in alone for rival in pruned if rival[1] >= dense[1]]
    lost = likelihood_differences(
        [(dense.record, rival.record) for (dense, _), (rival, _) in pairs]
    )
    for dense in alone:
        against = [
            (rival, of) for (own, rival), of in zip(pairs, lost, strict=True) if own is dense
        ]
        if against and all(of.is_shown and of.value > 0 for _, of in against):
            return _better(found, dense, *min(against, key=lambda pair: pair[1].value))
    return ""


def _better(
    found: RunResults,
    dense: tuple[ModelResult, int],
    rival: tuple[ModelResult, int],
    lost: LikelihoodDifference,
) -> str:
    name, other = (found.names[each.record.key] for each, _ in (dense, rival))
    both = shared_outcomes(dense[0].record, rival[0].record)
    right = sum(own.last_word_right - other.last_word_right for own, other in both)
    more = f"{abs(right):,} {'more' if right > 0 else 'fewer'}" if right else "as many"
    other += " in 16 bits" * (not rival[0].spec.quantise)
    return (
        f"Quantising alone does better: {name} ({wording.size(dense[1])}) beats every pruned file that is not smaller. "
        f"The best of them, {other} ({wording.size(rival[1])}), loses {lost.value:.3f} nats a word more "
        f"({level_words(lost.level)} interval {lost.low:.3f} to {lost.high:.3f}); {name} has {more} "
        f"right of {lost.n_passages:,}."
    )


def _quantised(found: RunResults) -> Iterator[tuple[ModelResult, Quantised]]:
    for each in found.judged:
        if each.record.pruned and each.record.pruned.quantised:
            yield each, each.record.pruned.quantised
