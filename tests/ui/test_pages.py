"""Every page in its empty, running, failed and done state."""

from dataclasses import replace

import pytest
from streamlit.testing.v1 import AppTest

from sparsedash.catalog import method_named
from sparsedash.errors import StoreError
from sparsedash.preflight import Preflight
from sparsedash.records import Continuation
from sparsedash.settings import ContinuationSettings, RunSettings
from sparsedash.ui import frame
from tests.ui import specimens
from tests.ui.conftest import APP, links, markup, words
from tests.ui.fake_backend import job

SETTINGS = specimens.SETTINGS
PAGES = ("overview", "prune", "jobs", "compare", "published")
FAILED = {"error_text": "The model cannot be reached.", "error_advice": "Name a local folder."}


def button(app: AppTest, label: str):
    return next(b for b in app.button if b.label.split(" · ")[0] == label)


@pytest.mark.parametrize("name", PAGES)
def test_every_page_opens_with_one_sentence_as_its_heading(name, open_page, finished):
    assert markup(open_page(name)).count("<h1") == 1


@pytest.mark.parametrize("name", PAGES)
def test_a_data_folder_that_cannot_be_used_is_said_in_words(name, monkeypatch):
    def refuse():
        raise StoreError("The data folder /x cannot be used.", "Name another one.")

    monkeypatch.setattr(frame, "backend", refuse)
    app = AppTest.from_file(str(APP), default_timeout=30).run()
    app.switch_page(f"pages/{name}.py").run()
    assert not app.exception
    assert "The data folder /x cannot be used. Name another one." in words(app)


class TestOverview:
    def test_a_newcomer_finds_one_button(self, open_page):
        app = open_page("overview")
        assert "Nothing has run here yet." in words(app)
        assert [b.label for b in app.button] == ["Try the built-in model"]

    def test_the_button_submits_the_default_run_and_shows_its_progress_there(
        self, open_page, backend
    ):
        app = open_page("overview")
        button(app, "Try the built-in model").click().run()
        assert backend.submitted == [RunSettings(sparsities_permille=(100, 200, 300))]
        assert app.query_params["run"] == backend.submitted[0].key()
        assert "Waiting SmolLM2 135M (built in) at 10, 20, 30 %" in words(app)

    def test_a_refresh_finds_the_running_job_by_the_address(self, open_page, backend):
        backend.stored_jobs = [job(SETTINGS)]
        said = words(open_page("overview", run=SETTINGS.key()))
        assert "Evaluating · 20 % sparse" in said
        assert "1,234 of 2,880 tokens · 412 tokens a second · 4 s left in this stage" in said

    def test_progress_is_a_progress_bar_to_assistive_technology(self, open_page, backend):
        backend.stored_jobs = [job(SETTINGS)]
        drawn = markup(open_page("overview"))
        assert 'role="progressbar"' in drawn
        assert 'aria-valuenow="43"' in drawn

    def test_a_run_that_failed_says_why_and_what_to_do(self, open_page, backend):
        backend.stored_jobs = [job(SETTINGS, "failed", **FAILED)]
        app = open_page("overview")
        assert "The model cannot be reached. Name a local folder." in words(app)
        button(app, "Try again").click().run()
        assert backend.retried == [1]

    def test_a_finished_run_shows_three_numbers_a_chart_and_a_table(self, open_page, finished):
        app = open_page("overview")
        assert markup(app).count('class="sd-figure"') == 3
        chart = app.get("plotly_chart")[0].proto
        assert chart.alt.startswith("Share of 120 last words right")
        assert "<table" in markup(app)
        assert (
            "Removing 20 % of the MLP shows no difference on 120 passages; 30 % is borderline"
            in words(app)
        )

    def test_results_are_shown_while_the_rest_still_runs(self, open_page, backend):
        backend.add_run(specimens.run(finished=False, n_sparse=1))
        backend.stored_jobs = [job(SETTINGS)]
        app = open_page("overview")
        assert "So far: removing 10 % of the MLP" in words(app)
        assert "Evaluating" in words(app)
        assert app.get("plotly_chart")

    def test_the_dense_model_alone_is_shown_too(self, open_page, backend):
        backend.add_run(specimens.run(finished=False, n_sparse=0))
        backend.stored_jobs = [job(SETTINGS)]
        assert "The dense model has answered" in words(open_page("overview"))

    def test_the_address_chooses_among_runs(self, open_page, backend):
        other = replace(SETTINGS, methods=(method_named("magnitude"),))
        backend.add_run(specimens.run(other))
        backend.add_run(specimens.run())
        assert (
            "magnitude · calibration"
            in words(open_page("overview", run=other.key())).split("Dense")[0]
        )

    def test_the_last_runs_are_links(self, open_page, finished):
        found = links(open_page("overview"))
        assert found["SmolLM2 135M (built in) at 10, 20, 30 %"].endswith(f"run={SETTINGS.key()}")

    def test_an_address_of_no_run_says_so(self, open_page, finished):
        assert "There is no run with this address." in words(open_page("overview", run="gone"))

    def test_a_run_whose_sparse_record_was_lost_shows_the_others(self, open_page, finished):
        del finished.stored_records[finished.stored_runs[0].sparse[0]]
        assert markup(open_page("overview")).count('class="sd-figure"') == 3

    def test_several_methods_are_judged_by_the_best_one(self, open_page, backend):
        methods = (method_named("magnitude"), method_named("least-squares"))
        backend.add_run(specimens.run(replace(SETTINGS, methods=methods)))
        assert words(open_page("overview")).startswith("With least-squares, removing")


