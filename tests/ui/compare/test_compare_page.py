"""Two models side by side: the verdict, the kinds, the steps, the answers, and what both write."""

from dataclasses import replace

import pytest

from sparsedash.catalog.choices import EXAMPLE
from sparsedash.catalog.presets import method_named
from sparsedash.schema.pair_records import Continuation, ContinuationSettings
from tests.ui import specimens
from tests.ui.conftest import FAILED, button, links, markup, query_of, shows_as_text, words
from tests.ui.fake_backend import job

SETTINGS = specimens.SETTINGS
MARK = "sd-unseen sd-choices-open"
"""What the style sheet looks for, to show what is behind the button."""


def _kinds(app):
    return [button for button in app.button if button.key.startswith("flip-")]


def test_without_runs_the_page_invites(open_page):
    assert "Nothing to compare yet." in words(open_page("compare"))


@pytest.mark.parametrize("address", [{}, {"run": SETTINGS.key()}])
def test_while_the_first_models_answer_the_page_shows_their_job(address, open_page, backend):
    backend.stored_jobs = [job(SETTINGS)]
    app = open_page("compare", **address)
    said = words(app)
    assert said.startswith("The comparison is on its way.")
    assert "It comes as soon as the dense model and a sparse one have answered." in said
    assert "Running SmolLM2 135M (built in) at 10, 20, 30 %" in said
    assert query_of(links(app)["See this run"]) == {"run": SETTINGS.key()}
    backend.add_run(specimens.run(finished=False, n_sparse=1))
    app.run()
    assert "10 % against dense" in words(app)


def test_while_the_dense_answers_are_made_again_the_page_waits_and_does_not_ask_without_pause(open_page, finished):
    run = finished.stored_runs[0]
    del finished.stored_records[run.dense]
    finished.stored_jobs = [job(SETTINGS)]
    assert words(open_page("compare")).startswith("The comparison is on its way.")


def test_a_job_that_ended_without_answers_leaves_nothing_to_compare(open_page, backend):
    backend.stored_jobs = [job(SETTINGS, "failed", **FAILED)]
    assert words(open_page("compare")).startswith("Nothing to compare yet.")
    asked = words(open_page("compare", run=SETTINGS.key()))
    assert asked.startswith("This run has no answers to compare.")
    assert FAILED["error_text"] in asked


def test_a_run_of_another_address_is_mentioned_where_there_is_nothing_to_compare(open_page, backend):
    backend.stored_jobs = [job(SETTINGS)]
    app = open_page("compare", run="gone")
    assert words(app).startswith("There is no run with this address.")
    assert "Another run is under way: SmolLM2 135M (built in) at 10, 20, 30 %" in links(app)


def test_runs_without_a_sparse_answer_are_seen_and_not_started(open_page, backend):
    backend.add_run(specimens.run(n_sparse=0))
    assert "See the runs" in links(open_page("compare"))


def test_the_verdict_comes_first(open_page, finished):
    said = words(open_page("compare"))
    opening = "30 % is too close to call on 120 passages. Word perplexity "
    assert said.startswith(opening)
    assert "accuracy −5.8 points (" in said.split("Passage ")[0]
    rests_on = said.split("What the verdict rests on")[1]
    assert "9 answers broke, 2 were fixed. The limits are 1.1 × word perplexity and 2 points of accuracy. " in rests_on


def test_one_of_several_comparisons_is_judged_among_them_as_well(open_page, backend):
    # Six that broke: p = 0.031 by itself, and three times that among three.
    run, records = specimens.run()
    outcomes, left = list(records[0].outcomes), 6
    for i, outcome in enumerate(outcomes):
        if outcome.last_word_right and left:
            outcomes[i], left = replace(outcome, last_word_right=False), left - 1
    broken = replace(records[3], outcomes=tuple(outcomes))
    backend.add_run((run, [*records[:3], broken]))
    said = words(open_page("compare", right="30 %"))
    # Of six losses that are judged, this one is not decided by what accuracy shows: 95 % of it alone would be beyond.
    assert "6 answers broke, 0 were fixed. " in said and "accuracy −5.0 points (" in said
    assert said.startswith("30 % stays within the limits")
    assert "Accuracy alone is undecided" in said


def test_the_first_broken_passage_is_shown_with_both_answers(open_page, finished):
    said = words(open_page("compare", sort="file order"))
    assert "Passage 14" in said
    assert "went to fetch the harbour" in said
    assert "Dense harbour ✓ right “harbour” gets 66.1 %, rank 1" in said
    assert "Sparse, 30 % violin ✕ wrong" in said


