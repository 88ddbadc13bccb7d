"""What two models wrote, with a mark at the word where their texts part; nothing is struck out."""

import re
from itertools import takewhile

from sparsedash.reporting.html import Html, element, escape, join

SHOWN_CHARACTERS = 4_000
"""Of a longer text the beginning is shown: one endless word keeps a browser busy for minutes."""

SIGN = "❘"
_MARK = element(
    "span", element("span", escape(SIGN), aria_hidden="true"), css="sd-part", role="img", aria_label="parts"
)
_WORDS = re.compile(r"\S+\s*|\s+")


def parted(first: str, second: str) -> tuple[Html, Html]:
    """Both texts as markup, escaped, each with the mark behind the words they begin with alike; no mark in equal ones.

    What stands before the mark is in an element of class sd-alike.
    """
    one, other = _WORDS.findall(_beginning(first)), _WORDS.findall(_beginning(second))
    pairs = zip(one, other, strict=False)
    alike = sum(1 for _ in takewhile(lambda words: words[0].rstrip() == words[1].rstrip(), pairs))
    if alike == len(one) == len(other):
        return escape("".join(one)), escape("".join(other))
    return _marked(one, alike), _marked(other, alike)


def _marked(words: list[str], alike: int) -> Html:
    before, after = escape("".join(words[:alike])), escape("".join(words[alike:]))
    return join(element("span", before, css="sd-alike") if before else Html(""), _MARK, after)


def _beginning(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]} …"
