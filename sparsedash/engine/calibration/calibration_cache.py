"""Results of calibration for each block, kept in the store and computed when first asked for."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from itertools import accumulate
from statistics import median

import torch
from torch import Tensor, nn

from sparsedash.catalog.resources import SENSITIVITY_BATCH_TOKENS, SENSITIVITY_TOKENS
from sparsedash.engine.calibration.gradients import Masks, OnBlock, mask_gradients, sensitivities
from sparsedash.engine.calibration.statistics import (
    LazyWalk,
    WalkCheckpoint,
    enough_tokens,
    few_tokens_warning,
    pack_statistics,
    pack_tensors,
    reading_stored,
    shared_inputs,
    statistics_walk,
    unpack_statistics,
    unpack_tensors,
)
from sparsedash.engine.models.loading import LoadedModel
from sparsedash.engine.pruning.allocation import ChannelScores, reached_permille
from sparsedash.engine.pruning.channel_pruning import choose_channels, reference_cut, score_channels, score_dependencies
from sparsedash.engine.pruning.layer import NO_STATISTICS, CalibrationData, Statistics, layer_of
from sparsedash.engine.pruning.saliency import SALIENCIES
from sparsedash.schema import store_keys
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.progress import OnStep
from sparsedash.schema.records import ArtefactKind, about_artefact
from sparsedash.schema.settings import TokenWeights
from sparsedash.schema.store_keys import CalibrationKeys, scheduled_gradients_key, scores_key
from sparsedash.storage.store import StageCheckpoint, Store


class CacheEvicted(Exception):  # noqa: N818 - a signal between two files, which no user meets
    """Raised where the store has evicted statistics or gradients; the note that they are there is dropped as well."""

    @property
    def key(self) -> str:
        """Store key of what is lost."""
        return str(self)


_DIAGONAL = "diagonal"
"""Noted where there were too few tokens for whole second moments."""


class Calibration:
    """Statistics, sensitivities, mask gradients and scores on one calibration text; computed once, then stored.

    is_read: whether a method of the run needs the text, so that the others' errors are measured on it as well.
    """

    def __init__(
        self,
        store: Store,
        keys: CalibrationKeys,
        loaded: Callable[[], LoadedModel],
        sequences: Callable[[], list[list[int]]],
        on_step: OnStep,
        *,
        token_weights: TokenWeights,
        is_read: bool,
        solves: bool = True,
    ) -> None:
        """loaded, sequences: called to compute. solves: whether a method needs whole second moments."""
        self.keys, self.is_read, self._solves = keys, is_read, solves
        self._store, self._load, self._read, self._on_step = store, loaded, sequences, on_step
        self._token_weights = token_weights
        self._scores: dict[tuple[object, ...], Sequence[ChannelScores]] = {}

    @cached_property
    def _loaded(self) -> LoadedModel:
        return self._load()

    @property
    def sequences(self) -> list[list[int]]:
        """Token ids of the text."""
        return self._read()

    @property
    def _note(self) -> str | None:
        return self._store.recall(store_keys.calibrated_note(self.keys.statistics))

    @property
    def is_known(self) -> bool:
        """Whether the store has the MLPs' statistics, as far as is known before they are read."""
        return self._note is not None

    @property
    def is_whole(self) -> bool:
        """Whether they are enough for every method, whole second moments included."""
        return self._note != _DIAGONAL

    @property
    def known_warning(self) -> str | None:
        """The warning of the calibration in the store."""
        return self._store.recall(store_keys.calibration_warning_note(self.keys.statistics))

    @property
    def few_tokens_warning(self) -> str | None:
        """A warning of too little text. Raises CalibrationError where there is far too little."""
        return few_tokens_warning(self._loaded, sum(map(len, self.sequences)), solves=self._solves)

    @cached_property
    def data(self) -> CalibrationData:
        """Input of the pruning functions; its functions raise CacheEvicted where the store lost the answer."""
        return CalibrationData(
            statistics=self._statistics,
            inputs=self._inputs,
            # From a backward pass over all of the calibration text, done once.
            mask_gradients=partial(self._gradients, self.keys.gradients, 1, None),
            sensitivities=self._sensitivities,
        )

    def data_for(self, method: MethodSettings, permille: int) -> CalibrationData:
        """Input of the pruning functions for this method and sparsity.

        Mask gradients are this sparsity's own where pruning goes in rounds. Where no method needs the text, there are
        only the statistics that are in the store.
        """
        has_statistics = self.is_known and (method.takes_channels or self.has_inputs)
        if not (self.is_read or method.reads_text or has_statistics):
            unknown = [[(names, NO_STATISTICS) for names in block] for block in self.groups]
            return replace(self.data, statistics=lambda _: NO_STATISTICS, inputs=unknown.__getitem__)
        if not _has_rounds(method):
            return self.data
        return replace(self.data, mask_gradients=partial(self._scheduled_gradients, method, permille))

    def channel_scores(self, method: MethodSettings, permille: int, on_block: OnBlock) -> Sequence[ChannelScores]:
        """Scores of every block's channels, computed once for all methods and sparsities with the same scores."""
        data = self.data_for(method, permille)
        if _has_rounds(method):
            # Its gradients are those of this sparsity alone.
            return score_channels(self._loaded.mlps, data, method, on_block)
        # Scores made without statistics are not those made with them.
        asked = (*score_dependencies(method), data is self.data)
        if asked not in self._scores:
            key = scores_key(self.keys.statistics, method)
            pack = lambda found: pack_tensors([found.scores, found.losses])  # noqa: E731
            made = self._checkpoint().numbered(key, pack, _unpack_scores)
            self._scores[asked] = score_channels(self._loaded.mlps, data, method, on_block, made)
        return self._scores[asked]

    def _checkpoint(self) -> StageCheckpoint:
        return StageCheckpoint(self._store, self._loaded.identity)

    def _put(self, key: str, data: bytes, kind: ArtefactKind) -> None:
        self._store.put_artefact(key, data, about_artefact(kind, self._loaded.identity))

    def _get(self, key: str, part: str, note: store_keys.NoteName) -> bytes:
        """A part from the store. Raises CacheEvicted, and drops the note that it is there."""
        data = self._store.get_artefact(f"{key}/{part}")
        if data is None:
            self._store.forget(note)
            raise CacheEvicted(key)
        return data

    def reach(self, index: int) -> None:
        """Collect the statistics of the MLPs up to this block; so again for one block after another."""
        self._mlp_walk.reach(index)

    @cached_property
    def _mlp_walk(self) -> LazyWalk:
        parts = [{str(index): mlp.out} for index, mlp in enumerate(self._loaded.mlps)]

        def note() -> None:
            key, enough = self.keys.statistics, enough_tokens(self._loaded, sum(map(len, self.sequences)))
            self._store.remember(store_keys.calibration_warning_note(key), self.few_tokens_warning or "")
            self._store.remember(store_keys.calibrated_note(key), str(len(parts)) if enough else _DIAGONAL)

        return self._collector(self.keys.statistics, "statistics", parts, note)

    def _collector(
        self, key: str, kind: ArtefactKind, parts: Sequence[Mapping[str, nn.Module]], over: Callable[[], None]
    ) -> LazyWalk:
        """parts: of each block, the watched modules by the last part of their keys."""

        def keep(index: int, found: list[Statistics]) -> None:
            for part, own in zip(parts[index], found, strict=True):
                self._put(f"{key}/{part}", pack_statistics(own), kind)

        def has(index: int) -> bool:
            return all(self._store.has_entry("artefacts", f"{key}/{part}") for part in parts[index])

        checkpoint, watched = (
            WalkCheckpoint(self._checkpoint(), f"{key}/hidden", has),
            [[*own.values()] for own in parts],
        )
        given = self._loaded, self._read, watched, keep, self._on_step
        return statistics_walk(*given, token_weights=self._token_weights, checkpoint=checkpoint, over=over)

    def _statistics(self, index: int) -> Statistics:
        # The weights of the block before are not needed any more.
        self._loaded.residency.drop()
        key = self.keys.statistics
        return unpack_statistics(self._get(key, str(index), store_keys.calibrated_note(key)))

    @cached_property
    def groups(self) -> list[list[list[str]]]:
        """Of each block, the names of its projections, grouped by their input; see `shared_inputs`."""
        return shared_inputs(self._loaded)

    def _inputs(self, index: int) -> list[tuple[list[str], Statistics]]:
        """Statistics of all inputs of one block; from one more pass over all of the calibration text, done once."""
        key, out = self.keys.inputs, self._loaded.family.out
        self._loaded.residency.drop()
        if not self.has_inputs and not self._input_walk.has_reached(index):
            self.reach_inputs(len(self._loaded.blocks) - 1)

        def of(number: int) -> Statistics:
            return unpack_statistics(self._get(key, f"{index}/{number}", store_keys.inputs_gathered_note(key)))

        groups = enumerate(self.groups[index])
        return [(names, self._statistics(index) if out in names else of(number)) for number, names in groups]

    @property
    def has_inputs(self) -> bool:
        """Whether the store has the statistics of all projections' inputs."""
        return self._store.recall(store_keys.inputs_gathered_note(self.keys.inputs)) is not None

    def reach_inputs(self, index: int) -> None:
        """Collect the statistics of all inputs up to this block; so again for one block after another."""
        self._input_walk.reach(index)

    @cached_property
    def _input_walk(self) -> LazyWalk:
        """Of all inputs but those of the out-projections, which are there."""
        key, out = self.keys.inputs, self._loaded.family.out
        parts = [
            {f"{index}/{number}": block[names[0]] for number, names in enumerate(groups) if out not in names}
            for index, (block, groups) in enumerate(zip(self._loaded.projections("decoder"), self.groups, strict=True))
        ]
        note = store_keys.inputs_gathered_note(key)
        return self._collector(key, "inputs", parts, lambda: self._store.remember(note, str(len(parts))))

    def _scheduled_gradients(self, method: MethodSettings, permille: int, index: int) -> Tensor:
        """Of one block; from a backward pass for this sparsity alone, over a model that gets there in rounds."""
        mlps = self._loaded.mlps
        on_the_way = replace(method, compensation="none", width_multiple=1)

        def masks(done: float, found: list[Tensor], on_block: OnBlock) -> list[Tensor]:
            so_far = replace(self.data, mask_gradients=found.__getitem__)
            reached = reached_permille(method.schedule, permille, done)
            kept = choose_channels(mlps, so_far, on_the_way, reached, on_block)
            return [torch.zeros(mlp.width).index_fill(0, own, 1) for own, mlp in zip(kept, mlps, strict=True)]

        return self._gradients(scheduled_gradients_key(self.keys, method, permille), method.rounds, masks, index)

    def _gradients(self, key: str, n_rounds: int, masks: Masks | None, index: int) -> Tensor:
        """Of one block, from the store; all blocks' are computed where they are not there (any more)."""
        note = store_keys.gradients_gathered_note(key)
        data = self._store.get_artefact(f"{key}/{index}") if self._store.recall(note) is not None else None
        if data is None:
            checkpoint = self._checkpoint()
            made = checkpoint.numbered(f"{key}/batch", pack_tensors, unpack_tensors)
            given = self._loaded, self.sequences, self._on_step
            found = mask_gradients(*given, n_rounds=n_rounds, masks=masks, made=made)
            for number, block in enumerate(found):
                self._put(f"{key}/{number}", pack_tensors([block]), "gradients")
            self._store.remember(note, str(len(found)))
            checkpoint.done()
            data = self._get(key, str(index), note)
        return unpack_tensors(data, "gradients")[0]

    def _sensitivities(self) -> list[float]:
        """Loss of the model by a unit of error in each block; from a backward pass over little text, done once."""
        loaded, key = self._loaded, self.keys.sensitivity
        known = self._store.get_artefact(key)
        if known is not None:
            return [float(value) for value in json.loads(known)]
        checkpoint = self._checkpoint()
        tried = checkpoint.numbered(f"{key}/change", pack_tensors, unpack_tensors)
        read = checkpoint.numbered(f"{key}/batch", pack_tensors, unpack_tensors)

        def change(index: int) -> list[Tensor]:
            """The changes of one block's out-projection and of its bias, and the block's error by them."""
            layer = layer_of(loaded.mlps[index], self._statistics(index))
            cut = reference_cut(layer)
            return [*cut.change(layer.out_weight, layer.out_bias), torch.tensor(cut.lost, dtype=torch.float64)]

        changes, errors = [], []
        for index in range(len(loaded.mlps)):
            weight, bias, error = tried(index, partial(change, index))
            errors.append(float(error))
            changes.append((loaded.residency.hold(weight), bias))
        # Long sequences are cut: only the last predictions of each are judged, and many are wanted.
        short = [ids[:SENSITIVITY_BATCH_TOKENS] for ids in self.sequences]
        reached = list(accumulate(map(len, short)))
        few = [ids for ids, n_tokens in zip(short, reached, strict=True) if n_tokens <= SENSITIVITY_TOKENS]
        losses = sensitivities(loaded, few or short[:1], changes, self._on_step, read)
        found = [loss / error if error > 0 else 0.0 for loss, error in zip(losses, errors, strict=True)]
        # Nothing measured is not nothing lost: what goes there may be active on the rest of the text.
        usual = median([value for value in found if value > 0] or [0.0])
        found = [value or usual for value in found]
        self._put(key, json.dumps(found).encode(), "sensitivity")
        checkpoint.done()
        return found


def _has_rounds(method: MethodSettings) -> bool:
    """Whether the model gets sparser while it reads the text that its mask gradients come from."""
    return method.rounds > 1 and SALIENCIES[method.saliency].by_gradient


def _unpack_scores(data: bytes) -> ChannelScores:
    with reading_stored("scores"):
        scores, losses = unpack_tensors(data)
        return ChannelScores(width=len(scores), scores=scores, losses=losses)
