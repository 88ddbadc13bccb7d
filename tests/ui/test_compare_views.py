"""Two models side by side: the verdict, the kinds, the steps, the answers, and what is shown where
there is nothing.
"""

from dataclasses import replace

import pytest

from sparsedash.catalog.choices import EXAMPLE
from sparsedash.catalog.presets import method_named
from sparsedash.schema.records import Passages, Record
from tests.ui import specimens
from tests.ui.conftest import FAILED, button, links, markup, query_of, words
from tests.ui.filled_backend import job

SETTINGS = specimens.SETTINGS


def kinds(app):
    return [widget for widget in app.button if widget.key.startswith("flip-")]


def test_while_the_first_models_answer_the_page_shows_their_job(open_compare, backend):
    backend.set_jobs(job(SETTINGS))
    app = open_compare(run=SETTINGS.key())
    text = words(app)
    assert text.startswith("No answers to compare yet.")
    assert "Running SmolLM2 135M, least-squares 10, 20, 30 % on Cloze passages" in text
    assert query_of(links(app)["See this run"]) == {"run": SETTINGS.key()}
    backend.add_run(specimens.run(finished=False, n_sparse=1))
    assert "10 % against dense" in words(app.run())
    # Its dense answers are made again: the page waits, and does not ask without pause.
    backend.drop(Record, backend.runs()[0].dense)
    assert words(open_compare()).startswith("No answers to compare yet.")


def test_where_there_is_nothing_to_compare_the_page_says_why(open_compare, backend):
    assert "Nothing to compare yet." in words(open_compare())
    backend.set_jobs(job(SETTINGS, "failed", **FAILED))
    assert words(open_compare()).startswith("Nothing to compare yet.")
    text = words(open_compare(run=SETTINGS.key()))
    assert (
        text.startswith("This run has no answers to compare.")
        and FAILED["error_text"] in text
    )
    backend.set_jobs(job(SETTINGS))
    app = open_compare(run="gone")
    assert words(app).startswith("There is no run with this address.")
    assert (
        "Another run is under way: SmolLM2 135M, least-squares 10, 20, 30 % on Cloze passages"
        in links(app)
    )
    backend.set_jobs()
    backend.add_run(specimens.run(n_sparse=0))
    assert "See the runs" in links(open_compare())


def test_the_verdict_comes_first_and_what_it_rests_on_after_the_passages(
    open_compare, finished
):
    text = words(open_compare())
    assert text.startswith("30 % is too close to call on 120 passages. ")
    behind = text.split("Passage ")[-1]
    assert "Perplexity " in behind and "accuracy −5.8 points (" in behind
    assert "9 answers broke, 2 fixed. " in behind


def test_the_first_broken_passage_is_shown_with_both_answers(open_compare, finished):
    app = open_compare(sort="file order")
    text = words(app)
    assert "Passage 14" in text and "went to fetch the harbour" in text
    assert (
        "Dense harbour ✓ right “harbour” gets 66.1 %, rank 1" in text
        and "Sparse, 30 % violin ✕ wrong" in text
    )
    assert (
        markup(app).count('class="sd-top"') == 1
        and "Next token Dense Sparse, 30 % ␣harbour ✓ 66.1 %" in text
    )
    assert " times less likely. Its log-probability fell by " in text


def test_kinds_have_counts_that_add_up_and_one_is_chosen_by_button(
    open_compare, finished
):
    app = open_compare()
    assert [widget.label for widget in kinds(app)] == [
        *("All · 120", "Both right · 27", "Broke · 9", "Fixed · 2", "Both wrong · 82")
    ]
    button(app, "Fixed").click().run()
    assert app.query_params["filter"] == "fixed" and "1 of 2" in words(app)


def test_within_a_kind_a_switch_leaves_those_answered_with_other_words(
    open_compare, finished
):
    app = open_compare(filter="both-wrong")
    switch = app.toggle(key="words")
    n = int(switch.label.removeprefix("Only different words · "))
    assert 0 < n < 82
    switch.set_value(True).run()
    assert f"1 of {n}" in words(app) and kinds(app)[4].label == "Both wrong · 82"
    assert f"1 of {n}" in words(open_compare(filter="both-wrong", words="true"))
    button(app, "Both right").click().run()
    assert "No passage matches" in words(app)
    assert app.toggle(key="words").label == "Only different words · 0", (
        "both right: in the same words"
    )


def test_passages_are_stepped_through_the_largest_fall_first(open_compare, finished):
    app = open_compare()
    rows = [
        widget.label.rsplit(" ", 1)[1]
        for widget in app.button
        if widget.key.startswith("row-")
    ]
    falls = [float(change.replace("−", "-")) for change in rows]
    assert falls == sorted(falls) and len(falls) == 9
    assert button(app, "Previous").disabled
    button(app, "Next").click().run()
    assert "2 of 9" in words(app) and not button(app, "Previous").disabled
    assert "1 of 9" in words(open_compare(passage="9999", filter="broke")), (
        "no such passage: the first"
    )


def test_two_records_are_chosen_by_the_address(open_compare, finished):
    assert "20 % against 10 %" in words(open_compare(left="10 %", right="20 %"))
    app = open_compare(right="dense")
    assert "0 answers broke, 0 fixed." in words(app)
    # Nothing broke, nothing was fixed: the first kind that has passages is shown.
    assert button(app, "Both wrong").icon == ":material/check:"


