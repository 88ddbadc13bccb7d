"""Progress of a whole run: one share and one remaining time over all of its parts. Plain numbers in and out.

A part is a stage, of the dense model or of one sparse one, or a walk: a single pass that makes several of them. Its
time is known from earlier runs, or from a similar part of this run; where neither is known, parts are counted instead.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from sparsedash.schema.progress import Taken
from sparsedash.schema.settings import SELF, RunSettings
from sparsedash.schema.store_keys import plain_share, shares_read

Part = tuple[str, int | None]
"""A stage, and the index of its sparse model among the run's points; None where it is of none, or of all.

The first calibration is of all; another one, on a text of which another share is plain, has its first model's index.
Models that are evaluated together have the last one's part; a walk has the index of its last model as well.
"""

ALMOST = 0.99
"""The largest share of a run that is not over."""

_WITH_RATE = ("text", "calibrate", "walk", "evaluate")
"""Stages whose own rate says how far they are."""
_OVERDUE = 0.1
"""A part that takes longer than expected is expected to take this share of its time once more."""
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
    unmeasured: these stages. repeated: whether the present stage is repeated for what the store has lost.
    """

    share: float
    part: int
    n_parts: int
    remaining_s: float | None
    unmeasured: tuple[str, ...] = ()
    repeated: bool = False


def run_progress(
    settings: RunSettings, expected: Mapping[str, float | None], now: RunPosition, shown: float = 0.0
) -> RunProgress:
    """Progress of the run. expected: seconds of each stage, starting the engine included, for one model.

    shown: the share that was shown last, below which it does not fall.
    """
    ends = [each.point for each in now.taken if each.stage == "walk" and each.point is not None]
    walks = _walked_parts(settings, ends)
    parts, indices = run_parts(settings, ends), _part_indices(settings, now.taken, ends)
    here = indices[-1] if indices else 0
    spent = defaultdict[int, float](float)
    for at, each in zip(indices, now.taken, strict=True):
        spent[at] += each.seconds
    n_models, waiting = _evaluated_together(parts, indices, now.answered)
    later = [*waiting, *_parts_after(parts, here, now)]
    over = {at: seconds / n_models.get(at, 1) for at, seconds in spent.items() if at < here}
    if parts[here][0] == "evaluate" and now.rest_s is not None:
        over[here] = (spent[here] + now.rest_s) / n_models.get(here, 1)
    seconds = _part_seconds(settings, parts, [_usual_seconds(part, expected, walks, now) for part in parts], over)
    unmeasured = [parts[at][0] for at in later if seconds[at] is None]
    of_one = seconds[here]
    usual = None if of_one is None else of_one * n_models.get(here, 1)
    rated = parts[here][0] in _WITH_RATE
    if rated and now.rest_s is not None:
        rest_here: float | None = now.rest_s
    else:
        rest_here = None if usual is None else max(usual - spent[here], _OVERDUE * max(spent[here], usual))
    part = len(spent.keys() - {here}) + 1
    n_parts = part + len(later)
    share, remaining = (part - 1 + (now.share if rated else 0.0)) / n_parts, None
    if rest_here is None:
        unmeasured = [parts[here][0], *unmeasured]
    elif not unmeasured:
        remaining = rest_here + sum(seconds[at] or 0.0 for at in later)
        done = sum(spent.values())
        if now.goes_on:
            stored = set(range(len(parts))) - spent.keys() - {here, *later}
            done += max(0.0, (usual or 0.0) - spent[here] - rest_here) + sum(seconds[at] or 0.0 for at in stored)
        share = done / (done + remaining) if done + remaining > 0 else 0.0
    return RunProgress(
        share=max(shown, min(ALMOST, share)),
        part=part,
        n_parts=n_parts,
        remaining_s=remaining,
        unmeasured=tuple(dict.fromkeys(unmeasured)),
        repeated=_is_repeated(settings, now.taken, parts[here]),
    )


def stage_progress(stages: Sequence[str], stage: str, share: float, shown: float = 0.0) -> RunProgress:
    """Progress of a job of these stages, without any expected times.

    stage: the present one; another one belongs to the second, which makes the models. share: of the stage.
    """
    at = stages.index(stage) if stage in stages else 1
    whole = min(ALMOST, (at + share) / len(stages))
    return RunProgress(share=max(shown, whole), part=at + 1, n_parts=len(stages), remaining_s=None)


def run_parts(settings: RunSettings, ends: Sequence[int] = ()) -> tuple[Part, ...]:
    """All parts of a run where nothing is stored, in their order. ends: the index of each walk's last model."""
    parts = _sequential_parts(settings)
    for walk, inside in _walked_parts(settings, ends).items():
        begin, end = parts.index(inside[0]), parts.index(inside[-1]) + 1
        # Text is read before a walk, and evaluations end after it.
        texts, answers = ([part for part in parts[begin:end] if part[0] == stage] for stage in ("text", "evaluate"))
        parts[begin:end] = [*texts, walk, *answers]
    return tuple(parts)


def _walked_parts(settings: RunSettings, ends: Sequence[int]) -> dict[Part, list[Part]]:
    """Of each walk, the parts from the first to the last that it does something of."""
    parts, found = _sequential_parts(settings), dict[Part, list[Part]]()
    begin = parts.index(("evaluate", None))
    for last in ends:
        end = parts.index(("evaluate", last)) + 1
        if begin < end:
            found["walk", last] = parts[begin:end]
            begin = end
    return found


