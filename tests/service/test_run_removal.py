"""Deleting runs: what goes, what stays, and what is refused. No worker is started here."""

from dataclasses import asdict, replace

import pytest

from sparsedash.schema import store_keys
from sparsedash.schema.pair_records import (
    Continuation,
    ContinuationSettings,
    Divergence,
    DivergenceSettings,
    Place,
    Prompts,
    Timing,
    TimingSettings,
)
from sparsedash.schema.records import Passages, Record, Run
from sparsedash.schema.settings import FindResult
from sparsedash.schema.store_keys import passages_key
from sparsedash.service.backend import Backend
from sparsedash.stats.tolerance import Tolerance
from tests.ui import specimens

TEXT = "sha256:4567"
TIMING = Timing(
    key="timing",
    dense="d",
    sparse="s",
    machine="a mainframe",
    dtype="float32",
    n_threads=2,
    n_prompt=128,
    n_decode=32,
    phases=(),
    dense_bytes=200,
    sparse_bytes=100,
    precise=True,
    started_at=1.0,
    versions={},
)


@pytest.fixture(autouse=True)
def no_workers(monkeypatch):
    monkeypatch.setenv("SPARSEDASH_WORKERS", "0")


@pytest.fixture
def backend(tmp_path):
    opened = Backend(tmp_path / "data")
    yield opened
    opened.close()


def kept(backend, name, **changes) -> Run:
    """A run under this name, stored with its records; it shares the dense one with all others."""
    run, (dense, *sparse) = specimens.run()
    own = [replace(record, key=f"{name}-{i}") for i, record in enumerate(sparse)]
    texts = replace(specimens.passages(), key=passages_key(TEXT, run.settings.evaluation))
    run = replace(run, key=name, sparse=tuple(record.key for record in own))
    run = replace(run, **changes)
    for part in (dense, *own, texts, run):
        backend._store.put(part.key, part)
    return run


def records(backend) -> set[str]:
    return set(backend._store.keys(Record))


def test_a_run_goes_with_all_that_only_it_uses(backend):
    run = kept(backend, "one")
    backend._store.put("one", replace(specimens.search()[2], key="one"))
    backend._store.put("timing", replace(TIMING, dense=run.dense, sparse=run.sparse[0]))
    backend.user_data.name_run("one", "The first")
    backend.costs.verdicts([run], Tolerance())
    gone = backend.removal.remove(["one"])
    assert gone.records == {run.dense, *run.sparse}
    assert (gone.n_shared, dict(gone.refused)) == (0, {})
    left = [key for kind in (Run, FindResult, Record, Passages, Timing) for key in backend._store.keys(kind)]
    assert left == []
    assert backend.user_data.marks() == {}
    assert backend._store.recall(store_keys.losses_note(run.dense, run.sparse[0])) is None
    assert backend.runs() == [] and backend.run("one") is None


def test_what_another_run_uses_stays(backend):
    one, other = kept(backend, "one"), kept(backend, "other")
    gone = backend.removal.remove(["one"])
    assert (gone.records, gone.n_shared) == (set(one.sparse), 1)
    assert records(backend) == {other.dense, *other.sparse}
    assert len(list(backend._store.keys(Passages))) == 1
    assert [run.key for run in backend.runs()] == ["other"]


def test_runs_that_go_together_keep_nothing_for_each_other(backend):
    kept(backend, "one")
    kept(backend, "other")
    assert backend.removal.remove(["one", "other"]).n_shared == 0
    assert records(backend) == set()


def test_prompts_choices_and_what_was_written_go_with_their_models(backend):
    run = kept(backend, "one")
    asked = ContinuationSettings(left=run.dense, right=run.sparse[0], prompt="Once")
    elsewhere = replace(asked, left="x", right="y")
    for settings in (asked, elsewhere):
        backend.user_data.keep_prompt(settings)
        written = Continuation(key=settings.key(), prompt="Once", left="a", right="b")
        backend._store.put(written.key, written)
    backend.user_data.choose(run.dense, run.sparse[0], "3", run.dense)
    backend.removal.remove(["one"])
    assert list(backend._store.keys(Continuation)) == [elsewhere.key()]
    assert len(list(backend._store.keys(Prompts))) == 1
    assert backend.user_data.choices(run.dense, run.sparse[0]) == {}


