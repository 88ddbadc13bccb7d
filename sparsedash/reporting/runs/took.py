"""What a finished run took, beside what it was expected to take when it was asked for."""

from sparsedash.reporting import wording
from sparsedash.reporting.html import Table, table
from sparsedash.schema.progress import Stage
from sparsedash.schema.records import Run
from sparsedash.service.preflight import Forecast

_PARTS: dict[str, tuple[Stage, ...]] = {
    "loading": ("load",),
    "calibrating": ("text", "calibrate"),
    "pruning": ("prune",),
    "answering": ("evaluate",),
}
"""The stages that each part of a forecast is of."""

_UNKNOWN = "not known"


def took(run: Run, whole_s: float, forecast: Forecast) -> Table:
    """Time, by part, memory and disk of a run of which nothing was stored before. whole_s: from its first step on."""
    expected = dict(forecast.parts)
    rows = [["Time", _time(whole_s), _time(forecast.seconds)]]
    for part, stages in _PARTS.items():
        measured = [run.seconds[stage] for stage in stages if stage in run.seconds]
        if measured:
            rows.append([f"of it {part}", _time(sum(measured)), _time(expected.get(part))])
    rows.append(["Memory, at most", _size(run.peak_bytes), _size(forecast.memory_bytes)])
    rows.append(["Left on the disk", _size(run.disk_bytes), _size(forecast.disk_bytes)])
    caption = "What was measured, beside what was expected when it was asked for."
    return table("what it took", caption, ["", "took", "expected"], rows)


def _time(seconds: float | None) -> str:
    return _UNKNOWN if seconds is None else wording.duration(seconds)


def _size(n_bytes: int | None) -> str:
    return _UNKNOWN if n_bytes is None else wording.size(n_bytes)
