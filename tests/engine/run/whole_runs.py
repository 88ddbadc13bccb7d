"""A run from its settings to its records, by the pipeline itself."""

from dataclasses import replace

from sparsedash.engine.models.loading import ModelShelf
from sparsedash.engine.run import pipeline
from sparsedash.schema.progress import ignore_steps
from sparsedash.schema.records import Record


def ran(settings, store, on_step=ignore_steps):
    return pipeline.run(settings, store, on_step, ModelShelf())


def answers(store, run):
    records = [store.get(Record, key) for key in (run.dense, *run.sparse)]
    return [replace(record, seconds=0, tokens_per_second=0) for record in records]
