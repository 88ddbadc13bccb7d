"""The main job, stage by stage, each remembered under its own key: load, calibrate once, prune and evaluate often."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from sparsedash.engine.generation import continue_text
from sparsedash.engine.models import LoadedModel, ModelShelf
from sparsedash.engine.pruning.surgery import pruned
from sparsedash.engine.stages import Stages, versions
from sparsedash.errors import JobError
from sparsedash.progress import OnStep, ignore_steps
from sparsedash.records import Continuation, Record, Run
from sparsedash.settings import ContinuationSettings, RunSettings
from sparsedash.stamps import stamps
from sparsedash.store import Store


def run(
    settings: RunSettings,
    store: Store,
    on_step: OnStep = ignore_steps,
    shelf: ModelShelf | None = None,
    run_key: str | None = None,
) -> Run:
    """Calibrate, prune and evaluate as asked; what the store holds already is not done again.

    A new run is kept after every finished record, so that a page can show it while it grows; one that was finished
    before stays as it is until it is finished again. shelf: keeps the model
    between jobs. run_key: the name to keep it under. Raises SparseDashError, and nothing half-done is kept.
    """
    stages = Stages(settings, store, on_step, shelf or ModelShelf())
    grown = Run(
        key=run_key or settings.key(stamps(settings)),
        settings=settings,
        model_identity=stages.source.identity,
        corpora={
            "calibration": stages.calibration_identity,
            "evaluation": stages.evaluation_identity,
        },
        dense="",
        sparse=(),
        finished=False,
        started_at=time.time(),
        finished_at=None,
        seconds={},
        cached=(),
        warnings=(),
        versions=versions(),
    )
    stages.check()
    before = store.get(Run, grown.key)
    show = before is None or not before.finished
    grown = replace(grown, dense=stages.dense_record().key)
    if show:
        store.put(grown.key, grown)
    for method in settings.methods:
        for permille in settings.sparsities_permille:
            record = stages.sparse_record(method, permille)
            grown = replace(grown, sparse=(*grown.sparse, record.key))
            if show:
                store.put(grown.key, grown)
    finished = replace(
        grown,
        finished=True,
        finished_at=time.time(),
        seconds=stages.seconds,
        cached=tuple(stages.cached),
        warnings=tuple(stages.warnings),
    )
    store.put(finished.key, finished)
    return finished


def continue_prompt(
    settings: ContinuationSettings,
    store: Store,
    on_step: OnStep = ignore_steps,
    shelf: ModelShelf | None = None,
) -> Continuation:
    """What the models of two records write after a prompt; kept under the settings' key.

    Raises JobError when a record is gone, and whatever rebuilding its model raises.
    """
    known = store.get(Continuation, settings.key())
    if known is not None:
        return known
    shelf = shelf or ModelShelf()
    written = []
    for side, key in enumerate((settings.left, settings.right)):
        record = store.get(Record, key)
        if record is None:
            raise JobError("One of the two results is not in the store any more.", "Run it again.")
        with _model_of(record, store, on_step, shelf) as loaded:
            done, total = side * settings.n_tokens, 2 * settings.n_tokens
            written.append(
                continue_text(loaded, settings.prompt, settings.n_tokens, on_step, done, total)
            )
    both = Continuation(
        key=settings.key(), prompt=settings.prompt, left=written[0], right=written[1]
    )
    store.put(both.key, both)
    return both


@contextmanager
def _model_of(
    record: Record, store: Store, on_step: OnStep, shelf: ModelShelf
) -> Iterator[LoadedModel]:
    """The model that gave a record's answers, made again from the dense one, its statistics and its settings."""
    settings = RunSettings(model=record.model, dtype=record.dtype)
    if record.pruned is not None:
        settings = replace(settings, calibration=record.pruned.calibration)
    stages = Stages(settings, store, on_step, shelf)
    if stages.source.identity != record.model_identity:
        raise JobError(
            f"{record.model} is not what it was when this result was made.", "Run it again."
        )
    if record.pruned is None:
        yield stages.loaded
    else:
        made = stages.prune(record.pruned.method, record.pruned.sparsity_permille)
        with pruned(stages.loaded.mlps, made.narrowed):
            yield stages.loaded
