"""One passage: both models' answers to it, and the heat strip of how far they differ at each token."""

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


def show_passage(backend: Backend, pair: Pair, passages: Passages | None, position: int, *, blind: bool) -> None:
    """Draw the passage at this position; blind: until it is judged without what tells the sides apart."""
    outcome = pair.left.outcomes[position]
    subject = f"passage-{outcome.index}"
    seen = sides(backend, pair, subject, blind)
    _show_answers(position, seen, passages)
    if blind:
        judge_blind(backend, seen, subject)
    if passages is None or is_example(pair.left.key):
        return
    context = passages.contexts[position]
    continue_passage(backend, seen, context)
    if not seen.hidden:
        _show_strip(backend, pair, f"{context} {outcome.target}")


def _show_answers(position: int, seen: SideBySide, passages: Passages | None) -> None:
    """The context with its target, and both answers; while the sides are hidden, without what tells which is right."""
    pair = seen.pair
    left, right = pair.outcomes(position)
    frame.show(element("h2", escape(f"Passage {left.index + 1:,}"), css="sd-muted sd-small sd-passage-number"))
    if passages is None:
        frame.note("The text of this passage is no longer stored. Run again with the same settings to bring it back.")
    else:
        whole = passages.contexts[position]
        context = whole if len(whole) <= SHOWN_CHARACTERS else f"… {whole[-SHOWN_CHARACTERS:]}"
        target = escape("…") if seen.hidden else element("span", escape(left.target), css="sd-target")
        text = element("p", escape(context), Html(" "), target, css="sd-passage")
        # On a phone it scrolls in itself, from its end, where the target stands.
        frame.show(element("div", text, css="sd-reader", role="region", aria_label="The passage", tabindex="0"))
    if seen.hidden:
        answers = [element("p", _answer_text(outcome), css="sd-word") for outcome in (left, right)]
        frame.show(seen.beside(answers[0], answers[1]))
        return
    change = paragraph(change_words(-pair.fall(position), left.target), css="sd-change")
    frame.show(seen.beside(_answer(left), _answer(right)), change)
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


def heat_level(nats: float) -> int:
    """How strongly a token is drawn, 0 to 4."""
    return sum(nats >= limit for limit in LEVELS)


def _draw_strip(pair: Pair, found: Divergence) -> None:
    places, n = found.places, len(found.places)
    largest = sorted(range(n), key=lambda i: -places[i].nats)[:LARGEST]
    skipped = max(0, n - SHOWN_PLACES)
    spans = [_strip_token(pair, places[i], i in largest) for i in range(skipped, n) if places[i].text]
    bounds = ["under 0.01", "from 0.01", "from 0.05", "from 0.2", "0.8 and more nats"]
    legend = [element("span", escape(words), css=f"sd-heat sd-heat-{step}") for step, words in enumerate(bounds)]
    frame.show(
        paragraph(
            "The thicker the line under a token, the further apart are the two models' expectations at its place. "
            "Point at a token to read the number; the twenty largest are reached with the Tab key and listed in the "
            "table.",
            css="sd-muted sd-small",
        ),
        element("p", *legend, css="sd-heat-legend"),
        element("p", escape("… " if skipped else found.opening), join(*spans), css="sd-passage sd-strip"),
    )
    caption = (
        f"The {len(largest)} largest of {n:,} places: KL({pair.left_name} ‖ {pair.right_name}), in nats, of what each "
        "model expects for the token, given all before it. 0: the same. Changing the sides gives the other direction."
    )
    head = ["Token", "Nats", f"{pair.left_name} expects", f"{pair.right_name} expects"]
    rows = [
        [_quoted(place.text), f"{place.nats:.2f}", _quoted(place.left), _quoted(place.right)]
        for place in (places[i] for i in largest)
    ]
    with st.expander("The numbers as a table"):
        frame.show_table(table("Where the two models' expectations differ", caption, head, rows))


def _strip_token(pair: Pair, place: Place, large: bool) -> Html:
    tip = (
        f"{place.nats:.2f} nats: {pair.left_name} expects {_quoted(place.left)}, {pair.right_name} "
        f"{_quoted(place.right)}"
    )
    reach = {"data_tip": tip, "tabindex": "0", "role": "img", "aria_label": f"{place.text}: {tip}"} if large else {}
    return element("span", escape(place.text), css=f"sd-heat sd-heat-{heat_level(place.nats)}", title=tip, **reach)


def _quoted(text: str) -> str:
    return f"“{visible(text.replace(chr(10), '⏎')[:60])}”" if text else "a part of a character"


def show_passage_table(shown: Shown, pair: Pair, passages: Passages | None, at: int) -> None:
    """Draw the page of the table with the passage at this place, a button a passage, and the buttons to other pages."""
    first, n, blind = at - at % ROWS, len(shown.positions), shown.kind is None
    names = ["begins with"] if blind else ["Right word", pair.left_name, pair.right_name, "Change"]
    heads = (element("span", escape(head)) for head in ("Passage", *names))
    with st.container(key="rows-hidden" if blind else "rows", gap=None):
        frame.show(element("div", *heads, css="sd-row-heads", aria_hidden="true"))
        for i, position in enumerate(shown.positions[first : first + ROWS]):
            number = f"{pair.left.outcomes[position].index + 1:,}"
            cells = _opening(position, passages) if blind else _cells(position, pair)
            st.button(
                # Marked in its words: a button of another type would be a new one, and lose the focus.
                f"{f'`▸ {number}`' if first + i == at else number} {cells}",
                key=f"row-{i}",
                type="tertiary",
                width="stretch",
                on_click=address_bar.set_query,
                args=(shown.query(pair, first + i) or {},),
            )
    if n > ROWS:
        steps: list[address_bar.Step] = [
            ("Earlier", "arrow_upward", shown.query(pair, first - ROWS), None),
            ("Later", "arrow_downward", shown.query(pair, first + ROWS), None),
        ]
        address_bar.draw_steps("page", steps, f"{first + 1:,} to {min(n, first + ROWS):,} of {n:,}", "tertiary")


def _cells(position: int, pair: Pair) -> str:
    left, right = pair.outcomes(position)
    target = widget_label(left.target[:_MOST_LETTERS]) or "–"
    return f"**{target}** *{_answer_mark(left)}* *{_answer_mark(right)}* {signed_nats(-pair.fall(position))}"


def _answer_mark(outcome: Outcome) -> str:
    """ "✓", or "✕" and the wrong answer."""
    return "✓" if outcome.last_word_right else f"✕ {widget_label(outcome.answer[:_MOST_LETTERS]) or NOTHING}"


def _opening(position: int, passages: Passages | None) -> str:
    return f"**{widget_label(passages.contexts[position][:_MOST_LETTERS]) or '–'}**" if passages else ""
