"""One passage: both models' answers to it, and the heat strip of how far they differ at each token."""

from bisect import bisect_right

import streamlit as st

from sparsedash.catalog.choices import is_example
from sparsedash.reporting import wording
from sparsedash.reporting.html import Html, element, escape, join, paragraph, table, token, visible, widget_label
from sparsedash.reporting.passage_analysis import change_words, first_choices
from sparsedash.reporting.record_pair import Pair, end_of
from sparsedash.reporting.wording import signed_nats
from sparsedash.schema.errors import SettingsError
from sparsedash.schema.pair_records import Divergence, DivergenceSettings, Place
from sparsedash.schema.records import Outcome, Passages
from sparsedash.service.backend import Backend
from sparsedash.ui import address_bar, frame
from sparsedash.ui.compare_choices import Shown
from sparsedash.ui.compare_continuation import NOTHING, continue_passage
from sparsedash.ui.compare_views import judge_blind, sides
from sparsedash.ui.job_panel import watch_job

LEVELS = (0.01, 0.05, 0.2, 0.8)
"""Nats from which a token is drawn one step stronger; the same for every passage, so that passages can be compared."""
LARGEST, SHOWN_PLACES = 20, 3_000
"""Tokens with their number in reach of the keyboard; and those that are drawn, from the end of the passage."""
SHOWN_CHARACTERS = 20_000
"""A longer context is shown from its end, where the target stands."""
ROWS = 12
"""A page of the table is about as high as the passage next to it."""
_MOST_LETTERS = 40


def show_passage(backend: Backend, shown: Shown, passages: Passages | None, at: int, *, blind: bool) -> None:
    """Draw the passage at this place under the buttons to the others; blind: hidden sides until it is judged."""
    steps = [
        ("Previous", "chevron_left", shown.query(at - 1), "K"),
        ("Next", "chevron_right", shown.query(at + 1), "J"),
    ]
    address_bar.draw_steps("step", steps, f"{at + 1:,} of {len(shown.positions):,}", "secondary")
    position = shown.positions[at]
    outcome = shown.pair.left.outcomes[position]
    subject = f"passage-{outcome.index}"
    pair = sides(backend, shown.pair, subject, blind)
    _show_answers(position, pair, passages)
    if blind:
        judge_blind(backend, pair, subject)
    if passages is None or is_example(pair.left.key):
        return
    context = passages.contexts[position]
    continue_passage(backend, pair, context)
    if not pair.hidden:
        _show_strip(backend, pair, f"{context} {outcome.target}")


def _show_answers(position: int, pair: Pair, passages: Passages | None) -> None:
    """The context with its target, and both answers; while the sides are hidden, without what tells which is right."""
    left, right = pair.outcomes(position)
    frame.show(element("h2", escape(f"Passage {left.index + 1:,}"), css="sd-muted sd-small sd-passage-number"))
    if passages is None:
        frame.note("The text of this passage is no longer stored. Run again with the same settings to bring it back.")
    else:
        context = end_of(passages.contexts[position], SHOWN_CHARACTERS)
        target = escape("…") if pair.hidden else element("span", escape(left.target), css="sd-target")
        text = element("p", escape(context), Html(" "), target, css="sd-passage")
        # On a phone it scrolls in itself, from its end, where the target stands.
        frame.show(element("div", text, css="sd-reader", role="region", aria_label="The passage", tabindex="0"))
    frame.show(pair.beside(_answer(left, pair.hidden), _answer(right, pair.hidden)))
    if pair.hidden:
        return
    drawn, choices = first_choices(pair, position)
    frame.show(paragraph(change_words(-pair.fall(position), left.target), css="sd-change"), drawn)
    frame.offer_table(choices)
    if len(left.tokens) > 1 and [t.text for t in left.tokens] == [t.text for t in right.tokens]:
        rows = [
            [one.text, *(f"{wording.likelihood(t.log_likelihood)}, rank {t.rank:,}" for t in (one, other))]
            for one, other in zip(left.tokens, right.tokens, strict=True)
        ]
        caption, firsts = "The right word token by token, each given those before it", [token(row[0]) for row in rows]
        frame.show_table(table("Tokens of the right word", caption, ["Token", *pair.titles], rows, firsts))


def _answer(outcome: Outcome, hidden: bool) -> Html:
    """The answer; unless it is hidden, whether it is right, and the right word's probability and rank."""
    right, text = outcome.last_word_right, escape(outcome.answer.strip() or NOTHING)
    if hidden:
        return element("p", text, css="sd-word")
    sign, word, css = ("✓", "right", "sd-right") if right else ("✕", "wrong", "sd-wrong")
    ranks = ", ".join(f"{t.rank:,}" for t in outcome.tokens)
    rank = f"{wording.plural(len(outcome.tokens), 'rank')} {ranks}"
    verdict = element("span", element("span", escape(sign), css="sd-sign"), escape(f" {word}"), css=f"{css} sd-verdict")
    return join(
        element("p", text, Html(" "), verdict, css="sd-word"),
        paragraph(f"“{outcome.target}” gets {wording.likelihood(outcome.log_likelihood)}, {rank}", css="sd-muted"),
    )