class TestPrune:
    def test_the_form_begins_with_the_default_run(self, open_page, backend):
        app = open_page("prune")
        button(app, "Start").click().run()
        assert backend.submitted == [SETTINGS]
        assert app.query_params["job"] == "1"
        assert "Waiting" in words(app)

    def test_settings_come_from_the_address(self, open_page, backend):
        app = open_page(
            "prune", model="facebook/opt-1.3b", sparsity="5, 12.5", text="lambada_openai", calibration="wikitext-2",
            samples="64", length="128", seed="3", passages="200", shuffle="7", dtype="bfloat16", width="64",
        )  # fmt: skip
        button(app, "Start").click().run()
        (asked,) = backend.submitted
        assert (asked.model, asked.dtype, asked.sparsities_permille) == (
            "facebook/opt-1.3b",
            "bfloat16",
            (50, 125),
        )
        assert (asked.evaluation.corpus, asked.evaluation.n_passages, asked.evaluation.shuffle_seed) == (
            "lambada_openai", 200, 7,
        )  # fmt: skip
        calibration = asked.calibration
        assert (calibration.corpus, calibration.n_samples, calibration.length, calibration.seed) == (
            "wikitext-2", 64, 128, 3,
        )  # fmt: skip
        assert asked.methods[0].width_multiple == 64

    def test_any_model_reference_can_be_typed(self, open_page, backend):
        open_page("prune", model="/models/my llama")
        assert backend.asked_about[-1].model == "/models/my llama"

    def test_several_methods_make_one_run(self, open_page, backend):
        app = open_page("prune")
        app.get("button_group")[0].set_value(["least-squares", "random"]).run()
        button(app, "Start").click().run()
        assert backend.submitted[0].methods == (
            method_named("least-squares"),
            method_named("random"),
        )

    @pytest.mark.parametrize(
        ("sparsity", "complaint"),
        [
            ("abc", "sparsity: 'abc' is not possible; allowed: 0 to 90 percent"),
            ("10, 10", "each one once"),
            ("95", "0 to 90 percent"),
            ("12.55", "in tenths at the finest"),
        ],
    )
    def test_a_wrong_sparsity_is_refused_under_its_field(
        self, sparsity, complaint, open_page, backend
    ):
        app = open_page("prune", sparsity=sparsity)
        assert complaint in words(app)
        assert ".st-key-sparsity" in markup(app)
        assert button(app, "Start").disabled

    def test_what_would_fail_at_once_is_said_under_its_field(self, open_page, backend):
        problem = "Evaluation text: there is no file /x.jsonl on this machine."
        backend.before = Preflight(seconds=None, memory_bytes=None, problems=(problem,))
        app = open_page("prune")
        assert problem in words(app)
        assert ".st-key-text" in markup(app)
        assert button(app, "Start").disabled

    def test_a_problem_of_no_single_field_stands_at_the_button(self, open_page, backend):
        backend.before = Preflight(seconds=None, memory_bytes=None, problems=("The disk is full.",))
        app = open_page("prune")
        assert "The disk is full." in words(app)
        assert button(app, "Start").disabled

    def test_the_estimate_says_time_memory_and_what_is_stored(self, open_page):
        said = words(open_page("prune"))
        assert "Time about 4 min Memory about 1.2 GB" in said
        assert "Stored already calibration, dense answers, 1 of 3 sparse models" in said

    def test_without_measurements_the_estimate_does_not_guess(self, open_page, backend):
        backend.before = Preflight(seconds=None, memory_bytes=None, problems=())
        assert "Time not known before this model has run once here" in words(open_page("prune"))

    def test_a_stored_run_opens_at_once(self, open_page, backend):
        backend.known = replace(backend.known, sparse=3)
        assert "a moment: everything is stored" in words(open_page("prune"))

    def test_the_job_in_the_address_is_shown_and_can_be_cancelled(self, open_page, backend):
        backend.stored_jobs = [job(SETTINGS)]
        app = open_page("prune", job="1")
        button(app, "Cancel").click().run()
        assert backend.cancelled == [1]

    def test_a_finished_job_leads_to_its_results(self, open_page, backend):
        backend.stored_jobs = [job(SETTINGS, "done")]
        found = links(open_page("prune", job="1"))
        assert found["See what it cost"].endswith(f"run={SETTINGS.key()}")

    @pytest.mark.parametrize("number", ["99", "x"])
    def test_an_address_of_no_job_says_so(self, number, open_page):
        assert f"There is no job {number} here." in words(open_page("prune", job=number))


