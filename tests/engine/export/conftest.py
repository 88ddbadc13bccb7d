"""A finished run over a tiny model, and requests to export its sparse models."""

from dataclasses import replace
from functools import cache, partial

import pytest

from sparsedash.catalog import presets
from sparsedash.engine.export import reload_proof, reloaded
from sparsedash.engine.export.export import export_model
from sparsedash.engine.models.loading import ModelCache
from sparsedash.engine.run import pipeline
from sparsedash.reporting.model_card import stored_card
from sparsedash.schema.export_settings import ExportSettings
from sparsedash.schema.progress import Step, ignore_steps
from sparsedash.storage.store import Store
from tests.engine.tiny import small_run


def run_settings(model, text, methods, dtype="float32"):
    methods = tuple(
        replace(presets.method_named(name), width_multiple=8) for name in methods
    )
    return small_run(
        model,
        f"file:{text}",
        n_passages=20,
        dtype=dtype,
        methods=methods,
        sparsities_permille=(400,),
    )


def run_in(store, settings):
    """The store, a model cache and the run of these settings."""
    model_cache = ModelCache()
    return store, model_cache, pipeline.run(settings, store, model_cache=model_cache)


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory, passage_file):
    """Gives the store, the model_cache and the run of some methods over a model, each made once."""
    opened = []

    @cache
    def made(model, methods=("best", "least-squares", "wanda-2:4"), dtype="float32"):
        store = Store(tmp_path_factory.mktemp("data"))
        opened.append(store)
        return run_in(store, run_settings(model, passage_file, methods, dtype))

    yield made
    for store in opened:
        store.close()


@pytest.fixture
def run(finished_run, model_folder):
    return finished_run(model_folder)


def export_request(run, number, form, to, **changes):
    """A request for one of the run's sparse models."""
    return ExportSettings(
        run=run.key,
        dense=run.dense,
        sparse=run.sparse[number],
        form=form,
        to=str(to),
        **changes,
    )


def exported(finished, number, form, to, on_step=ignore_steps, **changes):
    """The export of one sparse model of a finished run."""
    store, model_cache, run = finished
    return export_model(
        export_request(run, number, form, to, **changes),
        store,
        model_cache,
        on_step,
        partial(stored_card, store),
    )


@pytest.fixture
def fresh_process():
    """For tests of the process that proves an export; all others are proven in this one, which
    takes no time.
    """


@pytest.fixture(autouse=True)
def proofs(request, monkeypatch):
    def run_here(what, questions, on_step, experts=""):
        on_step(Step("prove", 1, 2))
        request = {"questions": questions, "n_threads": 1, "experts": experts}
        answers, logits = reloaded.load_and_answer(str(what), request)
        return answers | {"ours": []}, logits

    if "fresh_process" not in request.fixturenames:
        monkeypatch.setattr(reload_proof, "_run_program", run_here)
