"""Rules for what a run may ask, by which the form, the shell, Python and the engine refuse alike.

The front checks them before the start with what it knows of the model and the texts; the engine
checks them again once it has read both. Each raises the error that both show.
"""

from collections.abc import Collection, Sequence

from sparsedash.catalog.budgets import BUDGET_TITLES, most_permille
from sparsedash.catalog.export_forms import llama_cpp_problem
from sparsedash.catalog.resources import HELD_OUT_EVERY, MORE_ROOM, kept_bytes
from sparsedash.schema.errors import CalibrationError, SettingsError, StoreError
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.model_shape import ModelShape
from sparsedash.schema.settings import (
    MIN_TOKENS_PER_CHANNEL,
    CalibrationSettings,
    RunSettings,
    percents_text,
)
from sparsedash.schema.sparse_spec import SparseSpec
from sparsedash.schema.store_keys import mix_share

_REMOVED = {
    "layer": "layers",
    "expert": "experts",
    "expert-channel": "channels of experts",
}
EXPERT_WIDTH_MULTIPLE = 8
"""Widths of experts are multiples of: what torch's grouped product takes of 16-bit numbers."""


def require_possible(settings: RunSettings, shape: ModelShape) -> None:
    """Raise SettingsError where a method cannot remove so much of this model."""
    for spec in settings.points:
        _require_samples_for_mix(spec, settings.calibration)
        if spec.method is not None:
            _require_removable(spec.method, spec.permille, shape)


def _require_samples_for_mix(
    spec: SparseSpec, calibration: CalibrationSettings
) -> None:
    if calibration.n_samples == 1 and 0 < mix_share(spec, calibration) < 1:
        raise SettingsError(
            "calibration samples",
            1,
            "at least 2 with this method",
            "A part of them is the built-in mix.",
        )


def removal_error(method: MethodSettings, shape: ModelShape) -> SettingsError | None:
    """The reason this model has nothing that the method removes; None if it has."""
    structure = shape.structure
    message = ""
    advice = "Choose another method."
    if method.prunes_experts:
        problem = structure.expert_width_problem
        removed = "Channels of experts"
        if method.removes_experts:
            problem = structure.experts_problem
            removed = "Experts"
        if not structure.mixtures:
            message = "This model is no mixture of experts that can be removed."
            advice = "Choose a method that removes channels, layers or single weights."
        elif problem:
            message = f"{removed} of this model cannot be removed: {problem}."
    elif method.removes_channels and structure.mlps_problem:
        message = f"Channels of this model cannot be removed: {structure.mlps_problem}."
        advice = "Choose a method that removes whole layers."
        if structure.mixtures:
            advice = "Choose a method that removes whole experts or layers."
    elif method.removes_channels and not any(shape.widths):
        message = "This model has experts in place of MLPs, and this method removes channels of MLPs alone."
        advice = (
            "Choose expert-channels for channels of its experts, or experts or layers."
        )
    elif not method.is_structured and method.scope == "mlp" and not any(shape.widths):
        message = "This model has no MLP whose weights can be removed."
        advice = "Choose the decoder as scope, or a method that removes whole layers."
    elif method.removes_layers and structure.layers_problem:
        message = (
            "Whole layers of this model cannot be removed: without one of them stock code makes another model "
            f"({structure.layers_problem})."
        )
        advice = "Choose a method that removes channels."
    return SettingsError("method", message=message, advice=advice) if message else None


def _require_removable(
    method: MethodSettings, permille: int, shape: ModelShape
) -> None:
    if error := removal_error(method, shape):
        raise error
    if method.uses("width_multiple"):
        _require_width_multiple(method, shape)
    most = most_permille(shape, method)
    if permille <= most:
        return
    what = _REMOVED.get(method.pattern, "MLP channels")
    budget = (BUDGET_TITLES | {"channels": what})[method.budget]
    fewest = "At least as many stay as the router chooses for a token"
    if not most and method.removes_experts and method.budget == "channels":
        raise SettingsError(
            "method",
            message=f"No expert of this model can go. {fewest}, and two of each group.",
            advice="Choose a method that removes channels of experts, or layers.",
        )
    if not most and not method.removes_layers:
        raise SettingsError(
            "budget",
            message=f"Removing {what} frees nothing of the {budget}.",
            advice="Choose another budget, or a method that removes whole layers.",
        )
    reason = f"The rest of this model is not in {what} that can go."
    if method.removes_experts and method.budget == "channels":
        reason = f"{fewest}."
    raise SettingsError(
        "sparsity",
        f"{percents_text((permille,))} %",
        f"at most {most / 10:g} % of the {budget}",
        reason,
    )


