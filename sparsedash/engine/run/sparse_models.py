"""Sparse models of a run, made from the dense one and its calibration: narrower MLPs, or single weights at zero.

Both kinds answer the same questions. A block is made when it is first asked for, each by itself where the method allows
it. All but `applied` is asked while the loaded model is the dense one.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import TypeVar

import msgspec
import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from sparsedash.engine.calibration.calibration_cache import CacheEvicted
from sparsedash.engine.calibration.mismatch import PassageActivations
from sparsedash.engine.calibration.sequential_refit import refit_sequentially
from sparsedash.engine.calibration.statistics import WalkCheckpoint, reading_stored
from sparsedash.engine.models.decoder_blocks import n_matmul_weights, weights_per_channel
from sparsedash.engine.models.loading import LoadedModel, ModelShelf, Source
from sparsedash.engine.models.matmul import fastest_products
from sparsedash.engine.pruning.allocation import ALLOCATIONS
from sparsedash.engine.pruning.channel_pruning import prune_channels
from sparsedash.engine.pruning.compensation import (
    COMPENSATIONS,
    BlockErrors,
    channel_errors,
    layer_errors,
    passage_error,
)
from sparsedash.engine.pruning.layer import CalibrationData, LazySequence, Sample
from sparsedash.engine.pruning.surgery import PrunedMlp, pruned, reweighted, weight_of
from sparsedash.engine.pruning.weight_pruning import MaskedBlock, prune_weights, weight_passage_error
from sparsedash.engine.run.run_context import Calibration, RunContext
from sparsedash.schema.errors import JobError, StoreError
from sparsedash.schema.method_settings import MethodSettings, Scope
from sparsedash.schema.progress import OnStep, Step
from sparsedash.schema.records import Pruned, Record, about_artefact
from sparsedash.schema.settings import RunSettings
from sparsedash.schema.store_keys import pruned_key
from sparsedash.storage.store import Store

T = TypeVar("T")

MORE_ROOM = "Allow it more room on the storage page, or with SPARSEDASH_ARTEFACT_GB."

_BITS = {2: torch.int16, 4: torch.int32}
"""Integers as wide as a weight: of a zero all bits are zero."""


@dataclass(frozen=True, eq=False, kw_only=True)
class PrunedChannels:
    """A model whose MLPs have fewer channels.

    narrowed: what each MLP becomes. errors: of each MLP. sensitivities: see CalibrationData; gives none where the
    method does not ask for them.
    """

    loaded: LoadedModel
    narrowed: LazySequence[PrunedMlp]
    errors: Sequence[BlockErrors]
    sensitivities: Callable[[], list[float]]

    def made(self, index: int) -> PrunedMlp:
        """This block, made now where it is not yet."""
        return self.narrowed[index]

    def round_(self, index: int) -> None:
        """Keep this block in the model's own type from now on, to which it is rounded in any case."""
        narrow, dtype = self.narrowed[index], self.loaded.mlps[index].out.weight.dtype
        if narrow.out_weight.dtype != dtype:
            rounded = replace(narrow, out_weight=narrow.out_weight.to(dtype))
            self.narrowed.replace(index, rounded.held(self.loaded.residency.hold))

    def applied(self) -> AbstractContextManager[None]:
        """Inside, the loaded model is the sparse one; afterwards the dense one again."""
        changes = [
            lambda index=index, mlp=mlp: pruned([mlp], [self.narrowed[index]])
            for index, mlp in enumerate(self.loaded.mlps)
        ]
        return self.loaded.residency.changed(changes)

    @property
    def widths(self) -> list[int]:
        """Channels of each MLP."""
        return [len(narrow.kept) for narrow in self.narrowed]

    def sparsities(self) -> tuple[float, float]:
        """MLP sparsity, and matmul ratio: of all Linear and Conv layers, output head included."""
        mlps, total = self.loaded.mlps, n_matmul_weights(self.loaded.model)
        dense, per_channel = [mlp.width for mlp in mlps], [weights_per_channel(mlp) for mlp in mlps]
        removed = sum((m - k) * n for m, k, n in zip(dense, self.widths, per_channel, strict=True))
        return 1 - sum(self.widths) / sum(dense), removed / total

    @property
    def watched(self) -> list[list[str]]:
        """Of each block, the names of the projections whose inputs `passage_error` takes."""
        return [[self.loaded.family.out]] * len(self.narrowed)

    def passage_error(self, index: int, samples: list[Sample]) -> float:
        """Error of this block on samples of its watched projections' inputs."""
        return passage_error(self.loaded.mlps[index], self.narrowed[index], samples[0])


