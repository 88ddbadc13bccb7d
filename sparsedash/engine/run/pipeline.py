"""Stages of a run: check, dense record, then prune and evaluate each sparse model.

Streamed models are evaluated several at a time, where possible in a single pass over the blocks.
"""

import json
import logging
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from sparsedash.catalog.resources import MODELS_TOGETHER
from sparsedash.catalog.run_rules import (
    require_artefact_room,
    require_healable,
    require_possible,
    require_quantisable,
)
from sparsedash.engine.calibration.calibration import CacheEvicted
from sparsedash.engine.calibration.passage_activations import mismatch_warning
from sparsedash.engine.calibration.statistics import few_tokens_warning
from sparsedash.engine.evaluation.early_stopping import StopRule
from sparsedash.engine.evaluation.evaluate import (
    EvaluatedModel,
    EvaluationResult,
    evaluate_together,
)
from sparsedash.engine.models.checkpoint_reading import read_config
from sparsedash.engine.models.gguf_making import dense_gguf_file
from sparsedash.engine.models.loading import ModelCache
from sparsedash.engine.models.matmul import bf16_matmul_in_fp32
from sparsedash.engine.run.model_making import (
    RunModel,
    missing_statistics,
    pruning_warning,
)
from sparsedash.engine.run.run_context import (
    RunContext,
    model_label,
    software_versions,
)
from sparsedash.engine.run.run_log import SinglePass
from sparsedash.engine.run.task_answering import Task, TaskAnswers
from sparsedash.engine.texts.generation import continue_prompts
from sparsedash.schema import store_keys
from sparsedash.schema.errors import Cancelled, SparseDashError
from sparsedash.schema.find_settings import FindSettings
from sparsedash.schema.pair_records import (
    NOT_CONTINUED,
    Continuation,
    ContinuationSettings,
)
from sparsedash.schema.progress import OnStep, Step, begin_parts, ignore, ignore_steps
from sparsedash.schema.records import RESUMED, Pruned, Record, Run
from sparsedash.schema.settings import PartSettings, RunSettings
from sparsedash.schema.sparse_spec import DENSE, SparseSpec
from sparsedash.stats.tolerance import MIN_PASSAGES
from sparsedash.storage.checkpoint import StageCheckpoint
from sparsedash.storage.file_hashes import file_hashes_of
from sparsedash.storage.local_machine import (
    folder_size,
    forget_peak_memory,
    give_back_freed,
    peak_memory_bytes,
)
from sparsedash.storage.store import Store

log = logging.getLogger(__name__)


def run(
    settings: RunSettings,
    store: Store,
    on_step: OnStep = ignore_steps,
    model_cache: ModelCache | None = None,
    run_key: str | None = None,
) -> Run:
    """Calibrate, prune and evaluate; results in the store are not computed again.

    A new run is kept after every record, and with its warnings before every evaluation; a finished
    one is replaced only by a finished one. model_cache: keeps the model between jobs. run_key: its store
    key. Raises SparseDashError.
    """
    context = RunContext(
        settings, store, on_step, model_cache or ModelCache(), together=settings.points
    )
    return _run(
        context,
        run_key or settings.key(file_hashes_of(settings, store)),
        range(len(settings.points)),
    )


def run_part(
    settings: PartSettings, store: Store, on_step: OnStep, model_cache: ModelCache
) -> Run:
    """Part of a run, as a run with its own key and fewer sparse models.

    Also notes the keys of its calibrations.
    """
    together = [settings.run.points[number] for number in settings.points]
    context = RunContext(settings.run, store, on_step, model_cache, together=together)
    part = _run(context, settings.key(), settings.points)
    store.remember(
        store_keys.part_calibrations_note(part.key),
        json.dumps(context.calibration_keys),
    )
    return part


