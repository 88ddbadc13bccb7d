"""The main job: load a model, calibrate once, then prune and evaluate it at every sparsity that is asked for."""

import json
import time
from collections.abc import Collection
from dataclasses import replace

from sparsedash.engine.models.loading import ModelShelf
from sparsedash.engine.models.products import fastest_products
from sparsedash.engine.run.run_log import versions
from sparsedash.engine.run.stages import Stages
from sparsedash.schema import notes
from sparsedash.schema.hosting.parts import PartSettings
from sparsedash.schema.progress import OnStep, ignore_steps
from sparsedash.schema.records import Run
from sparsedash.schema.settings import RunSettings
from sparsedash.storage.fingerprints import fingerprints
from sparsedash.storage.store import Store


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
    store.remember(notes.part_calibrations(made.key), json.dumps(stages.calibration_keys))
    return made


def _run(
    settings: RunSettings, stages: Stages, store: Store, run_key: str | None, points: Collection[int] | None = None
) -> Run:
    """points: the places of the sparse models that are made; None: all."""
    grown = begun(run_key or settings.key(fingerprints(settings)), settings, stages)
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
    whole = finished(grown, stages)
    store.put(whole.key, whole)
    return whole


def finished(grown: Run, stages: Stages) -> Run:
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


def begun(key: str, settings: RunSettings, stages: Stages) -> Run:
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
        versions=versions(),
        source_type=source.source_type,
    )
