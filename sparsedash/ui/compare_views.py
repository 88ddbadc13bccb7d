"""The compare page around its passages: choices, filters, verdict or blind question, links,
downloads.
"""

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple, get_args

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from sparsedash.reporting import record_pair
from sparsedash.reporting.charts.bar_charts import (
    changes_chart,
    changes_words,
    clicked_bar,
)
from sparsedash.reporting.html import element, file_name, paragraph, widget_label
from sparsedash.reporting.passage_analysis import (
    change_ranges,
    count_by_range,
    group_losses,
)
from sparsedash.reporting.record_pair import KIND_OF, KINDS, Kind, Order, Pair
from sparsedash.reporting.run_answer import run_ending, still_to_come
from sparsedash.reporting.run_reports import comparison_words
from sparsedash.reporting.run_results import RunResults
from sparsedash.reporting.wording import (
    EXAMPLE_TITLE,
    LEVEL,
    file_stem,
    measured_sparsity,
    moment,
    percent,
    picture_basis,
    quantity,
    stored_run_details,
    stored_run_title,
)
from sparsedash.schema.records import Passages, Run
from sparsedash.service.backend import Backend
from sparsedash.stats.anytime import anytime_interval
from sparsedash.ui import address_bar, frame, job_panel, widgets
from sparsedash.ui.address_bar import BOUND
from sparsedash.ui.browser_scripts import ChartFile, show_chart
from sparsedash.ui.chosen_run import RIGHT, ChosenRun, link_to_export, show_incomplete
from sparsedash.ui.run_sharing import run_report

OTHER_WORDS = "words"
CHANGE = "change"
"""Parameters of the address: whether only passages with different answers are shown, and a range of
changes.
"""
_OPEN = "choices-open"
_FIRST_KINDS: tuple[Kind, ...] = ("broke", "fixed", "both-wrong", "both-right", "all")
"""Without a kind in the address, the first of these that has passages is shown."""


class Shown(NamedTuple):
    """The passages to step through, in order.

    kind: theirs; None on the blind page, where it would show too much.
    """

    pair: Pair
    positions: list[int]
    kind: Kind | None = None

    def query(self, at: int) -> dict[str, str] | None:
        """Parameters of the address for the passage at this place; None outside.

        They name the kind again: of two clicks at once, the browser sends the second with the
        address before the first.
        """
        if not 0 <= at < len(self.positions):
            return None
        return {
            "filter": self.kind or "",
            "passage": str(self.pair.left.outcomes[self.positions[at]].index + 1),
        }


def begin_choices() -> DeltaGenerator:
    """The container of run, models, search, order and files; on a phone behind one button."""
    opened = bool(st.session_state.get(_OPEN, False))
    text, icon = ("Close", "close") if opened else ("Choose", "tune")
    with st.container(key="open-choices"):
        turn = partial(st.session_state.update, {_OPEN: not opened})
        about = "Run, models, search, order, files"
        widgets.action_button(
            text,
            turn,
            key="open-choices-button",
            icon=icon,
            help=about,
        )
    choices = st.container(key="choices")
    with choices:
        # Drawn either way: what follows would else move by one place, and be drawn anew.
        css = "sd-unseen sd-choices-open" if opened else "sd-unseen"
        widgets.show(element("span", css=css))
    return choices


def choose_run(backend: Backend, runs: Sequence[Run], chosen: str) -> None:
    """Draw the choice among the runs; the address names the one that is shown."""
    if chosen not in {run.key for run in runs}:
        return
    titles = {}
    marks = backend.user_data.marks()
    for run in runs:
        title = stored_run_title(run, marks[run.key].name if run.key in marks else "")
        prefix = f"{EXAMPLE_TITLE}: " if run.made_on else ""
        titles[run.key] = f"{prefix}{title}, {moment(run.started_at, frame.zone())}"
    address_bar.select(
        "run",
        "Run",
        record_pair.unique_names(titles),
        chosen,
        along={"passage": "", "left": "", "right": ""},
    )


