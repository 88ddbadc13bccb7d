"""How far a run is as a whole: one share that only grows, and one time where it is known."""

from dataclasses import replace

import pytest

from sparsedash.catalog.presets import method_named
from sparsedash.reporting.run_progress import ALMOST, RunPosition, run_progress, stage_progress
from sparsedash.schema.progress import Taken
from sparsedash.schema.settings import CalibrationSettings, EvaluationSettings, RunSettings

RUN = RunSettings(sparsities_permille=(100, 200))
KNOWN = {"start": 8.0, "load": 2.0, "text": 60.0, "calibrate": 30.0, "prune": 4.0, "evaluate": 20.0}
"""8 s for starting, 2 + 20 + 60 + 30, and twice 4 + 20: 168 s in all."""
TAKEN = (
    ("start", None, 8.0),
    ("load", None, 2.0),
    ("evaluate", None, 20.0),
    ("text", 0, 60.0),
    ("calibrate", 0, 30.0),
    ("prune", 0, 4.0),
    ("evaluate", 0, 20.0),
    ("prune", 1, 4.0),
    ("evaluate", 1, 20.0),
)
NOTHING = dict.fromkeys(KNOWN)
STORED = {"calibrated": True, "answered": True}
RESUMED = {"goes_on": True, "answered": True}
TOGETHER = (*TAKEN[:2], *TAKEN[3:6], TAKEN[7], ("evaluate", None, 60.0))
"""Where both sparse models are evaluated together with the dense one."""
WALK = (*TAKEN[:2], TAKEN[3], ("walk", 1, 38.0), ("evaluate", None, 60.0))
"""Where both are calibrated for and made in a single pass, while the dense model reads."""
RACE = replace(
    RUN,
    sparsities_permille=(100,),
    calibration=CalibrationSettings(corpus="c4"),
    methods=tuple(map(method_named, ("best", "obs", "least-squares", "random"))),
)
THREE, FOUR = (replace(RUN, sparsities_permille=tuple(range(100, 100 * n + 1, 100))) for n in (3, 4))
SLOW = tuple((stage, point, 2 * seconds) for stage, point, seconds in TAKEN[:4])
PACE = (180 + 20) / (90 + 20)
"""Of a run that took 180 s for what takes 90 s elsewhere; 20 s of earlier runs count beside it."""


def after(taken, **more):
    return RunPosition(taken=tuple(Taken(*each) for each in taken), **more)


def at(index, seconds=0.0, taken=TAKEN, **more):
    """So far, with this many seconds spent in the part of this index."""
    return after([*taken[:index], (*taken[index][:2], seconds)], **more)


