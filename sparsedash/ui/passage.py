"""One passage with both models' answers to it, and what they wrote after it."""

from math import exp

from sparsedash.records import Candidate, Outcome, Passages, Record
from sparsedash.ui import frame, wording
from sparsedash.ui.differences import marked
from sparsedash.ui.pair import Pair
from sparsedash.ui.text import Html, element, escape, paragraph, token

SHOWN_CHARACTERS = 20_000
"""A longer context is shown from its end, where the target stands."""


def show_passage(position: int, pair: Pair, passages: Passages | None) -> None:
    """The context with its target, and both models' answers to it."""
    outcome = pair.left.outcomes[position]
    heading = f"Passage {outcome.index + 1:,}"
    frame.show(element("p", escape(heading), css="sd-muted sd-small"))
    if passages is None:
        frame.note(
            "The text of this passage is no longer stored. Run again with the same settings to bring it back."
        )
    else:
        whole = passages.contexts[position]
        context = whole if len(whole) <= SHOWN_CHARACTERS else f"… {whole[-SHOWN_CHARACTERS:]}"
        target = element("span", escape(outcome.target), css="sd-target")
        frame.show(element("p", escape(context), Html(" "), target, css="sd-passage"))
    sides = [(pair.left_name, pair.left), (pair.right_name, pair.right)]
    answers = [_answer(name, record, record.outcomes[position]) for name, record in sides]
    frame.show(element("div", *answers, css="sd-answers"))
    frame.show(_change(position, pair), _tokens(position, pair))


def show_continuations(pair: Pair, left: str, right: str) -> None:
    """What both models wrote after the same text, side by side, with the words marked that only one of them wrote."""
    texts = marked(left.strip() or "(nothing)", right.strip() or "(nothing)")
    sides = [(pair.left_name, pair.left), (pair.right_name, pair.right)]
    written = [
        element(
            "section",
            element("h3", escape(side_title(name, record))),
            element("p", text, css="sd-written"),
            css=f"sd-answer {_side(record)}",
        )
        for (name, record), text in zip(sides, texts, strict=True)
    ]
    frame.show(element("div", *written, css="sd-answers"))
    if left.strip() != right.strip():
        legend = "Words that only one model wrote are struck through on the left and underlined on the right."
        frame.show(paragraph(legend, css="sd-muted sd-small"))


def side_title(name: str, record: Record) -> str:
    """The heading of one side: "Dense", "Sparse, 20 %"."""
    if record.pruned is None:
        return f"D{name[1:]}" if name.startswith("dense") else f"Dense, {name}"
    return f"Sparse, {name}"


def _answer(name: str, record: Record, outcome: Outcome) -> Html:
    right = outcome.last_word_right
    sign, word, css = ("✓", "right", "sd-right") if right else ("✕", "wrong", "sd-wrong")
    probability = wording.probability(exp(outcome.log_likelihood))
    ranks = ", ".join(f"{t.rank:,}" for t in outcome.tokens)
    rank = f"rank {ranks}" if len(outcome.tokens) == 1 else f"its tokens rank {ranks}"
    return element(
        "section",
        element("h3", escape(side_title(name, record))),
        element(
            "p",
            escape(outcome.answer.strip() or "(nothing)"),
            Html(" "),
            element(
                "span",
                element("span", escape(sign), css="sd-sign"),
                escape(f" {word}"),
                css=f"{css} sd-verdict",
            ),
            css="sd-word",
        ),
        paragraph(f"“{outcome.target}” gets {probability}, {rank}", css="sd-muted"),
        _top(outcome),
        css=f"sd-answer {_side(record)}",
    )


def _top(outcome: Outcome) -> Html:
    first = outcome.tokens[0].text if outcome.tokens else ""
    rows = [_candidate(candidate, candidate.text == first) for candidate in outcome.top[:5]]
    caption = element("caption", escape("First choices for the next token"))
    return element("table", caption, element("tbody", *rows), css="sd-top")


def _candidate(candidate: Candidate, hit: bool) -> Html:
    bar = element("span", css="sd-meter", style=f"width: {100 * candidate.probability:.1f}%")
    sign = element("span", escape(" ✓"), css="sd-sign") if hit else Html("")
    return element(
        "tr",
        element("th", token(candidate.text), sign, scope="row", css="sd-hit" if hit else ""),
        element("td", bar),
        element("td", escape(wording.probability(candidate.probability))),
    )


def _change(position: int, pair: Pair) -> Html:
    fall = pair.fall(position)
    if abs(fall) < 0.005:
        return paragraph("The target's log-probability stayed the same.", css="sd-muted")
    word = "fell" if fall > 0 else "rose"
    return paragraph(f"The target's log-probability {word} by {abs(fall):.2f}.", css="sd-muted")


def _tokens(position: int, pair: Pair) -> Html:
    """The target's tokens with both probabilities; nothing for a single one, or where the models cut it differently."""
    left, right = pair.outcomes(position)
    if len(left.tokens) < 2 or [t.text for t in left.tokens] != [t.text for t in right.tokens]:
        return Html("")
    head = ["Token", side_title(pair.left_name, pair.left), side_title(pair.right_name, pair.right)]
    rows = [
        element(
            "tr",
            element("th", token(one.text), scope="row"),
            *(
                element(
                    "td", escape(f"{wording.probability(exp(t.log_likelihood))}, rank {t.rank:,}")
                )
                for t in (one, other)
            ),
        )
        for one, other in zip(left.tokens, right.tokens, strict=True)
    ]
    caption = element("caption", escape("The target token by token, each given those before it"))
    top = element("tr", *(element("th", escape(cell), scope="col") for cell in head))
    table = element(
        "table", caption, element("thead", top), element("tbody", *rows), css="sd-table sd-tokens"
    )
    return element(
        "div", table, css="sd-scroll", role="region", aria_label="Target tokens", tabindex="0"
    )


def _side(record: Record) -> str:
    return "sd-sparse" if record.pruned else "sd-dense"