def test_a_search_in_contexts_and_answers_narrows_every_kind_and_stands_in_the_address(
    open_compare, finished
):
    app = open_compare(search="HARBOUR", filter="both-wrong")
    counts = [int(widget.label.split(" · ")[1]) for widget in kinds(app)[1:]]
    assert 0 < sum(counts) < 120
    app.text_input(key="search").set_value("no such words").run()
    assert "No passage matches. Choose another kind, or clear the search." in words(app)
    assert kinds(open_compare(search="behind the stove"))[2].label == "Broke · 9"


@pytest.mark.parametrize(
    "address",
    [{}, {"view": "layers"}, {"name": "models"}],
    ids=["passages", "layers", "models"],
)
def test_the_model_that_the_answer_names_is_opened_and_not_the_last_or_sparsest(
    address, open_page, backend
):
    methods = (method_named("least-squares"), method_named("magnitude"))
    backend.add_run(specimens.run(replace(SETTINGS, methods=methods)))
    where = {"name": "compare"} | address
    limits = {"limits": "3,30"}
    for tolerance, named in (({}, "10 %"), (limits, "30 %")):
        app = open_page(**where | tolerance, right="")
        assert app.selectbox(key="chosen-right").value == f"least-squares {named}"


def test_records_of_other_runs_are_offered_if_they_are_over_the_same_passages(
    open_compare, backend
):
    evaluation = replace(SETTINGS.evaluation, n_passages=60)
    backend.add_run(specimens.run(replace(SETTINGS, evaluation=evaluation)))
    run = backend.add_run(specimens.run())
    assert len(open_compare(run=run.key).selectbox(key="chosen-left").options) == 4
    another = backend.add_run(
        specimens.run(replace(SETTINGS, methods=(method_named("magnitude"),)))
    )
    app = open_compare(run=run.key)
    offered = app.selectbox(key="chosen-right").options
    assert offered[:4] == ["dense", "10 %", "20 %", "30 %"]
    assert any(name.startswith("30 % · ") and "magnitude" in name for name in offered)
    theirs = another.sparse[-1][:16]
    app.selectbox(key="chosen-right").set_value(theirs).run()
    assert "magnitude" in words(app).split("against")[0]
    assert "against 30 %" in words(open_compare(run=run.key, right=theirs, left="30 %"))


def test_records_and_texts_that_are_lost_are_said_to_be_lost(open_compare, finished):
    finished.drop(Passages, "passages")
    assert "The text of this passage is no longer stored." in words(open_compare())
    finished.drop(Record, finished.runs()[0].sparse[-1])
    assert "These two models cannot be compared." in words(open_compare())


def test_a_target_of_several_tokens_is_shown_token_by_token(open_compare, backend):
    run, records = specimens.run()

    def cut(outcome):
        (token,) = outcome.tokens
        return replace(
            outcome, tokens=(replace(token, text=" har"), replace(token, text="bour"))
        )

    backend.add_run(
        (
            run,
            [
                replace(record, outcomes=tuple(map(cut, record.outcomes)))
                for record in records
            ],
        )
    )
    text = words(open_compare())
    assert (
        "The right word token by token, each given the ones before Token Dense Sparse, 30 % ␣har"
        in text
    )


def test_files_are_made_only_when_they_are_asked_for(
    open_compare, finished, monkeypatch
):
    def refuse(*_):
        raise AssertionError("made before it was asked for")

    makers = (
        "compare_views.record_pair.view_file",
        "compare_views.record_pair.harness_samples",
    )
    for name in (*makers, "run_sharing.html_report"):
        monkeypatch.setattr(f"sparsedash.ui.{name}", refuse)
    assert [drawn.proto.label for drawn in open_compare().get("download_button")] == [
        "Report, one HTML file",
        "The 9 passages shown, CSV",
        "The 9 passages shown, parquet",
        "120 samples of Dense, in the format of lm-evaluation-harness",
        "120 samples of Sparse, 30 %, in the format of lm-evaluation-harness",
        "CSV",
    ]


def test_the_example_is_compared_and_marked_and_what_needs_its_models_says_why_not(
    open_compare, finished, example
):
    app = open_compare(run=EXAMPLE)
    text = words(app)
    assert (
        text.startswith("Example, not computed here.") and "30 % against dense" in text
    )
    assert (
        specimens.passages().contexts[0][:40] in text
        and "run it here to try a prompt." in text
    )
    assert not {"Continue with both models", "Show where the two differ"} & {
        widget.label for widget in app.button
    }
    assert "Blind" not in [toggle.label for toggle in app.toggle]
    offered = app.selectbox(key="chosen-run").options
    assert [option for option in offered if option.startswith("Example:")] == offered[
        -1:
    ]
    page = open_compare()
    assert "Example" not in words(page) + str([box.options for box in page.selectbox])


def test_groups_of_passages_are_computed_when_they_are_opened_and_need_the_texts(
    open_compare, finished
):
    text = "groups, two intervals each"
    assert text not in words(open_compare())
    app = open_compare(groups="true")
    assert "30 % against dense, paired. " in words(app) and text in words(app)
    finished.drop(Passages, "passages")
    assert text not in words(app.run())