def choose_pair(
    backend: Backend, results: RunResults, runs: Sequence[Run]
) -> Pair | None:
    """Draw the choices of two records over the same passages, also of other runs; None where a
    chosen one is lost.

    Unless the address names others: dense, and the sparse one that the run's answer names.
    """
    run = results.run
    choices = {
        choice.address: choice for choice in record_pair.record_choices(run, runs)
    }
    names = {address: choice.name for address, choice in choices.items()}
    addresses = {choice.key: address for address, choice in choices.items()}
    headline = results.headline.key if results.headline is not None else run.sparse[-1]
    columns = st.columns(2, wrap=False)
    below = st.container()
    defaults = {"left": addresses[run.dense], RIGHT: addresses[headline]}
    pair = []
    for column, (side, default) in zip(columns, defaults.items(), strict=True):
        with column:
            address = address_bar.select(
                side,
                side.capitalize(),
                names,
                default,
                along={"passage": ""},
                noun="model",
                note_in=below,
            )
        pair.append(choices[address])
    # The name of a model of another run says more than fits a file's name.
    stem = file_name(file_stem(run), pair[1].name.partition(" · ")[0])
    return record_pair.load_pair(backend, pair[0], pair[1], stem)


def search_passages(chosen: Pair, passages: Passages | None) -> Sequence[int]:
    """Draw the search. Returns the passages that contain its text; all of them while it is
    empty.
    """
    searched = st.text_input(
        "Search", key="search", bind=BOUND, max_chars=200, type="search"
    )
    return chosen.holding(searched or "", passages)


def choose_order() -> Order:
    """Draw the choice of the order."""
    about = (
        "By the right word's log-probability: largest fall from the left to the right model first; "
        "for fixed passages, largest rise first."
    )
    title = "Sort"
    chosen: Order = st.selectbox(
        title, get_args(Order), key="sort", bind=BOUND, filter_mode=None, help=about
    )
    return chosen


def current_passage(shown: Shown) -> int | None:
    """The place of the passage in the address, or the first; None, and a note, if none is shown."""
    if not shown.positions:
        undo = {
            "words": "switch “Only different words” off",
            "change": "show any change",
            "search": "clear the search",
        }
        others = "".join(
            f", or {words}"
            for name, words in undo.items()
            if address_bar.query_value(name)
        )
        widgets.note(f"No passage matches. Choose another kind{others}.")
        return None
    outcomes = shown.pair.left.outcomes
    number = address_bar.query_value("passage")
    for place, position in enumerate(shown.positions):
        if str(outcomes[position].index + 1) == number:
            return place
    return 0


def choose_kind(pair: Pair, positions: Sequence[int]) -> tuple[Kind, bool]:
    """Draw the kinds of these passages with their counts, and the switch; the address keeps both.

    Returns the kind that is shown, and whether only passages with different answers are.
    """
    by_kind = pair.kinds(positions)
    names = list(KINDS)
    usual = next((kind for kind in _FIRST_KINDS if by_kind[kind]), _FIRST_KINDS[0])
    named = address_bar.query_value("filter")
    chosen: Kind = next((kind for kind in KINDS if kind == named), usual)
    place = names.index(chosen)
    following = names[place + 1 :] + names[:place]
    next_kind = next((kind for kind in following if by_kind[kind]), chosen)

    helps: dict[Kind, str] = {"all": "All passages: the other four kinds together"}
    for verdicts, kind in KIND_OF.items():
        words = ["right" if verdict else "wrong" for verdict in verdicts]
        helps[kind] = widget_label(
            f"{pair.left_name} {words[0]}, {pair.right_name} {words[1]}"
        )
    for kind, places in by_kind.items():
        # The style sheet knows the chosen one by its icon: one of another type would be new, and
        # lose the focus.
        icon = ":material/check:" if kind == chosen else None
        st.button(
            f"{KINDS[kind]} · {len(places):,}",
            key=f"flip-{kind}",
            icon=icon,
            help=helps[kind],
            on_click=address_bar.set_query,
            args=({"filter": kind, "passage": ""},),
        )
    st.button(
        "Change kind",
        "next-kind",
        "Show the next kind that has passages.",
        shortcut="F",
        type="tertiary",
        icon=":material/filter_list:",
        disabled=next_kind == chosen,
        on_click=address_bar.set_query,
        args=({"filter": next_kind, "passage": ""},),
    )
    about = "Show only passages that the two models answer with different words."
    stay = partial(address_bar.set_query, {"filter": chosen, "passage": ""})
    label = f"Only different words · {len(pair.differing(by_kind[chosen])):,}"
    return chosen, st.toggle(
        label,
        key=OTHER_WORDS,
        bind=BOUND,
        on_change=stay,
        help=about,
    )


