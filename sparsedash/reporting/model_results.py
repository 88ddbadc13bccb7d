"""Models beside their dense model: what each lost, the verdict on it, and which of several an
answer names.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import isinf
from statistics import fmean
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeAlias, TypeVar

from sparsedash.reporting import wording
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.records import Pruned, Record
from sparsedash.schema.sparse_spec import SparseSpec
from sparsedash.schema.tolerance_settings import Tolerance
from sparsedash.service.stored_results import StoredResults
from sparsedash.stats.significance import (
    PairedComparison,
    compare_records,
    holm,
    shared_outcomes,
)
from sparsedash.stats.sparsity_search import search_bounds
from sparsedash.stats.tolerance import (
    Loss,
    Losses,
    ToleranceVerdict,
    judge_all,
    own_perplexity,
    record_losses,
)

if TYPE_CHECKING:
    from sparsedash.service.backend import Backend

Results: TypeAlias = "Backend | StoredResults"
_NOT_PRUNED = "the dense model was not pruned"


@dataclass(frozen=True, kw_only=True)
class ModelResult:
    """A model of a run: its record, its comparison with dense, and its verdict.

    p_value: of equal accuracy, adjusted after Holm over the run's comparisons. losses: those behind
    the verdict.
    """

    record: Record
    comparison: PairedComparison
    p_value: float
    verdict: ToleranceVerdict
    losses: Losses

    @property
    def pruned(self) -> Pruned:
        """Origin of the sparse model. Raises AssertionError for the dense model."""
        assert self.record.pruned is not None, _NOT_PRUNED
        return self.record.pruned

    @property
    def own_perplexity(self) -> Loss:
        """Its loss of word perplexity with the 95 % interval of this model by itself."""
        return own_perplexity(self.losses, self.verdict.perplexity.most)

    @property
    def own_loss_words(self) -> tuple[str, str]:
        """ "1.05 ×" and "1.01 to 1.09": its perplexity and the interval, empty where there is none."""
        loss = self.own_perplexity
        ends = "" if isinf(loss.low) else wording.factor_range(loss.low, loss.high)
        return wording.nats_as_factor(loss.value), ends

    @property
    def is_unchanged(self) -> bool:
        """Whether rounding the widths left nothing to remove."""
        return self.method.is_structured and not self.pruned.reached[self.method.budget]

    @property
    def spec(self) -> SparseSpec:
        """Spec of the model: its pruning, healing and quantising."""
        return self.pruned.spec

    @property
    def method(self) -> MethodSettings:
        """The choices of pruning."""
        return self.spec.pruning

    @property
    def permille(self) -> int:
        """The sparsity asked for."""
        return self.spec.permille


@dataclass(frozen=True, kw_only=True)
class ModelVerdict:
    """A sparse model of a run without its record, and its verdict."""

    spec: SparseSpec
    verdict: ToleranceVerdict

    @property
    def method(self) -> MethodSettings:
        """The choices of pruning."""
        return self.spec.pruning

    @property
    def permille(self) -> int:
        """The sparsity asked for."""
        return self.spec.permille


M = TypeVar("M", ModelResult, ModelVerdict)


@dataclass(frozen=True, kw_only=True)
class Shares(Generic[M]):
    """The models that an answer names.

    within: the largest share within the limits. beyond: the smallest one beyond. undecided: those
    that can change the answer, above `within` and below the next one beyond. is_up_to: whether all
    smaller ones are within too.
    """

    within: M | None
    beyond: M | None
    undecided: tuple[M, ...]
    is_up_to: bool


def named_shares(models: Sequence[M]) -> Shares[M]:
    """The models that an answer names, of one method."""
    ordered = sorted(models, key=lambda model: model.permille)
    within = [model for model in ordered if model.verdict.verdict == "within"]
    beyond = [model for model in ordered if model.verdict.verdict == "beyond"]
    low = within[-1].permille if within else -1
    above = [model.permille for model in beyond if model.permille > low]
    high = min(above, default=1001)
    undecided = []
    for model in ordered:
        if model.verdict.verdict == "undecided" and low < model.permille < high:
            undecided.append(model)
    return Shares(
        within=within[-1] if within else None,
        beyond=beyond[0] if beyond else None,
        undecided=tuple(undecided),
        is_up_to=all(model in within for model in ordered if model.permille <= low),
    )


@dataclass(frozen=True, kw_only=True)
class Bounds(Generic[M]):
    """Position of the limit between the models of one method.

    within: the largest share within that lies below every share beyond. beyond: the smallest share
    beyond. between: the undecided ones between these two. contradicting: those within above
    `beyond`.
    """

    within: M | None
    beyond: M | None
    between: tuple[M, ...]
    contradicting: tuple[M, ...]


def limit_bounds(models: Sequence[M]) -> Bounds[M]:
    """Position of the limit between the models of one method, as a search would say."""
    ordered = sorted(models, key=lambda model: model.permille)
    decided = []
    for place, model in enumerate(ordered):
        if model.verdict.verdict != "undecided":
            decided.append((place, model.verdict.verdict == "within"))
    low, high = search_bounds(len(ordered), decided)
    return Bounds(
        within=ordered[low] if low >= 0 else None,
        beyond=ordered[high] if high < len(ordered) else None,
        between=tuple(ordered[low + 1 : high]),
        contradicting=tuple(
            model for model in ordered[high:] if model.verdict.verdict == "within"
        ),
    )


def best_method(models: Sequence[M]) -> list[M]:
    """The models of the best method, by rising sparsity: the one with the largest sparsity within
    the limits.

    Only methods that remove channels count, where there are any: zeros alone make nothing smaller.
    """
    ranked = ranked_methods(models)
    return ranked[0] if ranked else []


def ranked_methods(models: Sequence[M]) -> list[list[M]]:
    """The models of each method, by rising sparsity; the method with the largest sparsity within
    the limits first.

    Ties go to the smaller loss of word perplexity, averaged over its models. Methods that set
    weights to zero come last. Quantised models do not count, nor any of which nothing is gone.
    """
    by_method: dict[str, list[M]] = {}
    for model in sorted(models, key=lambda model: model.permille):
        # What quantising costs says nothing of the method: its models are judged as they are
        # before.
        if model.permille and not model.spec.is_quantised:
            by_method.setdefault(wording.spec_title(model.spec), []).append(model)
    return sorted(by_method.values(), key=_method_rank, reverse=True)


def _method_rank(
    models: Sequence[ModelResult] | Sequence[ModelVerdict],
) -> tuple[bool, int, float]:
    """Whether channels go, the largest sparsity within the limits, or -1, and the negative mean
    loss of a method.
    """
    within = [model.permille for model in models if model.verdict.verdict == "within"]
    loss = fmean(model.verdict.perplexity.value for model in models)
    return models[0].method.is_structured, max(within, default=-1), -loss


def headline_model(models: Sequence[M], search: bool = False) -> M | None:
    """The model that the answer names: of the best method the largest within, the smallest beyond
    or the smallest.

    search: a search without any within ends at the smallest, however far beyond it began.
    """
    best = best_method(models)
    shares = named_shares(best)
    if shares.within or (shares.beyond and not search):
        return shares.within or shares.beyond
    return best[0] if best else None


def is_one_layer_apart(within: ModelResult | None, beyond: ModelResult | None) -> bool:
    """Whether nothing lies between two models since the second has one layer less. within: None for
    dense.
    """
    if (
        beyond is None
        or beyond.record.pruned is None
        or not beyond.method.removes_layers
    ):
        return False
    n_before = 0
    if within and within.record.pruned:
        n_before = len(within.record.pruned.removed_layers)
    return 0 <= len(beyond.record.pruned.removed_layers) - n_before <= 1


class Measured(NamedTuple):
    """A record compared with dense, before a verdict."""

    record: Record
    comparison: PairedComparison
    losses: Losses


def measure(dense: Record, record: Record) -> Measured:
    """The record compared with dense."""
    return Measured(
        record, compare_records(dense, record), record_losses(dense, record)
    )


def measure_beside(results: Results, dense_key: str, key: str) -> Measured:
    """The record with this key against a dense one, or another baseline, cached: a sweep anew would
    take seconds.

    Raises LookupError with the reason, which is not cached, since the record may yet come.
    """
    return _measured(
        results,
        (dense_key, results.written_at(dense_key)),
        (key, results.written_at(key)),
    )


_Version: TypeAlias = tuple[str, float | None]
"""A record's key, and when it was written."""


