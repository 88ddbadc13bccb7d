"""What to say when memory ran out: what was asked for, what it takes at least, and what of it can be made smaller."""

from collections.abc import Mapping
from typing import Any

from sparsedash.catalog.memory import RUNTIME_BYTES, LeastMemory, Purpose, dimensions_of, least_memory
from sparsedash.schema.errors import SettingsError
from sparsedash.schema.searches import asked_settings, planned_run
from sparsedash.schema.settings import RunSettings

_GENERAL = "Choose a smaller model, bfloat16 or less calibration text, or free some memory."
_TWO_MODELS = "Both models are held at once: compare models of a smaller run, or free some memory."
_FILES = "The model and its copy in files are held at once: free some memory, or choose bfloat16."
_SMALLER: dict[Purpose, str] = {
    "the text that the model writes": "take shorter calibration samples, or a text that is there already",
    "answering": "answer fewer passages",
    "calibration": "take fewer or shorter calibration samples",
    "pruning": "choose a method that refits nothing, such as wanda-channels",
    "the sequential refit": "take fewer calibration samples, or least-squares instead of the sequential refit",
    "the backward pass": "choose a method without a backward pass, such as least-squares",
}


def out_of_memory(kind: str, settings: Mapping[str, Any]) -> tuple[str, str]:
    """What ran out of memory, and what would help, for a job of this kind with these settings."""
    if kind == "export":
        return "Memory ran out.", _FILES
    if kind == "verify":
        return "Memory ran out.", "Free some memory, and start it again."
    if kind not in ("run", "find"):
        return "Memory ran out.", _TWO_MODELS
    try:
        asked = planned_run(asked_settings(kind, settings))
    except SettingsError:
        return "Memory ran out.", _GENERAL
    counted = dimensions_of(asked.model)
    if counted is None:
        return f"Memory ran out with {asked.model} in {asked.dtype}.", _GENERAL
    least = least_memory(counted, asked)
    weights = least.n_bytes - least.beside_bytes - RUNTIME_BYTES
    return (
        f"Memory ran out: {asked.model} in {asked.dtype} takes at least {_gigabytes(least.n_bytes)}, "
        f"{_gigabytes(weights)} for {counted.n_parameters / 1e9:.2f} billion weights and "
        f"{_gigabytes(least.beside_bytes)} for {least.purpose}, the rest for the program itself.",
        _advice(asked, least, weights),
    )


def _advice(asked: RunSettings, least: LeastMemory, weights: int) -> str:
    """The larger part first."""
    of_weights = ["choose a smaller model"]
    if asked.dtype == "float32":
        of_weights.insert(0, "choose bfloat16, which halves the weights")
    of_purpose = [_SMALLER[least.purpose]]
    first, then = (of_weights, of_purpose) if weights >= least.beside_bytes else (of_purpose, of_weights)
    ways = [*first, *then, "free some memory"]
    text = f"{'; '.join(ways[:-1])}; or {ways[-1]}."
    return text[0].upper() + text[1:]


def _gigabytes(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.1f} GB"