CASES = {
    "begun": (RUN, KNOWN, at(0), {"remaining": 168, "share": 0.0}),
    "starting": (RUN, KNOWN, at(0, 5.0), {"remaining": 163, "share": 5 / 168}),
    "overdue": (RUN, KNOWN, at(0, 20.0), {"remaining": 160 + 2}),
    "dense": (RUN, KNOWN, at(2, 5.0), {"remaining": 153, "share": 15 / 168}),
    # Its own rate says 50 s more of the text, not 40.
    "own-rate": (RUN, KNOWN, at(3, 20.0, rest_s=50.0, share=0.3), {"remaining": 128, "share": 50 / 178}),
    "pruning": (RUN, KNOWN, at(5, 1.0), {"remaining": 47, "share": 121 / 168}),
    "almost": (RUN, KNOWN, at(8, 19.0, rest_s=1.0, share=0.95), {"remaining": 1, "share": ALMOST}),
    "last-overdue": (RUN, KNOWN, at(8, 500.0), {"remaining": 50, "share": 648 / 698}),
    "own-texts": (
        RACE,
        KNOWN,
        after([*TAKEN[:3], *TAKEN[4:7], ("calibrate", 1, 10.0)], share=1 / 3, rest_s=20.0),
        {"part": (7, 13), "remaining": 20 + 3 * (4 + 20)},
    ),
    # Answers take the 40 s that the dense model took.
    "half-the-pace": (RUN, KNOWN, after([*SLOW, ("calibrate", 0, 0.0)]), {"remaining": 30 * PACE + 8 * PACE + 80}),
    "unknown": (
        RUN,
        NOTHING,
        at(3, 100.0, share=0.5, rest_s=100.0),
        {"part": (4, 9), "share": 3.5 / 9, "remaining": None, "unmeasured": ("calibrate", "prune")},
    ),
    "first-tells-of-second": (RUN, NOTHING, at(6, 10.0, share=0.5, rest_s=10.0), {"remaining": 10 + 4 + 20}),
    "first-tells-nothing-of-another-method": (
        replace(RACE, methods=RACE.methods[1:3]),
        NOTHING,
        at(6, 10.0, share=0.5, rest_s=10.0),
        {"unmeasured": ("prune",)},
    ),
    "one-stored": (RUN, KNOWN, at(1, 1.0, **STORED, n_stored=1), {"part": (2, 4), "remaining": 1 + 4 + 20}),
    "all-stored": (RUN, KNOWN, at(1, 1.0, **STORED, n_stored=2), {"part": (2, 2), "remaining": 1}),
    "stages-left-out": (
        RUN,
        KNOWN,
        after([*TAKEN[:2], ("prune", 1, 2.0)], **STORED),
        {"part": (3, 4), "remaining": 22},
    ),
    # Killed with half of the calibration done, which is resumed after 10 s of starting and loading.
    "resumed": (
        RUN,
        KNOWN,
        after([*TAKEN[:2], ("calibrate", 0, 0.0)], share=0.5, rest_s=15.0, **RESUMED),
        {"remaining": 15 + 48, "share": 1 - 63 / 168},
    ),
    # The text, the calibration, the dense answers and one model of two are 134 s of 168 s.
    "resumed-late": (RUN, KNOWN, at(0, **RESUMED, calibrated=True, n_stored=1), {"remaining": 34, "share": 134 / 168}),
    "begun-with-stored": (RUN, KNOWN, at(0, **STORED, n_stored=1), {"remaining": 34, "share": 0.0}),
    # The text: evaluations are to come three times.
    "together-text": (RUN, KNOWN, at(2, 50.0, TOGETHER, rest_s=10.0), {"remaining": 10 + 30 + 8 + 60}),
    "together-pruning": (RUN, KNOWN, at(4, 1.0, TOGETHER), {"remaining": 3 + 4 + 60}),
    "together-answering": (RUN, KNOWN, at(6, 15.0, TOGETHER), {"remaining": 45}),
    "together-dense-stored": (RUN, KNOWN, after(TOGETHER[:6], answered=True), {"remaining": 40.4}),
    "together-then-alone": (
        THREE,
        KNOWN | {"evaluate": None},
        after([*TOGETHER[:6], ("evaluate", None, 90.0), ("prune", 2, 4.0)]),
        {"remaining": 30.4},
    ),
    "walk": (RUN, KNOWN, at(3, 9.5, WALK, rest_s=28.5), {"remaining": 28.5 + 60}),
    "walk-by-usual-times": (RUN, KNOWN, at(3, 8.0, WALK), {"remaining": 30 + 60}),
    "walk-answering": (RUN, KNOWN, at(4, 15.0, WALK, calibrated=True), {"remaining": 45}),
    # Answers took as long as was expected: 60 s for three. Of the first three models the last one's part is counted.
    "second-walk": (FOUR, KNOWN, after([*WALK, ("walk", 3, 2.0)], calibrated=True), {"part": (6, 8), "remaining": 46}),
    "text-read-for-every-sparsity": (
        replace(RUN, methods=(method_named("obs-sequential"),)),
        KNOWN,
        after([*TAKEN[:7], ("prune", 1, 1.0), ("calibrate", 1, 3.0)]),
        {"part": (8, 9)},
    ),
    "text-of-a-file": (
        replace(RUN, evaluation=EvaluationSettings(n_passages=10)),
        KNOWN,
        after([*TAKEN[:1], ("load", None, 1.0), ("text", None, 1.0), ("load", None, 1.0)]),
        {"part": (2, 9)},
    ),
    "search-beyond-its-plan": (RUN, KNOWN, after([*TAKEN, ("prune", 5, 1.0)]), {"remaining": 20.5}),
}


@pytest.mark.parametrize("case", CASES)
def test_the_time_left_is_the_sum_of_what_is_still_to_come(case):
    run, expected, now, said = CASES[case]
    found = run_progress(run, expected, now)
    if "remaining" in said:
        assert found.remaining_s == (said["remaining"] and pytest.approx(said["remaining"]))
    if "share" in said:
        assert found.share == pytest.approx(said["share"])
    assert (found.part, found.n_parts) == said.get("part", (found.part, found.n_parts))
    assert found.unmeasured == said.get("unmeasured", ())


def test_a_walk_that_finds_its_statistics_is_expected_to_prune_alone():
    taken = (*TAKEN[:2], ("walk", 1, 1.0))
    assert run_progress(RUN, KNOWN, after(taken, **STORED)).remaining_s == pytest.approx(2 * 4 - 1 + 2 * 20)
    unknown = run_progress(RUN, KNOWN | {"prune": None}, after(taken))
    assert unknown.remaining_s is None and unknown.unmeasured == ("walk",)


@pytest.mark.parametrize("expected", [KNOWN, NOTHING, {**KNOWN, "text": 1.0, "evaluate": 300.0}])
def test_over_a_whole_run_it_only_grows_and_is_never_over_before_the_end(expected):
    shown, shares = 0.0, []
    for where, (_, _, seconds) in enumerate(TAKEN):
        for done in (0.0, 0.3, 0.7, 1.0):
            now = at(where, done * seconds, share=done, rest_s=(1 - done) * seconds if done else None)
            found = run_progress(RUN, expected, now, shown)
            shown = found.share
            shares.append(shown)
            assert found.remaining_s is None or found.remaining_s > 0 or where == len(TAKEN) - 1
    assert shares == sorted(shares) and shares[-1] <= ALMOST
    assert run_progress(RUN, expected, at(0, 4.0), shown=0.4).share == 0.4


@pytest.mark.parametrize(
    ("stage", "share", "part", "shown"),
    [("load", 0.5, 2, 0.375), ("calibrate", 0.0, 2, 0.25), ("continue", 1.0, 4, ALMOST)],
)
def test_the_parts_of_a_prompt_are_counted(stage, share, part, shown):
    found = stage_progress(("start", "load", "read", "continue"), stage, share)
    assert (found.part, found.n_parts, found.remaining_s) == (part, 4, None)
    assert found.share == pytest.approx(shown)
