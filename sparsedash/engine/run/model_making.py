"""Sparse models of a run are made from the dense one and its calibration, measured, healed, quantised, and rebuilt.

A block is made when it is first asked for, each by itself where the method allows it.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from typing import TypeVar

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from sparsedash.catalog.budgets import channel_share, n_layers_gone
from sparsedash.catalog.gguf_reader import opened_gguf
from sparsedash.engine.calibration.calibration_cache import CacheEvicted, Calibration, PassageActivations
from sparsedash.engine.calibration.gradients import OnBlock
from sparsedash.engine.calibration.sequential_pruning import prune_sequentially
from sparsedash.engine.calibration.sequential_refit import refit_sequentially
from sparsedash.engine.calibration.statistics import WalkCheckpoint, pack_tensors, reading_stored, unpacked
from sparsedash.engine.evaluation.divergence import mean_divergence, next_token_scores
from sparsedash.engine.healing.healing import HealingCheckpoint, heal
from sparsedash.engine.models.gguf_making import gguf_of
from sparsedash.engine.models.gguf_quantising import read_back, write_quantised
from sparsedash.engine.models.gguf_writing import dense_bytes
from sparsedash.engine.models.loading import LoadedModel, ModelShelf, Source
from sparsedash.engine.models.matmul import fastest_products
from sparsedash.engine.pruning.channel_pruning import ALLOCATIONS, prune_channels, remove_layers
from sparsedash.engine.pruning.compensation import COMPENSATIONS, BlockErrors, channel_errors
from sparsedash.engine.pruning.layer import CalibrationData, LazySequence
from sparsedash.engine.pruning.surgery import PrunedMlp, weight_of
from sparsedash.engine.pruning.weight_pruning import MaskedBlock, prune_weights
from sparsedash.engine.run.run_context import RunContext
from sparsedash.engine.run.sparse_models import MaskedWeights, PrunedChannels, SparseModel
from sparsedash.schema.errors import JobError, StoreError
from sparsedash.schema.method_settings import MethodSettings, Quantisation
from sparsedash.schema.progress import OnStep, Step, begin_parts
from sparsedash.schema.records import Healed, Pruned, Quantised, Record, about_artefact
from sparsedash.schema.settings import RunSettings
from sparsedash.schema.store_keys import healed_part, plain_share, pruned_key, quantiser_version
from sparsedash.storage.model_folders import passing_export, require_export_room
from sparsedash.storage.store import StageCheckpoint, Store

T = TypeVar("T")
Text = Sequence[Sequence[int]]
"""Token ids of every sequence."""

MORE_ROOM = "Raise the limit on the settings page or by SPARSEDASH_ARTEFACT_GB."

_BITS = {2: torch.int16, 4: torch.int32}
"""Integers as wide as a weight: of a zero all bits are zero."""


class MeasuredModel:
    """A sparse model and its errors, made block by block while the loaded model is the dense one."""

    def __init__(self, run: RunContext, method: MethodSettings, permille: int) -> None:
        self._run, self._method, self._permille = run, method, permille
        self.model = sparse_model(run, method.unquantised, permille)
        self._passage_errors = LazySequence(len(self.model.errors), self._passage_error)

    def measure(self, index: int) -> None:
        """Make this block, and measure its errors on calibration text and on passages; round it afterwards."""
        _ = self.model.blocks[index]
        _ = self.model.errors[index], self._passage_errors[index]
        self.model.round_(index)

    @cached_property
    def described(self) -> Pruned:
        """The record's part on pruning."""
        fitted, uncompensated, held_out = (
            tuple(error for error in kind if error is not None) for kind in zip(*self.model.errors, strict=True)
        )
        known = [error for error in self._passage_errors if error is not None]
        return Pruned(
            method=self._method,
            calibration=self._run.settings.calibration,
            sparsity_permille=self._permille,
            widths=tuple(self.model.widths),
            dense_widths=tuple(mlp.width for mlp in self._run.loaded.mlps),
            reached=self.model.reached(),
            layer_errors=fitted,
            held_out_errors=held_out,
            uncompensated_errors=uncompensated,
            passage_errors=tuple(known) if len(known) == len(self._passage_errors) else (),
            alone=tuple(self.model.alone()),
            healed=self.model.healed if isinstance(self.model, PrunedChannels) else None,
            quantised=self._quantised,
        )

    def finish(self) -> None:
        """Heal and quantise the model, all of whose blocks are made, where its method does.

        Healed weights are from the store where they are known; a quantised file is made anew.
        """
        if not isinstance(self.model, PrunedChannels):
            return
        if self._method.heal_steps and self._permille:
            self.model = _healed(self._run, self._method.unquantised, self._permille, self.model)
        if self._method.quantise:
            with self._run.log.timed("quantise"):
                self.model = _quantised(self._run, self._method.quantise, self.model)

    @cached_property
    def _quantised(self) -> Quantised | None:
        """The model's, with its divergence from the dense model."""
        found = self.model.quantised if isinstance(self.model, PrunedChannels) else None
        if found is None:
            return None
        dense, loaded = self._run.dense_scores, self._run.loaded
        with self._run.log.timed("quantise"), self.model.applied():
            own = next_token_scores(loaded, self._run.first_passages)
        return replace(found, divergence=mean_divergence(dense, own), n_tokens=sum(map(len, dense)))

    @cached_property
    def _activations(self) -> PassageActivations:
        """Those of the run's models that look at the same inputs, which read the passages together."""
        run, weights = self._run, self._run.settings.calibration.token_weights
        given = run.store, run.loaded, run.passages, self.model.watched, run.log.repeat
        found = PassageActivations(*given, token_weights=weights)
        return run.activations.setdefault(found.key, found)

    def _passage_error(self, index: int) -> float | None:
        """None where whole layers go, or the store has no room for what the projections are given on passages."""
        samples = None if self._method.takes_layers else self._activations.of(index)
        return None if samples is None else self.model.passage_error(index, samples)


