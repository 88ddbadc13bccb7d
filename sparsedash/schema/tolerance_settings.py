"""The loss that a user accepts: what verdicts, searches and model cards compare with."""

from dataclasses import dataclass
from math import log
from typing import Any, Literal

from sparsedash.schema.errors import SettingsError
from sparsedash.schema.fields import check_settings, field_rows, setting

LossMeasure = Literal["word perplexity", "accuracy"]
ALPHA = 0.05
"""The chance that a verdict, or any of several made together, is wrong; an interval by itself has
the level 1 - ALPHA.
"""


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """Acceptable loss. ratio: of word perplexity to the dense model's. points: of accuracy, in
    percentage points.

    tasks: points of single tasks, by name, in order of the names.
    """

    ratio: float = setting(
        1.10,
        title="allowed word perplexity",
        above=1.0,
        low=1.01,
        high=1000.0,
        key="within",
        flag="--within",
        label="The right word may become this many times less likely",
        flag_help="word perplexity may be at most this many times the dense model's",
    )
    points: float = setting(
        2.0,
        title="allowed points of accuracy",
        above=0.0,
        low=0.1,
        high=100.0,
        flag="--within-points",
        label="Accuracy, points lost at most",
        help="Within: non-inferior by at most this many points, shown by the whole interval.",
        flag_help="accuracy may fall by at most this many points: within is non-inferior by that margin",
    )
    tasks: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        check_settings(self)
        for name, points in self.tasks:
            field_rows(Tolerance)["points"].check(points)
            if not name:
                raise SettingsError("task", name, "the name of a task")
        tasks = {name: float(points) for name, points in self.tasks}
        object.__setattr__(self, "tasks", tuple(sorted(tasks.items())))

    def most(self, measure: LossMeasure) -> float:
        """The limit, in the unit of `Loss`."""
        return log(self.ratio) if measure == "word perplexity" else self.points / 100

    def as_document(self) -> dict[str, Any]:
        """The limits as plain values for JSON."""
        return {"ratio": self.ratio, "points": self.points, "tasks": dict(self.tasks)}

    def most_on(self, task: str, least: float) -> float:
        """The share of a task's right answers that may be lost: its own limit, or that of all
        tasks, but at least `least`.
        """
        points = dict(self.tasks).get(task)
        if points is not None:
            return points / 100
        return max(self.points / 100, least)