class ChangeFilter:
    """The filter by change that the address asks for.

    chosen: place in `ranges`; None for any change.
    """

    def __init__(self, results: RunResults, pair: Pair) -> None:
        title = f"{pair.left_name} and {pair.right_name}: change of the right word"
        basis = picture_basis(results.run, results.tolerance, frame.zone())
        self.file = ChartFile(f"{pair.stem}-changes", title, [basis])
        self.changes = [
            -pair.fall(position) for position in range(len(pair.left.outcomes))
        ]
        self.ranges = change_ranges(self.changes)
        addresses = [changes.address for changes in self.ranges]
        named = address_bar.query_value(CHANGE)
        self.chosen = addresses.index(named) if named in addresses else None

    def matching(self, positions: Sequence[int]) -> Sequence[int]:
        """Those passages whose change is in the chosen range."""
        if self.chosen is None:
            return positions
        low = self.ranges[self.chosen].low
        high = self.ranges[self.chosen].high
        return [
            position for position in positions if low <= self.changes[position] < high
        ]

    def draw(self, positions: Sequence[int], kind: Kind) -> None:
        """Draw the histogram of these passages, whose bars can be pressed, and a select box."""
        counts = count_by_range(
            [self.changes[position] for position in positions], self.ranges
        )
        words = [changes.words for changes in self.ranges]
        key = f"changes-{self.chosen}"
        along = {"filter": kind, "passage": ""}
        bounds = tuple(changes.high for changes in self.ranges[:-1])
        chart = changes_chart(
            bounds, tuple(counts), tuple(words), self.chosen, frame.theme()
        )
        press = partial(self._press, key, along)
        show_chart(chart, self.file, changes_words(counts, words), key, press)
        options = {"": f"Any change · {len(positions):,}"}
        for changes, n in zip(self.ranges, counts, strict=True):
            options[changes.address] = f"{changes.words.capitalize()} · {n:,}"
        address_bar.select(
            CHANGE,
            "Show passages of",
            options,
            "",
            along=along,
            noun="range of changes",
        )

    def _press(self, key: str, along: Mapping[str, str]) -> None:
        """Filter by the bar that was pressed; no longer if it was pressed before."""
        bar = clicked_bar(
            st.session_state[key]["selection"]["points"], len(self.ranges)
        )
        if bar is not None:
            address = "" if bar == self.chosen else self.ranges[bar].address
            address_bar.set_query({CHANGE: address, **along})


_EXPLANATION = (
    "Accuracy: share of passages whose last word is right. Word perplexity 2 × dense's: the right word is half as "
    "likely, as a geometric mean over the passages. It reveals losses earlier than accuracy."
)


def can_be_compared(backend: Backend, run: Run | None) -> bool:
    """Whether the dense model and a sparse one have answered."""
    return (
        run is not None and bool(run.sparse) and backend.record(run.dense) is not None
    )


def explain_no_comparison(backend: Backend, chosen: ChosenRun) -> None:
    """Draw why there is nothing to compare."""
    job = chosen.job
    run = chosen.run
    what = (
        "The dense and a sparse model will be compared here: both answers to each passage with their probabilities, "
        "and the loss of each layer."
    )
    if job is not None and job.live:
        widgets.opening(still_to_come(job, "No answers to compare yet."))
        widgets.empty(
            what, "It appears once the dense model and one sparse model are evaluated."
        )
        job_panel.watch_job(
            backend, job, lambda: can_be_compared(backend, backend.run(chosen.key))
        )
        widgets.link("overview", "See this run", run=chosen.key)
        return
    if job is not None and (chosen.in_address or (run is not None and run.sparse)):
        reason = ""
        if run is not None and run.sparse:
            reason = f": its dense record {backend.why_missing(run.dense)}"
        widgets.opening(f"This run has no answers to compare{reason}.")
        job_panel.draw_job(backend, job)
    elif chosen.in_address and run is None:
        widgets.opening("There is no run with this address.")
        widgets.empty("It may be in another data folder.")
        widgets.link("compare", "Compare the newest run")
    else:
        widgets.opening("Nothing to compare yet.")
        widgets.empty(what)
        widgets.link(
            "overview",
            "See the runs" if backend.runs() else "Run the built-in model first",
        )
    job_panel.mention_other_runs(backend, chosen.key)


