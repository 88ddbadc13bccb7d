"""Checks before a run starts: its model and texts, and the rules of `catalog.run_rules`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec

from sparsedash.catalog import run_rules
from sparsedash.catalog.choices import HUB_TEXTS
from sparsedash.catalog.cost_model import chosen_memory
from sparsedash.jobs.local_runner import NVIDIA, visible_gpus
from sparsedash.schema import store_keys
from sparsedash.schema.errors import SparseDashError
from sparsedash.schema.find_settings import FindSettings, planned_run
from sparsedash.schema.model_shape import ModelShape
from sparsedash.schema.settings import RunSettings
from sparsedash.schema.sparse_spec import SparseSpec
from sparsedash.service.model_lookup import NamedModel
from sparsedash.service.request_checks import (
    ReferenceField,
    reference_problem,
    unusable_tasks,
)
from sparsedash.stats.sparsity_search import require_passages
from sparsedash.storage.hub_reach import HubReach
from sparsedash.storage.local_machine import memory_bytes
from sparsedash.storage.store import Store
from sparsedash.storage.text_files import named_text_count, names_file

P = ParamSpec("P")


@dataclass(frozen=True, kw_only=True)
class RequestRules:
    """The rules of the form, for whatever proposes a request.

    lacks: see `lacks_text`. n_passages: see `count_passages`. problems: why a request cannot start.
    """

    lacks: Callable[[str], bool] = lambda reference: False
    n_passages: Callable[[str], int | None] = lambda reference: None
    problems: Callable[[RunSettings | FindSettings], Sequence[str]] = lambda request: ()


def named_references(
    settings: RunSettings | FindSettings,
) -> list[tuple[ReferenceField, str]]:
    """The model and the texts of a request, by the fields that name them."""
    return [
        ("model", settings.model),
        ("calibration text", settings.calibration.corpus),
        ("evaluation text", settings.evaluation.corpus),
    ]


def run_problems(
    request: RunSettings | FindSettings, data_dir: Path, named: NamedModel | None = None
) -> tuple[str, ...]:
    """Everything that would end the run at once, or leave a search without an answer.

    data_dir: where uploads lie. named: what is known of the model.
    """
    shape = named.shape if named else None
    settings = planned_run(request)
    problems = [
        *(
            reference_problem(*reference, data_dir)
            for reference in named_references(settings)
        ),
        unusable_tasks(settings.evaluation.tasks),
    ]
    if named is not None and named.problem and not problems[0]:
        problems.append(f"Model: {named.problem}")
    is_readable = not any(problems)
    if is_readable and isinstance(request, FindSettings):
        n_named = count_passages(request.evaluation.corpus, data_dir)
        n_requested = request.evaluation.n_passages
        known = [n for n in (n_named, n_requested) if n is not None]
        if known:
            problems.append(_refusal(require_passages, min(known)))
    streamed = False
    if shape is not None:
        # A search tries more than its first step only where so much can go.
        least = request if isinstance(request, RunSettings) else request.run((1,))
        problems.append(_refusal(run_rules.require_possible, least, shape))
        streamed = chosen_memory(shape, settings, main_memory()).streamed
    family = shape.family if shape else None
    problems.append(
        _refusal(run_rules.require_quantisable, settings, family, streamed=streamed),
    )
    if settings.heals:
        n_sequences = settings.calibration.n_samples
        problems.append(
            _refusal(run_rules.require_healable, n_sequences, streamed=streamed)
        )
    if shape is not None and not any(problems) and settings.solves:
        n_tokens = _most_tokens(settings, data_dir)
        problems.append(
            _refusal(run_rules.require_calibration_tokens, n_tokens, shape.widths)
        )
    return tuple(filter(None, problems))


def room_problem(
    settings: RunSettings,
    unstored: Sequence[SparseSpec],
    shape: ModelShape | None,
    room: int,
) -> str:
    """Error if the calibration data of the models that are not stored exceeds the limit, else empty.

    room: the limit, in bytes.
    """
    if shape is None:
        return ""
    return _refusal(
        run_rules.require_artefact_room,
        settings,
        shape,
        {spec.pruning for spec in unstored if spec.reads_text},
        n_sequences=settings.calibration.n_samples,
        room=room,
    )


def _refusal(rule: Callable[P, None], *values: P.args, **named: P.kwargs) -> str:
    """This rule's objection to these values; empty if it has none."""
    try:
        rule(*values, **named)
    except SparseDashError as error:
        return str(error)
    return ""


def _most_tokens(settings: RunSettings, data_dir: Path) -> int:
    """The most calibration tokens that every method that solves can get."""
    calibration = settings.calibration
    requested = calibration.n_samples * calibration.length
    available = requested
    if names_file(calibration.corpus):
        count = named_text_count(calibration.corpus, data_dir)
        if count is not None:
            # A token is at least a byte, and few characters have more than three.
            available = 3 * count.n_characters + count.n_texts
    fewest = requested
    for spec in settings.points:
        if spec.pruning.solves:
            mixed = store_keys.mix_share(spec, calibration) * requested
            fewest = min(fewest, int(mixed + min(available, requested - mixed)))
    return fewest


def count_passages(reference: str, data_dir: Path) -> int | None:
    """Passages of a file or an upload, 0 if unusable; None of other texts and of too large files."""
    if not names_file(reference):
        return None
    if reference_problem("evaluation text", reference, data_dir):
        return 0
    count = named_text_count(reference, data_dir)
    return None if count is None else count.n_passages


def lacks_text(reference: str, store: Store, hub: HubReach) -> bool:
    """Whether this is a text of the hub that was never read here, while the hub does not answer."""
    if reference not in HUB_TEXTS or store.recall(
        store_keys.text_identity_note(reference, "")
    ):
        return False
    return not hub.answers()


def main_memory() -> int | None:
    """Bytes of memory of this machine; None where the model runs on a GPU."""
    return None if NVIDIA.is_dir() and visible_gpus() else memory_bytes()