def test_what_was_compared_and_written_goes_with_the_models_though_no_list_names_it(backend):
    one, other = kept(backend, "one"), kept(backend, "other")
    for left, right in ((one.dense, one.sparse[0]), (other.dense, other.sparse[0])):
        compared = DivergenceSettings(left=left, right=right, text="Once upon")
        written = ContinuationSettings(left=left, right=right, prompt="Once")
        backend._table.submit("divergence", compared.key(), asdict(compared))
        backend._table.submit("continuation", written.key(), asdict(written))
        places = (Place(text="upon", nats=0.1, left="a", right="b"),)
        backend._store.put(compared.key(), Divergence(key=compared.key(), opening="Once", places=places))
        backend._store.put(written.key(), Continuation(key=written.key(), prompt="Once", left="a", right="b"))
        for job in backend._table.queue():
            backend._table.finish(backend._table.claim(job.id, "slot-0", 1))
    assert backend.divergence(DivergenceSettings(left=one.dense, right=one.sparse[0], text="Once upon").key())
    backend.removal.remove(["one"])
    assert list(backend._store.keys(Divergence)) == [compared.key()]
    assert list(backend._store.keys(Continuation)) == [written.key()]
    gone = DivergenceSettings(left=one.dense, right=one.sparse[0], text="Once upon").key()
    assert backend.divergence(gone) is None, "nor is it remembered in memory"


def test_a_pinned_run_is_not_deleted_until_it_is_unpinned(backend):
    kept(backend, "one")
    backend.user_data.pin_runs(["one"], True)
    assert "unpin it first" in backend.removal.remove(["one"]).refused["one"]
    backend.user_data.pin_runs(["one"], False)
    assert backend.removal.remove(["one"]).refused == {}


def test_a_run_under_way_is_not_deleted(backend):
    kept(backend, "one", finished=False)
    backend._table.submit("run", "one", asdict(specimens.SETTINGS))
    gone = backend.removal.remove(["one"])
    assert gone.runs == () and "under way" in gone.refused["one"]
    assert backend.run("one") is not None and records(backend)


def test_a_run_stays_while_another_of_its_model_runs_or_a_job_works_with_its_models(backend):
    run = kept(backend, "one")
    other = backend._table.submit("run", "other", asdict(specimens.SETTINGS))
    assert backend.removal.plan(["one"]).refused == {}, "one that waits looks at the store when it starts"
    backend._table.claim(other.id, "slot-0", 1)
    assert "same model" in backend.removal.remove(["one"]).refused["one"]
    backend._table.finish(backend._table.get(other.id))
    timed = TimingSettings(dense=run.dense, sparse=run.sparse[0])
    backend._table.submit("timing", timed.key(), asdict(timed))
    assert "works with its models" in backend.removal.remove(["one"]).refused["one"]
    assert records(backend) == {run.dense, *run.sparse}


def test_a_run_stays_while_a_prompt_asks_one_of_its_models_beside_two_others(backend):
    run = kept(backend, "one")
    prompt = ContinuationSettings(left="x", right="y", prompt="Once", others=("z", run.sparse[-1]))
    backend._table.submit("continuation", prompt.key(), asdict(prompt))
    assert "works with its models" in backend.removal.remove(["one"]).refused["one"]
    assert backend.run("one") is not None and records(backend) == {run.dense, *run.sparse}


def test_nothing_that_a_run_of_a_newer_version_may_use_is_deleted(backend):
    run = kept(backend, "one")
    unknown = b'{"key": "newer", "settings": "of another form"}'
    backend._store._write(backend._store._records, "run/newer", unknown)
    gone = backend.removal.remove(["one"])
    assert gone.unknown and gone.records == set() and gone.n_shared == 4
    assert backend.run("one") is None and records(backend) == {run.dense, *run.sparse}


def test_the_example_and_what_is_not_there_are_not_deleted(backend):
    gone = backend.removal.remove(["example", "nowhere"])
    assert gone.runs == () and dict(gone.refused) == {}
    assert backend.example() is not None


def test_settings_whose_run_was_deleted_are_run_again(backend):
    job = backend._table.submit("run", specimens.SETTINGS.key(), asdict(specimens.SETTINGS))
    backend._table.finish(backend._table.claim(job.id, "slot-0", 1))
    run = kept(backend, specimens.SETTINGS.key())
    assert backend.submit(specimens.SETTINGS).id == job.id
    backend.removal.remove([run.key])
    assert backend.submit(specimens.SETTINGS).id != job.id
