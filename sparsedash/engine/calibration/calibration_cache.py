"""What calibration leaves of a model's blocks, kept in the store and computed when first asked for."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from statistics import median

import msgspec
import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from sparsedash.catalog.engine_limits import SENSITIVITY_BATCH_TOKENS, SENSITIVITY_TOKENS
from sparsedash.engine.calibration.gradients import OnBlock, mask_gradients, sensitivities
from sparsedash.engine.calibration.statistics import (
    LazyCollector,
    StatisticsCollector,
    WalkCheckpoint,
    pack_scores,
    pack_statistics,
    shared_inputs,
    unpack_scores,
    unpack_statistics,
)
from sparsedash.engine.models.loading import LoadedModel
from sparsedash.engine.pruning.allocation import ChannelScores, reached_permille
from sparsedash.engine.pruning.channel_pruning import choose_channels, reference_cut, score_channels, score_dependencies
from sparsedash.engine.pruning.compensation import BlockErrors
from sparsedash.engine.pruning.layer import NO_STATISTICS, CalibrationData, Statistics, layer_of
from sparsedash.engine.pruning.saliency import SALIENCIES
from sparsedash.engine.pruning.surgery import weight_of
from sparsedash.engine.pruning.weight_pruning import MaskedBlock, mask_of
from sparsedash.engine.texts.corpora import first_tokens
from sparsedash.schema import store_keys
from sparsedash.schema.errors import CalibrationError
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.progress import Checkpointed, OnStep
from sparsedash.schema.records import ArtefactKind, about_artefact
from sparsedash.schema.settings import TokenWeights
from sparsedash.schema.store_keys import CalibrationKeys, scheduled_gradients_key, scores_key
from sparsedash.storage.store import StageCheckpoint, Store

_BITS = {2: torch.int16, 4: torch.int32}
"""Whole numbers as wide as a weight: a zero is one whose bits are all zero."""


def pack_tensors(tensors: Sequence[Tensor]) -> bytes:
    """Tensors as safetensors bytes."""
    return bytes(safetensors.torch.save({str(number): own.contiguous() for number, own in enumerate(tensors)}))


def unpack_tensors(data: bytes) -> list[Tensor]:
    """The tensors that `pack_tensors` packed. Raises CalibrationError on anything else."""
    try:
        tensors = safetensors.torch.load(data)
        return [tensors[str(number)] for number in range(len(tensors))]
    except (safetensors.SafetensorError, KeyError) as error:
        raise CalibrationError(f"Stored parts cannot be read: {error}.", "Start the run again.") from error


def pack_gradients(gradients: Tensor) -> bytes:
    """The mask gradients (s, m) of one block as safetensors bytes."""
    return bytes(safetensors.torch.save({"mask_gradients": gradients.contiguous()}))


def unpack_gradients(data: bytes) -> Tensor:
    """The mask gradients that `pack_gradients` packed. Raises CalibrationError on anything else."""
    try:
        found: Tensor = safetensors.torch.load(data)["mask_gradients"]
    except (safetensors.SafetensorError, KeyError) as error:
        raise CalibrationError(f"Stored gradients cannot be read: {error}.", "Start the run again.") from error
    return found


def pack_masked(block: MaskedBlock, *, refitted: bool) -> bytes:
    """One block's masked weights as safetensors bytes: a bit for each of them, and those that are not zero.

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


def unpack_masked(data: bytes, dense: Mapping[str, nn.Linear]) -> MaskedBlock:
    """The block that `pack_masked` packed. dense: its projections by name. Raises CalibrationError on anything else."""
    try:
        tensors = safetensors.torch.load(data)
        fitted, plain, held_out = tensors.pop("errors").T.tolist()
        errors = [
            (_error_or_none(f), _error_or_none(p), _error_or_none(h))
            for f, p, h in zip(fitted, plain, held_out, strict=True)
        ]
        names = {name.rpartition(" ")[0] for name in tensors}
        weights = {name: _unpack_weight(tensors, name, weight_of(dense[name]).detach().cpu()) for name in sorted(names)}
    except (safetensors.SafetensorError, KeyError, RuntimeError, ValueError, TypeError) as error:
        raise CalibrationError(f"Stored masks cannot be read: {error}.", "Start the run again.") from error
    return MaskedBlock(weights=weights, errors=errors)


def _error_or_none(error: float) -> float | None:
    return None if math.isnan(error) else error


