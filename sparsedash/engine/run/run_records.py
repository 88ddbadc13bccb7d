"""The records of a run: the answers of its dense model and of each sparse one, kept in the store."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

from sparsedash.engine.evaluation.early_stopping import AnyRule
from sparsedash.engine.evaluation.evaluate import Evaluated, evaluate_together
from sparsedash.engine.evaluation.reading import Answering
from sparsedash.engine.evaluation.so_far import SoFar
from sparsedash.engine.models.block_walk import Applied
from sparsedash.engine.run.run_calibration import RunParts
from sparsedash.schema import notes
from sparsedash.schema.cache_keys import StopWithin, outcomes_key
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.records import Pruned, Record
from sparsedash.storage.halfway import Halfway


@dataclass(frozen=True, eq=False)
class Unanswered:
    """A model whose record is still to be made. key: that it is kept under. label: which it is, for the progress line.

    made: gives what is put on record about a sparse one, when it has answered. applied: what the loaded model becomes
    for it.
    """

    key: str
    label: str
    made: Callable[[], Pruned | None] = lambda: None
    applied: Applied = nullcontext


class RunRecords:
    """The records that a run's settings ask for.

    stop_within: of a search, what lets a sparse model stop; it is part of the sparse records' keys.
    """

    def __init__(self, parts: RunParts) -> None:
        self.stop_within: StopWithin | None = None
        self._made: set[str] = set()
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
        if record is not None and key not in self._made:
            self._run_log.note_cached(f"evaluation, {label}")
        return record

    def evaluated(
        self, asked: Sequence[Unanswered], stop: AnyRule | None = None, prepare: Callable[[int], None] | None = None
    ) -> list[Record]:
        """The records of these models, asked every passage side by side, or one alone as many as `stop` needs; kept.

        prepare: see evaluate_together.
        """
        halfway = Halfway(self._store, self._model.identity)
        so_far = [SoFar(halfway, f"{each.key}/answers") for each in asked]
        models = [Answering(applied=each.applied, so_far=own) for each, own in zip(asked, so_far, strict=True)]
        passages, rule = self._texts.passages, self._settings.evaluation.rule
        message, on_step = _together([each.label for each in asked]), self._run_log.on_step
        with self._run_log.timed("evaluate"):
            loaded = self._model.loaded
            found = evaluate_together(loaded, passages, models, on_step, message, rule=rule, stop=stop, prepare=prepare)
        records = [self._kept(each, evaluated) for each, evaluated in zip(asked, found, strict=True)]
        halfway.done()
        if self._model.is_first:
            key = notes.peak_memory(self._settings.model, self._settings.dtype)
            self._store.remember(key, str(self._run_log.peak_bytes))
        return records

    def _kept(self, asked: Unanswered, evaluated: Evaluated) -> Record:
        settings = self._settings
        record = Record(
            key=asked.key,
            model=settings.model,
            model_identity=self._model.identity,
            dtype=settings.dtype,
            corpus=settings.evaluation.corpus,
            corpus_identity=self._texts.evaluation_identity,
            passages_key=self._texts.passages.key,
            pruned=asked.made(),
            outcomes=evaluated.outcomes,
            seconds=evaluated.seconds,
            tokens_per_second=evaluated.n_tokens / evaluated.seconds,
            rule=settings.evaluation.rule,
            stopping=evaluated.stopping,
            words_cut=evaluated.words_cut,
        )
        self._store.put(record.key, record)
        self._made.add(record.key)
        return record


def _together(labels: Sequence[str]) -> str:
    """Which models answer, for the progress line."""
    first, *others = labels
    return f"{first} and {len(others)} more side by side" if others else first