def prune_model(run: RunContext, method: MethodSettings, permille: int) -> SparseModel:
    """The sparse model with all its blocks, not applied yet; calibrates first where that is missing."""
    return make_blocks(run, method, permille, lambda made, index: made.model.blocks[index]).model


def make_blocks(
    run: RunContext, method: MethodSettings, permille: int, block: Callable[[MeasuredModel, int], object]
) -> MeasuredModel:
    """The sparse model, after `block` was called with it for each block.

    Calibrates where needed statistics are missing, and begins again where they are evicted meanwhile. Raises StoreError
    where the store cannot hold them.
    """
    lost: set[str] = set()
    calibration = run.calibration(method)
    while True:
        if calibration.is_known:
            _note_calibrated(run)
        elif calibration.is_read:
            _reach(run, calibration, len(run.loaded.blocks) - 1)
        with run.log.timed("prune"):
            run.log.on_step(Step("prune", 0, len(run.loaded.blocks)))
            try:
                made = MeasuredModel(run, method, permille)
                for index in range(len(run.loaded.blocks)):
                    block(made, index)
                made.finish()
                return made
            except CacheEvicted as gone:
                if str(gone) in lost:
                    # It was computed again just now, and pushed out again.
                    raise StoreError("The calibration data does not fit into the store.", MORE_ROOM) from None
                lost.add(str(gone))


def _reach(run: RunContext, calibration: Calibration, index: int) -> None:
    """Collect statistics up to this block. Raises CalibrationError where there is far too little text."""
    with run.log.timed("calibrate"):
        run.log.warn(calibration.few_tokens_warning)
        calibration.reach(index)


def missing_statistics(run: RunContext, methods: Sequence[MethodSettings]) -> Sequence[Callable[[int], None]]:
    """Functions that collect, up to a block, statistics of these methods that the store does not have (any more)."""
    calibrations = list(dict.fromkeys(map(run.calibration, methods)))
    masking = [run.calibration(method) for method in methods if not method.takes_channels]
    if all(own.is_known for own in calibrations):
        _note_calibrated(run)
    read = [own for own in calibrations if own.is_read]
    inputs = [own.reach_inputs for own in read if own in masking and not own.has_inputs]
    return [partial(_reach, run, own) for own in read if not own.is_known] + inputs


