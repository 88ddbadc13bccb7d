"""What holds for every page: one heading, a data folder that cannot be used, foreign text, damaged
records.
"""

from dataclasses import replace

import pytest

from sparsedash.jobs.cluster_parts import ClusterMachine, ClusterView, MachineFacts
from sparsedash.reporting.run_list import RUN_ADDRESS_LENGTH
from sparsedash.schema.errors import StoreError
from sparsedash.schema.records import Damage, Passages, Record, Run
from sparsedash.ui import frame, job_panel
from sparsedash.ui.form_address import SWEEP
from sparsedash.ui.navigation import TITLES
from tests.storage.every_kind import harm_entry
from tests.ui import specimens
from tests.ui.conftest import (
    STORABLE,
    button,
    client,
    links,
    markup,
    menu_links,
    query_of,
    shows_as_text,
    words,
)
from tests.ui.filled_backend import job
from tests.ui.test_models_exports import MADE as EXPORT
from tests.ui.test_settings_storage import FOUND

SETTINGS = specimens.SETTINGS
VIEWS = {"prune": ("published",), "runs": ("jobs", "answers"), "compare": ("layers",)}
RUN, RECORDS = specimens.run()
PAGES = [(name, {}) for name in TITLES]
for title, views in VIEWS.items():
    PAGES += [(title, {"view": view}) for view in views]
TOGETHER = ("runs", {"chosen": RUN.key[:RUN_ADDRESS_LENGTH], "together": "1"})
NAME = "<img> <style>*{} [x](javascript:x) :red[x] \u202egnp nul\x00"
"""All of it fits the name of a run."""
DENSE = RECORDS[0].key
LAST = RECORDS[-1].key


def test_every_page_has_one_heading_and_binds_no_parameter_that_a_link_to_another_page_uses(
    open_page, finished
):
    """Streamlit drops a bound parameter from links to other pages, and raises where `switch_page`
    sets it.
    """
    finished.set_jobs(job(SETTINGS, "done"))
    bound = {}
    linked = {}
    for name, address in [*PAGES, ("prune", {"goal": SWEEP})]:
        app = open_page("overview", run=RUN.key, limits="1.3,5")
        for key, value in address.items():
            app.query_params[key] = value
        app.switch_page(f"pages/{name}.py").run()
        assert markup(app).count("<h1") == 1, name
        drawn = [
            element.proto
            for element in app.main
            if hasattr(element.proto, "query_param_key")
        ]
        bound.setdefault(name, set()).update(
            filter(None, (proto.query_param_key for proto in drawn))
        )
        for target in (menu_links(app) | links(app)).values():
            linked.setdefault(
                target.partition("?")[0].strip("/") or "overview", set()
            ).update(query_of(target))
    assert {"model", "sparsity"} <= bound["prune"] and {
        "run",
        "limits",
        "right",
    } <= linked["compare"]
    for page, names in bound.items():
        for target, linked_names in linked.items():
            assert page == target or not names & linked_names, (page, target)


def refuse(*_):
    raise StoreError("The data folder /x cannot be used.", "Is it locked?")


@pytest.mark.parametrize("name", ["overview", "settings"])
def test_a_data_folder_that_cannot_be_used_is_said_in_words(name, monkeypatch):
    monkeypatch.setattr(frame, "backend", refuse)
    app = client(name).run()
    assert (
        not app.exception
        and "The data folder /x cannot be used. Is it locked?" in words(app)
    )


def test_a_job_that_cannot_be_asked_after_is_said_in_words_where_it_stands(
    open_page, backend
):
    backend.set_jobs(job(SETTINGS))
    app = open_page("overview")
    jobs = backend.jobs
    calls = []

    def to_the_page_alone(limit):
        """The notices ask too, for fewer; after table, list and live jobs, what the page watches is
        refused.
        """
        if limit == job_panel.JOBS_LISTED:
            calls.append(limit)
        return jobs(limit) if len(calls) <= 3 else refuse()

    backend.jobs = to_the_page_alone
    app.query_params["view"] = "jobs"
    app.switch_page("pages/runs.py").run()
    assert not app.exception
    assert "1 running, none waiting." in words(
        app
    ) and "The data folder /x cannot be used." in words(app)


def texts_as(text):
    """The records with this text in place of all that a model or a file has brought."""

    def changed(outcome):
        tokens = tuple(replace(target, text=text) for target in outcome.tokens)
        top = tuple(replace(word, text=text) for word in outcome.top)
        return replace(outcome, target=text, answer=text, tokens=tokens, top=top)

    return [
        replace(record, outcomes=tuple(map(changed, record.outcomes)))
        for record in RECORDS
    ]


