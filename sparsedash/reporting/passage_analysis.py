"""Passages of a comparison: first choices, change of the right word's probability, and groups that
lose more.

Each passage is in one group of every kind, by what can be read off its text: the length, rarity and
look of its right word, whether it is speech, and where the context names the word last.
"""

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import chain, pairwise
from math import ceil, exp, floor, inf, isinf
from typing import NamedTuple

from sparsedash.reporting import wording
from sparsedash.reporting.html import Html, Table, Value, element, escape, quoted, token
from sparsedash.reporting.record_pair import SIDES, Pair
from sparsedash.reporting.verdicts import finite_ratio
from sparsedash.schema.records import Passages
from sparsedash.schema.tolerance_settings import ALPHA
from sparsedash.stats.mean_intervals import anytime_mean_interval, mean_interval
from sparsedash.stats.tolerance import lost_accuracy_interval, passage_losses

LISTED = 5
"""First choices of each model that are listed."""
NOT_AMONG_FIRST = "–"
CAPTION = "Each model's likeliest next tokens"
MOST_RANGES = 14
FEWEST_IN_GROUP = 20
"""Passages of a group that is shown; of fewer, intervals are too wide to say anything."""
LEAST_SHOWN = 0.005
"""Nats below which nothing is called a change; two decimals show no less."""
_STEPS = tuple(digit * 10.0**power for power in range(-2, 3) for digit in (1, 2, 5))
_OUTSIDE = 0.02
"""Share of the passages at either end that the outermost ranges, which are open, may take in."""
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
_QUOTES = (("“", "”"), ("«", "»"), ("``", "''"))
_MEASURES = 2
MORE = "✕ loses more"
LESS = "✓ loses less"


def first_choices(pair: Pair, position: int) -> tuple[Html, Table]:
    """Both models' first choices for a passage and the right word's beginning, the likeliest first;
    for a file as well.

    In the page's table a row has two bars, all to one scale.
    """
    known = []
    both = pair.outcomes(position)
    for outcome in both:
        exact = {t.text: exp(min(0.0, t.log_likelihood)) for t in outcome.tokens[:1]}
        known.append({c.text: c.probability for c in reversed(outcome.top)} | exact)
    first = next((token.text for token in both[0].tokens), "")
    listed = dict.fromkeys(
        [
            *([first] if first else []),
            *(c.text for o in both for c in o.top[:LISTED]),
        ]
    )
    shares = {text: [probabilities.get(text) for probabilities in known] for text in listed}
    ranked = sorted(
        shares.items(),
        key=lambda row: -max(share or 0.0 for share in row[1]),
    )
    largest = (
        max(
            (share or 0.0 for _, row in ranked for share in row),
            default=0.0,
        )
        or 1.0
    )
    heads = [
        element(
            "th",
            escape(n),
            scope="col",
            css=css,
        )
        for n, css in zip(pair.titles, pair.colours, strict=True)
    ]
    drawn = []
    for text, row in ranked:
        hit = bool(first) and text == first
        # An unknown probability has no colour, and so no bar.
        bars = [
            element(
                "span",
                css="sd-meter" if n is None else f"sd-meter {css}",
                style=f"width: {100 * (n or 0.0) / largest:.1f}%",
            )
            for n, css in zip(row, pair.colours, strict=True)
        ]
        cells = [NOT_AMONG_FIRST if share is None else wording.probability(share) for share in row]
        sign = element("span", escape(" ✓"), css="sd-sign") if hit else Html("")
        name = element(
            "th",
            token(text),
            sign,
            scope="row",
            css="sd-hit" if hit else "",
        )
        drawn.append(
            element(
                "tr",
                name,
                element("td", *bars),
                *(element("td", escape(cell)) for cell in cells),
            )
        )
    head = element(
        "thead",
        element(
            "tr",
            element("th", escape("Next token"), scope="col"),
            element("td"),
            *heads,
        ),
    )
    shown = element(
        "table",
        element("caption", escape(CAPTION)),
        head,
        element("tbody", *drawn),
        css="sd-top",
    )
    data = [
        {
            "token": text,
            "begins_right_word": bool(first) and text == first,
            **{
                f"{side}_probability_percent": p and 100 * p
                for side, p in zip(SIDES, row, strict=True)
            },
        }
        for text, row in ranked
    ]
    return shown, Table(
        "First choices",
        CAPTION,
        [],
        [],
        data=data,
        of=pair.stem,
    )


