"""Estimates what a run will take before it is started: time and memory, and finds what of it is
stored already.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

from sparsedash.catalog import resources
from sparsedash.catalog.builtin_tasks import BUILTIN_TASKS
from sparsedash.catalog.cost_model import LeastMemory, chosen_memory, least_memory
from sparsedash.catalog.mixed_text import mixed_identity
from sparsedash.catalog.model_shape import ModelShape
from sparsedash.catalog.resources import RunDisk
from sparsedash.schema import store_keys
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.pair_records import Continuation, ContinuationSettings
from sparsedash.schema.question_records import QuestionSet
from sparsedash.schema.records import Record
from sparsedash.schema.settings import (
    BUILTIN_MIXED,
    SELF,
    RunSettings,
)
from sparsedash.service.estimates import Cached, Duration
from sparsedash.service.hub_revisions import noted_commit
from sparsedash.service.run_checks import main_memory
from sparsedash.service.stored_results import known_shape
from sparsedash.storage.file_hashes import fingerprint
from sparsedash.storage.local_machine import free_bytes
from sparsedash.storage.store import Store


@dataclass(frozen=True, kw_only=True)
class Memory:
    """How much memory a run may take.

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
    """What the run takes in the data folder where nothing of it is stored. free_bytes: of its disk,
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
        return self.disk.takes.stays_bytes if self.disk is not None and not there else None


def stored_parts(settings: RunSettings, store: Store) -> Cached:
    """Which parts of this run are stored, as far as its model and texts were used here before.

    A model counts with its answers to built-in tasks, and with what it writes after the run's
    prompts, which a streamed one does not.
    """
    model = _model_identity(settings, store)
    passages = _noted(store, store_keys.text_identity_note, settings.evaluation.corpus)
    # Of dense quantised as well, which is none of the methods.
    methods = dict.fromkeys(method for method, _ in settings.points)
    statistics = {method: _statistics_key(settings, method, model, store) for method in methods}
    shape = known_shape(store, model) if model else None
    streamed = shape and chosen_memory(shape, settings, main_memory()).streamed
    prompts = () if streamed or settings.residency == "streamed" else settings.prompts

    asked = settings.evaluation
    builtin = [
        BUILTIN_TASKS[task].identity(asked.task_limit)
        for task in asked.tasks
        if task in BUILTIN_TASKS
    ]

    def answered(made: tuple[str, MethodSettings, int] | None) -> bool:
        if model is None or passages is None:
            return False
        key = store_keys.outcomes_key(
            model, settings.dtype, passages, asked, made, n_sparse=settings.n_sparse
        )
        tasks = (store_keys.answers_key(model, settings.dtype, task, made) for task in builtin)
        texts = (
            ContinuationSettings(left=key, right=key, prompt=prompt).key() for prompt in prompts
        )
        whole = all(store.has(Continuation, text) for text in texts) and all(
            store.has(QuestionSet, t) for t in tasks
        )
        return store.has(Record, key) and whole

    def calibrated() -> bool:
        keys = [key for key, method, _ in points if method.needs_statistics]
        if (
            not keys
            and settings.reads_text
            and settings.calibration.corpus == SELF
            and model is not None
        ):
            return store.has_entry(
                "artefacts", store_keys.text_key(model, settings.dtype, settings.calibration)
            )
        return bool(keys) and all(
            key and store.recall(store_keys.calibrated_note(key)) is not None for key in keys
        )

    points = [(statistics[method], method, permille) for method, permille in settings.points]
    return Cached(
        calibration=calibrated(),
        dense=answered(None),
        points=tuple(
            at
            for at, (key, method, permille) in enumerate(points)
            if key is not None and answered((key, method, permille))
        ),
        n_sparse=settings.n_sparse,
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
    least, resident = (
        chosen_memory(shape, settings, there),
        least_memory(shape, settings),
    )
    n_passages = resources.n_passages(settings) or 0
    takes = resources.run_disk(
        shape, settings, n_passages, store.artefact_room, streamed=least.streamed
    )
    disk = DiskNeed(takes=takes, free_bytes=free_bytes(store.folder))
    return replace(memory, least=least, resident_bytes=resident.n_bytes), disk


def _model_identity(settings: RunSettings, store: Store) -> str | None:
    """The identity of the model, of the commit that the run is pinned to or that its name led to
    last; if known.
    """
    commit = settings.model_commit or noted_commit(settings.model, store)
    if commit:
        return f"{settings.model.partition('@')[0]}@{commit}"
    return _noted(store, store_keys.model_identity_note, settings.model)


def _noted(
    store: Store, name: Callable[[str, str], store_keys.NoteName], reference: str
) -> str | None:
    if reference == BUILTIN_MIXED:
        return mixed_identity()
    return store.recall(name(reference, fingerprint(reference)))


def _statistics_key(
    settings: RunSettings, method: MethodSettings, model: str | None, store: Store
) -> str | None:
    """The key of what calibrating leaves for this method; None where the model or the text was not
    used here before, empty where it reads none.
    """
    if model is None:
        return None
    if not method.reads_text:
        return ""
    share = store_keys.mix_share(method, settings.calibration)
    text = store_keys.calibration_text_identity(
        settings, model, share, partial(_noted, store, store_keys.text_identity_note)
    )
    return (
        store_keys.statistics_key(model, settings.dtype, text, settings.calibration)
        if text
        else None
    )
