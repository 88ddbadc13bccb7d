"""Progress of a run: one share and one remaining time. Plain numbers in and out.

Work is counted in units: loading, the text, a calibration, a model to prune, a model to evaluate. A unit takes what one
like it took in this run, else what it took in earlier runs at the pace of this one; where neither is known, units are
counted instead.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.progress import Taken
from sparsedash.schema.settings import SELF, RunSettings
from sparsedash.schema.store_keys import plain_share, shares_read

Unit = tuple[str, MethodSettings | None]
"""The stage of a unit of work, and the method where it prunes: each takes its own time."""
Part = tuple[str, int]
"""A stage, and the index of the last sparse model whose pruning has begun; -1 before the first."""

ALMOST = 0.99
"""The largest share of a run that is not over."""

_WITH_RATE = ("text", "calibrate", "walk", "evaluate")
"""Stages whose own rate gives the time left."""
_OVERDUE = 0.1
"""Work that takes longer than expected is expected to take this share of its time once more."""
_TRUST_S = 20.0
"""Seconds of earlier runs that count beside this run's own pace."""


@dataclass(frozen=True, kw_only=True)
class RunPosition:
    """Where a run is. taken: as Job.taken; the last entry is the present one.

    share: of the stage, 0 to 1. rest_s: of the stage, by its own rate; None while that is not known. calibrated,
    answered: whether the calibration and the dense record are stored already. n_stored: of the sparse models after the
    present one, those with a stored record. goes_on: whether an earlier attempt has begun the run, so that what is
    stored already is a part of it.
    """

    taken: Sequence[Taken]
    share: float = 0.0
    rest_s: float | None = None
    calibrated: bool = False
    answered: bool = False
    n_stored: int = 0
    goes_on: bool = False


@dataclass(frozen=True, kw_only=True)
class RunProgress:
    """Progress of a run. share: 0 to ALMOST. part: the present one of n_parts, counted from one.

    remaining_s: to the end of the run; None where something that is still to come was never measured.
    unmeasured: these stages.
    """

    share: float
    part: int
    n_parts: int
    remaining_s: float | None
    unmeasured: tuple[str, ...] = ()


def run_progress(
    settings: RunSettings, expected: Mapping[str, float | None], now: RunPosition, shown: float = 0.0
) -> RunProgress:
    """Progress of the run. expected: seconds of each stage, starting the engine included, for one model.

    shown: the share that was shown last, below which it does not fall.
    """
    spent, work, coming = _work(settings, now)
    *before, here = work
    took = defaultdict[Unit, list[float]](list)
    for over in before:
        # Of a walk that is over it is not known whether it had to calibrate.
        if over[0] != "walk":
            took[work[over][0]].append(spent[over] / len(work[over]))
    rest_s = now.rest_s if here[0] in _WITH_RATE else None
    if here[0] == "evaluate" and rest_s is not None:
        took[work[here][0]].append((spent[here] + rest_s) / len(work[here]))
    pairs = [(one, known) for unit, all_took in took.items() for one in all_took if (known := expected.get(unit[0]))]
    pace = (sum(one for one, _ in pairs) + _TRUST_S) / (sum(known for _, known in pairs) + _TRUST_S)

    def seconds(units: Sequence[Unit]) -> float | None:
        each = [fmean(took[unit]) if unit in took else expected.get(unit[0]) for unit in units]
        known = [one if unit in took else one * pace for unit, one in zip(units, each, strict=True) if one is not None]
        return sum(known) if len(known) == len(units) else None

    unmeasured = [unit[0] for unit in coming if seconds([unit]) is None]
    usual = seconds(work[here])
    if rest_s is None and usual is None:
        unmeasured = [here[0], *unmeasured]
    elif rest_s is None and usual is not None:
        rest_s = max(usual - spent[here], _OVERDUE * max(spent[here], usual))
    part, n_parts = len(work), len(work) + len(coming)
    share, remaining = (part - 1 + (now.share if here[0] in _WITH_RATE else 0.0)) / n_parts, None
    if not unmeasured and rest_s is not None:
        remaining = rest_s + (seconds(coming) or 0.0)
        whole = sum(spent.values()) + remaining
        if now.goes_on:
            start, all_after = ("start", None), _work(settings, RunPosition(taken=[Taken("start", None, 0.0)]))[2]
            whole = max(whole, seconds([start, *all_after]) or 0.0)
        share = 1 - remaining / whole if whole else 0.0
    return RunProgress(
        share=max(shown, min(ALMOST, share)),
        part=part,
        n_parts=n_parts,
        remaining_s=remaining,
        unmeasured=tuple(dict.fromkeys(unmeasured)),
    )


def stage_progress(stages: Sequence[str], stage: str, share: float, shown: float = 0.0) -> RunProgress:
    """Progress of a job of these stages, without any expected times.

    stage: the present one; another one belongs to the second, which makes the models. share: of the stage.
    """
    at = stages.index(stage) if stage in stages else 1
    whole = min(ALMOST, (at + share) / len(stages))
    return RunProgress(share=max(shown, whole), part=at + 1, n_parts=len(stages), remaining_s=None)


def _work(settings: RunSettings, now: RunPosition) -> tuple[dict[Part, float], dict[Part, list[Unit]], list[Unit]]:
    """Seconds and units of each part so far, the present one last; and the units to come."""
    points, unread, last = settings.points, set() if now.calibrated else set(shares_read(settings)), -1
    # Models to evaluate, -1 the dense one: at once, or together when others are made.
    waiting = set() if now.answered else {-1}
    spent, work = defaultdict[Part, float](float), dict[Part, list[Unit]]()

    def read_for(models: Iterable[int]) -> list[Unit]:
        shares = {plain_share(points[model][0], settings.calibration) for model in models} & unread
        unread.difference_update(shares)
        return [("calibrate", None)] * len(shares)

    for stage, place, seconds in now.taken:
        # A search may try more than was planned.
        point, units = None if place is None else min(place, len(points) - 1), list[Unit]([(stage, None)])
        match stage:
            case "text" | "continue" if point is None or (stage == "text" and settings.calibration.corpus != SELF):
                # Text of a file is read while the model is found, and prompts are continued once it is loaded.
                stage, units = "load", [("load", None)]
            case "text" | "calibrate" | "continue" if point is not None and point == last:
                # What is read again, or written by it, is part of pruning that model.
                stage, units = "prune", [("prune", points[point][0])]
            case "calibrate":
                read_for([point or 0])
            case "prune" | "walk" if point is not None:
                models = range(last + 1 if stage == "walk" else point, point + 1)
                units = [*read_for(models), *(("prune", points[model][0]) for model in models)]
                units = units if stage == "walk" else units[-1:]
                waiting.update(models)
                last = point
            case "evaluate":
                units, waiting = units * max(1, len(waiting)), set()
        part = stage, last
        work[part] = work.pop(part, units)
        spent[part] += seconds
    later = range(last + 1, len(points) - now.n_stored)
    coming: list[Unit] = [("load", None)] if len(work) == 1 and part[0] == "start" else []
    calibrations = read_for(later)
    if (
        calibrations
        and settings.calibration.corpus == SELF
        and not {"text", "calibrate"} & {stage for stage, _ in work}
    ):
        coming.append(("text", None))
    coming += [*calibrations, *(("prune", points[model][0]) for model in later)]
    return spent, work, [*coming, *[("evaluate", None)] * (len(waiting) + len(later))]
