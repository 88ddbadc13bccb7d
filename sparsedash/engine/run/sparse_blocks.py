"""The blocks of a sparse model, made one by one on first use, or all in sequence.

What is made by itself is kept until the model is evaluated, what takes passes over the text as an
artefact.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from sparsedash.catalog.budgets import channel_share, fewer_experts, n_layers_gone
from sparsedash.engine.calibration.calibration import CacheEvicted, Calibration
from sparsedash.engine.calibration.expert_pruning import prune_experts
from sparsedash.engine.calibration.gradients import OnBlock
from sparsedash.engine.calibration.sequential_pruning import prune_sequentially
from sparsedash.engine.calibration.sequential_refit import refit_sequentially
from sparsedash.engine.calibration.statistics import (
    WalkCheckpoint,
    pack_tensors,
    unpacked,
)
from sparsedash.engine.models.sparse_models import (
    MaskedWeights,
    PrunedChannels,
    SparseModel,
)
from sparsedash.engine.pruning.channel_pruning import (
    choose_channels,
    prune_channels,
    remove_layers,
)
from sparsedash.engine.pruning.compensation import BlockErrors, channel_errors
from sparsedash.engine.pruning.experts import KeptExperts
from sparsedash.engine.pruning.layer import CalibrationData, LazySequence
from sparsedash.engine.pruning.surgery import PrunedMlp, weight_of
from sparsedash.engine.pruning.weight_pruning import MaskedBlock, prune_weights
from sparsedash.engine.run.run_context import RunContext
from sparsedash.schema.progress import Step
from sparsedash.schema.records import about_artefact
from sparsedash.schema.sparse_spec import SparseSpec
from sparsedash.schema.store_keys import pruned_key
from sparsedash.storage.checkpoint import StageCheckpoint

T = TypeVar("T")
Text = Sequence[Sequence[int]]
"""Token ids of every sequence."""

_BITS = {2: torch.int16, 4: torch.int32}
"""Integers as wide as a weight: of a zero all bits are zero."""


def sparse_model(run: RunContext, spec: SparseSpec) -> SparseModel:
    """The sparse model before healing, with no block made yet. May raise CacheEvicted."""
    calibration = run.calibration(spec)
    loaded = run.loaded
    method = spec.pruning
    permille = spec.permille
    # Store key of its parts, until it has been evaluated.
    key = pruned_key(calibration.keys.statistics, spec.before_healing)
    data = calibration.data_for(method, permille)

    def on_block(done: int, total: int) -> None:
        loaded.residency.drop()
        run.log.on_step(Step("prune", done, total))

    if not method.is_structured:
        return _masked(run, calibration, spec, data, key, on_block)
    if method.prunes_experts:
        return _fewer_experts(run, calibration, spec, key)
    n_gone = (
        n_layers_gone(loaded.shape, method, permille) if method.removes_layers else 0
    )
    gone = calibration.removed_layers(method, n_gone) if n_gone else []
    narrowed = _narrowed(run, calibration, spec, data, key, gone, on_block)
    keep_errors = run.pruning_checkpoint.numbered(
        f"{key}/errors", _pack_errors, _unpack_errors
    )
    errors = channel_errors(
        loaded.mlps, data, narrowed, run.energies(calibration), keep_errors
    )
    if method.removes_layers:
        # After a removed layer the next one's output is meant to differ from dense's.
        errors = [BlockErrors()] * len(narrowed)

    def block_losses() -> list[float]:
        if not permille or not method.needs_curves:
            return []
        scores = calibration.channel_scores(method, permille, on_block)
        return [
            float(block_scores.losses[len(narrow.kept)])
            for block_scores, narrow in zip(scores, narrowed, strict=True)
        ]

    return PrunedChannels(
        loaded=loaded,
        blocks=narrowed,
        errors=errors,
        block_losses=block_losses,
        removed_layers=gone,
    )


def _fewer_experts(
    run: RunContext, calibration: Calibration, spec: SparseSpec, key: str
) -> PrunedChannels:
    """Fewer or narrower experts, chosen on the dense model's activations; all MLPs as they are.

    The text is read once for this model and all others of the run that lack theirs.
    """
    loaded = run.loaded

    def walk(text: Text, walked: WalkCheckpoint) -> Iterator[tuple[int, KeptExperts]]:
        specs = {key: spec}
        for sibling in run.together:
            if not sibling.pruning.prunes_experts or run.has_record(sibling):
                continue
            other_key = pruned_key(calibration.keys.statistics, sibling.before_healing)
            if run.calibration(sibling) is calibration and not _is_stored(
                run, other_key
            ):
                specs[other_key] = sibling
        models = []
        for model in specs.values():
            kept = fewer_experts(loaded.shape, model.pruning, model.permille)
            models.append((model.pruning, kept.experts or kept.expert_widths))
        about = about_artefact("weights", run.identity)
        for index, narrowed in prune_experts(
            loaded, text, models, run.log.on_step, walked
        ):
            for other_key, narrow in zip(specs, narrowed, strict=True):
                if other_key != key:
                    run.store.put_artefact(
                        f"{other_key}/{index}", _pack_experts(narrow), about
                    )
            yield index, narrowed[0]

    def unpack(_: int, packed: bytes) -> KeptExperts:
        narrow = _unpack_experts(packed)
        outs = None if narrow.outs is None else loaded.residency.offload(narrow.outs)
        return replace(narrow, outs=outs)

    checkpoint = StageCheckpoint(run.store, run.identity)
    experts = _in_sequence(
        run, calibration, key, checkpoint, walk, _pack_experts, unpack
    )

    def errors(index: int) -> BlockErrors:
        narrow = experts[index]
        held_out = narrow.lost_held_out if len(narrow.kept) else 0.0
        return BlockErrors(narrow.lost, narrow.lost_without, held_out)

    dense = PrunedChannels.dense(loaded)
    return replace(
        dense, experts=experts, errors=LazySequence(len(loaded.blocks), errors)
    )


def _is_stored(run: RunContext, key: str) -> bool:
    """Whether the store has every block of a model."""
    blocks = range(len(run.loaded.blocks))
    return all(run.store.has_entry("artefacts", f"{key}/{index}") for index in blocks)


def _pack_experts(narrow: KeptExperts) -> bytes:
    held_out = math.nan if narrow.lost_held_out is None else narrow.lost_held_out
    figures = [narrow.lost, narrow.lost_without, held_out, narrow.n_few_tokens]
    tensors = {
        "kept": narrow.kept,
        "use": torch.tensor(narrow.use, dtype=torch.float64),
        "figures": torch.tensor(figures, dtype=torch.float64),
    }
    if narrow.outs is not None:
        tensors["outs"] = narrow.outs
    if narrow.channels is not None:
        tensors["channels"] = narrow.channels
    if narrow.shared is not None:
        tensors["shared"] = narrow.shared.kept
        tensors["shared_out"] = narrow.shared.out_weight
    return pack_tensors(tensors)


def _unpack_experts(data: bytes) -> KeptExperts:
    with unpacked(data, "experts") as tensors:
        lost, lost_without, held_out, n_few_tokens = tensors["figures"].tolist()
        shared = None
        if "shared" in tensors:
            shared = PrunedMlp(tensors["shared"], tensors["shared_out"])
        return KeptExperts(
            tensors["kept"],
            outs=tensors.get("outs"),
            channels=tensors.get("channels"),
            shared=shared,
            use=tuple(tensors["use"].tolist()),
            n_few_tokens=int(n_few_tokens),
            lost=lost,
            lost_without=lost_without,
            lost_held_out=None if math.isnan(held_out) else held_out,
        )


def _masked(
    run: RunContext,
    calibration: Calibration,
    spec: SparseSpec,
    data: CalibrationData,
    key: str,
    on_block: OnBlock,
) -> MaskedWeights:
    """Single weights at zero: each block by itself, or each on the output of the pruned ones."""
    loaded = run.loaded
    method = spec.pruning
    permille = spec.permille
    hold = run.loaded.residency.offload
    projections = loaded.projections(method.scope)
    pack = partial(_pack_masked, refitted=method.compensation != "none")

    def unpack(index: int, packed: bytes) -> MaskedBlock:
        return _unpack_masked(packed, projections[index], hold)

    def made(index: int, make: Callable[[], MaskedBlock]) -> MaskedBlock:
        part = f"{key}/masked/{index}"
        packed = partial(_packed, run, pack)
        block: MaskedBlock = run.pruning_checkpoint.get_or_make(
            part, make, packed, partial(unpack, index)
        )
        return block

    def walk(
        text: Text, checkpoint: WalkCheckpoint
    ) -> Iterator[tuple[int, MaskedBlock]]:
        return prune_sequentially(
            loaded,
            text,
            method,
            permille,
            shared=calibration.groups,
            token_weights=run.settings.calibration.token_weights,
            on_step=run.log.on_step,
            checkpoint=checkpoint,
        )

    blocks: Sequence[MaskedBlock]
    if method.in_sequence:
        checkpoint = StageCheckpoint(run.store, run.identity)
        blocks = _in_sequence(run, calibration, key, checkpoint, walk, pack, unpack)
    else:
        blocks = prune_weights(
            projections,
            data,
            method,
            permille,
            on_block=on_block,
            offload=hold,
            checkpointed=made,
        )
    return MaskedWeights(
        loaded=loaded, scope=method.scope, blocks=blocks, groups=calibration.groups
    )


def _narrowed(
    run: RunContext,
    calibration: Calibration,
    spec: SparseSpec,
    data: CalibrationData,
    key: str,
    gone: Sequence[int],
    on_block: OnBlock,
) -> LazySequence[PrunedMlp]:
    """Every narrowed MLP, by itself or by a sequential refit, which is stored."""
    loaded = run.loaded
    mlps = run.loaded.mlps
    hold = run.loaded.residency.offload
    method = spec.pruning
    permille = spec.permille
    scores = partial(calibration.channel_scores, method, permille, on_block)
    share = channel_share(loaded.shape, method, permille)

    def unpack(_: int, packed: bytes) -> PrunedMlp:
        return unpack_narrowed(packed).moved_to(hold)

    def walk(text: Text, walked: WalkCheckpoint) -> Iterator[tuple[int, PrunedMlp]]:
        if method.removes_layers:
            kept = [
                torch.arange(0 if index in gone else mlp.width)
                for index, mlp in enumerate(mlps)
            ]
        else:
            kept = choose_channels(data, method, share, scores(), on_block)
        return refit_sequentially(
            loaded,
            text,
            kept,
            method.damping,
            method.strength,
            run.log.on_step,
            walked,
            gone,
        )

    if permille and method.in_sequence:
        # The refit's checkpoint goes once its result is stored, before the model is evaluated.
        checkpoint = StageCheckpoint(run.store, run.identity)
        return _in_sequence(
            run, calibration, key, checkpoint, walk, pack_narrowed, unpack
        )

    pack = partial(_packed, run, pack_narrowed)
    keep = run.pruning_checkpoint.numbered(f"{key}/chosen", pack, partial(unpack, 0))

    def made(index: int, make: Callable[[], PrunedMlp]) -> PrunedMlp:
        narrow: PrunedMlp = keep(index, lambda: make().moved_to(hold))
        return narrow

    if method.removes_layers:
        return remove_layers(
            mlps, gone, lambda index: on_block(index + 1, len(mlps)), made
        )
    return prune_channels(
        mlps, data, method, share, scores=scores, on_layer=on_block, checkpointed=made
    )


def _in_sequence(
    run: RunContext,
    calibration: Calibration,
    key: str,
    checkpoint: StageCheckpoint,
    walk: Callable[[Text, WalkCheckpoint], Iterator[tuple[int, T]]],
    pack: Callable[[T], bytes],
    unpack: Callable[[int, bytes], T],
) -> LazySequence[T]:
    """Blocks that one pass of the text makes when the first is needed; stored."""
    store = run.store
    about = about_artefact("weights", run.identity)
    n_blocks = len(run.loaded.blocks)

    def has(index: int) -> bool:
        return store.has_entry("artefacts", f"{key}/{index}")

    @cache
    def made() -> dict[int, T]:
        blocks = dict[int, T]()
        if not _is_stored(run, key):
            run.log.warn(calibration.few_tokens_warning)
            for index, block in walk(
                calibration.read(), WalkCheckpoint(checkpoint, f"{key}/hidden", has)
            ):
                store.put_artefact(f"{key}/{index}", pack(block), about)
                blocks[index] = block
            checkpoint.done()
        for index in set(range(n_blocks)) - blocks.keys():
            data = store.get_artefact(f"{key}/{index}")
            if data is None:
                raise CacheEvicted(key)
            blocks[index] = unpack(index, data)
        return blocks

    # The sequence keeps what it has asked for.
    return LazySequence(n_blocks, lambda index: made().pop(index))


def _packed(run: RunContext, pack: Callable[[T], bytes], part: T) -> bytes:
    """Drops streamed weights afterwards: many parts may be packed one after another."""
    data = pack(part)
    run.loaded.residency.drop()
    return data


def pack_narrowed(narrow: PrunedMlp) -> bytes:
    """A narrowed MLP as bytes."""
    lost = (
        None if narrow.lost is None else torch.tensor(narrow.lost, dtype=torch.float64)
    )
    tensors = {
        "kept": narrow.kept,
        "out_weight": narrow.out_weight,
        "out_bias": narrow.out_bias,
        "lost": lost,
    }
    for number, (weight, bias) in enumerate(narrow.inner):
        tensors |= {f"inner {number}": weight, f"inner {number} bias": bias}
    return pack_tensors(
        {name: tensor for name, tensor in tensors.items() if tensor is not None}
    )


def unpack_narrowed(data: bytes) -> PrunedMlp:
    """The MLP that `pack_narrowed` packed. Raises CalibrationError on anything else."""
    with unpacked(data, "MLPs") as tensors:
        lost = float(tensors["lost"]) if "lost" in tensors else None
        n_inner = sum(
            name.startswith("inner ") and not name.endswith(" bias") for name in tensors
        )
        inner = tuple(
            (tensors[f"inner {n}"], tensors.get(f"inner {n} bias"))
            for n in range(n_inner)
        )
        return PrunedMlp(
            tensors["kept"], tensors["out_weight"], tensors.get("out_bias"), lost, inner
        )


def _pack_errors(errors: BlockErrors) -> bytes:
    return pack_tensors({"errors": _errors_tensor([errors])})


def _unpack_errors(data: bytes) -> BlockErrors:
    """Raises CalibrationError where the bytes are something else."""
    with unpacked(data, "errors") as tensors:
        (errors,) = _errors_from(tensors["errors"])
        return errors


def _errors_tensor(errors: Sequence[BlockErrors]) -> Tensor:
    """Errors as (n, 3) float64, NaN for one that is not known."""
    rows = list[list[float]]()
    for kinds in errors:
        rows.append([math.nan if error is None else error for error in kinds])
    return torch.tensor(rows, dtype=torch.float64).reshape(-1, 3)


def _errors_from(rows: Tensor) -> list[BlockErrors]:
    """The errors of `_errors_tensor`."""
    errors = []
    for kinds in rows.tolist():
        errors.append(
            BlockErrors(*(None if math.isnan(error) else error for error in kinds))
        )
    return errors


def _pack_masked(block: MaskedBlock, *, refitted: bool) -> bytes:
    """A bit for each weight that is not zero, and where they are refitted those weights."""
    tensors = {"errors": _errors_tensor(block.errors)}
    for name, weight in block.weights.items():
        stays = weight.contiguous().view(_BITS[weight.itemsize]) != 0
        tensors[f"{name} stays"] = torch.from_numpy(np.packbits(stays.numpy()))
        if refitted:
            tensors[f"{name} weights"] = weight[stays]
    return pack_tensors(tensors)


def _unpack_masked(
    data: bytes, dense: Mapping[str, nn.Linear], hold: Callable[[Tensor], Tensor]
) -> MaskedBlock:
    """dense: its projections by name."""
    with unpacked(data, "masks") as tensors:
        errors = _errors_from(tensors.pop("errors"))
        weights = {}
        for name in sorted({name.rpartition(" ")[0] for name in tensors}):
            before = weight_of(dense[name]).detach().cpu()
            bits = np.unpackbits(tensors[f"{name} stays"].numpy())[: before.numel()]
            stays = torch.from_numpy(bits).bool().reshape(before.shape)
            weight = weights[name] = torch.zeros(before.shape, dtype=before.dtype)
            weight[stays] = (
                tensors[f"{name} weights"]
                if f"{name} weights" in tensors
                else before[stays]
            )
        return MaskedBlock(
            weights=weights,
            errors=errors,
        ).moved_to(hold)
