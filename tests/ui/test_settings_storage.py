"""The settings page in its empty, full, verifying, failed and damaged state, and the questions
before it deletes.
"""

from dataclasses import replace

import pytest

from sparsedash.schema.records import Damage, Record, Verification, VerifySettings, about_artefact
from tests.storage.every_kind import harm_entry
from tests.ui import specimens
from tests.ui.conftest import FAILED, button, links, opened, query_of, words
from tests.ui.filled_backend import job

RUN = specimens.run()[0]
TITLE = "SmolLM2 135M (built in) at 10, 20, 30 %"
FOUND = Verification(
    key=VerifySettings().key(),
    started_at=1_764_000_000.0,
    finished_at=1_764_000_060.0,
    n_checked={"record": 4, "export": 1},
    n_bytes=5_000_000,
    damaged=(),
    n_damaged=0,
)
DAMAGED = replace(
    FOUND,
    n_damaged=3,
    damaged=(
        Damage(
            kind="record", name="record/0123456789abcdef0123", what="its checksum does not match"
        ),
        Damage(
            kind="unpacked model", name="tiny/model.safetensors", what="it is missing", entry="tiny"
        ),
        Damage(
            kind="upload", name="upload:mine.txt@0123", what="its content is not what was written"
        ),
    ),
)


@pytest.fixture
def filled(finished):
    """A run, its calibration, that of a model that no run names, and a job that is done."""
    for name, model in (("own", RUN.model_identity), ("other", "sha256:abcdef0123456789")):
        finished._store.put_artefact(name, b"x" * 500_000, about_artefact("statistics", model))
    finished.set_jobs(job(specimens.SETTINGS, "done"))
    return finished


def test_the_empty_page_invites_and_the_limit_can_be_chosen_before_anything_is_there(
    open_page, backend, monkeypatch
):
    app = open_page("settings")
    said = words(app)
    assert said.startswith("The data folder holds nothing yet; ") and str(backend.data_dir) in said
    assert {"Prune a model", "or open a run from another machine"} <= set(
        links(app)
    ) and "By kind" not in said
    app.number_input(key="artefact-room").set_value(2.5)
    button(app, "Save").click().run()
    assert backend.housekeeping.holdings().room_bytes == 2.5 * 10**9
    monkeypatch.setenv("SPARSEDASH_ARTEFACT_GB", "7")
    app = open_page("settings")
    assert (
        "by SPARSEDASH_ARTEFACT_GB, which overrides this page" in words(app)
        and not app.number_input
    )


def test_it_opens_with_what_there_is_and_says_it_by_kind_model_and_run(open_page, filled):
    app = open_page("settings")
    said = words(app)
    assert said.startswith("The data folder takes ") and "of 20 GB allowed" in said
    assert "Runs and their answers with their passages How many: 1 run Size: " in said
    assert "List of jobs kept How many: 1 job Size: " in said
    assert (
        "SmolLM2 135M (built in) " in said and "Unnamed model (abcdef012345) calibration " in said
    )
    assert query_of(links(app)[TITLE])["run"] == RUN.key
    assert "CSV" in [each.label for each in app.get("download_button")]
    questions = [block.proto.id.partition("delete-")[2] for block in app.get("popover")]
    assert "jobs" not in questions and {"runs", "statistics", RUN.model_identity, RUN.key} <= set(
        questions
    )


def test_before_anything_is_deleted_it_says_what_goes_and_what_stays_and_why(open_page, filled):
    filled.user_data.name_run(RUN.key, "Mine")
    app = opened(open_page("settings"), "delete-runs")
    assert (
        "Delete “Mine: SmolLM2 135M (built in) at 10, 20, 30 %” with the answers of 4 models"
        in words(app)
    )
    assert "This cannot be undone." in words(app)
    assert filled.runs() == [RUN]
    app.button(key="delete-runs-sure").click().run()
    assert filled.runs() == [] and app.toast[0].value.startswith(
        "Deleted: “Mine: SmolLM2 135M (built in)"
    )