class TestJobs:
    def test_without_jobs_the_page_invites(self, open_page):
        assert "Nothing has run yet." in words(open_page("jobs"))

    def test_running_waiting_and_ended_jobs_are_told_apart(self, open_page, backend):
        backend.stored_jobs = [
            job(SETTINGS, "queued", id=4, stage="", total=0),
            job(SETTINGS, "queued", id=3, stage="", total=0),
            job(SETTINGS, id=2),
            job(SETTINGS, "crashed", id=1, **FAILED),
        ]
        app = open_page("jobs")
        said = words(app)
        assert said.startswith("1 running, 2 waiting.")
        assert "1 before it." in said
        assert "✕ Crashed" in said
        assert [b.label for b in app.button] == ["Cancel", "Cancel", "Cancel", "Try again"]

    def test_a_job_being_cancelled_says_so_and_cannot_be_cancelled_twice(self, open_page, backend):
        backend.stored_jobs = [job(SETTINGS, cancel_requested_at=1.0)]
        app = open_page("jobs")
        assert "Stopping" in words(app)
        assert button(app, "Cancel").disabled

    def test_a_continuation_is_a_job_like_others(self, open_page, finished):
        run = finished.stored_runs[0]
        asked = ContinuationSettings(left=run.dense, right=run.sparse[0], prompt="Once upon a time")
        finished.stored_jobs = [job(asked, "done")]
        app = open_page("jobs")
        assert "Continuations of a passage" in words(app)
        assert links(app)["Compare passages"].endswith(f"run={run.key}")

    def test_a_job_of_another_version_is_still_listed(self, open_page, backend):
        backend.stored_jobs = [replace(job(SETTINGS, "failed"), settings={"strange": 1})]
        assert "asked for by another version" in words(open_page("jobs"))

    def test_old_jobs_come_when_asked_for(self, open_page, backend):
        backend.stored_jobs = [job(SETTINGS, "done", id=i) for i in range(30, 0, -1)]
        app = open_page("jobs")
        assert words(app).count("✓ Done") == 10
        button(app, "Show all 30").click().run()
        assert words(app).count("✓ Done") == 30


