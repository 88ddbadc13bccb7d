"""The list of jobs: none, live ones, ended ones, and those of other kinds and versions."""

import time
from dataclasses import replace

import pytest

from sparsedash.catalog.presets import method_named
from sparsedash.schema.pair_records import ContinuationSettings
from sparsedash.service.preflight import Forecast
from tests.ui import specimens
from tests.ui.conftest import FAILED, button, links, markup, query_of, words
from tests.ui.fake_backend import job

SETTINGS = specimens.SETTINGS
FORECAST = Forecast(seconds=120.0, parts=(("calibrating", 60.0),), memory_bytes=1_000_000_000, disk_bytes=None)
MOVES = ("To the front", "Up", "Down")


def test_without_jobs_the_page_invites(open_page):
    assert "Nothing has run yet." in words(open_page("jobs"))


def test_running_waiting_and_ended_jobs_are_told_apart(open_page, backend):
    backend.stored_jobs = [
        job(SETTINGS, "queued", id=4, stage="", total=0),
        job(SETTINGS, "queued", id=3, stage="", total=0),
        job(SETTINGS, id=2),
        job(SETTINGS, "crashed", id=1, **FAILED),
    ]
    app = open_page("jobs")
    said = words(app)
    assert said.startswith("1 running, 2 waiting.")
    assert "1 job ahead." in said
    assert "✕ Crashed" in said
    assert [b.label for b in app.button if b.label not in MOVES] == ["Cancel", "Cancel", "Cancel", "Try again"]


def test_a_worker_that_hangs_is_told_of_where_jobs_wait_and_where_one_says_nothing_any_more(open_page, backend):
    backend.trouble = "Worker slot-0 (process 7) has taken no job for 130 s: it hangs."
    backend.stored_jobs = [
        job(SETTINGS, "queued", id=2, stage="", total=0),
        job(SETTINGS, id=1, heartbeat_at=time.time() - 900),
    ]
    said = words(open_page("jobs"))
    assert backend.trouble in said
    assert "no progress for 15 min: it may hang; cancel it and try again" in said


def test_a_job_being_cancelled_says_so_and_cannot_be_cancelled_twice(open_page, backend):
    backend.stored_jobs = [job(SETTINGS, cancel_requested_at=1.0)]
    app = open_page("jobs")
    assert "Stopping" in words(app)
    assert button(app, "Cancel").disabled


@pytest.mark.parametrize("state", ["failed", "crashed", "cancelled", "done"])
def test_a_run_that_ended_leads_to_the_form_with_its_settings(state, open_page, backend):
    asked = replace(SETTINGS, model="facebok/opt-1.3b", methods=(method_named("obs"),))
    backend.stored_jobs = [job(asked, state)]
    found = query_of(links(open_page("jobs"))["Change the settings"])
    assert (found["model"], found["method"]) == ("facebok/opt-1.3b", "obs")


def test_a_run_that_is_not_over_or_that_the_form_cannot_say_leads_to_no_form(open_page, backend):
    own = tuple(replace(method_named("obs"), damping=damping) for damping in (0.1, 0.2))
    backend.stored_jobs = [
        job(SETTINGS, id=3),
        job(replace(SETTINGS, methods=own), "failed", id=2),
        replace(job(SETTINGS, "failed"), settings={"newer": 1}),
    ]
    assert "Change the settings" not in links(open_page("jobs"))


def test_a_continuation_is_a_job_like_others(open_page, finished):
    run = finished.stored_runs[0]
    asked = ContinuationSettings(left=run.dense, right=run.sparse[0], prompt="Once upon a time")
    finished.stored_jobs = [job(asked, "done")]
    app = open_page("jobs")
    assert "Continuations of a text" in words(app)
    asked = {"run": run.key, "left": "dense", "right": "10 %"}
    assert query_of(links(app)["Compare passages"]) == asked


def test_a_job_of_another_version_is_still_listed(open_page, backend):
    backend.stored_jobs = [replace(job(SETTINGS, "failed"), settings={"strange": 1})]
    assert "asked for by another version" in words(open_page("jobs"))


def test_old_jobs_come_when_asked_for(open_page, backend):
    backend.stored_jobs = [job(SETTINGS, "done", id=i) for i in range(30, 0, -1)]
    app = open_page("jobs")
    assert words(app).count("✓ Done") == 10
    button(app, "Show all 30").click().run()
    assert words(app).count("✓ Done") == 30


