"""Progress of a job: one share and one remaining time. Plain numbers in and out.

Work of a run is counted in units: loading, the text, a calibration, a model to prune, a model to
evaluate. A unit takes what one like it took in this run, else what it took in earlier runs at the
pace of this one. From look to look the time left counts down and settles on a new estimate, and the
bar covers its rest in the time that is left.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import exp
from statistics import fmean

from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.progress import Stage, Step, Taken
from sparsedash.schema.settings import SELF, RunSettings
from sparsedash.schema.store_keys import mix_share, shares_read

Unit = tuple[str, MethodSettings | None]
"""The stage of a unit of work, and the method where it prunes: each takes its own time."""
Part = tuple[str, int]
"""A stage, and the index of the last sparse model whose pruning has begun; -1 before the first."""

ALMOST = 0.99
"""The largest share of a job that is not over."""

_WITH_RATE = ("text", "calibrate", "heal", "walk", "evaluate", "answer")
"""Stages of a run whose own rate gives the time left."""
_UNPACED = ("start", "load")
"""Stages that say nothing about the pace of others: the model may be in memory still."""
_GUESSES_S = {
    "start": 6.0,
    "load": 6.0,
    "read": 2.0,
    "write": 10.0,
    "continue": 15.0,
    "prove": 20.0,
    "time": 60.0,
    "heal": 300.0,
}
_GUESS_S = 30.0
"""Seconds of a stage that was never measured: they move the bar and are not shown."""
_OVERDUE = 0.1
"""Work that takes longer than expected is expected to take this share of its time once more."""
_TRUST_S = 20.0
"""Seconds of earlier runs that count beside this run's own pace."""
_TRUST = 0.05
"""Share of a stage for which its expected time counts beside its own rate."""
_REFITS = 0.15
"""Times the first half of pruning's steps, which choose channels one by one, that the second half
takes.
"""
_AFTER_READING = 0.5
"""Share of pruning that is still to come, at the least, while text is read before its first
step.
"""
_SHARED = 0.3
"""Of the time of a method's first model, what the next takes where most of its work serves all."""
_SLOWER = 1.5
"""Times the expected time from which a stage is called slower."""
_SETTLES, _SETTLES_S = 0.1, (2.0, 30.0)
"""A new estimate is approached within this share of the time left, and within these seconds."""
_LEAST_S = 1.0


@dataclass(frozen=True, kw_only=True)
class JobPosition:
    """Where a job is. taken: as Job.taken; the last entry is the present one.

    share: of the stage, 0 to 1. rest_s: of the stage, by its own rate; None while that is not
    known. Of a run:
    calibrated, answered: whether the calibration and the dense record are stored already. stored:
    the points whose records are. any_order: whether points may be begun in any order, as on a
    cluster. goes_on: whether an earlier attempt has begun the run, so that what is stored already
    is a part of it.
    """

    taken: Sequence[Taken]
    share: float = 0.0
    rest_s: float | None = None
    calibrated: bool = False
    answered: bool = False
    stored: Collection[int] = ()
    any_order: bool = False
    goes_on: bool = False

    @classmethod
    def of(cls, step: Step, silent_s: float) -> "JobPosition":
        """Where the job is so many seconds after this step; of a run without what is stored."""
        *over, last = step.taken or (Taken(step.stage, step.point, 0.0),)
        rest_s = None if step.rest_s is None else max(step.rest_s - silent_s, _OVERDUE * silent_s)
        taken = [*over, last._replace(seconds=last.seconds + silent_s)]
        return cls(taken=taken, share=step.share, rest_s=rest_s, any_order=bool(step.machine))

    @property
    def elapsed_s(self) -> float:
        """Seconds since the attempt began."""
        return sum(each.seconds for each in self.taken)


@dataclass(frozen=True, kw_only=True)
class JobProgress:
    """Progress of a job at one look. share: 0 to ALMOST. elapsed_s: of this attempt. left_s: to the
    end of the job.

    unmeasured: stages that are still to come and were never measured; left_s is a guess then.
    slower: a stage, and how many times the expected time it takes.
    """

    share: float
    elapsed_s: float
    left_s: float
    unmeasured: tuple[str, ...] = ()
    slower: tuple[str, float] | None = None


