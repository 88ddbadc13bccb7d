"""The overview in its empty, running, failed and done state."""

import json
import re
from dataclasses import replace

import pytest

from sparsedash.catalog.choices import EXAMPLE
from sparsedash.catalog.presets import method_named
from sparsedash.jobs.job import Taken
from sparsedash.schema.pair_records import ContinuationSettings
from sparsedash.schema.settings import CalibrationSettings, RunSettings
from sparsedash.service.preflight import Duration
from tests.factories import STOPPED
from tests.ui import specimens
from tests.ui.conftest import FAILED, button, links, markup, query_of, words
from tests.ui.fake_backend import job

SETTINGS = specimens.SETTINGS


def test_a_newcomer_finds_one_button(open_page):
    app = open_page("overview")
    assert "Nothing has run here yet." in words(app)
    assert [b.label for b in app.button] == ["Try the built-in model"]


def test_the_button_submits_the_default_run_and_shows_its_progress_there(open_page, backend):
    app = open_page("overview")
    button(app, "Try the built-in model").click().run()
    written = CalibrationSettings(corpus="builtin:smollm2-text", n_samples=64)
    assert backend.submitted == [RunSettings(sparsities_permille=(100, 200), calibration=written)]
    assert app.query_params["run"] == backend.submitted[0].key()
    assert "Waiting SmolLM2 135M (built in) at 10, 20 %" in words(app)


def test_the_button_says_how_long_it_takes(open_page, backend):
    said = words(open_page("overview"))
    assert "It takes about 4 min, by what ran here before" in said
    unknown = Duration(seconds=9.0, unknown=("pruning",))
    backend.before = replace(backend.before, duration=unknown)
    assert "How long it will take is being measured." in words(open_page("overview"))
    backend.before = replace(backend.before, duration=Duration(seconds=130.0, counted=("pruning",)))
    assert "It takes about 2 min, by a measurement of this machine" in words(open_page("overview"))


def test_the_empty_overview_leads_to_the_example(open_page, example):
    app = open_page("overview")
    assert "Nothing has run here yet." in words(app)
    assert query_of(links(app)["Look at an example"]) == {"run": EXAMPLE}


def test_the_example_is_marked_and_is_in_the_list_only_while_it_is_shown(open_page, backend, example):
    said = words(open_page("overview", run=EXAMPLE))
    assert said.startswith("Example: this run ships with SparseDash; nothing of it was computed here. ")
    assert "on another machine (a mainframe)" in said
    assert "Example · SmolLM2 135M (built in) at 10, 20, 30 % · shown above" in said
    backend.add_run(specimens.run())
    assert "Example" not in words(open_page("overview"))
    assert words(open_page("overview", run=EXAMPLE)).count("Example · ") == 1


def test_the_page_says_of_a_quantised_source_that_its_original_weights_were_not_pruned(open_page, backend):
    run, records = specimens.run()
    backend.add_run((replace(run, source_type="Q4_1"), records))
    said = words(open_page("overview"))
    assert f"{run.settings.dtype}, unpacked from Q4_1" in said
    assert "What pruning costs the original weights is another number, which is not measured here." in said


def test_the_example_is_neither_timed_nor_written_into_files(open_page, example):
    timed, files = open_page("overview", run=EXAMPLE, against="reading"), open_page("models", run=EXAMPLE)
    assert "The models of the example cannot be timed here" in words(timed)
    assert "No model of the example can be made again here" in words(files)
    pressed = {button.label for app in (timed, files) for button in app.button}
    assert not any("Measure speed" in label or "Write the files" in label for label in pressed)


def test_a_refresh_finds_the_running_job_by_the_address(open_page, backend):
    backend.stored_jobs = [job(SETTINGS)]
    said = words(open_page("overview", run=SETTINGS.key()))
    assert "Evaluating · 20 % sparse" in said
    assert "1,234 of 2,880 tokens · 412 tokens a second" in said
    assert "Part 1 of 5 · time left not known: pruning has not been measured here yet" in said


TAKEN = (
    Taken("start", None, 8.0),
    Taken("load", None, 2.0),
    *(Taken(stage, point, took) for point in (0, 1) for stage, took in (("prune", 5.0), ("evaluate", 15.0))),
    Taken("prune", 2, 5.0),
    Taken("evaluate", 2, 5.0),
)


