"""How long the stages of a run take by arithmetic: the operations they need over the measured speed of the machine.

It serves where no run of the model has finished here. The shares of that speed were measured on two cores of one
machine with the built-in model, in FP32; other models keep them roughly, as they too are mostly matrix products.
"""

from statistics import fmean

from sparsedash.catalog.choices import EVALUATION_CORPORA
from sparsedash.catalog.dimensions import Dimensions
from sparsedash.catalog.memory import SENSITIVITY_TOKENS
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.progress import Stage
from sparsedash.schema.settings import SELF, RunSettings

TOKENS_A_PASSAGE = 115
"""Of the built-in passages, and nearly as many of LAMBADA's."""

_READING, _ANSWERING, _WRITING = 0.8, 0.68, 0.17
"""Shares of the measured speed: of the passes over text, of answering with its small batches, and of writing token by
token.
"""

_SOLVING, _ORDERING, _LOSING, _INVERTING = 2.0, 12.0, 3.5, 2.6
"""In cubes of a width at the measured speed: one block's least squares and what it loses by them, the order in which
channels leave by optimal brain surgeon, what a block loses with every number of them and a trial change of it, and the
factor of an inverse. As measured at widths of 1,536 to 11,008.
"""

_UNPACKING_S = 3e-8
"""Seconds in which one value of a second moment is read from the store, checked and unfolded, three times a model."""

_MENDING, _MEASURING = 13.0, 6.0
"""The same in a projection's weights times its inputs: making up for single weights, and telling what they lost."""

_THERE_AND_BACK = 3.0
"""A backward pass, in passes over the text."""

_INPUTS = 3
"""Inputs of a block's projections that are as wide as the residual stream."""

START_S = 6.0
"""Seconds that importing the engine takes: 5 to 10 as measured; a worker that waits already has done it."""

_LOADING_S = 2.6
"""Unpacking and reading the built-in model; others are read in less time a byte than this."""

_LOADING_BYTES_A_SECOND = 5e8


def seconds_by_arithmetic(
    settings: RunSettings, speed: float | None, counted: Dimensions | None
) -> dict[Stage, float | None]:
    """Seconds of each stage, for one model; None for what cannot be counted.

    speed: float32 operations a second. counted: the model's sizes, where they are known.
    """
    if counted is None or not speed:
        return dict.fromkeys(("load", "text", "calibrate", "prune", "evaluate"))
    a_token = _operations_a_token(counted)
    n_tokens, n = settings.calibration.n_samples * settings.calibration.length, n_passages(settings)
    own = settings.calibration.corpus == SELF
    gathered = 2.0 * _powers(counted, 2)
    return {
        "load": _LOADING_S + 4.0 * counted.n_parameters / _LOADING_BYTES_A_SECOND,
        "text": n_tokens * 2.0 * counted.n_matmul / (_WRITING * speed) if own else 0.0,
        "calibrate": n_tokens * (a_token + gathered) / (_READING * speed),
        "prune": fmean(_method_s(method, n_tokens, counted, speed) for method in settings.methods),
        "evaluate": n and n * TOKENS_A_PASSAGE * a_token / (_ANSWERING * speed),
    }


def _method_s(method: MethodSettings, n_tokens: int, counted: Dimensions, speed: float) -> float:
    """Seconds of one sparse model, as if nothing were found for another one that serves it as well."""
    if not method.takes_channels:
        return _masking_s(method, n_tokens, counted, speed)
    a_token, with_head = _operations_a_token(counted), 2.0 * counted.n_matmul
    cubes, read = _SOLVING, 0.0
    if method.saliency == "obs":
        cubes += _ORDERING
    if method.allocation == "sensitivity":
        cubes += _LOSING
        read += SENSITIVITY_TOKENS * _THERE_AND_BACK * with_head
    if method.saliency == "fisher":
        read += n_tokens * _THERE_AND_BACK * with_head
    if method.compensation == "sequential":
        cubes += _SOLVING
        read += n_tokens * (3.0 * a_token + 2.0 * _powers(counted, 2))
    return (cubes * _powers(counted, 3) + read / _READING) / speed + _UNPACKING_S * _powers(counted, 2)


def _masking_s(method: MethodSettings, n_tokens: int, counted: Dimensions, speed: float) -> float:
    """Single weights: one more pass over the text for the inputs, and every projection by itself."""
    hidden, n_blocks = counted.hidden, len(counted.widths)
    out = hidden * sum(counted.widths)
    others = counted.n_matmul - counted.vocabulary * hidden - out
    products = float(others * hidden + hidden * _powers(counted, 2))
    a_token = _operations_a_token(counted) + 2.0 * _INPUTS * n_blocks * hidden**2
    read = n_tokens * a_token if method.reads_text else 0.0
    work = _MEASURING * products
    if method.saliency == "obs" or method.compensation != "none":
        work += _MENDING * products + _INVERTING * (_powers(counted, 3) + _INPUTS * n_blocks * hidden**3)
    return (work + read / _READING) / speed


def _operations_a_token(counted: Dimensions) -> float:
    """Of all blocks, without the output head."""
    return 2.0 * (counted.n_matmul - counted.vocabulary * counted.hidden)


def _powers(counted: Dimensions, power: int) -> int:
    return sum(width**power for width in counted.widths)


def n_passages(settings: RunSettings) -> int | None:
    """How many passages are answered, as far as is known before the text is read."""
    asked, corpus = settings.evaluation.n_passages, settings.evaluation.corpus
    known = next((choice.n_texts for choice in EVALUATION_CORPORA if choice.name == corpus), 0)
    return min(asked, known) if asked and known else asked or known or None
