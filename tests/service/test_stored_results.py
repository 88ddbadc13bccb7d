"""Results are cached until they change; verdicts on many runs are those of their answers."""

import json
from dataclasses import asdict, replace
from math import inf

from sparsedash.reporting.run_results import run_results
from sparsedash.schema import store_keys
from sparsedash.schema.errors import StoreError
from sparsedash.schema.pair_records import Continuation
from sparsedash.schema.question_records import QuestionSet
from sparsedash.schema.records import Record, Run
from sparsedash.schema.tolerance_settings import Tolerance
from sparsedash.service import stored_results
from sparsedash.service.answer_cache import AnswerCache
from sparsedash.service.stored_results import ResultCache, StoredResults, VerdictCache
from sparsedash.stats.mean_intervals import Moments
from sparsedash.stats.task_verdicts import judge_run
from sparsedash.stats.tolerance import Losses, judge_all, record_losses
from sparsedash.storage.derived_notes import recalled
from sparsedash.storage.store import Store
from tests.factories import answered
from tests.question_sets import CHOICE, verdicts
from tests.service.made import run
from tests.ui import specimens

TOLERANCE = Tolerance()


def test_a_result_that_was_written_again_is_read_again_and_any_other_is_not(store):
    results = ResultCache(store)
    stopped = Continuation(key="c", prompt="Once", left="a", right="b", stopped=True)
    for growing, final in (
        (run(key="r", sparse=(), finished=False), run(key="r")),
        (run(key="r"), run(key="r", warnings=("made again",))),
        (stopped, replace(stopped, stopped=False)),
    ):
        store.put(growing.key, growing)
        assert results.get(type(growing), growing.key) == growing
        store.put(final.key, final)
        cached = results.get(type(final), final.key)
        assert cached == final
        assert results.get(type(final), final.key) is cached
    store.drop(type(final), "c")
    assert results.get(type(final), "c") is None
    Store(store.folder).drop(Run, "r")
    assert results.get(Run, "r") is None, "another server has deleted it"
    assert results.record("none") is None


def test_only_so_many_passages_are_cached_and_at_least_one_record(store, monkeypatch):
    monkeypatch.setattr(stored_results, "MAX_PASSAGES_IN_MEMORY", 10)
    results = ResultCache(store)
    for key in "abc":
        store.put(key, answered(key, 5))
    a = results.record("a")
    b = results.record("b")
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
        runs.append(
            replace(run, key=f"run-{i}", sparse=tuple(record.key for record in renamed))
        )
    return runs


def verdicts_on(run, store, tolerance=TOLERANCE):
    """The verdicts on a run's models, by a cache that has none yet."""
    return VerdictCache(store).verdicts([run], tolerance)[run.key]


def test_verdicts_are_those_of_the_answers_which_are_read_once_until_their_losses_are_forgotten(
    store,
):
    (run,) = stored(store)
    _, (dense, *sparse) = specimens.run()
    expected = judge_all([record_losses(dense, record) for record in sparse], TOLERANCE)
    first = verdicts_on(run, store)
    assert first == dict(zip(run.sparse, expected, strict=True))
    generous = verdicts_on(run, store, Tolerance(ratio=1000.0, points=100.0))
    assert {verdict.verdict for verdict in generous.values()} == {"within"}
    assert {verdict.verdict for verdict in expected} != {"within"}
    for key in run.sparse:
        store.put(key, replace(dense, key=key))
    assert verdicts_on(run, store) == first
    for key in run.sparse:
        VerdictCache(store).forget(run, key)
    assert verdicts_on(run, store) != first


def test_a_full_disk_takes_no_note_and_the_verdicts_are_the_same(store, monkeypatch):
    (run,) = stored(store)

    def full(*_):
        raise StoreError("The disk is full.")

    with monkeypatch.context() as patch:
        patch.setattr(store, "remember", full)
        verdicts = verdicts_on(run, store)
    assert verdicts == verdicts_on(run, store) != {}


def test_the_verdict_on_a_run_is_that_of_its_tasks_too_and_within_only_where_they_were_answered(
    store,
):
    (run,) = stored(store)
    dense, worse = verdicts(both=300, broke=100)
    store.put("a", replace(dense, key="a"))
    store.put("b", replace(worse, key="b"))
    with_task = replace(run, answers={run.dense: ("a",), run.sparse[0]: ("b",)})

    def judged():
        """The verdicts for the list of runs, which are those on the run's page."""
        shown = run_results(StoredResults(store), with_task, TOLERANCE)
        listed = list(verdicts_on(with_task, store).values())
        assert listed == [model.verdict for model in shown.sparse_models]
        return listed

    first = judged()[0]
    assert (first.verdict, [loss.task for loss in first.deciding]) == (
        "beyond",
        ["sums"],
    )
    store.drop(QuestionSet, "b")
    assert "within" not in {verdict.verdict for verdict in judged()}, (
        "nothing is within unasked"
    )