@pytest.mark.parametrize(("page", "address"), [*PAGES, TOGETHER], ids=str)
def test_text_of_models_files_users_and_machines_is_shown_as_text(
    page, address, open_page, backend
):
    text = " ".join(STORABLE)
    model = "".join(filter(str.isprintable, text))
    backend.add_run(
        (replace(RUN, settings=replace(SETTINGS, model=model)), texts_as(text))
    )
    damage = Damage(
        kind="record",
        name=f"record/{RUN.sparse[0]}",
        what=model,
    )
    export = replace(EXPORT, model=model, folder=f"/{model}")
    backend.put(
        replace(specimens.passages(), contexts=(text,) * 120),
        replace(FOUND, n_damaged=1, damaged=(damage,)),
        export,
    )
    backend.user_data.name_run(RUN.key, NAME)
    second = replace(SETTINGS, sparsities_permille=(400,))
    backend.set_jobs(
        job(
            SETTINGS,
            message=text,
            id=2,
        ),
        job(
            second,
            "failed",
            error_text=text,
            error_advice=text,
        ),
    )
    facts = MachineFacts(gpus=(text,), problem=text)
    machine = ClusterMachine(
        address="tls://x",
        name=text,
        n_slots=1,
        facts=facts,
    )
    backend.known_cluster = ClusterView(
        address=text,
        trouble="",
        machines=(machine,),
    )
    app = open_page(page, **address)
    drawn = markup(app)
    assert not [tag for tag in ("<img", "<style>*", 'href="javascript') if tag in drawn]
    shows_as_text(
        drawn + "".join([*links(app), *(widget.label for widget in app.checkbox)])
    )


def test_a_model_named_like_markup_is_shown_as_text(open_page, backend):
    backend.add_run(
        (replace(RUN, settings=replace(SETTINGS, model="<b>**x**</b>")), RECORDS)
    )
    app = open_page("overview")
    assert "<b>**x**</b>, least-squares 10, 20, 30 % on Cloze passages" in words(app)


@pytest.mark.parametrize("view", ["", "layers"])
def test_every_page_of_a_run_that_was_stopped_says_so_and_one_of_them_resumes_it(
    view, open_page, backend
):
    run = backend.add_run(specimens.run(finished=False, n_sparse=1))
    backend.set_jobs(job(SETTINGS, "cancelled", error_text="Stopped on request."))
    app = open_page("overview", run=run.key)
    second = open_page("compare", run=run.key, view=view)
    assert [
        words(page).count(": 1 of its 3 sparse models is done.")
        for page in (app, second)
    ] == [
        1,
        1,
    ]
    assert [widget.label for widget in app.button].count(
        "Resume"
    ) == 1 and "Resume" not in str(second.button)
    backend.set_jobs()
    button(open_page("overview", run=run.key), "Resume").click().run()
    assert [job.state for job in backend.jobs()] == ["queued"]
    assert "1 of its 3 sparse models" not in words(
        open_page("compare", run=run.key, view=view)
    )


@pytest.mark.parametrize(
    ("kind", "key", "said"),
    [
        (Record, LAST, "The record of 30 % was damaged and is set aside."),
        (
            Record,
            DENSE,
            "The results of this run are gone: its dense record was damaged and is set aside.",
        ),
        (
            Run,
            RUN.key,
            "The results of this run are gone: its own record was damaged and is set aside.",
        ),
    ],
)
def test_a_damaged_record_is_named_on_the_page_whoever_looked_first(
    open_page, finished, kind, key, said
):
    harm_entry(finished._store, "records", f"{kind.__name__.lower()}/{key}")
    assert finished._store.get(kind, key) is None
    finished.set_jobs(job(SETTINGS, "done"))
    assert said in words(open_page("overview", run=RUN.key))


@pytest.mark.parametrize(
    ("kind", "key"),
    [(Run, RUN.key), (Record, DENSE), (Record, LAST), (Passages, "passages")],
)
def test_damaged_results_count_as_lost_on_every_page(open_page, finished, kind, key):
    harm_entry(finished._store, "records", f"{kind.__name__.lower()}/{key}")
    text = {
        name: words(open_page(name, right="30 %"))
        for name in ("overview", "runs", "compare", "models")
    }
    text["layers"] = words(open_page("compare", view="layers"))
    open_page("compare", blind="true")
    compare = {
        LAST: "These two models cannot be compared.",
        "passages": "The text of this passage is no longer stored.",
    }
    assert compare.get(key, "Nothing to compare yet.") in text["compare"]
    assert ("Half of the layers lost" in text["layers"]) == (key in (LAST, "passages"))


def test_a_job_at_a_model_that_its_run_has_not_raises_nowhere(open_page, backend):
    settings = replace(SETTINGS, sparsities_permille=(100,))
    backend.put(
        replace(
            RUN,
            key=settings.key(),
            settings=settings,
            sparse=(),
            finished=False,
        )
    )
    backend.set_jobs(job(settings, point=99, n_right=1, done=2))
    open_page("overview", run=settings.key())
    open_page("runs")
