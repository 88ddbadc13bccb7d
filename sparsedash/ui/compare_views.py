"""The two views of the compare page, with the models' names or blind: verdict or question, passages, downloads."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from sparsedash.reporting import wording
from sparsedash.reporting.html import paragraph, widget_label
from sparsedash.reporting.passage_analysis import group_losses
from sparsedash.reporting.record_pair import Pair, harness_samples, side_title, view_file
from sparsedash.reporting.run_answer import still_to_come
from sparsedash.reporting.run_reports import comparison_words, continuations_section, html_report
from sparsedash.reporting.run_results import run_results
from sparsedash.schema.records import Passages, Run
from sparsedash.service.backend import Backend
from sparsedash.stats.significance import wilson_interval
from sparsedash.ui import address_bar, compare_choices, frame, job_panel
from sparsedash.ui.address_bar import BOUND
from sparsedash.ui.chosen_run import ChosenRun, link_to_export, show_ending
from sparsedash.ui.compare_choices import Shown
from sparsedash.ui.navigation import current_tolerance

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
        frame.opening(still_to_come(job, "The comparison is on its way."))
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


def choose_view() -> bool:
    """Draw the switch between the two views, which the address keeps; whether the models' names are hidden.

    What is filtered and sorted by shows which side is right: the address forgets it.
    """
    forget = dict.fromkeys(("filter", "sort", compare_choices.OTHER_WORDS, compare_choices.CHANGE, "passage"), "")
    about = "Hides which model is which until you have said which answer is better."
    return st.toggle("Blind", key="blind", bind=BOUND, on_change=address_bar.set_query, args=(forget,), help=about)


def show_verdict(backend: Backend, run: Run, pair: Pair, cost: DeltaGenerator, about: DeltaGenerator) -> None:
    """Open the page with the verdict on the right model; `cost`: what it lost; `about`: more, after the passages."""
    found = run_results(backend, run, current_tolerance())
    assert found is not None, "the page has read the dense record already"
    sentence, lost, basis = comparison_words(found, pair)
    measured = f" · {wording.measured_sparsity(pair.right.pruned)}" if pair.right.pruned else ""
    frame.opening(sentence)
    with cost:
        if lost:
            frame.show(paragraph(lost, css="sd-cost"))
    with about:
        frame.section("What the verdict rests on")
        against = f"{pair.right_name} against {pair.left_name}{measured} · {_basis(backend, run)}"
        frame.show(paragraph(against, css="sd-basis"))
        frame.note(basis)
        frame.remark(_EXPLANATION)


def show_question(backend: Backend, run: Run, pair: Pair, about: DeltaGenerator) -> None:
    """Open the blind page with its question; `about`: the answers so far, after the passages."""
    frame.opening("Which answer is better?")
    chosen = list(backend.user_data.choices(pair.left.key, pair.right.key).values())
    forget = partial(backend.user_data.forget_choices, pair.left.key, pair.right.key)
    with about:
        frame.show(paragraph(_basis(backend, run), css="sd-basis"))
        frame.note(tally(pair, chosen))
        if chosen:
            with st.popover("Reset the count", type="tertiary"):
                frame.action_button(f"Forget all {len(chosen)} choices", forget, key="forget-choices")


def _basis(backend: Backend, run: Run) -> str:
    title = wording.stored_run_title(run, backend.user_data.name_of(run.key))
    return f"{title} · {wording.stored_run_details(run)}"


def explain_blind_passages(shown: Shown, n_searched: int) -> None:
    """Draw why only these passages are offered, of those that hold the searched text."""
    holding = "" if n_searched == len(shown.pair.left.outcomes) else " that contain this text"
    frame.note(
        f"{len(shown.positions):,} of {n_searched:,} passages{holding} are offered: those that the two models answer "
        "with different words. Where both say the same, there is nothing to judge."
    )


def show_links(run: Run, chosen: ChosenRun, pair: Pair) -> None:
    """Draw how the run ended, if early, and the links to its chart, its layers and the export of the right model."""
    show_ending(run, chosen.job)
    with frame.row():
        frame.link("overview", "Back to the chart", run=chosen.key)
        frame.link("layers", "See what each layer lost", run=chosen.key, record=pair.right_name)
        if pair.right.key in run.sparse:
            link_to_export(chosen.key, pair.right_name)


def sides(backend: Backend, pair: Pair, subject: str, blind: bool) -> Pair:
    """The two models for one passage or prompt, the `subject`; blind: hidden in random order until it is judged.

    What this session has shown with either model's name cannot be judged blind, and stays open.
    """
    state, named = st.session_state, [f"named-{record.key}-{subject}" for record in (pair.left, pair.right)]
    judged = subject in backend.user_data.choices(pair.left.key, pair.right.key)
    if not blind or judged or any(name in state for name in named):
        state.update(dict.fromkeys(named, True))
        return pair
    # Drawn for the session and kept on the server: nothing in the page or its address shows it.
    drawn = f"drawn-order-{pair.left.key}-{pair.right.key}-{subject}"
    return replace(pair, hidden=True, turned=state.setdefault(drawn, secrets.randbelow(2) == 1))


def judge_blind(backend: Backend, pair: Pair, subject: str) -> None:
    """Draw the three buttons while the sides are hidden; else the choice and its undoing, or why there is none."""
    choices = partial(backend.user_data.choose, pair.left.key, pair.right.key, subject)
    if pair.hidden:
        first, second = pair.shown(pair.left.key, pair.right.key)
        with st.container(horizontal=True, key=f"judge-{subject}"):
            for text, better in (("A is better", first), ("B is better", second), ("Both the same", "")):
                frame.action_button(text, partial(choices, better), key=f"{text}-{subject}")
        return
    chosen = backend.user_data.choices(pair.left.key, pair.right.key).get(subject)
    if chosen is None:
        frame.note("This was shown with the models' names before, so it cannot be judged blind.")
        return
    name = pair.left_name if chosen == pair.left.key else pair.right_name
    answer = f"{name} was chosen as better." if chosen else "Both were called the same."
    with frame.row():
        frame.note(f"Judged blind: {answer}")
        frame.action_button("Take the choice back", partial(choices, None), key=f"back-{subject}", kind="tertiary")


def tally(pair: Pair, chosen: Sequence[str]) -> str:
    """The choices in words, each the key of the better record, or empty."""
    one, other, n_one, n_other = pair.left_name, pair.right_name, *map(chosen.count, (pair.left.key, pair.right.key))
    total = n_one + n_other
    if not chosen:
        return f"Nothing has been judged yet. A and B are {one} and {other}, in a random order each time."
    counts = f"{len(chosen)} judged: {one} better {n_one}, {other} better {n_other}, the same {chosen.count('')}."
    if total == 0:
        return counts
    ahead, count = (one, n_one) if n_one >= n_other else (other, n_other)
    low, high = wilson_interval(count, total)
    interval = f"95 % interval {wording.percent(low, 0)} to {wording.percent(high, 0)}"
    shown = f"{ahead} is preferred" if low > 0.5 else "no preference shown"
    return f"{counts} Of those with a choice, {ahead} won {wording.percent(count / total, 0)} ({interval}): {shown}."


def show_breaking(pair: Pair, passages: Passages) -> None:
    """Draw groups of passages with their losses, computed once they are opened; the address keeps whether they are."""
    box = st.expander("Which passages break?", key="groups", on_change="rerun", bind=BOUND)
    if box.open:
        with box:
            frame.show_table(group_losses(pair, passages))


def offer_files(backend: Backend, run: Run, passages: Passages | None, view: Shown) -> None:
    """Draw the downloads; each file is made when its button is pressed."""
    pair, positions, kind = view

    def report() -> bytes:
        found = run_results(backend, run, current_tolerance(), backend.user_data.name_of(run.key))
        assert found is not None, "the page has read the dense record already"
        written = continuations_section(backend, run, pair, passages)
        return html_report(found, pair, passages, backend.newest_job(run.key), written)

    named, shown = f"{kind}-{pair.right.key[:8]}", f"These {len(positions):,} passages"
    of_pair = (pair, positions, passages)
    files: list[tuple[str, str, str, Callable[[], bytes]]] = [
        ("Report, one HTML file", "report.html", "text/html", report),
        (f"{shown}, CSV", f"{named}.csv", "text/csv", partial(view_file, *of_pair, "csv")),
        (
            f"{shown}, parquet",
            f"{named}.parquet",
            "application/vnd.apache.parquet",
            partial(view_file, *of_pair, "parquet"),
        ),
    ]
    for side, name, record in (("left", pair.left_name, pair.left), ("right", pair.right_name, pair.right)):
        if passages is None:
            break
        title = f"All samples of {side_title(name, record)}, as lm-evaluation-harness writes them"
        made = partial(harness_samples, record, passages)
        files.append((title, f"samples-{side}.jsonl", "application/jsonl", made))
    with st.popover("Download", icon=":material/download:"):
        for title, name, media_type, data in files:
            key = f"take-{name}"
            frame.offer_file(widget_label(title), data, f"sparsedash-{name}", media_type, key=key, width="stretch")
