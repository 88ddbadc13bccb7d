"""The sparse models of a run, made of the dense one and of what its calibration leaves, which is made when missing."""

from functools import cached_property, partial

from sparsedash.engine.calibration.cache import CacheEvicted, CalibrationCache
from sparsedash.engine.calibration.sequential_refit import pack_narrowed, refit_sequentially, unpack_narrowed
from sparsedash.engine.calibration.statistics import calibrate, few_tokens_warning
from sparsedash.engine.pruning.compensation import COMPENSATIONS
from sparsedash.engine.pruning.layer import CalibrationData
from sparsedash.engine.pruning.patterns import PATTERNS
from sparsedash.engine.pruning.reconstruction_error import channel_errors
from sparsedash.engine.pruning.structured import prune
from sparsedash.engine.pruning.surgery import PrunedMlp
from sparsedash.engine.pruning.unstructured import prune_weights
from sparsedash.engine.run.run_log import RunLog
from sparsedash.engine.run.run_model import RunModel
from sparsedash.engine.run.run_texts import RunTexts
from sparsedash.engine.run.sparse_model import MaskedWeights, PrunedChannels, SparseModel
from sparsedash.schema import notes
from sparsedash.schema.cache_keys import CalibrationKeys, calibration_keys, pruned_key
from sparsedash.schema.errors import StoreError
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.progress import Step
from sparsedash.schema.settings import RunSettings
from sparsedash.storage.store import Store

MORE_ROOM = "Allow it more room with SPARSEDASH_ARTEFACT_GB."


class RunPruning:
    """Calibrates the model of a run once, and prunes it by any method to any sparsity."""

    def __init__(self, settings: RunSettings, store: Store, model: RunModel, texts: RunTexts, run_log: RunLog) -> None:
        self._settings, self._reads_text, self._store = settings.calibration, settings.reads_text, store
        self._model, self._texts, self._run_log = model, texts, run_log

    @cached_property
    def keys(self) -> CalibrationKeys:
        """The keys of what the calibration leaves."""
        model, text = self._model, self._texts.calibration_identity
        return calibration_keys(model.identity, model.dtype, text, self._settings)

    @property
    def is_calibrated(self) -> bool:
        """Whether the store has what the calibration leaves, as far as is known before it is read."""
        return self._store.recall(notes.calibrated(self.keys.statistics)) is not None

    @property
    def calibration_warning(self) -> str | None:
        """What a person should know about the calibration in the store; None or nothing where there is nothing."""
        return self._store.recall(notes.calibration_warning(self.keys.statistics))

    def sparse_model(self, method: MethodSettings, permille: int) -> SparseModel:
        """The sparse model, not applied yet; calibrates first where the statistics are not there (any more).

        Not so where neither the method nor another of the run depends on the calibration text. Raises StoreError where
        the store cannot hold what the calibration leaves.
        """
        lost: set[str] = set()
        while True:
            if not self.is_calibrated:
                if self._reads_text or method.reads_text:
                    self._calibrate()
            elif "calibrate" not in self._run_log.seconds:
                self._run_log.note_cached("calibration")
            with self._run_log.timed("prune"):
                try:
                    return self._made(method, permille)
                except CacheEvicted as gone:
                    if gone.key in lost:
                        # It was made again just now, and pushed out again.
                        raise StoreError("What was calibrated does not fit into the store.", MORE_ROOM) from None
                    lost.add(gone.key)

    @cached_property
    def _cache(self) -> CalibrationCache:
        return CalibrationCache(
            self._store,
            self.keys,
            self._model.loaded,
            lambda: self._texts.sequences,
            self._run_log.on_step,
            token_weights=self._settings.token_weights,
            reads_text=self._reads_text,
        )

    def _calibrate(self) -> None:
        loaded, sequences = self._model.loaded, self._texts.sequences
        warning = few_tokens_warning(loaded, sum(map(len, sequences)))
        self._run_log.warn(warning)
        keep, on_step = self._cache.keep_statistics, self._run_log.on_step
        with self._run_log.timed("calibrate"):
            calibrate(loaded, sequences, keep, on_step, token_weights=self._settings.token_weights)
        self._store.remember(notes.calibration_warning(self.keys.statistics), warning or "")
        self._store.remember(notes.calibrated(self.keys.statistics), str(len(loaded.mlps)))

    def _made(self, method: MethodSettings, permille: int) -> SparseModel:
        loaded, calibration = self._model.loaded, self._cache.data_for(method, permille)
        if PATTERNS[method.pattern].channels:
            narrowed = self._narrowed(method, permille, calibration)
            errors = channel_errors(loaded.mlps, calibration, method, narrowed)
            return PrunedChannels(loaded=loaded, narrowed=narrowed, errors=errors)
        projections, scope = loaded.projections(method.scope), method.scope
        masked, errors = prune_weights(projections, calibration, method, permille, self._on_block)
        return MaskedWeights(loaded=loaded, scope=scope, masked=masked, groups=self._cache.groups, errors=errors)

    def _narrowed(self, method: MethodSettings, permille: int, calibration: CalibrationData) -> list[PrunedMlp]:
        """What every MLP becomes; a sequential refit is kept, since it needs passes over the text."""
        if permille == 0 or not COMPENSATIONS[method.compensation].sequential:
            return self._chosen(method, permille, calibration)
        key = pruned_key(self.keys.statistics, method, permille)
        known = self._store.get_artefact(key)
        if known is None:
            chosen, on_step = self._chosen(method, permille, calibration), self._run_log.on_step
            loaded, sequences = self._model.loaded, self._texts.sequences
            refitted = refit_sequentially(loaded, sequences, chosen, method.damping, method.strength, on_step)
            known = pack_narrowed(refitted)
            self._store.put_artefact(key, known)
        return unpack_narrowed(known)

    def _chosen(self, method: MethodSettings, permille: int, calibration: CalibrationData) -> list[PrunedMlp]:
        """What every MLP becomes by itself, without regard to what the blocks before it have lost."""
        scores = partial(self._cache.channel_scores, method, permille, self._on_block)
        mlps = self._model.loaded.mlps
        return prune(mlps, calibration, method, permille, scores=scores, on_layer=self._on_block)

    def _on_block(self, done: int, total: int) -> None:
        self._run_log.on_step(Step("prune", done, total))
