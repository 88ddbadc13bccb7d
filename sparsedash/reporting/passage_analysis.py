"""Passages of a comparison: first choices, change of the right word's probability, and groups that lose more.

Each passage is in one group of every kind, by what can be read off its text: the length, rarity and look of its right
word, whether it is speech, and where the context names the word last.
"""

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import groupby, pairwise
from math import ceil, exp, floor, inf

from sparsedash.reporting import wording
from sparsedash.reporting.html import Html, Table, element, escape, join, paragraph, table, token
from sparsedash.reporting.record_pair import Pair
from sparsedash.schema.records import Outcome, Passages
from sparsedash.service.backend import Backend
from sparsedash.stats.mean_intervals import anytime_mean_interval, mean_interval
from sparsedash.stats.tolerance import ALPHA, Losses, lost_accuracy_interval, passage_losses

LISTED = 5
"""First choices of each model that are listed."""
NOT_AMONG_FIRST = "–"
CAPTION = "What each model thinks most likely to come next"
MOST_RANGES = 14
LEAST_SHOWN = 0.005
"""Nats below which nothing is called a change; two decimals show no less."""
_STEPS = tuple(digit * 10.0**power for power in range(-2, 3) for digit in (1, 2, 5))
_OUTSIDE = 0.02
"""Share of the passages at either end that the outermost ranges, which are open, may take in."""
_MOST_TIMES = 1_000_000
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
_QUOTES = (("“", "”"), ("«", "»"), ("``", "''"))
_MEASURES = 2
_SLICES_NAME = "Which passages break"
_SLICES_HEAD = ("Passages", "Broke", "Fixed", "Accuracy, points", "Word perplexity", "Beside all")
MORE, LESS = "✕ loses more", "✓ loses less"


@dataclass(frozen=True, kw_only=True)
class TokenChoice:
    """One token with the probability that each model gives it; None where it is none of a model's first choices.

    target: it is how the right word begins.
    """

    text: str
    target: bool
    left: float | None
    right: float | None


def token_choices(left: Outcome, right: Outcome) -> list[TokenChoice]:
    """The first choices of both models, and how the right word begins, the likeliest first."""
    first = left.tokens[0].text if left.tokens else ""
    known = []
    for outcome in (left, right):
        exact = {t.text: exp(min(0.0, t.log_likelihood)) for t in outcome.tokens[:1]}
        known.append({c.text: c.probability for c in reversed(outcome.top)} | exact)
    listed = dict.fromkeys([*([first] if first else []), *(c.text for o in (left, right) for c in o.top[:LISTED])])
    found = [TokenChoice(text=t, target=t == first, left=known[0].get(t), right=known[1].get(t)) for t in listed]
    return sorted(found, key=lambda choice: -max(choice.left or 0.0, choice.right or 0.0))


def token_choices_html(left: Outcome, right: Outcome, names: tuple[str, str], colours: tuple[str, str]) -> Html:
    """The first choices as a table: two bars a row, all to one scale. colours: the classes of both sides."""
    found = token_choices(left, right)
    largest = max((share or 0.0 for choice in found for share in (choice.left, choice.right)), default=0.0)
    heads = (element("th", escape(n), scope="col", css=css) for n, css in zip(names, colours, strict=True))
    head = element("tr", element("th", escape("Next token"), scope="col"), element("td"), *heads)
    rows = []
    for choice in found:
        both = (choice.left, choice.right)
        bars = []
        for share, css in zip(both, colours, strict=True):
            width = 100 * (share or 0.0) / largest if largest > 0 else 0.0
            # An unknown probability has no colour, and so no bar.
            meter = "sd-meter" if share is None else f"sd-meter {css}"
            bars.append(element("span", css=meter, style=f"width: {width:.1f}%"))
        sign = element("span", escape(" ✓"), css="sd-sign") if choice.target else Html("")
        name = element("th", token(choice.text), sign, scope="row", css="sd-hit" if choice.target else "")
        cells = (element("td", escape(_probability(share))) for share in both)
        rows.append(element("tr", name, element("td", *bars), *cells))
    caption = element("caption", escape(CAPTION))
    return element("table", caption, element("thead", head), element("tbody", *rows), css="sd-top")


