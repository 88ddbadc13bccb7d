"""Two texts with the words marked that only one of them has: struck through on the left, underlined on the right."""

import re
from difflib import SequenceMatcher

from sparsedash.ui.text import Html, element, escape, join

MOST_WORDS = 2_000
"""Texts with more words are shown without marks: the comparison takes the square of their number."""

_WORDS = re.compile(r"\S+\s*|\s+")


def marked(left: str, right: str) -> tuple[Html, Html]:
    """Both texts as markup, escaped. Words only on the left are `del` elements, words only on the right `ins`."""
    first, second = _WORDS.findall(left), _WORDS.findall(right)
    if max(len(first), len(second)) > MOST_WORDS:
        return escape(left), escape(right)
    before: list[Html] = []
    after: list[Html] = []
    matcher = SequenceMatcher(None, first, second, autojunk=False)
    for what, i, j, k, m in matcher.get_opcodes():
        one, other = escape("".join(first[i:j])), escape("".join(second[k:m]))
        before.append(one if what == "equal" or not one else element("del", one))
        after.append(other if what == "equal" or not other else element("ins", other))
    return join(*before), join(*after)
