"""Charts as plain data, and records as the points that they draw."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import plotly.io

from sparsedash.reporting.charts.tradeoff_data import Measure, Point, Reading, Readings, TradeoffData
from sparsedash.reporting.run_results import RunResults, record_readings
from sparsedash.reporting.wording import sparsity_axis_title
from sparsedash.schema.records import Record
from sparsedash.stats.significance import compare_records
from sparsedash.stats.tolerance import Tolerance, judge_all, record_losses
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


def read(measure: Measure, dense: Record, record: Record) -> Sequence[Reading]:
    """What a record's answers come to on one measure, beside those of the dense model."""
    return _readings(dense, record)[measure]


def tradeoff_data(dense: Record, lines: Mapping[str, Sequence[Record]], **more: Any) -> TradeoffData:
    """These records on these lines."""
    sparse = [record for records in lines.values() for record in records]
    points = {label: [point(dense, record) for record in records] for label, records in lines.items()}
    return TradeoffData(
        dense=point(dense, dense),
        lines=points,
        n_passages=dense.last_word.total,
        taken=sparsity_axis_title(record.pruned.method for record in sparse if record.pruned),
        **more,
    )


def point(dense: Record, record: Record) -> Point:
    """The point of one record."""
    run, _ = specimens.run()
    found = RunResults(
        run=replace(run, dense=dense.key, sparse=(record.key,)),
        dense=dense,
        judged=(),
        tolerance=Tolerance(),
        readings={record.key: _readings(dense, record)},
    )
    return found.point_of(record)


def _readings(dense: Record, record: Record) -> Readings:
    (alone,) = judge_all([record_losses(dense, record)], Tolerance())
    return record_readings(record, compare_records(dense, record), alone)