def test_runs_with_the_same_models_and_other_tasks_have_verdicts_of_their_own(store):
    (run,) = stored(store)
    unanswered = replace(run, key="asked", unanswered=("sums",))
    together = VerdictCache(store).verdicts([run, unanswered], TOLERANCE)
    alone = verdicts_on(run, store)
    alone_unanswered = verdicts_on(unanswered, store)
    assert together == {run.key: alone, unanswered.key: alone_unanswered}
    assert alone != alone_unanswered


def test_one_look_takes_no_longer_than_it_may_and_the_next_goes_on(store):
    runs = stored(store, 3)
    cache = VerdictCache(store, clock=lambda: 0.0)
    for n_judged in (1, 2, 3, 3):
        looked = list(cache.verdicts(runs, TOLERANCE, budget_s=0.0))
        assert looked == ["run-0", "run-1", "run-2"][:n_judged]


def test_a_model_whose_answers_are_lost_or_of_other_passages_is_left_out_and_comes_back_with_them(
    store,
):
    (run,) = stored(store)
    lost = run.sparse[0]
    record = store.get(Record, lost)
    store.drop(Record, lost)
    assert tuple(verdicts_on(run, store)) == run.sparse[1:]
    store.put(lost, replace(record, passages_key="others"))
    assert tuple(verdicts_on(run, store)) == run.sparse[1:]
    store.put(lost, record)
    assert tuple(verdicts_on(run, store)) == run.sparse
    assert verdicts_on(replace(run, dense="gone"), store) == {}


LARGE = Losses(
    nats=Moments(n=40, mean=1e200, deviation=inf, lowest=0.0, highest=1e300),
    broke=3,
    fixed=0,
    n_right=20,
    anytime=False,
    alpha=0.01,
)


def test_a_note_is_the_value_that_was_kept_infinite_ones_too_or_none(store):
    name = store_keys.losses_note("dense", "sparse")
    assert recalled(store, name, Losses) is None
    for text, value in (
        (json.dumps(asdict(LARGE)), LARGE),
        ("nonsense", None),
        ('{"nats": 1}', None),
    ):
        store.remember(name, text)
        assert recalled(store, name, Losses) == value


def test_opened_answers_are_found_by_their_content_until_they_are_deleted_or_damaged(
    store,
):
    answers = AnswerCache(store)
    line = json.dumps(CHOICE).encode()
    (key,) = answers.keep("samples_colours_2026-01-02T03-04-05.6.jsonl", line)
    assert answers.keep("../samples_colours_2026-01-02T03-04-05.6.jsonl", line) == [key]
    opened = AnswerCache(store).get(key)
    assert opened is not None
    (colours,) = opened.sets
    assert (colours.task, colours.questions[0].context) == ("colours", "What is red?")
    models = {key: opened, "again": opened}
    judged = answers.judge(models, TOLERANCE)
    (task,) = judged["again"].results
    assert (task.task, len(task.pair.questions)) == ("colours", 1)
    assert answers.judge(models, TOLERANCE) is judged
    odd = "0" * 32
    store.put_artefact(f"answers/{odd}", b"no answers")
    store.put_artefact(odd, store.get_artefact(f"answers/{key}"))
    assert answers.get(odd) is None and not store.has_entry(
        "artefacts", f"answers/{odd}"
    )
    assert answers.get(odd) is None
    store.drop_entry("artefacts", f"answers/{key}")
    assert answers.get(key) is None


def test_a_task_that_cannot_be_judged_is_a_note_beside_the_others():
    sums, worse = verdicts(both=30, broke=10)
    words, answered_words = verdicts(both=40, task="words")
    questions = tuple(
        replace(question, prompt_hash="new") for question in answered_words.questions
    )
    sets = {
        "a": sums,
        "b": words,
        "c": worse,
        "d": replace(answered_words, questions=questions),
    }
    answers = {"dense": ("a", "b"), "s": ("c", "d")}
    judged = judge_run(run(sparse=("s",), answers=answers), sets.get, Tolerance())["s"]
    assert [task.task for task in judged.results] == ["sums"]
    assert judged.notes[0].startswith(
        "words is not judged. words was asked differently: the prompt differs in 40 of 40"
    )


def test_answers_that_were_lost_are_judged_once_they_are_made_again(store):
    (one,) = stored(store)
    dense, worse = verdicts(both=300, broke=100)
    store.put("b", replace(worse, key="b"))
    with_task = replace(one, answers={one.dense: ("a",), one.sparse[0]: ("b",)})
    answers = AnswerCache(store)
    assert not answers.of_run(with_task, TOLERANCE)
    assert answers.compared(["a"], ["b"])["sums"].losses is None
    store.put("a", replace(dense, key="a"))
    assert answers.of_run(with_task, TOLERANCE)
    assert answers.compared(["a"], ["b"])["sums"].losses is not None
