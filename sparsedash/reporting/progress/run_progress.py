"""How far a whole run is: one share and one remaining time for all of its parts. Plain numbers in, plain numbers out.

What a part takes is known from earlier runs, or from what this run has taken for one like it; where neither says
anything, parts are counted instead.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from sparsedash.jobs.job import Taken
from sparsedash.reporting.progress.parts import Part, placed, plan, side_by_side, spent, walked, walks_in
from sparsedash.schema.settings import RunSettings

ALMOST = 0.99
"""The largest share of a run that is not over."""

_BY_RATE = ("text", "calibrate", "walk", "evaluate")
"""Stages that say by themselves how far they are."""
_STILL = 0.1
"""A part that takes longer than was expected is expected to take this share of its time once more."""
_TRUST_S = 20.0
"""Seconds for which it is believed that this run goes as fast as earlier ones, whatever it took so far."""


@dataclass(frozen=True, kw_only=True)
class Now:
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
    settings: RunSettings, expected: Mapping[str, float | None], now: Now, shown: float = 0.0
) -> RunProgress:
    """How far the run is. expected: seconds of each stage, starting the engine included, for one model.

    shown: the share that was shown last, below which it does not fall.
    """
    walks = walks_in(now.taken)
    parts, places = plan(settings, walks), placed(settings, now.taken)
    here = places[-1] if places else 0
    so_far, (n_models, waiting) = spent(now.taken, places), side_by_side(parts, places, now.answered)
    later = [*waiting, *_later(parts, here, now)]
    usually = _usually(settings, parts, expected, walks, now)
    known = _known(settings, parts, usually, _likely(parts, so_far, here, now, n_models))
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


def counted(stages: Sequence[str], stage: str, share: float, shown: float = 0.0) -> RunProgress:
    """How far a job of these stages is, none of which is expected to take any time in particular.

    stage: the present one; another one belongs to the second, which makes the models. share: how far it is.
    """
    at = stages.index(stage) if stage in stages else 1
    far = min(ALMOST, (at + share) / len(stages))
    return RunProgress(share=max(shown, far), part=at + 1, n_parts=len(stages), remaining_s=None)


def _later(parts: Sequence[Part], here: int, now: Now) -> list[int]:
    """The parts that are still to come: not those that are stored, of the last sparse models as many as are."""
    behind = range(here + 1, len(parts))
    points = sorted({point for at in behind if (point := parts[at][1]) is not None and point != parts[here][1]})
    left_out = points[len(points) - now.n_stored :] if now.n_stored else []

    def is_stored(stage: str, point: int | None) -> bool:
        if stage in ("text", "calibrate") and now.calibrated:
            return True
        return point in left_out or (now.answered and (stage, point) == ("evaluate", None))

    return [at for at in behind if not is_stored(*parts[at])]


def _usually(
    settings: RunSettings, parts: Sequence[Part], expected: Mapping[str, float | None], walks: Sequence[int], now: Now
) -> list[float | None]:
    """Seconds that each part is expected to take; those of a walk, of calibrating and pruning its models."""
    inside = walked(settings, walks)

    def usual(part: Part) -> float | None:
        doing = [part[0]]
        if part in inside:
            stages = ("prune",) if now.calibrated else ("calibrate", "prune")
            doing = [stage for stage, _ in inside[part] if stage in stages]
        told = [expected.get(stage) for stage in doing]
        return None if None in told else sum(seconds or 0.0 for seconds in told)

    return [usual(part) for part in parts]


def _known(
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


def _likely(
    parts: Sequence[Part], spent: Mapping[int, float], here: int, now: Now, n_models: Mapping[int, int]
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


def _rest_here(part: Part, spent: float, usual: float | None, now: Now) -> float | None:
    """Of the present part. Its stage's rate says it, but where a part has more than one stage."""
    if now.rest_s is not None and part[0] in _BY_RATE:
        return now.rest_s
    if usual is None:
        return None
    return max(usual - spent, _STILL * max(spent, usual))


def _share_here(part: Part, now: Now) -> float:
    return now.share if part[0] in _BY_RATE else 0.0


def _repeated(settings: RunSettings, taken: Sequence[Taken], part: Part) -> bool:
    """Whether what was written or calibrated before is made again, for a method that reads no text by itself."""
    stages = [each.stage for each in taken]
    if part[0] != "prune" or part[1] is None or stages[-1] not in ("text", "calibrate"):
        return False
    return stages[-1] in stages[:-1] and not settings.points[part[1]][0].reads_again
