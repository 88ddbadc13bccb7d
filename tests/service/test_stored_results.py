"""ResultCache are cached once final; verdicts on many runs are those of their answers, which are read once."""

import json
from dataclasses import asdict, replace
from math import inf

import pytest

from sparsedash.schema import store_keys
from sparsedash.schema.pair_records import Continuation
from sparsedash.schema.records import Record
from sparsedash.service import stored_results
from sparsedash.service.stored_results import ResultCache, RunCosts, recalled
from sparsedash.stats.mean_intervals import Moments
from sparsedash.stats.tolerance import Losses, Tolerance, judge_all, record_losses
from sparsedash.storage.store import Store
from tests.factories import answered
from tests.service.made import run
from tests.ui import specimens

TOLERANCE = Tolerance()


@pytest.fixture
def store(tmp_path):
    opened = Store(tmp_path / "data")
    yield opened
    opened.close()


def test_a_growing_result_is_read_again_and_a_final_one_is_not(store):
    results = ResultCache(store)
    stopped = Continuation(key="c", prompt="Once", left="a", right="b", stopped=True)
    for growing, final in (
        (run(key="r", sparse=(), finished=False), run(key="r")),
        (stopped, replace(stopped, stopped=False)),
    ):
        store.put(growing.key, growing)
        assert results.get(type(growing), growing.key) == growing
        store.put(final.key, final)
        found = results.get(type(final), final.key)
        assert found == final
        assert results.get(type(final), final.key) is found
    results.drop(type(final), "c")
    assert results.get(type(final), "c") is None
    assert results.record("none") is None


def test_only_so_many_passages_are_cached_and_at_least_one_record(store, monkeypatch):
    monkeypatch.setattr(stored_results, "MAX_PASSAGES_IN_MEMORY", 10)
    results = ResultCache(store)
    for key in "abc":
        store.put(key, answered(key, 5))
    a, b = results.record("a"), results.record("b")
    assert results.record("a") is a
    results.record("c")
    assert results.record("a") is a
    assert results.record("b") is not b
    store.put("big", answered("big", 50))
    assert results.record("big") is results.record("big")


def stored(store, n_runs=1):
    """So many runs over one dense model, their records in the store."""
    runs = []
    for i in range(n_runs):
        run, (dense, *sparse) = specimens.run()
        renamed = [replace(record, key=f"{i}-{record.key}") for record in sparse]
        for record in (dense, *renamed):
            store.put(record.key, record)
        runs.append(replace(run, key=f"run-{i}", sparse=tuple(record.key for record in renamed)))
    return runs


def test_verdicts_are_those_of_the_answers_and_each_tolerance_has_its_own(store):
    (run,) = stored(store)
    _, (dense, *sparse) = specimens.run()
    expected = judge_all([record_losses(dense, record) for record in sparse], TOLERANCE)
    costs = RunCosts(store)
    assert costs.verdicts([run], TOLERANCE) == {run.key: dict(zip(run.sparse, expected, strict=True))}
    assert "within" not in {each.verdict for each in expected}
    (generous,) = costs.verdicts([run], Tolerance(ratio=1000.0, points=100.0)).values()
    assert {each.verdict for each in generous.values()} == {"within"}


@pytest.mark.parametrize("forgotten", [False, True])
def test_answers_are_read_once_for_all_servers_until_their_losses_are_forgotten(store, forgotten):
    (run,) = stored(store)
    costs = RunCosts(store)
    first = costs.verdicts([run], TOLERANCE)
    _, (dense, *_) = specimens.run()
    for key in run.sparse:
        store.put(key, replace(dense, key=key))
        if forgotten:
            costs.forget(run.dense, key)
    assert (RunCosts(store).verdicts([run], TOLERANCE) == first) != forgotten


def test_one_look_takes_no_longer_than_it_may_and_the_next_goes_on(store):
    runs, costs = stored(store, 3), RunCosts(store, clock=lambda: 0.0)
    looks = [list(costs.verdicts(runs, TOLERANCE, budget_s=0.0)) for _ in range(4)]
    assert looks == [["run-0"], ["run-0", "run-1"], ["run-0", "run-1", "run-2"], ["run-0", "run-1", "run-2"]]


def test_a_model_whose_answers_are_lost_is_left_out_and_comes_back_with_them(store):
    (run,) = stored(store)
    lost, *rest = run.sparse
    record = store.get(Record, lost)
    store.drop(Record, lost)
    costs = RunCosts(store)
    assert list(costs.verdicts([run], TOLERANCE)[run.key]) == rest
    store.put(lost, record)
    assert list(costs.verdicts([run], TOLERANCE)[run.key]) == [lost, *rest]


def test_nothing_is_judged_without_the_dense_answers_or_by_other_passages(store):
    (run,) = stored(store)
    for key in run.sparse:
        store.put(key, replace(specimens.record([True] * 120, 100), key=key, passages_key="others"))
    assert RunCosts(store).verdicts([run], TOLERANCE) == {run.key: {}}
    assert RunCosts(store).verdicts([replace(run, dense="gone")], TOLERANCE) == {run.key: {}}


NOTE = store_keys.losses_note("dense", "sparse")
LARGE = Losses(
    nats=Moments(n=40, mean=1e200, deviation=inf, lowest=0.0, highest=1e300),
    broke=3,
    mended=0,
    n_right=20,
    anytime=False,
)


@pytest.mark.parametrize("losses", [LARGE, replace(LARGE, alpha=0.01)], ids=["infinite", "with alpha"])
def test_infinite_losses_are_kept_as_well(losses, store):
    store.remember(NOTE, json.dumps(asdict(losses)))
    assert recalled(store, NOTE, Losses) == losses


@pytest.mark.parametrize("text", [None, "", "nonsense", "{}", "[1]", '{"nats": 1}'])
def test_a_note_that_cannot_be_read_counts_as_none(text, store):
    if text is not None:
        store.remember(NOTE, text)
    assert recalled(store, NOTE, Losses) is None