@dataclass(frozen=True, eq=False, kw_only=True)
class MaskedWeights:
    """A model of the same shape with zeros among its weights.

    scope: which projections have zeros. masked: each block's new weights. groups: of each block, the names of all
    projections, grouped by their input.
    """

    loaded: LoadedModel
    scope: Scope
    masked: Sequence[MaskedBlock]
    groups: list[list[list[str]]]

    def made(self, index: int) -> MaskedBlock:
        """This block, made now where it is not yet."""
        return self.masked[index]

    def round_(self, index: int) -> None:
        """Nothing: its weights are made in the model's own type."""

    @property
    def errors(self) -> Sequence[BlockErrors]:
        """Average errors of each block's projections."""
        return LazySequence(len(self.masked), lambda index: self.masked[index].average_errors)

    def sensitivities(self) -> list[float]:
        """None: all blocks give as much."""
        return []

    def applied(self) -> AbstractContextManager[None]:
        """Inside, the loaded model is the sparse one; afterwards the dense one again."""
        changes = [
            lambda index=index, block=block: reweighted([block], [self.masked[index].weights])
            for index, block in enumerate(self.loaded.projections(self.scope))
        ]
        return self.loaded.residency.changed(changes)

    @property
    def widths(self) -> list[int]:
        """Channels of each MLP: those of the dense one."""
        return [mlp.width for mlp in self.loaded.mlps]

    def sparsities(self) -> tuple[float, float]:
        """MLP sparsity, and matmul ratio: of all Linear and Conv layers, output head included."""
        family, total = self.loaded.family, n_matmul_weights(self.loaded.model)
        n_mlp = sum(part.weight.numel() for block in self.loaded.projections("mlp") for part in block.values())
        zeros = [(name, int((weight == 0).sum())) for block in self.masked for name, weight in block.weights.items()]
        in_mlps = sum(n for name, n in zeros if name in family.mlp)
        return in_mlps / n_mlp, sum(n for _, n in zeros) / total

    @property
    def watched(self) -> list[list[str]]:
        """Of each block, the names of the projections whose inputs `passage_error` takes."""
        return [[names[0] for names in block] for block in self.groups]

    def passage_error(self, index: int, samples: list[Sample]) -> float:
        """Error of this block on samples of its watched projections' inputs."""
        block, masked = self.loaded.projections(self.scope)[index], self.masked[index].weights
        return weight_passage_error(block, self.groups[index], samples, masked)


SparseModel = PrunedChannels | MaskedWeights


class MeasuredModel:
    """A sparse model with its errors, block by block, for the record; used while the loaded model is the dense one.

    samples: of a block, what its watched projections are given on passages; None where the store has no room for them.
    """

    def __init__(self, model: SparseModel, samples: Callable[[int], list[Sample] | None]) -> None:
        self.model, self._samples = model, samples
        self._passage_errors = LazySequence(len(model.errors), self._passage_error)
        self._sensitivities = cache(model.sensitivities)

    def block(self, index: int) -> tuple[BlockErrors, float | None]:
        """Make this block, and measure its errors on calibration text and on passages; round it afterwards."""
        self.model.made(index)
        self._sensitivities()
        found = self.model.errors[index], self._passage_errors[index]
        self.model.round_(index)
        return found

    def described(self, run: RunContext, method: MethodSettings, permille: int) -> Pruned:
        """The record's part on pruning."""
        in_mlps, everywhere = self.model.sparsities()
        fitted, uncompensated, held_out = layer_errors(self.model.errors)
        on_passages = list(self._passage_errors)
        known = [error for error in on_passages if error is not None]
        return Pruned(
            method=method,
            calibration=run.settings.calibration,
            sparsity_permille=permille,
            widths=tuple(self.model.widths),
            dense_widths=tuple(mlp.width for mlp in self.model.loaded.mlps),
            mlp_sparsity=in_mlps,
            matmul_ratio=everywhere,
            layer_errors=fitted,
            held_out_errors=held_out,
            uncompensated_errors=uncompensated,
            passage_errors=tuple(known) if len(known) == len(on_passages) else (),
            sensitivities=tuple(self._sensitivities()),
        )

    def _passage_error(self, index: int) -> float | None:
        samples = self._samples(index)
        return None if samples is None else self.model.passage_error(index, samples)


