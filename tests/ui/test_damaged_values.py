"""Pages over what is stored by another version, or damaged: they say so, and never raise."""

import json
from dataclasses import asdict, replace

import pytest

from sparsedash.jobs.database import Database
from sparsedash.schema.records import Passages, Record, Run, to_json
from sparsedash.schema.settings import RunSettings
from sparsedash.service.backend import Backend
from tests.ui import specimens
from tests.ui.conftest import links, words

PAGES = ("overview", "jobs", "compare", "layers", "models", "published")
SETTINGS = specimens.SETTINGS


@pytest.fixture
def backend(tmp_path, monkeypatch):
    """A real one, with one finished run in its data folder."""
    monkeypatch.setenv("SPARSEDASH_WORKERS", "0")
    made = Backend(tmp_path / "data")
    run, records = specimens.run()
    made._store.put(run.key, run)
    for record in records:
        made._store.put(record.key, record)
    made._store.put("passages", specimens.passages())
    yield made
    made.close()


def damage(backend, kind, key, change):
    """Change what is stored of a record, with a checksum that fits."""
    plain = json.loads(to_json(backend._store.get(kind, key)))
    change(plain)
    backend._store._write(backend._store._records, f"{kind.__name__.lower()}/{key}", json.dumps(plain).encode())


def said(open_page):
    return {name: words(open_page(name)) for name in PAGES}


RUN, RECORDS = specimens.run()
DENSE, LAST = RECORDS[0].key, RECORDS[-1].key


def test_a_dense_record_without_answers_counts_as_lost(open_page, backend):
    damage(backend, Record, DENSE, lambda plain: plain.update(outcomes=[]))
    found = said(open_page)
    assert "its dense record was damaged and is set aside" in found["overview"]
    assert "Nothing to compare yet." in found["compare"]


def flip(backend, kind, key):
    """A bit of what is stored flips, so that its checksum does not fit."""
    name = f"{kind.__name__.lower()}/{key}"
    data = backend._store._records.get(name)
    backend._store._records.set(name, data[:-9] + bytes([data[-9] ^ 4]) + data[-8:])


@pytest.mark.parametrize(
    ("kind", "key", "said"),
    [
        (Record, LAST, "The record of 30 % was damaged and is set aside."),
        (Record, DENSE, "This run has no results any more: its dense record was damaged and is set aside."),
        (Run, RUN.key, "This run has no results any more: its own record was damaged and is set aside."),
    ],
)
@pytest.mark.parametrize("has_job", [True, False])
def test_a_damaged_record_is_named_on_the_page_whoever_looked_first(open_page, backend, kind, key, said, has_job):
    flip(backend, kind, key)
    assert backend._store.get(kind, key) is None
    if has_job:
        job = backend._table.submit("run", RUN.key, asdict(SETTINGS))
        backend._table.finish(backend._table.claim(job.id, "slot-0", 1))
    assert said in words(open_page("overview", run=RUN.key))


@pytest.mark.parametrize(
    "change",
    [
        lambda plain: plain.update(outcomes=[]),
        lambda plain: plain["pruned"].update(widths=[1]),
        lambda plain: plain["pruned"].update(layer_errors=[0.1]),
        lambda plain: plain["pruned"].update(dense_widths=[0] * 30),
        lambda plain: plain["pruned"]["method"].update(saliency="wishful"),
        lambda plain: plain.update(outcomes="many"),
        lambda plain: plain.clear(),
    ],
)
def test_a_damaged_sparse_record_counts_as_lost(open_page, backend, change):
    damage(backend, Record, LAST, change)
    found = said(open_page)
    assert "up to 20 %" in found["overview"] or "10 %" in found["overview"]
    assert "30 %" not in words(open_page("layers"))
    assert "These two cannot be compared." in found["compare"]


@pytest.mark.parametrize(
    "change",
    [
        lambda plain: plain.update(pruned=None),
        lambda plain: plain.update(outcomes=plain["outcomes"][:7]),
        lambda plain: plain["outcomes"][0].update(log_likelihood=1e6, tokens=[], top=[], index=-5),
        lambda plain: plain["outcomes"][0]["tokens"][0].update(log_likelihood=1e300, rank=-1),
        lambda plain: plain.update(passages_key="others"),
        lambda plain: plain.update(stopping=None, outcomes=[plain["outcomes"][0] | {"index": 10**6}]),
    ],
)
@pytest.mark.parametrize("key", [DENSE, LAST])
def test_records_that_do_not_belong_together_raise_nowhere(open_page, backend, change, key):
    damage(backend, Record, key, change)
    said(open_page)
    open_page("compare", mode="blind")


def test_passages_with_fewer_texts_than_answers_count_as_lost(open_page, backend):
    damage(backend, Passages, "passages", lambda plain: plain.update(contexts=plain["contexts"][:3]))
    assert "The text of this passage is no longer stored." in words(open_page("compare"))


def test_passages_of_other_answers_count_as_lost(open_page, backend):
    def fewer(plain):
        for name in ("indices", "contexts", "targets"):
            plain[name] = plain[name][:3]

    damage(backend, Passages, "passages", fewer)
    assert "The text of this passage is no longer stored." in words(open_page("compare"))


@pytest.mark.parametrize(
    "change",
    [
        lambda plain: plain.update(sparse=[LAST] * 9),
        lambda plain: plain.update(sparse=[DENSE, LAST], dense=LAST),
        lambda plain: plain.update(sparse=[f"key-{i}" for i in range(99)]),
        lambda plain: plain.update(dense="", sparse=[]),
        lambda plain: plain.update(started_at=1e300, finished_at=-1e300),
        lambda plain: plain.update(corpora={}, seconds={}, versions={}, model_identity=""),
        lambda plain: plain["settings"]["methods"][0].update(saliency="wishful"),
        lambda plain: plain["settings"].update(sparsities_permille=[0, 5000]),
    ],
)
def test_a_run_that_is_not_what_it_was_raises_nowhere(open_page, backend, change):
    damage(backend, Run, RUN.key, change)
    said(open_page)


UNKNOWN = asdict(SETTINGS) | {"methods": [{"saliency": "wishful"}]}


@pytest.mark.parametrize("text", [json.dumps(UNKNOWN), '{"model": 5}'])
def test_a_job_of_another_version_says_so(open_page, backend, text):
    submitted = backend.submit(RunSettings(sparsities_permille=(500,)))
    database = Database(backend.data_dir / "jobs.sqlite")
    with database.writing() as db:
        db.execute("UPDATE jobs SET settings = ?, point = 99, stage = 'dream', n_right = 1", (text,))
    for state in ("queued", "done"):
        with database.writing() as db:
            db.execute("UPDATE jobs SET state = ?", (state,))
        for name in ("overview", "prune", "compare", "layers"):
            open_page(name, run=submitted.key, job=str(submitted.id))
    database.close()
    assert "asked for by another version of this program" in words(open_page("jobs"))


def test_a_job_at_a_model_that_its_run_has_not_raises_nowhere(open_page, backend):
    settings = replace(SETTINGS, sparsities_permille=(100,))
    submitted = backend.submit(settings)
    backend._store.put(submitted.key, replace(RUN, key=submitted.key, settings=settings, sparse=(), finished=False))
    backend._table.claim(submitted.id, "slot-0", 1)
    database = Database(backend.data_dir / "jobs.sqlite")
    with database.writing() as db:
        db.execute("UPDATE jobs SET point = 99, n_right = 1, done = 2, stage = 'evaluate'")
    database.close()
    open_page("overview", run=submitted.key)
    assert links(open_page("jobs")) is not None
