"""The keys of the stages' results: each is made of just what affects its stage.

Sparsities are whole per mille (125 = 12.5 %), so that keys never drift with rounding.
"""

from dataclasses import asdict
from typing import Any

from sparsedash.canonical import stage_key
from sparsedash.settings import (
    CalibrationSettings,
    Dtype,
    EvaluationSettings,
    MethodSettings,
    evaluation_values,
)


def text_key(model: str, dtype: Dtype, calibration: CalibrationSettings) -> str:
    """Key of calibration text sampled from the model itself. model: the resolved identity."""
    return stage_key("text", model=model, dtype=dtype, calibration=asdict(calibration))


def statistics_key(model: str, dtype: Dtype, corpus: str, calibration: CalibrationSettings) -> str:
    """Key of the calibration statistics. model, corpus: resolved identities. Sparsity is not part of it."""
    values = asdict(calibration) | {"corpus": corpus}
    return stage_key("statistics", model=model, dtype=dtype, calibration=values)


def gradients_key(statistics: str) -> str:
    """Key of the mask gradients over the text whose statistics have this key."""
    return stage_key("gradients", statistics=statistics)


def sensitivity_key(statistics: str) -> str:
    """Key of the blocks' sensitivities, measured on the first of the text whose statistics have this key."""
    return stage_key("sensitivity", statistics=statistics)


def pruned_key(statistics: str, method: MethodSettings, permille: int) -> str:
    """Key of a sparse model's weights, kept where making them again would need passes over the text."""
    return stage_key(
        "pruned", statistics=statistics, method=_what_matters(method), permille=permille
    )


def outcomes_key(
    model: str,
    dtype: Dtype,
    corpus: str,
    evaluation: EvaluationSettings,
    sparse: tuple[str, MethodSettings, int] | None,
) -> str:
    """Key of a model's answers. sparse: statistics key, method, per mille; None for the dense model."""
    values = evaluation_values(evaluation) | {"corpus": corpus}
    pruned = None if sparse is None else [sparse[0], _what_matters(sparse[1]), sparse[2]]
    return stage_key("outcomes", model=model, dtype=dtype, evaluation=values, sparse=pruned)


def _what_matters(method: MethodSettings) -> dict[str, Any]:
    """The method without the parameters that its own choices leave unused."""
    values = asdict(method)
    if method.saliency != "random":
        del values["seed"]
    if method.compensation != "sequential":
        del values["strength"]
    if (
        method.compensation not in ("least-squares", "sequential")
        and method.allocation != "sensitivity"
    ):
        del values["damping"]
    return values
