"""Results of calibration for each block, and of a few passages; kept in the store, computed when
first asked for.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from math import isfinite

import torch
from torch import Tensor, nn

from sparsedash.catalog.budgets import channel_share
from sparsedash.catalog.resources import MISMATCH_PASSAGES, MISMATCH_TOKENS
from sparsedash.engine.calibration.curves import CurveMeasurement, judged_text, layer_order
from sparsedash.engine.calibration.gradients import Masks, OnBlock, mask_gradients
from sparsedash.engine.calibration.statistics import (
    TOKEN_WEIGHTS,
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
from sparsedash.engine.models.decoder_blocks import capture_inputs
from sparsedash.engine.models.loading import LoadedModel
from sparsedash.engine.pruning.channel_pruning import (
    SCHEDULES,
    ChannelScores,
    choose_channels,
    score_channels,
    score_dependencies,
)
from sparsedash.engine.pruning.layer import NO_STATISTICS, CalibrationData, Sample, Statistics
from sparsedash.engine.pruning.surgery import PrunedMlp
from sparsedash.schema import store_keys
from sparsedash.schema.errors import CalibrationError
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.plain_values import digest
from sparsedash.schema.progress import OnStep, Step
from sparsedash.schema.records import ArtefactKind, Passages, Pruned, about_artefact
from sparsedash.schema.settings import TokenWeights
from sparsedash.schema.store_keys import (
    CalibrationKeys,
    activations_key,
    curves_key,
    layers_key,
    scheduled_gradients_key,
    scores_key,
)
from sparsedash.stats.mean_intervals import MISMATCH_ALARM, layer_mismatch
from sparsedash.storage.store import StageCheckpoint, Store


class CacheEvicted(Exception):  # noqa: N818 - a signal between two files, which no user meets
    """Raised, with the key, where the store has evicted statistics or gradients; the note of them
    is dropped too.
    """


_DIAGONAL = "diagonal"
"""Noted where there were too few tokens for whole second moments."""


@dataclass(eq=False, kw_only=True)
class Calibration:
    """Statistics, curves, gradients and scores on one calibration text; computed once, then stored.

    load: gives the model. read: gives the token ids of the text. solves: whether a method of the
    run needs whole second moments.
    """

    store: Store
    keys: CalibrationKeys
    load: Callable[[], LoadedModel]
    read: Callable[[], list[list[int]]]
    on_step: OnStep
    token_weights: TokenWeights
    solves: bool = True
    _scores: dict[tuple[object, ...], Sequence[ChannelScores]] = field(
        default_factory=dict, init=False
    )

    @property
    def _note(self) -> str | None:
        return self.store.recall(store_keys.calibrated_note(self.keys.statistics))

    @property
    def is_known(self) -> bool:
        """Whether the store has the MLPs' statistics, as far as is known before they are read."""
        return self._note is not None

    @property
    def is_whole(self) -> bool:
        """Whether they are enough for every method, whole second moments included."""
        return self._note != _DIAGONAL

    @cached_property
    def few_tokens_warning(self) -> str | None:
        """A warning of too little text, noted for later runs. Raises CalibrationError where there
        is far too little.
        """
        warning = few_tokens_warning(self.load(), sum(map(len, self.read())), solves=self.solves)
        self.store.remember(
            store_keys.calibration_warning_note(self.keys.statistics), warning or ""
        )
        return warning

    @cached_property
    def data(self) -> CalibrationData:
        """Input of the pruning functions; its functions raise CacheEvicted where the store lost the
        answer.
        """
        return CalibrationData(
            statistics=self._statistics,
            inputs=self._inputs,
            # From a backward pass over all of the calibration text, done once.
            mask_gradients=partial(self._gradients, self.keys.gradients, 1, None),
            curve=self._curve,
        )

    def data_for(self, method: MethodSettings, permille: int) -> CalibrationData:
        """Input of the pruning functions for this method and sparsity: with mask gradients of its
        own where it prunes in rounds; without statistics where it reads no text, whatever other
        methods read.
        """
        if not method.reads_text:
            # Only what single weights take of it runs the model, to see which projections share
            # their inputs.
            return replace(
                self.data,
                statistics=lambda _: NO_STATISTICS,
                inputs=lambda index: [(names, NO_STATISTICS) for names in self.groups[index]],
            )
        if not _has_rounds(method):
            return self.data
        return replace(
            self.data, mask_gradients=partial(self._scheduled_gradients, method, permille)
        )

    def channel_scores(
        self, method: MethodSettings, permille: int, on_block: OnBlock
    ) -> Sequence[ChannelScores]:
        """Scores of every block's channels, computed once for all methods and sparsities with the
        same scores.
        """
        data = self.data_for(method, permille)
        if _has_rounds(method):
            # Its gradients are those of this sparsity alone.
            return score_channels(self.load().mlps, data, method, on_block)
        asked = score_dependencies(method)
        if asked not in self._scores:
            key = scores_key(self.keys.statistics, method)
            # They stay, for the next sparsity.
            made = self._checkpoint("scores").numbered(key, _pack_scores, _unpack_scores)
            self._scores[asked] = score_channels(self.load().mlps, data, method, on_block, made)
        return self._scores[asked]

    def _checkpoint(self, kind: ArtefactKind = "unfinished") -> StageCheckpoint:
        return StageCheckpoint(self.store, self.load().identity, kind=kind)

    def _put(self, key: str, data: bytes, kind: ArtefactKind) -> None:
        self.store.put_artefact(key, data, about_artefact(kind, self.load().identity))

    def _get(self, key: str, part: str, note: store_keys.NoteName) -> bytes:
        """A part from the store. Raises CacheEvicted, and drops the note that it is there."""
        data = self.store.get_artefact(f"{key}/{part}")
        if data is None:
            self.store.forget(note)
            raise CacheEvicted(key)
        return data

    def reach(self, index: int) -> None:
        """Collect the statistics of the MLPs up to this block; so again for one block after
        another.
        """
        self._mlp_walk.reach(index)

    @cached_property
    def _mlp_walk(self) -> LazyWalk:
        parts = [{str(index): mlp.out} for index, mlp in enumerate(self.load().mlps)]

        def note() -> None:
            key, enough = (
                self.keys.statistics,
                enough_tokens(self.load(), sum(map(len, self.read()))),
            )
            self.store.remember(
                store_keys.calibrated_note(key), str(len(parts)) if enough else _DIAGONAL
            )

        return self._collector(self.keys.statistics, "statistics", parts, note)

    def _collector(
        self,
        key: str,
        kind: ArtefactKind,
        parts: Sequence[Mapping[str, nn.Module]],
        over: Callable[[], None],
    ) -> LazyWalk:
        """parts: of each block, the watched modules by the last part of their keys."""

        def keep(index: int, found: list[Statistics]) -> None:
            for part, own in zip(parts[index], found, strict=True):
                self._put(f"{key}/{part}", pack_statistics(own), kind)

        def has(index: int) -> bool:
            return all(self.store.has_entry("artefacts", f"{key}/{part}") for part in parts[index])

        checkpoint = WalkCheckpoint(self._checkpoint(), f"{key}/hidden", has)
        given = self.load(), self.read, [[*own.values()] for own in parts], keep, self.on_step
        return statistics_walk(
            *given, token_weights=self.token_weights, checkpoint=checkpoint, over=over
        )

    def _statistics(self, index: int) -> Statistics:
        # The weights of the block before are not needed any more.
        self.load().residency.drop()
        key = self.keys.statistics
        return unpack_statistics(self._get(key, str(index), store_keys.calibrated_note(key)))

    @cached_property
    def groups(self) -> list[list[list[str]]]:
        """Of each block, the names of its projections, grouped by their input; see
        `shared_inputs`.
        """
        return shared_inputs(self.load())

    def _inputs(self, index: int) -> list[tuple[list[str], Statistics]]:
        """Statistics of all inputs of one block; from one more pass over all of the calibration
        text, done once.
        """
        key, out = self.keys.inputs, self.load().family.out
        self.load().residency.drop()
        if not self.has_inputs and not self._input_walk.has_reached(index):
            self.reach_inputs(len(self.load().blocks) - 1)

        def of(number: int) -> Statistics:
            return unpack_statistics(
                self._get(key, f"{index}/{number}", store_keys.inputs_gathered_note(key))
            )

        groups = enumerate(self.groups[index])
        return [
            (names, self._statistics(index) if out in names else of(number))
            for number, names in groups
        ]

    @property
    def has_inputs(self) -> bool:
        """Whether the store has the statistics of all projections' inputs."""
        return self.store.recall(store_keys.inputs_gathered_note(self.keys.inputs)) is not None

    def reach_inputs(self, index: int) -> None:
        """Collect the statistics of all inputs up to this block; so again for one block after
        another.
        """
        self._input_walk.reach(index)

    @cached_property
    def _input_walk(self) -> LazyWalk:
        """Of all inputs but those of the out-projections, which are there."""
        key, out = self.keys.inputs, self.load().family.out
        parts = [
            {
                f"{index}/{number}": block[names[0]]
                for number, names in enumerate(groups)
                if out not in names
            }
            for index, (block, groups) in enumerate(
                zip(self.load().projections("decoder"), self.groups, strict=True)
            )
        ]
        note = store_keys.inputs_gathered_note(key)
        return self._collector(
            key, "inputs", parts, lambda: self.store.remember(note, str(len(parts)))
        )

    def _scheduled_gradients(self, method: MethodSettings, permille: int, index: int) -> Tensor:
        """Of one block; from a backward pass for this sparsity alone, over a model that gets there
        in rounds.
        """
        mlps = self.load().mlps
        on_the_way = replace(method, compensation="none", width_multiple=1)
        share = channel_share(self.load().shape, method, permille)

        def masks(done: float, found: list[Tensor], on_block: OnBlock) -> list[Tensor]:
            so_far = replace(self.data, mask_gradients=found.__getitem__)
            # In whole per mille.
            reached = round(SCHEDULES[method.schedule](share, done), 3)
            scores = score_channels(mlps, so_far, on_the_way, on_block)
            kept = choose_channels(so_far, on_the_way, reached, scores, on_block)
            return [
                torch.zeros(mlp.width).index_fill(0, own, 1)
                for own, mlp in zip(kept, mlps, strict=True)
            ]

        return self._gradients(
            scheduled_gradients_key(self.keys, method, permille), method.rounds, masks, index
        )

    def _gradients(self, key: str, n_rounds: int, masks: Masks | None, index: int) -> Tensor:
        """Of one block, from the store; all blocks' are computed where they are not there (any
        more).
        """
        note = store_keys.gradients_gathered_note(key)
        data = (
            self.store.get_artefact(f"{key}/{index}")
            if self.store.recall(note) is not None
            else None
        )
        if data is None:
            checkpoint = self._checkpoint()
            made = checkpoint.numbered(f"{key}/batch", pack_tensors, unpack_tensors)
            found = mask_gradients(
                self.load(), self.read(), self.on_step, n_rounds=n_rounds, masks=masks, made=made
            )
            if not all(bool(block.isfinite().all()) for block in found):
                raise CalibrationError(
                    "Gradients are not finite.", "Use float32, or another method."
                )
            for number, block in enumerate(found):
                self._put(f"{key}/{number}", pack_tensors([block]), "gradients")
            self.store.remember(note, str(len(found)))
            checkpoint.done()
            data = self._get(key, str(index), note)
        return unpack_tensors(data, "gradients")[0]

    def _curve(
        self, method: MethodSettings, index: int, versions: Callable[[], list[PrunedMlp]]
    ) -> list[float]:
        """The measured points of one block's curve; from the store where they are there."""
        key = f"{curves_key(self.keys.statistics, method)}/{index}"
        known = self.store.get_artefact(key)
        if known is None:
            # The first half of pruning, block by block as the channels are scored.
            step = Step("prune", index, 2 * len(self.load().mlps), message="measuring curves")

            def on_part(share: float) -> None:
                self.on_step(replace(step, ahead=share))

            losses = self._curves.losses(index, versions(), on_part)
            if not all(map(isfinite, losses)):
                raise CalibrationError(
                    f"With layer {index + 1} narrowed, predictions are not finite.",
                    "Use float32, or another method.",
                )
            known = json.dumps(losses).encode()
            self._put(key, known, "curves")
        if index == len(self.load().mlps) - 1:
            # The dense model's probabilities take up to a quarter of a gigabyte.
            self.__dict__.pop("_curves", None)
        return [float(value) for value in json.loads(known)]

    @cached_property
    def _curves(self) -> CurveMeasurement:
        return CurveMeasurement(self.load(), judged_text(self.read()))

    def removed_layers(self, method: MethodSettings, n_gone: int) -> list[int]:
        """The layers that go first, in order; from the store as far as they are there."""
        key, found = layers_key(self.keys.gradients, method), list[int]()
        if (known := self.store.get_artefact(key)) is not None:
            found = [int(index) for index in json.loads(known)]

        def on_part(share: float) -> None:
            words = "measuring the model without each layer"
            self.on_step(
                Step("calibrate", len(found), n_gone, unit="layers", message=words, ahead=share)
            )

        if len(found) < n_gone:
            for more in layer_order(self.load(), self.read, method, tuple(found), on_part):
                found += more
                self._put(key, json.dumps(found).encode(), "curves")
                if len(found) >= n_gone:
                    break
        return found[:n_gone]


