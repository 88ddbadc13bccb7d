"""The colours of both themes, and what every chart has in common.

Dense is blue and sparse orange everywhere; a method is told from another by its symbol, dash and label, never by colour
alone. Lines carry their own labels, so there is no legend.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal

Theme = Literal["light", "dark"]

FONT = "'Source Sans', sans-serif"


@dataclass(frozen=True, kw_only=True)
class Palette:
    """Colours of one theme. Text in any of them but `sparse` reaches a contrast of 4.5 on that theme's ground."""

    dense: str
    band: str
    allowed: str
    sparse: str
    sparse_text: str
    broke: str
    mended: str
    text: str
    muted: str
    grid: str
    ground: str


PALETTES: dict[Theme, Palette] = {
    "light": Palette(
        dense="#2F5D9B",
        band="rgba(47, 93, 155, 0.12)",
        allowed="rgba(11, 122, 91, 0.10)",
        sparse="#C2571A",
        sparse_text="#A94A12",
        broke="#B3261E",
        mended="#0B7A5B",
        text="#22262B",
        muted="#5B6068",
        grid="#E7E4DB",
        ground="#FCFBF8",
    ),
    "dark": Palette(
        dense="#8DB4E8",
        band="rgba(141, 180, 232, 0.16)",
        allowed="rgba(92, 201, 160, 0.13)",
        sparse="#F0955A",
        sparse_text="#F2A06B",
        broke="#FF8A7A",
        mended="#5CC9A0",
        text="#E8E6E1",
        muted="#A3A8B0",
        grid="#2D3136",
        ground="#17191C",
    ),
}


def repainting() -> str:
    """CSS that repaints a chart which is already drawn when the theme changes: nobody tells the server of that.

    Each colour of one theme is found by the value that plotly has written and gets the other theme's beside it.
    """
    light, dark = asdict(PALETTES["light"]), asdict(PALETTES["dark"])
    rules = []
    for name in (field for field in light if field not in ("band", "allowed")):
        for colour in (light[name], dark[name]):
            red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
            rules += [
                f'.js-plotly-plot [style*="{what}: rgb({red}, {green}, {blue})"]'
                f" {{ {what}: light-dark({light[name]}, {dark[name]}) !important }}"
                for what in ("fill", "stroke")
            ]
    return "\n".join(rules)


def frame_of(title: str, height: int, colours: Palette) -> dict[str, Any]:
    """The layout that every chart begins with: a title at the left edge, no legend, nothing that can be dragged."""
    return {
        "height": height,
        "paper_bgcolor": "rgba(0, 0, 0, 0)",
        "plot_bgcolor": "rgba(0, 0, 0, 0)",
        "font": {"family": FONT, "size": 14, "color": colours.text},
        "showlegend": False,
        "dragmode": False,
        "hoverlabel": {"bgcolor": colours.ground, "bordercolor": colours.grid, "font": {"color": colours.text}},
        "title": {
            "text": title,
            "font": {"size": 14, "color": colours.muted, "weight": 400},
            "x": 0,
            "xref": "container",
            "y": 1,
            "yanchor": "top",
            "pad": {"t": 8},
        },
    }


def axis(colours: Palette, **more: Any) -> dict[str, Any]:
    """An axis that stays where it is, with quiet numbers."""
    return {"zeroline": False, "fixedrange": True, "tickfont": {"color": colours.muted}} | more
