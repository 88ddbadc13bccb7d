"""Published rows: their intervals and removed weights, runs that repeat them, and results here."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import NamedTuple

from sparsedash.catalog.cost_model import LeastMemory, least_memory
from sparsedash.catalog.model_sizes import shipped_shape
from sparsedash.catalog.presets import method_named
from sparsedash.catalog.published_results import (
    CALIBRATION_LENGTH,
    LAMBADA_TRAINING_TEXTS,
    PUBLISHED_ROWS,
    PublishedMeasure,
    PublishedRow,
    published_model,
)
from sparsedash.catalog.resources import kept_bytes
from sparsedash.schema.model_shape import ModelShape
from sparsedash.schema.records import Record, Run, Score
from sparsedash.schema.settings import (
    CalibrationSettings,
    EvaluationSettings,
    RunSettings,
)
from sparsedash.stats.significance import (
    compare_verdicts,
    unpaired_interval,
    wilson_interval,
)

RATIO_TOLERANCE = 0.0005

_CALIBRATION = {
    "lambada": "lambada-train",
    "the_pile": "the_pile",
    "pile_10k": "pile-10k",
}
_EVALUATION: dict[PublishedMeasure, EvaluationSettings] = {
    "last-token": EvaluationSettings(corpus="lambada-validation", rule="published"),
    "last-word": EvaluationSettings(corpus="lambada_openai"),
}
METHOD = "retrain-free (published)"
"""The preset that repeats the published rows, each in its own number of rounds."""


class PublishedInterval(NamedTuple):
    """95 % intervals of a published row, from its totals alone.

    sparse: of the sparse accuracy. difference: sparse minus dense; its interval is unpaired, since
    which passages flipped was not published, and so too wide.
    """

    sparse: tuple[float, float]
    difference: float
    interval: tuple[float, float]

    @property
    def shown(self) -> bool:
        """Whether the row shows any difference between sparse and dense."""
        return not self.interval[0] <= 0 <= self.interval[1]


class Ratio(NamedTuple):
    """A row's share of removed weights: published, and computed from the model's config.

    of_matmul: over all Linear and Conv weights, the output head included. of_parameters: over all
    parameters.
    """

    published: float
    of_matmul: float
    of_parameters: float

    @property
    def reproduced(self) -> bool:
        """Whether the published ratio is the one over Linear and Conv weights."""
        return abs(self.of_matmul - self.published) <= RATIO_TOLERANCE

    @property
    def explained(self) -> bool:
        """Whether the published ratio is the one over all parameters."""
        return abs(self.of_parameters - self.published) <= RATIO_TOLERANCE


class RunCost(NamedTuple):
    """The least cost of repeating a row.

    download_bytes: from the hub. kept_bytes: of its statistics.
    """

    memory: LeastMemory
    download_bytes: int
    kept_bytes: int


class MeasuredRow(NamedTuple):
    """A row's result here: scores by the row's own measure, and their paired difference."""

    run: Run
    dense: Score
    sparse: Score
    difference: float
    interval: tuple[float, float]


def published_interval(row: PublishedRow) -> PublishedInterval:
    """The intervals of a published row, computed from its totals."""
    dense, sparse = ((right, row.n_passages) for right in row.n_right)
    return PublishedInterval(
        wilson_interval(*sparse),
        row.sparse - row.dense,
        unpaired_interval(dense, sparse),
    )


def removed_ratio(row: PublishedRow) -> Ratio | None:
    """The share of removed weights; None where the row's table has no such column."""
    if row.matmul_ratio is None or row.mlp_sparsity is None:
        return None
    shape = _shape(row)
    gone = row.mlp_sparsity * shape.n_mlp
    return Ratio(row.matmul_ratio, gone / shape.n_matmul, gone / shape.n_parameters)


def published_run_settings(row: PublishedRow) -> RunSettings:
    """The request that repeats a row."""
    model = published_model(row.model)
    n_texts = (
        LAMBADA_TRAINING_TEXTS if row.calibration == "lambada" else model.n_samples
    )
    return RunSettings(
        model=model.reference,
        dtype=row.dtype,
        methods=(replace(method_named(METHOD), rounds=model.n_rounds),),
        sparsities_permille=(row.sparsity_permille,),
        calibration=CalibrationSettings(
            corpus=_CALIBRATION[row.calibration],
            n_samples=min(model.n_samples, n_texts),
            length=CALIBRATION_LENGTH,
            packed=True,
        ),
        evaluation=_EVALUATION[row.measure],
    )


def published_run_cost(row: PublishedRow) -> RunCost:
    """The cost of repeating a row."""
    shape = _shape(row)
    settings = published_run_settings(row)
    kept = kept_bytes(
        shape.widths, shape.hidden, settings, settings.calibration.n_samples
    )
    return RunCost(
        least_memory(shape, settings), shape.n_parameters * shape.stored_bytes, kept
    )


def first_row(there_bytes: int | None) -> PublishedRow:
    """The first published row that fits into so much memory; the smallest where none does.

    there_bytes: None where memory does not tell.
    """
    for row in PUBLISHED_ROWS:
        if there_bytes is None or _least_bytes(row) <= there_bytes:
            return row
    return min(PUBLISHED_ROWS, key=_least_bytes)


def _least_bytes(row: PublishedRow) -> float:
    """The least memory in which a row can be repeated."""
    return published_run_cost(row).memory.n_bytes


def measured_row(
    row: PublishedRow, runs: Iterable[Run], record: Callable[[str], Record | None]
) -> MeasuredRow | None:
    """The newest result here for a row's model, texts, format and sparsity; None without one.

    It may be by any method but a healed one, and with any calibration size and token weights.
    runs: newest first. record: gives the record of a key.
    """
    repeated = published_run_settings(row)
    models = row.model, repeated.model
    score = row.measure.replace("-", "_")
    for run in runs:
        if run.settings.model not in models or not _is_alike(run.settings, repeated):
            continue
        dense = record(run.dense)
        if dense is None:
            continue
        for key in run.sparse:
            sparse = record(key)
            if sparse is None or not _is_of_row(sparse, row):
                continue
            if len(dense.outcomes) != len(sparse.outcomes):
                continue
            before = [getattr(outcome, f"{score}_right") for outcome in dense.outcomes]
            after = [getattr(outcome, f"{score}_right") for outcome in sparse.outcomes]
            pairs = compare_verdicts(before, after)
            return MeasuredRow(
                run=run,
                dense=getattr(dense, score),
                sparse=getattr(sparse, score),
                difference=pairs.difference,
                interval=pairs.interval,
            )
    return None


def _is_alike(settings: RunSettings, repeated: RunSettings) -> bool:
    return (
        settings.dtype == repeated.dtype
        and settings.calibration.corpus == repeated.calibration.corpus
        and settings.evaluation == repeated.evaluation
    )


def _is_of_row(record: Record, row: PublishedRow) -> bool:
    """Whether the record is of a model with as many channels removed, and nothing else done."""
    pruned = record.pruned
    return (
        pruned is not None
        and pruned.method.is_structured
        and pruned.spec == pruned.spec.before_healing
        and pruned.method.budget == "channels"
        and pruned.sparsity_permille == row.sparsity_permille
    )


def _shape(row: PublishedRow) -> ModelShape:
    return shipped_shape(published_model(row.model).config)