def _run(context: RunContext, key: str, points: Collection[int]) -> Run:
    """points: the sparse models that are made."""
    settings = context.settings
    with bf16_matmul_in_fp32(settings.dtype):
        prepare_quantising(context)
        tasks = TaskAnswers(context)
        draft = RunDraft(key, context, tasks)
        check_run(context, tasks.tasks)
        waiting = [number for number in range(len(settings.points)) if number in points]
        # What is decided early says when the others need not be evaluated.
        is_together = not settings.evaluation.stop_early and context.streamed
        is_together = is_together and _evaluate_ahead(context, tasks, waiting)
        prepared: dict[int, RunModel] = {}
        if waiting and not context.streamed:
            _continue_prompts(context, RunModel(context, DENSE))
            # Its text is the first to show what pruning does, long before the dense model's answers.
            prepared[waiting[0]] = prepare_model(
                context, settings.points[waiting[0]], waiting[0]
            )
        dense = dense_record(context, tasks)
        draft.grow(dense=dense.key)
        draft.keep()
        stop = None
        if settings.evaluation.stop_early:
            stop = StopRule(dense=dense.outcomes, n_comparisons=settings.n_sparse)
        while waiting:
            is_together = is_together and _evaluate_ahead(context, tasks, waiting)
            number = waiting.pop(0)
            model = prepared.pop(number, None)
            if model is None:
                model = prepare_model(context, settings.points[number], number)
                draft.keep()
            with context.log.at_point(number):
                sparse_record(context, tasks, model, stop, on_verdict=draft.add)
        return draft.finish()


class RunDraft:
    """A run while it grows, kept in the store on the way with its warnings.

    A finished run in the store is replaced only by a finished one.
    """

    def __init__(
        self,
        key: str,
        context: RunContext,
        tasks: TaskAnswers,
        find: FindSettings | None = None,
    ) -> None:
        """Begin without any record. The unpacked files of its model do not count as its own."""
        self._context = context
        self._tasks = tasks
        source = context.source
        before = context.store.get(Run, key)
        if before is not None and not before.finished:
            context.log.note_cached(RESUMED)
        # What an earlier job of this process has freed is none of this one's.
        give_back_freed()
        forget_peak_memory()
        self._stored_before = folder_size(context.store.folder).n_bytes
        self.run = Run(
            key=key,
            settings=context.settings,
            model_identity=source.identity,
            corpora={
                "calibration": context.keys.calibration_text(),
                "evaluation": context.evaluation_texts.identity,
            },
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
            find=find,
        )

    def grow(self, **changes: Any) -> None:
        """Change fields of the run."""
        self.run = replace(self.run, **changes)

    def add(self, record: Record) -> None:
        """Add and keep the record of a sparse model."""
        self.grow(sparse=(*self.run.sparse, record.key))
        self.keep()

    def so_far(self) -> Run:
        """The run with its answers to tasks and its warnings."""
        warnings = tuple(self._context.log.warnings)
        return replace(self._tasks.noted_in(self.run), warnings=warnings)

    def keep(self) -> None:
        """Store the run so far, unless a finished one is there: this process's or another's."""
        run = self.so_far()
        self._context.store.change(
            Run, run.key, lambda now: now if now and now.finished else run
        )

    def finish(self) -> Run:
        """The run with its times, memory and disk, stored."""
        log = self._context.log
        store = self._context.store
        run = replace(
            self.so_far(),
            finished=True,
            finished_at=time.time(),
            seconds=log.seconds,
            busy=log.busy,
            # Peak memory of this process, its earlier models' included; and the growth of the data
            # folder.
            peak_bytes=peak_memory_bytes(),
            disk_bytes=max(0, folder_size(store.folder).n_bytes - self._stored_before),
            cached=tuple(log.cached),
        )
        store.put(run.key, run)
        return run


def prepare_quantising(run: RunContext) -> None:
    """Convert the dense model to GGUF if needed, before the run's clock and counters start.

    Raises SettingsError, ModelError, CalibrationError.
    """
    if not run.settings.quantises:
        return
    model_type = read_config(run.source.folder, run.source.reference).model_type
    require_quantisable(run.settings, model_type, streamed=run.streamed)
    dense_gguf_file(
        run.source,
        run.store,
        begin_parts(Step("load", 0, 1, message="a GGUF file of it"), run.log.on_step),
    )


