"""A finished run over a tiny model, and what is asked of its sparse models."""

from dataclasses import replace
from functools import cache

import pytest

from sparsedash.catalog import presets
from sparsedash.engine.models.loading import ModelShelf
from sparsedash.engine.run import pipeline
from sparsedash.schema.export_settings import ExportSettings
from sparsedash.schema.settings import CalibrationSettings, EvaluationSettings, RunSettings
from sparsedash.storage.store import Store


def run_settings(model, text, methods, dtype="float32", permille=400):
    return RunSettings(
        model=str(model),
        dtype=dtype,
        methods=tuple(replace(presets.method_named(name), width_multiple=8) for name in methods),
        sparsities_permille=(permille,),
        calibration=CalibrationSettings(corpus=f"file:{text}", n_samples=40, length=32),
        evaluation=EvaluationSettings(corpus=f"file:{text}", n_passages=20),
    )


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory, passage_file):
    """Gives the store, the shelf and the run of some methods over a model, each made once."""
    opened = []

    @cache
    def made(model, methods=("best", "least-squares", "wanda-2:4"), dtype="float32"):
        store, shelf = Store(tmp_path_factory.mktemp("data")), ModelShelf()
        opened.append(store)
        return store, shelf, pipeline.run(run_settings(model, passage_file, methods, dtype), store, shelf=shelf)

    yield made
    for store in opened:
        store.close()


def asked(run, number, form, to, **changes):
    """A request for one of the run's sparse models."""
    return ExportSettings(run=run.key, dense=run.dense, sparse=run.sparse[number], form=form, to=str(to), **changes)
