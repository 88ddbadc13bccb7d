"""The compare page with the models' names: the verdict, the kinds of passages, and what can be taken away."""

from typing import get_args

import streamlit as st

from sparsedash.reporting import verdicts, wording
from sparsedash.reporting.html import paragraph
from sparsedash.reporting.record_pair import Order, Pair
from sparsedash.reporting.run_results import run_results, verdict_of
from sparsedash.reporting.side_by_side import SideBySide
from sparsedash.schema.records import Passages, Run
from sparsedash.service.backend import Backend
from sparsedash.stats.significance import compare
from sparsedash.ui import frame
from sparsedash.ui.address_bar import BOUND
from sparsedash.ui.carried import tolerance
from sparsedash.ui.compare import kinds
from sparsedash.ui.compare.change_filter import asked_change, choose_change
from sparsedash.ui.compare.downloads import offer_files
from sparsedash.ui.compare.selectors import About, Places, Shown, search

_EXPLAINED = (
    "Accuracy counts the passages whose last word a model gets right. Word perplexity 2 × dense's means that the right "
    "word became half as likely, as a geometric mean over the passages: it sees a loss long before answers change."
)


def begin(backend: Backend, run: Run, pair: Pair, basis: str, places: About) -> None:
    """Open the page with the verdict on the right model and what it lost; what else is known after the passages."""
    found = run_results(backend, run, tolerance())
    if found is None:
        return
    verdict = verdict_of(found, pair.left, pair.right)
    name, beside = pair.right_name, pair.left_name
    frame.opening(verdicts.brief_judgement(name, verdict, beside))
    if name != beside:
        with places.cost:
            frame.show(paragraph(verdicts.cost_and_open(verdict, beside), css="sd-cost"))
    notes = [
        verdicts.flips(compare(pair.left, pair.right)),
        *verdicts.grounds(name, verdict, found.tolerance, beside),
        verdicts.endings({beside: pair.left, name: pair.right}),
    ]
    with places.about:
        frame.section("What the verdict rests on")
        frame.show(paragraph(f"{name} against {beside}{_measured(pair)} · {basis}", css="sd-basis"))
        frame.note(" ".join(filter(None, notes)))
        frame.show(paragraph(_EXPLAINED, css="sd-muted sd-small"))


def _measured(pair: Pair) -> str:
    made = pair.right.pruned
    return f" · {wording.measured(made)}" if made else ""


def choose_passages(backend: Backend, run: Run, chosen: Pair, passages: Passages | None, places: Places) -> Shown:
    """Draw search, kinds, order, downloads and the histogram of changes. Returns what they leave, in that order.

    Every choice shows how many passages the others leave it.
    """
    by = asked_change(chosen)
    with places.choices:
        searching, sorting, taking = st.columns([3, 3, 2], vertical_alignment="bottom")
    with searching:
        searched = search(chosen, passages)
    with places.kinds:
        found = kinds.choose_kind(chosen, by.held(searched))
    with places.listing:
        choose_change(by, kinds.of_kind(chosen, searched, found), found.kind)
    order = sorting.selectbox(
        "Sort by the right word's log-probability",
        get_args(Order),
        key="sort",
        bind=BOUND,
        filter_mode=None,
        help="How far it fell from the left model to the right one; for mended passages, how far it rose.",
    )
    positions = chosen.ordered(found.positions, found.kind, order)
    with taking:
        offer_files(backend, run, chosen, passages, (found.kind, positions))
    return Shown(positions=positions, kind=found.kind)


def sides(backend: Backend, pair: Pair, subject: str) -> SideBySide:
    """The two models under their names, which this session cannot judge blind any more."""
    st.session_state.update(dict.fromkeys(_named(pair, subject), True))
    return SideBySide(pair=pair)


def was_seen(pair: Pair, subject: str) -> bool:
    """Whether this session has shown either model's part of it with the model's name."""
    return any(name in st.session_state for name in _named(pair, subject))


def judge(backend: Backend, seen: SideBySide, subject: str) -> None:
    """Draw nothing: what is shown with names is not judged."""


def _named(pair: Pair, subject: str) -> list[str]:
    return [f"named-{record.key}-{subject}" for record in (pair.left, pair.right)]