def test_progress_is_a_progress_bar_to_assistive_technology(open_page, backend):
    backend.stored_jobs = [job(SETTINGS)]
    backend.expected = {"load": 2.0, "text": 0.0, "calibrate": 0.0, "prune": 4.0, "evaluate": 10.0}
    backend.stored_jobs = [job(SETTINGS, point=2, rate=None, taken=TAKEN)]
    drawn = markup(open_page("overview"))
    assert 'role="progressbar"' in drawn
    # 60 s are over. Of the last model's answers, by the two before it, 10 s are left.
    assert 'aria-valuenow="86"' in drawn
    assert 'aria-valuetext="86\u00a0% of the run · about 10\u00a0s left"' in drawn


def test_a_run_that_failed_says_why_and_what_to_do(open_page, backend):
    backend.stored_jobs = [job(SETTINGS, "failed", **FAILED)]
    app = open_page("overview")
    assert "The model cannot be reached. Name a local folder." in words(app)
    button(app, "Try again").click().run()
    assert backend.retried == [1]


def test_where_all_results_were_deleted_the_page_is_as_at_first(open_page, backend):
    backend.stored_jobs = [job(SETTINGS, "done")]
    assert "Nothing has run here yet." in words(open_page("overview"))
    assert words(open_page("overview", run=SETTINGS.key())).startswith(
        "This run has no results any more: its own record is no longer stored."
    )


def test_a_finished_run_shows_three_numbers_a_chart_and_a_table(open_page, finished):
    app = open_page("overview")
    assert markup(app).count('class="sd-figure"') == 3
    chart = app.get("plotly_chart")[0].proto
    assert chart.alt.startswith("Word perplexity over 120 passages")
    assert "<table" in markup(app)
    assert "Removing 10 %, 20 % and 30 % of the MLP is too close to call on 120 passages." in words(app)
    assert "Next: test on more passages. About " in words(app)
    assert "10 % is undecided: about" not in words(app)
    asked = query_of(links(app)["Test on more passages"])
    assert asked["sparsity"] == "10, 20, 30" and asked["text"] in ("builtin:cloze-402", "lambada_openai")


def test_every_sparse_model_in_the_table_is_a_link_to_its_comparison(open_page, finished):
    drawn = markup(open_page("overview"))
    for name, address in (("10 %", "10+%25"), ("20 %", "20+%25"), ("30 %", "30+%25")):
        link = f'href="compare?run={SETTINGS.key()}&amp;right={address}" aria-label="{name} beside dense">{name}</a>'
        assert link in drawn
    assert drawn.count("<a ") == 3


def test_the_table_says_once_in_its_head_what_its_cells_count(open_page, finished):
    said = words(open_page("overview"))
    assert "Right of 120 Accuracy 95 % interval" in said
    assert "Word perplexity Times dense Interval Verdict" in said
    level = r"\([\d.]+ %\)"
    cells = rf"[\d.]+ [\d.]+ × [\d.]+ to [\d.]+ × {level} \? undecided"
    assert len(re.findall(rf"[−+][\d.]+ to [−+][\d.]+ {level} \S+ \d+ \d+ {cells}", said)) == 3
    assert "of 120" not in said.split("Verdict dense 0 0")[1].split("A click")[0]


def test_a_model_that_answered_fewer_passages_says_how_many(open_page, backend):
    run, (dense, *rest, last) = specimens.run()
    stopped = replace(STOPPED, decision="open", p_value=0.5, interval=(-0.3, 0.1))
    few = replace(last, outcomes=last.outcomes[:40], stopping=stopped)
    backend.add_run((run, [dense, *rest, few]))
    assert " of 40 " in words(open_page("overview")).split("Times dense")[1]


def test_results_are_shown_while_the_rest_still_runs(open_page, backend):
    backend.add_run(specimens.run(finished=False, n_sparse=1))
    backend.stored_jobs = [job(SETTINGS)]
    app = open_page("overview")
    assert "So far: removing 10 % of the MLP is too close to call on 120 passages." in words(app)
    assert "Evaluating" in words(app)
    assert app.get("plotly_chart")


def test_the_dense_model_alone_is_shown_too_and_leads_to_no_comparison(open_page, backend):
    backend.add_run(specimens.run(finished=False, n_sparse=0))
    backend.stored_jobs = [job(SETTINGS)]
    app = open_page("overview")
    assert "The dense model has answered" in words(app)
    assert "Compare the answers passage by passage" not in links(app)


