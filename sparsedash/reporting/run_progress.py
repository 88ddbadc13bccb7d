"""Progress of a job: the share of its parts that is done, and the time left.

Parts are filled in the order of the job's steps, each as wide as the seconds that were estimated
for it. The time left is what they take at this job's own pace.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sparsedash.schema.progress import Stage, StageTime, Step
from sparsedash.service.estimates import GUESSES_S, USUAL_GUESS_S, RunPart

ALMOST = 0.99
"""The largest share of a job that is not over."""

_UNSTEADY: tuple[Stage, ...] = ("start", "load", "prune", "quantise", "answer")
"""Stages whose steps do not take equally long, so that their rate tells nothing."""
_UNPACED: tuple[Stage, ...] = ("start", "load")
"""Stages that tell nothing of the pace of others: the model may be in memory."""
_OF_MADE_MODELS: tuple[Stage, ...] = ("continue", "answer", "evaluate")
"""Stages after a model is made."""
_MAX_OF_PART = 0.9
"""The most of a part that is filled before its end."""
_TRUSTED_SHARE = 0.1
"""Share of a steady part from which on its own rate tells its time."""
_TRUSTED_S = 20.0
"""Seconds of the estimate that count beside the job's own pace."""


@dataclass(frozen=True, kw_only=True)
class JobProgress:
    """Progress of a job. share: 0 to ALMOST. left_s: seconds to its end.

    unmeasured: stages to come that were never measured; left_s is a guess then.
    """

    share: float
    left_s: float
    unmeasured: tuple[Stage, ...] = ()


def stage_parts(stages: Sequence[Stage]) -> list[RunPart]:
    """The parts of a job of which nothing is estimated."""
    return [
        RunPart(
            stage=stage,
            seconds=GUESSES_S.get(stage, USUAL_GUESS_S),
        )
        for stage in stages
    ]


def job_progress(
    parts: Sequence[RunPart],
    step: Step,
    silent_s: float = 0.0,
    done_before_s: float = 0.0,
) -> JobProgress:
    """Progress of a job that reported this step, `silent_s` seconds ago.

    parts: of this attempt, in order. done_before_s: estimated seconds of what an earlier attempt
    has done.
    """
    stage_times = step.stage_times or (StageTime(step.stage, step.point, 0.0),)
    done, periods = _periods(parts, stage_times)
    *earlier, (present, spent_s) = periods
    coming = [part for part in parts if part not in done and part not in present]
    paces = _paces(earlier)
    expected_s = _paced_s(present, paces)
    by_time = (spent_s + silent_s) / expected_s if expected_s else 0.0

    is_own_step = step.stage == "walk" or all(
        part.stage == step.stage for part in present
    )
    is_steady = is_own_step and step.stage not in _UNSTEADY
    # Several tasks are one part; each begins at 0.
    share = step.share if is_own_step and step.stage != "answer" else 0.0
    if not is_steady:
        share = max(share, by_time)
    share = min(_MAX_OF_PART, share)

    remaining_s = step.remaining_s if is_steady else None
    left_s = (1 - min(_MAX_OF_PART, max(share, by_time))) * expected_s
    if remaining_s is not None and _TRUSTED_SHARE <= share < _MAX_OF_PART:
        left_s = max(0.0, remaining_s - silent_s)
    left_s += _paced_s(coming, paces)

    to_fill_s = _seconds(coming) + (1 - share) * _seconds(present)
    whole_s = done_before_s + _seconds(parts)

    measured = set[Stage]()
    for period_parts, _ in earlier:
        measured.update(part.stage for part in period_parts)
    if remaining_s is not None:
        measured.add(step.stage)
    guessed = [part.stage for part in (*present, *coming) if part.basis == "guessed"]
    return JobProgress(
        share=min(ALMOST, 1 - to_fill_s / whole_s) if whole_s else 0.0,
        left_s=left_s,
        unmeasured=tuple(
            stage for stage in dict.fromkeys(guessed) if stage not in measured
        ),
    )


def _periods(
    parts: Sequence[RunPart], stage_times: Iterable[StageTime]
) -> tuple[set[RunPart], list[tuple[list[RunPart], float]]]:
    """The parts that are done; and those that the job worked on at a time, with the seconds.

    The last of these are the present ones: several where a stage serves several models.
    """
    done = set[RunPart]()
    periods: list[tuple[list[RunPart], float]] = [(list(parts[:1]), 0.0)]
    for stage, point, seconds in stage_times:
        present, spent_s = periods[-1]
        begun = _begun(
            [part for part in parts if part not in done],
            present,
            stage,
            point,
        )
        if not begun or begun == present:
            periods[-1] = (present, spent_s + seconds)
            continue
        done.update(present)
        for part in begun:
            # What precedes it was done for the same model, or was not needed.
            earlier = parts[: parts.index(part)]
            done.update(rival for rival in earlier if rival.point == part.point)
        done.difference_update(begun)
        periods.append((begun, seconds))
    return done, periods


def _begun(
    coming: Sequence[RunPart],
    present: Sequence[RunPart],
    stage: Stage,
    point: int | None,
) -> list[RunPart]:
    """The parts that a step of this stage works on; none where it belongs to the present ones.

    A stage that is no part, such as text that is read again, belongs to the model's next part.
    """
    making = [part for part in coming if part.stage not in _OF_MADE_MODELS]
    if stage == "walk" and point is not None:
        return [
            part for part in making if part.point is not None and part.point <= point
        ]
    of_stage = [part for part in coming if part.stage == stage]
    if stage in _OF_MADE_MODELS and point is None:
        return [part for part in of_stage if part.point is None]
    if stage in _OF_MADE_MODELS:
        unmade = {part.point for part in making if part not in present} - {None, point}
        return [part for part in of_stage if part.point not in unmade]
    of_model = [part for part in coming if part.point == point]
    return [part for part in of_stage if part.point == point] or of_model[:1]


def _paces(periods: Sequence[tuple[list[RunPart], float]]) -> dict[Stage | None, float]:
    """Seconds that the job took over those expected, by stage; None: over all of them."""
    spent_s = defaultdict[Stage | None, float](float)
    expected_s = defaultdict[Stage | None, float](float)
    spent_s[None] = _TRUSTED_S
    expected_s[None] = _TRUSTED_S
    for parts, seconds in periods:
        stages = {part.stage for part in parts}
        # Of a walk it is not known how its time is divided.
        stage = stages.pop() if len(stages) == 1 else "walk"
        if stage not in _UNPACED:
            for key in (stage, None):
                spent_s[key] += seconds
                expected_s[key] += _seconds(parts)
    return {
        key: spent_s[key] / seconds for key, seconds in expected_s.items() if seconds
    }


def _seconds(parts: Iterable[RunPart]) -> float:
    """Estimated seconds of these parts."""
    return sum(part.seconds for part in parts)


def _paced_s(parts: Iterable[RunPart], paces: Mapping[Stage | None, float]) -> float:
    """Seconds of these parts at the job's own pace."""
    seconds = 0.0
    for part in parts:
        pace = 1.0 if part.stage in _UNPACED else paces.get(part.stage, paces[None])
        seconds += part.seconds * pace
    return seconds
