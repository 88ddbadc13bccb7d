"""Groups of passages by what can be read off their text: which of them break more than the others?

Each passage is in one group of every kind: by the length, rarity and look of its right word, by whether it is speech,
and by where the context names the word last.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from sparsedash.schema.records import Passages

_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
_QUOTES = (("“", "”"), ("«", "»"), ("``", "''"))
_LENGTHS, _RARITIES, _DISTANCES = (1, 5, 7), (0, 1, 5), (1, 21, 61)
"""Where each group begins: letters, other passages, words before the gap."""


@dataclass(frozen=True, kw_only=True)
class Slice:
    """One group. by: what it is a group of. positions: its passages, by their place among the texts; at least one."""

    by: str
    name: str
    positions: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class _Text:
    """One passage as it is read here. words: of the context, in small letters. others: passages with its right word."""

    context: str
    target: str
    words: Sequence[str]
    others: int


@lru_cache(maxsize=4)
def slices(passages: Passages) -> tuple[Slice, ...]:
    """Every group that holds a passage, group by group of the same kind."""
    texts = _read(passages)
    found = []
    for by, name_of in _KINDS.items():
        groups: dict[str, list[int]] = {}
        for position, text in enumerate(texts):
            groups.setdefault(name_of(text), []).append(position)
        order = _ORDER[by]
        found += [Slice(by=by, name=name, positions=tuple(groups[name])) for name in order if name in groups]
    return tuple(found)


def _read(passages: Passages) -> list[_Text]:
    words = [[word.casefold() for word in _WORD.findall(context)] for context in passages.contexts]
    targets = [_word(target) for target in passages.targets]
    holding = Counter(word for said, target in zip(words, targets, strict=True) for word in {*said, target.casefold()})
    return [
        _Text(context=context, target=target, words=said, others=holding[target.casefold()] - 1)
        for context, target, said in zip(passages.contexts, targets, words, strict=True)
    ]


def _word(target: str) -> str:
    """The first word of it; the whole where there is none."""
    found = _WORD.search(target)
    return found.group() if found else target.strip()


def _names(unit: str, starts: tuple[int, ...]) -> list[str]:
    """ "1 to 4 letters", "7 letters and more"."""
    inner = [f"{low} to {high - 1} {unit}" if high - low > 1 else f"{low} {unit}" for low, high in pairwise(starts)]
    return [*inner, f"{starts[-1]} {unit} and more"]


def _group(value: int, names: Sequence[str], starts: tuple[int, ...]) -> str:
    return names[max(0, sum(value >= start for start in starts) - 1)]


_LENGTH_NAMES = _names("letters", _LENGTHS)
_RARITY_NAMES = ["in no other passage", "in 1 to 4 others", "in 5 others and more"]
_DISTANCE_NAMES = _names("words before", _DISTANCES)
_UNNAMED = "not named before"
_CAPITAL, _SMALL, _SIGN = "with a capital, mostly names", "in small letters", "a number or a sign"
_SPEECH, _BESIDE, _SILENT = "within speech", "beside speech", "no speech in the passage"


def _length(text: _Text) -> str:
    return _group(len(text.target), _LENGTH_NAMES, _LENGTHS)


def _rarity(text: _Text) -> str:
    return _group(text.others, _RARITY_NAMES, _RARITIES)


def _look(text: _Text) -> str:
    first = text.target[:1]
    return _SIGN if not first.isalpha() else _CAPITAL if first.isupper() else _SMALL


def _speech(text: _Text) -> str:
    said = text.context
    if said.count('"') % 2 or any(said.count(opening) > said.count(closing) for opening, closing in _QUOTES):
        return _SPEECH
    return _BESIDE if '"' in said or any(opening in said for opening, _ in _QUOTES) else _SILENT


def _mention(text: _Text) -> str:
    word = text.target.casefold()
    distance = next((n for n, said in enumerate(reversed(text.words), start=1) if said == word), None)
    return _UNNAMED if distance is None else _group(distance, _DISTANCE_NAMES, _DISTANCES)


_KINDS: dict[str, Callable[[_Text], str]] = {
    "Length of the right word": _length,
    "How rare it is here": _rarity,
    "How it is written": _look,
    "Speech": _speech,
    "Where it was named last": _mention,
}
_ORDER: dict[str, list[str]] = {
    "Length of the right word": _LENGTH_NAMES,
    "How rare it is here": _RARITY_NAMES,
    "How it is written": [_CAPITAL, _SMALL, _SIGN],
    "Speech": [_SPEECH, _BESIDE, _SILENT],
    "Where it was named last": [_UNNAMED, *_DISTANCE_NAMES],
}
