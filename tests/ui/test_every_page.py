"""What holds for every page: one heading, a data folder that cannot be used, foreign text."""

from dataclasses import replace

import pytest
from streamlit.testing.v1 import AppTest

from sparsedash.schema.errors import StoreError
from sparsedash.ui import frame, job_panel
from sparsedash.ui.form_address import SEARCH
from tests.ui import specimens
from tests.ui.conftest import APP, HOSTILE, links, markup, menu_links, query_of, shows_as_text, words
from tests.ui.fake_backend import job

SETTINGS = specimens.SETTINGS
PAGES = ("overview", "prune", "jobs", "runs", "compare", "layers", "models", "published", "storage")


@pytest.mark.parametrize("name", PAGES)
def test_every_page_opens_with_one_sentence_as_its_heading(name, open_page, finished):
    assert markup(open_page(name)).count("<h1") == 1


def test_no_page_binds_a_parameter_that_a_link_to_another_page_uses(open_page, backend):
    """Streamlit drops a bound parameter from links to other pages, and raises where `switch_page` sets it."""
    run = backend.add_run(specimens.run())
    backend.stored_jobs = [job(SETTINGS, "done")]
    bound, linked = {}, {}
    for name, address in [*((name, {}) for name in PAGES), ("prune", {"goal": SEARCH})]:
        app = open_page("overview", run=run.key, within="1.3", points="5")
        for key, value in address.items():
            app.query_params[key] = value
        app.switch_page(f"pages/{name}.py").run()
        drawn = [element.proto for element in app.main if hasattr(element.proto, "query_param_key")]
        bound.setdefault(name, set()).update(filter(None, (proto.query_param_key for proto in drawn)))
        for target in (menu_links(app) | links(app)).values():
            linked.setdefault(target.partition("?")[0].strip("/") or "overview", set()).update(query_of(target))
    assert {"model", "sparsity"} <= bound["prune"] and {"run", "within", "right"} <= linked["compare"]
    dropped = [(on, to, found) for on in bound for to in linked if on != to and (found := bound[on] & linked[to])]
    assert not dropped


@pytest.mark.parametrize("name", PAGES)
def test_a_data_folder_that_cannot_be_used_is_said_in_words(name, monkeypatch):
    def refuse():
        raise StoreError("The data folder /x cannot be used.", "Name another one.")

    monkeypatch.setattr(frame, "backend", refuse)
    app = AppTest.from_file(str(APP), default_timeout=30).run()
    app.switch_page(f"pages/{name}.py").run()
    assert not app.exception
    assert "The data folder /x cannot be used. Name another one." in words(app)


def test_a_data_folder_that_fails_under_a_page_is_said_in_words(backend, monkeypatch):
    def refuse(*_):
        raise StoreError("The data folder could not be read.", "Is it locked?")

    backend.runs = refuse
    monkeypatch.setattr(frame, "backend", lambda: backend)
    app = AppTest.from_file(str(APP), default_timeout=30).run()
    assert not app.exception
    assert "The data folder could not be read. Is it locked?" in words(app)


def test_a_job_that_cannot_be_asked_after_is_said_in_words_where_it_stands(open_page, backend):
    backend.stored_jobs = [job(SETTINGS)]

    def refuse(*_):
        raise StoreError("The job table is locked.", "Jobs wait for it.")

    def once_to_the_page(limit):
        """The notices ask too, for fewer; what the page watches from then on is refused."""
        if limit == job_panel.JOBS_LISTED:
            backend.jobs = refuse
        return tuple(backend.stored_jobs)

    open_page("jobs")
    app = AppTest.from_file(str(APP), default_timeout=30).run()
    backend.jobs = once_to_the_page
    app.switch_page("pages/jobs.py").run()
    assert not app.exception
    said = words(app)
    assert "1 running, nothing waits." in said
    assert "The job table is locked. Jobs wait for it." in said


def test_a_log_that_is_none_is_said_in_words(open_page, backend):
    backend.stored_jobs = [job(SETTINGS, "failed")]

    def refuse(*_):
        raise StoreError("1.log is a pipe.")

    backend.log_tail = refuse
    app = open_page("jobs")
    assert not app.exception


@pytest.mark.parametrize("text", HOSTILE)
def test_text_from_models_and_files_is_shown_as_text(text, open_page, backend):
    run, records = specimens.run()
    hostile = tuple(
        replace(
            outcome,
            target=text,
            answer=text,
            tokens=tuple(replace(t, text=text) for t in outcome.tokens),
            top=tuple(replace(c, text=text) for c in outcome.top),
        )
        for outcome in records[0].outcomes
    )
    backend.add_run((run, [replace(record, outcomes=hostile) for record in records]))
    stored = backend.stored_passages["passages"]
    backend.stored_passages["passages"] = replace(stored, contexts=(text,) * 120)
    drawn = markup(open_page("compare"))
    for tag in ("<img", "<style>*", 'href="javascript'):
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


@pytest.mark.parametrize("page", ["overview", "compare", "layers"])
def test_every_page_of_a_run_that_was_stopped_says_so_and_leads_to_its_start(page, open_page, backend):
    run = backend.add_run(specimens.run(finished=False, n_sparse=1))
    backend.stored_jobs = [job(specimens.SETTINGS, "cancelled", error_text="Stopped on request.")]
    app = open_page(page, run=run.key)
    assert words(app).count("This run was stopped: 1 of its 3 sparse models is there.") == 1
    address = links(app)["Start it again: what is there is not computed twice"]
    assert query_of(address)["sparsity"] == "10, 20, 30"
    backend.stored_jobs = [job(specimens.SETTINGS)]
    assert "This run" not in words(open_page(page, run=run.key))


def test_a_stopped_run_promises_no_sparse_models(open_page, backend):
    run = backend.add_run(specimens.run(finished=False, n_sparse=0))
    backend.stored_jobs = [job(specimens.SETTINGS, "failed", error_text="The disk is full.")]
    said = words(open_page("overview", run=run.key))
    assert said.startswith("The dense model has answered; no sparse model has.")
    assert "This run failed: none of its 3 sparse models is there." in said
