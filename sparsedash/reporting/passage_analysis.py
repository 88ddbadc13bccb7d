"""Passages of a comparison: first choices, change of the right word's probability, and groups that lose more."""

import itertools
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from math import ceil, exp, floor, inf

from sparsedash.reporting import wording
from sparsedash.reporting.charts.tradeoff_data import nats_as_factor
from sparsedash.reporting.html import Html, Table, element, escape, join, paragraph, table, token
from sparsedash.reporting.record_pair import Pair
from sparsedash.schema.records import Outcome, Passages
from sparsedash.service.backend import Backend
from sparsedash.stats.mean_intervals import anytime_mean_interval, mean_interval
from sparsedash.stats.tolerance import ALPHA, Losses, lost_accuracy_interval, passage_losses

LISTED = 5
"""Choices of each model that are listed."""
NOT_AMONG_FIRST = "–"
CAPTION = "What each model thinks most likely to come next"


@dataclass(frozen=True, kw_only=True)
class TokenChoice:
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


def token_choices(left: Outcome, right: Outcome) -> list[TokenChoice]:
    """The first choices of both models, and how the right word begins, the likeliest first."""
    first = left.tokens[0].text if left.tokens else ""
    given = [_probabilities(outcome) for outcome in (left, right)]
    listed = dict.fromkeys([*([first] if first else []), *(c.text for o in (left, right) for c in o.top[:LISTED])])
    found = [TokenChoice(text=t, target=t == first, left=given[0].get(t), right=given[1].get(t)) for t in listed]
    return sorted(found, key=lambda choice: -choice.most)


def token_choices_html(left: Outcome, right: Outcome, names: tuple[str, str], colours: tuple[str, str]) -> Html:
    """The table. names: of the two models. colours: the classes of their sides."""
    found = token_choices(left, right)
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


def token_choices_table(left: Outcome, right: Outcome, names: tuple[str, str]) -> Table:
    """The same table to take along: without bars, and with a word for how the right word begins."""
    rows = [
        [choice.text, "yes" if choice.target else "no", *(_said(share) for share in (choice.left, choice.right))]
        for choice in token_choices(left, right)
    ]
    return table("First choices", CAPTION, ["Next token", "Begins the right word", *names], rows)


def _said(share: float | None) -> str:
    return NOT_AMONG_FIRST if share is None else wording.probability(share)


def _probabilities(outcome: Outcome) -> dict[str, float]:
    """What is known of a model's probabilities for the next token, by its text; that of the right one always is."""
    exact = {t.text: exp(min(0.0, t.log_likelihood)) for t in outcome.tokens[:1]}
    return {c.text: c.probability for c in reversed(outcome.top)} | exact


def _row(choice: TokenChoice, largest: float, colours: tuple[str, str]) -> Html:
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


MOST_RANGES = 14
LEAST_SHOWN = 0.005
"""Nats below which nothing is called a change; two decimals show no less."""
_STEPS = tuple(digit * 10.0**power for power in range(-2, 3) for digit in (1, 2, 5))
_OUTSIDE = 0.02
"""Share of the passages at either end that the outermost ranges, which are open, may take in."""
_MOST_TIMES = 1_000_000


@dataclass(frozen=True, kw_only=True)
class ChangeRange:
    """Changes from `low` up to, not including, `high`, in nats; negative where the right word became less likely."""

    low: float
    high: float

    @property
    def address(self) -> str:
        """ "-2..-1", "..-3", "3.."."""
        low, high = ("" if abs(end) == inf else f"{end:g}" for end in (self.low, self.high))
        return f"{low}..{high}"

    @property
    def words(self) -> str:
        """ "fell by 1 to 2", "rose by 3 or more"."""
        verb = "fell by" if self.high <= 0 else "rose by"
        near, far = sorted((abs(self.low), abs(self.high)))
        return f"{verb} {near:g} or more" if far == inf else f"{verb} {near:g} to {far:g}"


def change_ranges(changes: Sequence[float]) -> list[ChangeRange]:
    """Ranges of one width that hold all these changes, at most MOST_RANGES of them; zero is an end of two of them.

    The outermost are open: a few passages far away would squeeze all others together.
    """
    ordered = sorted(changes) or [0.0]
    rest = int(_OUTSIDE * len(ordered))
    low, high = min(0.0, ordered[rest]), max(0.0, ordered[-1 - rest])
    step = next((step for step in _STEPS if ceil(high / step) - floor(low / step) <= MOST_RANGES), _STEPS[-1])
    first, last = min(-1, floor(low / step)), max(1, ceil(high / step))
    inner = [round(place * step, 6) for place in range(first + 1, last)]
    ends = [-inf, *inner, inf]
    return [ChangeRange(low=one, high=other) for one, other in itertools.pairwise(ends)]


def count_by_range(changes: Sequence[float], found: Sequence[ChangeRange]) -> list[int]:
    """How many of the changes each range holds."""
    counts = [0] * len(found)
    inner = [each.high for each in found[:-1]]
    for change in changes:
        counts[bisect_right(inner, change)] += 1
    return counts


def change_words(change: float, target: str) -> str:
    """What became of the right word, in a sentence or two."""
    if abs(change) < LEAST_SHOWN:
        return f"“{target}” stayed as likely as it was. Its log-probability stayed the same."
    times, much = exp(min(abs(change), 700.0)), "less" if change < 0 else "more"
    factor = f"over {_MOST_TIMES:,}" if times > _MOST_TIMES else f"{times:,.0f}" if times >= 99.5 else f"{times:.3g}"
    verb = "fell" if change < 0 else "rose"
    return f"“{target}” became {factor} times {much} likely. Its log-probability {verb} by {abs(change):.2f}."


