"""Calibration results of each block, computed once and stored."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from math import isfinite

import torch
from torch import Tensor, nn

from sparsedash.catalog.budgets import channel_share
from sparsedash.engine.calibration.curves import (
    CurveMeasurement,
    layer_order,
    scored_text,
)
from sparsedash.engine.calibration.gradients import Masks, OnBlock, mask_gradients
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
from sparsedash.engine.pruning.channel_pruning import (
    SCHEDULES,
    ChannelScores,
    choose_channels,
    score_channels,
    score_dependencies,
)
from sparsedash.engine.pruning.layer import (
    NO_CHANNELS,
    NO_STATISTICS,
    CalibrationData,
    Statistics,
)
from sparsedash.engine.pruning.surgery import PrunedMlp
from sparsedash.schema import store_keys
from sparsedash.schema.errors import CalibrationError
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.progress import OnStep, Step
from sparsedash.schema.records import ArtefactKind, about_artefact
from sparsedash.schema.settings import TokenWeights
from sparsedash.schema.store_keys import CalibrationKeys
from sparsedash.storage.checkpoint import StageCheckpoint
from sparsedash.storage.store import Store


class CacheEvicted(Exception):  # noqa: N818 - a signal between two files, which no user meets
    """Raised with the key of artefacts that the store has evicted; their note is dropped too."""


_DIAGONAL = "diagonal"
"""Noted if there were too few tokens for whole second moments."""


@dataclass(eq=False, kw_only=True)
class Calibration:
    """Statistics, curves, gradients and scores on one calibration text; computed once and stored.

    load: loads the model. read: reads the text, as token ids. solves: whether a method of the run
    needs whole second moments.
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

    @cached_property
    def statistics(self) -> "StoredStatistics":
        """Statistics of the MLPs' inner activations."""
        key = self.keys.statistics

        def modules() -> list[dict[str, nn.Module]]:
            watched: list[dict[str, nn.Module]] = []
            for index, mlp in enumerate(self.load().mlps):
                watched.append({str(index): mlp.out} if mlp.width else {})
            return watched

        def mark() -> str:
            n_tokens = sum(map(len, self.read()))
            enough = enough_tokens(self.load(), n_tokens)
            return str(len(self.load().mlps)) if enough else _DIAGONAL

        note = store_keys.calibrated_note(key)
        return StoredStatistics(
            self,
            key,
            "statistics",
            note,
            modules,
            mark,
        )

    @cached_property
    def inputs(self) -> "StoredStatistics":
        """Statistics of all projections' inputs but those in `statistics`; for single weights."""
        key = self.keys.inputs

        def modules() -> list[dict[str, nn.Module]]:
            watched: list[dict[str, nn.Module]] = []
            for index, block in enumerate(self.load().projections("decoder")):
                parts: dict[str, nn.Module] = {}
                for number, names in enumerate(self.groups[index]):
                    if not self._reads_channels(index, names):
                        parts[f"{index}/{number}"] = block[names[0]]
                watched.append(parts)
            return watched

        note = store_keys.inputs_gathered_note(key)
        return StoredStatistics(
            self, key, "inputs", note, modules, lambda: str(len(self.load().blocks))
        )

    @property
    def is_whole(self) -> bool:
        """True if the statistics are enough for every method, whole second moments included."""
        return self.store.recall(self.statistics.note) != _DIAGONAL

    @cached_property
    def few_tokens_warning(self) -> str | None:
        """A warning of too little text, noted for later runs; CalibrationError if far too little."""
        warning = few_tokens_warning(
            self.load(),
            sum(map(len, self.read())),
            solves=self.solves,
        )
        note = store_keys.calibration_warning_note(self.keys.statistics)
        self.store.remember(note, warning or "")
        return warning

    @cached_property
    def groups(self) -> list[list[list[str]]]:
        """Names of each block's projections, grouped by their input; see `shared_inputs`."""
        return shared_inputs(self.load())

    @cached_property
    def data(self) -> CalibrationData:
        """Input of the pruning functions; raises CacheEvicted where the store lost an answer."""
        return CalibrationData(
            statistics=self._statistics_of,
            inputs=self._inputs_of,
            # From a backward pass over all of the calibration text, done once.
            mask_gradients=partial(self._gradients, self.keys.gradients, 1, None),
            curve=self._curve,
        )

    def data_for(
        self,
        method: MethodSettings,
        permille: int,
    ) -> CalibrationData:
        """Input of the pruning functions for this method and sparsity.

        With mask gradients of its own if it prunes in rounds; without statistics if it reads no
        text, whatever other methods read.
        """
        if not method.reads_text:
            return replace(
                self.data,
                statistics=lambda _: NO_STATISTICS,
                # The model runs only to see which projections share an input.
                inputs=lambda index: [
                    (names, NO_STATISTICS) for names in self.groups[index]
                ],
            )
        if not _has_rounds(method):
            return self.data
        gradients = partial(self._scheduled_gradients, method, permille)
        return replace(self.data, mask_gradients=gradients)

    def channel_scores(
        self, method: MethodSettings, permille: int, on_block: OnBlock
    ) -> Sequence[ChannelScores]:
        """Scores of every block's channels, shared by all methods and sparsities with the same."""
        data = self.data_for(method, permille)
        if _has_rounds(method):
            # Its gradients are those of this sparsity alone.
            return score_channels(
                self.load().mlps,
                data,
                method,
                on_block,
            )
        dependencies = score_dependencies(method)
        if dependencies not in self._scores:
            key = store_keys.scores_key(self.keys.statistics, method)
            # They stay, for the next sparsity.
            checkpoint = self.checkpoint("scores").numbered(
                key,
                _pack_scores,
                _unpack_scores,
            )
            scores = score_channels(
                self.load().mlps,
                data,
                method,
                on_block,
                checkpoint,
            )
            self._scores[dependencies] = scores
        return self._scores[dependencies]

    def removed_layers(
        self,
        method: MethodSettings,
        n_gone: int,
    ) -> list[int]:
        """The layers that are removed first, in order."""
        key = store_keys.layers_key(self.keys.gradients, method)
        stored = self.store.get_artefact(key)
        order = [] if stored is None else [int(index) for index in json.loads(stored)]
        step = Step(
            "calibrate",
            0,
            n_gone,
            unit="layers",
            message="measuring the model without each layer",
        )

        def on_part(share: float) -> None:
            self.on_step(replace(step, done=len(order), ahead=share))

        if len(order) < n_gone:
            for layers in layer_order(
                self.load(), self.read, method, tuple(order), on_part
            ):
                order += layers
                self.put(key, json.dumps(order).encode(), "curves")
                if len(order) >= n_gone:
                    break
        return order[:n_gone]

    def checkpoint(self, kind: ArtefactKind = "unfinished") -> StageCheckpoint:
        """A checkpoint of work on this model."""
        return StageCheckpoint(self.store, self.load().identity, kind=kind)

    def put(
        self,
        key: str,
        data: bytes,
        kind: ArtefactKind,
    ) -> None:
        """Store an artefact of this model."""
        self.store.put_artefact(
            key,
            data,
            about_artefact(kind, self.load().identity),
        )

    def get(
        self,
        key: str,
        part: str,
        note: store_keys.NoteName,
    ) -> bytes:
        """A stored part; without it, drops the note and raises CacheEvicted."""
        data = self.store.get_artefact(f"{key}/{part}")
        if data is None:
            self.store.forget(note)
            raise CacheEvicted(key)
        return data

    def _statistics_of(self, index: int) -> Statistics:
        # The weights of the block before are not needed any more.
        self.load().residency.drop()
        if self.load().structure.mlps[index] is None:
            return NO_CHANNELS
        return self.statistics.get(str(index))

    def _inputs_of(self, index: int) -> list[tuple[list[str], Statistics]]:
        """Statistics of all inputs of a block, with the names of the projections that read each."""
        self.load().residency.drop()
        if not self.inputs.is_known and not self.inputs.walk.has_reached(index):
            self.inputs.reach(len(self.load().blocks) - 1)
        inputs = []
        for number, names in enumerate(self.groups[index]):
            if self._reads_channels(index, names):
                inputs.append((names, self._statistics_of(index)))
            else:
                inputs.append((names, self.inputs.get(f"{index}/{number}")))
        return inputs

    def _reads_channels(self, index: int, names: Sequence[str]) -> bool:
        """Whether these projections of a block read the channels of its MLP."""
        layout = self.load().structure.mlps[index]
        return layout is not None and layout.out in names

    def _scheduled_gradients(
        self,
        method: MethodSettings,
        permille: int,
        index: int,
    ) -> Tensor:
        """Gradients of one block from a model that gets to this sparsity in rounds."""
        mlps = self.load().mlps
        uncompensated = replace(
            method,
            compensation="none",
            width_multiple=1,
        )
        share = channel_share(self.load().shape, method, permille)

        def masks(
            done: float,
            gradients: list[Tensor],
            on_block: OnBlock,
        ) -> list[Tensor]:
            data = replace(self.data, mask_gradients=gradients.__getitem__)
            # In whole per mille.
            reached = round(SCHEDULES[method.schedule](share, done), 3)
            scores = score_channels(
                mlps,
                data,
                uncompensated,
                on_block,
            )
            kept = choose_channels(
                data,
                uncompensated,
                reached,
                scores,
                on_block,
            )
            block_masks = []
            for channels, mlp in zip(kept, mlps, strict=True):
                block_masks.append(torch.zeros(mlp.width).index_fill(0, channels, 1))
            return block_masks

        key = store_keys.scheduled_gradients_key(self.keys, method, permille)
        return self._gradients(
            key,
            method.rounds,
            masks,
            index,
        )

    def _gradients(
        self,
        key: str,
        n_rounds: int,
        masks: Masks | None,
        index: int,
    ) -> Tensor:
        """Gradients of one block; all blocks' are computed if the store does not have them."""
        note = store_keys.gradients_gathered_note(key)
        data = None
        if self.store.recall(note) is not None:
            data = self.store.get_artefact(f"{key}/{index}")
        if data is None:
            checkpoint = self.checkpoint()
            gradients = mask_gradients(
                self.load(),
                self.read(),
                self.on_step,
                n_rounds=n_rounds,
                masks=masks,
                checkpointed=checkpoint.numbered(
                    f"{key}/batch", pack_tensors, unpack_tensors
                ),
            )
            if not all(bool(block.isfinite().all()) for block in gradients):
                raise CalibrationError(
                    "Gradients are not finite.", "Use float32, or another method."
                )
            for number, block in enumerate(gradients):
                self.put(f"{key}/{number}", pack_tensors([block]), "gradients")
            self.store.remember(note, str(len(gradients)))
            checkpoint.done()
            data = self.get(key, str(index), note)
        return unpack_tensors(data, "gradients")[0]

    def _curve(
        self,
        method: MethodSettings,
        index: int,
        versions: Callable[[], list[PrunedMlp]],
    ) -> list[float]:
        """Losses of the model with these versions of one block's MLP."""
        key = f"{store_keys.curves_key(self.keys.statistics, method)}/{index}"
        stored = self.store.get_artefact(key)
        if stored is None:
            # The first half of pruning, block by block as the channels are scored.
            step = Step(
                "prune",
                index,
                2 * len(self.load().mlps),
                message="measuring curves",
            )

            def on_part(share: float) -> None:
                self.on_step(replace(step, ahead=share))

            losses = self._curves.losses(index, versions(), on_part)
            if not all(map(isfinite, losses)):
                raise CalibrationError(
                    f"With layer {index + 1} narrowed, predictions are not finite.",
                    "Use float32, or another method.",
                )
            stored = json.dumps(losses).encode()
            self.put(key, stored, "curves")
        if index == len(self.load().mlps) - 1:
            # The dense model's probabilities take up to a quarter of a gigabyte.
            self.__dict__.pop("_curves", None)
        return [float(loss) for loss in json.loads(stored)]

    @cached_property
    def _curves(self) -> CurveMeasurement:
        return CurveMeasurement(self.load(), scored_text(self.read()))


