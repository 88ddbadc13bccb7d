"""Progress of a whole run: one share and one remaining time over all of its parts. Plain numbers in and out.

What a part takes is known from earlier runs, or from what this run has taken for one like it; where neither says
anything, parts are counted instead.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from sparsedash.jobs.job import Taken
from sparsedash.schema.settings import SELF, RunSettings
from sparsedash.schema.store_keys import plain_share, shares_read

Part = tuple[str, int | None]
"""A stage, and the place of its sparse model among the run's points; None where it is for none, or for all.

The first calibration is for all; another one, on a text of which another share is plain, has its first model's place.
Models that answer side by side do so in the last one's part; a walk has the place of its last model as well.
"""


def run_parts(settings: RunSettings, walks: Sequence[int] = ()) -> tuple[Part, ...]:
    """All parts of a run where nothing is stored, in their order. walks: of each walk, the place of its last model."""
    parts = _sequential_parts(settings)
    for walk, inside in parts_in_walks(settings, walks).items():
        begin, end = parts.index(inside[0]), parts.index(inside[-1]) + 1
        together = parts[begin:end]
        # Text is there before a walk begins, and answers are whole after it.
        texts, answers = ([part for part in together if part[0] == stage] for stage in ("text", "evaluate"))
        parts[begin:end] = [*texts, walk, *answers]
    return tuple(parts)


def parts_in_walks(settings: RunSettings, walks: Sequence[int]) -> dict[Part, list[Part]]:
    """Of each walk, the parts from the first to the last of which something is done in it; as in `plan`."""
    parts, found = _sequential_parts(settings), dict[Part, list[Part]]()
    begin = parts.index(("evaluate", None))
    for last in walks:
        end = parts.index(("evaluate", last)) + 1
        if begin < end:
            found["walk", last] = parts[begin:end]
            begin = end
    return found


def walk_ends(taken: Sequence[Taken]) -> list[int]:
    """The places of the last models of the walks that were begun."""
    return list(dict.fromkeys(each.point for each in taken if each.stage == "walk" and each.point is not None))


def part_indices(settings: RunSettings, taken: Sequence[Taken]) -> list[int]:
    """Of each entry, the place in the plan of the part that it belongs to; never before that of an earlier entry."""
    order = {part: at for at, part in enumerate(run_parts(settings, walk_ends(taken)))}
    found: list[int] = []
    for stage, point, _ in taken:
        part: Part = (stage, None if stage in ("start", "load", "text") else point)
        if stage == "calibrate" and part not in order:
            part = (stage, None)
        if stage == "text" and (point is None or part not in order):
            # Text of a file is read while the model is found.
            part = ("load", None)
        before = found[-1] if found else 0
        made = [each.point for each in taken[: len(found)] if each.stage in ("prune", "walk")]
        if stage == "evaluate" and point is None and made:
            # Side by side with the dense model.
            part = (stage, made[-1])
        # What is read again, for one sparse model or because it was lost, is part of pruning that model.
        own = order.get(part, before)
        again = order.get(("prune", point), before)
        found.append(own if own >= before else max(before, again))
    return found


def seconds_by_part(taken: Sequence[Taken], places: Sequence[int]) -> dict[int, float]:
    """Seconds spent in each part, by its place."""
    found: dict[int, float] = {}
    for at, each in zip(places, taken, strict=True):
        found[at] = found.get(at, 0.0) + each.seconds
    return found


def models_by_part(parts: Sequence[Part], places: Sequence[int], answered: bool) -> tuple[dict[int, int], list[int]]:
    """How many models answer in each part that has them answer; and the places of those that wait for others to be
    made before they answer together, the present one not counted.

    answered: whether the dense model has.
    """
    n_models: dict[int, int] = {}
    dense = parts.index(("evaluate", None))
    waiting: list[int] = []
    for at in places:
        stage, point = parts[at]
        if stage == "evaluate":
            n_models.setdefault(at, max(1, len(waiting)))
            waiting = []
            continue
        if at > dense and not n_models and not answered and dense not in waiting:
            waiting.append(dense)
        if stage in ("prune", "walk") and (own := parts.index(("evaluate", point))) not in waiting:
            waiting += range(at + 1, own + 1) if stage == "walk" else [own]
    here = places[-1] if places else 0
    return n_models, [at for at in waiting if at < here]


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


ALMOST = 0.99
"""The largest share of a run that is not over."""

_BY_RATE = ("text", "calibrate", "walk", "evaluate")
"""Stages that say by themselves how far they are."""
_STILL = 0.1
"""A part that takes longer than was expected is expected to take this share of its time once more."""
_TRUST_S = 20.0
"""Seconds for which it is believed that this run goes as fast as earlier ones, whatever it took so far."""


@dataclass(frozen=True, kw_only=True)
class RunPosition:
    """Where a run is. taken: what it has spent where, the last entry being where it is; as Job.taken.

    share: how far the stage is, 0 to 1. rest_s: of the stage, by its own rate; None while that is not known.
    calibrated, answered: whether the calibration and the dense answers are stored already. n_stored: of the sparse
    models behind the present one, those whose answers are. goes_on: whether an earlier attempt has begun the run, so
    that what is stored already is a part of it.
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
    """How far a run is. share: 0 to ALMOST. part: the present one of n_parts, counted from one.

    remaining_s: to the end of the run; None where something that is still to come was never measured.
    unmeasured: these stages. repeated: whether the present stage is done once more for what the store has lost.
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
    """How far the run is. expected: seconds of each stage, starting the engine included, for one model.

    shown: the share that was shown last, below which it does not fall.
    """
    walks = walk_ends(now.taken)
    parts, places = run_parts(settings, walks), part_indices(settings, now.taken)
    here = places[-1] if places else 0
    so_far, (n_models, waiting) = seconds_by_part(now.taken, places), models_by_part(parts, places, now.answered)
    later = [*waiting, *_later(parts, here, now)]
    usually = _expected_seconds(settings, parts, expected, walks, now)
    known = _predicted_seconds(settings, parts, usually, _measured_seconds(parts, so_far, here, now, n_models))
    unmeasured = tuple(dict.fromkeys(parts[at][0] for at in later if known[at] is None))
    of_one = known[here]
    usual = None if of_one is None else of_one * n_models.get(here, 1)
    rest_here = _rest_here(parts[here], so_far.get(here, 0.0), usual, now)
    n_parts = len(so_far.keys() - {here}) + 1 + len(later)
    part = n_parts - len(later)
    share, remaining = (part - 1 + _share_here(parts[here], now)) / n_parts, None
    if rest_here is None:
        unmeasured = (parts[here][0], *unmeasured)
    elif not unmeasured:
        remaining = rest_here + sum(known[at] or 0.0 for at in later)
        done = sum(so_far.values())
        if now.goes_on:
            left_out = set(range(len(parts))) - so_far.keys() - {here, *later}
            before = max(0.0, (usual or 0.0) - so_far.get(here, 0.0) - rest_here)
            done += before + sum(known[at] or 0.0 for at in left_out)
        share = done / (done + remaining) if done + remaining > 0 else 0.0
    return RunProgress(
        share=max(shown, min(ALMOST, share)),
        part=part,
        n_parts=n_parts,
        remaining_s=remaining,
        unmeasured=tuple(dict.fromkeys(unmeasured)),
        repeated=_repeated(settings, now.taken, parts[here]),
    )


def stage_progress(stages: Sequence[str], stage: str, share: float, shown: float = 0.0) -> RunProgress:
    """How far a job of these stages is, none of which is expected to take any time in particular.

    stage: the present one; another one belongs to the second, which makes the models. share: how far it is.
    """
    at = stages.index(stage) if stage in stages else 1
    far = min(ALMOST, (at + share) / len(stages))
    return RunProgress(share=max(shown, far), part=at + 1, n_parts=len(stages), remaining_s=None)


def _later(parts: Sequence[Part], here: int, now: RunPosition) -> list[int]:
    """The parts that are still to come: not those that are stored, of the last sparse models as many as are."""
    behind = range(here + 1, len(parts))
    points = sorted({point for at in behind if (point := parts[at][1]) is not None and point != parts[here][1]})
    left_out = points[len(points) - now.n_stored :] if now.n_stored else []

    def is_stored(stage: str, point: int | None) -> bool:
        if stage in ("text", "calibrate") and now.calibrated:
            return True
        return point in left_out or (now.answered and (stage, point) == ("evaluate", None))

    return [at for at in behind if not is_stored(*parts[at])]


def _expected_seconds(
    settings: RunSettings,
    parts: Sequence[Part],
    expected: Mapping[str, float | None],
    walks: Sequence[int],
    now: RunPosition,
) -> list[float | None]:
    """Seconds that each part is expected to take; those of a walk, of calibrating and pruning its models."""
    inside = parts_in_walks(settings, walks)

    def usual(part: Part) -> float | None:
        doing = [part[0]]
        if part in inside:
            stages = ("prune",) if now.calibrated else ("calibrate", "prune")
            doing = [stage for stage, _ in inside[part] if stage in stages]
        told = [expected.get(stage) for stage in doing]
        return None if None in told else sum(seconds or 0.0 for seconds in told)

    return [usual(part) for part in parts]


def _predicted_seconds(
    settings: RunSettings, parts: Sequence[Part], usually: Sequence[float | None], over: Mapping[int, float]
) -> list[float | None]:
    """Seconds of every part: as this run took for one like it, else as earlier ones did, at the pace of this one.

    over: seconds of the parts that are, by their place.
    """
    # Of a walk that is over it is not known whether it had to calibrate.
    alike = [at for at in over if parts[at][0] != "walk"]
    told = [(over[at], usual) for at in alike if (usual := usually[at]) is not None]
    pace = (sum(took for took, _ in told) + _TRUST_S) / (sum(usual for _, usual in told) + _TRUST_S)
    found: list[float | None] = []
    for part, usual in zip(parts, usually, strict=True):
        like = [seconds for at, seconds in over.items() if _alike(settings, part, parts[at])]
        found.append(fmean(like) if like else None if usual is None else usual * pace)
    return found


def _measured_seconds(
    parts: Sequence[Part], spent: Mapping[int, float], here: int, now: RunPosition, n_models: Mapping[int, int]
) -> dict[int, float]:
    """Seconds of the parts that are over, for one model; and of the present answers, whose rate says what they will
    have taken.
    """
    found = {at: seconds for at, seconds in spent.items() if at < here}
    if parts[here][0] == "evaluate" and now.rest_s is not None:
        found[here] = spent.get(here, 0.0) + now.rest_s
    return {at: seconds / n_models.get(at, 1) for at, seconds in found.items()}


def _alike(settings: RunSettings, part: Part, other: Part) -> bool:
    """Whether two parts take about as long: models answer alike, methods prune each in their own time."""
    if part[0] == "walk":
        return part == other
    if part[0] != other[0]:
        return False
    if part[0] == "prune" and part[1] is not None and other[1] is not None:
        return settings.points[part[1]][0] == settings.points[other[1]][0]
    return True


def _rest_here(part: Part, spent: float, usual: float | None, now: RunPosition) -> float | None:
    """Of the present part. Its stage's rate says it, but where a part has more than one stage."""
    if now.rest_s is not None and part[0] in _BY_RATE:
        return now.rest_s
    if usual is None:
        return None
    return max(usual - spent, _STILL * max(spent, usual))


def _share_here(part: Part, now: RunPosition) -> float:
    return now.share if part[0] in _BY_RATE else 0.0


def _repeated(settings: RunSettings, taken: Sequence[Taken], part: Part) -> bool:
    """Whether what was written or calibrated before is made again, for a method that reads no text by itself."""
    stages = [each.stage for each in taken]
    if part[0] != "prune" or part[1] is None or stages[-1] not in ("text", "calibrate"):
        return False
    return stages[-1] in stages[:-1] and not settings.points[part[1]][0].reads_again
