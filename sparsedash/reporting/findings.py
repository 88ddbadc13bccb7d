"""Findings on a run, as data: the kind of answer, the models that it names, the race, and
where the limit is met.

`run_answer` turns it into sentences.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from math import isfinite
from typing import NamedTuple

from sparsedash.reporting.model_results import (
    M,
    ModelResult,
    is_one_layer_apart,
)
from sparsedash.reporting.run_results import RunResults
from sparsedash.reporting.wording import NBSP
from sparsedash.schema.find_settings import FindResult
from sparsedash.stats.sparsity_search import first_crossing
from sparsedash.stats.tolerance import MIN_PASSAGES

_FAR = 10
"""Times the limit."""


class AnswerKind(Enum):
    """Kinds of answers to how much can be removed."""

    WAITING = auto()
    """No sparse model is evaluated yet."""
    NO_MODEL = auto()
    """None was evaluated, and none comes."""
    MISSING = auto()
    """The records of the sparse models are missing."""
    NOTHING_REMOVED = auto()
    """All models are unpruned, quantised or not."""
    VERDICTS = auto()
    """The verdicts on the shares that were tested."""
    SEARCH_TOO_FEW = auto()
    """A search on too few passages to confirm any share."""
    SEARCH_NONE = auto()
    """A search that found no share within the limits."""
    SEARCH_MISSING = auto()
    """A search whose answer has no record."""
    SEARCH_LARGEST = auto()
    """A search whose answer is the largest share that it can try."""


class RaceKind(Enum):
    """Outcome of a race of methods."""

    TOO_FEW = auto()
    """Too few passages to rank methods."""
    BEATEN = auto()
    """Another method is ahead of the one with the largest share within."""
    TIED = auto()
    """No difference is shown."""
    PARTLY_TIED = auto()
    """The best one beats some of the others."""
    INCOMPLETE = auto()
    """The best one beats all others that have a model there."""
    WON = auto()
    """The best one beats all others."""


@dataclass(frozen=True, kw_only=True)
class Race:
    """The other methods against the best one, at the share that the answer names.

    p_value: the largest of the shown differences, after Holm over n_compared pairs. n_passages: the
    fewest of a pair.
    """

    kind: RaceKind
    best: ModelResult
    ahead: tuple[ModelResult, ...]
    tied: tuple[ModelResult, ...]
    beaten: tuple[ModelResult, ...]
    p_value: float
    n_compared: int
    n_passages: int


class LimitEstimate(NamedTuple):
    """The share to ask for, in percent of a run's budget, at which word perplexity meets its limit.

    low, high: by the upper and the lower ends of the intervals; high: None where these meet none.
    """

    percent: float
    low: float
    high: float | None

    @property
    def interval(self) -> str:
        """ "1.6 to 18 %", "1.5 % or more"."""
        if self.high is None:
            return f"{self.low:.2g}{NBSP}% or more"
        return f"{self.low:.2g} to {self.high:.2g}{NBSP}%"


@dataclass(frozen=True, kw_only=True)
class Findings:
    """Findings on a run or a search. is_so_far: more models may come."""

    kind: AnswerKind
    is_so_far: bool
    race: Race | None
    estimate: LimitEstimate | None


def findings(results: RunResults, ended: bool = False) -> Findings:
    """Findings on a run. ended: no more sparse models come, though it is not finished."""
    finished = ended or results.run.finished
    models = results.best
    search = results.judged_search
    kind = AnswerKind.VERDICTS
    if not models:
        kind = _without_models(results, finished)
    elif search is not None and search.finished:
        models = search_ends(search, models)
        kind = search_kind(search, models)
    return Findings(
        kind=kind,
        is_so_far=bool(models) and not finished,
        race=find_race(results),
        estimate=estimate_limit(results),
    )


def _without_models(results: RunResults, finished: bool) -> AnswerKind:
    if results.sparse_models and not any(results.run.settings.point_permilles):
        return AnswerKind.NOTHING_REMOVED
    if results.missing and results.run.finished:
        return AnswerKind.MISSING
    return AnswerKind.NO_MODEL if finished else AnswerKind.WAITING


def search_ends(search: FindResult, models: Sequence[M]) -> list[M]:
    """The models of a search's answer and of the step after it, as far as they have records."""
    return [
        model for model in models if model.permille in (search.answer, search.next_step)
    ]


