"""What calibration leaves of a model's blocks, kept in the store and computed when first asked for."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property, partial

from torch import Tensor

from sparsedash.engine.calibration.block_sensitivity import block_sensitivities
from sparsedash.engine.calibration.gathered_on import GatheredOn
from sparsedash.engine.calibration.gradients import OnBlock, mask_gradients
from sparsedash.engine.calibration.parts_io import pack_gradients, pack_tensors, unpack_gradients, unpack_tensors
from sparsedash.engine.calibration.shared_inputs import shared_inputs
from sparsedash.engine.calibration.statistics import Gathering
from sparsedash.engine.calibration.statistics_io import pack, pack_scores, unpack, unpack_scores
from sparsedash.engine.calibration.walked import Walked
from sparsedash.engine.models.loading import LoadedModel
from sparsedash.engine.pruning.allocation import ChannelScores
from sparsedash.engine.pruning.layer import UNKNOWN, CalibrationData, Statistics
from sparsedash.engine.pruning.patterns import mask_of
from sparsedash.engine.pruning.saliency import SALIENCIES
from sparsedash.engine.pruning.schedule import reached_permille
from sparsedash.engine.pruning.structured import choose, score_channels, scores_depend_on
from sparsedash.schema import notes
from sparsedash.schema.cache_keys import CalibrationKeys, scheduled_gradients_key, scores_key
from sparsedash.schema.hosting.upkeep import ArtefactKind, about_artefact
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.progress import Made, OnStep
from sparsedash.schema.settings import TokenWeights
from sparsedash.storage.halfway import Halfway
from sparsedash.storage.store import Store


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
        self._gathered = GatheredOn(self._inputs_begun, self._inputs_over)
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
            unknown = [[(names, UNKNOWN) for names in block] for block in self.groups]
            return replace(self.data, statistics=lambda _: UNKNOWN, inputs=unknown.__getitem__)
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
        asked = (*scores_depend_on(method), data is self.data)
        if asked not in self._scores:
            made = self._halfway().numbered(scores_key(self._keys.statistics, method), pack_scores, unpack_scores)
            self._scores[asked] = score_channels(self._loaded.mlps, data, method, on_block, made)
        return self._scores[asked]

    def keep_statistics(self, index: int, statistics: Statistics) -> None:
        """Put one block's statistics into the store."""
        self._store.put_artefact(f"{self._keys.statistics}/{index}", pack(statistics), self._about("statistics"))

    def _halfway(self) -> Halfway:
        return Halfway(self._store, self._loaded.identity)

    def _about(self, kind: ArtefactKind) -> str:
        return about_artefact(kind, self._loaded.identity)

    def has_block(self, index: int) -> bool:
        """Whether the store has one block's statistics."""
        return self._store.has_artefact(f"{self._keys.statistics}/{index}")

    def _has_statistics(self, method: MethodSettings) -> bool:
        wanted = [notes.calibrated(self._keys.statistics)]
        wanted += [] if method.takes_channels else [notes.inputs_gathered(self._keys.inputs)]
        return all(self._store.recall(note) is not None for note in wanted)

    def _statistics(self, index: int) -> Statistics:
        # Whoever asks for a block's statistics is done with the weights of the one before.
        self._loaded.residency.drop()
        data = self._store.get_artefact(f"{self._keys.statistics}/{index}")
        if data is None:
            self._store.forget(notes.calibrated(self._keys.statistics))
            raise CacheEvicted(self._keys.statistics)
        return unpack(data)

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
                self._store.forget(notes.inputs_gathered(key))
                raise CacheEvicted(key)
            found.append((names, unpack(data)))
        return found

    @property
    def has_inputs(self) -> bool:
        """Whether the store has the statistics of what all projections are given."""
        return self._store.recall(notes.inputs_gathered(self._keys.inputs)) is not None

    def reach_inputs(self, index: int) -> None:
        """Gather these statistics as far as this block; so again and again for one block after another."""
        self._gathered.reach(index)

    def _inputs_begun(self) -> Gathering:
        """Puts the statistics of all inputs but those of the out-projections, which are there, into the store."""
        key, out = self._keys.inputs, self._loaded.family.out
        wanted = [
            {number: names[0] for number, names in enumerate(groups) if out not in names} for groups in self.groups
        ]
        blocks = self._loaded.projections("decoder")
        watched = [[block[name] for name in names.values()] for block, names in zip(blocks, wanted, strict=True)]

        def keep(index: int, statistics: list[Statistics]) -> None:
            for number, own in zip(wanted[index], statistics, strict=True):
                self._store.put_artefact(f"{key}/{index}/{number}", pack(own), self._about("inputs"))

        def has(index: int) -> bool:
            return all(self._store.has_artefact(f"{key}/{index}/{number}") for number in wanted[index])

        weights, walked = self._token_weights, Walked(self._inputs_halfway, f"{key}/hidden", has)
        sequences, on_step = self._sequences(), self._on_step
        return Gathering(self._loaded, sequences, watched, keep, on_step, token_weights=weights, walked=walked)

    def _inputs_over(self) -> None:
        self._store.remember(notes.inputs_gathered(self._keys.inputs), str(len(self._loaded.blocks)))
        self._inputs_halfway.done()

    @cached_property
    def _inputs_halfway(self) -> Halfway:
        return self._halfway()

    def _mask_gradients(self, index: int) -> Tensor:
        """Of one block; from a backward pass over all of the calibration text, done once."""

        def gather(made: Made[list[Tensor]]) -> list[Tensor]:
            return mask_gradients(self._loaded, self._sequences(), self._on_step, made=made)

        return self._gradients(self._keys.gradients, gather, index)

    def _scheduled_gradients(self, method: MethodSettings, permille: int, index: int) -> Tensor:
        """Of one block; from a backward pass for this sparsity alone, over a model that gets there in rounds."""
        mlps = self._loaded.mlps
        on_the_way = replace(method, compensation="none", width_multiple=1)

        def masks(done: float, found: list[Tensor], on_block: OnBlock) -> list[Tensor]:
            so_far = replace(self.data, mask_gradients=found.__getitem__)
            reached = reached_permille(method.schedule, permille, done)
            kept = choose(mlps, so_far, on_the_way, reached, on_block)
            return [mask_of(own, mlp.width) for own, mlp in zip(kept, mlps, strict=True)]

        def gather(made: Made[list[Tensor]]) -> list[Tensor]:
            sequences, on_step, n = self._sequences(), self._on_step, method.rounds
            return mask_gradients(self._loaded, sequences, on_step, n_rounds=n, masks=masks, made=made)

        key = scheduled_gradients_key(self._keys, method, permille)
        return self._gradients(key, gather, index)

    def _gradients(self, key: str, gather: Callable[[Made[list[Tensor]]], list[Tensor]], index: int) -> Tensor:
        """Of one block, from the store; all blocks' are gathered where they are not there (any more)."""
        data = None
        if self._store.recall(notes.gradients_gathered(key)) is not None:
            data = self._store.get_artefact(f"{key}/{index}")
        if data is None:
            halfway = self._halfway()
            found = gather(halfway.numbered(f"{key}/batch", pack_tensors, unpack_tensors))
            for number, block in enumerate(found):
                self._store.put_artefact(f"{key}/{number}", pack_gradients(block), self._about("gradients"))
            self._store.remember(notes.gradients_gathered(key), str(len(found)))
            halfway.done()
            data = self._store.get_artefact(f"{key}/{index}")
        if data is None:
            self._store.forget(notes.gradients_gathered(key))
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
