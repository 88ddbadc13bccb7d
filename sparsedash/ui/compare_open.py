"""The compare page with the models' names: the verdict, which passages break, downloads."""

from collections.abc import Sequence
from functools import partial
from typing import get_args

import streamlit as st

from sparsedash.reporting import verdicts, wording
from sparsedash.reporting.html import paragraph, widget_label
from sparsedash.reporting.passage_analysis import slice_html, slice_losses
from sparsedash.reporting.passage_analysis import slice_table as slice_file
from sparsedash.reporting.record_pair import (
    Kind,
    Order,
    Pair,
    SideBySide,
    harness_samples,
    side_title,
    view_csv,
    view_parquet,
)
from sparsedash.reporting.run_reports import html_report, stored_continuations
from sparsedash.reporting.run_results import run_results, verdict_of
from sparsedash.schema.records import Passages, Run
from sparsedash.service.backend import Backend
from sparsedash.stats.significance import compare_records
from sparsedash.ui import compare_choices, current_user, frame
from sparsedash.ui.address_bar import BOUND
from sparsedash.ui.compare_choices import About, Places, Shown, asked_change, choose_change, search_passages
from sparsedash.ui.navigation import current_tolerance


def offer_files(
    backend: Backend, run: Run, pair: Pair, passages: Passages | None, view: tuple[Kind, Sequence[int]]
) -> None:
    """Draw the download buttons. view: the kind that is shown and its passages."""
    kind, positions = view
    named = f"{kind}-{pair.right.key[:8]}"
    view_of_pair = (pair.left, pair.right, positions, passages)
    with st.popover("Download", icon=":material/download:"):
        _button("Report, one HTML file", "report.html", "text/html", partial(_report, backend, run, pair, passages))
        shown = f"These {len(positions):,} passages"
        _button(f"{shown}, CSV", f"{named}.csv", "text/csv", partial(view_csv, *view_of_pair))
        _button(
            f"{shown}, parquet",
            f"{named}.parquet",
            "application/vnd.apache.parquet",
            partial(view_parquet, *view_of_pair),
        )
        if passages is None:
            return
        for side, name, record in (("left", pair.left_name, pair.left), ("right", pair.right_name, pair.right)):
            _button(
                f"All samples of {side_title(name, record)}, as lm-evaluation-harness writes them",
                f"samples-{side}.jsonl",
                "application/jsonl",
                partial(harness_samples, record, passages),
            )


def _report(backend: Backend, run: Run, pair: Pair, passages: Passages | None) -> bytes:
    found = run_results(backend, run, current_tolerance(), backend.user_data.name_of(run.key))
    assert found is not None, "the page has read the dense record already"
    wrote = stored_continuations(backend, run, pair, passages)
    return html_report(found, pair, passages, backend.newest_job(run.key), wrote)


def _button(text: str, name: str, mime: str, made: partial[bytes]) -> None:
    st.download_button(
        widget_label(text),
        data=made,
        file_name=f"sparsedash-{name}",
        mime=current_user.private_media_type(mime),
        on_click="ignore",
        key=f"take-{name}",
        width="stretch",
    )


_EXPLAINED = (
    "Accuracy counts the passages whose last word a model gets right. Word perplexity 2 × dense's means that the right "
    "word became half as likely, as a geometric mean over the passages: it sees a loss long before answers change."
)


def begin_open(backend: Backend, run: Run, pair: Pair, basis: str, places: About) -> None:
    """Open the page with the verdict on the right model and what it lost; what else is known after the passages."""
    found = run_results(backend, run, current_tolerance())
    if found is None:
        return
    verdict = verdict_of(found, pair.left, pair.right)
    name, beside = pair.right_name, pair.left_name
    frame.opening(verdicts.verdict_sentence(name, verdict, beside))
    if name != beside:
        with places.cost:
            frame.show(paragraph(verdicts.loss_sentence(verdict, beside), css="sd-cost"))
    notes = [
        verdicts.flip_words(compare_records(pair.left, pair.right)),
        *verdicts.verdict_basis(name, verdict, found.tolerance, beside),
        verdicts.early_stopping_words({beside: pair.left, name: pair.right}),
    ]
    with places.about:
        frame.section("What the verdict rests on")
        frame.show(paragraph(f"{name} against {beside}{_measured(pair)} · {basis}", css="sd-basis"))
        frame.note(" ".join(filter(None, notes)))
        frame.show(paragraph(_EXPLAINED, css="sd-muted sd-small"))


def _measured(pair: Pair) -> str:
    made = pair.right.pruned
    return f" · {wording.measured_sparsity(made)}" if made else ""


def choose_open_passages(backend: Backend, run: Run, chosen: Pair, passages: Passages | None, places: Places) -> Shown:
    """Draw search, kinds, order, downloads and the histogram of changes. Returns what they leave, in that order.

    Every choice shows how many passages the others leave it.
    """
    by = asked_change(chosen)
    with places.choices:
        searching, sorting, taking = st.columns([3, 3, 2], vertical_alignment="bottom")
    with searching:
        searched = search_passages(chosen, passages)
    with places.kinds:
        found = compare_choices.choose_kind(chosen, by.held(searched))
    with places.listing:
        choose_change(by, compare_choices.passages_of_kind(chosen, searched, found), found.kind)
    order = sorting.selectbox(
        "Sort by the right word's log-probability",
        get_args(Order),
        key="sort",
        bind=BOUND,
        filter_mode=None,
        help="How far it fell from the left model to the right one; for fixed passages, how far it rose.",
    )
    positions = chosen.ordered(found.positions, found.kind, order)
    with taking:
        offer_files(backend, run, chosen, passages, (found.kind, positions))
    return Shown(positions=positions, kind=found.kind)


def open_sides(backend: Backend, pair: Pair, subject: str) -> SideBySide:
    """The two models under their names, which this session cannot judge blind any more."""
    st.session_state.update(dict.fromkeys(_named(pair, subject), True))
    return SideBySide(pair=pair)


def was_seen(pair: Pair, subject: str) -> bool:
    """Whether this session has shown either model's part of it with the model's name."""
    return any(name in st.session_state for name in _named(pair, subject))


def show_verdict(backend: Backend, seen: SideBySide, subject: str) -> None:
    """Draw nothing: what is shown with names is not judged."""


def _named(pair: Pair, subject: str) -> list[str]:
    return [f"named-{record.key}-{subject}" for record in (pair.left, pair.right)]


def show_breaking(backend: Backend, pair: Pair, passages: Passages) -> None:
    """Draw the groups of passages and what they lost, as soon as they are opened; the address says whether they are."""
    box = st.expander("Which passages break?", key="groups", on_change="rerun", bind=BOUND)
    if box.open:
        with box:
            found = slice_losses(backend, pair, passages)
            frame.show(slice_html(found, pair.right_name, pair.left_name))
            frame.offer_table(slice_file(found, pair.right_name, pair.left_name))
