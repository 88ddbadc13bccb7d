"""Stages of a run: check, dense record, then prune and evaluate at every sparsity; each from the
store where known.

Streamed models are evaluated several at a time, where possible in a single pass over the blocks.
"""

import json
import logging
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import cache, partial

from sparsedash.catalog.resources import MODELS_TOGETHER
from sparsedash.catalog.run_rules import (
    require_artefact_room,
    require_healable,
    require_possible,
    require_quantisable,
)
from sparsedash.engine.calibration.calibration_cache import CacheEvicted, mismatch_warning
from sparsedash.engine.calibration.statistics import few_tokens_warning
from sparsedash.engine.evaluation.early_stopping import StopRule
from sparsedash.engine.evaluation.evaluate import (
    EvaluatedModel,
    EvaluationResult,
    evaluate_together,
)
from sparsedash.engine.models.checkpoint_reading import read_config
from sparsedash.engine.models.decoder_blocks import Applied
from sparsedash.engine.models.gguf_making import gguf_of
from sparsedash.engine.models.loading import ModelCache
from sparsedash.engine.models.matmul import bf16_matmul_in_fp32
from sparsedash.engine.models.sparse_models import SparseModel
from sparsedash.engine.run.model_making import (
    MeasuredModel,
    make_blocks,
    missing_statistics,
    protect_healed,
    prune_model,
    unchanged_warning,
)
from sparsedash.engine.run.run_context import Point, RunContext, software_versions
from sparsedash.engine.run.task_answering import Answering, answer_tasks, has_answered, point_label
from sparsedash.engine.texts.generation import continue_prompts
from sparsedash.schema import store_keys
from sparsedash.schema.errors import Cancelled, SparseDashError
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.pair_records import NOT_CONTINUED, Continuation, ContinuationSettings
from sparsedash.schema.progress import OnStep, Step, begin_parts, ignore_steps
from sparsedash.schema.records import RESUMED, Pruned, Record, Run
from sparsedash.schema.settings import PartSettings, RunSettings
from sparsedash.schema.sparse_spec import SparseSpec
from sparsedash.stats.tolerance import FEWEST_PASSAGES, Tolerance
from sparsedash.storage.file_hashes import contents
from sparsedash.storage.local_machine import (
    folder_size,
    forget_peak_memory,
    give_back_freed,
    peak_memory_bytes,
)
from sparsedash.storage.store import StageCheckpoint, Store

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
    context = RunContext(settings, store, on_step, model_cache or ModelCache())
    return _run(
        context, run_key or settings.key(contents(settings, store)), range(len(settings.points))
    )


def run_part(settings: PartSettings, store: Store, on_step: OnStep, model_cache: ModelCache) -> Run:
    """Part of a run, as a run with its own key and fewer sparse models; also notes the keys of its
    calibrations.
    """
    context = RunContext(settings.run, store, on_step, model_cache)
    made = _run(context, settings.key(), settings.points)
    store.remember(
        store_keys.part_calibrations_note(made.key), json.dumps(context.calibration_keys)
    )
    return made


def _run(context: RunContext, key: str, points: Collection[int]) -> Run:
    """points: the sparse models that are made."""
    with bf16_matmul_in_fp32(context.settings.dtype):
        _prepare_quantising(context)
        grown, store = new_run(key, context), context.store
        check_run(context)

        def keep() -> None:
            keep_unfinished(with_answers(grown, context), context)

        def keep_record(record: Record) -> None:
            nonlocal grown
            grown = replace(grown, sparse=(*grown.sparse, record.key))
            keep()

        left = [point for point in range(len(context.settings.points)) if point in points]
        _evaluate_ahead(context, left)
        grown = replace(grown, dense=dense_record(context).key)
        keep()
        while left:
            _evaluate_ahead(context, left)
            context.log.point = left.pop(0)
            spec = context.settings.points[context.log.point]
            sparse_record(context, spec.nested, spec.permille, keep, keep_record)
        finished = finished_run(grown, context)
        store.put(key, finished)
    return finished