OTHER = replace(SETTINGS, sparsities_permille=(400,))


def test_a_run_that_is_not_shown_is_mentioned_while_it_lives(open_page, finished):
    finished.stored_jobs = [job(OTHER, point=0)]
    app = open_page("overview")
    link = links(app)["Another run is under way: SmolLM2 135M (built in) at 40 %"]
    assert query_of(link) == {"run": OTHER.key()}
    assert "Evaluating · sparse model 1 of 1: least-squares, 40 % removed" in words(app)
    finished.stored_jobs = [job(OTHER, "done")]
    app.run()
    assert not any("Another run" in name for name in links(app))


def test_a_run_that_waits_is_mentioned_as_one(open_page, finished):
    finished.stored_jobs = [job(OTHER, "queued")]
    assert "Another run waits: SmolLM2 135M (built in) at 40 %" in links(open_page("overview"))


def test_many_other_runs_are_counted(open_page, finished):
    finished.stored_jobs = [job(replace(OTHER, sparsities_permille=(p,)), "queued", id=p) for p in (400, 300, 200, 100)]
    found = links(open_page("overview"))
    assert [name for name in found if "Another run" in name] == ["Another run waits: SmolLM2 135M (built in) at 10 %"]
    assert found["3 more in the list of jobs"].startswith("jobs")


def test_neither_the_run_that_is_shown_nor_a_prompt_is_another_run(open_page, backend):
    run = backend.add_run(specimens.run(finished=False, n_sparse=1))
    prompt = ContinuationSettings(left=run.dense, right=run.sparse[0], prompt="Once")
    backend.stored_jobs = [job(prompt, "queued", id=2), job(SETTINGS)]
    assert not any("Another run" in name for name in links(open_page("overview")))


def test_the_address_chooses_among_runs(open_page, backend):
    other = replace(SETTINGS, methods=(method_named("magnitude"),))
    backend.add_run(specimens.run(other))
    backend.add_run(specimens.run())
    assert "magnitude · needs no calibration text" in words(open_page("overview", run=other.key())).split("Dense")[0]


def test_the_last_runs_are_links(open_page, finished):
    found = links(open_page("overview"))
    assert found["SmolLM2 135M (built in) at 10, 20, 30 %"].endswith(f"run={SETTINGS.key()}")


def test_an_address_of_no_run_says_so(open_page, finished):
    assert "There is no run with this address." in words(open_page("overview", run="gone"))


def test_a_run_whose_sparse_record_was_lost_shows_the_others(open_page, finished):
    del finished.stored_records[finished.stored_runs[0].sparse[0]]
    assert markup(open_page("overview")).count('class="sd-figure"') == 3


def test_several_methods_are_judged_by_the_best_one(open_page, backend):
    methods = (method_named("magnitude"), method_named("least-squares"))
    backend.add_run(specimens.run(replace(SETTINGS, methods=methods)))
    assert "of the MLP with “least-squares” is too close to call" in words(open_page("overview"))


def test_the_measure_of_the_chart_can_be_chosen(open_page, finished):
    app = open_page("overview")
    for measure, said, bands in (
        ("word perplexity", "Word perplexity over 120 passages", {"allowed": "The green band is what may be lost"}),
        ("flips", "Answers of 120 that broke or were fixed", {}),
        ("accuracy", "Change of accuracy over 120", {"allowed": "The green band is what may be lost"}),
        ("share right", "Share of 120 last words right", {"95 % interval of dense": "and the blue band: 95 %"}),
    ):
        app.get("button_group")[0].set_value(measure).run()
        chart = app.get("plotly_chart")[0].proto
        assert chart.alt.startswith(said)
        drawn = {trace["name"] for trace in json.loads(chart.spec)["data"] if trace.get("fill") == "toself"}
        assert drawn == set(bands)
        assert all(explained in words(app) for explained in bands.values())
        assert words(app).count(" band") == len(bands)


