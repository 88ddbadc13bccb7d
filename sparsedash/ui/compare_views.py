"""The two views of the compare page, with the models' names or blind: verdict or question, passages, downloads."""

import secrets
from collections.abc import Callable, Sequence
from functools import partial
from typing import get_args

import streamlit as st

from sparsedash.reporting import verdicts, wording
from sparsedash.reporting.html import paragraph, widget_label
from sparsedash.reporting.passage_analysis import slice_html, slice_losses, slice_table
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
from sparsedash.reporting.run_answer import still_to_come
from sparsedash.reporting.run_reports import html_report, stored_continuations
from sparsedash.reporting.run_results import run_results, verdict_of
from sparsedash.schema.records import Passages, Run
from sparsedash.service.backend import Backend
from sparsedash.stats.significance import compare_records, wilson_interval
from sparsedash.ui import address_bar, compare_choices, frame, job_panel
from sparsedash.ui.address_bar import BOUND
from sparsedash.ui.chosen_run import ChosenRun
from sparsedash.ui.compare_choices import Places, Shown
from sparsedash.ui.navigation import current_tolerance

_MODE = "blind-mode"
_EXPLANATION = (
    "Accuracy counts the passages whose last word a model gets right. Word perplexity 2 × dense's means that the right "
    "word became half as likely, as a geometric mean over the passages: it reveals losses long before answers change."
)


def can_be_compared(backend: Backend, run: Run | None) -> bool:
    """Whether the dense model and a sparse one have answered."""
    return run is not None and bool(run.sparse) and backend.record(run.dense) is not None


def explain_no_comparison(backend: Backend, chosen: ChosenRun) -> None:
    """Draw why there is nothing to compare: the run is under way, ended early, or does not exist."""
    job, run = chosen.job, chosen.run
    what = "Here a dense and a sparse model will stand side by side: each passage, both answers, both probabilities."
    if job is not None and job.live:
        frame.opening(still_to_come(job, "The comparison is"))
        frame.empty(what, "It comes as soon as the dense model and a sparse one have answered.")
        job_panel.watch_job(backend, job, lambda: can_be_compared(backend, backend.run(chosen.key)))
        frame.link("overview", "See this run", run=chosen.key)
        return
    if job is not None and (chosen.asked or (run is not None and run.sparse)):
        why = f": its dense record {backend.why_missing(run.dense)}" if run is not None and run.sparse else ""
        frame.opening(f"This run has no answers to compare{why}.")
        job_panel.draw_job(backend, job)
    elif chosen.asked and run is None:
        frame.opening("There is no run with this address.")
        frame.empty("It may have been made in another data folder.")
        frame.link("compare", "Compare what there is")
    else:
        frame.opening("Nothing to compare yet.")
        frame.empty(what)
        frame.link("overview", "See the runs" if backend.runs() else "Run the built-in model first")
    job_panel.mention_other_runs(backend, chosen.key)


def is_blind() -> bool:
    """Whether the address asks for the view without the models' names."""
    return address_bar.query_value("mode") == "blind"


def choose_view() -> None:
    """Draw the switch between the two views, which the address keeps."""

    def switch() -> None:
        """What is filtered and sorted by shows which side is right: the address forgets it."""
        forget = dict.fromkeys(("filter", "sort", compare_choices.OTHER_WORDS, compare_choices.CHANGE, "passage"), "")
        address_bar.set_query({"mode": "blind", **forget} if st.session_state[_MODE] else {"mode": ""})

    st.session_state[_MODE] = is_blind()
    st.toggle(
        "Blind",
        key=_MODE,
        on_change=switch,
        help="Hides which model is which until you have said which answer is better.",
    )


def show_verdict(backend: Backend, run: Run, pair: Pair, basis: str, places: Places) -> None:
    """Open the page with the verdict on the right model and what it lost; more of it after the passages."""
    found = run_results(backend, run, current_tolerance())
    if found is None:
        return
    verdict, name, versus = verdict_of(found, pair.left, pair.right), pair.right_name, pair.left_name
    frame.opening(verdicts.verdict_sentence(name, verdict, versus))
    if name != versus:
        with places.cost:
            frame.show(paragraph(verdicts.loss_sentence(verdict, versus), css="sd-cost"))
    notes = [
        verdicts.flip_words(compare_records(pair.left, pair.right)),
        *verdicts.verdict_basis(name, verdict, found.tolerance, versus),
        verdicts.early_stopping_words({versus: pair.left, name: pair.right}),
    ]
    measured = f" · {wording.measured_sparsity(pair.right.pruned)}" if pair.right.pruned else ""
    with places.about:
        frame.section("What the verdict rests on")
        frame.show(paragraph(f"{name} against {versus}{measured} · {basis}", css="sd-basis"))
        frame.note(" ".join(filter(None, notes)))
        frame.remark(_EXPLANATION)


