"""Records as the points that a trade-off chart draws, as a run's results make them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sparsedash.reporting.charts.points import Measure, Point, Reading, TradeoffData
from sparsedash.reporting.model_names import taken_by
from sparsedash.reporting.readings import readings
from sparsedash.reporting.run_results import RunResults
from sparsedash.schema.records import Record
from sparsedash.stats.significance import compare
from tests.ui import specimens


def read(measure: Measure, dense: Record, record: Record) -> Sequence[Reading]:
    """What a record's answers come to on one measure, beside those of the dense model."""
    return readings(dense, record, compare(dense, record))[measure]


def tradeoff_data(dense: Record, lines: Mapping[str, Sequence[Record]], **more: Any) -> TradeoffData:
    """These records on these lines."""
    sparse = [record for records in lines.values() for record in records]
    points = {label: [point(dense, record) for record in records] for label, records in lines.items()}
    return TradeoffData(
        dense=point(dense, dense),
        lines=points,
        n_passages=dense.last_word.total,
        taken=taken_by(record.pruned.method for record in sparse if record.pruned),
        **more,
    )


def point(dense: Record, record: Record) -> Point:
    """The point of one record."""
    run, _ = specimens.run()
    found = RunResults(
        run=replace(run, dense=dense.key, sparse=(record.key,)),
        dense=dense,
        sparse=(record,),
        paired=(compare(dense, record),),
        p_values=(1.0,),
        readings={record.key: readings(dense, record, compare(dense, record))},
    )
    return found.point_of(record)
