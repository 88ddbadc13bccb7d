"""What two models' passages lost group by group, as a table with paired intervals that hold for all groups together."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import inf

from sparsedash.reporting import wording
from sparsedash.reporting.charts.points import times
from sparsedash.reporting.html import Html, Table, element, escape, join, paragraph, table
from sparsedash.reporting.passages.slices import Slice, slices
from sparsedash.reporting.record_pair import Pair
from sparsedash.schema.records import Passages
from sparsedash.service.backend import Backend
from sparsedash.stats.means import anytime_mean_interval, mean_interval
from sparsedash.stats.tolerance import ALPHA, Losses, losses_of, lost_accuracy_interval

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
        lost = losses_of([pair.outcomes(position) for position in group.positions], looked=looked)
        nats = (anytime_mean_interval if looked else mean_interval)(lost.nats, alpha)
        rows.append(SliceLoss(group=group, losses=lost, nats=nats, accuracy=lost_accuracy_interval(lost, alpha)))
    n = len(pair.left.outcomes)
    return SliceLosses(rows=rows, alpha=alpha, mean=sum(pair.fall(position) for position in range(n)) / n)


def slice_table(found: SliceLosses, right: str, left: str) -> Html:
    """The table with its caption. right, left: the models' names."""
    drawn: list[Html] = []
    for i, row in enumerate(found.rows):
        if i == 0 or found.rows[i - 1].group.by != row.group.by:
            span = element("th", escape(row.group.by), scope="colgroup", colspan=str(1 + len(_HEAD)))
            drawn.append(element("tr", span, css="sd-slice-kind"))
        cells = (element("td", escape(cell)) for cell in _cells(row, found.mean))
        drawn.append(element("tr", element("th", escape(row.group.name), scope="row"), *cells))
    top = element("tr", *(element("th", escape(cell), scope="col") for cell in ("Group", *_HEAD)))
    inside = element("table", element("thead", top), element("tbody", *drawn), css="sd-table sd-slices")
    scroll = element("div", inside, css="sd-scroll", role="region", aria_label=_NAME, tabindex="0")
    return join(paragraph(_caption(found, right, left), css="sd-muted sd-small"), scroll)


def slice_file(found: SliceLosses, right: str, left: str) -> Table:
    """The same table to take along, every group with what it is grouped by."""
    rows = [[row.group.by, row.group.name, *_cells(row, found.mean)] for row in found.rows]
    return table(_NAME, _caption(found, right, left), ["Grouped by", "Group", *_HEAD], rows)


def _caption(found: SliceLosses, right: str, left: str) -> str:
    n, level = len(found.rows), f"{100 * (1 - found.alpha):.2f}{wording.NBSP}%"
    return (
        f"{right} against {left}, paired. {n} groups are looked at, with two intervals each: every one has the level "
        f"{level}, so that all hold together at 95{wording.NBSP}%. Marked are groups whose whole interval lies on one "
        f"side of what all passages lost ({times(found.mean)}). A mark is a hint for a test on other passages."
    )


def _cells(row: SliceLoss, mean: float) -> list[str]:
    lost, (low, high) = row.losses, row.accuracy
    n = lost.nats.n
    points = f"{wording.signed((lost.mended - lost.broke) / n)} ({wording.signed_interval((-high, -low))})"
    ratio = f"{times(lost.nats.mean)} ({_ratio_range(row.nats)})"
    return [f"{n:,}", f"{lost.broke:,}", f"{lost.mended:,}", points, ratio, row.beside(mean)]


def _ratio_range(nats: tuple[float, float]) -> str:
    if nats[0] == -inf:
        return "no interval"
    low, high = (times(end).removesuffix(" ×") for end in nats)
    return f"{low} to {high}"
