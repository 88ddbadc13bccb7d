"""The table of the ticked runs' models by tasks, and what the address keeps of it."""

from dataclasses import replace

import pytest

from sparsedash.reporting.run_list import RUN_ADDRESS_LENGTH
from tests.question_sets import verdicts
from tests.ui import specimens
from tests.ui.conftest import HOSTILE, button, markup, shows_as_text, words

SETTINGS = replace(specimens.SETTINGS, sparsities_permille=(200,))


@pytest.fixture
def two_runs(backend):
    """The address of two base models' runs; every sparse model lost a quarter of the sums."""
    chosen = []
    for i, name in enumerate(("owner/one", HOSTILE[0])):
        run, records = specimens.run(replace(SETTINGS, model=name))
        records = [
            replace(
                row,
                key=f"{i}-{row.key}",
                model=name,
            )
            for row in records
        ]
        sets = verdicts(both=300, broke=100, task="sums")
        answers = [
            replace(row, key=f"{record.key}-sums")
            for row, record in zip(sets, records, strict=True)
        ]
        backend.put(*answers)
        dense, sparse = records
        answer_keys = {
            record.key: (row.key,) for record, row in zip(records, answers, strict=True)
        }
        run = replace(
            run,
            dense=dense.key,
            sparse=(sparse.key,),
            answers=answer_keys,
            started_at=1.0 - i,
        )
        chosen.append(backend.add_run((run, records)).key[:RUN_ADDRESS_LENGTH])
    return {"chosen": chosen, "together": "tasks"}


def heads(app):
    """The first cells of the table's rows."""
    return [
        row.partition("</th>")[0] for row in markup(app).split('<th scope="row">')[1:]
    ]


def test_the_table_of_two_base_models_is_reached_from_the_chart_and_says_the_verdicts(
    open_page, two_runs
):
    app = open_page("runs", **two_runs | {"together": "1"})
    app.button_group(key="chosen-together").set_value("tasks").run()
    assert app.query_params["together"] == "tasks" and not app.get("plotly_chart")
    page_text = words(app)
    assert (
        "Of 3 models against one, dense: 2 beyond a limit" in page_text
        and "✕ −25.0" in page_text
    )
    assert (
        "intervals are wider than on the pages of single runs" in page_text
        and "<img" not in markup(app)
    )
    shows_as_text(markup(app) + "".join(app.selectbox(key="chosen-baseline").options))
    button(app, "Close the table").click().run()
    assert "together" not in app.query_params


def test_baseline_filter_and_order_are_kept_in_the_address(
    open_page, backend, two_runs
):
    app = open_page("runs", **two_runs)
    assert len(heads(app)) == 4
    sparse = app.selectbox(key="chosen-baseline").options[1]
    assert sparse == "one, least-squares 20\u00a0%"
    app.selectbox(key="chosen-baseline").select_index(1).run()
    app.selectbox(key="chosen-rows").select_index(1).run()
    app.selectbox(key="chosen-order").select_index(3).run()
    kept = {name: app.query_params[name] for name in ("baseline", "rows", "order")}
    assert kept == {
        "baseline": backend.runs()[0].sparse[0],
        "rows": "beyond",
        "order": "task-sums",
    }
    again = open_page("runs", **two_runs | kept)
    assert (
        heads(again) == heads(app)
        and "baseline" in heads(again)[0]
        and "20\u00a0%" in heads(again)[0]
    )


def test_one_run_without_tasks_says_what_is_missing(open_page, finished):
    run = finished.runs()[0]
    app = open_page(
        "runs",
        chosen=run.key[:RUN_ADDRESS_LENGTH],
        together="tasks",
    )
    assert (
        "None of these runs has answers to tasks" in words(app) and len(heads(app)) == 4
    )
