"""What a page says to do next, and what the form is filled in with for it."""

from dataclasses import replace

import pytest

from sparsedash.reporting.run_answer import next_step
from sparsedash.reporting.run_results import run_results
from sparsedash.schema.settings import BUILTIN_CLOZE_402, FindSettings, RunSettings
from sparsedash.stats.tolerance import Tolerance
from tests.reporting.test_odd_runs import run_of
from tests.reporting.test_run_results import plain, shifted, sweep_of
from tests.ui import specimens
from tests.ui.fake_backend import FakeBackend


def step_of(*sparse, finished=True):
    return next_step(sweep_of(*sparse, finished=finished))


def test_what_is_undecided_says_how_many_passages_would_decide_it_and_leads_to_them():
    step = step_of(shifted(0.01, 100), shifted(0.09, 200, spread=1.0), shifted(0.3, 300))
    assert plain(step.said).startswith("Next: ask more passages. About ")
    assert plain(step.said).endswith(" would decide 20 %, judging by these 120.")
    assert step.link == "Ask more passages"
    assert isinstance(step.asked, RunSettings)


def test_of_many_that_are_undecided_the_two_are_told_that_take_the_fewest_passages():
    step = step_of(*(shifted(nats, permille, spread=1.0) for nats, permille in ((0.05, 100), (0.07, 200), (0.08, 300))))
    assert step.said.count("would decide") == 2
    assert plain(step.said).index("10 %") < plain(step.said).index("20 %")


def test_what_is_undecided_and_changes_nothing_of_the_answer_is_left_alone():
    step = step_of(shifted(0.09, 100, spread=1.0), shifted(0.01, 200), shifted(0.3, 300))
    assert plain(step.said) == "Next: search for the most that can go, between 20 and 30 %."


def test_more_passages_are_the_smallest_text_that_has_enough():
    unknown = run_of(132, 27, (10, 0.02, 0.4, 27))
    assert 132 < unknown.judged[0].verdict.passages_needed < 402
    assert next_step(unknown).asked.evaluation.corpus == BUILTIN_CLOZE_402
    unknown = run_of(132, 27, (10, 0.06, 1.2, 27))
    assert unknown.judged[0].verdict.passages_needed > 402
    assert next_step(unknown).asked.evaluation.corpus == "lambada_openai"


@pytest.mark.parametrize(("corpus", "n_texts"), [("lambada_openai", 5151), ("file:/texts/own.jsonl", None)])
def test_a_text_of_which_not_all_was_asked_is_asked_for_more(corpus, n_texts):
    found = run_of(132, 27, (10, 0.02, 0.4, 27))
    evaluation = replace(found.run.settings.evaluation, corpus=corpus, n_passages=132)
    asked = next_step(
        replace(found, run=replace(found.run, settings=replace(found.run.settings, evaluation=evaluation)))
    ).asked.evaluation
    assert asked.corpus == corpus
    assert 132 < asked.n_passages < (n_texts or 402)


def test_between_within_and_beyond_the_most_is_looked_for_by_what_may_be_lost():
    step = step_of(shifted(0.01, 100), shifted(0.3, 200))
    assert plain(step.said) == "Next: search for the most that can go, between 10 and 20 %."
    assert isinstance(step.asked, FindSettings)
    assert (step.asked.ratio, step.asked.points) == (Tolerance().ratio, Tolerance().points)


def test_where_all_is_within_more_is_tried_and_where_all_is_beyond_less():
    assert plain(step_of(shifted(0.01, 100)).said) == "Next: see whether more than 10 % can go."
    assert plain(step_of(shifted(0.3, 100)).said) == ("Next: see whether less than 10 % can go, or race other methods.")


@pytest.mark.parametrize("n", [1, 10])
def test_too_few_passages_are_asked_for_more(n):
    step = next_step(run_of(n, 0, (10, 0.02, 0.6, 0)))
    assert step.said.startswith("Next: ask more passages. ")
    assert step.asked.evaluation.n_passages is None or step.asked.evaluation.n_passages >= 30


def test_a_loss_that_no_number_of_passages_decides_says_so():
    step = next_step(run_of(132, 0, (10, 0.0953, 0.5, 0)))
    assert "over 1,000,000 passages would be needed" in step.said
    assert step.link == "Change the settings"


def test_a_search_leads_to_its_model_or_to_another_method():
    def after(search):
        backend = FakeBackend()
        return next_step(run_results(backend, backend.add_search(search), Tolerance(ratio=1.3, points=30.0)))

    for slope in (0.0, 0.3, 4.0):
        found = after(specimens.search(slope=slope))
        assert found.asked is None and found.link == "Export this model"
    nothing = after(specimens.search(slope=60.0))
    assert nothing.said == "Next: allow more, or search with another method."
    assert isinstance(nothing.asked, FindSettings)


def test_nothing_is_next_while_a_run_goes_on_or_before_a_sparse_model_has_answered():
    assert step_of(shifted(0.3, 100), finished=False) is None
    assert step_of() is None