def test_a_run_that_is_done_says_what_was_expected_beside_what_it_took(open_page, backend):
    backend.stored_jobs = [job(SETTINGS, "done", id=1, started_at=100.0, finished_at=400.0)]
    assert "expected" not in words(open_page("jobs"))
    backend.forecast_at_first = FORECAST
    app = open_page("jobs")
    assert "took 5 min · 2 min expected" in words(app)
    assert "1.0 GB" not in words(app)


def told(open_page, backend, **changes):
    """What is behind the button of a run that is done."""
    backend.stored_jobs = [job(SETTINGS, "done", id=1, started_at=100.0, finished_at=400.0)]
    backend.forecast_at_first = FORECAST
    backend.stored_runs = [replace(specimens.run()[0], key=backend.stored_jobs[0].key, **changes)]
    app = open_page("jobs")
    app.session_state["took-1"] = True
    return words(app.run())


def test_every_part_of_a_run_that_is_done_stands_beside_what_was_expected(open_page, backend):
    said = told(open_page, backend, peak_bytes=900_000_000, disk_bytes=12_000_000)
    for row in ("Time 5 min 2 min", "of it calibrating 2 min 1 min", "of it pruning 12 s not known"):
        assert row in said
    assert "Memory, at most 900 MB 1.0 GB" in said
    assert "Left on the disk 12 MB not known" in said


def test_what_was_stored_already_is_not_held_against_what_was_expected(open_page, backend):
    said = told(open_page, backend, cached=("calibration",))
    assert "Parts of it were stored already: calibration." in said
    assert "Memory" not in said


def test_a_cancelled_job_is_told_as_no_error(open_page, backend):
    stopped = {"error_text": "Stopped on request.", "error_advice": "What was finished is kept."}
    backend.stored_jobs = [job(SETTINGS, "cancelled", **stopped)]
    app = open_page("jobs")
    assert "Stopped on request. What was finished is kept." in words(app)
    assert 'role="alert"' not in markup(app)


def test_a_job_says_which_of_how_many_sparse_models_it_makes_or_asks(open_page, backend):
    methods = (method_named("magnitude"), method_named("random"))
    asked = replace(SETTINGS, methods=methods)
    for stage, doing in (("prune", "Pruning"), ("evaluate", "Evaluating")):
        backend.stored_jobs = [job(asked, stage=stage, point=4)]
        said = words(open_page("jobs"))
        assert f"{doing} · sparse model 5 of 6: random, 20 % removed" in said


def test_a_job_of_another_version_is_shown_without_what_it_makes(open_page, backend):
    running = job(SETTINGS, point=0)
    backend.stored_jobs = [replace(running, settings={**running.settings, "newer": 1})]
    said = words(open_page("jobs"))
    assert "asked for by another version of this program" in said
    assert "sparse model" not in said


def test_waiting_jobs_stand_in_the_order_in_which_they_start(open_page, backend):
    retried = job(SETTINGS, "queued", id=1, queued_at=1_764_000_900.0)
    next_one = job(replace(SETTINGS, sparsities_permille=(400,)), "queued", id=2)
    backend.stored_jobs = [next_one, retried]
    said = words(open_page("jobs"))
    assert said.index("at 40 %") < said.index("at 10, 20, 30 %")


def test_a_waiting_job_is_moved_by_buttons_that_lead_somewhere(open_page, backend):
    backend.stored_jobs = [*(job(SETTINGS, "queued", id=i, stage="", total=0) for i in (4, 3, 2)), job(SETTINGS, id=1)]
    app = open_page("jobs")
    can = {b.key: not b.disabled for b in app.button if not b.key.startswith("cancel-")}
    assert can == {
        **{"front-2": False, "up-2": False, "down-2": True},
        **{"front-3": True, "up-3": True, "down-3": True},
        **{"front-4": True, "up-4": True, "down-4": False},
    }
    for to in ("down", "up", "front"):
        app.button(key=f"{to}-3").click().run()
    assert backend.moved == [(3, "down"), (3, "up"), (3, "front")]


