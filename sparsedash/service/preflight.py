"""Estimates what a run will take before it is started: time and memory, and finds what of it is
stored already.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from sparsedash.catalog import resources
from sparsedash.catalog.builtin_tasks import BUILTIN_TASKS
from sparsedash.catalog.cost_model import LeastMemory, chosen_memory, least_memory
from sparsedash.catalog.mixed_text import mixed_identity
from sparsedash.catalog.resources import RunDisk
from sparsedash.schema import store_keys
from sparsedash.schema.model_shape import ModelShape
from sparsedash.schema.pair_records import (
    Continuation,
    ContinuationSettings,
    PromptTexts,
    prompt_texts,
)
from sparsedash.schema.question_records import QuestionSet
from sparsedash.schema.records import Record
from sparsedash.schema.run_keys import RunKeys
from sparsedash.schema.settings import SELF, RunSettings
from sparsedash.schema.sparse_spec import DENSE, SparseSpec
from sparsedash.service.estimates import Cached, Duration
from sparsedash.service.hub_revisions import noted_commit
from sparsedash.service.run_checks import main_memory
from sparsedash.storage.file_hashes import fingerprint
from sparsedash.storage.local_machine import free_bytes
from sparsedash.storage.shape_notes import known_shape
from sparsedash.storage.store import Store


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Memory that a run may take.

    measured_bytes: the peak of an earlier run of this model, by whatever methods; None where there
    was none. least: by the model's shape; None where that is not known. resident_bytes: the same
    with all weights in memory.
    backward: whether its methods need a backward pass. there_bytes: of this machine; None where
    that does not tell, since the model runs on a GPU.
    """

    measured_bytes: int | None = None
    least: LeastMemory | None = None
    resident_bytes: int | None = None
    backward: bool = False
    there_bytes: int | None = None

    @property
    def expected_bytes(self) -> int | None:
        """The peak, as far as it is known."""
        return self.measured_bytes if self.least is None else self.least.n_bytes

    @property
    def too_little(self) -> bool:
        """Whether it takes more than there is, whatever else runs on this machine."""
        return (
            self.least is not None
            and self.there_bytes is not None
            and self.least.n_bytes > self.there_bytes
        )


@dataclass(frozen=True, kw_only=True)
class DiskNeed:
    """Disk space that the run takes where nothing of it is stored. free_bytes: of its disk,
    where it tells.
    """

    takes: RunDisk
    free_bytes: int | None = None

    @property
    def too_little(self) -> bool:
        """Whether it takes more than is free."""
        wanted = self.takes.stays_bytes + self.takes.passing_bytes
        return self.free_bytes is not None and wanted > self.free_bytes


@dataclass(frozen=True, kw_only=True)
class Preflight:
    """What is known of a run before it is started, and of a started one, what was known then.

    stored: what need not be computed again. duration: from what was measured here before. problems:
    why it cannot start. disk: None where the model's shape is not known.
    """

    stored: Cached = field(default_factory=Cached)
    duration: Duration = field(default_factory=Duration)
    memory: Memory = Memory()
    problems: tuple[str, ...] = ()
    disk: DiskNeed | None = None

    @property
    def left_bytes(self) -> int | None:
        """Bytes that the run leaves in the data folder; None where that is not known, or a part is
        stored already.
        """
        there = self.stored.calibration or self.stored.dense or self.stored.sparse
        return (
            self.disk.takes.stays_bytes if self.disk is not None and not there else None
        )


def stored_parts(settings: RunSettings, store: Store) -> Cached:
    """Which parts of this run are stored, as far as its model and texts were used here before.

    A model counts with its answers to built-in tasks, and with what it writes after the run's
    prompts, which a streamed one does not.
    """
    keys = _run_keys(settings, store)
    if keys is None:
        return Cached(n_sparse=settings.n_sparse)
    shape = known_shape(store, keys.model)
    streamed = shape and chosen_memory(shape, settings, main_memory()).streamed
    prompts = () if streamed or settings.residency == "streamed" else settings.prompts
    stored = []
    for place, spec in enumerate(settings.points):
        if _is_answered(spec, keys, prompts, store):
            stored.append(place)
    return Cached(
        calibration=_is_calibrated(keys, store),
        dense=_is_answered(DENSE, keys, prompts, store),
        points=tuple(stored),
        n_sparse=settings.n_sparse,
    )


