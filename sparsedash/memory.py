"""What a run takes in memory at least, by arithmetic from the model's dimensions: nothing is loaded or downloaded."""

from collections.abc import Callable
from dataclasses import dataclass

from sparsedash.catalog import BUILTIN_MODEL
from sparsedash.dimensions import Dimensions, shipped
from sparsedash.published import MODELS
from sparsedash.settings import MethodSettings, RunSettings

BUILTIN_CONFIG = "smollm2-135m"
BACKWARD_TOKENS = 1024
"""Of one batch of the backward pass; the engine's own number, held equal by a test."""

_BYTES = {"float32": 4, "bfloat16": 2}
_CONFIGS = {BUILTIN_MODEL: BUILTIN_CONFIG} | {model.reference: model.config for model in MODELS}


@dataclass(frozen=True, kw_only=True)
class LeastMemory:
    """n_bytes: the weights as they are run, and what is largest beside them. backward_bytes: of that, the backward pass."""

    n_bytes: int
    backward_bytes: int


def dimensions_of(reference: str) -> Dimensions | None:
    """The dimensions of a model whose config ships with the program, or None."""
    config = _CONFIGS.get(reference)
    return shipped(config) if config else None


def least_memory(counted: Dimensions, settings: RunSettings) -> LeastMemory:
    """What a run of this model cannot do without."""
    backward = 0
    if needs_backward(settings):
        beside = max(gradient_bytes(counted, settings), _change_bytes(counted, settings))
        backward = beside + _activation_bytes(counted, _BYTES[settings.dtype])
    # While a block is calibrated, its moments are there twice: the sum, and what is made of it.
    moments = 2 * 4 * max(width * width for width in counted.widths)
    return LeastMemory(
        n_bytes=counted.n_parameters * _BYTES[settings.dtype] + max(moments, backward),
        backward_bytes=backward,
    )


def needs_backward(settings: RunSettings) -> bool:
    """Whether one of the run's methods looks at derivatives."""
    return _any(settings, lambda m: m.saliency == "fisher" or m.allocation == "sensitivity")


def gradient_bytes(counted: Dimensions, settings: RunSettings) -> int:
    """What the Fisher information is made of, in memory and then in the store: a derivative of each channel for each sample."""
    if not _any(settings, lambda method: method.saliency == "fisher"):
        return 0
    return 4 * settings.calibration.n_samples * sum(counted.widths)


def _change_bytes(counted: Dimensions, settings: RunSettings) -> int:
    """What sensitivities are measured with, in FP32: a change of each block's out-projection."""
    if not _any(settings, lambda method: method.allocation == "sensitivity"):
        return 0
    return 4 * counted.hidden * sum(counted.widths)


def _any(settings: RunSettings, wanted: Callable[[MethodSettings], bool]) -> bool:
    return any(map(wanted, settings.methods))


def _activation_bytes(counted: Dimensions, n_bytes: int) -> int:
    """What is kept of one batch on its way forward, so that there is a way back, at least.

    For each token about four vectors of each block's two widths, and four of the vocabulary. On the built-in model that makes
    0.9 GB for 512 tokens and 1.8 GB for 1,024; measured in FP32: 1.1 GB and 2.1 to 2.5 GB more than the loaded model.
    """
    of_blocks = 4 * n_bytes * (sum(counted.widths) + len(counted.widths) * counted.hidden)
    return BACKWARD_TOKENS * (of_blocks + 4 * 4 * counted.vocabulary)
