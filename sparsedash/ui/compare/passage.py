"""One passage: both models' answers to it, what both write after it, and where they differ in it."""

from sparsedash.catalog.example import is_example
from sparsedash.reporting import wording
from sparsedash.reporting.html import Html, Table, element, escape, join, paragraph, table, token
from sparsedash.reporting.passages.changes import change_words
from sparsedash.reporting.passages.first_choices import choices_file, choices_table
from sparsedash.reporting.record_pair import Pair
from sparsedash.reporting.side_by_side import SideBySide, side_title
from sparsedash.schema.records import Outcome, Passages
from sparsedash.service.backend import Backend
from sparsedash.ui import frame
from sparsedash.ui.compare.continuation import NOTHING, continue_passage
from sparsedash.ui.compare.divergence_strip import show_strip
from sparsedash.ui.compare.views import View

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
        said = [element("p", _said(outcome), css="sd-word") for outcome in (left, right)]
        frame.show(seen.beside(said[0], said[1]))
        return
    frame.show(
        seen.beside(_answer(left), _answer(right)),
        paragraph(change_words(-pair.fall(position), left.target), css="sd-change"),
    )
    frame.show(choices_table(left, right, seen.titles, seen.colours))
    frame.offer_table(choices_file(left, right, seen.titles))
    if (tokens := _tokens(position, pair)) is not None:
        frame.show_table(tokens)


def _said(outcome: Outcome) -> Html:
    return escape(outcome.answer.strip() or NOTHING)


def _answer(outcome: Outcome) -> Html:
    right = outcome.last_word_right
    sign, word, css = ("✓", "right", "sd-right") if right else ("✕", "wrong", "sd-wrong")
    probability = wording.likelihood(outcome.log_likelihood)
    ranks = ", ".join(f"{t.rank:,}" for t in outcome.tokens)
    rank = f"rank {ranks}" if len(outcome.tokens) == 1 else f"ranks {ranks}"
    verdict = element("span", element("span", escape(sign), css="sd-sign"), escape(f" {word}"), css=f"{css} sd-verdict")
    return join(
        element("p", _said(outcome), Html(" "), verdict, css="sd-word"),
        paragraph(f"“{outcome.target}” gets {probability}, {rank}", css="sd-muted"),
    )


def _tokens(position: int, pair: Pair) -> Table | None:
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
