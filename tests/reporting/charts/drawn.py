"""Charts as plain data, and records as the points that they draw."""

import json
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import plotly.io

from sparsedash.reporting.charts.tradeoff_data import Measure, Reading, TradeoffData
from sparsedash.reporting.model_results import ModelResult, judge, measure
from sparsedash.reporting.run_results import RunResults
from sparsedash.reporting.tradeoff_points import model_point, model_readings
from sparsedash.reporting.wording import sparsity_axis_title
from sparsedash.schema.records import Record
from sparsedash.schema.tolerance_settings import Tolerance
from tests.ui import specimens


def drawn(figure: Any) -> dict[str, Any]:
    """The figure as plain data."""
    return json.loads(plotly.io.to_json(figure))


def trace(figure: dict[str, Any], name: str) -> dict[str, Any]:
    """The first trace of this name."""
    return next(t for t in figure["data"] if t["name"] == name)


def labels(figure: dict[str, Any]) -> dict[str, float]:
    """Where the labels at the right edge stand, as a share of the plot's height, by their text."""
    return {label["text"]: label["y"] for label in figure["layout"]["annotations"]}


def alone(dense: Record, record: Record) -> ModelResult:
    """A record beside its dense model, by itself."""
    return judge([measure(dense, record)], Tolerance())[0]


def read(what: Measure, dense: Record, record: Record) -> Sequence[Reading]:
    """What a record's answers come to on one measure, beside those of the dense model."""
    return model_readings(alone(dense, record))[what]


def tradeoff_data(
    dense: Record, lines: Mapping[str, Sequence[Record]], **more: Any
) -> TradeoffData:
    """These records on these lines."""
    run, _ = specimens.run()
    models = {r.key: alone(dense, r) for r in (dense, *chain(*lines.values()))}
    results = RunResults(
        run=run,
        models=tuple(models.values()),
        tolerance=Tolerance(),
    )
    return TradeoffData(
        dense=model_point(results, models[dense.key], "channels"),
        lines={
            label: [model_point(results, alone(dense, r), "channels") for r in rs]
            for label, rs in lines.items()
        },
        n_passages=dense.last_word.total,
        sparsity_title=sparsity_axis_title(
            record.pruned.method for record in chain(*lines.values()) if record.pruned
        ),
        **more,
    )