def check_run(run: RunContext, tasks: Sequence[Task]) -> None:
    """Check a run before its dense evaluation, and repeat known warnings.

    Raises SettingsError, CalibrationError, StoreError.
    """
    settings = run.settings
    require_possible(settings, run.shape)
    for spec in settings.points:
        if spec.is_healed:
            require_healable(
                run.calibration_texts.n_sequences(spec), streamed=run.streamed
            )
    run.warn_of_passages()
    if tasks and settings.evaluation.stop_early:
        run.log.warn("Only passages stop early: tasks are answered in full.")
    reading = [
        spec for spec in settings.points if spec.reads_text and not run.has_record(spec)
    ]
    read = [run.calibration(spec) for spec in reading]
    if not all(
        calibration.statistics.is_known
        and (calibration.is_whole or not settings.solves)
        for calibration in read
    ):
        few_tokens_warning(
            run.loaded,
            sum(run.calibration_texts.expected_lengths),
            solves=settings.solves,
        )
    # Without Fisher information their number does not matter, and the text need not be cut into
    # tokens for it.
    by_gradient = any(spec.pruning.by_gradient for spec in reading)
    n_sequences = len(run.calibration_texts.expected_lengths) if by_gradient else 0
    require_artefact_room(
        settings,
        run.shape,
        {spec.pruning for spec in reading},
        n_sequences=n_sequences,
        room=run.store.artefact_room,
    )
    for spec in settings.points:
        if spec.reads_text:
            run.warn_of_calibration(spec)
        if spec.is_healed:
            run.warn_of_healing(spec)


def dense_record(run: RunContext, tasks: TaskAnswers) -> Record:
    """The dense model's record, of all passages."""
    model = RunModel(run, DENSE)
    _continue_prompts(run, model)
    tasks.answer([model])
    record = run.stored_record(DENSE) or evaluate_models(run, [model])[0]
    n_passages = record.last_word.total
    if not record.last_word.right and n_passages >= MIN_PASSAGES:
        run.log.warn(
            f"The dense model has none of {n_passages:,} last words right, so its losses say little. Check that its "
            "weights and its tokenizer belong together."
        )
    if n_cut := len(record.words_cut):
        exceed = "exceeds" if n_cut == 1 else "exceed"
        run.log.warn(
            f"{n_cut:,} of {len(record.outcomes):,} passages {exceed} the model's context: "
            f"{sum(record.words_cut):,} words were dropped from the front."
        )
    return record


def prepare_model(run: RunContext, spec: SparseSpec, number: int) -> RunModel:
    """A sparse model with its texts, made and measured unless its record is stored.

    number: among the run's sparse models.
    """
    model = RunModel(run, spec)
    with run.log.at_point(number, spec.is_quantised):
        record = run.stored_record(spec)
        if record is None:
            _measure(run, model)
        elif record.pruned is not None:
            _warn_of_model(run, record.pruned)
        # Before the record is there, which the pages take for all of a model's results.
        _continue_prompts(run, model)
    return model


def sparse_record(
    run: RunContext,
    tasks: TaskAnswers,
    model: RunModel,
    stop: StopRule | None = None,
    *,
    on_verdict: Callable[[Record], None] = ignore,
) -> Record:
    """The record of a prepared sparse model.

    on_verdict: called with the record before the losses by kind of text are measured.
    """
    record = run.stored_record(model.spec)
    if run.stop_within is None:
        tasks.answer([model])
    if record is None:
        (record,) = evaluate_models(run, [model], stop)
    # The tasks of a search can change the verdict only where the passages are within.
    if (
        run.stop_within is not None
        and record.stopping
        and record.stopping.decision == "within"
    ):
        tasks.answer([model])
    on_verdict(record)
    if not record.by_kind:
        (record,) = _measure_kinds(run, [record], [model])
    run.pruning_checkpoint.done()
    return record


def _measure_kinds(
    run: RunContext, records: Sequence[Record], models: Sequence[RunModel]
) -> list[Record]:
    """The stored records with what these models lost by kind of text."""
    with run.log.timed("evaluate"):
        applied = [model.applied for model in models]
        # A share of the evaluation too small for a progress of its own.
        measurements = run.kind_text.measure(applied, run.log.repeat)
    measured = []
    for record, (by_kind, divergence) in zip(records, measurements, strict=True):
        measured.append(replace(record, by_kind=by_kind, divergence=divergence))
        run.store.put(record.key, measured[-1])
    return measured