def measured_model(run: RunContext, method: MethodSettings, permille: int) -> MeasuredModel:
    """A sparse model to be measured, none of whose blocks is made yet; that may raise CacheEvicted."""
    model, weights = sparse_model(run, method, permille), run.settings.calibration.token_weights
    found = PassageActivations(
        run.store, run.loaded, run.passages, model.watched, run.log.on_step, token_weights=weights
    )
    # Models that look at the same inputs read the passages together.
    return MeasuredModel(model, run.activations.setdefault(found.key, found).of)


def prune_model(run: RunContext, method: MethodSettings, permille: int) -> SparseModel:
    """The sparse model with all its blocks, not applied yet; calibrates first where that is missing."""
    return make_blocks(run, method, lambda: sparse_model(run, method, permille), lambda made, index: made.made(index))


def make_blocks(
    run: RunContext, method: MethodSettings, begin: Callable[[], T], block: Callable[[T, int], object]
) -> T:
    """The result of `begin`, after `block` was called with it for every block of the model.

    Begun again where statistics are lost on the way. Calibrates first where the statistics are not there (any more),
    but not where neither the method nor another of the run reads this text. Raises StoreError where the store cannot
    hold the calibration's results.
    """
    lost: set[str] = set()
    calibration = run.calibration(method)
    while True:
        if calibration.is_known:
            _note_calibrated(run)
        elif calibration.is_read:
            calibration.reach(len(run.loaded.blocks) - 1)
        with run.log.timed("prune"):
            try:
                made = begin()
                for index in range(len(run.loaded.blocks)):
                    block(made, index)
                return made
            except CacheEvicted as gone:
                if gone.key in lost:
                    # It was computed again just now, and pushed out again.
                    raise StoreError("What was calibrated does not fit into the store.", MORE_ROOM) from None
                lost.add(gone.key)


def missing_statistics(run: RunContext, methods: Sequence[MethodSettings]) -> Sequence[Callable[[int], None]]:
    """Functions that collect, up to a block, statistics of these methods that the store does not have (any more)."""
    masks: dict[Calibration, bool] = {}
    for method in methods:
        calibration = run.calibration(method)
        masks[calibration] = masks.get(calibration, False) or not method.takes_channels
    if all(calibration.is_known for calibration in masks):
        _note_calibrated(run)
    read = [calibration for calibration in masks if calibration.is_read]
    inputs = [own.cache.reach_inputs for own in read if masks[own] and not own.cache.has_inputs]
    return [own.reach for own in read if not own.is_known] + inputs


def _note_calibrated(run: RunContext) -> None:
    """Note that the calibration was there, unless it was made now."""
    if "calibrate" not in run.log.seconds:
        run.log.note_cached("calibration")


def sparse_model(run: RunContext, method: MethodSettings, permille: int) -> SparseModel:
    """The sparse model, not applied yet, none of whose blocks is made yet; that may raise CacheEvicted."""
    calibration = run.calibration(method)
    # Store key of its parts, until it has been evaluated.
    key = pruned_key(calibration.keys.statistics, method, permille)
    data = calibration.cache.data_for(method, permille)
    if not method.takes_channels:
        masked = _masked(run, method, permille, data, key)
        return MaskedWeights(loaded=run.loaded, scope=method.scope, masked=masked, groups=calibration.cache.groups)
    narrowed = _narrowed(run, method, permille, data, key)
    energies = run.energies.setdefault(calibration.keys.statistics, {})
    kept = run.pruning_checkpoint.numbered(f"{key}/errors", msgspec.json.encode, _unpack_errors)
    errors = channel_errors(run.loaded.mlps, data, narrowed, energies, kept)
    sensitivities = data.sensitivities if ALLOCATIONS[method.allocation].needs_losses else list[float]
    return PrunedChannels(loaded=run.loaded, narrowed=narrowed, errors=errors, sensitivities=sensitivities)