class TestCompare:
    def test_without_runs_the_page_invites(self, open_page):
        assert "Nothing to compare yet." in words(open_page("compare"))

    def test_the_verdict_comes_first(self, open_page, finished):
        said = words(open_page("compare"))
        assert said.startswith(
            "9 answers broke, 2 were mended; a borderline difference: −5.8 points"
        )

    def test_the_first_broken_passage_is_shown_with_both_answers(self, open_page, finished):
        said = words(open_page("compare", sort="file order"))
        assert "Passage 14" in said
        assert "went to fetch the harbour" in said
        assert "Dense harbour ✓ right “harbour” gets 66.1 %, rank 1" in said
        assert "Sparse, 30 % violin ✕ wrong" in said

    def test_the_four_kinds_carry_their_counts(self, open_page, finished):
        found = [b.label for b in open_page("compare").button[:5]]
        assert found[:4] == ["Both right · 27", "Broke · 9", "Mended · 2", "Both wrong · 82"]
        assert found[4].startswith("Same verdict, other answer · ")

    def test_a_kind_is_chosen_by_its_button_and_kept_in_the_address(self, open_page, finished):
        app = open_page("compare")
        button(app, "Mended").click().run()
        assert app.query_params["filter"] == "mended"
        assert "1 of 2" in words(app)

    def test_passages_are_stepped_through(self, open_page, finished):
        app = open_page("compare")
        assert button(app, "Previous").disabled
        button(app, "Next").click().run()
        assert "2 of 9" in words(app)
        button(app, "Previous").click().run()
        assert "1 of 9" in words(app)

    def test_a_passage_is_reached_by_its_address(self, open_page, finished):
        assert "Passage 41" in words(open_page("compare", filter="mended", passage="40"))

    def test_an_address_of_no_passage_shows_the_first(self, open_page, finished):
        assert "1 of 9" in words(open_page("compare", passage="9999", filter="broke"))

    def test_two_records_are_chosen_by_the_address(self, open_page, finished):
        said = words(open_page("compare", left="10 %", right="20 %"))
        assert "20 % against 10 %" in said

    def test_a_record_against_itself_changes_nothing(self, open_page, finished):
        app = open_page("compare", right="dense")
        assert "Every verdict stayed the same" in words(app)
        assert "No passage is of this kind." in words(app)

    def test_the_doubt_says_how_many_passages_would_settle_it(self, open_page, finished):
        said = words(open_page("compare"))
        assert "About 210 passages would be needed to show a difference of this size." in said

    def test_passages_begin_with_the_largest_fall(self, open_page, finished):
        app = open_page("compare")
        falls = []
        for _ in range(9):
            falls.append(float(words(app).split("log-probability fell by ")[1].split()[0][:-1]))
            if not button(app, "Next").disabled:
                button(app, "Next").click().run()
        assert falls == sorted(falls, reverse=True)

    def test_a_search_narrows_every_kind_and_stands_in_the_address(self, open_page, finished):
        app = open_page("compare", search="HARBOUR", filter="both-wrong")
        found = {b.label.split(" · ")[0]: int(b.label.split(" · ")[1]) for b in app.button[:4]}
        assert 0 < sum(found.values()) < 120
        app.text_input(key="search").set_value("no such words").run()
        assert "No passage is of this kind." in words(app)

    def test_a_search_looks_into_the_context_too(self, open_page, finished):
        app = open_page("compare", search="behind the stove")
        assert app.button[1].label == "Broke · 9"

    def test_the_keys_stand_on_their_buttons(self, open_page, finished):
        shortcuts = {b.label: b.proto.shortcut for b in open_page("compare").button}
        assert shortcuts["Next"].casefold() == "j"
        assert shortcuts["Previous"].casefold() == "k"
        assert shortcuts["Change kind"].casefold() == "f"

    def test_f_goes_to_the_next_kind_that_has_passages(self, open_page, finished):
        app = open_page("compare")
        button(app, "Change kind").click().run()
        assert app.query_params["filter"] == "mended"
        app = open_page("compare", filter="broke", right="dense")
        button(app, "Change kind").click().run()
        assert app.query_params["filter"] == "both-wrong"

    def test_records_of_other_runs_over_the_same_passages_are_offered(self, open_page, backend):
        other = replace(SETTINGS, methods=(method_named("magnitude"),))
        backend.add_run(specimens.run(other))
        run = backend.add_run(specimens.run())
        app = open_page("compare", run=run.key)
        offered = app.selectbox(key="chosen-right").options
        assert offered[:4] == ["dense", "10 %", "20 %", "30 %"]
        assert any(name.startswith("30 % · ") and "magnitude" in name for name in offered)
        theirs = backend.stored_runs[1].sparse[-1]
        app.selectbox(key="chosen-right").set_value(theirs).run()
        assert not app.exception
        assert "magnitude" in words(app).split("against")[0]
        again = open_page("compare", run=run.key, right=theirs[:16], left="30 %")
        assert "against 30 %" in words(again)

    def test_records_over_other_passages_are_not_offered(self, open_page, backend):
        evaluation = replace(SETTINGS.evaluation, n_passages=60)
        backend.add_run(specimens.run(replace(SETTINGS, evaluation=evaluation)))
        run = backend.add_run(specimens.run())
        assert len(open_page("compare", run=run.key).selectbox(key="chosen-left").options) == 4

    def test_a_record_that_is_lost_is_said_to_be_lost(self, open_page, finished):
        del finished.stored_records[finished.stored_runs[0].sparse[-1]]
        assert "These two cannot be compared." in words(open_page("compare"))

    def test_a_target_of_several_tokens_is_shown_token_by_token(self, open_page, finished):
        for key, record in list(finished.stored_records.items()):
            cut = tuple(
                replace(
                    o, tokens=(replace(o.tokens[0], text=" har"), replace(o.tokens[0], text="bour"))
                )
                for o in record.outcomes
            )
            finished.stored_records[key] = replace(record, outcomes=cut)
        said = words(open_page("compare"))
        assert (
            "The target token by token, each given those before it Token Dense Sparse, 30 % ␣har"
            in said
        )

    def test_files_are_made_only_when_they_are_asked_for(self, open_page, finished, monkeypatch):
        def refuse(*_):
            raise AssertionError("made before it was asked for")

        for name in ("view_csv", "view_parquet", "harness_samples", "report"):
            monkeypatch.setattr(f"sparsedash.ui.take_away.{name}", refuse)
        app = open_page("compare")
        assert [b.proto.label for b in app.get("download_button")] == [
            "Report, one HTML file", "These 9 passages, CSV", "These 9 passages, parquet",
            "All samples of Dense, as lm-evaluation-harness writes them",
            "All samples of Sparse, 30 %, as lm-evaluation-harness writes them",
        ]  # fmt: skip

    @pytest.mark.parametrize(
        "prompt", ["Once upon a time", "<b>**x**</b> \u202eabc =1+1 nul\x00 👩‍🚀"]
    )
    def test_a_prompt_of_ones_own_is_continued_and_stays_in_the_list(
        self, prompt, open_page, finished
    ):
        app = open_page("compare")
        app.text_area(key="own-prompt").set_value(prompt)
        button(app, "Continue this with both models").click().run()
        (asked,) = finished.submitted
        assert asked.prompt == prompt
        assert "Waiting" in words(app)
        finished.stored_continuations[asked.key()] = Continuation(
            key=asked.key(), prompt=prompt, left=" <i>one</i>", right=" two"
        )
        app.run()
        assert "Dense <i>one</i> Sparse, 30 % two" in words(app)
        shows_as_text(markup(app))
        app.text_area(key="own-prompt").set_value("Another one")
        button(app, "Continue this with both models").click().run()
        said = words(app)
        assert said.index("Another one") < said.index("Dense <i>one</i> Sparse, 30 % two")

    @pytest.mark.parametrize("prompt", ["", "   ", "w" * 100_001])
    def test_a_prompt_that_cannot_be_continued_is_refused_in_words(
        self, prompt, open_page, finished
    ):
        app = open_page("compare")
        app.text_area(key="own-prompt").set_value(prompt)
        button(app, "Continue this with both models").click().run()
        assert finished.submitted == []
        assert "1 to 100,000 characters" in app.toast[0].value

    def test_texts_that_are_gone_are_said_to_be_gone(self, open_page, finished):
        finished.stored_passages.clear()
        assert "no longer stored" in words(open_page("compare"))

    def test_both_models_continue_a_passage_on_request(self, open_page, finished):
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
        assert "Continued by both models Dense letter. Sparse, 30 % door." in words(app)
        assert "<del>letter.</del>" in markup(app)
        assert "<ins>door.</ins>" in markup(app)

    def test_a_continuation_that_failed_can_be_tried_again(self, open_page, finished):
        run = finished.stored_runs[0]
        context = finished.stored_passages["passages"].contexts[13]
        asked = ContinuationSettings(left=run.dense, right=run.sparse[-1], prompt=context)
        finished.stored_jobs = [job(asked, "failed", **FAILED)]
        app = open_page("compare")
        assert "The model cannot be reached." in words(app)
        assert button(app, "Try again")


