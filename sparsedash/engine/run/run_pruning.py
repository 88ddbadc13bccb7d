"""The sparse models of a run, made of the dense one and of what its calibration leaves, which is made when missing."""

from collections.abc import Callable, Sequence
from functools import cache, cached_property, partial
from typing import TypeVar

from sparsedash.engine.calibration.cache import CacheEvicted
from sparsedash.engine.calibration.parts_io import pack_errors, pack_masked, unpack_errors, unpack_masked
from sparsedash.engine.calibration.sequential_refit import Refits, pack_narrowed, refit_sequentially, unpack_narrowed
from sparsedash.engine.calibration.walked import Walked
from sparsedash.engine.pruning.allocation import ALLOCATIONS
from sparsedash.engine.pruning.compensation import COMPENSATIONS
from sparsedash.engine.pruning.layer import CalibrationData
from sparsedash.engine.pruning.lazily import Lazily
from sparsedash.engine.pruning.patterns import PATTERNS
from sparsedash.engine.pruning.reconstruction_error import channel_errors
from sparsedash.engine.pruning.structured import prune
from sparsedash.engine.pruning.surgery import PrunedMlp
from sparsedash.engine.pruning.unstructured import MaskedBlock, prune_weights
from sparsedash.engine.run.run_calibration import RunCalibration, RunParts
from sparsedash.engine.run.sparse_model import MaskedWeights, PrunedChannels, SparseModel
from sparsedash.schema.cache_keys import CalibrationKeys, plain_share, pruned_key
from sparsedash.schema.errors import StoreError
from sparsedash.schema.hosting.upkeep import about_artefact
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.progress import Step
from sparsedash.storage.halfway import Halfway

T = TypeVar("T")

MORE_ROOM = "Allow it more room on the storage page, or with SPARSEDASH_ARTEFACT_GB."