def test_a_waiting_run_is_made_more_or_less_urgent_and_moves_among_its_like(open_page, backend):
    waiting = [job(SETTINGS, "queued", id=i, stage="", total=0) for i in (4, 3, 2)]
    prompt = ContinuationSettings(left="a", right="b", prompt="Once upon a time")
    backend.stored_jobs = [*waiting, job(prompt, "queued", id=1)]
    backend.stored_jobs[0] = replace(waiting[0], priority="high")
    app = open_page("jobs")
    assert {box.key: box.value for box in app.selectbox if box.key.startswith("priority-")} == {
        "priority-4": "high",
        "priority-3": "normal",
        "priority-2": "normal",
    }
    assert [b.key for b in app.button if b.key.endswith("-4")] == ["cancel-4"]
    app.selectbox(key="priority-3").select("low").run()
    assert backend.prioritised == [(3, "low")]
    assert app.selectbox(key="priority-3").value == "normal"


def test_the_only_waiting_job_has_nowhere_to_go(open_page, backend):
    backend.stored_jobs = [job(SETTINGS, "queued", id=1, stage="", total=0)]
    assert [b.label for b in open_page("jobs").button] == ["Cancel"]


def test_a_job_that_has_just_begun_is_not_moved_and_the_page_says_why(open_page, backend):
    waiting = [job(SETTINGS, "queued", id=i, stage="", total=0) for i in (2, 1)]
    backend.stored_jobs = waiting
    app = open_page("jobs")
    backend.stored_jobs = [replace(waiting[0], state="running"), waiting[1]]
    app.button(key="up-2").click().run()
    assert "Job 2 cannot be moved" in app.toast[0].value
    assert backend.moved == []


def test_what_all_models_share_is_not_said_of_one(open_page, backend):
    backend.stored_jobs = [job(SETTINGS, stage="calibrate", message="", point=0)]
    assert "sparse model" not in words(open_page("jobs"))
    backend.stored_jobs = [job(SETTINGS, stage="calibrate", message="backward pass", point=1)]
    assert "Calibrating · sparse model 2 of 3" in words(open_page("jobs"))


@pytest.mark.parametrize("unit", ["batches", "steps"])
def test_units_that_only_the_program_knows_are_told_as_a_share(unit, open_page, backend):
    counted = {"unit": unit, "done": 9, "total": 36, "rate": 3.0}
    backend.stored_jobs = [job(SETTINGS, stage="calibrate", message="", **counted)]
    said = words(open_page("jobs"))
    assert "25 % of this stage" in said
    assert "left" not in said.split("25 %")[1]
    assert unit not in said


def test_one_step_is_not_counted(open_page, backend):
    backend.stored_jobs = [job(SETTINGS, stage="load", done=0, total=1, unit="steps", rate=None)]
    assert "0 of 1" not in words(open_page("jobs"))


def opened_log(open_page, backend, monkeypatch, text):
    monkeypatch.setattr(backend, "log_tail", lambda job_id, n=40: "\n".join(text.split("\n")[-n:]))
    backend.stored_jobs = [job(SETTINGS, "done", log_path="/data/logs/1.log")]
    app = open_page("jobs")
    app.session_state["log-1"] = True
    return app.run()


def test_a_log_is_shown_as_plain_text_that_can_be_copied(open_page, backend, monkeypatch):
    app = opened_log(open_page, backend, monkeypatch, "<b>one</b>\n\x1b[31mtwo\u202e")
    (code,) = app.code
    assert code.value == "<b>one</b>\n␛[31mtwo⟨U+202E⟩"
    assert code.language in (None, "", "plaintext")
    assert "The end of the log" not in words(app)


@pytest.mark.parametrize("text", ["\n".join(map(str, range(5_000))), "x" * 50_000])
def test_a_long_log_is_cut_at_the_front_and_says_so(text, open_page, backend, monkeypatch):
    app = opened_log(open_page, backend, monkeypatch, text)
    (code,) = app.code
    assert text.endswith(code.value) and len(code.value) <= 16_000
    assert "The end of the log; the lines before it are in /data/logs/1.log." in words(app)


def test_a_job_whose_run_is_named_says_the_name(open_page, backend):
    backend.stored_jobs = [job(SETTINGS, "done")]
    backend.user_data.name_run(SETTINGS.key(), "For the talk")
    assert "For the talk: SmolLM2 135M (built in) at 10, 20, 30 %" in words(open_page("jobs"))