@lru_cache(maxsize=512)
def _measured(results: Results, dense_version: _Version, version: _Version) -> Measured:
    dense = _light_record(results, dense_version)
    record = _light_record(results, version)
    if record.passages_key != dense.passages_key or not shared_outcomes(dense, record):
        raise LookupError("answers other passages than the dense model")
    return measure(dense, record)


@lru_cache(maxsize=512)
def _light_record(results: Results, version: _Version) -> Record:
    """A record, of whose outcomes only verdicts and log-likelihoods stay: those of many sweeps must
    fit into memory.
    """
    key, _ = version
    record = results.record(key)
    if record is None:
        raise LookupError(results.why_missing(key))
    outcomes = []
    for outcome in record.outcomes:
        outcomes.append(replace(outcome, target="", answer="", tokens=(), top=()))
    return replace(record, outcomes=tuple(outcomes))


def judge(
    models: Sequence[Measured], tolerance: Tolerance, n_compared: int = 0
) -> list[ModelResult]:
    """The models judged together by their passages. n_compared: models that were compared, where
    that is more.
    """
    verdicts = judge_all([model.losses for model in models], tolerance, n_compared)
    return with_verdicts(models, verdicts, n_compared)


def with_verdicts(
    models: Sequence[Measured], verdicts: Sequence[ToleranceVerdict], n_compared: int
) -> list[ModelResult]:
    """The models with these verdicts, and p-values after Holm over n_compared comparisons."""
    p_values = holm([model.comparison.p_value for model in models], n_compared)
    results = []
    for model, p_value, verdict in zip(models, p_values, verdicts, strict=True):
        result = ModelResult(
            record=model.record,
            comparison=model.comparison,
            p_value=p_value,
            verdict=verdict,
            losses=model.losses,
        )
        results.append(result)
    return results
