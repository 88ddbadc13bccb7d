"""Published rows compared with results here: intervals, the share of removed weights, and runs that repeat them."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from sparsedash.catalog.model_shape import BUILTIN_CONFIG, ModelShape, shipped_shape
from sparsedash.catalog.presets import method_named
from sparsedash.catalog.published_results import (
    CALIBRATION_LENGTH,
    LAMBADA_TRAINING_TEXTS,
    PublishedMeasure,
    PublishedRow,
    published_model,
)
from sparsedash.catalog.resources import LeastMemory, kept_bytes, least_memory
from sparsedash.schema.records import Pruned, Record, Run, Score
from sparsedash.schema.settings import BUILTIN_MODEL, CalibrationSettings, EvaluationSettings, RunSettings
from sparsedash.stats.significance import compare_verdicts, unpaired_interval, wilson_interval

RATIO_TOLERANCE = 0.0005

_CALIBRATION = {"lambada": "lambada-train", "the_pile": "the_pile", "pile_10k": "pile-10k"}
_EVALUATION: dict[PublishedMeasure, EvaluationSettings] = {
    "last-token": EvaluationSettings(corpus="lambada-validation", rule="published"),
    "last-word": EvaluationSettings(corpus="lambada_openai"),
}
METHOD = "retrain-free (published)"
"""The preset that repeats the published rows, each in its own number of rounds."""


@dataclass(frozen=True, kw_only=True)
class PublishedInterval:
    """95 % intervals of a published row, from its totals alone.

    sparse: of the sparse accuracy. difference: sparse minus dense; its interval is unpaired, since which passages
    flipped was not published, and so too wide.
    """

    sparse: tuple[float, float]
    difference: float
    interval: tuple[float, float]

    @property
    def shown(self) -> bool:
        """Whether the row shows any difference between sparse and dense."""
        return not self.interval[0] <= 0 <= self.interval[1]


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """A row's share of removed weights, computed from the model's config at the row's MLP sparsity.

    of_matmul: over all Linear and Conv weights, the output head included. of_parameters: over all parameters.
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


@dataclass(frozen=True, kw_only=True)
class RunCost:
    """The least cost of a run that repeats a row.

    download_bytes: from the hub. kept_bytes: of the statistics in the data folder. seconds: on this machine; None
    before anything was measured. extrapolated: whether they are scaled up from the built-in model.
    """

    memory: LeastMemory
    download_bytes: int
    kept_bytes: int
    seconds: float | None
    extrapolated: bool


@dataclass(frozen=True, kw_only=True)
class MeasuredRow:
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
        sparse=wilson_interval(*sparse), difference=row.sparse - row.dense, interval=unpaired_interval(dense, sparse)
    )


def removed_ratio(row: PublishedRow) -> Ratio | None:
    """The share of removed weights, published and computed; None where the row's table has no such column."""
    if row.matmul_ratio is None or row.mlp_sparsity is None:
        return None
    shape = _shape(row)
    return Ratio(
        published=row.matmul_ratio,
        of_matmul=shape.matmul_ratio(row.mlp_sparsity),
        of_parameters=shape.parameter_ratio(row.mlp_sparsity),
    )


def published_run_settings(row: PublishedRow) -> RunSettings:
    """The request that repeats a row."""
    model = published_model(row.model)
    n_texts = LAMBADA_TRAINING_TEXTS if row.calibration == "lambada" else model.n_samples
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


def published_run_cost(row: PublishedRow, seconds: Callable[[RunSettings], float | None]) -> RunCost:
    """The cost of repeating a row. seconds: gives those of a request here, as far as its model was measured."""
    shape = _shape(row)
    settings = published_run_settings(row)
    known, small = seconds(settings), None
    if known is None:
        small = seconds(replace(settings, model=BUILTIN_MODEL))
    scale = shape.n_matmul / shipped_shape(BUILTIN_CONFIG).n_matmul
    return RunCost(
        memory=least_memory(shape, settings),
        download_bytes=shape.n_parameters * shape.stored_bytes,
        kept_bytes=kept_bytes(shape.widths, shape.hidden, settings, settings.calibration.n_samples),
        seconds=known if small is None else small * scale,
        extrapolated=small is not None,
    )


def measured_row(row: PublishedRow, runs: Iterable[Run], record: Callable[[str], Record | None]) -> MeasuredRow | None:
    """The newest result here for a row's model, texts, format and sparsity, by any method, calibration size and token
    weights.

    runs: newest first. record: gives the record of a key.
    """
    wanted, by_word = published_run_settings(row), row.measure == "last-word"
    for run in runs:
        settings = run.settings
        alike = (
            settings.model in (row.model, wanted.model)
            and settings.dtype == wanted.dtype
            and settings.calibration.corpus == wanted.calibration.corpus
            and settings.evaluation == wanted.evaluation
        )
        dense = record(run.dense) if alike else None
        for sparse in filter(None, map(record, run.sparse if dense else ())):
            if dense and _is_row_of(sparse.pruned, row) and len(dense.outcomes) == len(sparse.outcomes):
                pairs = compare_verdicts(_verdicts(dense, by_word), _verdicts(sparse, by_word))
                return MeasuredRow(
                    run=run,
                    dense=dense.last_word if by_word else dense.last_token,
                    sparse=sparse.last_word if by_word else sparse.last_token,
                    difference=pairs.difference,
                    interval=pairs.interval,
                )
    return None


def _is_row_of(made: Pruned | None, row: PublishedRow) -> bool:
    """Whether as many whole channels were removed as in the row."""
    return made is not None and made.method.takes_channels and made.sparsity_permille == row.sparsity_permille


def _verdicts(record: Record, by_word: bool) -> list[bool]:
    return [each.last_word_right if by_word else each.last_token_right for each in record.outcomes]


def _shape(row: PublishedRow) -> ModelShape:
    return shipped_shape(published_model(row.model).config)
