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
from itertools import chain, pairwise, product
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
MAX_RANGES = 14
MIN_IN_GROUP = 20
"""Passages of a group that is shown; of fewer, intervals are too wide to say anything."""
MIN_SHOWN = 0.005
"""Nats below which nothing is called a change; two decimals show no less."""
_STEPS = tuple(digit * 10.0**power for power, digit in product(range(-2, 3), (1, 2, 5)))
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
    outcomes = pair.outcomes(position)
    probabilities = []
    for outcome in outcomes:
        by_token = {choice.text: choice.probability for choice in reversed(outcome.top)}
        for first in outcome.tokens[:1]:
            by_token[first.text] = exp(min(0.0, first.log_likelihood))
        probabilities.append(by_token)
    target = outcomes[0].tokens[0].text if outcomes[0].tokens else None
    tokens = [] if target is None else [target]
    for outcome in outcomes:
        tokens += [choice.text for choice in outcome.top[:LISTED]]
    rows: dict[str, list[float | None]] = {}
    for text in tokens:
        rows[text] = [by_token.get(text) for by_token in probabilities]
    ranked = sorted(rows.items(), key=lambda row: -_largest(row[1]))
    scale = max((_largest(row) for row in rows.values()), default=0.0) or 1.0
    drawn = []
    data = []
    for text, row in ranked:
        is_target = text == target
        drawn.append(_choice_row(pair, text, row, scale, is_target))
        values: dict[str, Value] = {"token": text, "begins_right_word": is_target}
        for side, share in zip(SIDES, row, strict=True):
            percent = None if share is None else 100 * share
            values[f"{side}_probability_percent"] = percent
        data.append(values)
    heads = [element("th", escape("Next token"), scope="col"), element("td")]
    for title, css in zip(pair.titles, pair.colours, strict=True):
        heads.append(element("th", escape(title), scope="col", css=css))
    table = element(
        "table",
        element("caption", escape(CAPTION)),
        element("thead", element("tr", *heads)),
        element("tbody", *drawn),
        css="sd-top",
    )
    return table, Table("First choices", CAPTION, [], [], data=data, stem=pair.stem)


def _largest(shares: Sequence[float | None]) -> float:
    return max(share or 0.0 for share in shares)


def _choice_row(
    pair: Pair, text: str, shares: Sequence[float | None], scale: float, is_target: bool
) -> Html:
    """One token with both models' probabilities, as bars and in words. scale: of the longest bar."""
    bars = []
    cells = []
    for share, css in zip(shares, pair.colours, strict=True):
        # An unknown probability has no colour, and so no bar.
        css = "sd-meter" if share is None else f"sd-meter {css}"
        width = f"width: {100 * (share or 0.0) / scale:.1f}%"
        bars.append(element("span", css=css, style=width))
        words = NOT_AMONG_FIRST if share is None else wording.probability(share)
        cells.append(element("td", escape(words)))
    name = [token(text)]
    if is_target:
        name.append(element("span", escape(" ✓"), css="sd-sign"))
    head = element("th", *name, scope="row", css="sd-hit" if is_target else "")
    return element("tr", head, element("td", *bars), *cells)


class ChangeRange(NamedTuple):
    """Changes from `low` up to, not including, `high`, in nats; negative where the right word
    became less likely.
    """

    low: float
    high: float

    @property
    def address(self) -> str:
        """ "-2..-1", "..-3", "3.."."""
        low = "" if isinf(self.low) else f"{self.low:g}"
        high = "" if isinf(self.high) else f"{self.high:g}"
        return f"{low}..{high}"

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
        return (
            f"{verb} {near:g} or more" if far == inf else f"{verb} {near:g} to {far:g}"
        )


def change_ranges(changes: Sequence[float]) -> list[ChangeRange]:
    """Ranges of one width that hold all these changes, at most MAX_RANGES of them; zero is an end
    of two of them.

    The outermost are open: a few passages far away would squeeze all others together.
    """
    ordered = sorted(changes) or [0.0]
    n_outside = int(_OUTSIDE * len(ordered))
    low = min(0.0, ordered[n_outside])
    high = max(0.0, ordered[-1 - n_outside])
    step = next(
        (
            step
            for step in _STEPS
            if ceil(high / step) - floor(low / step) <= MAX_RANGES
        ),
        _STEPS[-1],
    )
    first = min(-1, floor(low / step))
    last = max(1, ceil(high / step))
    ends = [round(place * step, 6) for place in range(first + 1, last)]
    return [ChangeRange(*bounds) for bounds in pairwise([-inf, *ends, inf])]


def count_by_range(
    changes: Sequence[float], ranges: Sequence[ChangeRange]
) -> list[int]:
    """Number of changes in each range."""
    ends = [change_range.high for change_range in ranges[:-1]]
    counts = Counter(bisect_right(ends, change) for change in changes)
    return [counts[i] for i in range(len(ranges))]


def change_words(change: float, target: str) -> str:
    """The change of the right word's probability as a factor, and of its log-probability."""
    if abs(change) < MIN_SHOWN:
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
    words = []
    targets = []
    n_with = Counter[str]()
    for context, target in zip(passages.contexts, passages.targets, strict=True):
        words.append([word.casefold() for word in _WORD.findall(context)])
        # The first word of a target; all of it where there is none.
        match = _WORD.search(target)
        targets.append(match.group() if match else target.strip())
        n_with.update({*words[-1], targets[-1].casefold()})
    groups: dict[tuple[str, str], list[int]] = {}
    for kind, (names, group_of) in _KINDS.items():
        positions: dict[str, list[int]] = {name: [] for name in names}
        for i, context in enumerate(passages.contexts):
            n_others = n_with[targets[i].casefold()] - 1
            text = _Text(context, targets[i], words[i], n_others)
            positions[names[group_of(text)]].append(i)
        for name in names:
            if positions[name]:
                groups[kind, name] = positions[name]
    return groups