def _continue_prompts(run: RunContext, model: RunModel) -> None:
    """Keep what the model writes after each of the run's prompts.

    Streamed weights would be read once a token, which takes longer than all else.
    """
    missing = []
    for prompt in run.settings.prompts:
        settings = ContinuationSettings(left=model.key, right=model.key, prompt=prompt)
        known = run.store.get(Continuation, settings.key())
        if known is None or known.stopped:
            missing.append(settings)
    if not missing:
        return
    if run.streamed:
        run.log.warn(NOT_CONTINUED)
        return
    loaded = run.loaded
    applied = model.applied()
    prompts = [settings.prompt for settings in missing]
    with run.log.timed("continue"), applied:
        texts = continue_prompts(loaded, prompts, missing[0].n_tokens, run.log.on_step)
    for settings, text in zip(missing, texts, strict=True):
        key = settings.key()
        run.store.put(
            key, Continuation(key=key, prompt=settings.prompt, left=text, right=text)
        )


def evaluate_models(
    run: RunContext,
    models: Sequence[RunModel],
    stop: StopRule | None = None,
    prepare: Callable[[int], None] | None = None,
) -> list[Record]:
    """The records of these models, evaluated together, or one alone until `stop`.

    prepare: see evaluate_together.
    """
    checkpoint = StageCheckpoint(run.store, run.identity)
    evaluated = [
        EvaluatedModel(model.applied, checkpoint, f"{model.key}/answers")
        for model in models
    ]
    message = model_label(models[0].spec)
    if models[0].spec == DENSE:
        message += " model"
    if len(models) > 1:
        message += f" and {len(models) - 1} more side by side"
    with run.log.timed("evaluate"):
        results = evaluate_together(
            run.loaded,
            run.passages,
            evaluated,
            run.log.on_step,
            message,
            rule=run.settings.evaluation.rule,
            stop=stop,
            prepare=prepare,
        )
    if prepare:
        # Also where all answers were known.
        prepare(len(run.loaded.blocks))
    records = []
    for model, result in zip(models, results, strict=True):
        if model.pruned_record:
            _warn_of_model(run, model.pruned_record)
        record = _new_record(run, model, result)
        run.keep_record(record)
        records.append(record)
    checkpoint.done()
    if run.model_cache.n_loaded == 1:
        # This process has held no other model: its peak memory is this one's.
        note = store_keys.peak_memory_note(run.settings.model, run.settings.dtype)
        run.store.remember(note, str(peak_memory_bytes()))
    return records


def _new_record(run: RunContext, model: RunModel, result: EvaluationResult) -> Record:
    settings = run.settings
    return Record(
        key=model.key,
        model=settings.model,
        model_identity=run.identity,
        dtype=settings.dtype,
        corpus=settings.evaluation.corpus,
        corpus_identity=run.evaluation_texts.identity,
        passages_key=run.passages.key,
        pruned=model.pruned_record,
        outcomes=result.outcomes,
        seconds=result.seconds,
        tokens_per_second=result.n_tokens / result.seconds,
        rule=settings.evaluation.rule,
        stopping=result.stopping,
        words_cut=result.words_cut,
    )


