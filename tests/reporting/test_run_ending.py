"""How a run ended that did not finish: one sentence, the same everywhere."""

import pytest

from sparsedash.reporting.run_answer import run_ending, still_to_come
from tests.ui import specimens
from tests.ui.fake_backend import job

ASKED = specimens.SETTINGS


@pytest.mark.parametrize(
    ("state", "n_sparse", "said"),
    [
        ("cancelled", 1, "This run was stopped: 1 of its 3 sparse models is there."),
        ("failed", 2, "This run failed: 2 of its 3 sparse models are there."),
        ("crashed", 0, "This run broke off, since its worker died: none of its 3 sparse models is there."),
        ("done", 1, "This run did not finish: 1 of its 3 sparse models is there."),
        ("cancelled", 3, "This run was stopped after its last sparse model had answered."),
        ("queued", 1, ""),
        ("running", 1, ""),
    ],
)
def test_a_run_that_is_not_whole_says_how_it_ended_and_what_there_is(state, n_sparse, said):
    run, _ = specimens.run(finished=False, n_sparse=n_sparse)
    assert run_ending(run, job(ASKED, state)) == said


def test_a_run_without_a_job_did_not_finish_and_a_whole_one_says_nothing():
    run, _ = specimens.run(finished=False, n_sparse=1)
    assert run_ending(run, None) == "This run did not finish: 1 of its 3 sparse models is there."
    whole, _ = specimens.run()
    assert run_ending(whole, job(ASKED, "failed")) == run_ending(whole, None) == ""


def test_what_is_still_to_come_is_not_on_its_way_while_it_waits_or_is_stopped():
    expected = "The comparison is"
    assert still_to_come(job(ASKED), expected) == "The comparison is on its way."
    assert still_to_come(job(ASKED), "The first results are") == "The first results are on their way."
    assert still_to_come(job(ASKED, "queued"), expected) == "This run waits for its turn."
    assert still_to_come(job(ASKED, cancel_requested_at=1.0), expected) == "This run is being stopped."
