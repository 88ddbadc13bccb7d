"""One passage: both models' answers to it, and the heat strip of how far they differ at each token."""

from collections.abc import Sequence

import streamlit as st

from sparsedash.catalog.choices import is_example
from sparsedash.reporting import wording
from sparsedash.reporting.html import Html, Table, element, escape, join, paragraph, table, token, visible, widget_label
from sparsedash.reporting.passage_analysis import change_words, token_choices_html, token_choices_table
from sparsedash.reporting.record_pair import Pair, SideBySide, side_title
from sparsedash.reporting.wording import signed_nats
from sparsedash.schema.errors import SettingsError
from sparsedash.schema.pair_records import Divergence, DivergenceSettings, Place
from sparsedash.schema.records import Outcome, Passages
from sparsedash.service.backend import Backend
from sparsedash.ui import address_bar, frame
from sparsedash.ui.compare_choices import Shown
from sparsedash.ui.compare_continuation import NOTHING, continue_passage
from sparsedash.ui.compare_views import View
from sparsedash.ui.job_panel import watch_job

LEVELS = (0.01, 0.05, 0.2, 0.8)
"""Nats at which a place is drawn one step stronger; the same for every passage, so that passages can be compared."""

LARGEST = 20
SHOWN_PLACES = 3_000
"""Of a longer text the end is drawn."""


def show_strip(backend: Backend, pair: Pair, text: str) -> None:
    """Draw the strip where it is stored, else the job that computes it, else the button that asks for it."""
    try:
        request = DivergenceSettings(left=pair.left.key, right=pair.right.key, text=text)
    except SettingsError as error:
        frame.note(f"This passage cannot be compared token by token: {error.message}")
        return
    stored = backend.divergence(request.key())
    if stored is not None:
        frame.section("Where the two models' expectations differ")
        _draw_strip(pair, stored)
        return
    job = backend.newest_job(request.key())
    if job is not None and job.state != "done":
        watch_job(backend, job, brief=True)
        return
    st.button(
        "Show where the two differ",
        key="strip",
        icon=":material/gradient:",
        on_click=frame.attempt,
        args=(lambda: backend.submit(request),),
        help="Both models read the passage; the places where their expectations differ are marked.",
    )


def heat_level(nats: float) -> int:
    """How strongly a place is drawn, 0 to 4."""
    return sum(nats >= limit for limit in LEVELS)


def _draw_strip(pair: Pair, found: Divergence) -> None:
    largest = set(sorted(range(len(found.places)), key=lambda i: -found.places[i].nats)[:LARGEST])
    skipped = max(0, len(found.places) - SHOWN_PLACES)
    opening = "… " if skipped else found.opening
    spans = [
        _strip_token(pair, found.places[i], i in largest)
        for i in range(skipped, len(found.places))
        if found.places[i].text
    ]
    frame.show(
        paragraph(
            "The thicker the line under a token, the further apart are the two models' expectations at its place. "
            "Point at a token to read the number; the twenty largest are reached with the Tab key and listed in the "
            "table.",
            css="sd-muted sd-small",
        ),
        _strip_legend(),
        element("p", escape(opening), join(*spans), css="sd-passage sd-strip"),
    )
    with st.expander("The numbers as a table"):
        frame.show_table(_strip_table(pair, found, sorted(largest, key=lambda i: -found.places[i].nats)))


def _strip_token(pair: Pair, place: Place, large: bool) -> Html:
    tip = (
        f"{place.nats:.2f} nats: {pair.left_name} expects {_quoted(place.left)}, {pair.right_name} "
        f"{_quoted(place.right)}"
    )
    css = f"sd-heat sd-heat-{heat_level(place.nats)}"
    if not large:
        return element("span", escape(place.text), css=css, title=tip)
    return element(
        "span",
        escape(place.text),
        css=css,
        title=tip,
        data_tip=tip,
        tabindex="0",
        role="img",
        aria_label=f"{place.text}: {tip}",
    )


def _strip_legend() -> Html:
    bounds = ["under 0.01", "from 0.01", "from 0.05", "from 0.2", "0.8 and more"]
    parts = [
        element("span", escape(f"{words} nats" if step == 4 else words), css=f"sd-heat sd-heat-{step}")
        for step, words in enumerate(bounds)
    ]
    return element("p", *parts, css="sd-heat-legend")