def signed_nats(change: float) -> str:
    """ "−2.68", "+0.10"."""
    return f"{change:+.2f}".replace("-", wording.MINUS)


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


_MEASURES = 2
_NAME = "Which passages break"
_HEAD = ("Passages", "Broke", "Mended", "Accuracy, points", "Word perplexity", "Beside all")
MORE, LESS = "✕ loses more", "✓ loses less"


@dataclass(frozen=True, kw_only=True)
class SliceLoss:
    """One group's losses, with intervals at level 1 - alpha: nats of the right word, and the share of right answers."""

    group: Slice
    losses: Losses
    nats: tuple[float, float]
    accuracy: tuple[float, float]

    def beside(self, mean: float) -> str:
        """Whether it loses more or less than this mean, in nats, by its whole interval; nothing where that is open."""
        low, high = self.nats
        return MORE if low > mean else LESS if high < mean else ""


@dataclass(frozen=True, kw_only=True)
class SliceLosses:
    """All groups. alpha: the chance of error of each interval, so small that all of them hold together. mean: nats
    that all passages lost.
    """

    rows: Sequence[SliceLoss]
    alpha: float
    mean: float


@dataclass(frozen=True)
class _Asked:
    """A pair by its names; what is only along is not compared, and makes no other entry of the cache."""

    backend: Backend
    left: str
    right: str
    pair: Pair = field(compare=False)
    passages: Passages = field(compare=False)


def slice_losses(backend: Backend, pair: Pair, passages: Passages) -> SliceLosses:
    """What every group lost from the left model to the right one; kept for the next look at the page."""
    return _measured(_Asked(backend, pair.left.key, pair.right.key, pair, passages))


@lru_cache(maxsize=4)
def _measured(asked: _Asked) -> SliceLosses:
    pair, groups = asked.pair, slices(asked.passages)
    looked = any(record.stopping is not None for record in (pair.left, pair.right))
    alpha = ALPHA / (_MEASURES * len(groups))
    rows = []
    for group in groups:
        lost = passage_losses([pair.outcomes(position) for position in group.positions], looked=looked)
        nats = (anytime_mean_interval if looked else mean_interval)(lost.nats, alpha)
        rows.append(SliceLoss(group=group, losses=lost, nats=nats, accuracy=lost_accuracy_interval(lost, alpha)))
    n = len(pair.left.outcomes)
    return SliceLosses(rows=rows, alpha=alpha, mean=sum(pair.fall(position) for position in range(n)) / n)


def slice_html(found: SliceLosses, right: str, left: str) -> Html:
    """The table with its caption. right, left: the models' names."""
    drawn: list[Html] = []
    for i, row in enumerate(found.rows):
        if i == 0 or found.rows[i - 1].group.by != row.group.by:
            span = element("th", escape(row.group.by), scope="colgroup", colspan=str(1 + len(_HEAD)))
            drawn.append(element("tr", span, css="sd-slice-kind"))
        cells = (element("td", escape(cell)) for cell in _slice_cells(row, found.mean))
        drawn.append(element("tr", element("th", escape(row.group.name), scope="row"), *cells))
    top = element("tr", *(element("th", escape(cell), scope="col") for cell in ("Group", *_HEAD)))
    inside = element("table", element("thead", top), element("tbody", *drawn), css="sd-table sd-slices")
    scroll = element("div", inside, css="sd-scroll", role="region", aria_label=_NAME, tabindex="0")
    return join(paragraph(_slice_caption(found, right, left), css="sd-muted sd-small"), scroll)


def slice_table(found: SliceLosses, right: str, left: str) -> Table:
    """The same table to take along, every group with what it is grouped by."""
    rows = [[row.group.by, row.group.name, *_slice_cells(row, found.mean)] for row in found.rows]
    return table(_NAME, _slice_caption(found, right, left), ["Grouped by", "Group", *_HEAD], rows)


def _slice_caption(found: SliceLosses, right: str, left: str) -> str:
    n, level = len(found.rows), f"{100 * (1 - found.alpha):.2f}{wording.NBSP}%"
    return (
        f"{right} against {left}, paired. {n} groups are looked at, with two intervals each: every one has the level "
        f"{level}, so that all hold together at 95{wording.NBSP}%. Marked are groups whose whole interval lies on one "
        f"side of what all passages lost ({nats_as_factor(found.mean)}). A mark is a hint for a test on other passages."
    )


def _slice_cells(row: SliceLoss, mean: float) -> list[str]:
    lost, (low, high) = row.losses, row.accuracy
    n = lost.nats.n
    points = f"{wording.signed_points((lost.mended - lost.broke) / n)} ({wording.signed_interval((-high, -low))})"
    ratio = f"{nats_as_factor(lost.nats.mean)} ({_ratio_range(row.nats)})"
    return [f"{n:,}", f"{lost.broke:,}", f"{lost.mended:,}", points, ratio, row.beside(mean)]


def _ratio_range(nats: tuple[float, float]) -> str:
    if nats[0] == -inf:
        return "no interval"
    low, high = (nats_as_factor(end).removesuffix(" ×") for end in nats)
    return f"{low} to {high}"