def keep_unfinished(grown: Run, context: RunContext) -> None:
    """Keep a run so far with its warnings, unless it is finished: by this process before, or by
    another meanwhile.
    """
    grown = replace(grown, warnings=tuple(context.log.warnings))
    context.store.change(Run, grown.key, lambda now: now if now and now.finished else grown)


def new_run(key: str, context: RunContext) -> Run:
    """A run without any record. The unpacked files of its model do not count as its own."""
    source, settings = context.source, context.settings
    if (before := context.store.get(Run, key)) is not None and not before.finished:
        context.log.note_cached(RESUMED)
    # What an earlier job of this process has freed is none of this one's.
    give_back_freed()
    forget_peak_memory()
    context.log.stored_before = folder_size(context.store.folder).n_bytes
    return Run(
        key=key,
        settings=settings,
        model_identity=source.identity,
        corpora={
            "calibration": context.calibration_identity(),
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
    )


def finished_run(grown: Run, context: RunContext) -> Run:
    """The run with all its records, its times, memory and disk."""
    return replace(
        with_answers(grown, context),
        finished=True,
        finished_at=time.time(),
        seconds=context.log.seconds,
        busy=context.log.busy,
        # Peak memory of this process, its earlier models' included; and the growth of the data
        # folder.
        peak_bytes=peak_memory_bytes(),
        disk_bytes=max(0, folder_size(context.store.folder).n_bytes - context.log.stored_before),
        cached=tuple(context.log.cached),
        warnings=tuple(context.log.warnings),
    )


def with_answers(grown: Run, context: RunContext) -> Run:
    """The run with what is known of its tasks."""
    return replace(grown, answers=dict(context.answers), unanswered=tuple(context.unanswered))


def _prepare_quantising(run: RunContext) -> None:
    """Make the dense model's GGUF file where there is none, before anything is computed and counted
    as the run's.

    Raises SettingsError, ModelError, CalibrationError.
    """
    if not run.settings.quantised_to:
        return
    model_type = read_config(run.source.folder, run.source.reference).model_type
    require_quantisable(run.settings, model_type, streamed=run.streamed)
    gguf_of(
        run.source,
        run.store,
        begin_parts(Step("load", 0, 1, message="a GGUF file of it"), run.log.on_step),
    )


def check_run(run: RunContext) -> None:
    """Check a run before its dense evaluation, and repeat known warnings.

    Raises SettingsError, CalibrationError, StoreError.
    """
    settings = run.settings
    require_possible(settings, run.shape)
    for method in settings.methods:
        if method.heal_steps:
            require_healable(run.n_sequences(method), streamed=run.streamed)
    run.warn_of_passages()
    if run.tasks and settings.evaluation.stop_early:
        run.log.warn("Only passages stop early: tasks are answered in full.")
    unknown = {point[0] for point in settings.points if not _is_known(run, point)}
    reading = tuple(
        method for method in settings.methods if method.reads_text and method in unknown
    )
    read = [run.calibration(method) for method in reading]
    if not all(own.is_known and (own.is_whole or not settings.solves) for own in read):
        few_tokens_warning(run.loaded, sum(run.expected_lengths), solves=settings.solves)
    # Without Fisher information their number does not matter, and the text need not be cut into
    # tokens for it.
    by_gradient = any(method.by_gradient for method in reading)
    n_sequences = len(run.expected_lengths) if by_gradient else 0
    require_artefact_room(
        settings, run.shape, unknown, n_sequences=n_sequences, room=run.store.artefact_room
    )
    for method in settings.methods:
        if method.reads_text:
            run.warn_of_calibration(method)
        if method.heal_steps:
            run.warn_of_healing(method)


def _is_known(run: RunContext, point: Point) -> bool:
    return run.store.has(Record, run.record_key(point))


def _known_record(run: RunContext, point: Point) -> Record | None:
    """The record from the store, or None."""
    key = run.record_key(point)
    record = run.store.get(Record, key)
    if record is not None and key not in run.made:
        # Again: an end of the process may have come between the record and this.
        protect_healed(record, run.store)
        run.log.note_cached(f"evaluation, {point_label(point)}")
    return record


def dense_record(run: RunContext) -> Record:
    """The dense model's record, of all passages."""
    if run.dense is None:
        _continue_prompts(run, None)
        answer_tasks(run, [(None, None)])
        run.dense = _known_record(run, None) or evaluate_models(run, [(None, None)])[0]
        if not run.dense.last_word.right and (n := run.dense.last_word.total) >= FEWEST_PASSAGES:
            run.log.warn(
                f"The dense model has none of {n:,} last words right, so its losses say little. Check that its weights "
                "and its tokenizer belong together."
            )
        if n_cut := len(run.dense.words_cut):
            exceed = "exceeds" if n_cut == 1 else "exceed"
            run.log.warn(
                f"{n_cut:,} of {len(run.dense.outcomes):,} passages {exceed} the model's context: "
                f"{sum(run.dense.words_cut):,} words were dropped from the front."
            )
    return run.dense


def sparse_record(
    run: RunContext,
    method: MethodSettings,
    permille: int,
    announce: Callable[[], None] = lambda: None,
    on_verdict: Callable[[Record], None] = lambda _: None,
) -> Record:
    """The record of a sparse model. announce: called when it is pruned, before it is evaluated.

    on_verdict: called with the record before the losses by kind of text are measured.
    """
    point = SparseSpec.of(method, permille)
    known = _known_record(run, point)
    made = None if known else _measured(run, method, permille)
    model: Callable[[], SparseModel] = (
        (lambda: made.model) if made else cache(partial(prune_model, run, *point))
    )
    if known is None:
        announce()
    elif known.pruned is not None:
        _warn_of_model(run, known.pruned)
    # Before the record is there, which the pages take for all of a model's results.
    _continue_prompts(run, point, model)
    if run.stop_within is None:
        answer_tasks(run, [(point, model)])
    record = known or evaluate_models(run, [(point, made)], _stop_rule(run))[0]
    if run.stop_within is not None and _has_tasks(run, record):
        answer_tasks(run, [(point, model)])
    on_verdict(record)
    if not record.by_kind:
        (record,) = _measure_kinds(run, [(record, lambda: model().applied)])
    run.pruning_checkpoint.done()
    return record


def _measure_kinds(
    run: RunContext, models: Sequence[tuple[Record, Callable[[], Applied]]]
) -> list[Record]:
    """The stored records with what these models lost by kind of text. models: with how each is
    made.
    """
    with run.log.timed("evaluate"):
        applied = [make() for _, make in models]
        # A share of the evaluation too small for a progress of its own.
        losses = run.kind_text.losses(applied, run.log.repeat)
    measured = []
    for (record, _), by_kind in zip(models, losses, strict=True):
        measured.append(replace(record, by_kind=by_kind))
        run.store.put(record.key, measured[-1])
    return measured


def _measure_made(
    run: RunContext, records: Sequence[Record], models: Sequence[tuple[Point, MeasuredModel | None]]
) -> None:
    """Measure the losses by kind of the sparse models among these, together."""
    sparse = [
        (record, partial(getattr, made.model, "applied"))
        for record, (_, made) in zip(records, models, strict=True)
        if made
    ]
    if sparse:
        _measure_kinds(run, sparse)


def _has_tasks(run: RunContext, record: Record) -> bool:
    """Whether the tasks can change the verdict: of a search where the passages are within."""
    return run.stop_within is None or (
        record.stopping is not None and record.stopping.decision == "within"
    )


def _continue_prompts(
    run: RunContext, point: Point, model: Callable[[], SparseModel] | None = None
) -> None:
    """Keep what the model writes after each of the run's prompts. model: makes the sparse one;
    None: the dense one.

    Streamed weights would be read once a token, which takes longer than all else.
    """
    key = run.record_key(point)
    asked = [
        ContinuationSettings(left=key, right=key, prompt=prompt) for prompt in run.settings.prompts
    ]
    known = (run.store.get(Continuation, each.key()) for each in asked)
    new = [each for each, found in zip(asked, known, strict=True) if found is None or found.stopped]
    if not new:
        return
    if run.streamed:
        run.log.warn(NOT_CONTINUED)
        return
    loaded, applied = run.loaded, model().applied() if model else nullcontext()
    with run.log.timed("continue"), applied:
        texts = continue_prompts(
            loaded, [each.prompt for each in new], new[0].n_tokens, run.log.on_step
        )
    for each, text in zip(new, texts, strict=True):
        run.store.put(
            each.key(), Continuation(key=each.key(), prompt=each.prompt, left=text, right=text)
        )


def _made(models: Sequence[tuple[Point, MeasuredModel | None]]) -> list[Answering]:
    return [(point, partial(getattr, each, "model") if each else None) for point, each in models]


def _stop_rule(run: RunContext) -> StopRule | None:
    if within := run.stop_within:
        dense = dense_record(run).outcomes
        return StopRule(dense=dense, n_comparisons=within.n_trials, tolerance=Tolerance.of(within))
    early, n_sparse = run.settings.evaluation.stop_early, run.settings.n_sparse
    return StopRule(dense=dense_record(run).outcomes, n_comparisons=n_sparse) if early else None


def evaluate_models(
    run: RunContext,
    models: Sequence[tuple[Point, MeasuredModel | None]],
    stop: StopRule | None = None,
    prepare: Callable[[int], None] | None = None,
) -> list[Record]:
    """The records of these models, evaluated together, or one alone until `stop`. prepare: see
    evaluate_together.
    """
    checkpoint, settings, passages = (
        StageCheckpoint(run.store, run.identity),
        run.settings,
        run.passages,
    )
    keys = [run.record_key(point) for point, _ in models]
    evaluated = [
        EvaluatedModel(made.model.applied if made else nullcontext, checkpoint, f"{key}/answers")
        for key, (_, made) in zip(keys, models, strict=True)
    ]
    first, n_more = models[0][0], len(models) - 1
    message = (
        point_label(first)
        + " model" * (first is None)
        + f" and {n_more} more side by side" * (n_more > 0)
    )
    with run.log.timed("evaluate"):
        loaded, rule, on_step = run.loaded, settings.evaluation.rule, run.log.on_step
        found = evaluate_together(
            loaded, passages, evaluated, on_step, message, rule=rule, stop=stop, prepare=prepare
        )
    if prepare:
        # Also where all answers were known.
        prepare(len(run.loaded.blocks))
    each = zip(keys, models, found, strict=True)
    records = [_kept_record(run, key, made, result) for key, (_, made), result in each]
    checkpoint.done()
    if run.model_cache.n_loaded == 1:
        # This process has held no other model: its peak memory is this one's.
        run.store.remember(
            store_keys.peak_memory_note(settings.model, settings.dtype), str(peak_memory_bytes())
        )
    return records


def _kept_record(
    run: RunContext, key: str, made: MeasuredModel | None, result: EvaluationResult
) -> Record:
    """The record of an evaluated model, stored; its healed weights stay from now on. made: None:
    the dense one.
    """
    if made:
        _warn_of_model(run, made.described)
    settings = run.settings
    record = Record(
        key=key,
        model=settings.model,
        model_identity=run.identity,
        dtype=settings.dtype,
        corpus=settings.evaluation.corpus,
        corpus_identity=run.evaluation_texts.identity,
        passages_key=run.passages.key,
        pruned=made.described if made else None,
        outcomes=result.outcomes,
        seconds=result.seconds,
        tokens_per_second=result.n_tokens / result.seconds,
        rule=settings.evaluation.rule,
        stopping=result.stopping,
        words_cut=result.words_cut,
    )
    run.source.require_unchanged()
    run.store.put(record.key, record)
    protect_healed(record, run.store)
    run.made.add(record.key)
    return record


def _evaluate_ahead(run: RunContext, points: Sequence[int]) -> None:
    """Evaluate the next models together where weights are streamed; in a single pass where no
    method looks back.

    points: the sparse models in order; the dense model comes before them. An error is left to a
    model's own turn.
    """
    if run.alone or not run.streamed:
        return
    if len(behind := _without_answers(run, points)) > 1:
        run.log.point = None
        answer_tasks(
            run,
            [
                (point, cache(partial(prune_model, run, *point)) if point else None)
                for point in behind
            ],
        )
    if not (together := _without_records(run, points)):
        return
    asked: list[Point] = [
        None if number is None else run.settings.points[number] for number in together
    ]
    looks_back = any(point[0].looks_back for point in asked if point)
    if together == [None] or (looks_back and len(together) == 1):
        return
    try:
        if looks_back:
            models = []
            for run.log.point, point in zip(together, asked, strict=True):
                models.append((point, _measured(run, *point) if point else None))
            run.log.point = None
            records = evaluate_models(run, models)
            answer_tasks(run, _made(models))
            _measure_made(run, records, models)
        else:
            run.log.point = None
            _single_pass(run, asked, together[-1])
    except Cancelled:
        raise
    except (SparseDashError, CacheEvicted) as error:
        log.warning("From here on models are evaluated one after another: %s", error)
        run.alone = True
    else:
        run.pruning_checkpoint.done()


def _without_answers(run: RunContext, points: Sequence[int]) -> list[Point]:
    """The next models whose records are known and whose answers to tasks are not; empty where the
    next is no such.
    """
    asked: list[Point] = [None, *(run.settings.points[point] for point in points)]
    found = [point for point in asked if _is_known(run, point) and not has_answered(run, point)]
    return found[:MODELS_TOGETHER] if any(point in found for point in asked[:2]) else []


def _without_records(run: RunContext, points: Sequence[int]) -> list[int | None]:
    """The models whose records are needed next and not known, None for the dense one; empty where
    the next is known.
    """
    dense = [] if _is_known(run, None) else [None]
    unknown = [point for point in points if not _is_known(run, run.settings.points[point])]
    if not dense and unknown[:1] != list(points[:1]):
        return []
    return [*dense, *unknown][:MODELS_TOGETHER]


def _measured(run: RunContext, method: MethodSettings, permille: int) -> MeasuredModel:
    """A sparse model all of whose blocks are made."""
    made = make_blocks(run, method, permille, MeasuredModel.measure)
    _warn_of_model(run, made.described)
    return made


def _warn_of_model(run: RunContext, made: Pruned) -> None:
    """Of a mismatch at most once a run: the text is the same for all its sparse models."""
    run.log.warn(unchanged_warning(made))
    if not run.warned_of_mismatch:
        warning = mismatch_warning(made)
        run.log.warn(warning)
        run.warned_of_mismatch = warning is not None


def _single_pass(run: RunContext, points: Sequence[Point], last: int | None) -> None:
    """Calibrate, prune and evaluate models in one pass: each block is made before passages go
    through it.
    """
    models = [(point, MeasuredModel(run, *point) if point else None) for point in points]
    missing = missing_statistics(run, [point[0] for point in points if point])
    n_blocks, n_made = len(run.loaded.blocks), 0
    # Of a block's work: to calibrate, to make each model, and to answer.
    tasks = [*missing, *(made.measure for _, made in models if made)]
    run.log.walk_task = 1 / (len(tasks) + 1)
    doing = "calibrating, pruning and evaluating" if missing else "pruning and evaluating"
    step = Step("walk", 0, n_blocks, unit="blocks", message=doing, point=last)

    def make(index: int) -> None:
        """Make every model up to this block, while the loaded model is the dense one."""
        nonlocal n_made
        for block in range(n_made, min(index + 1, n_blocks)):
            with run.log.timed("prune"):
                # The calibration counts its own time; other text is read for pruning.
                for number, task in enumerate(tasks):
                    run.log.walk = replace(step, done=block, ahead=number * run.log.walk_task)
                    run.log.on_step(step)
                    task(block)
            run.log.walk = replace(step, done=block, ahead=1 - run.log.walk_task)
            run.log.on_step(step)
            n_made = block + 1
        if index == n_blocks:
            # Progress is reported of the evaluation from now on.
            run.log.walk = None

    run.log.walk = step
    try:
        records = evaluate_models(run, models, prepare=make)
    finally:
        run.log.walk = None
    answer_tasks(run, _made(models))
    _measure_made(run, records, models)
