"""The page with all runs in its empty, running, failed and done state, and everything it keeps in
its address.
"""

from dataclasses import replace

from sparsedash.reporting.run_list import RUN_ADDRESS_LENGTH
from sparsedash.schema.records import Record, Run
from sparsedash.schema.user_records import RunMark
from sparsedash.ui.runs_table import ROWS_A_PAGE
from tests.storage.every_kind import flip
from tests.storage.test_run_files import named
from tests.ui import specimens
from tests.ui.conftest import button, links, markup, menu_links, opened, query_of, words
from tests.ui.filled_backend import job

SETTINGS = specimens.SETTINGS
NAME = "least-squares 10, 20, 30 % on Cloze passages"
TITLE = f"SmolLM2 135M, {NAME}"
OTHER = "owner/model, least-squares 10 % on Cloze passages"


def short(run):
    return run.key[:RUN_ADDRESS_LENGTH]


def box(app, run):
    """The box that ticks a run."""
    return app.checkbox(key=f"tick-{short(run)}")


def ticked(app):
    return app.query_params.get("chosen", [])


def listed(app):
    """The titles of the rows, from top to bottom."""
    return [label for label, address in links(app).items() if "run=" in address]


def test_the_empty_page_invites_and_tells_of_runs_that_ended_without_a_result(
    open_page, backend, example
):
    app = open_page("runs")
    assert words(app).startswith("No run has a result yet. Runs will be listed here")
    opens = "Judge answer files"
    assert set(links(app)) == {"Prune a model", "Look at an example", opens}
    settings = replace(SETTINGS, sparsities_permille=(700,))
    backend.set_jobs(job(SETTINGS, "failed", id=2), job(settings, "cancelled", id=1))
    app = open_page("runs")
    assert "2 runs ended without a result." in words(
        app
    ) and "See why in the list of jobs" in links(app)


def test_every_run_but_the_example_is_a_row_with_a_link_to_its_page(
    open_page, backend, two_runs, example
):
    older, _ = two_runs
    app = open_page("runs")
    page_text = words(app)
    assert page_text.startswith("None of 2 runs has a model within your limits")
    assert listed(app) == [OTHER, TITLE] and "Example" not in page_text
    assert query_of(links(app)[TITLE]) == {"run": older.key}
    assert "Method: least-squares" not in page_text, "it stands in the name"
    assert (
        "Verdict: ? undecided at 10 %" in page_text
        and "Started: 24 November 2025" in page_text
        and "4 min" in page_text
    )


def test_the_tolerance_is_in_the_address_and_in_every_link(open_page, finished):
    app = open_page("runs", limits="1000,100")
    assert "Verdict: ✓ within at 30 %" in words(app)
    assert query_of(links(app)[TITLE]) == {"run": SETTINGS.key(), "limits": "1000,100"}
    assert query_of(menu_links(app)["Runs"]) == {"limits": "1000,100"}
    assert query_of(menu_links(app)["Settings"]) == {}


def test_a_search_is_opened_judged_as_it_is_here(open_page, backend):
    run = backend.add_run(specimens.search())
    app = open_page("runs", limits="1.1,2")
    (title,) = listed(app)
    assert title == "SmolLM2 135M, least-squares, a search on Cloze passages"
    assert query_of(links(app)[title]) == {"run": run.key, "limits": "1.1,2"}


def test_the_columns_are_chosen_and_stand_in_the_address(open_page, finished):
    app = open_page("runs", columns=["Removed", "Method"])
    page_text = words(app)
    assert "Method: least-squares Removed: 10, 20, 30 %" in page_text
    assert "Verdict:" not in page_text
    app.button_group(key="columns").set_value(["Cost"]).run()
    assert "Method:" not in words(app) and "Cost:" in words(app)


def test_text_model_and_order_narrow_the_rows_and_stand_in_the_address(
    open_page, backend, two_runs
):
    app = open_page("runs")
    app.selectbox(key="chosen-sort").select("oldest").run()
    assert app.query_params["sort"] == "oldest"
    assert listed(open_page("runs", sort="oldest")) == [TITLE, OTHER]
    app.selectbox(key="chosen-model").select("owner/model").run()
    assert listed(app) == listed(open_page("runs", model="owner/model")) == [OTHER]
    assert "“x” is no model here. Showing All models." in words(
        open_page("runs", model="x")
    )
    for model in ("/a/final", "/b/final"):
        backend.add_run(specimens.run(replace(SETTINGS, model=model)))
    app = open_page("runs", model="/b/final")
    assert app.selectbox(key="chosen-model").options[1:3] == ["final", "final (2)"]
    assert app.run().query_params["model"] == "/b/final"
    app = open_page("runs")
    app.text_input(key="contains").input("SMOLlm2").run()
    assert listed(app) == [TITLE]
    app.text_input(key="contains").input("nowhere").run()
    assert "No run matches. Clear the search, or show all models." in words(app)
    app.switch_page("pages/prune.py").run()
    assert (
        app.selectbox(key="text").value == "builtin:cloze"
        and "text" not in app.query_params
    )