def choose_open_passages(backend: Backend, run: Run, pair: Pair, passages: Passages | None, places: Places) -> Shown:
    """Draw search, kinds, order, downloads and the histogram of changes. Returns the passages they leave, in order.

    Every choice shows how many passages the others leave it.
    """
    by = compare_choices.asked_change(pair)

    def shown(positions: Sequence[int]) -> list[int]:
        found = pair.kinds(positions)[kind]
        return pair.differing(found) if only_different else found

    with places.choices:
        searching, sorting, taking = st.columns([3, 3, 2], vertical_alignment="bottom")
    with searching:
        searched = compare_choices.search_passages(pair, passages)
    with places.kinds:
        kind, only_different = compare_choices.choose_kind(pair, by.held(searched))
    with places.listing:
        compare_choices.choose_change(by, shown(searched), kind)
    order = sorting.selectbox(
        "Sort by the right word's log-probability",
        get_args(Order),
        key="sort",
        bind=BOUND,
        filter_mode=None,
        help="How far it fell from the left model to the right one; for fixed passages, how far it rose.",
    )
    positions = pair.ordered(shown(by.held(searched)), kind, order)
    with taking:
        _offer_files(backend, run, pair, passages, (kind, positions))
    return Shown(positions=positions, kind=kind)


def show_question(backend: Backend, pair: Pair, basis: str, places: Places) -> None:
    """Open the blind page with its question; the answers so far stand after the passages."""
    frame.opening("Which answer is better?")
    chosen = list(backend.user_data.choices(pair.left.key, pair.right.key).values())
    left, right = ((name, chosen.count(key)) for name, key in _names(pair))
    with places.about:
        frame.show(paragraph(basis, css="sd-basis"))
        frame.note(tally(left, right, chosen.count("")))
        if chosen:
            with st.popover("Reset the count", type="tertiary"):
                frame.action_button(
                    widget_label(f"Forget all {len(chosen)} choices"),
                    lambda: backend.user_data.forget_choices(pair.left.key, pair.right.key),
                    key="forget-choices",
                )


def choose_blind_passages(pair: Pair, passages: Passages | None, places: Places) -> Shown:
    """Draw the search alone: kinds and order would show which side is which. Returns differently answered passages."""
    with places.choices:
        searched = compare_choices.search_passages(pair, passages)
    found = pair.differing(searched)
    holding = "" if len(searched) == len(pair.left.outcomes) else " that contain this text"
    with places.listing:
        frame.note(
            f"{len(found):,} of {len(searched):,} passages{holding} are offered: those that the two models answer with "
            "different words. Where both say the same, there is nothing to judge."
        )
    return Shown(positions=found, kind=None)


def sides(backend: Backend, pair: Pair, subject: str, blind: bool) -> SideBySide:
    """The two models for one passage or prompt, the `subject`; blind: hidden in random order until it is judged.

    What this session has shown with either model's name cannot be judged blind, and stays open.
    """
    state, named = st.session_state, [f"named-{record.key}-{subject}" for record in (pair.left, pair.right)]
    judged = subject in backend.user_data.choices(pair.left.key, pair.right.key)
    if not blind or judged or any(name in state for name in named):
        state.update(dict.fromkeys(named, True))
        return SideBySide(pair=pair)
    # Drawn for the session and kept on the server: nothing in the page or its address shows it.
    drawn = f"drawn-order-{pair.left.key}-{pair.right.key}-{subject}"
    if drawn not in state:
        state[drawn] = secrets.randbelow(2) == 1
    return SideBySide(pair=pair, hidden=True, turned=state[drawn])