class ChangeRange(NamedTuple):
    """Changes from `low` up to, not including, `high`, in nats; negative where the right word
    became less likely.
    """

    low: float
    high: float

    @property
    def address(self) -> str:
        """ "-2..-1", "..-3", "3.."."""
        return "..".join("" if abs(end) == inf else f"{end:g}" for end in (self.low, self.high))

    @property
    def words(self) -> str:
        """ "fell by 1 to 2", "rose by 3 or more", "stayed, or rose by up to 0.5"."""
        if 0 in (self.low, self.high):
            most = self.high or -self.low
            verb = "fell" if self.high == 0 else "stayed, or rose"
            amount = "any amount" if isinf(most) else f"up to {most:g}"
            return f"{verb} by {amount}"
        verb = "fell by" if self.high <= 0 else "rose by"
        near, far = sorted((abs(self.low), abs(self.high)))
        return f"{verb} {near:g} or more" if far == inf else f"{verb} {near:g} to {far:g}"


def change_ranges(changes: Sequence[float]) -> list[ChangeRange]:
    """Ranges of one width that hold all these changes, at most MOST_RANGES of them; zero is an end
    of two of them.

    The outermost are open: a few passages far away would squeeze all others together.
    """
    ordered = sorted(changes) or [0.0]
    n_outside = int(_OUTSIDE * len(ordered))
    low = min(0.0, ordered[n_outside])
    high = max(0.0, ordered[-1 - n_outside])
    step = next(
        (step for step in _STEPS if ceil(high / step) - floor(low / step) <= MOST_RANGES),
        _STEPS[-1],
    )
    first = min(-1, floor(low / step))
    last = max(1, ceil(high / step))
    ends = [
        -inf,
        *(round(place * step, 6) for place in range(first + 1, last)),
        inf,
    ]
    return [ChangeRange(low=one, high=high_end) for one, high_end in pairwise(ends)]


def count_by_range(changes: Sequence[float], ranges: Sequence[ChangeRange]) -> list[int]:
    """How many of the changes each range holds."""
    counts = Counter(
        bisect_right(
            [change_range.high for change_range in ranges[:-1]],
            change,
        )
        for change in changes
    )
    return [counts[i] for i in range(len(ranges))]


def change_words(change: float, target: str) -> str:
    """The change of the right word's probability as a factor, and of its log-probability."""
    if abs(change) < LEAST_SHOWN:
        return f"{quoted(target)} stayed as likely."
    factor = wording.nats_as_factor(abs(change)).removesuffix(" ×")
    much, verb = ("less", "fell") if change < 0 else ("more", "rose")
    return f"{quoted(target)} became {factor} times {much} likely. Its log-probability {verb} by {abs(change):.2f}."


class _Text(NamedTuple):
    """A passage as groups read it. words: of the context, in small letters. others: passages with
    its right word.
    """

    context: str
    target: str
    words: Sequence[str]
    others: int


@lru_cache(maxsize=4)
def passage_groups(passages: Passages) -> dict[tuple[str, str], list[int]]:
    """Positions of the passages in every group that has any, by kind and name of the group."""
    words = [[word.casefold() for word in _WORD.findall(context)] for context in passages.contexts]
    # The first word of a target; all of it where there is none.
    targets = [
        match.group() if (match := _WORD.search(target)) else target.strip()
        for target in passages.targets
    ]
    holding = Counter(
        word
        for context_words, target in zip(words, targets, strict=True)
        for word in {*context_words, target.casefold()}
    )
    texts = [
        _Text(
            context,
            target,
            context_words,
            holding[target.casefold()] - 1,
        )
        for context, target, context_words in zip(
            passages.contexts,
            targets,
            words,
            strict=True,
        )
    ]
    groups = dict[tuple[str, str], list[int]]()
    for kind, (names, number_of) in _KINDS.items():
        numbers = list(map(number_of, texts))
        for number, name in enumerate(names):
            if number in numbers:
                groups[kind, name] = [
                    position
                    for position, group_number in enumerate(numbers)
                    if group_number == number
                ]
    return groups


def _speech(text: _Text) -> int:
    context = text.context
    if context.count('"') % 2 or any(
        context.count(opening) > context.count(closing) for opening, closing in _QUOTES
    ):
        return 0
    return 1 if '"' in context or any(opening in context for opening, _ in _QUOTES) else 2


def _mention(text: _Text) -> int:
    word = text.target.casefold()
    distance = next(
        (n for n, context_word in enumerate(reversed(text.words), start=1) if context_word == word),
        None,
    )
    return 0 if distance is None else 1 + bisect_right((21, 61), distance)


