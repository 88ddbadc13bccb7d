"""Whatever is asked for, in whatever way, is answered by a job or a sentence: never by a traceback.

A few of each in every run; many with `make faults`, which says how many were refused.
"""

import random
from collections import Counter

import pytest
from streamlit.testing.v1 import AppTest

from sparsedash.engine.models.loading import load_model, locate_model
from sparsedash.schema.errors import ModelError, SettingsError
from sparsedash.schema.settings import RunSettings, settings_from_plain
from sparsedash.service.backend import Backend
from sparsedash.service.request_checks import run_problems
from sparsedash.ui import frame
from tests.engine.tiny import save_tiny
from tests.faults import odd_values
from tests.ui import specimens
from tests.ui.conftest import APP, shows_as_text

pytestmark = pytest.mark.faults


def few_or_many(few: int, many: int) -> pytest.MarkDecorator:
    long = pytest.param(many, marks=pytest.mark.long, id="many")
    return pytest.mark.parametrize("n", [pytest.param(few, id="few"), long])


@pytest.fixture
def backend(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSEDASH_WORKERS", "0")
    made = Backend(tmp_path / "data")
    yield made
    made.close()


@few_or_many(200, 2000)
def test_settings_are_a_job_or_a_typed_error(backend, n, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    seen: Counter[str] = Counter()
    for seed in range(n):
        plain = odd_values.settings(random.Random(seed))
        try:
            job = backend.submit(settings_from_plain(RunSettings, plain))
        except SettingsError as error:
            assert error.message
            seen["refused"] += 1
            continue
        assert job.state == "queued"
        backend.preflight(settings_from_plain(RunSettings, job.settings))
        seen["queued"] += 1
    assert min(seen["refused"], seen["queued"]) > n / 20
    print(dict(seen))


@few_or_many(10, 300)
def test_an_address_shows_a_page_without_an_exception(backend, n, monkeypatch):
    run, records = specimens.run()
    backend._store.put(run.key, run)
    for record in records:
        backend._store.put(record.key, record)
    backend._store.put("passages", specimens.passages())
    monkeypatch.setattr(frame, "backend", lambda: backend)
    seen: Counter[str] = Counter()
    for seed in range(n):
        page, asked = odd_values.address(random.Random(seed))
        app = AppTest.from_file(str(APP), default_timeout=60)
        for name, value in asked.items():
            app.query_params[name] = value
        app.switch_page(f"pages/{page}.py").run()
        assert not app.exception, (page, asked)
        drawn = "\n".join(element.proto.body for element in app.get("html"))
        shows_as_text(drawn)
        assert drawn.count("<h1") == 1, (page, asked)
        seen[page] += 1
    print(dict(seen))


@pytest.mark.parametrize("number", range(len(odd_values.MODEL_DAMAGE)))
def test_a_hostile_model_folder_is_refused_in_words(number, store, tmp_path):
    folder = save_tiny(tmp_path / "model")
    odd_values.MODEL_DAMAGE[number](folder)
    if found := run_problems(RunSettings(model=str(folder)), tmp_path):
        assert found[0].field == "model" and found[0].message.startswith("Model: ")
        return
    with pytest.raises(ModelError) as refused:
        load_model(locate_model(str(folder), store), "float32")
    assert refused.value.message
