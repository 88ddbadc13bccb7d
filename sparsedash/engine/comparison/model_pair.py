"""The models of two records in one memory, which share modules and exchange weights by reference.

An exchange takes less than a millisecond, so two models can write, or be timed, in turn.
"""

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sparsedash.engine.models.loading import LoadedModel, ModelCache
from sparsedash.engine.models.sparse_models import SparseModel
from sparsedash.engine.models.structure import meta_model, with_values
from sparsedash.engine.pruning.experts import sliced_tensors
from sparsedash.engine.run.model_making import rebuild_model
from sparsedash.schema.errors import JobError
from sparsedash.schema.progress import OnStep
from sparsedash.schema.records import Record
from sparsedash.storage.store import Store

ROOM_BYTES = 2 * 2**30


class ModelPart(NamedTuple):
    """A module with its parameters, buffers and widths. forward: of a layer that is skipped."""

    module: nn.Module
    weights: dict[str, nn.Parameter | None]
    buffers: dict[str, Tensor | None]
    widths: dict[str, int]
    forward: Callable[..., Any] | None = None


@dataclass(frozen=True, eq=False)
class ResidentModel:
    """A model in a set of modules that it shares with others."""

    parts: list[ModelPart]

    @classmethod
    def of(cls, model: nn.Module) -> "ResidentModel":
        """The model that the modules are now."""
        skipped = [module for module in model.modules() if "forward" in vars(module)]
        inside = set(chain.from_iterable(module.modules() for module in skipped)) - set(
            skipped
        )
        parts = list[ModelPart]()
        for module in model.modules():
            if module not in inside:
                forward = vars(module).get("forward")
                part = ModelPart(
                    module,
                    dict(module._parameters),
                    dict(module._buffers),
                    _widths(module),
                    forward,
                )
                parts.append(part)
        return cls(parts)

    @classmethod
    def with_fewer_experts(cls, sparse: SparseModel) -> "ResidentModel":
        """The blocks of the loaded model, with the removed experts sliced out as a config with fewer
        experts makes them; a run hides them instead.
        """
        loaded = sparse.loaded
        values = loaded.structure.experts_values(sparse.kept)
        path = loaded.structure.blocks
        smaller = meta_model(with_values(loaded.model.config, values))
        tensors = dict(
            sliced_tensors(loaded.experts, dict(enumerate(sparse.experts)), path)
        )
        modules = dict(loaded.model.named_modules())
        parts = list[ModelPart]()
        for index in loaded.experts:
            block = f"{path}.{index}"
            for name, narrow in smaller.get_submodule(block).named_modules(
                prefix=block
            ):
                module = modules[name]
                weights = dict(module._parameters)
                for own_name in weights:
                    if (tensor := tensors.get(f"{name}.{own_name}")) is not None:
                        weights[own_name] = nn.Parameter(tensor, requires_grad=False)
                buffers = dict(module._buffers)
                for own_name in buffers:
                    buffers[own_name] = tensors.get(
                        f"{name}.{own_name}", buffers[own_name]
                    )
                parts.append(ModelPart(module, weights, buffers, _widths(narrow)))
        return cls(parts)

    def enter_(self) -> None:
        """Make the modules this model, by reference: about a millisecond for hundreds of them."""
        for module, weights, buffers, widths, forward in self.parts:
            module._parameters.update(weights)
            module._buffers.update(buffers)
            vars(module).update(widths)
            vars(module).pop("forward", None)
            if forward is not None:
                module.forward = forward

    @property
    def weights(self) -> list[nn.Parameter]:
        """All its weights; those that two modules share count once."""
        weights = chain.from_iterable(part.weights.values() for part in self.parts)
        return list(
            {id(weight): weight for weight in weights if weight is not None}.values()
        )

    @property
    def n_bytes(self) -> int:
        """Bytes of its weights."""
        return sum(weight.nbytes for weight in self.weights)


def _widths(module: nn.Module) -> dict[str, int]:
    """Its attributes that are integers."""
    return {name: n for name, n in vars(module).items() if type(n) is int}


@dataclass(frozen=True, eq=False)
class RecordModel:
    """The model of one record. dense, sparse: the modules that differ; none if it is dense.

    streamed: the sparse model instead, where the weights stay in their files and each block is
    exchanged only while it runs.
    """

    loaded: LoadedModel
    dense: ResidentModel = ResidentModel([])
    sparse: ResidentModel = ResidentModel([])
    streamed: SparseModel | None = None

    @property
    def loaded_as(self) -> tuple[str, str]:
        """Identity and type of the loaded model."""
        return self.loaded.identity, self.loaded.dtype

    @contextmanager
    def active(self) -> Iterator[LoadedModel]:
        """The loaded model is this one inside the `with`, and the dense one after it."""
        try:
            self.sparse.enter_()
            with self.streamed.applied() if self.streamed else nullcontext():
                yield self.loaded
        finally:
            self.rest()

    def rest(self) -> None:
        """Make the loaded model the dense one, also after a signal interrupted an exchange."""
        self.dense.enter_()