def test_the_first_choices_of_both_are_one_table_and_the_change_is_said_as_a_factor(open_page, finished):
    app = open_page("compare", sort="file order")
    assert markup(app).count('class="sd-top"') == 1
    said = words(app)
    assert "Next token Dense Sparse, 30 % ␣harbour ✓ 66.1 %" in said
    assert " times less likely. Its log-probability fell by " in said


def test_the_kinds_carry_counts_that_add_up_to_all(open_page, finished):
    found = [b.label for b in _kinds(open_page("compare"))]
    assert found == ["All · 120", "Both right · 27", "Broke · 9", "Fixed · 2", "Both wrong · 82"]
    assert 27 + 9 + 2 + 82 == 120


def test_within_a_kind_a_switch_leaves_those_answered_with_other_words(open_page, finished):
    app = open_page("compare", filter="both-wrong")
    switch = app.toggle(key="words")
    n = int(switch.label.removeprefix("Only different words · "))
    assert 0 < n < 82
    switch.set_value(True).run()
    assert f"1 of {n}" in words(app)
    assert [b.label for b in _kinds(app)][4] == "Both wrong · 82"
    assert f"1 of {n}" in words(open_page("compare", filter="both-wrong", words="true"))
    button(app, "Both right").click().run()
    assert "No passage is of this kind" in words(app)


def test_what_both_got_right_was_said_in_the_same_words(open_page, finished):
    app = open_page("compare", filter="both-right")
    assert app.toggle(key="words").label == "Only different words · 0"


def test_a_kind_is_chosen_by_its_button_and_kept_in_the_address(open_page, finished):
    app = open_page("compare")
    button(app, "Fixed").click().run()
    assert app.query_params["filter"] == "mended"
    assert "1 of 2" in words(app)


def test_passages_are_stepped_through(open_page, finished):
    app = open_page("compare")
    assert button(app, "Previous").disabled
    button(app, "Next").click().run()
    assert "2 of 9" in words(app)
    button(app, "Previous").click().run()
    assert "1 of 9" in words(app)


def test_a_passage_is_reached_by_its_address(open_page, finished):
    assert "Passage 41" in words(open_page("compare", filter="mended", passage="40"))


def test_an_address_of_no_passage_shows_the_first(open_page, finished):
    assert "1 of 9" in words(open_page("compare", passage="9999", filter="broke"))


def test_two_records_are_chosen_by_the_address(open_page, finished):
    said = words(open_page("compare", left="10 %", right="20 %"))
    assert "20 % against 10 %" in said


@pytest.mark.parametrize(("side", "shown"), [("left", "dense"), ("right", "30 %")])
def test_an_address_of_no_model_says_so_and_what_is_shown_instead(side, shown, open_page, finished):
    said = words(open_page("compare", **{side: "<b>nonsense" + "x" * 1000}))
    assert "asks for “<b>nonsense" in said and f"Shown instead is {shown}." in said
    assert "x" * 100 not in said
    assert "no such model" not in words(open_page("compare", left="10 %", right="dense"))


def test_a_record_against_itself_changes_nothing(open_page, finished):
    app = open_page("compare", right="dense")
    assert "No answer broke and none was fixed." in words(app)
    # Nothing broke, nothing was mended: the first kind that has passages is shown.
    assert button(app, "Both wrong").icon == ":material/check:"


def test_what_is_open_says_how_many_passages_would_decide_it(open_page, finished):
    said = words(open_page("compare"))
    assert "About" in said and "passages would settle it" in said


def test_the_tolerance_is_the_one_of_the_address_and_nonsense_there_is_the_usual_one(open_page, finished):
    said = words(open_page("compare", within="5", points="50"))
    assert said.startswith("30 % stays within the limits.")
    assert "The limits are 5 × word perplexity and 50 points" in said
    assert "1.1 × word perplexity and 2 points" in words(open_page("compare", within="evil", points="-3"))


def test_passages_begin_with_the_largest_fall(open_page, finished):
    app = open_page("compare")
    falls = []
    for _ in range(9):
        falls.append(float(words(app).split("log-probability fell by ")[1].split()[0][:-1]))
        if not button(app, "Next").disabled:
            button(app, "Next").click().run()
    assert falls == sorted(falls, reverse=True)