def _run_keys(settings: RunSettings, store: Store) -> RunKeys | None:
    """The keys of what a run stores; None where its model was not used here before."""
    # The commit that the run is pinned to, or that its model's name led to last.
    commit = settings.model_commit or noted_commit(settings.model, store)
    if commit:
        model: str | None = f"{settings.model.partition('@')[0]}@{commit}"
    else:
        fingerprinted = settings.model, fingerprint(settings.model)
        model = store.recall(store_keys.model_identity_note(*fingerprinted))
    if model is None:
        return None
    return RunKeys(
        settings=settings,
        model=model,
        text_identity=partial(_text_identity, store),
        mix_identity=mixed_identity(),
    )


def _text_identity(store: Store, reference: str) -> str:
    """The identity that a text had when it was read. Raises LookupError where it was not yet."""
    identity = store.recall(
        store_keys.text_identity_note(reference, fingerprint(reference))
    )
    if identity is None:
        raise LookupError(f"{reference} was not read yet")
    return identity


def _is_answered(
    spec: SparseSpec, keys: RunKeys, prompts: Sequence[str], store: Store
) -> bool:
    """Whether the model's answers to passages, prompts and built-in tasks are stored."""
    evaluation = keys.settings.evaluation
    try:
        record = keys.record(spec)
        answers = [
            keys.answers(spec, BUILTIN_TASKS[task].identity(evaluation.task_limit))
            for task in evaluation.tasks
            if task in BUILTIN_TASKS
        ]
    except LookupError:
        return False
    continuations = [
        ContinuationSettings(left=record, right=record, prompt=prompt).key()
        for prompt in prompts
    ]
    return (
        store.has(Record, record)
        and all(store.has(QuestionSet, key) for key in answers)
        and all(store.has(Continuation, key) for key in continuations)
    )


def first_texts(settings: RunSettings, store: Store) -> tuple[PromptTexts, ...]:
    """Continuations of a live run's prompts by dense and the first sparse model.

    These texts are stored before any record. None of a prompt that dense has not continued.
    """
    keys = _run_keys(settings, store)
    if keys is None:
        return ()
    try:
        dense = keys.record(DENSE)
        sparse = keys.record(settings.points[0])
    except LookupError:
        return ()
    texts = prompt_texts(
        settings.prompts,
        dense,
        sparse,
        lambda request: store.get(Continuation, request.key()),
    )
    return tuple(texts)


def _is_calibrated(keys: RunKeys, store: Store) -> bool:
    """Whether the statistics of all methods that need any are stored, or else the text they read."""
    settings = keys.settings
    readers = [spec for spec in settings.points if spec.pruning.needs_statistics]
    if not readers:
        generates = settings.reads_text and settings.calibration.corpus == SELF
        return generates and store.has_entry("artefacts", keys.generated_text)
    try:
        statistics = {keys.calibration(spec).statistics for spec in readers}
    except LookupError:
        return False
    return all(
        store.recall(store_keys.calibrated_note(key)) is not None for key in statistics
    )


def expected_room(
    settings: RunSettings, store: Store, shape: ModelShape | None
) -> tuple[Memory, DiskNeed | None]:
    """Memory and disk that the run may take, as far as its model was measured here or its shape is
    known.
    """
    measured = store.recall(store_keys.peak_memory_note(settings.model, settings.dtype))
    there = main_memory()
    memory = Memory(
        measured_bytes=int(measured) if measured and measured.isdecimal() else None,
        backward=resources.needs_fisher(settings),
        there_bytes=there,
    )
    if shape is None:
        return memory, None
    least = chosen_memory(shape, settings, there)
    resident = least_memory(shape, settings)
    n_passages = resources.n_passages(settings) or 0
    takes = resources.run_disk(
        shape, settings, n_passages, store.artefact_room, streamed=least.streamed
    )
    disk = DiskNeed(takes=takes, free_bytes=free_bytes(store.folder))
    return replace(memory, least=least, resident_bytes=resident.n_bytes), disk
