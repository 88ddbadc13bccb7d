"""The verdicts on many runs: the same as by their answers, which are read once."""

import json
from dataclasses import asdict, replace
from math import inf

import pytest

from sparsedash.service.stored_results import RunCosts, losses_from_plain
from sparsedash.stats.mean_intervals import Moments
from sparsedash.stats.tolerance import Losses, Tolerance, judge_all, record_losses
from sparsedash.storage.store import Store
from tests.ui import specimens

TOLERANCE = Tolerance()


@pytest.fixture
def store(tmp_path):
    opened = Store(tmp_path / "data")
    yield opened
    opened.close()


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


def test_verdicts_are_those_of_the_answers(store):
    (run,) = stored(store)
    _, (dense, *sparse) = specimens.run()
    expected = judge_all([record_losses(dense, record) for record in sparse], TOLERANCE)
    found = RunCosts(store).verdicts([run], TOLERANCE)
    assert found == {run.key: dict(zip(run.sparse, expected, strict=True))}


def test_every_tolerance_has_its_own_verdicts(store):
    runs, costs = stored(store), RunCosts(store)
    (usual,) = costs.verdicts(runs, TOLERANCE).values()
    (generous,) = costs.verdicts(runs, Tolerance(ratio=1000.0, points=100.0)).values()
    assert {each.verdict for each in generous.values()} == {"within"}
    assert "within" not in {each.verdict for each in usual.values()}


def test_answers_are_read_once_for_all_servers(store):
    (run,) = stored(store)
    first = RunCosts(store).verdicts([run], TOLERANCE)
    _, (dense, *_) = specimens.run()
    for key in run.sparse:
        store.put(key, replace(dense, key=key))
    assert RunCosts(store).verdicts([run], TOLERANCE) == first


def test_what_was_forgotten_is_read_again(store):
    (run,) = stored(store)
    costs = RunCosts(store)
    first = costs.verdicts([run], TOLERANCE)
    _, (dense, *_) = specimens.run()
    for key in run.sparse:
        store.put(key, replace(dense, key=key))
        costs.forget(run.dense, key)
    assert RunCosts(store).verdicts([run], TOLERANCE) != first


def test_one_look_takes_no_longer_than_it_may_and_the_next_goes_on(store):
    runs, costs = stored(store, 3), RunCosts(store, clock=lambda: 0.0)
    assert [list(costs.verdicts(runs, TOLERANCE, budget_s=0.0)) for _ in range(4)] == [
        ["run-0"],
        ["run-0", "run-1"],
        ["run-0", "run-1", "run-2"],
        ["run-0", "run-1", "run-2"],
    ]


def test_a_model_whose_answers_are_lost_is_left_out_and_comes_back_with_them(store):
    (run,) = stored(store)
    lost, *rest = run.sparse
    record = store.get(type(specimens.record([True])), lost)
    store.drop(type(record), lost)
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


LARGE = Losses(
    nats=Moments(n=40, mean=1e200, deviation=inf, lowest=0.0, highest=1e300),
    broke=3,
    mended=0,
    n_right=20,
    looked=False,
)


def test_losses_beyond_all_numbers_are_kept_as_well():
    assert losses_from_plain(json.dumps(asdict(LARGE))) == LARGE
    assert losses_from_plain(json.dumps(asdict(replace(LARGE, alpha=0.01)))) == replace(LARGE, alpha=0.01)


@pytest.mark.parametrize("text", [None, "", "nonsense", "{}", "[1]", '{"nats": 1}'])
def test_a_note_that_cannot_be_read_counts_as_none(text):
    assert losses_from_plain(text) is None
