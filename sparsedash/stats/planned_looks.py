"""When a trial is looked at, and what each look may spend of the chance of error: fixed before anything is seen.

Early looks spend little, so that only what is beyond doubt ends there, and the last one has nearly all: its interval is
a few percent wider than if nobody had looked, where one that is valid at any look would be a third wider. The shares
add up to 1, which holds however the looks depend on each other. Source: Haybittle, British Journal of Radiology 44
(1971); Peto and others, British Journal of Cancer 34 (1976), with their early bound as a share of the whole.
"""

from dataclasses import dataclass

_EARLY_SHARE = 0.05
_MOST_EARLY = 5
_FIRST = 48
"""Passages of the earliest look: fewer leave little to save, and intervals of skewed losses little to trust."""


@dataclass(frozen=True)
class Look:
    """After how many passages, and the share of the chance of error that it may spend."""

    n_passages: int
    share: float


def planned_looks(n_passages: int) -> tuple[Look, ...]:
    """The looks at a trial that answers so many passages at most: at half of them, half of that, and so on."""
    counts = [n_passages]
    while len(counts) <= _MOST_EARLY and counts[-1] // 2 >= _FIRST:
        counts.append(counts[-1] // 2)
    early = [Look(count, _EARLY_SHARE) for count in reversed(counts[1:])]
    return (*early, Look(n_passages, 1 - _EARLY_SHARE * len(early)))