def test_ticked_runs_stay_ticked_while_the_table_does_not_show_them_and_deleted_ones_are_left_out(
    open_page, two_runs
):
    older, newer = two_runs
    app = open_page("runs", chosen=short(older), model="owner/model")
    assert "1 chosen, 1 of them not in this list" in words(app)
    box(app, newer).check().run()
    assert ticked(app) == [short(older), short(newer)]
    button(app, "Clear").click().run()
    assert "chosen" not in app.query_params and "Select runs to overlay" in words(app)
    gone = open_page("runs", chosen="0123456789abcdef", together="1")
    assert "Select runs to overlay" in words(gone) and not gone.get("plotly_chart")


def test_another_order_leads_back_to_the_first_page(open_page, backend):
    for i in range(ROWS_A_PAGE + 1):
        backend.put(replace(specimens.run()[0], key=f"{i:064d}"[::-1]))
    app = open_page("runs", page="2")
    assert "26 to 26 of 26 runs" in words(app)
    app.selectbox(key="chosen-sort").select("oldest").run()
    assert "1 to 25 of 26 runs" in words(app)


def test_a_run_without_results_is_a_row_that_can_be_neither_drawn_nor_deleted(
    open_page, backend
):
    settings = replace(SETTINGS, sparsities_permille=(700,))
    backend.set_jobs(job(settings))
    app = open_page(
        "runs",
        chosen=settings.key()[:RUN_ADDRESS_LENGTH],
        together="1",
    )
    page_text = words(app)
    assert (
        page_text.startswith("1 run under way, no result yet.")
        and "▶ running 0 of 1 model" in page_text
    )
    assert (
        "None of the chosen runs has a sparse model with answers yet." in page_text
        and "Delete" not in markup(app)
    )


def test_a_run_is_ticked_overlaid_named_pinned_and_deleted(
    open_page, backend, two_runs
):
    older, newer = two_runs
    app = open_page("runs", chosen=short(newer))
    box(app, older).check().run()
    assert ticked(app) == [short(newer), short(older)] and not app.get(
        "plotly_chart"
    ), "drawn when it is asked for"
    button(app, "Overlay").click().run()
    (chart,) = app.get("plotly_chart")
    assert chart.proto.alt.startswith(
        "Word perplexity over 120 passages against the share of MLP channels removed"
    )
    assert "Each run against its own dense model." in words(app)
    button(app, "Close the chart").click().run()
    assert not app.get("plotly_chart") and "together" not in app.query_params
    box(app, newer).uncheck().run()
    assert not [button for button in app.button if button.label == "Save"], (
        "what is saved before it is open stays open"
    )
    app = opened(app, f"name-of-{short(older)}")
    app.text_input(key=f"name-{short(older)}").set_value("  For the talk ")
    button(app, "Save").click().run()
    assert not [button for button in app.button if button.label == "Save"]
    button(app, "Pin").click().run()
    assert backend.user_data.marks() == {
        older.key: RunMark(name="For the talk", pinned=True)
    }
    assert listed(app) == ["For the talk", OTHER] and "★ pinned" in words(app)
    page_text = words(open_page("overview", run=older.key))
    assert page_text.count("For the talk: SmolLM2 135M") == 1
    app = opened(open_page("runs", chosen=short(older)), "runs-delete")
    assert "“For the talk” stays: it is pinned; unpin it first." in words(app)
    button(app, "Unpin").click().run()
    app = opened(app, "runs-delete")
    assert "Delete “For the talk” with the answers of 2 models" in words(app)
    button(app, "Delete for good").click().run()
    assert backend.runs() == [newer] and set(backend._store.keys(Record)) == {
        newer.dense,
        *newer.sparse,
    }
    assert "Deleted: “For the talk”" in app.toast[0].value
    assert listed(app) == [OTHER] and "Select runs to overlay" in words(app)


def test_an_exported_run_is_opened_and_ticked_and_a_changed_file_is_refused(
    open_page, backend
):
    run, records, passages = named(*specimens.run(), specimens.passages())
    backend.put(*records, passages, run)
    app = opened(open_page("runs", chosen=short(run)), "run-along")
    assert any(
        button.proto.label.startswith("Download,")
        for button in app.get("download_button")
    )
    data = backend.pack_run(run.key)
    backend.drop(Run, run.key)
    app = open_page("runs")
    for file, refused in ((flip(data), True), (data, False)):
        app.file_uploader(key="run-file").set_value(
            [("a.run", file, "application/octet-stream")]
        ).run()
        assert ('role="alert"' in markup(app)) == refused
        assert backend.runs() == ([] if refused else [run]) and ticked(app) == (
            [] if refused else short(run)
        )


def test_answers_that_are_not_read_yet_are_counted(open_page, backend, two_runs):
    backend.verdict_cache.verdicts = lambda runs, tolerance: {}
    assert "The answers of 2 runs are being read for the first time." in words(
        open_page("runs")
    )


def test_runs_whose_records_are_damaged_are_named(open_page, backend, monkeypatch):
    monkeypatch.setattr(type(backend), "damaged_runs", lambda self: ["ab" * 32])
    note = "Not listed, because their records are damaged: 1 run, abababababab."
    assert note in words(open_page("runs"))
    backend.add_run(specimens.run())
    assert note in words(open_page("runs"))
