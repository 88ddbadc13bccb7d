"""The settings page in its empty, full, verifying, failed and damaged state, and the questions
before it deletes.
"""

from dataclasses import replace

import pytest

from sparsedash.schema.records import (
    Damage,
    Record,
    Verification,
    VerifySettings,
    about_artefact,
)
from tests.storage.every_kind import harm_entry, unpack
from tests.ui import specimens
from tests.ui.conftest import FAILED, button, links, opened, query_of, words
from tests.ui.filled_backend import job

RUN = specimens.run()[0]
TITLE = "SmolLM2 135M, least-squares 10, 20, 30 % on Cloze passages"
FOUND = Verification(
    key=VerifySettings().key(),
    started_at=1_764_000_000.0,
    finished_at=1_764_000_060.0,
    n_checked={"record": 4, "export": 1},
    n_bytes=5_000_000,
    damaged=(),
    n_damaged=0,
)


@pytest.fixture
def filled(finished):
    """A run, calibration statistics of two models, a converted model, and a job that is done."""
    for name, model in (
        ("own", RUN.model_identity),
        ("other", "sha256:abcdef0123456789"),
    ):
        finished._store.put_artefact(
            name, b"x" * 500_000, about_artefact("statistics", model)
        )
    unpack(finished._store, "tiny-0123")
    finished.set_jobs(job(specimens.SETTINGS, "done"))
    return finished


def test_the_empty_page_invites_and_the_limit_can_be_chosen_before_anything_is_there(
    open_page, backend, monkeypatch
):
    app = open_page("settings")
    page_text = words(app)
    assert (
        page_text.startswith("The data folder holds nothing yet; ")
        and str(backend.data_dir) in page_text
    )
    assert {"Prune a model", "or open a run from another machine"} <= set(links(app))
    app.number_input(key="artefact-room").set_value(2.5)
    button(app, "Save").click().run()
    assert backend.housekeeping.holdings().room_bytes == 2.5 * 10**9
    monkeypatch.setenv("SPARSEDASH_ARTEFACT_GB", "7")
    app = open_page("settings")
    assert (
        "by SPARSEDASH_ARTEFACT_GB, which overrides this page" in words(app)
        and not app.number_input
    )


def test_it_opens_with_what_there_is_and_lists_runs_files_and_the_cache(
    open_page, filled
):
    app = open_page("settings")
    page_text = words(app)
    assert (
        page_text.startswith("The data folder takes ")
        and "1 MB of 20 GB in use" in page_text
    )
    assert "tiny-0123 Kind: converted model Size: 96 kB Written: today" in page_text
    assert "refitted weights) 2 1 MB recomputed when a run needs it" in page_text
    assert query_of(links(app)[TITLE])["run"] == RUN.key


def test_before_a_run_is_deleted_it_says_what_goes(open_page, filled):
    filled.user_data.name_run(RUN.key, "Mine")
    app = opened(open_page("settings"), f"delete-{RUN.key}")
    title = f"“Mine: {TITLE}” with the answers of 4 models"
    assert f"Delete {title}" in words(app)
    assert filled.runs() == [RUN]
    app.button(key=f"delete-{RUN.key}-sure").click().run()
    assert filled.runs() == [] and app.toast[0].value.startswith(f"Deleted: {title}")


def test_the_cache_is_emptied_after_a_question_that_says_what_must_be_recomputed(
    open_page, filled
):
    app = opened(open_page("settings"), "delete-cache")
    question = "Delete 1 MB? Recomputed when a run needs it: Calibration data"
    assert question in words(app)
    app.button(key="cache-sure").click().run()
    assert app.toast[0].value == "Deleted from the cache: 1\u00a0MB."
    assert filled.housekeeping.cache().items == () and filled.runs() == [RUN]