def search_kind(search: FindResult, ends: Sequence[M]) -> AnswerKind:
    """The kind of answer of a finished search. ends: see `search_ends`."""
    has_record = search.answer in [model.permille for model in ends]
    if not has_record and search.n_passages < MIN_PASSAGES:
        return AnswerKind.SEARCH_TOO_FEW
    if search.answer is None:
        return AnswerKind.SEARCH_NONE
    if not has_record:
        return AnswerKind.SEARCH_MISSING
    return (
        AnswerKind.SEARCH_LARGEST if search.next_step is None else AnswerKind.VERDICTS
    )


def find_race(results: RunResults) -> Race | None:
    """Outcome of the race of a run's methods; None if no two were tested at the same share."""
    if not results.race:
        return None
    ahead = []
    tied = []
    beaten = []
    for rival, difference in results.race:
        if not difference.is_shown:
            tied.append(rival)
        elif difference.value > 0:
            beaten.append(rival)
        else:
            ahead.append(rival)
    differences = [difference for _, difference in results.race]
    n_passages = min(difference.n_passages for difference in differences)
    if n_passages < MIN_PASSAGES:
        kind = RaceKind.TOO_FEW
    elif ahead:
        kind = RaceKind.BEATEN
    elif tied:
        kind = RaceKind.PARTLY_TIED if beaten else RaceKind.TIED
    else:
        # Some may not be there yet, or no longer.
        is_whole = len(results.race) == len(results.racing_specs) - 1
        kind = RaceKind.WON if is_whole else RaceKind.INCOMPLETE
    shown = [difference.p_value for difference in differences if difference.is_shown]
    return Race(
        kind=kind,
        best=results.best[0],
        ahead=tuple(ahead),
        tied=tuple(tied),
        beaten=tuple(beaten),
        p_value=max(shown, default=1.0),
        n_compared=differences[0].n_compared,
        n_passages=n_passages,
    )


def estimate_limit(
    results: RunResults, of_method: Sequence[ModelResult] | None = None
) -> LimitEstimate | None:
    """Estimate of a method's limit, on straight lines from dense through its models.

    None where it does not; where the first model over the limit loses _FAR times as much, since
    losses do not grow evenly so far; where it has one layer less than the one before; and where the
    passages are too few for any verdict. of_method: its models by rising sparsity; those of the
    best method if not given.
    """
    models = []
    for model in results.best if of_method is None else of_method:
        if not model.verdict.too_few and isfinite(model.verdict.perplexity.low):
            models.append(model)
    losses = [model.verdict.perplexity for model in models]
    over = next((loss for loss in losses if loss.value > loss.most), None)
    if over is None or over.value >= _FAR * over.most:
        return None
    place = losses.index(over)
    if is_one_layer_apart(models[place - 1] if place else None, models[place]):
        return None
    shares = [model.permille / 10 for model in models]
    percent = _crossing(shares, [loss.value for loss in losses], over.most)
    assert percent is not None, "one model is over the limit, and dense is not"
    low = _crossing(shares, [loss.high for loss in losses], over.most)
    high = _crossing(shares, [loss.low for loss in losses], over.most)
    return LimitEstimate(percent, percent if low is None else low, high)


def _crossing(
    shares: Sequence[float], losses: Sequence[float], limit: float
) -> float | None:
    """The share at which the losses, on straight lines from dense, first reach the limit."""
    return first_crossing(zip([0.0, *shares], [0.0, *losses], strict=True), limit)