def token_choices_table(left: Outcome, right: Outcome, names: tuple[str, str]) -> Table:
    """The same table to download: without bars, and with a word for how the right word begins."""
    rows = [
        [choice.text, "yes" if choice.target else "no", _probability(choice.left), _probability(choice.right)]
        for choice in token_choices(left, right)
    ]
    return table("First choices", CAPTION, ["Next token", "Begins the right word", *names], rows)


def _probability(share: float | None) -> str:
    return NOT_AMONG_FIRST if share is None else wording.probability(share)


@dataclass(frozen=True, kw_only=True)
class ChangeRange:
    """Changes from `low` up to, not including, `high`, in nats; negative where the right word became less likely."""

    low: float
    high: float

    @property
    def address(self) -> str:
        """ "-2..-1", "..-3", "3.."."""
        return "..".join("" if abs(end) == inf else f"{end:g}" for end in (self.low, self.high))

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
    ends = [-inf, *(round(place * step, 6) for place in range(first + 1, last)), inf]
    return [ChangeRange(low=one, high=other) for one, other in pairwise(ends)]


def count_by_range(changes: Sequence[float], found: Sequence[ChangeRange]) -> list[int]:
    """How many of the changes each range holds."""
    counts = Counter(bisect_right([each.high for each in found[:-1]], change) for change in changes)
    return [counts[i] for i in range(len(found))]


def change_words(change: float, target: str) -> str:
    """The change of the right word's probability as a factor, and of its log-probability."""
    if abs(change) < LEAST_SHOWN:
        return f"“{target}” stayed as likely as it was. Its log-probability stayed the same."
    times = exp(min(abs(change), 700.0))
    factor = f"over {_MOST_TIMES:,}" if times > _MOST_TIMES else f"{times:,.0f}" if times >= 99.5 else f"{times:.3g}"
    much, verb = ("less", "fell") if change < 0 else ("more", "rose")
    return f"“{target}” became {factor} times {much} likely. Its log-probability {verb} by {abs(change):.2f}."


@dataclass(frozen=True, kw_only=True)
class Slice:
    """A group of passages. by: what it is a group of. positions: of its passages among the texts; at least one."""

    by: str
    name: str
    positions: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class _Text:
    """A passage as groups read it. words: of the context, in small letters. others: passages with its right word."""

    context: str
    target: str
    words: Sequence[str]
    others: int


@lru_cache(maxsize=4)
def slices(passages: Passages) -> tuple[Slice, ...]:
    """Every group that holds a passage, kind by kind."""
    texts, found = _read_texts(passages), []
    for by, (names, number_of) in _KINDS.items():
        groups: dict[int, list[int]] = {}
        for position, text in enumerate(texts):
            groups.setdefault(number_of(text), []).append(position)
        found += [Slice(by=by, name=names[i], positions=tuple(groups[i])) for i in sorted(groups)]
    return tuple(found)


def _read_texts(passages: Passages) -> list[_Text]:
    words = [[word.casefold() for word in _WORD.findall(context)] for context in passages.contexts]
    # The first word of a target; all of it where there is none.
    targets = [match.group() if (match := _WORD.search(target)) else target.strip() for target in passages.targets]
    holding = Counter(word for said, target in zip(words, targets, strict=True) for word in {*said, target.casefold()})
    return [
        _Text(context=context, target=target, words=said, others=holding[target.casefold()] - 1)
        for context, target, said in zip(passages.contexts, targets, words, strict=True)
    ]


def _look(text: _Text) -> int:
    first = text.target[:1]
    return 2 if not first.isalpha() else 0 if first.isupper() else 1


def _speech(text: _Text) -> int:
    said = text.context
    if said.count('"') % 2 or any(said.count(opening) > said.count(closing) for opening, closing in _QUOTES):
        return 0
    return 1 if '"' in said or any(opening in said for opening, _ in _QUOTES) else 2


def _mention(text: _Text) -> int:
    word = text.target.casefold()
    distance = next((n for n, said in enumerate(reversed(text.words), start=1) if said == word), None)
    return 0 if distance is None else 1 + bisect_right((21, 61), distance)


