"""The menu leads to every page, and takes the chosen run and what may be lost along to those that are about a run."""

from dataclasses import replace

import pytest

from tests.ui import specimens
from tests.ui.conftest import links, menu_links, query_of

TITLES = ("Overview", "Prune", "Jobs", "Compare", "Layers", "Published")
ABOUT_A_RUN = ("Overview", "Compare", "Layers")


def menu(app):
    """What the addresses of the menu's links say, by their titles."""
    return {title: query_of(menu_links(app)[title]) for title in TITLES}


@pytest.fixture
def two_runs(backend):
    """An older run and a newer one."""
    older = backend.add_run(specimens.run(replace(specimens.SETTINGS, sparsities_permille=(400, 500))))
    return older, backend.add_run(specimens.run())


@pytest.mark.parametrize("name", ["overview", "compare", "layers"])
def test_the_run_that_is_shown_stays_chosen(name, open_page, two_runs):
    older, newer = two_runs
    assert menu(open_page(name, run=older.key))["Compare"] == {"run": older.key}
    assert menu(open_page(name))["Layers"] == {"run": newer.key}


@pytest.mark.parametrize("name", ["prune", "jobs", "published"])
def test_pages_that_are_about_no_run_remember_it_and_hold_nothing_of_it_in_their_address(name, open_page, two_runs):
    older, _ = two_runs
    app = open_page("compare", run=older.key, within="1.5", points="3")
    app.query_params.clear()
    app.switch_page(f"pages/{name}.py").run()
    assert not app.exception
    found = menu(app)
    for title in TITLES:
        carried = {"run": older.key, "within": "1.5", "points": "3"} if title in ABOUT_A_RUN else {}
        assert found[title] == carried
    assert "run" not in app.query_params


def test_every_link_to_a_page_about_a_run_carries_what_may_be_lost(open_page, finished):
    for name in ("overview", "compare", "layers"):
        app = open_page(name, within="1.5")
        asked = [query_of(address) for address in links(app).values() if "run=" in address]
        assert asked and all(query["within"] == "1.5" for query in asked)


def test_a_run_that_is_not_there_is_not_taken_along(open_page, finished):
    assert menu(open_page("overview", run="gone"))["Compare"] == {}


def test_a_run_that_is_started_is_the_chosen_one(open_page, backend, two_runs):
    app = open_page("prune")
    next(button for button in app.button if button.label == "Start").click().run()
    assert menu(app)["Overview"] == {"run": backend.submitted[-1].key()}
