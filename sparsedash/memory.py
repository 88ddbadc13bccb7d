"""What a run takes in memory at least, by arithmetic from the model's dimensions: nothing is loaded or downloaded."""

from dataclasses import dataclass

from sparsedash.catalog import BUILTIN_MODEL
from sparsedash.dimensions import Dimensions, shipped
from sparsedash.published import MODELS
from sparsedash.settings import RunSettings

BUILTIN_CONFIG = "smollm2-135m"
FISHER_BATCH_TOKENS, SENSITIVITY_BATCH_TOKENS = 1024, 256
"""Of one batch of a backward pass; the engine's own numbers, held equal by a test."""

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
    backward = max(_fisher_bytes(counted, settings), _sensitivity_bytes(counted, settings))
    # While a block is calibrated, its moments are there twice: the sum, and what is made of it.
    moments = 2 * 4 * max(width * width for width in counted.widths)
    return LeastMemory(
        n_bytes=counted.n_parameters * _BYTES[settings.dtype] + max(moments, backward),
        backward_bytes=backward,
    )


def needs_backward(settings: RunSettings) -> bool:
    """Whether one of the run's methods looks at derivatives."""
    return _needs_fisher(settings) or _needs_sensitivity(settings)


def gradient_bytes(counted: Dimensions, settings: RunSettings) -> int:
    """What the Fisher information is made of, in memory and then in the store: a derivative of each channel for each sample.

    For one sparsity: where the model is pruned in rounds, the store keeps as much for every other.
    """
    if not _needs_fisher(settings):
        return 0
    return 4 * settings.calibration.n_samples * sum(counted.widths)


def _fisher_bytes(counted: Dimensions, settings: RunSettings) -> int:
    if not _needs_fisher(settings):
        return 0
    logits = 4 * 4 * counted.vocabulary * FISHER_BATCH_TOKENS
    activations = _activation_bytes(counted, settings, FISHER_BATCH_TOKENS)
    return gradient_bytes(counted, settings) + logits + activations


def _sensitivity_bytes(counted: Dimensions, settings: RunSettings) -> int:
    """With what they are measured with, in FP32: a change of each block's out-projection. Logits are wanted of few tokens."""
    if not _needs_sensitivity(settings):
        return 0
    changes = 4 * counted.hidden * sum(counted.widths)
    return changes + _activation_bytes(counted, settings, SENSITIVITY_BATCH_TOKENS)


def _needs_fisher(settings: RunSettings) -> bool:
    return any(method.saliency == "fisher" for method in settings.methods)


def _needs_sensitivity(settings: RunSettings) -> bool:
    return any(method.allocation == "sensitivity" for method in settings.methods)


def _activation_bytes(counted: Dimensions, settings: RunSettings, n_tokens: int) -> int:
    """What is kept of one batch on its way forward, so that there is a way back, at least.

    For each token about four vectors of each block's two widths; where all tokens are judged, four of the vocabulary beside
    them. On the built-in model that makes 1.8 GB for Fisher information and 0.4 GB for sensitivities; measured in FP32: 2.1
    to 2.5 GB and 0.5 GB more than the loaded model.
    """
    of_blocks = sum(counted.widths) + len(counted.widths) * counted.hidden
    return 4 * n_tokens * _BYTES[settings.dtype] * of_blocks
