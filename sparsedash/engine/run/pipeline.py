"""Runs a job's stages: calibrate once, then prune and evaluate at every sparsity; rebuild a record's sparse model.

Each stage is read from the store where it is known and computed where it is not.
"""

import json
import logging
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from itertools import chain, islice

from sparsedash.catalog.engine_limits import MODELS_TOGETHER
from sparsedash.catalog.resources import kept_bytes, needs_fisher
from sparsedash.engine.calibration.calibration_cache import CacheEvicted
from sparsedash.engine.calibration.mismatch import PassageActivations, mismatch_warning
from sparsedash.engine.calibration.statistics import few_tokens_warning
from sparsedash.engine.evaluation.early_stopping import AnyRule, StopRule, ToleranceRule
from sparsedash.engine.evaluation.evaluate import AnswerCheckpoint, EvaluatedModel, EvaluationResult, evaluate_together
from sparsedash.engine.models.decoder_blocks import Applied
from sparsedash.engine.models.loading import LoadedModel, ModelShelf, Source
from sparsedash.engine.models.matmul import fastest_products
from sparsedash.engine.pruning.surgery import out_weight
from sparsedash.engine.run.run_context import RunLog, RunModel, RunTexts, software_versions
from sparsedash.engine.run.sparse_models import MORE_ROOM, MeasuredModel, RunParts, RunPruning, SparseModel
from sparsedash.schema import store_keys
from sparsedash.schema.errors import Cancelled, JobError, SparseDashError, StoreError
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.progress import OnStep, Step, ignore_steps
from sparsedash.schema.records import Pruned, Record, Run
from sparsedash.schema.settings import PartSettings, RunSettings
from sparsedash.schema.store_keys import StopWithin, outcomes_key, plain_share
from sparsedash.stats.tolerance import Tolerance
from sparsedash.storage.store import StageCheckpoint, Store
from sparsedash.storage.text_files import fingerprints


@dataclass(frozen=True, eq=False)
class PendingModel:
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
        self, asked: Sequence[PendingModel], stop: AnyRule | None = None, prepare: Callable[[int], None] | None = None
    ) -> list[Record]:
        """The records of these models, asked every passage side by side, or one alone as many as `stop` needs; kept.

        prepare: see evaluate_together.
        """
        halfway = StageCheckpoint(self._store, self._model.identity)
        so_far = [AnswerCheckpoint(halfway, f"{each.key}/answers") for each in asked]
        models = [EvaluatedModel(applied=each.applied, so_far=own) for each, own in zip(asked, so_far, strict=True)]
        passages, rule = self._texts.passages, self._settings.evaluation.rule
        message, on_step = _models_label([each.label for each in asked]), self._run_log.on_step
        with self._run_log.timed("evaluate"):
            loaded = self._model.loaded
            found = evaluate_together(loaded, passages, models, on_step, message, rule=rule, stop=stop, prepare=prepare)
        records = [self._kept(each, evaluated) for each, evaluated in zip(asked, found, strict=True)]
        halfway.done()
        if self._model.is_first:
            key = store_keys.peak_memory_note(self._settings.model, self._settings.dtype)
            self._store.remember(key, str(self._run_log.peak_bytes))
        return records

    def _kept(self, asked: PendingModel, evaluated: EvaluationResult) -> Record:
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


def _models_label(labels: Sequence[str]) -> str:
    """Which models answer, for the progress line."""
    first, *others = labels
    return f"{first} and {len(others)} more side by side" if others else first


class OneWalk:
    """Calibrates the model of a run and makes sparse ones of it, block by block, ahead of the passages that follow.

    missing: gather what is missing of calibration text, as far as a block. models: by methods that do not look back,
    one at least. point: the place of the last of them, for the progress line.
    """

    def __init__(
        self, missing: Sequence[Callable[[int], None]], models: Sequence[MeasuredModel], run_log: RunLog, point: int
    ) -> None:
        self._missing, self._models, self._run_log = missing, models, run_log
        self._n_blocks, self._next = len(models[0].model.errors), 0
        doing = "calibrating, pruning and answering" if missing else "pruning and answering"
        self._step = Step("walk", 0, self._n_blocks, unit="blocks", message=doing, point=point)

    @contextmanager
    def begun(self) -> Iterator[None]:
        """Inside, progress is told of the walk alone, until passages are through all blocks."""
        self._run_log.walk = self._step
        try:
            yield
        finally:
            self._run_log.walk = None

    def at(self, index: int) -> None:
        """Make this block of every model, if it is not yet, while the loaded model is the dense one; with the number of
        blocks, note that the walk is over.
        """
        if index < self._next:
            return
        self._next = index + 1
        if index == self._n_blocks:
            self._run_log.walk = None
            return
        self._run_log.walk = replace(self._step, done=index)
        self._run_log.on_step(self._step)
        with self._run_log.timed("prune"):
            # The calibration counts its own time; other text is read for pruning.
            for gather in self._missing:
                gather(index)
            for model in self._models:
                model.block(index)

    def finish(self) -> None:
        """Make all blocks that no passage had to go through."""
        for index in range(self._next, self._n_blocks + 1):
            self.at(index)