def _has_rounds(method: MethodSettings) -> bool:
    """Whether the model gets sparser while it reads the text that its mask gradients come from."""
    return method.rounds > 1 and method.by_gradient


def _pack_scores(found: ChannelScores) -> bytes:
    return pack_tensors([found.scores, found.losses, torch.tensor(found.cost)])


def _unpack_scores(data: bytes) -> ChannelScores:
    with reading_stored("scores"):
        scores, losses, cost = unpack_tensors(data)
        return ChannelScores(width=len(scores), cost=int(cost), scores=scores, losses=losses)


class PassageActivations:
    """Inputs of the dense model's projections on the first few passages; kept in the store,
    collected once.
    """

    def __init__(
        self,
        store: Store,
        loaded: LoadedModel,
        passages: Passages,
        watched: list[list[str]],
        on_block: Callable[[], None],
        *,
        token_weights: TokenWeights,
    ) -> None:
        """watched: of each block, the names of the projections. on_block: called before a block
        reads the passages.

        token_weights: those of the calibration.
        """
        self._store, self._loaded, self._on_block = store, loaded, on_block
        self._watched, self._token_weights = watched, token_weights
        pairs = list(zip(passages.contexts, passages.targets, strict=True))[:MISMATCH_PASSAGES]
        most = min(MISMATCH_TOKENS, loaded.max_length)
        self._sequences = [loaded.tokens(context + target)[:most] for context, target in pairs]
        self.key = activations_key(
            loaded.identity, loaded.dtype, digest(self._sequences), digest(watched)
        )
        self._walk = LazyWalk(loaded, lambda: self._sequences, self._collect)
        self._has_room = True

    def of(self, index: int) -> list[Sample] | None:
        """Inputs of a block's watched projections; None where the store has no room. Reads no
        further.
        """
        self._loaded.residency.drop()
        found = self._kept(index)
        if found is None and self._has_room:
            self._walk.reach(index)
            found = self._kept(index)
            self._has_room = found is not None
        return found

    def _kept(self, index: int) -> list[Sample] | None:
        data = self._store.get_artefact(f"{self.key}/{index}")
        if data is None:
            return None
        tensors = unpack_tensors(data, "activations")
        weights = dict(zip(TOKEN_WEIGHTS, tensors, strict=False))[self._token_weights]
        return [
            Sample(inputs=own.float(), weights=weights) for own in tensors[len(TOKEN_WEIGHTS) :]
        ]

    def _collect(self, index: int) -> None:
        names, block = self._watched[index], self._loaded.projections("decoder")[index]
        self._on_block()
        seen: list[list[Tensor]] = [[] for _ in names]
        with capture_inputs([block[name] for name in names], [own.append for own in seen]):
            reached = [(batch, hidden) for _, batch, hidden in self._walk.step(index)]
        # bfloat16: half the room, and its rounding is far below what the alarm looks for.
        real = [batch.mask.bool() for batch, _ in reached]
        inputs = [
            torch.cat([x.reshape(*r.shape, -1)[r] for x, r in zip(own, real, strict=True)])
            for own in seen
        ]
        weights = [
            torch.cat([weigh(hidden)[r] for (_, hidden), r in zip(reached, real, strict=True)])
            for weigh in TOKEN_WEIGHTS.values()
        ]
        about = about_artefact("activations", self._loaded.identity)
        packed = pack_tensors([*weights, *(own.bfloat16() for own in inputs)])
        self._store.put_artefact(f"{self.key}/{index}", packed, about)


def mismatch_warning(made: Pruned) -> str | None:
    """A warning where the layers lose far more on the passages than on calibration text."""
    times = layer_mismatch(made)
    if times is None or times < MISMATCH_ALARM:
        return None
    more = f"layers lose {times:.1f} times as much on the passages as on"
    if not made.held_out_errors:
        return (
            f"The calibration text is too short, or unlike the passages: {more} it. "
            "Calibrate on more text, and more like the passages."
        )
    return (
        f"The calibration text is unlike the passages: {more} held-out calibration text. "
        "Calibrate on text more like the passages."
    )