def _require_width_multiple(method: MethodSettings, shape: ModelShape) -> None:
    """Raise SettingsError where kept widths cannot be multiples of the method's number."""
    multiple = method.width_multiple
    if not method.prunes_experts:
        widest = max(shape.widths)
        if multiple >= widest > 1:
            allowed = f"less than the {widest:,} channels of the MLPs"
            raise SettingsError("width multiple", multiple, allowed)
        return
    if multiple % EXPERT_WIDTH_MULTIPLE:
        allowed = f"a multiple of {EXPERT_WIDTH_MULTIPLE} for channels of experts"
        advice = "The products of several experts are computed at once, in such steps."
        raise SettingsError("width multiple", multiple, allowed, advice)
    narrowest = min(layout.width for layout in shape.structure.mixtures.values())
    if multiple >= narrowest:
        allowed = f"less than the {narrowest:,} channels of an expert"
        raise SettingsError("width multiple", multiple, allowed)


def require_quantisable(
    settings: RunSettings, family: str | None, *, streamed: bool
) -> None:
    """Raise where the run's models cannot be quantised. family: None if not known."""
    if not settings.quantises:
        return
    if problem := llama_cpp_problem(settings.model, family, settings.methods):
        raise SettingsError(
            "quantise",
            message=f"These models cannot be quantised: {problem}.",
            advice="Leave it out.",
        )
    _require_resident("Quantising", streamed)


def require_healable(n_sequences: int, *, streamed: bool) -> None:
    """Raise CalibrationError where a model cannot be healed. n_sequences: of calibration text."""
    _require_resident("Healing", streamed)
    if n_sequences < HELD_OUT_EVERY:
        raise CalibrationError(
            f"Healing needs at least {HELD_OUT_EVERY} calibration samples, one of which is held "
            f"out; there are {n_sequences}.",
            "Ask for more samples, or do not heal.",
        )


def _require_resident(work: str, streamed: bool) -> None:
    if streamed:
        raise CalibrationError(
            f"{work} needs all weights in memory, and this run streams them from disk.",
            "Leave it out, choose a smaller model or bfloat16, or run where all weights fit.",
        )


def require_calibration_tokens(n_tokens: int, widths: Sequence[int]) -> None:
    """Raise CalibrationError where there are too few tokens to fit MLPs of these widths."""
    needed = MIN_TOKENS_PER_CHANNEL * max(widths)
    if n_tokens < needed:
        raise CalibrationError(
            f"{n_tokens:,} calibration tokens are too few for this model: it needs {needed:,}, "
            f"{MIN_TOKENS_PER_CHANNEL} per channel of its widest layer.",
            "Use more or longer samples, a larger text, or a method that refits nothing.",
        )


def require_artefact_room(
    settings: RunSettings,
    shape: ModelShape,
    methods: Collection[MethodSettings],
    *,
    n_sequences: int,
    room: int,
) -> None:
    """Raise StoreError where the calibration data of these methods exceeds the limit.

    methods: those with models that read text and are not stored. room: the limit, in bytes.
    """
    if not methods:
        return
    # Statistics and gradients that do not fit together would evict each other, again and again.
    reading = tuple(method for method in settings.methods if method in methods)
    calibrated = settings.of_methods(reading)
    needed = kept_bytes(shape.widths, shape.hidden, calibrated, n_sequences)
    if needed > room:
        raise StoreError(
            f"The calibration data takes {needed / 1e9:.1f} GB; the limit is {room / 1e9:.1f} GB.",
            MORE_ROOM,
        )
