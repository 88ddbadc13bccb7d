"""Every parameter of an address, found by what the pages bind and read: a page opened with it shows
what it says.
"""

from dataclasses import replace

import pytest
from streamlit.runtime.state import query_params_proxy

from sparsedash.catalog.presets import method_named
from sparsedash.ui.form_address import SWEEP
from sparsedash.ui.navigation import TITLES
from tests.ui import specimens
from tests.ui.conftest import links, menu_links, query_of, words
from tests.ui.filled_backend import job
from tests.ui.test_every_page import PAGES

RUN = specimens.run()[0]
OTHER = replace(specimens.SETTINGS, model="owner/other")
RACE = replace(OTHER, methods=tuple(map(method_named, ("best", "flap", "magnitude"))))
NEXT = (
    {"own": "true"},
    {"goal": SWEEP},
    {"own": "true", "pattern": "n:m"},
    {"own": "true", "rounds": "2"},
)
OPENED = [
    ("overview", {"run": RACE.key()}),
    *PAGES,
    *(("prune", more) for more in NEXT),
    ("overview", {"against": "reading"}),
    ("runs", {"chosen": RUN.key[:16], "together": "tasks"}),
]
SAID = {
    "run": (OTHER.key()[:16], "owner/other"),
    "passage": ("20", "Passage 20"),
    "filter": ("both-wrong", "1 of 8"),
    "groups": ("true", "groups, two intervals each"),
    "chosen": (RUN.key[:16], "1 chosen"),
    "together": ("1", "The chart of this run"),
}
"""Parameters whose value no widget holds: one, and words of the page that is opened with it."""
FORMS = {"limits": "1.07,3,boolq:1.07"}
"""Values of those that are no number."""
WITH = {"passage": {"filter": "all"}, "together": {"chosen": RUN.key[:16]}}
"""Others without which they say nothing."""


@pytest.fixture
def filled(finished):
    """Three runs with results, and more than one page of those without."""
    for i in range(26):
        finished.put(
            replace(
                RUN,
                key=f"{i:064d}"[::-1],
                sparse=(),
                started_at=1.0,
            )
        )
    for settings in (OTHER, RACE):
        finished.add_run(specimens.run(settings))
    finished.put(replace(RUN, started_at=RUN.started_at + 1))
    finished.set_jobs(job(specimens.SETTINGS, "done"))
    return finished


def parameter(widget):
    """The parameter that holds a widget's value, or nothing."""
    chosen = (
        widget.key.removeprefix("chosen-")
        if (widget.key or "").startswith("chosen-")
        else ""
    )
    return chosen or getattr(widget.proto, "query_param_key", "")


def change(app, widget):
    """Choose something else. Returns the parameter's value and the widget's; None for what has no
    value.
    """
    match type(widget).__name__:
        case "Selectbox":
            widget.select_index(
                (widget.index or 0) + 1
                if (widget.index or 0) + 1 < len(widget.options)
                else 0
            )
        case "ButtonGroup":
            other_option = next(
                option for option in widget.options if option not in str(widget.value)
            )
            widget.set_value(
                [other_option] if isinstance(widget.value, list) else other_option
            )
        case "NumberInput":
            value = 40 if widget.value is None else widget.value
            widget.set_value(
                value + widget.step
                if widget.max is None or value + widget.step <= widget.max
                else value - widget.step
            )
        case "Pagination":
            widget.set_value(2)
        case "TextInput" | "TextArea":
            widget.set_value("12.5")
        case "Toggle":
            widget.set_value(not widget.value)
        case "Multiselect":
            widget.set_value(["piqa"])
        case _:
            return None
    if not getattr(widget.proto, "query_param_key", ""):
        name = parameter(widget)
        return app.run().query_params[name], next(
            the_widget.value for the_widget in app.main if the_widget.key == widget.key
        )
    value = widget.value
    text = (
        value[0]
        if isinstance(value, list)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )
    return text.lower() if isinstance(value, bool) else text, value


@pytest.mark.parametrize("page", TITLES)
def test_a_page_opened_with_a_parameter_shows_what_it_says(
    page, open_page, filled, monkeypatch
):
    proxy = query_params_proxy.QueryParamsProxy
    read = set()
    seen = {"view"}

    def recording(plain):
        def recorded(self, key, *args):
            read.add(key)
            return plain(self, key, *args)

        return recorded

    for name in ("get", "get_all"):
        monkeypatch.setattr(proxy, name, recording(getattr(proxy, name)))
    for address in (more for name, more in OPENED if name == page):
        read.clear()
        app = open_page(page, **address)
        views = [widget.value for widget in app.main if widget.key == "chosen-view"]
        assert views in ([], [address.get("view", "")])
        widgets = {
            name: widget.key for widget in app.main if (name := parameter(widget))
        }
        for name in sorted((read | set(widgets)) - seen - set(address)):
            result = (
                change(*(app, next(w for w in app.main if w.key == key)))
                if (key := widgets.get(name))
                else None
            )
            value, shown = result or SAID.get(name) or (FORMS.get(name, "1.07"), "")
            opened = open_page(page, **address | WITH.get(name, {}) | {name: value})
            if result:
                assert (
                    next(box.value for box in opened.main if box.key == key) == shown
                ), name
            elif name in SAID:
                assert shown in words(opened), name
            else:
                assert query_of(menu_links(opened)["Overview"])[name] == value
            app = open_page(page, **address)
            seen.add(name)


def test_the_settings_are_changed_with_the_tolerance_that_was_chosen_here(
    open_page, backend
):
    run = backend.add_run(specimens.search())
    for limits in ("1.7,4", "1.3,30"):
        form = query_of(
            links(
                open_page(
                    "overview",
                    run=run.key,
                    limits=limits,
                )
            )["Change the settings"]
        )
        shown = open_page("prune", **form)
        ratio, points = limits.split(",")
        assert shown.number_input(key="tolerance-ratio").value == float(ratio)
        assert shown.number_input(key="tolerance-points").value == float(points)


@pytest.mark.parametrize("asked", [RUN.key[:12], RUN.key[:16]])
def test_a_run_is_named_by_the_beginning_of_its_key_where_no_other_begins_so(
    asked, open_page, finished
):
    assert query_of(menu_links(open_page("compare", run=asked))["Overview"]) == {
        "run": RUN.key
    }
    finished.put(replace(RUN, key=RUN.key[:20] + "0" * 44))
    assert "There is no run with this address." in words(
        open_page("compare", run=asked)
    )
    assert "There is no run with this address." in words(
        open_page("overview", run=RUN.key[:11])
    )
