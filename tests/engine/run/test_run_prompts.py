"""The prompts of a run: what each of its models writes after them, kept once, as the compare page
asks for it.
"""

from dataclasses import replace

import pytest

from sparsedash.engine.comparison.model_pair import ModelPairCache
from sparsedash.engine.comparison.text_comparison import continue_prompt
from sparsedash.engine.models.loading import ModelCache
from sparsedash.engine.run import pipeline
from sparsedash.schema.errors import Cancelled
from sparsedash.schema.pair_records import Continuation, ContinuationSettings
from sparsedash.service.preflight import first_texts
from sparsedash.service.stored_results import joined_continuation
from tests.engine.run.small_runs import count_calls, must_not_run, ran

PROMPTS = ("the lamp and", "the letter went home to the")


@pytest.fixture
def asking(settings):
    return replace(settings, prompts=PROMPTS)


def texts(store, run):
    return [store.get(Continuation, key).left for key in run.continuations]


def test_every_model_writes_what_it_writes_on_request_and_a_stored_text_is_not_written_again(
    asking, store, monkeypatch
):
    run = ran(asking, store)
    assert len(texts(store, run)) == len(run.records) * len(PROMPTS) and len(
        set(texts(store, run))
    ) > len(PROMPTS)
    request = ContinuationSettings(
        left=run.dense,
        right=run.sparse[0],
        others=run.sparse[1:],
        prompt=PROMPTS[1],
    )
    in_run = joined_continuation(
        request, lambda each: store.get(Continuation, each.key())
    )
    assert continue_prompt(request, store, ModelPairCache(ModelCache())) == in_run
    monkeypatch.setattr(pipeline, "continue_prompts", must_not_run)
    ran(asking, store)


def test_a_stopped_run_goes_on_with_the_texts_that_are_missing_and_new_prompts_need_no_new_answers(
    asking, store, monkeypatch
):
    whole = texts(store, ran(asking, store))
    for key in store.keys(Continuation):
        store.drop(Continuation, key)

    def stop(step):
        if step.stage == "continue" and step.point == 1:
            raise Cancelled

    with pytest.raises(Cancelled):
        ran(asking, store, stop)
    written = count_calls(monkeypatch, pipeline, "continue_prompts")
    monkeypatch.setattr(pipeline, "evaluate_models", must_not_run)
    assert texts(store, ran(asking, store)) == whole and len(written) == 1
    ran(replace(asking, prompts=(*PROMPTS, "a boat")), store)
    assert [prompts for _, prompts, *_ in written[1:]] == [["a boat"]] * 3


def test_the_first_sparse_text_comes_before_the_dense_models_answers_and_is_there_to_show(
    asking, store
):
    seen = []

    def look(step):
        if step.stage == "evaluate" and step.point is None and not seen:
            seen.append(first_texts(asking, store))

    run = ran(asking, store, look)
    (shown,) = seen
    assert [row.prompt for row in shown] == list(PROMPTS)
    written = texts(store, run)
    assert [row.dense for row in shown] == written[:2]
    assert [row.sparse for row in shown] == written[2:4]


def test_a_streamed_run_says_why_it_continues_nothing(asking, store):
    run = ran(replace(asking, residency="streamed"), store)
    assert any(
        "prompts were not continued" in line for line in run.warnings
    ) and not list(store.keys(Continuation))