def _evaluate_ahead(
    run: RunContext, tasks: TaskAnswers, numbers: Sequence[int]
) -> bool:
    """Evaluate the next models of a streamed run together, in a single pass where possible.

    numbers: the sparse models in order; the dense model comes before them. Returns whether to go
    on like this: an error is left to a model's own turn.
    """
    unanswered = _without_answers(run, tasks, numbers)
    if len(unanswered) > 1:
        tasks.answer([RunModel(run, spec) for spec in unanswered])
    together = _without_records(run, numbers)
    specs = [
        DENSE if number is None else run.settings.points[number] for number in together
    ]
    needs_later_blocks = any(spec.needs_later_blocks for spec in specs)
    if together in ([], [None]) or (needs_later_blocks and len(together) == 1):
        return True
    models = [RunModel(run, spec) for spec in specs]
    try:
        evaluate = partial(_single_pass, run, models, together[-1])
        if needs_later_blocks:
            evaluate = partial(evaluate_models, run, models)
            for number, model in zip(together, models, strict=True):
                if number is not None:
                    with run.log.at_point(number):
                        _measure(run, model)
        # What is done together counts as the last model's.
        with run.log.at_point(together[-1]):
            records = evaluate()
            tasks.answer(models)
            sparse = [i for i, model in enumerate(models) if model.spec != DENSE]
            if sparse:
                _measure_kinds(
                    run, [records[i] for i in sparse], [models[i] for i in sparse]
                )
    except Cancelled:
        raise
    except (SparseDashError, CacheEvicted) as error:
        log.warning("From here on models are evaluated one after another: %s", error)
        return False
    run.pruning_checkpoint.done()
    return True


def _without_answers(
    run: RunContext, tasks: TaskAnswers, numbers: Sequence[int]
) -> list[SparseSpec]:
    """The next models that have records and lack answers to tasks; empty where the next does not."""
    specs = [DENSE, *(run.settings.points[number] for number in numbers)]
    unanswered = [
        spec for spec in specs if run.has_record(spec) and not tasks.are_stored(spec)
    ]
    is_next = any(spec in unanswered for spec in specs[:2])
    return unanswered[:MODELS_TOGETHER] if is_next else []


def _without_records(run: RunContext, numbers: Sequence[int]) -> list[int | None]:
    """The next models without records, None for dense; empty where the next one has a record."""
    unknown = [
        number for number in numbers if not run.has_record(run.settings.points[number])
    ]
    if not run.has_record(DENSE):
        return [None, *unknown][:MODELS_TOGETHER]
    if unknown[:1] != list(numbers[:1]):
        return []
    return [*unknown[:MODELS_TOGETHER]]


def _measure(run: RunContext, model: RunModel) -> None:
    """Make and measure a sparse model, and warn of what is odd about it."""
    model.measure()
    if model.pruned_record:
        _warn_of_model(run, model.pruned_record)


def _warn_of_model(run: RunContext, pruned: Pruned) -> None:
    """Of a mismatch at most once a run: the text is the same for all its sparse models."""
    run.log.warn(pruning_warning(pruned, run.shape))
    run.log.warn(mismatch_warning(pruned), topic="mismatch")


def _single_pass(
    run: RunContext, models: Sequence[RunModel], last: int | None
) -> list[Record]:
    """Calibrate, prune and evaluate models in one pass over the blocks.

    Each block is made before passages go through it. last: the number of the last model.
    """
    sparse = [model for model in models if model.spec != DENSE]
    for model in sparse:
        model.begin()
    missing = missing_statistics(run, [model.spec for model in sparse])
    # Of a block's work: to calibrate, to make each model, and to answer.
    block_tasks = [*missing, *(model.measure_block for model in sparse)]
    n_blocks = len(run.loaded.blocks)
    activity = (
        "calibrating, pruning and evaluating" if missing else "pruning and evaluating"
    )
    single_pass = SinglePass(
        Step("walk", 0, n_blocks, unit="blocks", message=activity, point=last),
        task_share=1 / (len(block_tasks) + 1),
    )
    n_made = 0

    def make(index: int) -> None:
        """Make every model up to this block, while the loaded model is the dense one."""
        nonlocal n_made
        for block in range(n_made, min(index + 1, n_blocks)):
            with run.log.timed("prune"):
                # The calibration counts its own time; other text is read for pruning.
                for number, task in enumerate(block_tasks):
                    run.log.on_step(single_pass.at(block, number))
                    task(block)
            run.log.on_step(single_pass.at(block, len(block_tasks)))
            n_made = block + 1
        if index == n_blocks:
            # Progress is reported of the evaluation from now on.
            single_pass.is_over = True

    with run.log.in_single_pass(single_pass):
        return evaluate_models(run, models, prepare=make)
