"""The list of jobs: none, live ones, ended ones, those of other kinds, and the machines of a
cluster.
"""

import json
import time
from dataclasses import asdict, replace
from itertools import product

import pytest

from sparsedash.catalog.presets import method_named
from sparsedash.jobs.cluster_parts import ClusterMachine, ClusterView, MachineFacts
from sparsedash.schema.pair_records import ContinuationSettings, TimingSettings
from sparsedash.schema.progress import Step
from sparsedash.schema.store_keys import forecast_note
from sparsedash.service.estimates import Duration
from sparsedash.service.preflight import Memory, Preflight
from tests.ui import specimens
from tests.ui.conftest import FAILED, button, links, markup, opened, query_of, words
from tests.ui.filled_backend import job

SETTINGS = specimens.SETTINGS
FORECAST = Preflight(
    duration=Duration(seconds=120.0, parts=(("calibrating", 60.0),)),
    memory=Memory(measured_bytes=1_000_000_000),
)
WAITING = {"state": "queued", "stage": "start", "total": 0}


def waiting(*ids):
    """Runs that wait, each for settings of its own; the first was asked for last."""
    return [
        job(replace(SETTINGS, sparsities_permille=(10 * i,)), id=i, **WAITING)
        for i in ids
    ]


def test_running_waiting_and_ended_jobs_are_told_apart(open_page, backend):
    assert "No run has a result yet." in words(open_page("runs", view="jobs"))
    backend.set_jobs(
        *waiting(4, 3), job(SETTINGS, id=2), job(SETTINGS, "crashed", id=1, **FAILED)
    )
    app = open_page("runs", view="jobs")
    text = words(app)
    assert text.startswith("1 running, 2 waiting.") and "✕ Interrupted" in text
    moves = ("To the front", "Up", "Down")
    assert [field.label for field in app.button if field.label not in moves] == [
        "Cancel",
        "Cancel",
        "Cancel",
        "Resume",
    ]
    button(app, "Cancel").click().run()
    assert "Stopping" in words(app) and button(app, "Cancel").disabled


def test_who_asked_for_a_job_is_told_to_those_who_see_all(
    open_page, backend, monkeypatch
):
    backend.set_jobs(job(SETTINGS, id=1, owner="ada"))
    assert "for ada" in words(open_page("runs", view="jobs"))
    monkeypatch.setattr(type(backend), "sees_all", False)
    assert "for ada" not in words(open_page("runs", view="jobs"))


def test_a_measurement_that_an_earlier_version_asked_for_is_one_in_torch(
    open_page, finished
):
    run = finished.runs()[0]
    done = job(TimingSettings(dense=run.dense, sparse=run.sparse[0]), "done")
    del done.settings["runtime"]
    finished.set_jobs(done)
    assert (
        query_of(links(open_page("runs", view="jobs"))["See the speed-up"])["against"]
        == "reading"
    )


def test_a_job_that_says_nothing_any_more_is_told_of(open_page, backend):
    backend.set_jobs(*waiting(2), job(SETTINGS, id=1, heartbeat_at=time.time() - 900))
    text = words(open_page("runs", view="jobs"))
    assert "no progress for 15 min: it may hang; cancel and resume it" in text


@pytest.mark.parametrize(("attempt", "said"), [(1, False), (2, True)])
def test_a_second_attempt_is_told(attempt, said, open_page, backend):
    backend.set_jobs(job(SETTINGS, "done", attempt=attempt))
    assert (
        f"attempt {attempt}, 4 min in all" in words(open_page("runs", view="jobs"))
    ) is said


@pytest.mark.parametrize("state", ["failed", "done"])
def test_a_run_that_ended_leads_to_the_form_with_its_settings(
    state, open_page, backend
):
    request = replace(
        SETTINGS, model="facebok/opt-1.3b", methods=(method_named("obs"),)
    )
    backend.set_jobs(job(request, state))
    query = query_of(links(open_page("runs", view="jobs"))["Change the settings"])
    assert (query["model"], query["method"]) == ("facebok/opt-1.3b", "obs")


def test_a_run_whose_results_were_deleted_links_to_none(open_page, finished):
    (run, *_) = finished.runs()
    another = replace(SETTINGS, sparsities_permille=(50,))
    finished.set_jobs(
        job(run.settings, "done", id=1, key=run.key), job(another, "done", id=2)
    )
    app = open_page("runs", view="jobs")
    assert query_of(links(app)["See what it cost"])["run"] == run.key
    assert (
        words(app).count("Its results were deleted.") == 1
        and words(app).count("✓ Done") == 2
    )


