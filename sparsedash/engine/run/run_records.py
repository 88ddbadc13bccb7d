"""The records of a run: the answers of its dense model and of each sparse one, kept in the store."""

from sparsedash.engine.evaluation.early_stopping import AnyRule
from sparsedash.engine.evaluation.evaluate import evaluate
from sparsedash.engine.evaluation.so_far import SoFar
from sparsedash.engine.run.run_calibration import RunParts
from sparsedash.schema import notes
from sparsedash.schema.cache_keys import StopWithin, outcomes_key
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.records import Pruned, Record
from sparsedash.storage.halfway import Halfway


class RunRecords:
    """The records that a run's settings ask for.

    stop_within: of a search, what lets a sparse model stop; it is part of the sparse records' keys.
    """

    def __init__(self, parts: RunParts) -> None:
        self.stop_within: StopWithin | None = None
        self._settings, self._store = parts.settings, parts.store
        self._model, self._texts, self._run_log = parts.model, parts.texts, parts.run_log

    def key(self, sparse: tuple[str, MethodSettings, int] | None) -> str:
        """The key of one record. sparse: statistics key, method, per mille; None for the dense model."""
        return outcomes_key(
            self._model.identity,
            self._settings.dtype,
            self._texts.evaluation_identity,
            self._settings.evaluation,
            sparse,
            n_sparse=self._settings.n_sparse,
            stop_within=self.stop_within,
        )

    def is_known(self, key: str) -> bool:
        """Whether the store has the record; it is not read."""
        return self._store.has(Record, key)

    def known(self, key: str, label: str) -> Record | None:
        """The record from the store, or None. label: what it is called where the run says what it did not do again."""
        record = self._store.get(Record, key)
        if record is not None:
            self._run_log.note_cached(f"evaluation, {label}")
        return record

    def evaluated(self, key: str, made: Pruned | None, label: str, stop: AnyRule | None = None) -> Record:
        """The record of the loaded model as it is now, asked every passage or as many as `stop` needs, and kept.

        made: what is put on record about a sparse one. label: which model this is, for the progress line.
        """
        settings, passages, loaded = self._settings, self._texts.passages, self._model.loaded
        halfway = Halfway(self._store, self._model.identity)
        with self._run_log.timed("evaluate"):
            rule, on_step = settings.evaluation.rule, self._run_log.on_step
            so_far = SoFar(halfway, f"{key}/answers")
            evaluated = evaluate(loaded, passages, on_step, label, rule=rule, stop=stop, so_far=so_far)
        record = Record(
            key=key,
            model=settings.model,
            model_identity=self._model.identity,
            dtype=settings.dtype,
            corpus=settings.evaluation.corpus,
            corpus_identity=self._texts.evaluation_identity,
            passages_key=passages.key,
            pruned=made,
            outcomes=evaluated.outcomes,
            seconds=evaluated.seconds,
            tokens_per_second=evaluated.n_tokens / evaluated.seconds,
            rule=settings.evaluation.rule,
            stopping=evaluated.stopping,
        )
        self._store.put(key, record)
        halfway.done()
        if self._model.is_first:
            self._store.remember(notes.peak_memory(settings.model, settings.dtype), str(self._run_log.peak_bytes))
        return record