def test_a_pinned_run_says_so_and_stays_without_a_button_to_delete_it(open_page, filled):
    filled.user_data.pin_runs([RUN.key], True)
    app = opened(open_page("settings"), "delete-runs")
    assert "★ pinned" in words(app)
    assert "Nothing" in words(app).split("This cannot be undone.")[
        0
    ] and "it is pinned; unpin it first" in words(app)
    assert not any(each.label == "Delete for good" for each in app.button)


@pytest.mark.parametrize(
    ("key", "left"), [(RUN.model_identity, []), (RUN.key, []), ("statistics", [RUN])]
)
def test_a_kind_a_model_and_a_run_can_be_deleted(open_page, filled, key, left):
    app = opened(open_page("settings"), f"delete-{key}")
    app.button(key=f"delete-{key}-sure").click().run()
    assert filled.runs() == left
    assert filled._store.has_entry("artefacts", "own") == (key == RUN.key)


def test_many_runs_are_shown_in_pages(open_page, backend):
    for i in range(12):
        backend.put(replace(RUN, key=f"{i:064d}"[::-1], sparse=()))
    app = open_page("settings")
    assert "1 to 10 of 12 runs" in words(app) and button(app, "Previous").disabled
    button(app, "Next").click().run()
    assert app.query_params["page"] == "2" and "11 to 12 of 12 runs" in words(app)
    assert button(app, "Next").disabled
    for page in ("0", "99", "x", "²", "-1"):
        app.query_params["page"] = page
        assert not app.run().exception


def verify_buttons(app):
    return [
        each.label for each in app.button if each.label.startswith(("Check everything", "Resume"))
    ]


def test_verification_is_asked_for_followed_and_not_asked_for_twice(open_page, filled):
    app = open_page("settings")
    button(app, "Check everything").click().run()
    (verify,) = (each for each in filled.jobs() if each.kind == "verify")
    filled.set_jobs(
        job(
            VerifySettings(),
            stage="verify",
            done=3,
            total=12,
            unit="megabytes",
            message="x",
            id=verify.id,
        )
    )
    app = open_page("settings")
    assert "Running Verification of the data folder" in words(app) and verify_buttons(app) == []
    assert "Verifying checksums" in words(app)
    app.button(key=f"cancel-{verify.id}").click().run()
    assert filled.job(verify.id).stopping


@pytest.mark.parametrize("state", ["failed", "cancelled"])
def test_a_verification_that_ended_early_says_why_until_a_newer_one_has_ended(
    open_page, filled, state
):
    filled.set_jobs(job(VerifySettings(), state, **FAILED))
    app = open_page("settings")
    assert "The model cannot be reached." in words(app) and verify_buttons(app) == ["Resume"]
    filled.put(replace(FOUND, started_at=2e9 - 60, finished_at=2e9))
    app = open_page("settings")
    assert "The model cannot be reached." not in words(app) and verify_buttons(app) == [
        "Check everything again"
    ]
    assert "4 records, 1 exported file: 5 MB in " in words(app)


def test_what_is_damaged_is_named_with_what_to_do_and_can_be_deleted(open_page, filled):
    (filled.data_dir / "models" / "tiny").mkdir(parents=True)
    # A record that was read since, and so set aside, is a row of its own.
    harm_entry(filled._store, "records", f"record/{RUN.sparse[0]}")
    assert filled._store.get(Record, RUN.sparse[0]) is None
    first, *others = DAMAGED.damaged
    filled.put(replace(DAMAGED, damaged=(replace(first, name=f"damaged/{first.name}"), *others)))
    app = open_page("settings")
    said = words(app)
    assert "3 of 5 were damaged" in said
    assert (
        "Answers of a model 0123456789abcdef ✕ Its checksum does not match. Start its run again"
        in said
    )
    assert (
        "A converted model tiny/model.safetensors ✕ It is missing. Delete it: it is made again"
        in said
    )
    assert (
        "An uploaded text mine.txt ✕ Its content is not what was written. Delete it, and upload"
        in said
    )
    app = opened(app, "delete-found")
    app.button(key="delete-found-sure").click().run()
    assert filled.housekeeping.verification() is None


def test_where_others_are_served_it_is_for_administrators(open_page, backend, monkeypatch):
    monkeypatch.setattr(type(backend), "administers", False)
    said = words(open_page("settings"))
    assert "Administrators manage the data folder." in said and str(backend.data_dir) not in said