class RunPruning:
    """Calibrates the model of a run, once for all methods that read the same text, and prunes it by any method."""

    def __init__(self, parts: RunParts) -> None:
        self._parts, self._run_log = parts, parts.run_log
        self._store, self._model = parts.store, parts.model
        self._calibrations: dict[float, RunCalibration] = {}
        self._energies: dict[str, dict[int, float]] = {}

    def calibration(self, method: MethodSettings) -> RunCalibration:
        """The calibration on the text that this method reads."""
        share = plain_share(method, self._parts.settings.calibration)
        return self._calibrations.setdefault(share, RunCalibration(self._parts, share))

    @property
    def calibration_keys(self) -> list[CalibrationKeys]:
        """Of every calibration that was asked for so far."""
        return [calibration.keys for calibration in self._calibrations.values()]

    def whole(self, method: MethodSettings, begun: Callable[[], T], block: Callable[[T, int], object]) -> T:
        """What `begun` gives with all blocks of a model that is pruned by this method, made one after another.

        begun: called again where statistics are lost on the way. block: makes one by its index. Calibrates first where
        the statistics are not there (any more), but not where neither the method nor another of the run reads this
        text. Raises StoreError where the store cannot hold what the calibration leaves.
        """
        lost: set[str] = set()
        calibration = self.calibration(method)
        while True:
            if not calibration.is_known:
                if calibration.is_read:
                    calibration.calibrate()
            else:
                self._note_calibrated()
            with self._run_log.timed("prune"):
                try:
                    made = begun()
                    for index in range(len(self._model.loaded.blocks)):
                        block(made, index)
                    return made
                except CacheEvicted as gone:
                    if gone.key in lost:
                        # It was made again just now, and pushed out again.
                        raise StoreError("What was calibrated does not fit into the store.", MORE_ROOM) from None
                    lost.add(gone.key)

    def missing(self, methods: Sequence[MethodSettings]) -> Sequence[Callable[[int], None]]:
        """What these methods need of calibration text, or are judged by, and is not there (any more).

        Each of them gathers it as far as a block, by its index.
        """
        found: dict[RunCalibration, bool] = {}
        for method in methods:
            calibration = self.calibration(method)
            found[calibration] = found.get(calibration, False) or not method.takes_channels
        if all(calibration.is_known for calibration in found):
            self._note_calibrated()
        read = {calibration: masks for calibration, masks in found.items() if calibration.is_read}
        inputs = [own.cache for own, masks in read.items() if masks and not own.cache.has_inputs]
        return [own.reach for own in read if not own.is_known] + [own.reach_inputs for own in inputs]

    def _note_calibrated(self) -> None:
        """Write down that the calibration was there, unless it was made now."""
        if "calibrate" not in self._run_log.seconds:
            self._run_log.note_cached("calibration")

    @cached_property
    def _halfway(self) -> Halfway:
        return Halfway(self._store, self._model.identity)

    def answered(self) -> None:
        """The sparse models that were made have answered: what was kept of their making can go."""
        self._halfway.done()

    def sparse_model(self, method: MethodSettings, permille: int) -> SparseModel:
        """The sparse model, not applied yet, none of whose blocks is made yet; that may raise CacheEvicted."""
        loaded, known = self._model.loaded, self.calibration(method).cache
        calibration = known.data_for(method, permille)
        if not PATTERNS[method.pattern].channels:
            masked = self._masked(method, permille, calibration)
            return MaskedWeights(loaded=loaded, scope=method.scope, masked=masked, groups=known.groups)
        narrowed = self._narrowed(method, permille, calibration)
        energies = self._energies.setdefault(self.calibration(method).keys.statistics, {})
        made = self._halfway.numbered(f"{self._parts_key(method, permille)}/errors", pack_errors, unpack_errors)
        errors = channel_errors(loaded.mlps, calibration, narrowed, energies, made)
        sensitivities = calibration.sensitivities if ALLOCATIONS[method.allocation].needs_losses else list[float]
        return PrunedChannels(loaded=loaded, narrowed=narrowed, errors=errors, sensitivities=sensitivities)

    def _masked(self, method: MethodSettings, permille: int, calibration: CalibrationData) -> Sequence[MaskedBlock]:
        loaded, hold = self._model.loaded, self._model.loaded.residency.hold
        projections, key = loaded.projections(method.scope), self._parts_key(method, permille)

        pack = self._packing(partial(pack_masked, refitted=method.compensation != "none"))

        def made(index: int, make: Callable[[], MaskedBlock]) -> MaskedBlock:
            def unpack(data: bytes) -> MaskedBlock:
                return unpack_masked(data, projections[index]).held(hold)

            found: MaskedBlock = self._halfway.made(f"{key}/masked/{index}", make, pack, unpack)
            return found

        on_block = self._on_block
        return prune_weights(projections, calibration, method, permille, on_block=on_block, hold=hold, made=made)

    def _narrowed(self, method: MethodSettings, permille: int, calibration: CalibrationData) -> Lazily[PrunedMlp]:
        """What every MLP becomes; a sequential refit is kept, since it needs passes over the text."""
        chosen = self._chosen(method, permille, calibration)
        if permille == 0 or not COMPENSATIONS[method.compensation].sequential:
            return chosen
        refitted = cache(partial(self._refitted, method, permille, chosen))
        return Lazily(len(chosen), lambda index: refitted()[index])

    def _refitted(self, method: MethodSettings, permille: int, chosen: Sequence[PrunedMlp]) -> list[PrunedMlp]:
        loaded, text, refits = self._model.loaded, self.calibration(method), self._refits(method, permille)
        if all(map(refits.has, range(len(loaded.mlps)))):
            return [refits.get(index) for index in range(len(loaded.mlps))]
        on_step, damping, strength = self._run_log.on_step, method.damping, method.strength
        return refit_sequentially(loaded, text.sequences, list(chosen), damping, strength, on_step, refits)

    def _refits(self, method: MethodSettings, permille: int) -> Refits:
        """What the store has of a sequential refit."""
        key, store, hold = self._parts_key(method, permille), self._store, self._model.loaded.residency.hold
        about = about_artefact("weights", self._model.identity)

        def has(index: int) -> bool:
            return store.has_artefact(f"{key}/{index}")

        def get(index: int) -> PrunedMlp:
            data = store.get_artefact(f"{key}/{index}")
            if data is None:
                raise CacheEvicted(key)
            return unpack_narrowed(data).held(hold)

        def put(index: int, narrow: PrunedMlp) -> None:
            store.put_artefact(f"{key}/{index}", pack_narrowed(narrow), about)

        return Refits(walked=Walked(self._halfway, f"{key}/hidden", has), has=has, get=get, put=put)

    def _chosen(self, method: MethodSettings, permille: int, calibration: CalibrationData) -> Lazily[PrunedMlp]:
        """What every MLP becomes by itself, without regard to what the blocks before it have lost."""
        scores = partial(self.calibration(method).cache.channel_scores, method, permille, self._on_block)
        loaded, hold = self._model.loaded, self._model.loaded.residency.hold
        key = f"{self._parts_key(method, permille)}/chosen"
        pack = self._packing(pack_narrowed)
        keep = self._halfway.numbered(key, pack, lambda data: unpack_narrowed(data).held(hold))

        def made(index: int, make: Callable[[], PrunedMlp]) -> PrunedMlp:
            return keep(index, lambda: make().held(hold))

        return prune(loaded.mlps, calibration, method, permille, scores=scores, on_layer=self._on_block, made=made)

    def _packing(self, pack: Callable[[T], bytes]) -> Callable[[T], bytes]:
        """The same, after which what was read for it is let go: many parts may be packed one after another."""

        def packed(part: T) -> bytes:
            data = pack(part)
            self._model.loaded.residency.drop()
            return data

        return packed

    def _parts_key(self, method: MethodSettings, permille: int) -> str:
        """Under which is kept what is found of a sparse model, until it has answered."""
        return pruned_key(self.calibration(method).keys.statistics, method, permille)

    def _on_block(self, done: int, total: int) -> None:
        self._model.loaded.residency.drop()
        self._run_log.on_step(Step("prune", done, total))