HOSTILE = (
    "<img src=x onerror=alert(1)>", "**bold** [x](javascript:alert(1))", ":red[x] :material/delete: $x$",
    "abc\u202egnp", "nul\x00byte", "👩‍🚀 \ud83d", "</p></div><style>*{display:none}</style>",
)  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_text_from_models_and_files_is_shown_as_text(text, open_page, backend):
    run, records = specimens.run()
    hostile = tuple(
        replace(
            outcome, target=text, answer=text,
            tokens=tuple(replace(t, text=text) for t in outcome.tokens),
            top=tuple(replace(c, text=text) for c in outcome.top),
        )
        for outcome in records[0].outcomes
    )  # fmt: skip
    backend.add_run((run, [replace(record, outcomes=hostile) for record in records]))
    stored = backend.stored_passages["passages"]
    backend.stored_passages["passages"] = replace(stored, contexts=(text,) * 120)
    drawn = markup(open_page("compare"))
    for tag in ("<img", "<style>*", "javascript:alert(1))<"):
        assert tag not in drawn
    shows_as_text(drawn)


@pytest.mark.parametrize("text", HOSTILE)
def test_text_of_errors_and_messages_is_shown_as_text(text, open_page, backend):
    backend.stored_jobs = [
        job(SETTINGS, message=text, id=2),
        job(SETTINGS, "failed", error_text=text, error_advice=text),
    ]
    drawn = markup(open_page("jobs"))
    assert "<img" not in drawn
    shows_as_text(drawn)


def test_a_model_named_like_markup_is_shown_as_text(open_page, backend):
    run, records = specimens.run()
    settings = replace(SETTINGS, model="<b>**x**</b>")
    backend.add_run((replace(run, settings=settings), records))
    app = open_page("overview")
    assert "<b>**x**</b>" in words(app).replace(" · ", " ")
    assert "b x /b at 10, 20, 30 %" in links(app)


def shows_as_text(drawn: str) -> None:
    """Fails where a character is left that turns the reading direction, ends a string, or cannot be sent."""
    drawn.encode()
    assert not set(drawn) & set("\u202e\x00")
