"""The choice that a measure of lm-evaluation-harness takes, by the harness's own rule for it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from operator import sub


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredChoices:
    """Scores of one question, choice by choice.

    texts: without the delimiter before them; None where that is not known. log_likelihoods: given
    the context.
    unconditional: without it; empty where that was not asked. greedy: whether a choice is the
    model's first choice; empty where that is not known. target: the place of the right choice, or
    its text.
    """

    texts: Sequence[str] | None
    log_likelihoods: Sequence[float]
    unconditional: Sequence[float] = ()
    greedy: Sequence[bool] = ()
    target: str = ""


def chosen_place(measure: str, choices: ScoredChoices, right: bool) -> int | None:
    """The place of the choice that the measure takes, the first of several; None where there is
    none to show.

    right: whether the measure is 1. Measures that the harness does not define take the likeliest.
    """
    scores = choices.log_likelihoods
    if measure == "exact_match":
        return _greedy_place(choices, right)
    if measure == "acc_mutual_info":
        if len(choices.unconditional) != len(scores):
            return None
        scores = list(map(sub, scores, choices.unconditional))
    if measure in _LENGTHS:
        if choices.texts is None:
            return None
        scores = list(map(_by_length, scores, map(_LENGTHS[measure], choices.texts)))
    return scores.index(max(scores))


def _n_bytes(text: str) -> int:
    return len(text.encode("utf-8", "replace"))


_LENGTHS: Mapping[str, Callable[[str], int]] = {"acc_norm": len, "acc_bytes": _n_bytes}
"""The length of a choice by which a measure divides its log-likelihood."""


def _by_length(log_likelihood: float, length: int) -> float:
    if length:
        return log_likelihood / length
    # numpy, by which the harness divides, gives NaN for 0 / 0, and takes it for the largest.
    return -inf if log_likelihood < 0 else inf


def _greedy_place(choices: ScoredChoices, right: bool) -> int | None:
    """The greedy choice; of several, as one that begins with another, the one `right` agrees with."""
    places = [place for place, greedy in enumerate(choices.greedy) if greedy]
    agreeing = [place for place in places if _is_target(choices, place) == right]
    return next(iter(agreeing or places), None)


def _is_target(choices: ScoredChoices, place: int) -> bool:
    if choices.texts is not None and choices.texts[place] == choices.target:
        return True
    return str(place) in choices.target.strip("[]").replace(" ", "").split(",")