def _sequential_parts(settings: RunSettings) -> list[Part]:
    parts: list[Part] = [("start", None), ("load", None), ("evaluate", None)]
    unread, read_first = list(shares_read(settings)), True
    for point, (method, _) in enumerate(settings.points):
        share = plain_share(method, settings.calibration)
        if share in unread:
            unread.remove(share)
            parts += [("text", None)] if settings.calibration.corpus == SELF else []
            parts.append(("calibrate", None if read_first else point))
            read_first = False
        parts += [("prune", point), ("evaluate", point)]
    return parts


def _part_indices(settings: RunSettings, taken: Sequence[Taken], ends: Sequence[int]) -> list[int]:
    """Of each entry, the index of its part in `run_parts`; never below that of an earlier entry."""
    order = {part: at for at, part in enumerate(run_parts(settings, ends))}
    found: list[int] = []
    made: list[int | None] = []
    for stage, point, _ in taken:
        part: Part = (stage, None if stage in ("start", "load", "text") else point)
        if stage == "calibrate" and part not in order:
            part = (stage, None)
        if stage == "text" and (point is None or part not in order):
            # Text of a file is read while the model is found.
            part = ("load", None)
        if stage == "evaluate" and point is None and made:
            # Together with the dense model.
            part = (stage, made[-1])
        made += [point] if stage in ("prune", "walk") else []
        before = found[-1] if found else 0
        # What is read again, for one sparse model or because it was lost, is part of pruning that model.
        own, again = order.get(part, before), order.get(("prune", point), before)
        found.append(own if own >= before else max(before, again))
    return found


def _evaluated_together(
    parts: Sequence[Part], indices: Sequence[int], answered: bool
) -> tuple[dict[int, int], list[int]]:
    """How many models are evaluated in each part that evaluates; and the indices of the evaluations that wait until
    other models are made, the present one not counted.

    answered: whether the dense record is known.
    """
    n_models: dict[int, int] = {}
    dense = parts.index(("evaluate", None))
    waiting: list[int] = []
    for at in indices:
        stage, point = parts[at]
        if stage == "evaluate":
            n_models.setdefault(at, max(1, len(waiting)))
            waiting = []
            continue
        if at > dense and not n_models and not answered and dense not in waiting:
            waiting.append(dense)
        if stage in ("prune", "walk") and (own := parts.index(("evaluate", point))) not in waiting:
            waiting += range(at + 1, own + 1) if stage == "walk" else [own]
    here = indices[-1] if indices else 0
    return n_models, [at for at in waiting if at < here]


def _parts_after(parts: Sequence[Part], here: int, now: RunPosition) -> list[int]:
    """Indices of the parts still to come: not those that are stored, of the last sparse models as many as are."""
    after = range(here + 1, len(parts))
    points = sorted({point for at in after if (point := parts[at][1]) is not None and point != parts[here][1]})
    stored = points[len(points) - now.n_stored :] if now.n_stored else []

    def is_stored(stage: str, point: int | None) -> bool:
        if stage in ("text", "calibrate") and now.calibrated:
            return True
        return point in stored or (now.answered and (stage, point) == ("evaluate", None))

    return [at for at in after if not is_stored(*parts[at])]


def _usual_seconds(
    part: Part, expected: Mapping[str, float | None], walks: Mapping[Part, Sequence[Part]], now: RunPosition
) -> float | None:
    """Seconds of a part in earlier runs; of a walk, those of calibrating and pruning its models."""
    made = ("prune",) if now.calibrated else ("calibrate", "prune")
    stages = [stage for stage, _ in walks[part] if stage in made] if part in walks else [part[0]]
    usual = [expected.get(stage) for stage in stages]
    return None if None in usual else sum(seconds or 0.0 for seconds in usual)


def _part_seconds(
    settings: RunSettings, parts: Sequence[Part], usual: Sequence[float | None], over: Mapping[int, float]
) -> list[float | None]:
    """Seconds of every part: those of a similar part of this run, else those of earlier runs at the pace of this one.

    over: seconds of the parts that are over, by their index.
    """
    # Of a walk that is over it is not known whether it had to calibrate.
    pairs = [(took, known) for at, took in over.items() if parts[at][0] != "walk" and (known := usual[at]) is not None]
    pace = (sum(took for took, _ in pairs) + _TRUST_S) / (sum(known for _, known in pairs) + _TRUST_S)
    found: list[float | None] = []
    for part, known in zip(parts, usual, strict=True):
        similar = [seconds for at, seconds in over.items() if _is_similar(settings, part, parts[at])]
        found.append(fmean(similar) if similar else None if known is None else known * pace)
    return found


def _is_similar(settings: RunSettings, part: Part, other: Part) -> bool:
    """Whether two parts take about as long: evaluations are alike, each method prunes in its own time."""
    if part[0] == "walk" or part[0] != other[0]:
        return part == other
    if part[0] == "prune" and part[1] is not None and other[1] is not None:
        return settings.points[part[1]][0] == settings.points[other[1]][0]
    return True


def _is_repeated(settings: RunSettings, taken: Sequence[Taken], part: Part) -> bool:
    """Whether text or calibration is made again, for a method that reads no text by itself."""
    stages = [each.stage for each in taken]
    if part[0] != "prune" or part[1] is None or stages[-1] not in ("text", "calibrate"):
        return False
    return stages[-1] in stages[:-1] and not settings.points[part[1]][0].reads_again