def run_progress(
    settings: RunSettings,
    expected: Mapping[str | Unit, float | None],
    now: JobPosition,
    before: JobProgress | None = None,
) -> JobProgress:
    """Progress of the run. expected: seconds of each stage for one model, starting the engine
    included, or of a unit.

    before: the last look.
    """
    spent, work, coming = _work(settings, now)
    *over, here = work
    took = defaultdict[Unit, list[float]](list)
    # An earlier attempt may have done a part of the first stage.
    resumed = [part for part in work if part[0] not in _UNPACED][: now.goes_on]
    for part in over:
        # Of a walk that is over it is not known whether it had to calibrate.
        if part[0] != "walk" and part not in resumed:
            took[work[part][0]].append(spent[part] / len(work[part]))
    forecast = _Forecast(
        expected, took, max(1.0, now.elapsed_s / sum(_guess_s(stage) for stage, _ in work))
    )
    stage, units, usual = here[0], work[here], sum(map(forecast.seconds, work[here]))
    is_known, share, rest_s = forecast.knows(units), now.share, now.rest_s
    chooses = now.taken[-1].stage == "prune" and _chooses_first(units[0][1])
    if chooses and rest_s is not None:
        share, rest_s = _choosing(share, rest_s)
    has_rate = (stage in _WITH_RATE or chooses) and rest_s is not None and share < 1
    if has_rate and rest_s is not None:
        whole = rest_s / (1 - share)
        if is_known:
            whole = (_TRUST * usual + share * whole) / (_TRUST + share)
        rest = (1 - share) * whole
        whole = spent[here] + rest if chooses else whole
    else:
        done_s = max(spent[here], share * usual * (stage in _WITH_RATE))
        rest = max(usual - done_s, _OVERDUE * max(spent[here], usual))
        if now.taken[-1].stage == "prune":
            # What another model has found already is done at once.
            rest = min(rest, (1 - share) * usual)
        elif rest_s is not None and _chooses_first(units[0][1]) and not _has_chosen(now.taken):
            rest = max(rest, rest_s + _AFTER_READING * usual)
        whole = spent[here] + rest
    if stage != "walk" and (has_rate or spent[here] > usual):
        took[units[0]].append(whole / len(units))
    left = rest + sum(map(forecast.seconds, coming))
    whole = now.elapsed_s + left
    if now.goes_on:
        all_units = _work(settings, JobPosition(taken=[Taken("start", None, 0.0)]))[2]
        whole = max(whole, sum(map(forecast.seconds, [("start", None), *all_units])))
    unknown = [] if is_known or has_rate else [stage]
    unknown += [unit[0] for unit in coming if not forecast.knows([unit])]
    # What a model writes is counted into its pruning, and says nothing about the pace of that.
    slower = None if now.taken[-1].stage == "continue" else forecast.slower(units[0])
    return _after(before, now.elapsed_s, left, whole, unknown, slower)


def job_progress(
    stages: Sequence[str], now: JobPosition, before: JobProgress | None = None
) -> JobProgress:
    """Progress of a job of these stages, of which no times are expected; a rate tells the time left
    of the last one.

    A present stage that is not among them belongs to the second, which makes the models.
    """
    at = stages.index(now.taken[-1].stage) if now.taken[-1].stage in stages else 1
    guesses = [*map(_guess_s, stages)]
    slower = max(1.0, now.elapsed_s / sum(guesses[: at + 1]))
    spent = sum(
        each.seconds for each in now.taken if each.stage not in stages or each.stage == stages[at]
    )
    usual, is_known = guesses[at] * slower, at == len(stages) - 1 and now.rest_s is not None
    rest = (
        now.rest_s
        if at > 1 and now.rest_s is not None
        else max(usual - spent, _OVERDUE * max(spent, usual))
    )
    left = rest + slower * sum(guesses[at + 1 :])
    return _after(
        before, now.elapsed_s, left, now.elapsed_s + left, [] if is_known else stages[at:]
    )