def test_a_search_narrows_every_kind_and_stands_in_the_address(open_page, finished):
    app = open_page("compare", search="HARBOUR", filter="both-wrong")
    found = {b.label.split(" · ")[0]: int(b.label.split(" · ")[1]) for b in _kinds(app)[1:]}
    assert 0 < sum(found.values()) < 120
    app.text_input(key="search").set_value("no such words").run()
    assert "No passage is of this kind. Choose another kind, or clear the search." in words(app)


def test_a_search_looks_into_the_context_too(open_page, finished):
    app = open_page("compare", search="behind the stove")
    assert _kinds(app)[2].label == "Broke · 9"


def test_the_keys_stand_on_their_buttons(open_page, finished):
    shortcuts = {b.label: b.proto.shortcut for b in open_page("compare").button}
    assert shortcuts["Next"].casefold() == "j"
    assert shortcuts["Previous"].casefold() == "k"
    assert shortcuts["Change kind"].casefold() == "f"


def test_f_goes_to_the_next_kind_that_has_passages(open_page, finished):
    app = open_page("compare")
    button(app, "Change kind").click().run()
    assert app.query_params["filter"] == "mended"
    app = open_page("compare", filter="broke", right="dense")
    button(app, "Change kind").click().run()
    assert app.query_params["filter"] == "both-wrong"


def test_of_several_methods_the_best_one_is_opened_and_not_the_last(open_page, backend):
    methods = (method_named("least-squares"), method_named("magnitude"))
    backend.add_run(specimens.run(replace(SETTINGS, methods=methods)))
    assert open_page("compare").selectbox(key="chosen-right").value == "least-squares 30 %"


def test_records_of_other_runs_over_the_same_passages_are_offered(open_page, backend):
    other = replace(SETTINGS, methods=(method_named("magnitude"),))
    backend.add_run(specimens.run(other))
    run = backend.add_run(specimens.run())
    app = open_page("compare", run=run.key)
    offered = app.selectbox(key="chosen-right").options
    assert offered[:4] == ["dense", "10 %", "20 %", "30 %"]
    assert any(name.startswith("30 % · ") and "magnitude" in name for name in offered)
    theirs = backend.stored_runs[1].sparse[-1]
    app.selectbox(key="chosen-right").set_value(theirs[:16]).run()
    assert not app.exception
    assert "magnitude" in words(app).split("against")[0]
    again = open_page("compare", run=run.key, right=theirs[:16], left="30 %")
    assert "against 30 %" in words(again)


def test_records_over_other_passages_are_not_offered(open_page, backend):
    evaluation = replace(SETTINGS.evaluation, n_passages=60)
    backend.add_run(specimens.run(replace(SETTINGS, evaluation=evaluation)))
    run = backend.add_run(specimens.run())
    assert len(open_page("compare", run=run.key).selectbox(key="chosen-left").options) == 4


def test_a_record_that_is_lost_is_said_to_be_lost(open_page, finished):
    del finished.stored_records[finished.stored_runs[0].sparse[-1]]
    assert "These two cannot be compared." in words(open_page("compare"))


def test_a_target_of_several_tokens_is_shown_token_by_token(open_page, finished):
    for key, record in list(finished.stored_records.items()):
        cut = tuple(
            replace(o, tokens=(replace(o.tokens[0], text=" har"), replace(o.tokens[0], text="bour")))
            for o in record.outcomes
        )
        finished.stored_records[key] = replace(record, outcomes=cut)
    said = words(open_page("compare"))
    assert "The right word token by token, each given those before it Token Dense Sparse, 30 % ␣har" in said


def test_files_are_made_only_when_they_are_asked_for(open_page, finished, monkeypatch):
    def refuse(*_):
        raise AssertionError("made before it was asked for")

    for name in ("view_csv", "view_parquet", "harness_samples", "html_report"):
        monkeypatch.setattr(f"sparsedash.ui.compare_open.{name}", refuse)
    app = open_page("compare")
    assert [b.proto.label for b in app.get("download_button")] == [
        "Report, one HTML file",
        "These 9 passages, CSV",
        "These 9 passages, parquet",
        "All samples of Dense, as lm-evaluation-harness writes them",
        "All samples of Sparse, 30 %, as lm-evaluation-harness writes them",
        "CSV",
    ]


