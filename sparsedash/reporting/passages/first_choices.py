"""Both models' first choices for what comes next, as one table: two bars a row, all to one scale."""

from dataclasses import dataclass
from math import exp

from sparsedash.reporting import wording
from sparsedash.reporting.html import Html, Table, element, escape, table, token
from sparsedash.schema.records import Outcome

LISTED = 5
"""Choices of each model that are listed."""
UNKNOWN = "–"
CAPTION = "What each model thinks most likely to come next"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One token with what each model gives it; None where it is none of a model's first choices.

    target: it is how the right word begins.
    """

    text: str
    target: bool
    left: float | None
    right: float | None

    @property
    def most(self) -> float:
        """What the model gives it that gives it more."""
        return max(self.left or 0.0, self.right or 0.0)


def choices(left: Outcome, right: Outcome) -> list[Choice]:
    """The first choices of both models, and how the right word begins, the likeliest first."""
    first = left.tokens[0].text if left.tokens else ""
    given = [_probabilities(outcome) for outcome in (left, right)]
    listed = dict.fromkeys([*([first] if first else []), *(c.text for o in (left, right) for c in o.top[:LISTED])])
    found = [Choice(text=t, target=t == first, left=given[0].get(t), right=given[1].get(t)) for t in listed]
    return sorted(found, key=lambda choice: -choice.most)


def choices_table(left: Outcome, right: Outcome, names: tuple[str, str], colours: tuple[str, str]) -> Html:
    """The table. names: of the two models. colours: the classes of their sides."""
    found = choices(left, right)
    largest = max((choice.most for choice in found), default=0.0)
    head = element(
        "tr",
        element("th", escape("Next token"), scope="col"),
        element("td"),
        *(element("th", escape(n), scope="col", css=css) for n, css in zip(names, colours, strict=True)),
    )
    rows = [_row(choice, largest, colours) for choice in found]
    caption = element("caption", escape(CAPTION))
    return element("table", caption, element("thead", head), element("tbody", *rows), css="sd-top")


def choices_file(left: Outcome, right: Outcome, names: tuple[str, str]) -> Table:
    """The same table to take along: without bars, and with a word for how the right word begins."""
    rows = [
        [choice.text, "yes" if choice.target else "no", *(_said(share) for share in (choice.left, choice.right))]
        for choice in choices(left, right)
    ]
    return table("First choices", CAPTION, ["Next token", "Begins the right word", *names], rows)


def _said(share: float | None) -> str:
    return UNKNOWN if share is None else wording.probability(share)


def _probabilities(outcome: Outcome) -> dict[str, float]:
    """What is known of a model's probabilities for the next token, by its text; that of the right one always is."""
    exact = {t.text: exp(min(0.0, t.log_likelihood)) for t in outcome.tokens[:1]}
    return {c.text: c.probability for c in reversed(outcome.top)} | exact


def _row(choice: Choice, largest: float, colours: tuple[str, str]) -> Html:
    sign = element("span", escape(" ✓"), css="sd-sign") if choice.target else Html("")
    both = (choice.left, choice.right)
    bars = [_bar(share, largest, css) for share, css in zip(both, colours, strict=True)]
    return element(
        "tr",
        element("th", token(choice.text), sign, scope="row", css="sd-hit" if choice.target else ""),
        element("td", *bars),
        *(element("td", escape(_said(share))) for share in both),
    )


def _bar(share: float | None, largest: float, css: str) -> Html:
    width = 100 * (share or 0.0) / largest if largest > 0 else 0.0
    # What is not known has no colour, and so no bar.
    return element("span", css="sd-meter" if share is None else f"sd-meter {css}", style=f"width: {width:.1f}%")