def _strip_table(pair: Pair, found: Divergence, largest: list[int]) -> Table:
    caption = (
        f"The {len(largest)} largest of {len(found.places):,} places: KL({pair.left_name} ‖ {pair.right_name}), in "
        "nats, of what each model expects for the token, given all before it. 0: the same. Changing the sides gives "
        "the other direction."
    )
    head = ["Token", "Nats", f"{pair.left_name} expects", f"{pair.right_name} expects"]
    rows = [
        [
            _quoted(found.places[i].text),
            f"{found.places[i].nats:.2f}",
            _quoted(found.places[i].left),
            _quoted(found.places[i].right),
        ]
        for i in largest
    ]
    return table("Where the two models' expectations differ", caption, head, rows)


def _quoted(text: str) -> str:
    return f"“{visible(text.replace(chr(10), '⏎')[:60])}”" if text else "a part of a character"


SHOWN_CHARACTERS = 20_000
"""A longer context is shown from its end, where the target stands."""


def show_passage(backend: Backend, view: View, pair: Pair, passages: Passages | None, position: int) -> None:
    """Draw the passage at this position; while it waits to be judged blind, without what tells the sides apart."""
    outcome = pair.left.outcomes[position]
    subject = f"passage-{outcome.index}"
    seen = view.sides(backend, pair, subject)
    _show_answers(position, seen, passages)
    view.judge(backend, seen, subject)
    if passages is None or is_example(pair.left.key):
        return
    context = passages.contexts[position]
    continue_passage(backend, seen, context)
    if not seen.hidden:
        show_strip(backend, pair, f"{context} {outcome.target}")


def _show_answers(position: int, seen: SideBySide, passages: Passages | None) -> None:
    """The context with its target, and both models' answers to it; while the sides are hidden, only what they
    answered.
    """
    pair = seen.pair
    left, right = pair.outcomes(position)
    heading = f"Passage {left.index + 1:,}"
    frame.show(element("h2", escape(heading), css="sd-muted sd-small sd-passage-number"))
    if passages is None:
        frame.note("The text of this passage is no longer stored. Run again with the same settings to bring it back.")
    else:
        whole = passages.contexts[position]
        context = whole if len(whole) <= SHOWN_CHARACTERS else f"… {whole[-SHOWN_CHARACTERS:]}"
        # The target tells which answer is right.
        target = element("span", escape(left.target), css="sd-target")
        after = escape("…") if seen.hidden else target
        text = element("p", escape(context), Html(" "), after, css="sd-passage")
        # On a phone it scrolls in itself, from its end, where the target stands.
        frame.show(element("div", text, css="sd-reader", role="region", aria_label="The passage", tabindex="0"))
    if seen.hidden:
        said = [element("p", _answer_text(outcome), css="sd-word") for outcome in (left, right)]
        frame.show(seen.beside(said[0], said[1]))
        return
    frame.show(
        seen.beside(_answer(left), _answer(right)),
        paragraph(change_words(-pair.fall(position), left.target), css="sd-change"),
    )
    frame.show(token_choices_html(left, right, seen.titles, seen.colours))
    frame.offer_table(token_choices_table(left, right, seen.titles))
    if (tokens := _target_tokens(position, pair)) is not None:
        frame.show_table(tokens)


def _answer_text(outcome: Outcome) -> Html:
    return escape(outcome.answer.strip() or NOTHING)


def _answer(outcome: Outcome) -> Html:
    right = outcome.last_word_right
    sign, word, css = ("✓", "right", "sd-right") if right else ("✕", "wrong", "sd-wrong")
    probability = wording.likelihood(outcome.log_likelihood)
    ranks = ", ".join(f"{t.rank:,}" for t in outcome.tokens)
    rank = f"rank {ranks}" if len(outcome.tokens) == 1 else f"ranks {ranks}"
    verdict = element("span", element("span", escape(sign), css="sd-sign"), escape(f" {word}"), css=f"{css} sd-verdict")
    return join(
        element("p", _answer_text(outcome), Html(" "), verdict, css="sd-word"),
        paragraph(f"“{outcome.target}” gets {probability}, {rank}", css="sd-muted"),
    )


