"""The stages of a run, each read from the store where it is known and computed where it is not."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cached_property, partial

from sparsedash.catalog.memory import kept_bytes, needs_fisher
from sparsedash.engine.calibration.cache import CacheEvicted, CalibrationCache
from sparsedash.engine.calibration.mismatch import PassageActivations, mismatch_warning
from sparsedash.engine.calibration.sequential_refit import pack_narrowed, refit_sequentially, unpack_narrowed
from sparsedash.engine.calibration.statistics import calibrate, few_tokens_warning
from sparsedash.engine.evaluation.early_stopping import StopRule
from sparsedash.engine.evaluation.evaluate import evaluate
from sparsedash.engine.models.loading import LoadedModel, ModelShelf, Source
from sparsedash.engine.pruning.compensation import COMPENSATIONS
from sparsedash.engine.pruning.patterns import PATTERNS
from sparsedash.engine.pruning.reconstruction_error import PrunedModel, measured, passage_errors
from sparsedash.engine.pruning.structured import prune
from sparsedash.engine.pruning.surgery import out_weight, pruned, reweighted
from sparsedash.engine.pruning.unstructured import prune_weights, weight_passage_errors
from sparsedash.engine.run.pruned_record import described
from sparsedash.engine.run.run_log import RunLog, peak_memory_bytes
from sparsedash.engine.run.run_model import RunModel
from sparsedash.engine.run.run_texts import RunTexts
from sparsedash.schema import notes
from sparsedash.schema.cache_keys import CalibrationKeys, calibration_keys, outcomes_key, pruned_key
from sparsedash.schema.errors import StoreError
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.progress import OnStep, Step
from sparsedash.schema.records import Pruned, Record
from sparsedash.schema.settings import RunSettings
from sparsedash.storage.store import Store

_MORE_ROOM = "Allow it more room with SPARSEDASH_ARTEFACT_GB."


class Stages:
    """What one run needs, made when it is first asked for. texts: what it reads. run_log: what it took."""

    def __init__(self, settings: RunSettings, store: Store, on_step: OnStep, shelf: ModelShelf) -> None:
        self._settings, self._store = settings, store
        self.run_log = RunLog(on_step)
        self._model = RunModel(settings, store, shelf, self.run_log)
        self.texts = RunTexts(settings, store, self._model, self.run_log)
        self._told_of_mismatch = False

    @property
    def source(self) -> Source:
        """The model's files and identity."""
        return self._model.source

    @property
    def loaded(self) -> LoadedModel:
        """The dense model in memory."""
        return self._model.loaded

    @property
    def sequences(self) -> list[list[int]]:
        """Token ids of the calibration text."""
        return self.texts.sequences

    def check(self) -> None:
        """Refuse now what would be refused only after the dense model was evaluated, and warn now of what is known.

        Raises CalibrationError, StoreError.
        """
        if self._store.recall(notes.calibrated(self._keys.statistics)) is None:
            few_tokens_warning(self.loaded, self.texts.n_tokens_expected)
        self._require_room()
        self.run_log.warn(self.texts.few_passages_warning)
        # What is stored is no steadier than it was when it was made.
        self.run_log.warn(self._store.recall(notes.calibration_warning(self._keys.statistics)))

    def _require_room(self) -> None:
        """Statistics and gradients that do not fit together would push each other out, again and again."""
        unknown = [point for point in self._settings.points if not self._is_known(*point)]
        if not unknown:
            return
        settings = replace(self._settings, methods=tuple({method for method, _ in unknown}))
        # Without Fisher information their number does not matter, and the text need not be cut into tokens for it.
        n_sequences = self.texts.n_sequences_expected if needs_fisher(settings) else 0
        mlps = self.loaded.mlps
        hidden = len(out_weight(mlps[0]))
        needed = kept_bytes([mlp.width for mlp in mlps], hidden, settings, n_sequences)
        room = self._store.artefact_room
        if needed > room:
            sizes = f"{needed / 2**30:.1f} GB, and there is room for {room / 2**30:.1f} GB"
            raise StoreError(f"What the calibration leaves takes {sizes}.", _MORE_ROOM)

    @cached_property
    def dense_record(self) -> Record:
        """The dense model's answers, to all passages."""
        key = self._outcomes_key(None)
        return self._known(key, "dense") or self._evaluated(key, None, "dense model")

    def sparse_record(
        self, method: MethodSettings, permille: int, announce: Callable[[], None] = lambda: None
    ) -> Record:
        """The answers of the model pruned like this. announce: called when it is pruned, before it is evaluated."""
        key = self._sparse_key(method, permille)
        label = f"{permille / 10:g} % sparse"
        known = self._known(key, label)
        if known is not None and known.pruned is not None:
            self._warn_of_mismatch(known.pruned)
            return known
        made = self.prune(method, permille)
        with self.run_log.timed("prune"):
            asked = (method, self._settings.calibration, permille)
            facts = described(self.loaded, made, asked, self._passage_errors(method, made))
        self._warn_of_mismatch(facts)
        announce()
        stop = self._stop_rule()
        with self.applied(method, made):
            return self._evaluated(key, facts, label, stop)

    def prune(self, method: MethodSettings, permille: int) -> PrunedModel:
        """What every MLP or projection becomes; calibrates first where the statistics are not there (any more)."""
        lost: set[str] = set()
        while True:
            if self._store.recall(notes.calibrated(self._keys.statistics)) is None:
                self._calibrate()
            elif "calibrate" not in self.run_log.seconds:
                self.run_log.note_cached("calibration")
            with self.run_log.timed("prune"):
                try:
                    return self._pruned(method, permille)
                except CacheEvicted as gone:
                    if gone.key in lost:
                        # It was made again just now, and pushed out again.
                        reason = "What was calibrated does not fit into the store."
                        raise StoreError(reason, _MORE_ROOM) from None
                    lost.add(gone.key)

    def applied(self, method: MethodSettings, made: PrunedModel) -> AbstractContextManager[None]:
        """Inside it the loaded model is the sparse one, and the dense one again after it."""
        if made.masked:
            return reweighted(self.loaded.projections(method.scope), made.masked)
        return pruned(self.loaded.mlps, made.narrowed)

    @cached_property
    def _keys(self) -> CalibrationKeys:
        calibration = self._settings.calibration
        text = self.texts.calibration_identity
        return calibration_keys(self._model.identity, self._settings.dtype, text, calibration)

    def _outcomes_key(self, sparse: tuple[str, MethodSettings, int] | None) -> str:
        return outcomes_key(
            self._model.identity,
            self._settings.dtype,
            self.texts.evaluation_identity,
            self._settings.evaluation,
            sparse,
            n_sparse=self._settings.n_sparse,
        )

    def _sparse_key(self, method: MethodSettings, permille: int) -> str:
        return self._outcomes_key((self._keys.statistics, method, permille))

    def _is_known(self, method: MethodSettings, permille: int) -> bool:
        return self._store.has(Record, self._sparse_key(method, permille))

    def _stop_rule(self) -> StopRule | None:
        if not self._settings.evaluation.stop_early:
            return None
        verdicts = [outcome.last_word_right for outcome in self.dense_record.outcomes]
        return StopRule(dense=verdicts, n_comparisons=self._settings.n_sparse)

    @cached_property
    def _kept(self) -> CalibrationCache:
        return CalibrationCache(
            self._store,
            self._keys,
            self.loaded,
            lambda: self.sequences,
            self.run_log.on_step,
            token_weights=self._settings.calibration.token_weights,
        )

    def _calibrate(self) -> None:
        sequences = self.sequences
        warning = few_tokens_warning(self.loaded, sum(map(len, sequences)))
        self.run_log.warn(warning)
        keep, on_step = self._kept.keep_statistics, self.run_log.on_step
        weights = self._settings.calibration.token_weights
        with self.run_log.timed("calibrate"):
            calibrate(self.loaded, sequences, keep, on_step, token_weights=weights)
        self._store.remember(notes.calibration_warning(self._keys.statistics), warning or "")
        self._store.remember(notes.calibrated(self._keys.statistics), str(len(self.loaded.mlps)))

    def _pruned(self, method: MethodSettings, permille: int) -> PrunedModel:
        mlps, calibration = self.loaded.mlps, self._kept.data_for(method, permille)
        if not PATTERNS[method.pattern].channels:
            projections = self.loaded.projections(method.scope)
            return prune_weights(projections, calibration, method, permille, self._on_pruned)
        scores = partial(self._kept.channel_scores, method, permille, self._on_pruned)
        chosen = partial(prune, mlps, calibration, method, permille, scores=scores, on_layer=self._on_pruned)
        if permille == 0 or not COMPENSATIONS[method.compensation].sequential:
            return chosen()
        key = pruned_key(self._keys.statistics, method, permille)
        known = self._store.get_artefact(key)
        if known is None:
            damping, strength, on_step = method.damping, method.strength, self.run_log.on_step
            refitted = refit_sequentially(self.loaded, self.sequences, chosen().narrowed, damping, strength, on_step)
            known = pack_narrowed(refitted)
            self._store.put_artefact(key, known)
        return measured(mlps, calibration, method, unpack_narrowed(known))

    def _on_pruned(self, done: int, total: int) -> None:
        self.run_log.on_step(Step("prune", done, total))

    def _passage_errors(self, method: MethodSettings, made: PrunedModel) -> list[float]:
        loaded, groups = self.loaded, self._kept.groups if made.masked else []
        watched = [[names[0] for names in block] for block in groups]
        found = PassageActivations(
            self._store,
            loaded,
            self.texts.passages,
            watched or [[loaded.family.out]] * len(loaded.blocks),
            self.run_log.on_step,
            token_weights=self._settings.calibration.token_weights,
        )
        if not made.masked:
            return passage_errors(loaded.mlps, found.of, made.narrowed)
        projections = loaded.projections(method.scope)
        return weight_passage_errors(projections, groups, found.of, made.masked)

    def _warn_of_mismatch(self, made: Pruned) -> None:
        if not self._told_of_mismatch:
            warning = mismatch_warning(made)
            self.run_log.warn(warning)
            self._told_of_mismatch = warning is not None

    def _known(self, key: str, label: str) -> Record | None:
        record = self._store.get(Record, key)
        if record is not None:
            self.run_log.note_cached(f"evaluation, {label}")
        return record

    def _evaluated(self, key: str, made: Pruned | None, label: str, stop: StopRule | None = None) -> Record:
        settings, passages = self._settings, self.texts.passages
        loaded = self.loaded
        with self.run_log.timed("evaluate"):
            rule, on_step = settings.evaluation.rule, self.run_log.on_step
            evaluated = evaluate(loaded, passages, on_step, label, rule=rule, stop=stop)
        record = Record(
            key=key,
            model=settings.model,
            model_identity=self._model.identity,
            dtype=settings.dtype,
            corpus=settings.evaluation.corpus,
            corpus_identity=self.texts.evaluation_identity,
            passages_key=passages.key,
            pruned=made,
            outcomes=evaluated.outcomes,
            seconds=evaluated.seconds,
            tokens_per_second=evaluated.n_tokens / evaluated.seconds,
            rule=settings.evaluation.rule,
            stopping=evaluated.stopping,
        )
        self._store.put(key, record)
        if self._model.is_first:
            self._store.remember(notes.peak_memory(settings.model, settings.dtype), str(peak_memory_bytes()))
        return record