class ModelPairCache:
    """Models of records, kept from job to job to save rebuilding them.

    room_bytes: for sparse weights that are not in use; those in use are always kept.
    """

    def __init__(self, model_cache: ModelCache, room_bytes: int = ROOM_BYTES) -> None:
        self._model_cache = model_cache
        self._room_bytes = room_bytes
        self._kept: dict[str, RecordModel] = {}

    @contextmanager
    def models(
        self, keys: Sequence[str], store: Store, on_step: OnStep
    ) -> Iterator[tuple[RecordModel, ...]]:
        """The models of these records; on exit the loaded models are dense again.

        Raises JobError when a record is gone or its model has changed.
        """
        wanted = [
            record for key in keys if (record := store.get(Record, key)) is not None
        ]
        if len(wanted) < len(keys):
            raise JobError("One of the results is no longer stored.", "Run it again.")
        # Before another model is read: the memory may not be enough for it and models that are not
        # needed.
        models = {(record.model_identity, record.dtype) for record in wanted}
        n_kept = len(self._kept)
        self._kept = {
            key: kept for key, kept in self._kept.items() if kept.loaded_as in models
        }
        if len(self._kept) < n_kept:
            gc.collect()
        models_of_keys = tuple(
            self._record_model(record, store, on_step) for record in wanted
        )
        for key in [key for key in self._kept if key not in keys]:
            if (
                sum(kept.sparse.n_bytes for kept in self._kept.values())
                > self._room_bytes
            ):
                del self._kept[key]
        try:
            yield models_of_keys
        finally:
            for record_model in models_of_keys:
                record_model.rest()

    def holds(self, key: str) -> bool:
        """Whether the model of this record is in memory."""
        return key in self._kept

    def clear(self) -> None:
        """Drop all models: a run needs the memory."""
        self._kept.clear()

    def _record_model(
        self, record: Record, store: Store, on_step: OnStep
    ) -> RecordModel:
        if record.key not in self._kept:
            for kept in self._kept.values():
                if kept.loaded_as == (record.model_identity, record.dtype):
                    self._model_cache.put(kept.loaded)
            self._kept[record.key] = _rebuild(record, store, on_step, self._model_cache)
        # The last ones used are dropped last.
        self._kept[record.key] = self._kept.pop(record.key)
        return self._kept[record.key]


def _rebuild(
    record: Record, store: Store, on_step: OnStep, model_cache: ModelCache
) -> RecordModel:
    rebuilt = rebuild_model(record, store, on_step, model_cache)
    if rebuilt.sparse is None or rebuilt.loaded.residency.streamed:
        return RecordModel(rebuilt.loaded, streamed=rebuilt.sparse)
    dense = ResidentModel.of(rebuilt.loaded.model)
    if rebuilt.sparse.kept.experts:
        sparse = ResidentModel.with_fewer_experts(rebuilt.sparse)
    else:
        with rebuilt.sparse.applied():
            sparse = ResidentModel.of(rebuilt.loaded.model)
    usual = {part.module: part for part in dense.parts}
    pairs = ((usual[after.module], after) for after in sparse.parts)
    changed_before = list[ModelPart]()
    changed_after = list[ModelPart]()
    for before, after in pairs:
        tensors = before.weights | before.buffers
        changed = after.weights | after.buffers
        has_new_tensors = any(
            tensors[name] is not tensor for name, tensor in changed.items()
        )
        if has_new_tensors or (before.widths, before.forward) != (
            after.widths,
            after.forward,
        ):
            changed_before.append(before)
            changed_after.append(after)
    return RecordModel(
        rebuilt.loaded, ResidentModel(changed_before), ResidentModel(changed_after)
    )


@contextmanager
def both_resident(
    dense: RecordModel, sparse: RecordModel, dtype: torch.dtype
) -> Iterator[tuple[ResidentModel, ResidentModel]]:
    """Both models in this dtype, narrowed; afterwards the loaded model is as before.

    The weights in which they differ are copied for both alike, so that neither has a better place
    in memory: weights from a file and weights that were just computed may be read at different
    speeds.
    """
    model = dense.loaded.model
    owned = list[ResidentModel]()
    before = ResidentModel.of(model)
    for record_model in (dense, sparse):
        with record_model.active():
            owned.append(ResidentModel.of(model))
    shared = set.intersection(*(set(map(id, resident.weights)) for resident in owned))
    copies: dict[int, tuple[Tensor, nn.Parameter]] = {}

    def copied(weight: nn.Parameter | None) -> nn.Parameter | None:
        if weight is None or (id(weight) in shared and weight.dtype == dtype):
            return weight
        if id(weight) not in copies:
            # The weight is held with its copy: an id is reused once its owner is gone.
            copies[id(weight)] = (
                weight,
                nn.Parameter(weight.detach().to(dtype, copy=True), requires_grad=False),
            )
        return copies[id(weight)][1]

    def recast(resident: ResidentModel) -> ResidentModel:
        parts = list[ModelPart]()
        for part in resident.parts:
            weights = {name: copied(weight) for name, weight in part.weights.items()}
            parts.append(part._replace(weights=weights))
        return ResidentModel(parts)

    try:
        yield recast(owned[0]), recast(owned[1])
    finally:
        before.enter_()
