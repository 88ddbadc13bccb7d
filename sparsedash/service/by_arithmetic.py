"""How long the stages of a run take by arithmetic: the operations they need over the measured speed of the machine.

It serves where no run of the model has finished here. The shares of that speed were measured on two cores of one
machine with the built-in model, in FP32; other models keep them roughly, as they too are mostly matrix products.
"""

from sparsedash.catalog.choices import EVALUATION_CORPORA
from sparsedash.catalog.dimensions import Dimensions
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.progress import Stage
from sparsedash.schema.settings import SELF, RunSettings

TOKENS_A_PASSAGE = 115
"""Of the built-in passages, and nearly as many of LAMBADA's."""

_READING, _ANSWERING, _WRITING, _SOLVING = 0.8, 0.68, 0.17, 0.22
"""Shares of the measured speed: of the passes over text, of answering with its small batches, of writing token by
token, and of solving in double precision.
"""

_SOLVES = 3.0
"""Solving one block's least squares, in cubes of its width, with what is computed beside it."""

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
    a_token = 2.0 * (counted.n_matmul - counted.vocabulary * counted.hidden)
    n_tokens, n_passages = settings.calibration.n_samples * settings.calibration.length, _n_passages(settings)
    own = settings.calibration.corpus == SELF
    gathered = 2.0 * sum(width * width for width in counted.widths)
    return {
        "load": _LOADING_S + 4.0 * counted.n_parameters / _LOADING_BYTES_A_SECOND,
        "text": n_tokens * 2.0 * counted.n_matmul / (_WRITING * speed) if own else 0.0,
        "calibrate": n_tokens * (a_token + gathered) / (_READING * speed),
        "prune": _prune_s(settings, counted, speed),
        "evaluate": n_passages and n_passages * TOKENS_A_PASSAGE * a_token / (_ANSWERING * speed),
    }


def _prune_s(settings: RunSettings, counted: Dimensions, speed: float) -> float | None:
    """None where a method reads the text again or weighs its channels one by one: no formula here tells its time."""
    if not all(map(_is_one_solve, settings.methods)):
        return None
    return sum(_SOLVES * width**3 for width in counted.widths) / (_SOLVING * speed)


def _is_one_solve(method: MethodSettings) -> bool:
    plain = method.takes_channels and not method.reads_again
    return plain and method.saliency != "obs" and method.allocation != "sensitivity"


def _n_passages(settings: RunSettings) -> int | None:
    asked, corpus = settings.evaluation.n_passages, settings.evaluation.corpus
    known = next((choice.n_texts for choice in EVALUATION_CORPORA if choice.name == corpus), 0)
    return min(asked, known) if asked and known else asked or known or None