def _note_calibrated(run: RunContext) -> None:
    """Note that the calibration was there, unless it was made now."""
    if "calibrate" not in run.log.seconds:
        run.log.note_cached("calibration")


def sparse_model(run: RunContext, method: MethodSettings, permille: int) -> SparseModel:
    """The sparse model before healing, not applied yet, none of whose blocks is made; that may raise CacheEvicted."""
    calibration, loaded = run.calibration(method), run.loaded
    method = method.unhealed
    # Store key of its parts, until it has been evaluated.
    key = pruned_key(calibration.keys.statistics, method, permille)
    data = calibration.data_for(method, permille)

    def on_block(done: int, total: int) -> None:
        loaded.residency.drop()
        run.log.on_step(Step("prune", done, total))

    if not method.takes_channels:
        return _masked(run, method, permille, data, key, on_block)
    n_gone = n_layers_gone(loaded.shape, method, permille) if method.takes_layers else 0
    gone = calibration.removed_layers(method, n_gone) if n_gone else []
    narrowed = _narrowed(run, method, permille, data, key, gone, on_block)
    energies = run.energies.setdefault(calibration.keys.statistics, {})
    kept = run.pruning_checkpoint.numbered(f"{key}/errors", msgspec.json.encode, _unpack_errors)
    errors = channel_errors(loaded.mlps, data, narrowed, energies, kept)
    if method.takes_layers:
        # What a layer that takes over puts out is meant to be another than dense's.
        errors = [(None, None, None)] * len(narrowed)
    allocation = ALLOCATIONS[method.allocation]

    def alone() -> list[float]:
        if not permille or not allocation.measures:
            return []
        scores = calibration.channel_scores(method, permille, on_block)
        return [float(own.losses[len(narrow.kept)]) for own, narrow in zip(scores, narrowed, strict=True)]

    return PrunedChannels(loaded=loaded, blocks=narrowed, errors=errors, alone=alone, gone=gone)


def _masked(
    run: RunContext, method: MethodSettings, permille: int, data: CalibrationData, key: str, on_block: OnBlock
) -> MaskedWeights:
    """Single weights at zero: each block by itself, or block after block on what is already sparse."""
    loaded, calibration, hold = run.loaded, run.calibration(method), run.loaded.residency.hold
    projections, on_step = loaded.projections(method.scope), run.log.on_step
    pack = partial(_pack_masked, refitted=method.compensation != "none")

    def unpack(index: int, packed: bytes) -> MaskedBlock:
        return _unpack_masked(packed, projections[index], hold)

    def made(index: int, make: Callable[[], MaskedBlock]) -> MaskedBlock:
        part, packed = f"{key}/masked/{index}", partial(_packed, run, pack)
        found: MaskedBlock = run.pruning_checkpoint.made(part, make, packed, partial(unpack, index))
        return found

    def walk(text: Text, checkpoint: WalkCheckpoint) -> Iterator[tuple[int, MaskedBlock]]:
        asked = method, permille, run.settings.calibration.token_weights
        return prune_sequentially(loaded, text, *asked, on_step, checkpoint)

    blocks: Sequence[MaskedBlock]
    if method.compensation == "sequential":
        checkpoint = StageCheckpoint(run.store, run.identity)
        blocks = _in_sequence(run, method, key, checkpoint, walk, pack, unpack)
    else:
        blocks = prune_weights(projections, data, method, permille, on_block=on_block, hold=hold, made=made)
    return MaskedWeights(loaded=loaded, scope=method.scope, blocks=blocks, groups=calibration.groups)