@dataclass(eq=False)
class StoredStatistics:
    """Statistics of the inputs of watched modules, stored by block and collected on demand.

    note: marks that all blocks are stored, with what `mark` returns then. modules: of each block,
    by the last part of their keys.
    """

    calibration: Calibration
    key: str
    kind: ArtefactKind
    note: store_keys.NoteName
    modules: Callable[[], Sequence[Mapping[str, nn.Module]]]
    mark: Callable[[], str]

    @property
    def is_known(self) -> bool:
        """True if the store has them, as far as is known before they are read."""
        return self.calibration.store.recall(self.note) is not None

    def get(self, part: str) -> Statistics:
        """The statistics of a part. Raises CacheEvicted."""
        return unpack_statistics(self.calibration.get(self.key, part, self.note))

    def reach(self, index: int) -> None:
        """Collect the statistics of the blocks up to this one; a later call goes on from there."""
        self.walk.reach(index)

    @cached_property
    def walk(self) -> LazyWalk:
        """The walk that collects them."""
        calibration = self.calibration
        modules = self.modules()

        def keep(index: int, statistics: list[Statistics]) -> None:
            for part, part_statistics in zip(modules[index], statistics, strict=True):
                key = f"{self.key}/{part}"
                calibration.put(key, pack_statistics(part_statistics), self.kind)

        def has(index: int) -> bool:
            store = calibration.store
            return all(
                store.has_entry("artefacts", f"{self.key}/{part}")
                for part in modules[index]
            )

        return statistics_walk(
            calibration.load(),
            calibration.read,
            [list(block.values()) for block in modules],
            keep,
            calibration.on_step,
            token_weights=calibration.token_weights,
            checkpoint=WalkCheckpoint(
                calibration.checkpoint(), f"{self.key}/hidden", has
            ),
            on_end=lambda: calibration.store.remember(self.note, self.mark()),
        )


def _has_rounds(method: MethodSettings) -> bool:
    """True if the model gets sparser while it reads the text of its mask gradients."""
    return method.rounds > 1 and method.by_gradient


def _pack_scores(block: ChannelScores) -> bytes:
    return pack_tensors([block.scores, block.losses, torch.tensor(block.cost)])


def _unpack_scores(data: bytes) -> ChannelScores:
    with reading_stored("scores"):
        scores, losses, cost = unpack_tensors(data)
        return ChannelScores(
            width=len(scores),
            cost=int(cost),
            scores=scores,
            losses=losses,
        )