def _chooses_first(method: MethodSettings | None) -> bool:
    """Whether pruning by it first chooses the channels of all blocks one by one, then refits what
    is left.
    """
    return (
        method is not None and method.takes_channels and method.eliminates and not method.per_block
    )


def _has_chosen(taken: Sequence[Taken]) -> bool:
    """Whether the last sparse model was pruned already, as far as to read text once more."""
    return any(
        each.stage == "prune" and each.point == taken[-1].point and each.seconds > _LEAST_S
        for each in taken
    )


def _choosing(share: float, rest_s: float) -> tuple[float, float]:
    """Share of the time of such a pruning, and its time left. share: of its steps. rest_s: if all
    took as long.
    """
    first, later = min(share, 0.5), max(0.0, share - 0.5)
    to_come = 0.5 - first + _REFITS * (0.5 - later)
    pace = 1.0 if share < 0.5 else _REFITS
    return 1 - to_come / (0.5 + _REFITS * 0.5), rest_s * to_come / (
        pace * (1 - share)
    ) if share < 1 else 0.0


def _guess_s(stage: str) -> float:
    return _GUESSES_S.get(stage, _GUESS_S)


@dataclass(frozen=True)
class _Forecast:
    """Seconds of units. expected: as in run_progress. took: of this run's own. slower: times a
    guess that it takes.
    """

    expected: Mapping[str | Unit, float | None]
    took: Mapping[Unit, Sequence[float]]
    guess_pace: float

    def knows(self, units: Iterable[Unit]) -> bool:
        """Whether all of them were measured, or counted."""
        return all(self.took.get(unit) or self._usual_s(unit) is not None for unit in units)

    def seconds(self, unit: Unit) -> float:
        """Of one unit that is not over."""
        own, usual = self.took.get(unit), self._usual_s(unit)
        if own and unit[0] != "prune":
            return (own[-1] + fmean(own)) / 2
        if own and (len(own) > 1 or usual is None):
            return own[-1]
        foreseen = (
            _guess_s(unit[0]) * self.guess_pace if usual is None else usual * self._pace(unit[0])
        )
        if not own:
            return foreseen
        # The first model of a method makes what its others share.
        method = unit[1]
        shares = method and (
            method.takes_layers
            or (method.takes_channels and (method.eliminates or method.by_curves))
        )
        return min(own[0] * (_SHARED if shares else 1.0), foreseen)

    def slower(self, unit: Unit) -> tuple[str, float] | None:
        """As JobProgress.slower, of the stage of this unit."""
        own, usual = self.took.get(unit), self._usual_s(unit)
        times = own[-1] / usual if own and usual else 1.0
        return (unit[0], times) if times >= _SLOWER and unit[0] not in _UNPACED else None

    def _usual_s(self, unit: Unit) -> float | None:
        return self.expected.get(unit, self.expected.get(unit[0]))

    def _pace(self, stage: str) -> float:
        """Times the expected time that this run takes."""
        if stage in _UNPACED:
            return 1.0
        units = [
            (each, usual)
            for unit, each in self.took.items()
            if unit[0] not in _UNPACED and (usual := self._usual_s(unit))
        ]
        own, usual = (
            sum(sum(each) for each, _ in units),
            sum(len(each) * one for each, one in units),
        )
        return (own + _TRUST_S) / (usual + _TRUST_S)


def _after(
    before: JobProgress | None,
    elapsed_s: float,
    left_s: float,
    whole_s: float,
    unknown: Sequence[str],
    slower: tuple[str, float] | None = None,
) -> JobProgress:
    """The look after `before`. left_s, whole_s: of the job, as estimated now."""
    share, passed_s = 1 - left_s / whole_s if whole_s else 0.0, 0.0
    if before is not None:
        passed_s = max(0.0, elapsed_s - before.elapsed_s)
        if not before.unmeasured:
            due_s, least, most = max(_LEAST_S, before.left_s - passed_s), *_SETTLES_S
            settled = 1 - exp(-passed_s / min(most, max(least, _SETTLES * due_s)))
            left_s = due_s * (max(_LEAST_S, left_s) / due_s) ** settled
        share = 1 - (1 - before.share) * left_s / (left_s + passed_s) if passed_s else before.share
    return JobProgress(
        share=max(0.0, min(ALMOST, share)),
        elapsed_s=elapsed_s,
        left_s=left_s,
        unmeasured=tuple(dict.fromkeys(unknown)),
        slower=slower,
    )


