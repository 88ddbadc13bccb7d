"""Two texts with the words marked that only one of them has: struck through on the left, underlined on the right."""

import re
from difflib import SequenceMatcher

from sparsedash.reporting.html import Html, element, escape, join

SHOWN_CHARACTERS = 4_000
"""Of a longer text the beginning is shown: comparing takes the square of the words, and one endless word keeps a
browser
busy for minutes."""

_WORDS = re.compile(r"\S+\s*|\s+")


def marked(left: str, right: str) -> tuple[Html, Html]:
    """Both texts as markup, escaped. Words only on the left are `del` elements, words only on the right `ins`."""
    left, right = _beginning(left), _beginning(right)
    first, second = _WORDS.findall(left), _WORDS.findall(right)
    before: list[Html] = []
    after: list[Html] = []
    matcher = SequenceMatcher(None, first, second, autojunk=False)
    for what, i, j, k, m in matcher.get_opcodes():
        one, other = escape("".join(first[i:j])), escape("".join(second[k:m]))
        before.append(one if what == "equal" or not one else element("del", one))
        after.append(other if what == "equal" or not other else element("ins", other))
    return join(*before), join(*after)


def _beginning(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]} …"
