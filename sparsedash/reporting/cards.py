"""Statistics beside each other: a few large numbers with what is said of each, or a list of facts."""

from collections.abc import Sequence

from sparsedash.reporting.html import Html, element, escape, join

_LONG = 7
"""Characters of a figure that a phone has room for in the usual size."""


def card(name: str, figure: str, *below: str, css: str) -> Html:
    """One large number under its name, with lines of small text below it. css: whose number it is."""
    small = (element("dd", escape(text), css="sd-muted") for text in below)
    size = "sd-figure sd-long" if len(figure) > _LONG else "sd-figure"
    return element("div", element("dt", escape(name)), element("dd", escape(figure), css=size), *small, css=css)


def cards(drawn: Sequence[Html], grows: bool = False) -> Html:
    """The cards in a row; one below the other on a phone. grows: they are as high before they have all lines."""
    return element("dl", *drawn, css="sd-numbers sd-grows" if grows else "sd-numbers")


def facts(pairs: Sequence[tuple[str, str]]) -> Html:
    """A list of names, each with its value."""
    drawn = (join(element("dt", escape(name)), element("dd", escape(value))) for name, value in pairs)
    return element("dl", *drawn, css="sd-estimate")