def _masked(
    run: RunContext, method: MethodSettings, permille: int, data: CalibrationData, key: str
) -> Sequence[MaskedBlock]:
    projections, hold = run.loaded.projections(method.scope), run.loaded.residency.hold
    pack = _then_dropping(run, partial(_pack_masked, refitted=method.compensation != "none"))

    def made(index: int, make: Callable[[], MaskedBlock]) -> MaskedBlock:
        def unpack(packed: bytes) -> MaskedBlock:
            return _unpack_masked(packed, projections[index]).held(hold)

        found: MaskedBlock = run.pruning_checkpoint.made(f"{key}/masked/{index}", make, pack, unpack)
        return found

    on_block = partial(_on_block, run)
    return prune_weights(projections, data, method, permille, on_block=on_block, hold=hold, made=made)


def _narrowed(
    run: RunContext, method: MethodSettings, permille: int, data: CalibrationData, key: str
) -> LazySequence[PrunedMlp]:
    """Every narrowed MLP, by itself; or by a sequential refit, which is kept: it needs passes over the text."""
    hold, on_block = run.loaded.residency.hold, partial(_on_block, run)
    scores = partial(run.calibration(method).cache.channel_scores, method, permille, on_block)
    pack = _then_dropping(run, _pack_narrowed)
    keep = run.pruning_checkpoint.numbered(f"{key}/chosen", pack, lambda packed: _unpack_narrowed(packed).held(hold))

    def made(index: int, make: Callable[[], PrunedMlp]) -> PrunedMlp:
        return keep(index, lambda: make().held(hold))

    chosen = prune_channels(run.loaded.mlps, data, method, permille, scores=scores, on_layer=on_block, made=made)
    if permille == 0 or not COMPENSATIONS[method.compensation].sequential:
        return chosen
    refitted = cache(partial(_refitted, run, method, chosen, key))
    return LazySequence(len(chosen), lambda index: refitted()[index])


def _refitted(run: RunContext, method: MethodSettings, chosen: Sequence[PrunedMlp], key: str) -> list[PrunedMlp]:
    store, about, found = run.store, about_artefact("weights", run.identity), dict[int, PrunedMlp]()

    def has(index: int) -> bool:
        return store.has_artefact(f"{key}/{index}")

    indices = range(len(chosen))
    if not all(map(has, indices)):
        checkpoint = WalkCheckpoint(run.pruning_checkpoint, f"{key}/hidden", has)
        sequences, on_step = run.calibration(method).sequences, run.log.on_step
        args = run.loaded, sequences, list(chosen), method.damping, method.strength, on_step, checkpoint
        for index, narrow in refit_sequentially(*args):
            store.put_artefact(f"{key}/{index}", _pack_narrowed(narrow), about)
            found[index] = narrow
    for index in indices:
        if index not in found:
            data = store.get_artefact(f"{key}/{index}")
            if data is None:
                raise CacheEvicted(key)
            found[index] = _unpack_narrowed(data).held(run.loaded.residency.hold)
    return [found[index] for index in indices]


def _then_dropping(run: RunContext, pack: Callable[[T], bytes]) -> Callable[[T], bytes]:
    """The same, which drops streamed weights afterwards: many parts may be packed one after another."""

    def packed(part: T) -> bytes:
        data = pack(part)
        run.loaded.residency.drop()
        return data

    return packed


def _on_block(run: RunContext, done: int, total: int) -> None:
    run.loaded.residency.drop()
    run.log.on_step(Step("prune", done, total))


@dataclass(frozen=True, eq=False, kw_only=True)
class RebuiltModel:
    """loaded: the dense model. sparse: the sparse one, not applied yet; None for a dense record.

    calibration_identity: of the text that it was made with; empty where none was read.
    """

    source: Source
    loaded: LoadedModel
    sparse: SparseModel | None
    calibration_identity: str = ""