def test_a_continuation_is_a_job_like_others_and_leads_to_its_pair(open_page, finished):
    run = finished.runs()[0]
    finished.set_jobs(
        job(
            ContinuationSettings(
                left=run.dense, right=run.sparse[0], prompt="Once upon a time"
            ),
            "done",
        )
    )
    app = open_page("runs", view="jobs")
    assert "Continuations of a text: 10 % of SmolLM2 135M (built in)" in words(app)
    assert query_of(links(app)["Compare passages"]) == {
        "run": run.key,
        "left": "dense",
        "right": "10 %",
    }
    finished.set_jobs(
        job(
            ContinuationSettings(
                left="f" * 64, right=run.sparse[0], prompt="Once upon a time"
            ),
            "done",
        )
    )
    request = query_of(links(open_page("runs", view="jobs"))["Compare passages"])
    assert request["left"] == "f" * 16, (
        "a record of another run, by which the page finds it"
    )


def test_old_jobs_come_when_asked_for(open_page, backend):
    backend.set_jobs(*(job(SETTINGS, "done", id=i) for i in range(30, 0, -1)))
    app = open_page("runs", view="jobs")
    assert words(app).count("✓ Done") == 10
    button(app, "Show all 30").click().run()
    assert words(app.run()).count("✓ Done") == 30, "for good"


def took(open_page, backend, **changes):
    """The page with what a run took opened, next to its estimate."""
    backend.set_jobs(job(SETTINGS, "done", started_at=100.0, finished_at=400.0))
    backend._store.remember(forecast_note(SETTINGS.key()), json.dumps(asdict(FORECAST)))
    backend.put(replace(specimens.run()[0], **changes))
    app = open_page("runs", view="jobs")
    assert "took 5 min · 2 min estimated" in words(app) and "1.0 GB" not in words(app)
    return words(opened(app, "took-1"))


def test_every_part_of_a_run_that_is_done_stands_next_to_its_estimate(
    open_page, backend
):
    text = took(open_page, backend, peak_bytes=900_000_000, disk_bytes=12_000_000)
    for row in (
        "Time 5 min 2 min",
        "of it calibrating 2 min 1 min",
        "of it pruning 12 s not known",
    ):
        assert row in text
    assert (
        "Memory, at most 900 MB 1.0 GB" in text
        and "Left on the disk 12 MB not known" in text
    )
    text = took(open_page, backend, cached=("calibration",))
    assert (
        "parts were reused from earlier runs (calibration)." in text
        and "Memory" not in text
    )


@pytest.mark.parametrize(
    ("kind", "kept"),
    [
        ("run", "Finished models are kept"),
        ("export", "Nothing of it is kept"),
        ("verify", "Nothing"),
    ],
)
def test_what_resuming_keeps_is_said_of_each_kind_of_job(
    kind, kept, open_page, backend
):
    backend.set_jobs(replace(job(SETTINGS, "cancelled"), kind=kind))
    assert button(open_page("runs", view="jobs"), "Resume").help.startswith(kept)


def test_a_cancelled_job_is_told_as_no_error_and_by_the_name_of_its_run(
    open_page, backend
):
    stopped = {
        "error_text": "Stopped on request.",
        "error_advice": "What was finished is kept.",
    }
    backend.set_jobs(job(SETTINGS, "cancelled", **stopped))
    backend.user_data.name_run(SETTINGS.key(), "For the talk")
    app = open_page("runs", view="jobs")
    assert "Stopped on request. What was finished is kept." in words(
        app
    ) and 'role="alert"' not in markup(app)
    assert (
        "For the talk: SmolLM2 135M, least-squares 10, 20, 30 % on Cloze passages"
        in words(app)
    )


@pytest.mark.parametrize(
    ("running", "shown", "hidden"),
    [
        (
            {"stage": "prune", "point": 4},
            "Pruning · sparse model 5 of 6: random, 20 % of the MLP channels removed",
            "",
        ),
        (
            {"stage": "calibrate", "message": "", "point": 0},
            "Calibrating",
            "sparse model",
        ),
        (
            {"stage": "calibrate", "message": "backward pass", "point": 1},
            "Calibrating · sparse model 2 of 6",
            "",
        ),
        (
            {"stage": "calibrate", "unit": "batches", "done": 9, "total": 36},
            "25 % of this stage",
            "batches",
        ),
        (
            {"stage": "load", "done": 0, "total": 1, "unit": "steps", "rate": None},
            "Loading",
            "0 of 1",
        ),
    ],
)
def test_a_running_job_says_its_stage_and_model_in_known_units(
    running, shown, hidden, open_page, backend
):
    request = replace(
        SETTINGS, methods=(method_named("magnitude"), method_named("random"))
    )
    backend.set_jobs(job(request, **running))
    text = words(open_page("runs", view="jobs"))
    assert shown in text and (not hidden or hidden not in text)