def _narrowed(
    run: RunContext,
    method: MethodSettings,
    permille: int,
    data: CalibrationData,
    key: str,
    gone: Sequence[int],
    on_block: OnBlock,
) -> LazySequence[PrunedMlp]:
    """Every narrowed MLP, by itself; or by a sequential refit, which is kept: it needs passes over the text."""
    hold = run.loaded.residency.hold
    scores = partial(run.calibration(method).channel_scores, method, permille, on_block)
    pack = partial(_packed, run, _pack_narrowed)
    sequential = permille > 0 and COMPENSATIONS[method.compensation].sequential
    # What leads to a refit is over once that is stored, before the model is evaluated.
    checkpoint = StageCheckpoint(run.store, run.identity) if sequential else run.pruning_checkpoint
    keep = checkpoint.numbered(f"{key}/chosen", pack, lambda packed: _unpack_narrowed(packed).held(hold))

    def made(index: int, make: Callable[[], PrunedMlp]) -> PrunedMlp:
        found: PrunedMlp = keep(index, lambda: make().held(hold))
        return found

    mlps = run.loaded.mlps
    if method.takes_layers:
        chosen = remove_layers(mlps, gone, lambda index: on_block(index + 1, len(mlps)), made)
    else:
        share = channel_share(run.loaded.shape, method, permille)
        chosen = prune_channels(mlps, data, method, share, scores=scores, on_layer=on_block, made=made)
    if not sequential:
        return chosen

    def walk(text: Text, walked: WalkCheckpoint) -> Iterator[tuple[int, PrunedMlp]]:
        asked = list(chosen), method.damping, method.strength
        return refit_sequentially(run.loaded, text, *asked, run.log.on_step, walked)

    def unpack(index: int, packed: bytes) -> PrunedMlp:
        return _unpack_narrowed(packed).held(hold)

    return _in_sequence(run, method, key, checkpoint, walk, _pack_narrowed, unpack)


def _in_sequence(
    run: RunContext,
    method: MethodSettings,
    key: str,
    checkpoint: StageCheckpoint,
    walk: Callable[[Text, WalkCheckpoint], Iterator[tuple[int, T]]],
    pack: Callable[[T], bytes],
    unpack: Callable[[int, bytes], T],
) -> LazySequence[T]:
    """Blocks that a walk of the text through all of them makes once any is asked for; they are kept in the store."""
    store, about, n_blocks = run.store, about_artefact("weights", run.identity), len(run.loaded.blocks)

    def has(index: int) -> bool:
        return store.has_entry("artefacts", f"{key}/{index}")

    @cache
    def made() -> dict[int, T]:
        found = dict[int, T]()
        if not all(map(has, range(n_blocks))):
            calibration = run.calibration(method)
            run.log.warn(calibration.few_tokens_warning)
            for index, block in walk(calibration.read(), WalkCheckpoint(checkpoint, f"{key}/hidden", has)):
                store.put_artefact(f"{key}/{index}", pack(block), about)
                found[index] = block
            checkpoint.done()
        for index in set(range(n_blocks)) - found.keys():
            data = store.get_artefact(f"{key}/{index}")
            if data is None:
                raise CacheEvicted(key)
            found[index] = unpack(index, data)
        return found

    return LazySequence(n_blocks, lambda index: made()[index])


def _healed(run: RunContext, method: MethodSettings, permille: int, made: PrunedChannels) -> PrunedChannels:
    """The model with the weights of its healing, which are kept: it needs many passes over the text."""
    calibration, loaded = run.calibration(method), run.loaded
    key = pruned_key(calibration.keys.statistics, method, permille)
    for index in range(len(made.blocks)):
        # What is evaluated unhealed is what is healed.
        made.round_(index)
    if known := _known_healed(run, key, made):
        return known
    checkpoint = HealingCheckpoint(StageCheckpoint(run.store, run.identity), key)
    asked = method.heal_steps, run.settings.calibration.seed
    with run.log.timed("heal"):
        text = calibration.read(), run.text_to_heal(method)
        found = heal(loaded, made.blocks, *text, *asked, run.log.on_step, checkpoint)
    figures = Healed(
        steps=method.heal_steps,
        kept_step=found.kept_step,
        before=found.before,
        after=found.after,
        n_tokens=found.n_tokens,
        weights=key,
    )
    # Evictable as any checkpoint: a run that is given up here leaves nothing that stays.
    about = about_artefact("unfinished", run.identity)
    for index, block in enumerate(found.blocks):
        run.store.put_artefact(healed_part(key, str(index)), _pack_narrowed(block), about)
    run.store.put_artefact(healed_part(key, "norms"), pack_tensors(found.norms), about)
    # The last one: with it they are whole.
    run.store.put_artefact(healed_part(key, "figures"), msgspec.json.encode(figures), about)
    checkpoint.done()
    return replace(made.holding(found.blocks, found.norms), healed=figures)