_KINDS: Mapping[str, tuple[tuple[str, ...], Callable[[_Text], int]]] = {
    "Length of the right word": (
        ("1 to 4 letters", "5 to 6 letters", "7 letters and more"),
        lambda text: bisect_right((5, 7), len(text.target)),
    ),
    "How rare it is here": (
        ("in no other passage", "in 1 to 4 others", "in 5 others and more"),
        lambda text: bisect_right((1, 5), text.others),
    ),
    "How it is written": (("with a capital, mostly names", "in small letters", "a number or a sign"), _look),
    "Speech": (("within speech", "beside speech", "no speech in the passage"), _speech),
    "Where it was named last": (
        ("not named before", "1 to 20 words before", "21 to 60 words before", "61 words before and more"),
        _mention,
    ),
}
"""Every kind of group: the names of its groups, and the number of the group that a passage is in."""


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
    """A pair by its records' keys; the rest makes no other entry of the cache."""

    backend: Backend
    left: str
    right: str
    pair: Pair = field(compare=False)
    passages: Passages = field(compare=False)


def slice_losses(backend: Backend, pair: Pair, passages: Passages) -> SliceLosses:
    """What every group lost from the left model to the right one; cached for the next look at the page."""
    return _slice_losses(_Asked(backend, pair.left.key, pair.right.key, pair, passages))


@lru_cache(maxsize=4)
def _slice_losses(asked: _Asked) -> SliceLosses:
    pair, groups = asked.pair, slices(asked.passages)
    looked = any(record.stopping is not None for record in (pair.left, pair.right))
    alpha = ALPHA / (_MEASURES * len(groups))
    rows = []
    for group in groups:
        lost = passage_losses([pair.outcomes(position) for position in group.positions], anytime=looked)
        nats = (anytime_mean_interval if looked else mean_interval)(lost.nats, alpha)
        rows.append(SliceLoss(group=group, losses=lost, nats=nats, accuracy=lost_accuracy_interval(lost, alpha)))
    n = len(pair.left.outcomes)
    return SliceLosses(rows=rows, alpha=alpha, mean=sum(pair.fall(position) for position in range(n)) / n)


def slice_html(found: SliceLosses, right: str, left: str) -> Html:
    """The groups as a table with its caption. right, left: the models' names."""
    drawn: list[Html] = []
    for by, rows in groupby(found.rows, key=lambda row: row.group.by):
        span = element("th", escape(by), scope="colgroup", colspan=str(1 + len(_SLICES_HEAD)))
        drawn.append(element("tr", span, css="sd-slice-kind"))
        for row in rows:
            cells = (element("td", escape(cell)) for cell in _slice_cells(row, found.mean))
            drawn.append(element("tr", element("th", escape(row.group.name), scope="row"), *cells))
    top = element("tr", *(element("th", escape(cell), scope="col") for cell in ("Group", *_SLICES_HEAD)))
    inside = element("table", element("thead", top), element("tbody", *drawn), css="sd-table sd-slices")
    scroll = element("div", inside, css="sd-scroll", role="region", aria_label=_SLICES_NAME, tabindex="0")
    return join(paragraph(_slice_caption(found, right, left), css="sd-muted sd-small"), scroll)


def slice_table(found: SliceLosses, right: str, left: str) -> Table:
    """The same table to download, every group with what it is grouped by."""
    rows = [[row.group.by, row.group.name, *_slice_cells(row, found.mean)] for row in found.rows]
    return table(_SLICES_NAME, _slice_caption(found, right, left), ["Grouped by", "Group", *_SLICES_HEAD], rows)


def _slice_caption(found: SliceLosses, right: str, left: str) -> str:
    n, level = len(found.rows), f"{100 * (1 - found.alpha):.2f}{wording.NBSP}%"
    return (
        f"{right} against {left}, paired. {n} groups, with two intervals each: every one has the level {level}, so "
        f"that all hold together at 95{wording.NBSP}%. Marked are groups whose whole interval lies on one side of what "
        f"all passages lost ({wording.nats_as_factor(found.mean)}). Test a marked group on other passages."
    )


def _slice_cells(row: SliceLoss, mean: float) -> list[str]:
    lost, n = row.losses, row.losses.nats.n
    points = wording.signed_points((lost.mended - lost.broke) / n)
    ends = "no interval" if row.nats[0] == -inf else wording.factor_range(*row.nats)
    return [
        f"{n:,}",
        f"{lost.broke:,}",
        f"{lost.mended:,}",
        f"{points} ({wording.signed_interval((-row.accuracy[1], -row.accuracy[0]))})",
        f"{wording.nats_as_factor(lost.nats.mean)} ({ends})",
        row.beside(mean),
    ]
