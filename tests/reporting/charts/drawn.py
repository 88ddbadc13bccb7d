"""Charts as the structure that plotly draws."""

import json
from typing import Any

import plotly.io


def drawn(figure: Any) -> dict[str, Any]:
    """The figure as plain data."""
    return json.loads(plotly.io.to_json(figure))


def trace(figure: dict[str, Any], name: str) -> dict[str, Any]:
    """The first trace of this name."""
    return next(t for t in figure["data"] if t["name"] == name)


def labels(figure: dict[str, Any]) -> dict[str, float]:
    """Where the labels at the right edge stand, as a share of the plot's height, by their text."""
    return {label["text"]: label["y"] for label in figure["layout"]["annotations"]}