_KINDS: Mapping[str, tuple[tuple[str, ...], Callable[[_Text], int]]] = {
    "Length of the right word": (
        ("1 to 4 letters", "5 to 6 letters", "7 letters and more"),
        lambda text: bisect_right((5, 7), len(text.target)),
    ),
    "Rarity in this text": (
        ("in no other passage", "in 1 to 4 others", "in 5 others and more"),
        lambda text: bisect_right((1, 5), text.others),
    ),
    "Spelling": (
        ("capital, mostly names", "lower case", "number or sign"),
        lambda text: 2 if not text.target[:1].isalpha() else 0 if text.target[:1].isupper() else 1,
    ),
    "Speech": (("within speech", "beside speech", "no speech in the passage"), _speech),
    "Last mention in the context": (
        ("none", "1 to 20 words before", "21 to 60 words before", "61 words before and more"),
        _mention,
    ),
}
"""Every kind of group: the names of its groups, and the number of the group that a passage is
in.
"""


def group_losses(pair: Pair, passages: Passages) -> Table:
    """What every group of enough passages lost from left to right, with intervals that all hold
    together.
    """
    every = passage_groups(passages)
    n = len(pair.left.outcomes)
    groups = {
        name: positions for name, positions in every.items() if len(positions) >= FEWEST_IN_GROUP
    }
    head = [
        "Group",
        "Passages",
        "Broke",
        "Fixed",
        "Accuracy, points",
        "Word perplexity",
        "Against all",
    ]
    if not groups:
        return Table(
            "Which passages break",
            f"No group has {FEWEST_IN_GROUP} passages; {n:,} were compared.",
            head,
            [],
        )
    anytime = any(record.stopping is not None for record in (pair.left, pair.right))
    alpha = ALPHA / (_MEASURES * len(groups))
    mean = sum(map(pair.fall, range(n))) / n
    rows = []
    data = list[dict[str, Value]]()
    for (kind, name), positions in groups.items():
        lost = passage_losses(
            [pair.outcomes(position) for position in positions],
            anytime=anytime,
        )
        low, high = (anytime_mean_interval if anytime else mean_interval)(
            lost.nats,
            alpha,
        )
        least, most = lost_accuracy_interval(lost, alpha)
        change = (lost.fixed - lost.broke) / len(positions)
        points = wording.signed_points(change)
        ratio = wording.nats_as_factor(lost.nats.mean)
        ends = "no interval" if low == -inf else wording.factor_range(low, high)
        apart = MORE if low > mean else LESS if high < mean else ""
        counts = {
            "passages": len(positions),
            "broke": lost.broke,
            "fixed": lost.fixed,
        }
        intervals = [
            f"{points} ({wording.signed_interval((-most, -least))})",
            f"{ratio} ({ends})",
        ]
        rows.append(
            [
                f"{kind}: {name}",
                *(f"{count:,}" for count in counts.values()),
                *intervals,
                apart,
            ]
        )
        data.append(
            {
                "kind": kind,
                "group": name,
                **counts,
                "change_points": 100 * change,
                "change_points_low": 0.0 - 100 * most,
                "change_points_high": 0.0 - 100 * least,
                **{
                    f"perplexity_ratio{end}": finite_ratio(nats)
                    for end, nats in (("", lost.nats.mean), ("_low", low), ("_high", high))
                },
                "interval_level_percent": 100 * (1 - alpha),
                "beside_all": apart.partition(" ")[2],
            }
        )
    nothing = "" if any(row[-1] for row in rows) else "No group stands out. "
    small = [positions for name, positions in every.items() if name not in groups]
    left_out = ""
    if small:
        n_left_out = len({*chain.from_iterable(small)})
        left_out = f" Left out: {wording.quantity(len(small), 'group')} of under "
        left_out += f"{FEWEST_IN_GROUP} passages, {n_left_out:,} in all."
    caption = (
        f"{nothing}{pair.right_name} against {pair.left_name}, paired. {wording.quantity(len(rows), 'group')}, two "
        f"intervals each at {100 * (1 - alpha):.2f}{wording.NBSP}%, jointly {wording.LEVEL}. Marked: the whole "
        f"interval is above or below the loss of all passages ({wording.nats_as_factor(mean)}). Confirm a marked group "
        f"on other passages.{left_out}"
    )
    return Table(
        "Which passages break",
        caption,
        head,
        rows,
        data=data,
        of=pair.stem,
    )