def _quantised(run: RunContext, kind: Quantisation, made: PrunedChannels) -> PrunedChannels:
    """The model with the weights of a file of this type, made as an export makes it, read back and deleted."""
    dense_file = gguf_of(run.source, run.store)
    step = Step("quantise", 0, 1, message=kind.upper())
    with passing_export(run.store.folder) as place:
        file, room = place / "quantised.gguf", partial(require_export_room, place)
        on_part = begin_parts(step, run.log.on_step)
        written = write_quantised(file, dense_file, made, kind, is_base=True, require_room=room, on_part=on_part)
        found, full_bytes = read_back(file, dense_file, made, kind), dense_bytes(opened_gguf(file), "float16")
    figures = Quantised(
        n_bytes=written.size,
        full_bytes=full_bytes,
        dense_bytes=dense_bytes(opened_gguf(dense_file), "float16"),
        tensors=found.tensors,
        fell_back=found.fell_back,
        quantiser=quantiser_version(),
    )
    return replace(made.holding(found.blocks, found.others), quantised=figures)


def _known_healed(run: RunContext, key: str, made: PrunedChannels) -> PrunedChannels | None:
    """The healed model from the store; None where a part of it is not there."""
    names = [*map(str, range(len(made.blocks))), "norms", "figures"]
    if not run.store.has_entry("artefacts", healed_part(key, "figures")):
        return None
    found = [run.store.get_artefact(healed_part(key, name)) for name in names]
    if None in found:
        return None
    *blocks, norms, figures = (data for data in found if data is not None)
    narrowed = [_unpack_narrowed(data).held(run.loaded.residency.hold) for data in blocks]
    with unpacked(norms, "norms") as tensors, reading_stored("healing"):
        healed = msgspec.json.decode(figures, type=Healed)
    run.log.note_cached("healed weights")
    return replace(made.holding(narrowed, tensors), healed=healed)


def protect_healed(record: Record, store: Store) -> None:
    """Exempt the healed weights that a record refers to from eviction and from the limit."""
    if record.pruned is not None and record.pruned.healed is not None:
        parts = healed_part(record.pruned.healed.weights, "")
        store.retag_artefacts(parts, about_artefact("healed", record.model_identity))


def _packed(run: RunContext, pack: Callable[[T], bytes], part: T) -> bytes:
    """Drops streamed weights afterwards: many parts may be packed one after another."""
    data = pack(part)
    run.loaded.residency.drop()
    return data


@dataclass(frozen=True, eq=False, kw_only=True)
class RebuiltModel:
    """The dense model, and the sparse one of the record if it has one, not applied yet."""

    source: Source
    loaded: LoadedModel
    sparse: SparseModel | None
    calibration_identity: str = ""


