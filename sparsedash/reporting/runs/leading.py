"""Which of a run's sparse models is spoken of: the best method, and what of it is within what is allowed."""

from collections.abc import Sequence
from typing import Protocol, TypeVar

from sparsedash.reporting import wording
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.stats.tolerance import ToleranceVerdict


class Weighed(Protocol):
    """A sparse model that was judged: the method that made it, the sparsity asked for, what it lost."""

    @property
    def method(self) -> MethodSettings:
        """What made it."""
        ...

    @property
    def permille(self) -> int:
        """The sparsity asked for."""
        ...

    @property
    def verdict(self) -> ToleranceVerdict:
        """What its losses say of what is allowed."""
        ...


W = TypeVar("W", bound=Weighed)


def best_method(models: Sequence[W]) -> list[W]:
    """The models of the best method, by rising sparsity: the one of which most can go within what is allowed.

    Ties go to the smaller loss of word perplexity, averaged over its models. Only methods that remove channels count,
    where there are any: what only sets weights to zero makes nothing smaller.
    """
    by_method: dict[str, list[W]] = {}
    for each in models:
        by_method.setdefault(wording.method(each.method), []).append(each)
    ordered = [sorted(rows, key=lambda row: row.permille) for rows in by_method.values()]
    channels = [rows for rows in ordered if rows[0].method.takes_channels]
    return max(channels or ordered, key=_merit, default=[])


def largest_within(rows: Sequence[W]) -> W | None:
    """The model with the largest sparsity that is within what is allowed; None where none is."""
    return next((row for row in reversed(rows) if row.verdict.verdict == "within"), None)


def smallest_beyond(rows: Sequence[W]) -> W | None:
    """The model with the smallest sparsity that is beyond what is allowed; None where none is."""
    return next((row for row in rows if row.verdict.verdict == "beyond"), None)


def spoken_of(models: Sequence[W]) -> W | None:
    """The one that an answer speaks of: of the best method the largest within, else the smallest beyond, else the
    smallest.
    """
    rows = best_method(models)
    return largest_within(rows) or smallest_beyond(rows) or next(iter(rows), None)


def _merit(rows: Sequence[Weighed]) -> tuple[int, float]:
    most = largest_within(rows)
    return most.permille if most else -1, -sum(row.verdict.perplexity.value for row in rows) / len(rows)