def judge_blind(backend: Backend, seen: SideBySide, subject: str) -> None:
    """Draw the three buttons while the sides are hidden; else the choice and its undoing, or why there is none."""
    pair = seen.pair

    def choose(better: str | None) -> Callable[[], None]:
        return partial(backend.user_data.choose, pair.left.key, pair.right.key, subject, better)

    if seen.hidden:
        first, second = seen.shown(pair.left.key, pair.right.key)
        with st.container(horizontal=True, key=f"judge-{subject}"):
            for text, better in (("A is better", first), ("B is better", second), ("Both the same", "")):
                frame.action_button(text, choose(better), key=f"{text}-{subject}")
        return
    chosen = backend.user_data.choices(pair.left.key, pair.right.key).get(subject)
    if chosen is None:
        frame.note("This was shown with the models' names before, so it cannot be judged blind.")
        return
    names = {key: name for name, key in _names(pair)}
    answer = f"{names.get(chosen, 'Another one')} was chosen as better." if chosen else "Both were called the same."
    with frame.row():
        frame.note(f"Judged blind: {answer}")
        frame.action_button("Take the choice back", choose(None), key=f"back-{subject}", kind="tertiary")


def _names(pair: Pair) -> tuple[tuple[str, str], tuple[str, str]]:
    return (pair.left_name, pair.left.key), (pair.right_name, pair.right.key)


def tally(left: tuple[str, int], right: tuple[str, int], same: int) -> str:
    """The counted choices in words. left, right: a model's name, and how often it was chosen."""
    (one, n_one), (other, n_other) = left, right
    total = n_one + n_other
    if total + same == 0:
        return f"Nothing has been judged yet. A and B are {one} and {other}, in a random order each time."
    counts = f"{total + same} judged: {one} better {n_one}, {other} better {n_other}, the same {same}."
    if total == 0:
        return counts
    ahead, count = (one, n_one) if n_one >= n_other else (other, n_other)
    low, high = wilson_interval(count, total)
    interval = f"95 % interval {wording.percent(low, 0)} to {wording.percent(high, 0)}"
    shown = f"{ahead} is preferred" if low > 0.5 else "no preference shown"
    return f"{counts} Of those with a choice, {ahead} won {wording.percent(count / total, 0)} ({interval}): {shown}."


def show_breaking(backend: Backend, pair: Pair, passages: Passages) -> None:
    """Draw groups of passages with their losses, computed once they are opened; the address keeps whether they are."""
    box = st.expander("Which passages break?", key="groups", on_change="rerun", bind=BOUND)
    if box.open:
        with box:
            found = slice_losses(backend, pair, passages)
            frame.show(slice_html(found, pair.right_name, pair.left_name))
            frame.offer_table(slice_table(found, pair.right_name, pair.left_name))


def _offer_files(
    backend: Backend, run: Run, pair: Pair, passages: Passages | None, view: tuple[Kind, Sequence[int]]
) -> None:
    """Draw the downloads; each file is made when its button is pressed. view: the kind that is shown, its passages."""
    kind, positions = view

    def report() -> bytes:
        found = run_results(backend, run, current_tolerance(), backend.user_data.name_of(run.key))
        assert found is not None, "the page has read the dense record already"
        written = stored_continuations(backend, run, pair, passages)
        return html_report(found, pair, passages, backend.newest_job(run.key), written)

    named, shown = f"{kind}-{pair.right.key[:8]}", f"These {len(positions):,} passages"
    of_pair = (pair.left, pair.right, positions, passages)
    files: list[tuple[str, str, str, Callable[[], bytes]]] = [
        ("Report, one HTML file", "report.html", "text/html", report),
        (f"{shown}, CSV", f"{named}.csv", "text/csv", partial(view_csv, *of_pair)),
        (f"{shown}, parquet", f"{named}.parquet", "application/vnd.apache.parquet", partial(view_parquet, *of_pair)),
    ]
    if passages is not None:
        for side, name, record in (("left", pair.left_name, pair.left), ("right", pair.right_name, pair.right)):
            title = f"All samples of {side_title(name, record)}, as lm-evaluation-harness writes them"
            made = partial(harness_samples, record, passages)
            files.append((title, f"samples-{side}.jsonl", "application/jsonl", made))
    with st.popover("Download", icon=":material/download:"):
        for title, name, media_type, data in files:
            key = f"take-{name}"
            frame.offer_file(widget_label(title), data, f"sparsedash-{name}", media_type, key=key, width="stretch")
