"""The two models of a comparison beside each other: with their names, or hidden so that nobody can tell them apart."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from sparsedash.reporting.html import Html, element, escape, join
from sparsedash.reporting.record_pair import Pair
from sparsedash.schema.records import Record

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class SideBySide:
    """How a pair is shown.

    hidden: nothing shows which side is which. turned: the right model stands first; only where it is hidden.
    """

    pair: Pair
    hidden: bool = False
    turned: bool = False

    def shown(self, left: T, right: T) -> tuple[T, T]:
        """What belongs to the left and the right model, in the order in which it is shown."""
        return (right, left) if self.turned else (left, right)

    @property
    def titles(self) -> tuple[str, str]:
        """The headings, in the order shown."""
        if self.hidden:
            return "A", "B"
        pair = self.pair
        return side_title(pair.left_name, pair.left), side_title(pair.right_name, pair.right)

    @property
    def colours(self) -> tuple[str, str]:
        """The classes that give both sides their colours, in the order shown."""
        left, right = self.shown(self.pair.left, self.pair.right)
        return self._css(left), self._css(right)

    def beside(self, left: Html, right: Html, others: Mapping[str, Html] | None = None) -> Html:
        """Both sides' markup under their headings, one beside the other.

        others: markup of more sparse models, by their names; not shown while the sides are hidden.
        """
        named = zip(self.titles, self.colours, self.shown(left, right), strict=True)
        more = [] if self.hidden or not others else [(name, "sd-sparse", inside) for name, inside in others.items()]
        sections = [
            element("section", element("h3", escape(title)), inside, css=f"sd-answer {css}")
            for title, css, inside in (*named, *more)
        ]
        return element("div", join(*sections), css="sd-answers sd-many" if more else "sd-answers")

    def _css(self, record: Record) -> str:
        if self.hidden:
            return "sd-hidden"
        return "sd-sparse" if record.pruned else "sd-dense"


def side_title(name: str, record: Record) -> str:
    """The heading of one side: "Dense", "Sparse, 20 %"."""
    if record.pruned is None:
        return f"D{name[1:]}" if name.startswith("dense") else f"Dense, {name}"
    return f"Sparse, {name}"