class RunSparse:
    """Makes sparse models ready to answer, each before it is asked, or several in one walk with their passages."""

    def __init__(self, parts: RunParts, pruning: RunPruning, records: RunRecords) -> None:
        self._settings, self._store, self._model = parts.settings, parts.store, parts.model
        self._texts, self._run_log = parts.texts, parts.run_log
        self._pruning, self._records = pruning, records
        self._activations: dict[str, PassageActivations] = {}
        self._told_of_mismatch = False

    def key(self, method: MethodSettings, permille: int) -> str:
        """The key of the record of a model that is pruned like this."""
        return self._records.key((self._pruning.calibration(method).keys.statistics, method, permille))

    def whole(self, method: MethodSettings, permille: int) -> PendingModel:
        """A model all of whose blocks are made."""
        made = self._pruning.whole(method, partial(self._begun, method, permille), MeasuredModel.block)
        facts = self._described(made, method, permille)
        return self._unanswered(made, method, permille, lambda: facts)

    def in_one_walk(self, points: Sequence[int]) -> tuple[OneWalk, list[PendingModel]]:
        """These models, by methods that do not look back, and the walk that makes them. points: places in the run's."""
        asked = [self._settings.points[point] for point in points]
        begun = [self._begun(method, permille) for method, permille in asked]
        missing = self._pruning.missing([method for method, _ in asked])
        walk = OneWalk(missing, begun, self._run_log, points[-1])

        def facts(made: MeasuredModel, method: MethodSettings, permille: int) -> Pruned:
            walk.finish()
            return self._described(made, method, permille)

        return walk, [
            self._unanswered(made, *each, partial(facts, made, *each)) for made, each in zip(begun, asked, strict=True)
        ]

    def warn_of_mismatch(self, made: Pruned) -> None:
        """At most once a run: the text is the same for all its sparse models."""
        if not self._told_of_mismatch:
            warning = mismatch_warning(made)
            self._run_log.warn(warning)
            self._told_of_mismatch = warning is not None

    def _begun(self, method: MethodSettings, permille: int) -> MeasuredModel:
        made = self._pruning.sparse_model(method, permille)
        weights, on_step = self._settings.calibration.token_weights, self._run_log.on_step
        loaded, passages = self._model.loaded, self._texts.passages
        found = PassageActivations(self._store, loaded, passages, made.watched, on_step, token_weights=weights)
        # Models that look at the same inputs read the passages together.
        return MeasuredModel(made, self._activations.setdefault(found.key, found).of)

    def _described(self, made: MeasuredModel, method: MethodSettings, permille: int) -> Pruned:
        facts = made.described(method, self._settings.calibration, permille)
        self.warn_of_mismatch(facts)
        return facts

    def _unanswered(
        self, made: MeasuredModel, method: MethodSettings, permille: int, facts: Callable[[], Pruned]
    ) -> PendingModel:
        return PendingModel(self.key(method, permille), sparse_label(permille), facts, made.model.applied)


def sparse_label(permille: int) -> str:
    """What a sparse model is called where its record is spoken of."""
    return f"{permille / 10:g} % sparse"


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
        known = self._records.known(self._sparse.key(method, permille), sparse_label(permille))
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
    def _dense(self) -> PendingModel:
        return PendingModel(self._records.key(None), "dense model")

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