def _unpack_weight(tensors: Mapping[str, Tensor], name: str, dense: Tensor) -> Tensor:
    bits = np.unpackbits(tensors[f"{name} stays"].numpy())[: dense.numel()]
    stays = torch.from_numpy(bits).bool().reshape(dense.shape)
    weight = torch.zeros(dense.shape, dtype=dense.dtype)
    weight[stays] = tensors[f"{name} weights"] if f"{name} weights" in tensors else dense[stays]
    return weight


def pack_errors(errors: BlockErrors) -> bytes:
    """What one block loses, as JSON."""
    return msgspec.json.encode(errors)


def unpack_errors(data: bytes) -> BlockErrors:
    """The errors that `pack_errors` packed. Raises CalibrationError on anything else."""
    try:
        found: BlockErrors = msgspec.json.decode(data, type=BlockErrors)
    except msgspec.DecodeError as error:
        raise CalibrationError(f"Stored errors cannot be read: {error}.", "Start the run again.") from error
    return found


def block_sensitivities(
    loaded: LoadedModel,
    statistics: Callable[[int], Statistics],
    sequences: Sequence[list[int]],
    on_step: OnStep,
    halfway: StageCheckpoint,
    key: str,
) -> list[float]:
    """Of every block. statistics: of a block, by its index. halfway, key: where what is done so far is kept."""
    tried = halfway.numbered(f"{key}/change", pack_tensors, unpack_tensors)
    read = halfway.numbered(f"{key}/batch", pack_tensors, unpack_tensors)
    changes, errors = [], []
    for index in range(len(loaded.mlps)):
        weight, bias, error = tried(index, partial(_trial_change, loaded, statistics, index))
        errors.append(float(error))
        changes.append((loaded.residency.hold(weight), bias))
    # Long sequences are cut: only the last predictions of each are judged, and many are wanted.
    short = [ids[:SENSITIVITY_BATCH_TOKENS] for ids in sequences]
    few = first_tokens(short, SENSITIVITY_TOKENS)
    losses = sensitivities(loaded, few, changes, on_step, read)
    found = [loss / error if error > 0 else 0.0 for loss, error in zip(losses, errors, strict=True)]
    # Nothing measured is not nothing lost: what goes there may be active on the rest of the text.
    usual = median([value for value in found if value > 0] or [0.0])
    return [value or usual for value in found]


def _trial_change(loaded: LoadedModel, statistics: Callable[[int], Statistics], index: int) -> list[Tensor]:
    """What one block's out-projection and its bias are changed by, and what the block loses by it."""
    layer = layer_of(loaded.mlps[index], statistics(index))
    cut = reference_cut(layer)
    return [*cut.change(layer.out_weight, layer.out_bias), torch.tensor(cut.lost, dtype=torch.float64)]


class CacheEvicted(Exception):  # noqa: N818 - a signal between two files, which no user meets
    """Raised where the store has dropped statistics or gradients to make room, so that they must be computed again.

    The note that says that they are there is dropped as well. key: of what is lost.
    """

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