def _target_tokens(position: int, pair: Pair) -> Table | None:
    """The target's tokens with both probabilities; None for a single one, or where the models cut it differently."""
    left, right = pair.outcomes(position)
    if len(left.tokens) < 2 or [t.text for t in left.tokens] != [t.text for t in right.tokens]:
        return None
    head = ["Token", side_title(pair.left_name, pair.left), side_title(pair.right_name, pair.right)]
    rows = [
        [one.text, *(f"{wording.likelihood(t.log_likelihood)}, rank {t.rank:,}" for t in (one, other))]
        for one, other in zip(left.tokens, right.tokens, strict=True)
    ]
    caption = "The right word token by token, each given those before it"
    return table("Tokens of the right word", caption, head, rows, [token(one.text) for one in left.tokens])


ROWS = 12
"""A page of the table is about as high as the passage beside it."""
_MOST_LETTERS = 40


def show_passage_table(shown: Shown, pair: Pair, passages: Passages | None, at: int) -> None:
    """Draw the page of the table that holds the passage at this place among those shown, and the way to other pages."""
    first = at - at % ROWS
    page = shown.positions[first : first + ROWS]
    hidden = shown.kind is None
    with st.container(key="rows-hidden" if hidden else "rows", gap=None):
        frame.show(_head([] if hidden else [pair.left_name, pair.right_name]))
        for i, position in enumerate(page):
            number = f"{pair.left.outcomes[position].index + 1:,}"
            cells = _opening(position, passages) if hidden else _cells(position, pair)
            st.button(
                # Marked in its words: a button of another type would be a new one, and lose the focus.
                f"{f'`▸ {number}`' if first + i == at else number} {cells}",
                key=f"row-{i}",
                type="tertiary",
                width="stretch",
                on_click=address_bar.set_query,
                args=(_to(shown, pair, first + i),),
            )
    if len(shown.positions) > ROWS:
        _pages(shown, pair, first)


def _pages(shown: Shown, pair: Pair, first: int) -> None:
    n = len(shown.positions)
    with st.container(horizontal=True, vertical_alignment="center", key="pages"):
        for name, icon, to in (("Earlier", "arrow_upward", first - ROWS), ("Later", "arrow_downward", first + ROWS)):
            inside = 0 <= to < n
            st.button(
                name,
                key=f"page-{name}",
                icon=f":material/{icon}:",
                type="tertiary",
                disabled=not inside,
                on_click=address_bar.set_query,
                args=(_to(shown, pair, to) if inside else {},),
            )
        frame.show(element("p", escape(f"{first + 1:,} to {min(n, first + ROWS):,} of {n:,}"), css="sd-muted sd-small"))


def _to(shown: Shown, pair: Pair, at: int) -> dict[str, str]:
    """What the address says of the passage at this place."""
    return {"filter": shown.kind or "", "passage": str(pair.left.outcomes[shown.positions[at]].index)}


def _head(names: Sequence[str]) -> Html:
    """The heads of the columns; while the models are hidden, of what tells nothing."""
    heads = ["Passage", *(["Right word", *names, "Change"] if names else ["begins with"])]
    return element("div", *(element("span", escape(head)) for head in heads), css="sd-row-heads", aria_hidden="true")


def _cells(position: int, pair: Pair) -> str:
    left, right = pair.outcomes(position)
    target = widget_label(left.target[:_MOST_LETTERS]) or "–"
    return f"**{target}** *{_answer_mark(left)}* *{_answer_mark(right)}* {signed_nats(-pair.fall(position))}"


def _answer_mark(outcome: Outcome) -> str:
    """ "✓", or "✕" and what was said instead."""
    return "✓" if outcome.last_word_right else f"✕ {widget_label(outcome.answer[:_MOST_LETTERS]) or NOTHING}"


def _opening(position: int, passages: Passages | None) -> str:
    return f"**{widget_label(passages.contexts[position][:_MOST_LETTERS]) or '–'}**" if passages else ""