def run(
    settings: RunSettings,
    store: Store,
    on_step: OnStep = ignore_steps,
    shelf: ModelShelf | None = None,
    run_key: str | None = None,
) -> Run:
    """Calibrate, prune and evaluate as asked; what the store holds already is not done again.

    A new run is kept after every finished record, and with its warnings before every evaluation, so that a page can
    show it while it grows; one that was finished before stays as it is until it is finished again. shelf: keeps the
    model between jobs. run_key: the name to keep it under. Raises SparseDashError, and nothing half-done is kept.
    """
    with fastest_products(settings.dtype):
        return _run(settings, Stages(settings, store, on_step, shelf or ModelShelf()), store, run_key)


def run_part(settings: PartSettings, store: Store, on_step: OnStep, shelf: ModelShelf) -> Run:
    """A part of a run, as a run of its own name with fewer sparse models; also notes which calibrations it leaves."""
    stages = Stages(settings.run, store, on_step, shelf)
    with fastest_products(settings.run.dtype):
        made = _run(settings.run, stages, store, settings.key(), settings.points)
    store.remember(store_keys.part_calibrations_note(made.key), json.dumps(stages.calibration_keys))
    return made


def _run(
    settings: RunSettings, stages: Stages, store: Store, run_key: str | None, points: Collection[int] | None = None
) -> Run:
    """points: the places of the sparse models that are made; None: all."""
    grown = new_run(run_key or settings.key(fingerprints(settings)), settings, stages)
    before = store.get(Run, grown.key)
    stages.check()
    show = before is None or not before.finished

    def keep() -> None:
        if show:
            store.put(grown.key, replace(grown, warnings=tuple(stages.run_log.warnings)))

    places = [point for point in range(len(settings.points)) if points is None or point in points]
    stages.answer_ahead(places)
    grown = replace(grown, dense=stages.dense_record.key)
    keep()
    for at, point in enumerate(places):
        stages.answer_ahead(places[at:])
        stages.run_log.point = point
        record = stages.sparse_record(*settings.points[point], keep)
        grown = replace(grown, sparse=(*grown.sparse, record.key))
        keep()
    whole = finished_run(grown, stages)
    store.put(whole.key, whole)
    return whole


def finished_run(grown: Run, stages: Stages) -> Run:
    """The run with all its records, and with what it took."""
    return replace(
        grown,
        finished=True,
        finished_at=time.time(),
        seconds=stages.run_log.seconds,
        peak_bytes=stages.run_log.peak_bytes,
        disk_bytes=stages.run_log.disk_bytes,
        cached=tuple(stages.run_log.cached),
        warnings=tuple(stages.run_log.warnings),
    )


def new_run(key: str, settings: RunSettings, stages: Stages) -> Run:
    """A run without any record. What its model's files take once they are unpacked is not this run's alone."""
    source = stages.source
    stages.run_log.begin()
    return Run(
        key=key,
        settings=settings,
        model_identity=source.identity,
        corpora={"calibration": stages.texts.calibration_identity(), "evaluation": stages.texts.evaluation_identity},
        dense="",
        sparse=(),
        finished=False,
        started_at=time.time(),
        finished_at=None,
        seconds={},
        cached=(),
        warnings=(),
        versions=software_versions(),
        source_type=source.source_type,
    )


@dataclass(frozen=True, eq=False, kw_only=True)
class RebuiltModel:
    """loaded: the dense model. sparse: what it becomes, not applied yet; None for a dense record.

    calibration_identity: of the text that it was made with; empty where none was read.
    """

    source: Source
    loaded: LoadedModel
    sparse: SparseModel | None
    calibration_identity: str = ""


def rebuild_model(record: Record, store: Store, on_step: OnStep, shelf: ModelShelf) -> RebuiltModel:
    """The model that gave a record's answers. Raises JobError where the model that it names is another one by now."""
    settings = RunSettings(model=record.model, dtype=record.dtype)
    if record.pruned is not None:
        settings = replace(settings, calibration=record.pruned.calibration, methods=(record.pruned.method,))
    stages = Stages(settings, store, on_step, shelf)
    if stages.source.identity != record.model_identity:
        raise JobError(f"{record.model} is not what it was when this result was made.", "Run it again.")
    if record.pruned is None:
        return RebuiltModel(source=stages.source, loaded=stages.loaded, sparse=None)
    method = record.pruned.method
    with fastest_products(record.dtype):
        sparse = stages.prune(method, record.pruned.sparsity_permille)
    return RebuiltModel(
        source=stages.source,
        loaded=stages.loaded,
        sparse=sparse,
        calibration_identity=stages.calibration_identity(method) if method.reads_text else "",
    )
