"""The models of two records in one memory: a sparse one is the dense one with some of its weights exchanged.

Exchanging is by reference and takes less than a millisecond, so two models made of one can write token by token in
turn.
"""

import gc
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

from torch import nn

from sparsedash.engine.models.loading import LoadedModel, ModelShelf
from sparsedash.engine.run.remade import remade
from sparsedash.engine.run.sparse_model import SparseModel
from sparsedash.schema.errors import JobError
from sparsedash.schema.progress import OnStep
from sparsedash.schema.records import Record
from sparsedash.storage.store import Store

ROOM_BYTES = 2 * 2**30

_State = tuple[dict[str, nn.Parameter | None], dict[str, int]]
"""Of one module: its parameters, and the widths that it states."""


@dataclass(frozen=True, eq=False)
class _Change:
    """One module as it is in the dense model and in the sparse one."""

    module: nn.Module
    dense: _State
    sparse: _State


@dataclass(frozen=True, eq=False)
class RecordModel:
    """The model of one record. changes: the modules that differ from the loaded model; none for a dense model.

    streamed: the sparse model in their place, where the weights stay in their files and each block is exchanged only
    while it runs.
    """

    loaded: LoadedModel
    changes: tuple[_Change, ...] = ()
    streamed: SparseModel | None = None

    @contextmanager
    def active(self) -> Iterator[LoadedModel]:
        """Inside, the loaded model is this one; after it, the dense one again."""
        try:
            for change in self.changes:
                _set_(change.module, change.sparse)
            with self.streamed.applied() if self.streamed else nullcontext():
                yield self.loaded
        finally:
            self.rest()

    def rest(self) -> None:
        """Make the loaded model the dense one. A signal may have broken off an exchange; this mends it."""
        for change in self.changes:
            _set_(change.module, change.dense)

    @property
    def n_bytes(self) -> int:
        """Memory that its own weights take."""
        own = (t for change in self.changes for t in change.sparse[0].values() if t is not None)
        return sum(tensor.nbytes for tensor in own)


class ModelPairCache:
    """Keeps the models asked for last from job to job, so that the next prompt for them need not make them again.

    room_bytes: for sparse weights that are not in use just now; the pair that is asked for is always kept.
    """

    def __init__(self, shelf: ModelShelf, room_bytes: int = ROOM_BYTES) -> None:
        self._shelf, self._room_bytes = shelf, room_bytes
        self._kept: dict[str, RecordModel] = {}

    @contextmanager
    def pair(self, keys: tuple[str, str], store: Store, on_step: OnStep) -> Iterator[tuple[RecordModel, RecordModel]]:
        """As `models`, of two."""
        with self.models(keys, store, on_step) as (left, right):
            yield left, right

    @contextmanager
    def models(self, keys: Sequence[str], store: Store, on_step: OnStep) -> Iterator[tuple[RecordModel, ...]]:
        """Inside, the models of the records with these keys; after it, the loaded models are dense again, however left.

        Raises JobError when a record is gone or its model has changed.
        """
        records = [store.get(Record, key) for key in keys]
        if any(record is None for record in records):
            raise JobError("One of the results is not in the store any more.", "Run it again.")
        wanted = [record for record in records if record is not None]
        self._let_others_go({_model(record) for record in wanted})
        found = tuple(self._record_model(record, store, on_step) for record in wanted)
        self._make_room({*keys})
        try:
            yield found
        finally:
            for each in found:
                each.rest()

    def holds(self, key: str) -> bool:
        """Whether the model of this record is in memory, so that it need not be made."""
        return key in self._kept

    def let_go(self) -> None:
        """Keep nothing: a run needs the memory."""
        self._kept.clear()

    def _let_others_go(self, models: set[tuple[str, str]]) -> None:
        """Before another model is read: more than the two that are needed may not fit."""
        others = [k for k, s in self._kept.items() if (s.loaded.identity, s.loaded.dtype) not in models]
        for key in others:
            del self._kept[key]
        if others:
            gc.collect()

    def _record_model(self, record: Record, store: Store, on_step: OnStep) -> RecordModel:
        known = self._kept.pop(record.key, None)
        if known is None:
            for other in self._kept.values():
                if (other.loaded.identity, other.loaded.dtype) == _model(record):
                    self._shelf.keep(other.loaded)
            known = _made(record, store, on_step, self._shelf)
        self._kept[record.key] = known
        return known

    def _make_room(self, in_use: set[str]) -> None:
        for key in [key for key in self._kept if key not in in_use]:
            if sum(record_model.n_bytes for record_model in self._kept.values()) > self._room_bytes:
                del self._kept[key]


def _model(record: Record) -> tuple[str, str]:
    return record.model_identity, record.dtype


def _made(record: Record, store: Store, on_step: OnStep, shelf: ModelShelf) -> RecordModel:
    made = remade(record, store, on_step, shelf)
    if made.sparse is None:
        return RecordModel(made.loaded)
    if made.loaded.residency.streamed:
        return RecordModel(made.loaded, streamed=made.sparse)
    return RecordModel(made.loaded, _changes(made.loaded.model, made.sparse.applied()))


def _changes(model: nn.Module, changed: AbstractContextManager[None]) -> tuple[_Change, ...]:
    """The modules that differ inside the `with` from what they are outside it."""
    modules = list(model.modules())
    dense = [_state(module) for module in modules]
    with changed:
        sparse = [_state(module) for module in modules]
    return tuple(
        _Change(module, before, after)
        for module, before, after in zip(modules, dense, sparse, strict=True)
        if before[1] != after[1] or any(before[0][name] is not p for name, p in after[0].items())
    )


def _state(module: nn.Module) -> _State:
    widths = {name: value for name, value in vars(module).items() if type(value) is int}
    return dict(module._parameters), widths


def _set_(module: nn.Module, state: _State) -> None:
    parameters, widths = state
    module._parameters.update(parameters)
    vars(module).update(widths)