def rebuild_model(record: Record, store: Store, on_step: OnStep, shelf: ModelShelf) -> RebuiltModel:
    """The model of a record, rebuilt bit for bit from the dense one, its statistics and its settings.

    Raises JobError where its reference names another model by now.
    """
    settings = RunSettings(model=record.model, dtype=record.dtype)
    if record.pruned is not None:
        settings = replace(settings, calibration=record.pruned.calibration, methods=(record.pruned.method,))
    run = RunContext(settings, store, on_step, shelf)
    if run.identity != record.model_identity:
        raise JobError(f"{record.model} is not what it was when this result was made.", "Run it again.")
    if record.pruned is None:
        return RebuiltModel(source=run.source, loaded=run.loaded, sparse=None)
    method = record.pruned.method
    with fastest_products(record.dtype):
        sparse = prune_model(run, method, record.pruned.sparsity_permille)
    text = run.calibration(method).text_identity if method.reads_text else ""
    return RebuiltModel(source=run.source, loaded=run.loaded, sparse=sparse, calibration_identity=text)


def _pack_narrowed(narrow: PrunedMlp) -> bytes:
    tensors = {"kept": narrow.kept, "out_weight": narrow.out_weight.contiguous()}
    if narrow.out_bias is not None:
        tensors["out_bias"] = narrow.out_bias
    if narrow.lost is not None:
        tensors["lost"] = torch.tensor(narrow.lost, dtype=torch.float64)
    return bytes(safetensors.torch.save(tensors))


def _unpack_narrowed(data: bytes) -> PrunedMlp:
    with reading_stored("MLPs"):
        tensors = safetensors.torch.load(data)
        lost = float(tensors["lost"]) if "lost" in tensors else None
        return PrunedMlp(tensors["kept"], tensors["out_weight"], tensors.get("out_bias"), lost)


def _pack_masked(block: MaskedBlock, *, refitted: bool) -> bytes:
    """One block's masked weights: a bit for each of them, and those that are not zero.

    refitted: whether they differ from the dense ones; where they do not, the bits are enough.
    """
    errors = [[np.nan if error is None else error for error in own] for own in block.errors]
    tensors = {"errors": torch.tensor(errors, dtype=torch.float64).reshape(-1, 3)}
    for name, weight in block.weights.items():
        stays = weight.contiguous().view(_BITS[weight.itemsize]) != 0
        tensors[f"{name} stays"] = torch.from_numpy(np.packbits(stays.numpy()))
        if refitted:
            tensors[f"{name} weights"] = weight[stays]
    return bytes(safetensors.torch.save(tensors))


def _unpack_masked(data: bytes, dense: Mapping[str, nn.Linear]) -> MaskedBlock:
    """dense: its projections by name."""
    with reading_stored("masks"):
        tensors = safetensors.torch.load(data)
        rows = tensors.pop("errors").tolist()
        errors = [(_error_or_none(f), _error_or_none(p), _error_or_none(h)) for f, p, h in rows]
        names = {name.rpartition(" ")[0] for name in tensors}
        weights = {name: _unpack_weight(tensors, name, weight_of(dense[name]).detach().cpu()) for name in sorted(names)}
        return MaskedBlock(weights=weights, errors=errors)


def _error_or_none(error: float) -> float | None:
    return None if math.isnan(error) else error


def _unpack_weight(tensors: Mapping[str, Tensor], name: str, dense: Tensor) -> Tensor:
    bits = np.unpackbits(tensors[f"{name} stays"].numpy())[: dense.numel()]
    stays = torch.from_numpy(bits).bool().reshape(dense.shape)
    weight = torch.zeros(dense.shape, dtype=dense.dtype)
    weight[stays] = tensors[f"{name} weights"] if f"{name} weights" in tensors else dense[stays]
    return weight


def _unpack_errors(data: bytes) -> BlockErrors:
    with reading_stored("errors"):
        found: BlockErrors = msgspec.json.decode(data, type=BlockErrors)
        return found
