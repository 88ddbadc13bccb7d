"""The stages of a run: checks, the dense record, the sparse ones; each from the store where it is known already."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import cached_property, partial
from itertools import chain, islice

from sparsedash.catalog.engine_limits import MODELS_TOGETHER
from sparsedash.catalog.memory import kept_bytes, needs_fisher
from sparsedash.engine.calibration.cache import CacheEvicted
from sparsedash.engine.calibration.statistics import few_tokens_warning
from sparsedash.engine.evaluation.early_stopping import AnyRule, StopRule, ToleranceRule
from sparsedash.engine.models.loading import LoadedModel, ModelShelf, Source
from sparsedash.engine.pruning.surgery import out_weight
from sparsedash.engine.run.run_calibration import RunParts
from sparsedash.engine.run.run_log import RunLog
from sparsedash.engine.run.run_model import RunModel
from sparsedash.engine.run.run_pruning import MORE_ROOM, RunPruning
from sparsedash.engine.run.run_records import RunRecords, Unanswered
from sparsedash.engine.run.run_sparse import RunSparse, label
from sparsedash.engine.run.run_texts import RunTexts
from sparsedash.engine.run.sparse_model import SparseModel
from sparsedash.schema.cache_keys import StopWithin, plain_share
from sparsedash.schema.errors import Cancelled, SparseDashError, StoreError
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.progress import OnStep
from sparsedash.schema.records import Record
from sparsedash.schema.settings import RunSettings
from sparsedash.stats.tolerance import Tolerance
from sparsedash.storage.store import Store

log = logging.getLogger(__name__)


class Stages:
    """One run's dense and sparse models and their records, made when first asked for.

    texts: what it reads. run_log: what it took.
    """

    def __init__(self, settings: RunSettings, store: Store, on_step: OnStep, shelf: ModelShelf) -> None:
        self._settings, self._store = settings, store
        self.run_log = RunLog(on_step, store.folder)
        self._model = RunModel(settings, store, shelf, self.run_log)
        self.texts = RunTexts(settings, store, self._model, self.run_log)
        parts = RunParts(settings=settings, store=store, model=self._model, texts=self.texts, run_log=self.run_log)
        self._pruning = RunPruning(parts)
        self._records = RunRecords(parts)
        self._sparse = RunSparse(parts, self._pruning, self._records)
        # What is decided early says when the others need not be asked.
        self._alone = settings.evaluation.stop_early

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
        return self.texts.sequences()

    def calibration_identity(self, method: MethodSettings) -> str:
        """What tells the calibration text that this method reads from others."""
        return self.texts.calibration_identity(plain_share(method, self._settings.calibration))

    @property
    def calibration_keys(self) -> list[str]:
        """The keys under which this run's calibrations keep artefacts, and of the text that the model wrote."""
        found = [key for keys in self._pruning.calibration_keys for key in asdict(keys).values()]
        return sorted({*found, *filter(None, [self.texts.written_text_key])})

    def check(self) -> None:
        """Refuse now what would be refused only after the dense model was evaluated, and warn now of what is known.

        Raises CalibrationError, StoreError.
        """
        for warning in self.texts.passages_warnings:
            self.run_log.warn(warning)
        if not self._settings.reads_text:
            return
        calibrations = [self._pruning.calibration(method) for method in self._settings.methods if method.reads_text]
        solves = self._settings.solves
        if not all(own.is_known and (own.is_whole or not solves) for own in calibrations):
            few_tokens_warning(self.loaded, sum(self.texts.expected_lengths), solves=solves)
        self._require_room()
        for calibration in calibrations:
            self.run_log.warn(calibration.leak_warning)
            # What is stored is no steadier than it was when it was made.
            self.run_log.warn(calibration.warning)

    def _require_room(self) -> None:
        """Statistics and gradients that do not fit together would push each other out, again and again."""
        points = self._settings.points
        unknown = {method for point, (method, _) in enumerate(points) if not self._is_known(point)}
        if not unknown:
            return
        settings = replace(self._settings, methods=tuple(unknown))
        # Without Fisher information their number does not matter, and the text need not be cut into tokens for it.
        n_sequences = len(self.texts.expected_lengths) if needs_fisher(settings) else 0
        mlps = self.loaded.mlps
        hidden = len(out_weight(mlps[0]))
        needed = kept_bytes([mlp.width for mlp in mlps], hidden, settings, n_sequences)
        room = self._store.artefact_room
        if needed > room:
            sizes = f"{needed / 2**30:.1f} GB, and there is room for {room / 2**30:.1f} GB"
            raise StoreError(f"What the calibration leaves takes {sizes}.", MORE_ROOM)

    @cached_property
    def dense_record(self) -> Record:
        """The dense model's answers, to all passages."""
        dense = self._dense
        record = self._records.known(dense.key, "dense") or self._records.evaluated([dense])[0]
        if n_cut := len(record.words_cut):
            exceed = "passages exceed" if n_cut > 1 else "passage exceeds"
            self.run_log.warn(
                f"{n_cut:,} of {len(record.outcomes):,} {exceed} the model's context: "
                f"{sum(record.words_cut):,} words were dropped from the front."
            )
        return record

    def sparse_record(
        self, method: MethodSettings, permille: int, announce: Callable[[], None] = lambda: None
    ) -> Record:
        """The answers of the model pruned like this. announce: called when it is pruned, before it is evaluated."""
        known = self._records.known(self._sparse.key(method, permille), label(permille))
        if known is not None and known.pruned is not None:
            self._sparse.warn_of_mismatch(known.pruned)
            return known
        made = self._sparse.whole(method, permille)
        announce()
        (record,) = self._records.evaluated([made], self._stop_rule())
        self._pruning.answered()
        return record

    def answer_ahead(self, points: Sequence[int]) -> None:
        """Make the record that is needed next together with some after it, where weights stay in their files; where no
        method looks back, while they are calibrated for and pruned.

        points: the places of the sparse models in the order they are needed; the dense model comes before them. What
        goes wrong is left to a model's own turn, which comes when those before it have answered.
        """
        if self._alone or not (together := self._needed_now(points)) or not self.loaded.residency.streamed:
            return
        looks_back = any(self._settings.points[point][0].looks_back for point in together if point is not None)
        if together == [None] or (looks_back and len(together) == 1):
            return
        try:
            if looks_back:
                self._made_first(together)
            else:
                self._in_one_walk(together)
        except Cancelled:
            raise
        except (SparseDashError, CacheEvicted) as error:
            log.warning("From here on models answer one after another: %s", error)
            self._alone = True
        else:
            self._pruning.answered()

    def _made_first(self, together: Sequence[int | None]) -> None:
        asked = []
        for point in together:
            self.run_log.point = point
            asked.append(self._dense if point is None else self._sparse.whole(*self._settings.points[point]))
        self.run_log.point = None
        self._records.evaluated(asked)

    def _in_one_walk(self, together: Sequence[int | None]) -> None:
        self.run_log.point = None
        walk, asked = self._sparse.in_one_walk([point for point in together if point is not None])
        with walk.begun():
            self._records.evaluated([self._dense, *asked] if None in together else asked, prepare=walk.at)

    def _needed_now(self, points: Sequence[int]) -> list[int | None]:
        """The models whose records are needed next and not known, None for the dense one; none where the next is."""
        dense = [] if self._records.is_known(self._dense.key) else [None]
        if not dense and (not points or self._is_known(points[0])):
            return []
        unknown = (point for point in points if not self._is_known(point))
        return list(islice(chain(dense, unknown), MODELS_TOGETHER))

    @property
    def _dense(self) -> Unanswered:
        return Unanswered(self._records.key(None), "dense model")

    def _is_known(self, point: int) -> bool:
        return self._records.is_known(self._sparse.key(*self._settings.points[point]))

    def prune(self, method: MethodSettings, permille: int) -> SparseModel:
        """The sparse model, not applied yet; calibrates first where the statistics are not there (any more)."""
        begun = partial(self._pruning.sparse_model, method, permille)
        return self._pruning.whole(method, begun, lambda made, index: made.made(index))

    def search(self, within: StopWithin) -> None:
        """From now on a sparse model answers until its loss is decided, and is kept under a key that says so."""
        self._records.stop_within = within

    def _stop_rule(self) -> AnyRule | None:
        if (within := self._records.stop_within) is not None:
            tolerance = Tolerance(ratio=within.ratio, points=within.points)
            outcomes = self.dense_record.outcomes
            return ToleranceRule(dense=outcomes, n_comparisons=within.n_trials, tolerance=tolerance)
        if not self._settings.evaluation.stop_early:
            return None
        return StopRule(dense=self.dense_record.outcomes, n_comparisons=self._settings.n_sparse)