def test_the_live_point_stands_in_the_chart_while_its_model_answers(open_page, backend):
    backend.add_run(specimens.run(finished=False, n_sparse=1))
    backend.stored_jobs = [job(SETTINGS, done=60, n_right=21, unit="passages", point=1)]
    app = open_page("overview")
    app.get("button_group")[0].set_value("share right").run()
    figure = json.loads(app.get("plotly_chart")[0].proto.spec)
    (point,) = [trace for trace in figure["data"] if trace["name"] == "live"]
    assert (point["x"], point["y"]) == ([20.0], [35.0])


@pytest.mark.parametrize(("state", "comes"), [("running", True), ("crashed", False)])
def test_a_place_is_kept_only_for_numbers_that_will_come(open_page, backend, state, comes):
    backend.add_run(specimens.run(finished=False, n_sparse=1))
    backend.stored_jobs = [job(SETTINGS, state=state)]
    assert ("when the model has answered" in words(open_page("overview"))) == comes


def test_the_job_says_how_many_are_right_so_far(open_page, backend):
    backend.stored_jobs = [job(SETTINGS, done=60, total=120, n_right=21, unit="passages")]
    assert "60 of 120 passages · 21 right so far" in words(open_page("overview"))


def test_fewer_passages_are_said_to_make_hollow_marks(open_page, backend):
    run, records = specimens.run()
    stopping = replace(STOPPED, n_answered=50, margin=0.01, n_comparisons=3)
    records[-1] = replace(records[-1], outcomes=records[-1].outcomes[:50], stopping=stopping)
    backend.add_run((run, records))
    assert "Hollow marks: fewer passages" in words(open_page("overview"))


def test_a_run_with_sparse_records_leads_to_its_layers(open_page, finished):
    found = links(open_page("overview"))
    asked = {"run": SETTINGS.key(), "record": "10 %"}
    assert query_of(found["See what each layer lost"]) == asked
    asked = {"run": SETTINGS.key(), "right": "10 %"}
    assert query_of(found["Compare the answers passage by passage"]) == asked


def test_the_links_lead_to_the_model_that_the_answer_speaks_of(open_page, backend):
    methods = (*SETTINGS.methods, method_named("magnitude"))
    backend.add_run(specimens.run(replace(SETTINGS, methods=methods)))
    app = open_page("overview")
    assert "of the MLP with “least-squares” is too close to call" in words(app)
    found = query_of(links(app)["Compare the answers passage by passage"])
    assert found["right"] == "least-squares 10 %"


def test_masks_are_not_called_removed_and_do_not_outrun_what_is(open_page, backend):
    masks = method_named("magnitude-2:4")
    settings = replace(SETTINGS, methods=(*SETTINGS.methods, masks))
    run, records = specimens.run(settings)
    dense = [o.last_word_right for o in records[0].outcomes]
    mask = specimens.record(dense, 500, masks)
    backend.add_run((replace(run, sparse=(*run.sparse[:3], mask.key)), [*records[:4], mask]))
    said = words(open_page("overview"))
    assert "of the MLP with “least-squares” is too close to call" in said
    backend.stored_runs.clear()
    alone = replace(SETTINGS, methods=(masks,))
    backend.add_run((replace(run, settings=alone, sparse=(mask.key,)), [records[0], mask]))
    said = words(open_page("overview"))
    assert "Setting 50 % of the decoder's weights to zero" in said
    assert "50 % of the decoder's weights set to zero" in said
    assert "MLP removed or zero" in said


def test_before_any_result_the_run_under_way_is_shown_and_the_others_are_mentioned(open_page, backend):
    later = replace(OTHER, sparsities_permille=(200,))
    backend.stored_jobs = [job(later, "failed", id=3), job(OTHER, "queued", id=2), job(SETTINGS, id=1)]
    app = open_page("overview")
    assert words(app).startswith("The first results are on their way.")
    assert "Running SmolLM2 135M (built in) at 10, 20, 30 %" in words(app)
    assert "Another run waits: SmolLM2 135M (built in) at 40 %" in links(app)


def test_what_may_be_lost_is_chosen_judges_the_run_and_goes_along_to_the_answers(open_page, finished):
    app = open_page("overview")
    app.number_input(key="chosen-within").set_value(5.0).run()
    app.number_input(key="chosen-points").set_value(50.0).run()
    assert "Removing 30 % of the MLP stays within the limits" in words(app)
    asked = query_of(links(app)["Compare the answers passage by passage"])
    assert (asked["within"], asked["points"]) == ("5", "50")
