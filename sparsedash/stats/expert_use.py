"""Frequencies with which a mixture's router chooses each expert, and the removed experts."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from sparsedash.schema.records import Pruned


@dataclass(frozen=True, kw_only=True)
class ExpertUse:
    """One expert of a layer. number: from 1. share: of the dense router's choices on calibration
    text. times_even: that share over the one it would have, were all chosen equally often.
    """

    number: int
    share: float
    times_even: float
    is_kept: bool


def expert_uses(pruned: Pruned) -> list[list[ExpertUse]]:
    """The experts of each layer, the most chosen first; none of a layer that is no mixture."""
    layers = []
    for block, shares in enumerate(pruned.expert_use):
        kept = set(pruned.experts[block] if pruned.experts else range(len(shares)))
        experts = []
        for index, share in enumerate(shares):
            expert = ExpertUse(
                number=index + 1,
                share=share,
                times_even=share * len(shares),
                is_kept=index in kept,
            )
            experts.append(expert)
        layers.append(sorted(experts, key=lambda expert: -expert.share))
    return layers


def removed_choices(experts: Sequence[Sequence[ExpertUse]]) -> float:
    """The share of the dense router's choices that went to removed experts, over all layers."""
    sums = []
    for layer in experts:
        if layer:
            sums.append(sum(expert.share for expert in layer if not expert.is_kept))
    return fmean(sums)