def test_a_converted_model_is_deleted_alone_and_not_while_a_job_needs_it(
    open_page, filled
):
    filled.set_jobs(job(specimens.SETTINGS, key="other"))
    app = opened(open_page("settings"), "delete-tiny-0123")
    assert (
        "Delete this converted model, 96 kB? It is converted again when a run"
        in words(app)
    )
    app.button(key="delete-tiny-0123-sure").click().run()
    assert "a waiting or running job may need it" in app.toast[0].value
    filled.set_jobs()
    app = opened(open_page("settings"), "delete-tiny-0123")
    app.button(key="delete-tiny-0123-sure").click().run()
    assert filled.housekeeping.holdings().files == ()


def test_many_runs_are_shown_in_pages(open_page, backend):
    for i in range(12):
        backend.put(replace(RUN, key=f"{i:064d}"[::-1], sparse=()))
    app = open_page("settings")
    assert "1 to 5 of 12 runs" in words(app)
    app.pagination(key="page").set_value(2).run()
    assert "6 to 10 of 12 runs" in words(app)
    for page in ("2", "0", "99", "x", "²", "-1"):
        app = open_page("settings", page=page)
        first = 6 if page == "2" else 1
        assert f"{first} to" in words(app) and not app.exception


def verify_buttons(app):
    return [
        element.label
        for element in app.button
        if element.label.startswith(("Check data integrity", "Resume"))
    ]


def test_verification_is_asked_for_followed_and_not_asked_for_twice(open_page, filled):
    app = open_page("settings")
    button(app, "Check data integrity").click().run()
    (verify,) = (element for element in filled.jobs() if element.kind == "verify")
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
    assert (
        "Running Verification of the data folder" in words(app)
        and verify_buttons(app) == []
    )
    assert "Verifying checksums" in words(app)
    app.button(key=f"cancel-{verify.id}").click().run()
    assert filled.job(verify.id).stopping


@pytest.mark.parametrize("state", ["failed", "cancelled"])
def test_a_verification_that_ended_early_says_why_until_a_newer_one_has_ended(
    open_page, filled, state
):
    filled.set_jobs(job(VerifySettings(), state, **FAILED))
    app = open_page("settings")
    assert "The model cannot be reached." in words(app) and verify_buttons(app) == [
        "Resume"
    ]
    filled.put(replace(FOUND, started_at=2e9 - 60, finished_at=2e9))
    app = open_page("settings")
    assert "The model cannot be reached." not in words(app) and verify_buttons(app) == [
        "Check data integrity again"
    ]
    assert "5 MB read in 1" in words(app)


def test_what_is_damaged_is_named_with_what_to_do_until_it_is_deleted(
    open_page, filled
):
    damaged = (
        Damage(
            kind="record",
            name=f"record/{RUN.sparse[0]}",
            what="a wrong checksum",
        ),
        Damage(
            kind="unpacked model",
            name="tiny-0123/model.safetensors",
            what="it is missing",
            entry="tiny-0123",
        ),
        Damage(
            kind="upload",
            name="upload:mine.txt@0123",
            what="a wrong checksum",
        ),
    )
    filled.put(
        replace(
            FOUND,
            n_damaged=len(damaged),
            damaged=damaged,
        )
    )
    app = open_page("settings")
    page_text = words(app)
    assert "3 of 5 were damaged" in page_text
    for row in (
        f"Answers of a model {RUN.sparse[0][:16]} a wrong checksum Empty the cache and start",
        "A converted model tiny-0123/model.safetensors it is missing Delete it: it is converted",
        "An uploaded text mine.txt a wrong checksum Delete it, and upload",
    ):
        assert row in page_text
    # Reading it sets it aside.
    harm_entry(filled._store, "records", f"record/{RUN.sparse[0]}")
    assert filled._store.get(Record, RUN.sparse[0]) is None
    filled.housekeeping.empty_cache()
    assert "2 of 5 were damaged" in words(open_page("settings"))


def test_where_others_are_served_it_is_for_administrators(
    open_page, backend, monkeypatch
):
    monkeypatch.setattr(type(backend), "administers", False)
    page_text = words(open_page("settings"))
    assert (
        "Administrators manage the data folder." in page_text
        and str(backend.data_dir) not in page_text
    )
