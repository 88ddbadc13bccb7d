"""The compare page with the models' names hidden until one answer is judged the better one."""

import secrets

import streamlit as st

from sparsedash.reporting import wording
from sparsedash.reporting.html import paragraph, widget_label
from sparsedash.reporting.record_pair import Pair, SideBySide
from sparsedash.schema.records import Passages, Run
from sparsedash.service.backend import Backend
from sparsedash.stats.significance import wilson_interval
from sparsedash.ui import compare_open, frame
from sparsedash.ui.compare_choices import About, Places, Shown, search_passages


def begin_blind(backend: Backend, run: Run, pair: Pair, basis: str, places: About) -> None:
    """Open the page with the question; how it was answered so far stands after the passages."""
    frame.opening("Which answer is better?")
    with places.about:
        frame.show(paragraph(basis, css="sd-basis"))
        _show_tally(backend, pair)


def choose_blind_passages(backend: Backend, run: Run, chosen: Pair, passages: Passages | None, places: Places) -> Shown:
    """Draw the search alone: kinds and order would tell which side is which.

    Returns the passages answered differently.
    """
    with places.choices:
        searched = search_passages(chosen, passages)
    found = chosen.differing(searched)
    holding = "" if len(searched) == len(chosen.left.outcomes) else " that contain this text"
    with places.listing:
        frame.note(
            f"{len(found):,} of {len(searched):,} passages{holding} are offered: those that the two models answer with "
            "different words. Where both say the same, there is nothing to judge."
        )
    return Shown(positions=found, kind=None)


def blind_sides(backend: Backend, pair: Pair, subject: str) -> SideBySide:
    """The two models hidden and in a drawn order, until there is a choice for what is judged.

    What this session has shown with a model's name stays open: who has seen it cannot judge it blind.
    """
    judged = subject in backend.user_data.choices(pair.left.key, pair.right.key)
    if judged or compare_open.was_seen(pair, subject):
        return compare_open.open_sides(backend, pair, subject)
    # Drawn for the session and kept on the server: nothing in the page or its address tells it.
    drawn = f"drawn-order-{pair.left.key}-{pair.right.key}-{subject}"
    if drawn not in st.session_state:
        st.session_state[drawn] = secrets.randbelow(2) == 1
    return SideBySide(pair=pair, hidden=True, turned=st.session_state[drawn])


def ask_preference(backend: Backend, seen: SideBySide, subject: str) -> None:
    """Draw the three buttons where the sides are hidden; else what was chosen with a way to take it back, or why none
    can be.
    """
    pair = seen.pair
    if seen.hidden:
        first, second = seen.shown(pair.left.key, pair.right.key)
        with st.container(horizontal=True, key=f"judge-{subject}"):
            for text, better in (("A is better", first), ("B is better", second), ("Both the same", "")):
                st.button(
                    text,
                    key=f"{text}-{subject}",
                    on_click=frame.attempt,
                    args=(lambda better=better: _choose(backend, pair, subject, better),),
                )
        return
    chosen = backend.user_data.choices(pair.left.key, pair.right.key).get(subject)
    if chosen is None:
        frame.note("This was shown with the models' names before, so it cannot be judged blind.")
        return
    names = {pair.left.key: pair.left_name, pair.right.key: pair.right_name}
    said = f"{names.get(chosen, 'Another one')} was chosen as better." if chosen else "Both were called the same."
    with st.container(horizontal=True, vertical_alignment="center"):
        frame.note(f"Judged blind: {said}")
        st.button(
            "Take the choice back",
            key=f"back-{subject}",
            type="tertiary",
            on_click=frame.attempt,
            args=(lambda: _choose(backend, pair, subject, None),),
        )


def _show_tally(backend: Backend, pair: Pair) -> None:
    """Draw how often each model was chosen, how sure that is, and a way to begin anew."""
    chosen = list(backend.user_data.choices(pair.left.key, pair.right.key).values())
    left, right = chosen.count(pair.left.key), chosen.count(pair.right.key)
    frame.note(tally((pair.left_name, left), (pair.right_name, right), chosen.count("")))
    if chosen:
        with st.popover("Reset the count", type="tertiary"):
            st.button(
                widget_label(f"Forget all {len(chosen)} choices"),
                key="forget-choices",
                on_click=frame.attempt,
                args=(lambda: backend.user_data.forget_choices(pair.left.key, pair.right.key),),
            )


def tally(left: tuple[str, int], right: tuple[str, int], same: int) -> str:
    """The counted choices in words. left, right: a model's name, and how often it was chosen."""
    (one, n_one), (other, n_other) = left, right
    total = n_one + n_other
    if total + same == 0:
        return f"Nothing has been judged yet. A and B are {one} and {other}, in a random order each time."
    said = f"{total + same} judged: {one} better {n_one}, {other} better {n_other}, the same {same}."
    if total == 0:
        return said
    ahead, count = (one, n_one) if n_one >= n_other else (other, n_other)
    low, high = wilson_interval(count, total)
    interval = f"95 % interval {wording.percent(low, 0)} to {wording.percent(high, 0)}"
    shown = f"{ahead} is preferred" if low > 0.5 else "no preference shown"
    return f"{said} Of those with a choice, {ahead} won {wording.percent(count / total, 0)} ({interval}): {shown}."


def _choose(backend: Backend, pair: Pair, subject: str, better: str | None) -> None:
    backend.user_data.choose(pair.left.key, pair.right.key, subject, better)
