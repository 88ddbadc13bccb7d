"""Runs of a tiny model, from their settings to their records."""

from dataclasses import replace

from sparsedash.engine.models.loading import ModelCache
from sparsedash.engine.run import pipeline
from sparsedash.engine.run.model_making import rebuild_model
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.progress import ignore_steps
from sparsedash.schema.records import Record
from sparsedash.storage.store import Store

N_BLOCKS = 3
CHANNELS = MethodSettings(width_multiple=8)
RANDOM = MethodSettings(
    saliency="random",
    compensation="none",
    width_multiple=8,
)
FISHER = MethodSettings(
    saliency="fisher",
    compensation="none",
    width_multiple=8,
)


MODEL_CACHE = ModelCache()
"""Keeps the tiny model from test to test, as a worker does from job to job; also after a kill."""


def ran(settings, store, on_step=ignore_steps, **more):
    return pipeline.run(
        settings,
        store,
        on_step,
        MODEL_CACHE,
        **more,
    )


def records(store, run):
    """The dense record and the sparse ones, without their times."""
    run_records = [store.get(Record, key) for key in (run.dense, *run.sparse)]
    return [replace(record, seconds=0, tokens_per_second=0) for record in run_records]


def rebuilt_model(key, store):
    """The model of a record in this store."""
    return rebuild_model(store.get(Record, key), store, ignore_steps, MODEL_CACHE)


def fresh_records(settings, folder):
    """The records of a run on a new store, without its weights streamed."""
    store = Store(folder)
    run_records = records(store, ran(replace(settings, residency="resident"), store))
    store.close()
    return run_records


def count_calls(monkeypatch, owner, name):
    """The arguments of every call of a function, as the list grows."""
    calls = []
    real = getattr(owner, name)
    monkeypatch.setattr(
        owner, name, lambda *given, **more: calls.append(given) or real(*given, **more)
    )
    return calls


def must_not_run(*_, **__):
    raise AssertionError("this is in the store, or not needed")


def stages_of(settings, store, **more):
    """The run, and the stages that it reported."""
    stages = []
    return ran(
        settings,
        store,
        lambda step: stages.append(step.stage),
        **more,
    ), stages