class CalibrationCache:
    """Everything that pruning methods ask of one calibration, read from the store or computed and kept there.

    Statistics of the MLPs' inner activations and of all projections' inputs, sensitivities, mask gradients, and in
    memory the scores of the channels.
    """

    def __init__(
        self,
        store: Store,
        keys: CalibrationKeys,
        loaded: LoadedModel,
        sequences: Callable[[], list[list[int]]],
        on_step: OnStep,
        *,
        token_weights: TokenWeights,
        reads_text: bool,
    ) -> None:
        """sequences: gives the calibration text's token ids; asked only where something must be computed.

        reads_text: whether a method of the run needs the text, so that the others' errors are measured on it as well.
        """
        self._reads_text = reads_text
        self._store, self._keys, self._loaded = store, keys, loaded
        self._sequences, self._on_step = sequences, on_step
        self._token_weights = token_weights
        self._gathered = LazyCollector(self._inputs_begun, self._inputs_over)
        self._scores: dict[tuple[object, ...], Sequence[ChannelScores]] = {}

    @cached_property
    def data(self) -> CalibrationData:
        """What the pruning functions are given; its functions raise CacheEvicted where the store lost the answer."""
        return CalibrationData(
            statistics=self._statistics,
            inputs=self._inputs,
            mask_gradients=self._mask_gradients,
            sensitivities=self._sensitivities,
        )

    def data_for(self, method: MethodSettings, permille: int) -> CalibrationData:
        """What the pruning functions are given for this method and sparsity.

        Mask gradients are this sparsity's own where the model gets sparser while it reads the text. Where no method
        needs the text, there are only those statistics that are in the store already.
        """
        if not (self._reads_text or method.reads_text or self._has_statistics(method)):
            unknown = [[(names, NO_STATISTICS) for names in block] for block in self.groups]
            return replace(self.data, statistics=lambda _: NO_STATISTICS, inputs=unknown.__getitem__)
        if not _gets_sparser_in_rounds(method):
            return self.data
        return replace(self.data, mask_gradients=partial(self._scheduled_gradients, method, permille))

    def channel_scores(self, method: MethodSettings, permille: int, on_block: OnBlock) -> Sequence[ChannelScores]:
        """The scores of every block's channels, found once for all methods and sparsities that ask for the same."""
        data = self.data_for(method, permille)
        if _gets_sparser_in_rounds(method):
            # Its gradients are those of this sparsity alone.
            return score_channels(self._loaded.mlps, data, method, on_block)
        # What was asked for while there were statistics asks for these.
        asked = (*score_dependencies(method), data is self.data)
        if asked not in self._scores:
            made = self._halfway().numbered(scores_key(self._keys.statistics, method), pack_scores, unpack_scores)
            self._scores[asked] = score_channels(self._loaded.mlps, data, method, on_block, made)
        return self._scores[asked]

    def keep_statistics(self, index: int, statistics: Statistics) -> None:
        """Put one block's statistics into the store."""
        self._store.put_artefact(
            f"{self._keys.statistics}/{index}", pack_statistics(statistics), self._about("statistics")
        )

    def _halfway(self) -> StageCheckpoint:
        return StageCheckpoint(self._store, self._loaded.identity)

    def _about(self, kind: ArtefactKind) -> str:
        return about_artefact(kind, self._loaded.identity)

    def has_block(self, index: int) -> bool:
        """Whether the store has one block's statistics."""
        return self._store.has_artefact(f"{self._keys.statistics}/{index}")

    def _has_statistics(self, method: MethodSettings) -> bool:
        wanted = [store_keys.calibrated_note(self._keys.statistics)]
        wanted += [] if method.takes_channels else [store_keys.inputs_gathered_note(self._keys.inputs)]
        return all(self._store.recall(note) is not None for note in wanted)

    def _statistics(self, index: int) -> Statistics:
        # Whoever asks for a block's statistics is done with the weights of the one before.
        self._loaded.residency.drop()
        data = self._store.get_artefact(f"{self._keys.statistics}/{index}")
        if data is None:
            self._store.forget(store_keys.calibrated_note(self._keys.statistics))
            raise CacheEvicted(self._keys.statistics)
        return unpack_statistics(data)

    @cached_property
    def groups(self) -> list[list[list[str]]]:
        """Of each block, the names of its projections, those together that are given the same; see `shared_inputs`."""
        return shared_inputs(self._loaded)

    def _inputs(self, index: int) -> list[tuple[list[str], Statistics]]:
        """Of one block; from one more pass over all of the calibration text, done once."""
        key, out = self._keys.inputs, self._loaded.family.out
        self._loaded.residency.drop()
        if not self.has_inputs and not self._gathered.has_reached(index):
            self.reach_inputs(len(self._loaded.blocks) - 1)
        found = []
        for number, names in enumerate(self.groups[index]):
            if out in names:
                found.append((names, self._statistics(index)))
                continue
            data = self._store.get_artefact(f"{key}/{index}/{number}")
            if data is None:
                self._store.forget(store_keys.inputs_gathered_note(key))
                raise CacheEvicted(key)
            found.append((names, unpack_statistics(data)))
        return found

    @property
    def has_inputs(self) -> bool:
        """Whether the store has the statistics of what all projections are given."""
        return self._store.recall(store_keys.inputs_gathered_note(self._keys.inputs)) is not None

    def reach_inputs(self, index: int) -> None:
        """Gather these statistics as far as this block; so again and again for one block after another."""
        self._gathered.reach(index)

    def _inputs_begun(self) -> StatisticsCollector:
        """Puts the statistics of all inputs but those of the out-projections, which are there, into the store."""
        key, out = self._keys.inputs, self._loaded.family.out
        wanted = [
            {number: names[0] for number, names in enumerate(groups) if out not in names} for groups in self.groups
        ]
        blocks = self._loaded.projections("decoder")
        watched = [[block[name] for name in names.values()] for block, names in zip(blocks, wanted, strict=True)]

        def keep(index: int, statistics: list[Statistics]) -> None:
            for number, own in zip(wanted[index], statistics, strict=True):
                self._store.put_artefact(f"{key}/{index}/{number}", pack_statistics(own), self._about("inputs"))

        def has(index: int) -> bool:
            return all(self._store.has_artefact(f"{key}/{index}/{number}") for number in wanted[index])

        weights, walked = self._token_weights, WalkCheckpoint(self._inputs_halfway, f"{key}/hidden", has)
        sequences, on_step = self._sequences(), self._on_step
        return StatisticsCollector(
            self._loaded, sequences, watched, keep, on_step, token_weights=weights, walked=walked
        )

    def _inputs_over(self) -> None:
        self._store.remember(store_keys.inputs_gathered_note(self._keys.inputs), str(len(self._loaded.blocks)))
        self._inputs_halfway.done()

    @cached_property
    def _inputs_halfway(self) -> StageCheckpoint:
        return self._halfway()

    def _mask_gradients(self, index: int) -> Tensor:
        """Of one block; from a backward pass over all of the calibration text, done once."""

        def gather(made: Checkpointed[list[Tensor]]) -> list[Tensor]:
            return mask_gradients(self._loaded, self._sequences(), self._on_step, made=made)

        return self._gradients(self._keys.gradients, gather, index)

    def _scheduled_gradients(self, method: MethodSettings, permille: int, index: int) -> Tensor:
        """Of one block; from a backward pass for this sparsity alone, over a model that gets there in rounds."""
        mlps = self._loaded.mlps
        on_the_way = replace(method, compensation="none", width_multiple=1)

        def masks(done: float, found: list[Tensor], on_block: OnBlock) -> list[Tensor]:
            so_far = replace(self.data, mask_gradients=found.__getitem__)
            reached = reached_permille(method.schedule, permille, done)
            kept = choose_channels(mlps, so_far, on_the_way, reached, on_block)
            return [mask_of(own, mlp.width) for own, mlp in zip(kept, mlps, strict=True)]

        def gather(made: Checkpointed[list[Tensor]]) -> list[Tensor]:
            sequences, on_step, n = self._sequences(), self._on_step, method.rounds
            return mask_gradients(self._loaded, sequences, on_step, n_rounds=n, masks=masks, made=made)

        key = scheduled_gradients_key(self._keys, method, permille)
        return self._gradients(key, gather, index)

    def _gradients(self, key: str, gather: Callable[[Checkpointed[list[Tensor]]], list[Tensor]], index: int) -> Tensor:
        """Of one block, from the store; all blocks' are gathered where they are not there (any more)."""
        data = None
        if self._store.recall(store_keys.gradients_gathered_note(key)) is not None:
            data = self._store.get_artefact(f"{key}/{index}")
        if data is None:
            halfway = self._halfway()
            found = gather(halfway.numbered(f"{key}/batch", pack_tensors, unpack_tensors))
            for number, block in enumerate(found):
                self._store.put_artefact(f"{key}/{number}", pack_gradients(block), self._about("gradients"))
            self._store.remember(store_keys.gradients_gathered_note(key), str(len(found)))
            halfway.done()
            data = self._store.get_artefact(f"{key}/{index}")
        if data is None:
            self._store.forget(store_keys.gradients_gathered_note(key))
            raise CacheEvicted(key)
        return unpack_gradients(data)

    def _sensitivities(self) -> list[float]:
        """What the model loses by a unit of error in each block; from a backward pass over little text, done once."""
        key = self._keys.sensitivity
        known = self._store.get_artefact(key)
        if known is None:
            halfway = self._halfway()
            found = block_sensitivities(self._loaded, self._statistics, self._sequences(), self._on_step, halfway, key)
            known = json.dumps(found).encode()
            self._store.put_artefact(key, known, self._about("sensitivity"))
            halfway.done()
        return [float(value) for value in json.loads(known)]


def _gets_sparser_in_rounds(method: MethodSettings) -> bool:
    """Whether the model gets sparser while it reads the text that its mask gradients come from."""
    return method.rounds > 1 and SALIENCIES[method.saliency].by_gradient
