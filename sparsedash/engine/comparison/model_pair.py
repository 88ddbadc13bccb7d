"""The models of two records in one memory, which share modules and exchange weights by reference.

An exchange takes less than a millisecond, so two models can write, or be timed, in turn.
"""

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparsedash.engine.models.loading import LoadedModel, ModelShelf
from sparsedash.engine.run.sparse_models import SparseModel, rebuild_model
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
        self._let_others_go({_model_of(record) for record in wanted})
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
                if (other.loaded.identity, other.loaded.dtype) == _model_of(record):
                    self._shelf.keep(other.loaded)
            known = _rebuild(record, store, on_step, self._shelf)
        self._kept[record.key] = known
        return known

    def _make_room(self, in_use: set[str]) -> None:
        for key in [key for key in self._kept if key not in in_use]:
            if sum(record_model.n_bytes for record_model in self._kept.values()) > self._room_bytes:
                del self._kept[key]


def _model_of(record: Record) -> tuple[str, str]:
    return record.model_identity, record.dtype


def _rebuild(record: Record, store: Store, on_step: OnStep, shelf: ModelShelf) -> RecordModel:
    made = rebuild_model(record, store, on_step, shelf)
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


ModuleWeights = dict[str, nn.Parameter | None]


@dataclass(frozen=True, eq=False)
class ResidentModel:
    """One of two models. parts: every module with its parameters, and the widths that it states."""

    parts: list[tuple[nn.Module, ModuleWeights, dict[str, int]]]

    def enter_(self) -> None:
        """Make the modules this model: by reference, in about a millisecond for hundreds of them."""
        for module, weights, widths in self.parts:
            module._parameters.update(weights)
            vars(module).update(widths)

    @property
    def weights(self) -> list[nn.Parameter]:
        """All its weights, each once: what two modules share counts once."""
        own = {id(weight): weight for _, weights, _ in self.parts for weight in weights.values() if weight is not None}
        return list(own.values())

    @property
    def n_bytes(self) -> int:
        """Bytes of its weights."""
        return sum(weight.nbytes for weight in self.weights)


@contextmanager
def both_resident(
    dense: RecordModel, sparse: RecordModel, dtype: torch.dtype
) -> Iterator[tuple[ResidentModel, ResidentModel]]:
    """Inside, the two as contenders in this dtype, neither of them masked; after it the loaded model is as before.

    The weights in which they differ are copied for both alike, so that neither has the better place in memory: weights
    as a file left them and weights that were just computed need not be read equally fast.
    """
    modules = list(dense.loaded.model.modules())
    kept = _module_parts(modules)
    with dense.active():
        of_dense = _module_parts(modules)
    with sparse.active():
        of_sparse = _module_parts(modules)
    shared = {id(w) for _, weights, _ in of_dense for w in weights.values()} & {
        id(w) for _, weights, _ in of_sparse for w in weights.values()
    }
    copied = _copies(shared, dtype)
    try:
        yield ResidentModel(_recast(of_dense, copied)), ResidentModel(_recast(of_sparse, copied))
    finally:
        ResidentModel(kept).enter_()


def _module_parts(modules: list[nn.Module]) -> list[tuple[nn.Module, ModuleWeights, dict[str, int]]]:
    return [
        (module, dict(module._parameters), {name: value for name, value in vars(module).items() if type(value) is int})
        for module in modules
        if module._parameters
    ]


def _recast(
    parts: list[tuple[nn.Module, ModuleWeights, dict[str, int]]], copied: Callable[[Tensor], nn.Parameter]
) -> list[tuple[nn.Module, ModuleWeights, dict[str, int]]]:
    return [
        (module, {name: None if w is None else copied(w) for name, w in weights.items()}, widths)
        for module, weights, widths in parts
    ]


def _copies(shared: set[int], dtype: torch.dtype) -> Callable[[Tensor], nn.Parameter]:
    """Gives every weight in this dtype: a copy of what only one of the two has, the same for what both have."""
    made: dict[int, tuple[Tensor, nn.Parameter]] = {}

    def copied(weight: Tensor) -> nn.Parameter:
        if id(weight) not in made:
            stays = id(weight) in shared and weight.dtype == dtype
            new = weight if stays else weight.detach().to(dtype, copy=True)
            as_parameter = new if isinstance(new, nn.Parameter) else nn.Parameter(new, requires_grad=False)
            # The weight is held beside its copy, since an id says nothing once what had it is gone.
            made[id(weight)] = weight, as_parameter
        return made[id(weight)][1]

    return copied