def choose_blind() -> bool:
    """Draw the switch of the blind view, which the address keeps; whether the models' names are
    hidden.

    What is filtered by shows which side is right: the address forgets it. Of fields that the blind
    view has not, Streamlit takes the parameters away itself, and raises where somebody else does.
    """
    forget = dict.fromkeys(("filter", CHANGE, "passage"), "")
    about = "Hides the models' names until you have chosen the better answer."
    return st.toggle(
        "Blind",
        key="blind",
        bind=BOUND,
        on_change=address_bar.set_query,
        args=(forget,),
        help=about,
    )


def note_offered(shown: Shown, n_searched: int) -> None:
    """Draw how many passages the blind view offers. n_searched: those that match the search."""
    is_searched = n_searched < len(shown.pair.left.outcomes)
    condition = " with this text" if is_searched else ""
    widgets.note(
        f"Offered: the {len(shown.positions):,} of {n_searched:,} passages{condition} "
        "that the two models answer with different words."
    )


def show_verdict(
    backend: Backend, results: RunResults, pair: Pair, about: DeltaGenerator
) -> None:
    """Open the page with the verdict on the right model; `about`: more, after the passages."""
    sentence, lost, basis = comparison_words(results, pair)
    widgets.opening(sentence)
    with about, st.expander("Behind the verdict"):
        if lost:
            widgets.show(paragraph(lost))
        measured = (
            f" · {measured_sparsity(pair.right.pruned)}" if pair.right.pruned else ""
        )
        against = f"{pair.right_name} against {pair.left_name}{measured} · {_basis(backend, results.run)}"
        widgets.show(paragraph(against, css="sd-basis"))
        widgets.note(basis)
        widgets.remark(_EXPLANATION)


def show_question(
    backend: Backend, run: Run, pair: Pair, about: DeltaGenerator
) -> None:
    """Open the blind page with its question; `about`: the answers so far, after the passages."""
    widgets.opening("Which answer is better?")
    chosen = list(backend.user_data.choices(pair.left.key, pair.right.key).values())
    forget = partial(backend.user_data.forget_choices, pair.left.key, pair.right.key)
    with about:
        widgets.show(paragraph(_basis(backend, run), css="sd-basis"))
        widgets.note(tally(pair, chosen))
        if chosen:
            with st.popover("Reset the count", type="tertiary"):
                widgets.action_button(
                    f"Forget all {len(chosen)} choices", forget, key="forget-choices"
                )


def _basis(backend: Backend, run: Run) -> str:
    title = stored_run_title(run, backend.user_data.name_of(run.key))
    return f"{title} · {stored_run_details(run)}"


def show_links(run: Run, chosen: ChosenRun, pair: Pair) -> None:
    """Draw how the run ended, if early, and links to its chart and the right model's export."""
    show_incomplete(run_ending(run, chosen.job))
    with widgets.row():
        widgets.link("overview", "Back to the chart", run=chosen.key)
        if pair.right.key in run.sparse:
            link_to_export(chosen.key, pair.right_name)


def sides(backend: Backend, pair: Pair, subject: str, blind: bool) -> Pair:
    """The two models for one passage or prompt, the `subject`; blind: hidden in random order until
    it is judged.

    What this session has shown with either model's name cannot be judged blind, and stays open.
    """
    state = st.session_state
    named = [f"named-{record.key}-{subject}" for record in (pair.left, pair.right)]
    judged = subject in backend.user_data.choices(pair.left.key, pair.right.key)
    if not blind or judged or any(name in state for name in named):
        state.update(dict.fromkeys(named, True))
        return pair
    # Drawn for the session and kept on the server: nothing in the page or its address shows it.
    drawn = f"drawn-order-{pair.left.key}-{pair.right.key}-{subject}"
    return replace(
        pair,
        hidden=True,
        turned=state.setdefault(drawn, secrets.randbelow(2) == 1),
    )