def test_waiting_jobs_stand_in_the_order_in_which_they_start_and_are_moved_by_buttons(
    open_page, backend
):
    retried = replace(waiting(1)[0], queued_at=1_764_000_900.0)
    backend.set_jobs(*waiting(4, 3, 2), retried)
    app = open_page("runs", view="jobs")
    text = words(app)
    places = [text.index(f"least-squares {share} %") for share in (2, 3, 4, 1)]
    assert places == sorted(places)
    can = {
        field.key: not field.disabled
        for field in app.button
        if not field.key.startswith("cancel-")
    }
    impossible = {"front-2", "up-2", "down-1"}
    places = product(("front", "up", "down"), (2, 3, 4, 1))
    moves = [f"{to}-{i}" for to, i in places]
    assert can == {move: move not in impossible for move in moves}
    for to, expected in (
        ("down", [2, 4, 3, 1]),
        ("up", [2, 3, 4, 1]),
        ("front", [3, 2, 4, 1]),
    ):
        app.button(key=f"{to}-3").click().run()
        assert [job.id for job in backend.queue()] == expected
    backend.set_jobs(*waiting(4))
    assert [field.label for field in open_page("runs", view="jobs").button] == [
        "Cancel"
    ], "the only one has nowhere to go"


def test_a_waiting_run_is_made_more_or_less_urgent_and_moves_among_its_like(
    open_page, backend
):
    prompt = ContinuationSettings(left="a", right="b", prompt="Once upon a time")
    urgent, *others = waiting(4, 3, 2)
    backend.set_jobs(
        replace(urgent, priority="high"), *others, job(prompt, id=1, **WAITING)
    )
    app = open_page("runs", view="jobs")
    priorities = {"priority-4": "high", "priority-3": "normal", "priority-2": "normal"}
    assert {
        box.key: box.value for box in app.selectbox if box.key.startswith("priority-")
    } == priorities
    assert [field.key for field in app.button if field.key.endswith("-4")] == [
        "cancel-4"
    ]
    app.selectbox(key="priority-3").select("low").run()
    assert backend.job(3).priority == app.selectbox(key="priority-3").value == "low"


def test_a_job_that_has_just_begun_is_not_moved_and_the_page_says_why(
    open_page, backend
):
    second, first = waiting(2, 1)
    backend.set_jobs(second, first)
    app = open_page("runs", view="jobs")
    backend.set_jobs(replace(second, state="running"), first)
    app.button(key="up-2").click().run()
    assert "Job 2 is running and cannot be moved" in app.toast[0].value


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("<b>one</b>\n\x1b[31mtwo\u202e", "<b>one</b>\n␛[31mtwo⟨U+202E⟩"),
        ("\n".join(map(str, range(5_000))), "\n".join(map(str, range(4_960, 5_000)))),
        ("x" * 50_000, "x" * 16_000),
    ],
)
def test_the_end_of_a_log_is_shown_as_plain_text_that_can_be_copied(
    text, shown, open_page, backend
):
    backend.set_jobs(job(SETTINGS, "done"))
    log = backend.data_dir / "logs" / "1.log"
    log.parent.mkdir(exist_ok=True)
    log.write_text(text)
    app = opened(open_page("runs", view="jobs"), "log-1")
    (code,) = app.code
    assert code.value == shown and code.language in (None, "", "plaintext")
    assert (f"The end of the log; all of it: {log}." in words(app)) == (
        len(text) > 1000
    )


def machine(name="gpu-1", n_slots=1, **facts):
    known = {
        "child_bytes": 2 * 10**9,
        "total_bytes": 64 * 10**9,
        "free_bytes": 40 * 10**9,
        "gpus": ("H100",),
    }
    return ClusterMachine(
        address="tls://127.0.0.1:1",
        name=name,
        n_slots=n_slots,
        facts=MachineFacts(**known | facts),
    )


PROGRESS = Step("evaluate", 30, 120, point=2, machine="gpu-1")


BUSY = replace(machine(), job_id=7, progress=PROGRESS)
IDLE, BROKEN = (
    machine("gpu-2", gpus=(), child_bytes=0, problem=why) for why in ("", "Disk full.")
)
TAKING_NOTHING = machine(n_slots=0)
MACHINES = [
    (
        "",
        (BUSY, IDLE),
        (
            "2 machines at tls://",
            "1 of them free.",
            "job 7, sparse model 3: Evaluating, 25 %",
            "40.0 GB",
        ),
    ),
    (
        "",
        (TAKING_NOTHING, BROKEN),
        ("none of them free", "--resources SLOT=1", "Disk full."),
    ),
    (
        "No scheduler answers.",
        (),
        ("No scheduler answers.", "Runs use this machine, after a minute at most."),
    ),
    ("", (), ("docs/cluster.md",)),
]


@pytest.mark.parametrize(
    ("trouble", "machines", "expected"), MACHINES, ids=range(len(MACHINES))
)
def test_the_machines_of_a_cluster_say_what_they_run_or_why_nothing(
    trouble, machines, expected, open_page, backend
):
    assert "Machines of the cluster" not in words(open_page("settings"))
    backend.known_cluster = ClusterView(
        address="tls://127.0.0.1:8786", trouble=trouble, machines=machines
    )
    page_text = words(open_page("settings"))
    assert not [text for text in expected if text not in page_text]
