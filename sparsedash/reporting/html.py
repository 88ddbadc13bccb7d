"""Text as HTML: escaping, elements, tables and figure cards; tables as CSV. The one place where
text becomes markup.

Text from models, files and addresses in a URL is foreign: it may hold tags, markdown or marks that
turn the reading direction. It reaches the page only through `escape`; the type `Html` is how mypy
holds that.
"""

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from math import isfinite
from types import MappingProxyType
from typing import NamedTuple, NewType

from sparsedash.schema.errors import encodable

Html = NewType("Html", str)
"""Markup that is safe to show. Made by the functions here, from literals or from escaped text."""

_CONTROL_PICTURES = 0x2400
_INVISIBLE = [
    0xAD,
    0x034F,
    0x061C,
    0x115F,
    0x1160,
    0x180E,
    0x200B,
    0x200E,
    0x200F,
    *range(0x2028, 0x202F),
    *range(0x2060, 0x2065),
    *range(0x2066, 0x206A),
    0x2800,
    0x3164,
    *range(0xE0000, 0xE0080),
]
_VISIBLE: dict[int, str] = {
    **{
        point: chr(_CONTROL_PICTURES + point)
        for point in range(32)
        if chr(point) not in "\n\t"
    },
    **{
        point: f"⟨U+{point:04X}⟩" for point in [*range(0x7F, 0xA0), *_INVISIBLE, 0xFEFF]
    },
    **dict.fromkeys(range(0xD800, 0xE000), "�"),
}
_BETWEEN_NUMBER_AND_SIGN = re.compile(r"(?<=\d) (?=[%×])")
_FORMULA_STARTS = ("=", "+", "-", "@")
"""A spreadsheet takes a cell that begins like this for a formula."""
_MARKDOWN = re.compile(r"[\\`*\[\]<>#~$&|]|(?<![^\W_])_|_(?![^\W_])|^[-+](?= |$)")
_REPLACED_LATER = re.compile(
    r"[:@](?=[\w+/-])|\bww(?=w\.)|[-<>~](?=[->=])|^\d+(?=[.)](?: |$))", re.IGNORECASE
)
"""Beginnings of emoji, icons, directives, addresses, arrows, which are replaced after escapes; of
numbered lists.
"""
_WORD_JOINER = "\N{WORD JOINER}"
Value = str | int | float | bool | None
"""Of a file: numbers as they are, text as a model or a user wrote it; None where there is none."""


def visible(text: str) -> str:
    """The text with everything a reader could not see, or that reorders what he sees, made
    visible.
    """
    return text.translate(_VISIBLE)


def escape(text: str) -> Html:
    """Foreign text as markup that shows just that text."""
    return Html(html.escape(visible(text)))


def token(text: str) -> Html:
    """A model's token: as `escape`, with the spaces and line breaks that belong to it shown."""
    shown = text.replace("\n", "⏎").replace("\t", "⇥")
    shown = re.sub("^ +| +$", lambda spaces: "␣" * len(spaces[0]), shown)
    return escape(shown or "∅")


def widget_label(text: str) -> str:
    """Foreign text for a label, help or toast, which Streamlit reads as markdown: it shows just
    that text, on one line.

    What escapes cannot keep from being replaced is parted by a sign of no width.
    """
    line = " ".join(visible(text).split())
    return _MARKDOWN.sub(r"\\\g<0>", _REPLACED_LATER.sub(rf"\g<0>{_WORD_JOINER}", line))


def quoted(text: str) -> str:
    """The text in quotation marks that can be told from its own."""
    return f"‘{text}’" if any(mark in text for mark in '"“”') else f"“{text}”"


def readable(text: str) -> str:
    """A model's text without the space around it; in words, or in quotation marks, where it has no
    letters.
    """
    if not text.strip():
        spaces = "(a line break)" if "\n" in text else "(spaces)"
        return {"": "(nothing)", " ": "(a space)"}.get(text, spaces)
    return text.strip() if any(map(str.isalnum, text)) else quoted(text.strip())


def element(name: str, *inside: Html, **attributes: str) -> Html:
    """One element. Attribute values are escaped; `css` is the class, underscores in names become
    hyphens.
    """
    pairs = ""
    for key, value in attributes.items():
        if value:
            attribute = "class" if key == "css" else key.replace("_", "-")
            pairs += f' {attribute}="{html.escape(visible(value))}"'
    return Html(f"<{name}{pairs}>{''.join(inside)}</{name}>")


def heading(text: str, **attributes: str) -> Html:
    """A page's first heading, large enough to be broken over lines: a number and its sign stay
    together.
    """
    markup = _BETWEEN_NUMBER_AND_SIGN.sub("\N{NO-BREAK SPACE}", escape(text))
    return element("h1", Html(markup), **attributes)


def join(*parts: Html) -> Html:
    """The parts one after another."""
    return Html("".join(parts))


def paragraph(text: str, css: str = "") -> Html:
    """A paragraph of text, escaped."""
    return element("p", escape(text), css=css)


class Cell(NamedTuple):
    """A cell of a table under its head, and what the table's file has in its place, by column."""

    head: str
    text: str
    values: Mapping[str, Value] = MappingProxyType({})


def _stacked(text: str) -> Html:
    """The first line of a text, and the others under it, smaller; after ✓ or ✕ in its colour."""
    first, *under = text.split("\n")
    signs = {"✓": "sd-under sd-right", "✕": "sd-under sd-wrong"}
    parts = [escape(first)]
    for line in under:
        parts.append(element("span", escape(line), css=signs.get(line[:1], "sd-under")))
    return join(*parts)


