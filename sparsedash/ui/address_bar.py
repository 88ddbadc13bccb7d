"""Choices kept in the page's address, so that a refresh or a copied link shows the same.

Streamlit binds a widget to a parameter by `bind="query-params"`, which is used wherever it can do
it. It cannot (1.67) where several pages have the parameter, since it drops one that is bound on
another page; where code sets the parameter, which raises; and where options have texts of their
own, since it writes the texts into the address.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from math import ceil, isinf
from typing import Any, Literal, TypeVar

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from sparsedash.catalog.budgets import BUDGET_TITLES, BUDGETS
from sparsedash.reporting.charts.tradeoff_data import Measure
from sparsedash.reporting.html import element, escape, paragraph, visible, widget_label
from sparsedash.reporting.verdicts import LEVELS
from sparsedash.reporting.wording import first_upper, limit_factor, plural
from sparsedash.schema.fields import FieldRow, field_rows
from sparsedash.schema.method_settings import Budget
from sparsedash.schema.tolerance_settings import Tolerance
from sparsedash.stats.task_verdicts import TaskResult
from sparsedash.ui import widgets
from sparsedash.ui.navigation import current_tolerance, whole_tolerance_query

T = TypeVar("T")
Query = dict[str, str | list[str]]
"""The parameters of an address; one may have several values."""

BOUND: Literal["query-params"] = "query-params"
"""The `bind` of a widget whose key and value Streamlit keeps in the address."""
PAGE = "page"
VIEW = "view"
"""The parameters for the page of a long list, from 1, and for the view of a page that has two."""

_LONGEST_SHOWN = 80
"""Characters of a value of the address that are shown; a longer one was not typed by a person."""


def query_value(name: str) -> str:
    """The value of a parameter of the address, or an empty one."""
    return st.query_params.get(name, "")


def set_query(parameters: Mapping[str, str]) -> None:
    """Change these parameters of the address; an empty value removes one."""
    for name, value in parameters.items():
        if value:
            st.query_params[name] = value
        else:
            st.query_params.pop(name, None)


def bound(name: str) -> Literal["query-params"] | None:
    """The `bind` of a whole-number field; None where the address has an infinite value.

    Streamlit keeps a bound field's own value for anything else that is no number, but raises for
    this.
    """
    with suppress(ValueError):
        if any(isinf(float(value)) for value in st.query_params.get_all(name)):
            return None
    return BOUND


def select(
    name: str,
    title: str,
    options: Mapping[str, str],
    usual: str,
    *,
    along: Mapping[str, str] | None = None,
    noun: str = "",
    note_in: DeltaGenerator | None = None,
) -> str:
    """The value of the parameter `name`, chosen in a select box; else the usual one.

    options: the text of each value. along: other parameters that a change sets. noun: what the
    options are, for a note that the address names no such option, in `note_in` or under the box.
    """
    wanted = query_value(name)
    key = f"chosen-{name}"
    chosen = wanted if wanted in options else usual
    st.session_state[key] = chosen
    st.selectbox(
        title,
        list(options),
        key=key,
        on_change=_keep_choice,
        args=(name, chosen, along or {}),
        filter_mode="contains",
        format_func=lambda value: visible(options[value]),
    )
    if noun and wanted and wanted != chosen:
        with note_in or st.container():
            widgets.note(
                f"“{wanted[:_LONGEST_SHOWN]}” is no {noun} here. Showing {options[chosen]}."
            )
    return chosen


def _keep_choice(name: str, before: str, along: Mapping[str, str]) -> None:
    """Write a changed choice into the address. before: what the box showed."""
    # A fragment's timer may bring the value of a box that another choice took away, and the address
    # before that.
    chosen = st.session_state[f"chosen-{name}"]
    if chosen != before:
        set_query({**along, name: chosen})


def choose_budget(
    name: str, title: str, usual: Budget, names: Mapping[Budget, str] = BUDGET_TITLES
) -> Budget:
    """The budget in the parameter `name`, chosen in a select box by these names."""
    titles = {str(budget): first_upper(text) for budget, text in names.items()}
    chosen = select(name, title, titles, usual, noun="budget")
    return next(budget for budget in BUDGETS if budget == chosen)


def choose_view(views: Mapping[str, str], name: str = VIEW) -> str:
    """The view of the page, or of a part of it, chosen from a row of buttons.

    views: titles by the values of the parameter `name`; the first is the usual one.
    """
    wanted = query_value(name)
    key = f"chosen-{name}"
    st.session_state[key] = wanted if wanted in views else next(iter(views))
    st.segmented_control(
        "View",
        list(views),
        format_func=views.__getitem__,
        key=key,
        required=True,
        on_change=lambda: set_query({name: st.session_state[key]}),
        label_visibility="collapsed",
    )
    return str(st.session_state[key])


def choose_measure(measures: Sequence[Measure]) -> Measure:
    """The measure that a chart shows, chosen from a row of buttons; the address keeps it."""
    chosen: Measure | None = st.segmented_control(
        "What the chart shows",
        measures,
        default=measures[0],
        key="measure",
        bind=BOUND,
        required=True,
        label_visibility="collapsed",
    )
    return chosen or measures[0]


Step = tuple[str, str, Mapping[str, str] | None, str | None]
"""A button: name, icon, the parameters of the address that it sets (None: disabled), and its key on
the keyboard.
"""


def draw_steps(
    key: str,
    steps: Sequence[Step],
    position: str,
    kind: Literal["secondary", "tertiary"],
) -> None:
    """Draw buttons to what comes before and after, and the position in words."""
    with widgets.row(f"{key}s"):
        for name, icon, to, shortcut in steps:
            st.button(
                name,
                key=f"{key}-{name}",
                icon=f":material/{icon}:",
                type=kind,
                disabled=to is None,
                shortcut=shortcut,
                on_click=set_query,
                args=(to or {},),
            )
        widgets.show(paragraph(position, css="sd-muted sd-count"))


def page_of(runs: Sequence[T], size: int) -> Sequence[T]:
    """The page of a long list of runs that the address names; draws the choice of another page."""
    if len(runs) <= size:
        return runs
    number = st.pagination(ceil(len(runs) / size), key=PAGE, bind=BOUND)
    first = (number - 1) * size
    last = min(len(runs), first + size)
    widgets.remark(f"{first + 1} to {last} of {len(runs)} runs")
    return runs[first:last]


_RUNS_RULE = (
    "Within: the whole interval of word perplexity is inside its limit, and accuracy is not beyond its own. "
    f"Beyond: the whole interval of either measure is outside. Levels of the intervals: {LEVELS}"
)


def choose_tolerance(
    rule: str = _RUNS_RULE, results: Iterable[TaskResult] = ()
) -> None:
    """Draw the button that opens the fields of the tolerance, and of each task judged by accuracy.

    rule: what the verdicts mean by it. results: of the tasks.
    """
    allowed = current_tolerance()
    points = f"{allowed.points:g} {plural(allowed.points, 'point')}"
    text = f"Limit: perplexity {limit_factor(allowed.ratio)}, {points}"
    row = field_rows(Tolerance)["points"]
    # One field a task, whatever number of models answered it.
    judged = {}
    for result in results:
        if result.loss and result.loss.measure == "accuracy":
            judged[result.task] = result.own_limit
    with st.popover(text, type="tertiary", icon=":material/tune:", key="tolerance"):
        tolerance_fields(allowed)
        for task, limit in judged.items():
            label = f"{widget_label(task)}, points lost at most"
            changed = partial(_with_task, allowed, task)
            _limit_field(
                row, label, f"limit-{task}", limit or allowed.points, 0.5, changed
            )
        widgets.note(rule)


def tolerance_fields(
    allowed: Tolerance, names: Sequence[str] = ("ratio", "points")
) -> bool:
    """Draw these fields of the tolerance: the ratio of word perplexity, the points of accuracy.

    Returns whether their values are possible; one that is not stays in its field, over the reason.
    """
    fields = []
    rows = field_rows(Tolerance)
    for row in (rows[name] for name in names):
        value = getattr(allowed, row.name)
        step = 0.05 if row.name == "ratio" else 0.5
        changed = partial(_with_limit, allowed, row.name)
        fields.append(
            _limit_field(row, row.label, f"tolerance-{row.name}", value, step, changed)
        )
    return all(fields)


def _limit_field(
    row: FieldRow,
    label: str,
    key: str,
    value: float,
    step: float,
    changed: Callable[[float], Mapping[str, str]],
) -> bool:
    """Draw the field of one limit. Returns whether its value is possible.

    row: with its bounds. changed: the parameters of the address with a value.
    """
    if not row.problem(st.session_state.get(key, value)):
        st.session_state[key] = value

    with st.container():
        # Streamlit keeps a value beyond its own limits to itself, and the page would go on with the
        # former one.
        shown = "%.2f" if round(value, 2) == value else "%.6g"
        st.number_input(
            label,
            step=step,
            format=shown,
            key=key,
            on_change=_set_limit,
            args=(row, key, changed),
            help=row.help or None,
        )
        if problem := row.problem(st.session_state[key]):
            message = escape(problem.message)
            widgets.show(element("p", message, css="sd-field-error", role="alert"))
    return problem is None


def _set_limit(
    row: FieldRow, key: str, changed: Callable[[float], Mapping[str, str]]
) -> None:
    if not row.problem(st.session_state[key]):
        set_query(changed(st.session_state[key]))


def _with_limit(allowed: Tolerance, name: str, value: float) -> dict[str, str]:
    changed: dict[str, Any] = {name: value}
    return whole_tolerance_query(replace(allowed, **changed))


def _with_task(allowed: Tolerance, task: str, points: float) -> dict[str, str]:
    limits = {**dict(allowed.tasks), task: points}
    return whole_tolerance_query(replace(allowed, tasks=tuple(limits.items())))
