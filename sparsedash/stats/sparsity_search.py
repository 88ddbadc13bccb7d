"""Bisection for the largest sparsity within a tolerance, and the Pareto front of models.

A trial that is within moves the search up, any other one moves it down: undecided counts as too
much. If the true loss rises with the sparsity, a step whose loss is over the tolerance is tried
only while every step below the tolerance was called within and every one above it was not: those
steps are one path, fixed before any answer is seen. So the chance that any of them is ever called
within is at most the sum over `most_trials` trials, whatever the answers. Where tasks are answered
beside the passages, a trial is within only if it is so on all of them.
"""

from collections.abc import Collection, Iterable, Sequence
from itertools import pairwise

from sparsedash.schema.errors import SettingsError
from sparsedash.schema.settings import MAX_SPARSITY_PERMILLE
from sparsedash.schema.tolerance_settings import ALPHA
from sparsedash.stats.tolerance import MIN_PASSAGES

WEIGHT_STEPS = tuple(range(10, MAX_SPARSITY_PERMILLE + 1, 10))
"""Sparsities (per mille) that are tried in the pruning of single weights, which have no width to be
a multiple of.
"""


def require_passages(n_passages: int) -> None:
    """Raise SettingsError where there are too few different passages for a search."""
    if n_passages < MIN_PASSAGES:
        raise SettingsError(
            "passages",
            message=f"A search needs at least {MIN_PASSAGES} different passages, not {n_passages}.",
            advice="Fewer can never confirm a model.",
        )


def channel_steps(
    widths: Collection[int], multiple: int, mlp_share: float = 1.0
) -> tuple[int, ...]:
    """Sparsities (per mille, ascending) that uniform widths reach, one multiple apart; those of the
    widest MLP.

    widths: of all MLPs. mlp_share: the share of the budget that all their channels take. Empty
    where no channel can be removed. Neighbours are at least one per mille apart.
    """
    width = max(widths)
    most_kept = (width - 1) // multiple * multiple
    reached = {
        round(1000 * mlp_share * (1 - kept / width))
        for kept in range(most_kept, 0, -multiple)
    }
    return tuple(
        sorted(
            permille for permille in reached if 1 <= permille <= MAX_SPARSITY_PERMILLE
        )
    )


def most_trials(n_steps: int) -> int:
    """Largest number of trials of a search over so many steps."""
    return n_steps.bit_length()


TRIAL_ALPHA = ALPHA / most_trials(MAX_SPARSITY_PERMILLE)
"""The chance of error of one trial's verdict on its tasks: there are no more steps than per
mille.
"""


def next_trial(n_steps: int, within: Sequence[tuple[int, bool]]) -> int | None:
    """Index of the step to try next; None when neighbours are found of which only the lower is
    within.

    within: the indices tried so far, and whether the loss was within.
    """
    low, high = search_bounds(n_steps, within)
    return None if high - low == 1 else (low + high) // 2


def search_bounds(n_steps: int, within: Sequence[tuple[int, bool]]) -> tuple[int, int]:
    """Largest index that is within, and smallest that is not; -1 and n_steps where there is none.

    Where the loss does not rise everywhere, the lower one is still the largest below every index
    that is not within.
    """
    high = min((place for place, inside in within if not inside), default=n_steps)
    low = max(
        (place for place, inside in within if inside and place < high), default=-1
    )
    return low, high


def first_crossing(points: Iterable[tuple[float, float]], limit: float) -> float | None:
    """First crossing of a limit by straight lines between the points, or None."""
    for (x, y), (further, more) in pairwise(points):
        if y <= limit < more:
            return x + (limit - y) / (more - y) * (further - x)
    return None


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the Pareto front, by the first coordinate rising; larger is better in both.

    Equal points all stay.
    """
    kept: list[int] = []
    best = None
    for i in sorted(range(len(points)), key=lambda i: points[i], reverse=True):
        if best is None or points[i][1] > best[1] or points[i] == best:
            kept.append(i)
            best = points[i]
    return kept[::-1]
