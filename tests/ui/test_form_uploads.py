"""A text of one's own on the prune page: brought, chosen, listed, used; or refused with the choice
left as it was.
"""

from dataclasses import replace

import pytest
from streamlit.runtime.memory_uploaded_file_manager import MemoryUploadedFileManager

from sparsedash.storage.text_files import MAX_BYTES
from tests.ui.conftest import button, markup, opened, words
from tests.ui.filled_backend import job
from tests.ui.specimens import SETTINGS

LINES = b"".join(b'{"text": "lamp %d went <b>home</b>."}\n' % n for n in range(8))


def bring(form, field, name, content):
    form.file_uploader(key=f"{field}-upload").set_value([(name, content, "text/plain")])
    return form.run()


@pytest.mark.parametrize("field", ["text", "calibration"])
def test_a_text_that_is_brought_is_chosen_and_stands_in_the_address(
    open_page, backend, field
):
    form = bring(open_page("prune"), field, "mine.jsonl", LINES)
    (reference,) = backend.uploads.kept()
    assert form.selectbox(key=field).value == reference
    assert form.query_params[field] == reference
    gives = "8 texts, about 48 tokens"
    if field == "text":
        gives = "8 passages; first gaps: <b>home</b>, <b>home</b>, <b>home</b>"
    assert f"mine.jsonl: {gives}" in words(form) and "<b>home" not in markup(form)
    button(form, "Start").click().run()
    settings = backend.submitted[0]
    brought = settings.evaluation if field == "text" else settings.calibration
    assert brought.corpus == reference


BAD = {
    "large.txt": (bytes(MAX_BYTES + 1), "large.txt is larger than 50 MB."),
    "few.jsonl": (LINES[:111] * 2, "few.jsonl gives 3 passages; 5 or more needed."),
    "words.txt": (
        b"a lamp\n\n" + b"\n\n".join(b"lamp %d" % n for n in range(5)) + b"\n\ntea",
        "without a gap: 'tea'",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_refused_text_is_told_in_words_and_changes_nothing(open_page, backend, name):
    content, text = BAD[name]
    form = open_page("prune", text="lambada")
    form = bring(form, "text", name, content)
    assert text in words(form)
    assert 'role="alert"' in markup(form)
    assert form.selectbox(key="text").value == "lambada"
    assert backend.uploads.kept() == {}
    form = bring(form, "text", "good.jsonl", LINES)
    assert text not in words(form)
    assert form.selectbox(key="text").value == next(iter(backend.uploads.kept()))


@pytest.mark.parametrize("content", [LINES, b"no json\n"], ids=["kept", "refused"])
def test_the_form_goes_on_after_an_upload_whose_file_has_left_the_memory(
    open_page, monkeypatch, content
):
    form = bring(open_page("prune"), "text", "mine.jsonl", content)
    monkeypatch.setattr(MemoryUploadedFileManager, "get_files", lambda *_, **__: [])
    before = words(form)
    assert words(form.run()) == before and not form.exception


def test_uploads_can_be_chosen_for_either_use_and_are_listed_with_their_sizes_and_the_room_there_is(
    open_page, backend
):
    assert "Uploaded texts" not in str([e.label for e in open_page("prune").expander])
    reference = backend.uploads.keep("mine.jsonl", LINES * 42)
    backend.uploads.keep("yours.txt", b"a text")
    form = opened(open_page("prune"), "uploads")
    for text in ("12 kB of 1.0 GB are in use.", "mine.jsonl, 12 kB", "yours.txt, 1 kB"):
        assert text in words(form)
    offering = {
        field: reference in form.selectbox(key=field).options
        for field in ("text", "calibration", "model")
    }
    assert offering == {"text": True, "calibration": True, "model": False}


def test_a_deleted_text_is_off_the_list_and_where_it_was_chosen_the_usual_one_is(
    open_page, backend
):
    reference = backend.uploads.keep("mine.jsonl", LINES)
    form = opened(
        opened(open_page("prune", text=reference, calibration="c4"), "uploads"),
        f"delete-{reference}",
    )
    assert "This cannot be undone. Results stay." in words(form) and list(
        backend.uploads.kept()
    ) == [reference]
    button(form, "Delete for good").click().run()
    assert backend.uploads.kept() == {}
    assert form.selectbox(key="text").value == "builtin:cloze"
    assert form.selectbox(key="calibration").value == "c4"
    assert (
        not form.exception
        and "sd-field-error" not in markup(form).partition("</style>")[2]
    )


def test_a_text_that_a_job_reads_stays_and_the_refusal_says_why(open_page, backend):
    reference = backend.uploads.keep("mine.jsonl", LINES)
    calibration = replace(SETTINGS.calibration, corpus=reference)
    backend.set_jobs(job(replace(SETTINGS, calibration=calibration), "queued"))
    form = opened(
        opened(open_page("prune", calibration=reference), "uploads"),
        f"delete-{reference}",
    )
    button(form, "Delete for good").click().run()
    assert list(backend.uploads.kept()) == [reference]
    assert form.selectbox(key="calibration").value == reference
    (toast,) = form.toast
    assert (
        "mine.jsonl is read by a job that waits or runs. Wait until it has ended"
        in toast.value
    )


def test_a_hostile_name_is_shown_as_harmless_text(open_page, backend):
    form = bring(
        open_page("prune"), "text", "..<script>alert(1)</script>\u202e.jsonl", LINES
    )
    assert "<script>alert" not in markup(form)
    assert "\u202e" not in markup(form)
    assert form.selectbox(key="text").value.startswith("upload:script.jsonl@")


def test_a_text_set_of_the_list_says_on_what_terms_it_comes(open_page, backend):
    text = words(open_page("prune", text="lambada_openai", calibration="c4"))
    assert "Licence: MIT. Size: 1.8 MB. How it is read: downloaded once" in text
    assert (
        "Licence: ODC-BY. Size: 305 GB. How it is read: its first 10,000 documents are"
        in text
    )
