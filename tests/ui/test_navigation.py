"""The menu leads to every page, and takes run and tolerance along to those that are about a run."""

import pytest

from sparsedash.schema.tolerance_settings import Tolerance
from sparsedash.ui.navigation import limits_text, parse_limits
from tests.ui.conftest import button, links, menu_links, query_of

JUDGING = ("Overview", "Prune", "Runs", "Compare", "Models")
ABOUT_A_RUN = ("Overview", "Compare", "Models")


def menu(app):
    """The parameters of the menu's links, by their titles."""
    return {title: query_of(address) for title, address in menu_links(app).items()}


@pytest.mark.parametrize("name", ["overview", "compare"])
def test_the_run_that_is_shown_stays_chosen_and_every_link_has_the_tolerance(
    name, open_page, two_runs
):
    older, newer = two_runs
    assert menu(open_page(name))["Models"] == {"run": newer.key}
    app = open_page(name, run=older.key, limits="1.5")
    assert menu(app)["Compare"] == {"run": older.key, "limits": "1.5,2"}
    queries = [
        query_of(address) for address in links(app).values() if "run=" in address
    ]
    assert queries and all(query["limits"] == "1.5,2" for query in queries)


def test_pages_about_no_run_remember_it_and_hold_nothing_of_it_in_their_address(
    open_page, two_runs
):
    older, _ = two_runs
    app = open_page("compare", run=older.key, limits="1.5,3")
    app.query_params.clear()
    app.switch_page("pages/settings.py").run()
    assert not app.exception and "run" not in app.query_params
    remembered = {"limits": "1.5,3"}
    assert list(menu(app)) == [*JUDGING, "Settings"]
    for title, query in menu(app).items():
        run = {"run": older.key} if title in ABOUT_A_RUN else {}
        assert query == (run | remembered if title in JUDGING else {})


def test_limits_of_tasks_come_back_whatever_is_in_their_names():
    queries = Tolerance(tasks=(("file:/data/a, b.yaml", 3.0), ("builtin:copying", 4.5)))
    assert parse_limits(limits_text(queries)) == queries


def test_a_run_that_is_not_there_is_not_chosen_but_one_that_is_started_is(
    open_page, backend, two_runs
):
    assert menu(open_page("overview", run="gone"))["Compare"] == {}
    app = open_page("prune")
    button(app, "Start").click().run()
    assert menu(app)["Overview"] == {"run": backend.submitted[-1].key()}
