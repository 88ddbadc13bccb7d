"""The parts of a run, in the order in which they are done, and which of them a job has spent its time in.

A part is a stage, for the dense model or for one sparse one, or a walk that stands for many of them.
"""

from collections.abc import Sequence

from sparsedash.jobs.job import Taken
from sparsedash.schema.cache_keys import plain_share, shares_read
from sparsedash.schema.settings import SELF, RunSettings

Part = tuple[str, int | None]
"""A stage, and the place of its sparse model among the run's points; None where it is for none, or for all.

The first calibration is for all; another one, on a text of which another share is plain, has its first model's place.
Models that answer side by side do so in the last one's part; a walk has the place of its last model as well.
"""


def plan(settings: RunSettings, walks: Sequence[int] = ()) -> tuple[Part, ...]:
    """All parts of a run where nothing is stored, in their order. walks: of each walk, the place of its last model."""
    parts = _one_after_another(settings)
    for walk, inside in walked(settings, walks).items():
        begin, end = parts.index(inside[0]), parts.index(inside[-1]) + 1
        together = parts[begin:end]
        # Text is there before a walk begins, and answers are whole after it.
        texts, answers = ([part for part in together if part[0] == stage] for stage in ("text", "evaluate"))
        parts[begin:end] = [*texts, walk, *answers]
    return tuple(parts)


def walked(settings: RunSettings, walks: Sequence[int]) -> dict[Part, list[Part]]:
    """Of each walk, the parts from the first to the last of which something is done in it; as in `plan`."""
    parts, found = _one_after_another(settings), dict[Part, list[Part]]()
    begin = parts.index(("evaluate", None))
    for last in walks:
        end = parts.index(("evaluate", last)) + 1
        if begin < end:
            found["walk", last] = parts[begin:end]
            begin = end
    return found


def walks_in(taken: Sequence[Taken]) -> list[int]:
    """The places of the last models of the walks that were begun."""
    return list(dict.fromkeys(each.point for each in taken if each.stage == "walk" and each.point is not None))


def placed(settings: RunSettings, taken: Sequence[Taken]) -> list[int]:
    """Of each entry, the place in the plan of the part that it belongs to; never before that of an earlier entry."""
    order = {part: at for at, part in enumerate(plan(settings, walks_in(taken)))}
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


def spent(taken: Sequence[Taken], places: Sequence[int]) -> dict[int, float]:
    """Seconds spent in each part, by its place."""
    found: dict[int, float] = {}
    for at, each in zip(places, taken, strict=True):
        found[at] = found.get(at, 0.0) + each.seconds
    return found


def side_by_side(parts: Sequence[Part], places: Sequence[int], answered: bool) -> tuple[dict[int, int], list[int]]:
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


def _one_after_another(settings: RunSettings) -> list[Part]:
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