@pytest.mark.parametrize("prompt", ["Once upon a time", "<b>**x**</b> \u202eabc =1+1 nul\x00 👩‍🚀"])
def test_a_prompt_of_ones_own_is_continued_and_stays_in_the_list(prompt, open_page, finished):
    app = open_page("compare")
    app.text_area(key="own-prompt").set_value(prompt)
    button(app, "Continue this prompt").click().run()
    (asked,) = finished.submitted
    assert asked.prompt == prompt
    assert "Waiting" in words(app)
    finished.stored_continuations[asked.key()] = Continuation(
        key=asked.key(), prompt=prompt, left=" <i>one</i>", right=" two"
    )
    app.run()
    assert "Dense <i>one</i> Sparse, 30 % ❘ two Sparse, 10 % … Sparse, 20 % …" in words(app)
    shows_as_text(markup(app))
    app.text_area(key="own-prompt").set_value("Another one")
    button(app, "Continue this prompt").click().run()
    said = words(app)
    assert said.index("Another one") < said.index("Dense <i>one</i> Sparse, 30 % ❘ two")


@pytest.mark.parametrize("prompt", ["", "   ", "w" * 100_001])
def test_a_prompt_that_cannot_be_continued_is_refused_in_words(prompt, open_page, finished):
    app = open_page("compare")
    app.text_area(key="own-prompt").set_value(prompt)
    button(app, "Continue this prompt").click().run()
    assert finished.submitted == []
    assert "1 to 100,000 characters" in app.toast[0].value


def test_texts_that_are_gone_are_said_to_be_gone(open_page, finished):
    finished.stored_passages.clear()
    assert "no longer stored" in words(open_page("compare"))


def test_both_models_continue_a_passage_on_request(open_page, finished):
    app = open_page("compare")
    button(app, "Continue with both models").click().run()
    (asked,) = finished.submitted
    run = finished.stored_runs[0]
    assert (asked.left, asked.right) == (run.dense, run.sparse[-1])
    assert asked.prompt.endswith("went to fetch the")
    assert "Waiting" in words(app)
    finished.stored_continuations[asked.key()] = Continuation(
        key=asked.key(), prompt=asked.prompt, left=" letter.", right=" door."
    )
    app.run()
    assert "Continued by both models Dense ❘ letter. Sparse, 30 % ❘ door." in words(app)
    assert "Both wrote the same words up to the mark ❘." in words(app)
    assert "<del>" not in markup(app)


def test_a_continuation_that_failed_can_be_tried_again(open_page, finished):
    run = finished.stored_runs[0]
    context = finished.stored_passages["passages"].contexts[13]
    asked = ContinuationSettings(left=run.dense, right=run.sparse[-1], prompt=context)
    finished.stored_jobs = [job(asked, "failed", **FAILED)]
    app = open_page("compare")
    assert "The model cannot be reached." in words(app)
    assert button(app, "Try again")


def test_the_example_is_compared_and_marked_and_what_needs_its_models_says_why_not(open_page, example):
    app = open_page("compare", run=EXAMPLE)
    said = words(app)
    assert "Example: this run ships with SparseDash" in said
    assert "30 % against dense" in said
    assert specimens.passages().contexts[0][:40] in said
    assert "Run it here, and both models write for you." in said
    assert not {"Continue with both models", "Show where the two differ"} & {b.label for b in app.button}
    assert "Blind" not in [toggle.label for toggle in app.toggle]
    (offered,) = (box.options for box in app.selectbox if box.label == "Run")
    assert [option.partition(":")[0] for option in offered] == ["Example"]


def test_a_run_of_ones_own_is_offered_no_record_of_the_example(open_page, finished, example):
    app = open_page("compare")
    assert "Example" not in words(app)
    assert not any("Example" in option for box in app.selectbox for option in box.options)


def test_what_can_be_chosen_is_behind_one_button_on_a_phone(open_page, finished):
    app = open_page("compare")
    assert MARK not in markup(app)
    button(app, "Choose").click().run()
    assert MARK in markup(app)
    button(app, "Close").click().run()
    assert MARK not in markup(app)


def test_groups_of_passages_are_worked_out_when_they_are_opened(open_page, finished):
    app = open_page("compare")
    assert "groups, with two intervals each" not in words(app)
    opened = words(open_page("compare", groups="true"))
    assert "30 % against dense, paired. " in opened and " groups, with two intervals each" in opened
    assert "Length of the right word" in opened and "Where it was named last" in opened


def test_groups_need_the_texts_and_are_no_part_of_blind_judging(open_page, finished):
    assert "groups, with two intervals each" not in words(open_page("compare", groups="true", mode="blind"))
    finished.stored_passages.clear()
    assert "groups, with two intervals each" not in words(open_page("compare", groups="true"))