def _speech(text: _Text) -> int:
    context = text.context
    is_open = context.count('"') % 2 == 1
    has_speech = '"' in context
    for opening, closing in _QUOTES:
        is_open = is_open or context.count(opening) > context.count(closing)
        has_speech = has_speech or opening in context
    if is_open:
        return 0
    return 1 if has_speech else 2


def _spelling(text: _Text) -> int:
    letter = text.target[:1]
    if not letter.isalpha():
        return 2
    return 0 if letter.isupper() else 1


def _mention(text: _Text) -> int:
    word = text.target.casefold()
    for distance, context_word in enumerate(reversed(text.words), start=1):
        if context_word == word:
            return 1 + bisect_right((21, 61), distance)
    return 0


_KINDS: Mapping[str, tuple[tuple[str, ...], Callable[[_Text], int]]] = {
    "Length of the right word": (
        ("1 to 4 letters", "5 to 6 letters", "7 letters and more"),
        lambda text: bisect_right((5, 7), len(text.target)),
    ),
    "Rarity in this text": (
        ("in no other passage", "in 1 to 4 others", "in 5 others and more"),
        lambda text: bisect_right((1, 5), text.others),
    ),
    "Spelling": (("capital, mostly names", "lower case", "number or sign"), _spelling),
    "Speech": (("within speech", "beside speech", "no speech in the passage"), _speech),
    "Last mention in the context": (
        (
            "none",
            "1 to 20 words before",
            "21 to 60 words before",
            "61 words before and more",
        ),
        _mention,
    ),
}
"""Every kind of group: the names of its groups, and the number of the group that a passage is
in.
"""


def group_losses(pair: Pair, passages: Passages) -> Table:
    """Losses from left to right of every group of enough passages, with intervals that all hold
    together.
    """
    title = "Which passages break"
    head = [
        "Group",
        "Passages",
        "Broke",
        "Fixed",
        "Accuracy, points",
        "Word perplexity",
        "Against all",
    ]
    n = len(pair.left.outcomes)
    groups = {}
    omitted = []
    for group, positions in passage_groups(passages).items():
        if len(positions) >= MIN_IN_GROUP:
            groups[group] = positions
        else:
            omitted.append(positions)
    if not groups:
        caption = f"No group has {MIN_IN_GROUP} passages; {n:,} were compared."
        return Table(title, caption, head, [])
    alpha = ALPHA / (_MEASURES * len(groups))
    mean = sum(map(pair.fall, range(n))) / n
    rows = []
    data: list[dict[str, Value]] = []
    for (kind, name), positions in groups.items():
        row, values = _group_row(pair, positions, alpha, mean)
        rows.append([f"{kind}: {name}", *row])
        data.append({"kind": kind, "group": name, **values})
    nothing = "" if any(row[-1] for row in rows) else "No group stands out. "
    left_out = ""
    if omitted:
        n_omitted = len(set(chain.from_iterable(omitted)))
        left_out = (
            f" Left out: {wording.quantity(len(omitted), 'group')} of under "
            f"{MIN_IN_GROUP} passages, {n_omitted:,} in all."
        )
    caption = (
        f"{nothing}{pair.right_name} against {pair.left_name}, paired. {wording.quantity(len(rows), 'group')}, two "
        f"intervals each at {100 * (1 - alpha):.2f}{wording.NBSP}%, jointly {wording.LEVEL}. Marked: the whole "
        f"interval is above or below the loss of all passages ({wording.nats_as_factor(mean)}). Confirm a marked group "
        f"on other passages.{left_out}"
    )
    return Table(title, caption, head, rows, data=data, stem=pair.stem)


def _group_row(
    pair: Pair, positions: Sequence[int], alpha: float, mean: float
) -> tuple[list[str], dict[str, Value]]:
    """Loss of one group, in words and as values. alpha: of each interval. mean: of all passages."""
    anytime = pair.left.stopping is not None or pair.right.stopping is not None
    losses = passage_losses([pair.outcomes(i) for i in positions], anytime=anytime)
    interval_of = anytime_mean_interval if anytime else mean_interval
    low, high = interval_of(losses.nats, alpha)
    least, most = lost_accuracy_interval(losses, alpha)
    change = (losses.fixed - losses.broke) / len(positions)
    ends = "no interval" if isinf(low) else wording.factor_range(low, high)
    mark = ""
    if low > mean:
        mark = MORE
    elif high < mean:
        mark = LESS
    row = [
        f"{len(positions):,}",
        f"{losses.broke:,}",
        f"{losses.fixed:,}",
        f"{wording.signed_points(change)} ({wording.signed_interval((-most, -least))})",
        f"{wording.nats_as_factor(losses.nats.mean)} ({ends})",
        mark,
    ]
    values: dict[str, Value] = {
        "passages": len(positions),
        "broke": losses.broke,
        "fixed": losses.fixed,
        "change_points": 100 * change,
        "change_points_low": 0.0 - 100 * most,
        "change_points_high": 0.0 - 100 * least,
        "perplexity_ratio": finite_ratio(losses.nats.mean),
        "perplexity_ratio_low": finite_ratio(low),
        "perplexity_ratio_high": finite_ratio(high),
        "interval_level_percent": 100 * (1 - alpha),
        "beside_all": mark.partition(" ")[2],
    }
    return row, values
