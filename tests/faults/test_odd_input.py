"""Whatever is asked for, in whatever way, is answered by a job or a sentence: never by a traceback.

A few of each in every run; many with `make faults`, which says how many were refused.
"""

import random
from collections import Counter

import pytest

from sparsedash.schema.errors import CorpusError, ModelError, SettingsError, SparseDashError
from sparsedash.schema.settings import CalibrationSettings, EvaluationSettings, RunSettings, settings_from_plain
from sparsedash.service.backend import Backend
from sparsedash.service.preflight import run_problems
from sparsedash.shell import commands as shell
from sparsedash.storage.store import Store
from sparsedash.storage.text_files import texts_of
from sparsedash.ui import frame
from tests.faults import odd_values
from tests.ui import specimens
from tests.ui.conftest import client, shows_as_text

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


@few_or_many(30, 300)
def test_arguments_are_begun_or_refused_in_one_line(n, monkeypatch, tmp_path, capsys):
    def begun(*_):
        raise SparseDashError("It was begun.")

    monkeypatch.setattr("sparsedash.shell.run_commands.complete_run", begun)
    monkeypatch.chdir(tmp_path)
    seen: Counter[object] = Counter()
    for seed in range(n):
        argv = odd_values.arguments(random.Random(seed), tmp_path)
        try:
            code = shell.main(argv)
        except SystemExit as ended:
            code = ended.code
        said = capsys.readouterr().err
        assert code in (1, 2), argv
        assert said.count("\n") == 1 and said[:-1].isprintable() and len(said) < 2000, (argv, said)
        assert code == 2 or "It was begun." in said, argv
        seen[code] += 1
    assert seen[2] > n / 3
    print(dict(seen))


@few_or_many(30, 300)
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
        app = client(page)
        for name, value in asked.items():
            app.query_params[name] = value
        app.run()
        assert not app.exception, (page, asked)
        drawn = "\n".join(element.proto.body for element in app.get("html"))
        shows_as_text(drawn)
        assert drawn.count("<h1") == 1, (page, asked)
        seen[page] += 1
    print(dict(seen))


@pytest.mark.parametrize("number", range(len(odd_values.MODEL_DAMAGE)))
def test_a_hostile_model_folder_is_refused_in_words(number, tmp_path):
    from sparsedash.engine.models.loading import load_model, locate_model
    from tests.engine.tiny import save_tiny

    folder = save_tiny(tmp_path / "model")
    odd_values.MODEL_DAMAGE[number](folder)
    if found := run_problems(RunSettings(model=str(folder)), tmp_path):
        assert found[0].field == "model" and found[0].message.startswith("Model: ")
        return
    store = Store(tmp_path / "data")
    with pytest.raises(ModelError) as refused:
        load_model(locate_model(str(folder), store), "float32")
    store.close()
    assert refused.value.message


@pytest.mark.parametrize("number", range(len(odd_values.TEXT_FILES)))
def test_a_hostile_text_file_is_read_or_refused_in_words(number, tmp_path):
    name, content = odd_values.TEXT_FILES[number]
    path = tmp_path / name
    path.write_bytes(content)
    reference = f"file:{path}"
    try:
        settings = RunSettings(
            calibration=CalibrationSettings(corpus=reference), evaluation=EvaluationSettings(corpus=reference)
        )
    except SettingsError:
        assert not name.isprintable()
        return
    if run_problems(settings, tmp_path):
        assert path.suffix not in (".txt", ".jsonl", ".parquet")
        return
    try:
        assert all(isinstance(text, str) for text in texts_of(path))
    except CorpusError as error:
        assert path.name in error.message