@dataclass(frozen=True)
class Table:
    """A table of text. name: what it is called for those who cannot see it, and as a file. caption:
    stands over it.

    The first column heads its row, the others are numbers. links: for each row the markup in place
    of its first text.
    data: the rows of its file, by their columns, whose names hold the unit; none: the file holds
    the text.
    stem: what the file's name begins with. stacked: what follows a line break in a cell stands
    smaller under the rest.
    """

    name: str
    caption: str
    head: list[str]
    rows: list[list[str]]
    links: Sequence[Html] = ()
    data: Sequence[Mapping[str, Value]] = ()
    stem: str = ""
    stacked: bool = False

    @classmethod
    def of_cells(
        cls,
        name: str,
        caption: str,
        cells: Sequence[Sequence[Cell]],
        links: Sequence[Html] = (),
        stem: str = "",
    ) -> "Table":
        """The table of these rows; a row may end early."""
        head = [cell.head for cell in max(cells, key=len)]
        rows = []
        data = []
        for row in cells:
            texts = [cell.text for cell in row]
            rows.append(texts + [""] * (len(head) - len(row)))
            values: dict[str, Value] = {}
            for cell in row:
                values |= cell.values
            data.append(values)
        return cls(name, caption, head, rows, links, data, stem, stacked=True)

    @property
    def html(self) -> Html:
        """A real table under its caption, which scrolls by itself."""
        heads = []
        for title in self.head:
            # Names of tasks are long and have no spaces.
            text = Html(escape(title).replace("_", "_<wbr>"))
            heads.append(element("th", text, scope="col"))
        shown = _stacked if self.stacked else escape
        body = []
        for i, row in enumerate(self.rows):
            first = self.links[i] if self.links else shown(row[0])
            others = [element("td", shown(text)) for text in row[1:]]
            body.append(element("tr", element("th", first, scope="row"), *others))
        table = element(
            "table",
            element("thead", element("tr", *heads)),
            element("tbody", *body),
            css="sd-table",
        )
        scroll = element(
            "div",
            table,
            css="sd-scroll",
            role="region",
            aria_label=self.name,
            tabindex="0",
        )
        if not self.caption:
            return scroll
        return join(paragraph(self.caption, css="sd-muted sd-small"), scroll)


def spreadsheet_safe(text: str) -> str:
    """The text as it is, or with an apostrophe before it where a spreadsheet would run it."""
    return f"'{text}" if text.lstrip().startswith(_FORMULA_STARTS) else text


def csv_file(rows: Sequence[Mapping[str, Value]]) -> bytes:
    """The rows under the names of their columns, as UTF-8 CSV: text quoted, and defused for
    spreadsheets; numbers bare.

    A number that is not finite is left out, as one that is not there.
    """

    columns = list(dict.fromkeys(chain.from_iterable(rows)))
    lines = [",".join(map(_csv_cell, columns))]
    for row in rows:
        lines.append(",".join(_csv_cell(row.get(column)) for column in columns))
    return "".join(f"{line}\n" for line in lines).encode()


def _csv_cell(value: Value) -> str:
    if isinstance(value, str):
        return '"' + spreadsheet_safe(encodable(value)).replace('"', '""') + '"'
    return "" if value is None or not isfinite(value) else str(value).lower()


def table_csv(shown: Table) -> bytes:
    """The table as UTF-8 CSV: its data where it has any, else the text that it shows."""
    if shown.data:
        return csv_file(shown.data)
    rows = []
    for row in shown.rows:
        texts = (text.replace("\N{NO-BREAK SPACE}", " ") for text in row)
        rows.append(dict(zip(shown.head, texts, strict=True)))
    return csv_file(rows)


def file_name(*parts: str, ending: str = "") -> str:
    """The name of a file, or a part of one, from these texts: of letters that every file can
    have.
    """
    names = []
    for part in parts:
        names.append(
            re.sub(r"[^a-z0-9.]+", "-", part.lower()).strip("-.")[:_LONGEST_PART]
        )
    return "-".join(filter(None, names)) + ending


def table_file_name(shown: Table) -> str:
    """The name of a table's CSV file."""
    return file_name(shown.stem or "sparsedash", shown.name, ending=".csv")


_LONGEST_PART = 80
"""Characters of a file's name that come from one text."""
_LONG = 7
"""Characters of a figure that a phone has room for in the usual size."""


def card(name: str, figure: str, *below: str, css: str) -> Html:
    """One large number under its name, with lines of small text below it. css: whose number it
    is.
    """
    small = (element("dd", escape(text), css="sd-muted") for text in below)
    size = "sd-figure sd-long" if len(figure) > _LONG else "sd-figure"
    return element(
        "div",
        element("dt", escape(name)),
        element("dd", escape(figure), css=size),
        *small,
        css=css,
    )


def cards(drawn: Sequence[Html]) -> Html:
    """The cards in a row; one below the other on a phone."""
    return element("dl", *drawn, css="sd-numbers")


def fact_list(pairs: Sequence[tuple[str, str]]) -> Html:
    """A list of names, each with its value."""
    drawn = (
        join(element("dt", escape(name)), element("dd", escape(value)))
        for name, value in pairs
    )
    return element("dl", *drawn, css="sd-estimate")