def _work(
    settings: RunSettings, now: JobPosition
) -> tuple[dict[Part, float], dict[Part, list[Unit]], list[Unit]]:
    """Seconds and units of each part so far, the present one last; and the units to come."""
    points, unread, last = (
        settings.points,
        set() if now.calibrated else set(shares_read(settings)),
        -1,
    )
    # Models to evaluate, -1 the dense one: at once, or together when others are made.
    waiting = set() if now.answered else {-1}
    # What a quantised model is made of was pruned, and healed, for another point.
    healing = {model for model, spec in enumerate(points) if spec.heal_steps and not spec.quantise}
    made: list[tuple[Stage, MethodSettings | None]] = [
        ("quantise", None) if spec.quantise else ("prune", spec.method) for spec in points
    ]
    spent, work, begun = defaultdict[Part, float](float), dict[Part, list[Unit]](), set[int]()

    def read_for(models: Iterable[int]) -> list[Unit]:
        shares = {mix_share(points[model], settings.calibration) for model in models} & unread
        unread.difference_update(shares)
        return [("calibrate", None)] * len(shares)

    for stage, place, seconds in now.taken:
        # A search may try more than was planned.
        point, units = (
            None if place is None else min(place, len(points) - 1),
            list[Unit]([(stage, None)]),
        )
        match stage:
            case "text" | "continue" if point is None or (
                stage == "text" and settings.calibration.corpus != SELF
            ):
                # Text of a file is read while the model is found, and prompts are continued once it
                # is loaded.
                stage, units = "load", [("load", None)]
            case "text" | "calibrate" | "continue" if point is not None and point == last:
                # What is read again, or written by it, is part of pruning that model.
                stage, units = made[point][0], [made[point]]
            case "calibrate":
                read_for([point or 0])
            case "prune" | "quantise" | "walk" if point is not None:
                # Machines of a cluster end in any order.
                models = range(
                    last + 1 if stage == "walk" and not now.any_order else point, point + 1
                )
                units = [*read_for(models), *(made[model] for model in models)]
                stage, units = (stage, units) if stage == "walk" else (made[point][0], units[-1:])
                waiting.update(models)
                begun.update(models)
                last = point
            case "heal" if point is not None:
                units = [("heal", points[point].method)]
                healing.discard(point)
            case "evaluate":
                units, waiting = units * max(1, len(waiting)), set()
                healing.discard(last)
        part = stage, last
        work[part] = work.pop(part, units)
        spent[part] += seconds
    first = 0 if now.any_order else max(begun, default=-1) + 1
    later = [
        model
        for model in range(first, len(points))
        if model not in begun and model not in now.stored
    ]
    coming: list[Unit] = [("load", None)] if len(work) == 1 and part[0] == "start" else []
    calibrations = read_for(later)
    # The first model that reads the text lets it be written.
    if (
        not now.calibrated
        and next((model for model, spec in enumerate(points) if spec.reads_text), -1) in later
        and settings.calibration.corpus == SELF
        and not {"text", "calibrate"} & {stage for stage, _ in work}
    ):
        coming.append(("text", None))
    coming += [*calibrations, *(made[model] for model in later)]
    coming += [("heal", points[model].method) for model in (last, *later) if model in healing]
    n_left = len(waiting) + len(later)
    # A model answers its tasks before its passages.
    n_tasked = max(0, n_left - (part[0] == "answer")) if settings.evaluation.tasks else 0
    return spent, work, [*coming, *[("evaluate", None)] * n_left, *[("answer", None)] * n_tasked]