def _show_strip(backend: Backend, pair: Pair, text: str) -> None:
    """Draw the heat strip where it is stored, else the job that computes it, else the button that asks for it."""
    try:
        request = DivergenceSettings(left=pair.left.key, right=pair.right.key, text=text)
    except SettingsError as error:
        frame.note(f"This passage cannot be compared token by token: {error.message}")
        return
    if (stored := backend.divergence(request.key())) is not None:
        frame.section("Where the two models' expectations differ")
        _draw_strip(pair, stored)
        return
    job = backend.newest_job(request.key())
    if job is not None and job.state != "done":
        watch_job(backend, job, brief=True)
        return
    frame.action_button(
        "Show where the two differ",
        lambda: backend.submit(request),
        key="strip",
        icon="gradient",
        help="Both models read the passage; the places where their expectations differ are marked.",
    )


def _draw_strip(pair: Pair, found: Divergence) -> None:
    places, n = found.places, len(found.places)
    largest = sorted(range(n), key=lambda i: -places[i].nats)[:LARGEST]
    skipped = max(0, n - SHOWN_PLACES)
    spans = [_strip_token(pair, places[i], i in largest) for i in range(skipped, n) if places[i].text]
    bounds = ["under 0.01", "from 0.01", "from 0.05", "from 0.2", "0.8 and more nats"]
    legend = [element("span", escape(words), css=f"sd-heat sd-heat-{step}") for step, words in enumerate(bounds)]
    frame.remark(
        "The thicker the line under a token, the further apart are the two models' expectations at its place. Point at "
        "a token to read the number; the twenty largest are reached with the Tab key and listed in the table."
    )
    frame.show(
        element("p", *legend, css="sd-heat-legend"),
        element("p", escape("… " if skipped else found.opening), join(*spans), css="sd-passage sd-strip"),
    )
    caption = (
        f"The {len(largest)} largest of {n:,} places: KL({pair.left_name} ‖ {pair.right_name}), in nats, of what each "
        "model expects for the token, given all before it. 0: the same. Changing the sides gives the other direction."
    )
    head = ["Token", "Nats", f"{pair.left_name} expects", f"{pair.right_name} expects"]
    quoted = [[_quoted(text) for text in (places[i].text, places[i].left, places[i].right)] for i in largest]
    rows = [[text, f"{places[i].nats:.2f}", *both] for i, (text, *both) in zip(largest, quoted, strict=True)]
    with st.expander("The numbers as a table"):
        frame.show_table(table("Where the two models' expectations differ", caption, head, rows))


def _strip_token(pair: Pair, place: Place, large: bool) -> Html:
    left, right = f"{pair.left_name} expects {_quoted(place.left)}", f"{pair.right_name} {_quoted(place.right)}"
    tip, level = f"{place.nats:.2f} nats: {left}, {right}", bisect_right(LEVELS, place.nats)
    reach = {"data_tip": tip, "tabindex": "0", "role": "img", "aria_label": f"{place.text}: {tip}"} if large else {}
    return element("span", escape(place.text), css=f"sd-heat sd-heat-{level}", title=tip, **reach)


def _quoted(text: str) -> str:
    return f"“{visible(text.replace(chr(10), '⏎')[:60])}”" if text else "a part of a character"


def show_passage_table(shown: Shown, passages: Passages | None, at: int) -> None:
    """Draw the page of the table with the passage at this place, a button a passage, and the buttons to other pages."""
    pair, positions, kind = shown
    first, n = at - at % ROWS, len(positions)
    names = ["begins with"] if kind is None else ["Right word", pair.left_name, pair.right_name, "Change"]
    heads = (element("span", escape(head)) for head in ("Passage", *names))
    with st.container(key="rows-hidden" if kind is None else "rows", gap=None):
        frame.show(element("div", *heads, css="sd-row-heads", aria_hidden="true"))
        for i, position in enumerate(positions[first : first + ROWS]):
            number = f"{pair.left.outcomes[position].index + 1:,}"
            cells = _opening(position, passages) if kind is None else _cells(position, pair)
            # Marked in its words: a button of another type would be a new one, and lose the focus.
            label, to = f"{f'`▸ {number}`' if first + i == at else number} {cells}", shown.query(first + i) or {}
            st.button(label, f"row-{i}", type="tertiary", width="stretch", on_click=address_bar.set_query, args=(to,))
    if n > ROWS:
        before, after = shown.query(first - ROWS), shown.query(first + ROWS)
        steps = [("Earlier", "arrow_upward", before, None), ("Later", "arrow_downward", after, None)]
        address_bar.draw_steps("page", steps, f"{first + 1:,} to {min(n, first + ROWS):,} of {n:,}", "tertiary")


def _opening(position: int, passages: Passages | None) -> str:
    return f"**{widget_label(passages.contexts[position][:_MOST_LETTERS]) or '–'}**" if passages else ""


def _cells(position: int, pair: Pair) -> str:
    """The right word, "✓" or "✕" with the wrong answer for each model, and the change."""
    answers = [
        "✓" if outcome.last_word_right else f"✕ {widget_label(outcome.answer[:_MOST_LETTERS]) or NOTHING}"
        for outcome in pair.outcomes(position)
    ]
    target = widget_label(pair.left.outcomes[position].target[:_MOST_LETTERS]) or "–"
    return f"**{target}** *{answers[0]}* *{answers[1]}* {signed_nats(-pair.fall(position))}"