def judge_blind(
    backend: Backend, pair: Pair, subject: str, *, by_key: bool = False
) -> None:
    """Draw three buttons while the sides are hidden; else the choice and its undoing.

    by_key: each button has a key of the keyboard, which a page has for one of its subjects.
    """
    choices = partial(
        backend.user_data.choose,
        pair.left.key,
        pair.right.key,
        subject,
    )
    if pair.hidden:
        first, second = pair.shown(pair.left.key, pair.right.key)
        with st.container(horizontal=True, key=f"judge-{subject}"):
            for text, better, letter in (
                ("A is better", first, "A"),
                ("B is better", second, "B"),
                ("Both the same", "", "S"),
            ):
                widgets.action_button(
                    text,
                    partial(choices, better),
                    key=f"{text}-{subject}",
                    shortcut=letter if by_key else None,
                )
        return
    chosen = backend.user_data.choices(pair.left.key, pair.right.key).get(subject)
    if chosen is None:
        widgets.note(
            "This was shown with the models' names before, so it cannot be judged blind."
        )
        return
    name = pair.left_name if chosen == pair.left.key else pair.right_name
    answer = f"{name} was chosen as better." if chosen else "Both were called the same."
    with widgets.row():
        widgets.note(f"Judged blind: {answer}")
        widgets.action_button(
            "Undo this choice",
            partial(choices, None),
            key=f"back-{subject}",
            kind="tertiary",
        )


def tally(pair: Pair, chosen: Sequence[str]) -> str:
    """The choices in words, each the key of the better record, or empty."""
    names = (pair.left_name, pair.right_name)
    if not chosen:
        return f"No choice yet. A and B are {names[0]} and {names[1]}, in a new random order each time."
    wins = (chosen.count(pair.left.key), chosen.count(pair.right.key))
    counts = (
        f"{len(chosen)} judged: {names[0]} better {wins[0]}, {names[1]} better {wins[1]}, "
        f"the same {chosen.count('')}."
    )
    total = sum(wins)
    if total == 0:
        return counts
    count = max(wins)
    ahead = names[wins.index(count)]
    # Read after every choice, so it must hold at every look.
    low, high = ((1 + end) / 2 for end in anytime_interval(total - count, count, total))
    interval = f"{LEVEL} interval {percent(low, 0)} to {percent(high, 0)}"
    shown = f"{ahead} is preferred" if low > 0.5 else "no preference shown"
    return f"{counts} Of the decided ones, {ahead} won {percent(count / total, 0)} ({interval}): {shown}."


def show_breaking(pair: Pair, passages: Passages) -> None:
    """Draw groups of passages with their losses, computed once they are opened."""
    box = st.expander(
        "Which passages break?",
        key="groups",
        on_change="rerun",
        bind=BOUND,
    )
    if box.open:
        with box:
            table = group_losses(pair, passages)
            if table.rows:
                widgets.show_table(table)
            else:
                widgets.note(table.caption)


def offer_files(
    backend: Backend, results: RunResults, passages: Passages | None, view: Shown
) -> None:
    """Draw the downloads; each file is made when its button is pressed."""
    pair, positions, kind = view
    shown = f"The {quantity(len(positions), 'passage')} shown"
    name = "passages" if kind in (None, "all") else f"passages-{kind}"
    view_file = partial(record_pair.view_file, pair, positions, passages)
    report = partial(run_report, backend, results, pair, passages)
    parquet = "application/vnd.apache.parquet"
    with st.popover("Download", icon=":material/download:"):
        _offer(pair, "Report, one HTML file", "report.html", "text/html", report)
        _offer(
            pair, f"{shown}, CSV", f"{name}.csv", "text/csv", partial(view_file, "csv")
        )
        _offer(
            pair,
            f"{shown}, parquet",
            f"{name}.parquet",
            parquet,
            partial(view_file, "parquet"),
        )
        if passages is None:
            return
        n_samples = quantity(len(passages.contexts), "sample")
        sides = {
            "left": (pair.left_name, pair.left),
            "right": (pair.right_name, pair.right),
        }
        for side, (record_name, record) in sides.items():
            title = record_pair.side_title(record_name, record)
            _offer(
                pair,
                f"{n_samples} of {title}, in the format of lm-evaluation-harness",
                f"{side}-samples_passages.jsonl",
                "application/jsonl",
                partial(record_pair.harness_samples, record, passages),
            )


def _offer(
    pair: Pair, title: str, name: str, media_type: str, content: Callable[[], bytes]
) -> None:
    """Draw the download of one file. name: after that of the pair."""
    widgets.offer_file(
        widget_label(title),
        content,
        f"{pair.stem}-{name}",
        media_type,
        key=f"take-{name}",
        width="stretch",
    )