def rebuild_model(record: Record, store: Store, on_step: OnStep, shelf: ModelShelf) -> RebuiltModel:
    """The model of a record, rebuilt bit for bit.

    Raises JobError where its reference names another model by now, where another quantiser made it, or where an earlier
    version healed it.
    """
    settings = RunSettings(model=record.model, dtype=record.dtype)
    if record.pruned is not None:
        settings = replace(settings, calibration=record.pruned.calibration, methods=(record.pruned.method,))
    run = RunContext(settings, store, on_step, shelf)
    if run.identity != record.model_identity:
        raise JobError(f"{record.model} has changed since this result was computed.", "Run it again.")
    if record.pruned and (of := record.pruned.quantised) and of.quantiser != quantiser_version():
        here = quantiser_version() or "none"
        raise JobError(f"It was quantised by llama.cpp's binding {of.quantiser}; here is {here}.", "Run it again.")
    if record.pruned is None:
        return RebuiltModel(source=run.source, loaded=run.loaded, sparse=None)
    method, permille = record.pruned.method, record.pruned.sparsity_permille
    if healed := record.pruned.healed:
        key = pruned_key(run.calibration(method).keys.statistics, method.unquantised, permille)
        if healed.weights != key:
            raise JobError("An earlier version of this program healed it, on less text.", "Run it again.")
    with fastest_products(record.dtype):
        sparse = prune_model(run, method, permille)
    protect_healed(record, store)
    text = run.calibration_identity(plain_share(method, settings.calibration)) if method.reads_text else ""
    return RebuiltModel(source=run.source, loaded=run.loaded, sparse=sparse, calibration_identity=text)


def _pack_narrowed(narrow: PrunedMlp) -> bytes:
    lost = None if narrow.lost is None else torch.tensor(narrow.lost, dtype=torch.float64)
    tensors = {"kept": narrow.kept, "out_weight": narrow.out_weight, "out_bias": narrow.out_bias, "lost": lost}
    for number, (weight, bias) in enumerate(narrow.inner):
        tensors |= {f"inner {number}": weight, f"inner {number} bias": bias}
    return pack_tensors({name: tensor for name, tensor in tensors.items() if tensor is not None})


def _unpack_narrowed(data: bytes) -> PrunedMlp:
    with unpacked(data, "MLPs") as tensors:
        lost = float(tensors["lost"]) if "lost" in tensors else None
        n_inner = sum(name.startswith("inner ") and not name.endswith(" bias") for name in tensors)
        inner = tuple((tensors[f"inner {n}"], tensors.get(f"inner {n} bias")) for n in range(n_inner))
        return PrunedMlp(tensors["kept"], tensors["out_weight"], tensors.get("out_bias"), lost, inner)


def _pack_masked(block: MaskedBlock, *, refitted: bool) -> bytes:
    """A bit for each weight that is not zero, and where they are refitted those weights."""
    errors = [[math.nan if error is None else error for error in own] for own in block.errors]
    tensors = {"errors": torch.tensor(errors, dtype=torch.float64).reshape(-1, 3)}
    for name, weight in block.weights.items():
        stays = weight.contiguous().view(_BITS[weight.itemsize]) != 0
        tensors[f"{name} stays"] = torch.from_numpy(np.packbits(stays.numpy()))
        if refitted:
            tensors[f"{name} weights"] = weight[stays]
    return pack_tensors(tensors)


def _unpack_masked(data: bytes, dense: Mapping[str, nn.Linear], hold: Callable[[Tensor], Tensor]) -> MaskedBlock:
    """dense: its projections by name."""
    with unpacked(data, "masks") as tensors:
        errors = [[None if math.isnan(error) else error for error in own] for own in tensors.pop("errors").tolist()]
        weights = {}
        for name in sorted({name.rpartition(" ")[0] for name in tensors}):
            before = weight_of(dense[name]).detach().cpu()
            bits = np.unpackbits(tensors[f"{name} stays"].numpy())[: before.numel()]
            stays = torch.from_numpy(bits).bool().reshape(before.shape)
            weight = weights[name] = torch.zeros(before.shape, dtype=before.dtype)
            weight[stays] = tensors[f"{name} weights"] if f"{name} weights" in tensors else before[stays]
        return MaskedBlock(weights=weights, errors=[(f, p, h) for f, p, h in errors]).held(hold)


def _unpack_errors(data: bytes) -> BlockErrors:
    with reading_stored("errors"):
        found: BlockErrors = msgspec.json.decode(data, type=BlockErrors)
        return found
