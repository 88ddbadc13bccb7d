"""How far a job is as a whole: one share that only grows, and one time left that never leaps."""

from dataclasses import replace
from itertools import pairwise
from math import inf

import pytest

from sparsedash.catalog.presets import method_named
from sparsedash.jobs.reporter import Reporter, StopFlag
from sparsedash.reporting.run_progress import ALMOST, JobPosition, job_progress, run_progress
from sparsedash.schema.find_settings import FindSettings, planned_run
from sparsedash.schema.progress import Step, Taken
from sparsedash.schema.settings import CalibrationSettings, RunSettings

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
THREE, FOUR = (
    replace(RUN, sparsities_permille=tuple(range(100, 100 * n + 1, 100))) for n in (3, 4)
)
SLOW = tuple((stage, point, 2 * seconds) for stage, point, seconds in TAKEN[:4])
PACE = (160 + 20) / (80 + 20)
"""Of a run that took 160 s for what takes 80 s elsewhere; 20 s of earlier runs count beside it."""
TEXT_S = (0.05 * 60 + 0.5 * 100) / 0.55
"""Of a text of which half took 50 s where 30 s were expected."""


def after(taken, **more):
    return JobPosition(taken=tuple(Taken(*each) for each in taken), **more)


def at(index, seconds=0.0, taken=TAKEN, **more):
    """So far, with this many seconds spent in the part of this index."""
    return after([*taken[:index], (*taken[index][:2], seconds)], **more)


CASES = {
    "begun": (RUN, KNOWN, at(0), {"remaining": 168, "share": 0.0}),
    "starting": (RUN, KNOWN, at(0, 5.0), {"remaining": 163, "share": 5 / 168}),
    "overdue": (RUN, KNOWN, at(0, 20.0), {"remaining": 160 + 2}),
    "dense": (RUN, KNOWN, at(2, 5.0), {"remaining": 153, "share": 15 / 168}),
    "own-rate": (
        RUN,
        KNOWN,
        at(3, 20.0, rest_s=50.0, share=0.5),
        {"remaining": TEXT_S / 2 + 38 * (40 + TEXT_S) / 100 + 40},
    ),
    "pruning": (RUN, KNOWN, at(5, 1.0), {"remaining": 47, "share": 121 / 168}),
    "almost": (RUN, KNOWN, at(8, 19.0, rest_s=1.0, share=0.95), {"remaining": 1, "share": ALMOST}),
    "last-overdue": (RUN, KNOWN, at(8, 500.0), {"remaining": 50, "share": 648 / 698}),
    "own-texts": (
        RACE,
        KNOWN,
        after([*TAKEN[:3], *TAKEN[4:7], ("calibrate", 1, 10.0)], share=1 / 3, rest_s=20.0),
        {"remaining": 20 + 3 * (4 + 20)},
    ),
    # Answers take the 40 s that the dense model took.
    "half-the-pace": (
        RUN,
        KNOWN,
        after([*SLOW, ("calibrate", 0, 0.0)]),
        {"remaining": 30 * PACE + 8 * PACE + 80},
    ),
    "unknown": (
        RUN,
        NOTHING,
        at(3, 100.0, share=0.5, rest_s=100.0),
        {"remaining": None, "unmeasured": ("calibrate", "prune")},
    ),
    "first-tells-of-second": (
        RUN,
        NOTHING,
        at(6, 10.0, share=0.5, rest_s=10.0),
        {"remaining": 10 + 4 + 20},
    ),
    "first-tells-nothing-of-another-method": (
        replace(RACE, methods=RACE.methods[1:3]),
        NOTHING,
        at(6, 10.0, share=0.5, rest_s=10.0),
        {"unmeasured": ("prune",)},
    ),
    # Its pruning took 100 s, of which most serves both models.
    "first-of-a-method-that-shares": (
        replace(RUN, methods=(method_named("best"),)),
        KNOWN | {"prune": 100.0},
        after([*TAKEN[:5], ("prune", 0, 100.0), ("evaluate", 0, 0.0)]),
        {"remaining": 20 + 0.3 * 100 + 20},
    ),
    "one-stored": (RUN, KNOWN, at(1, 1.0, **STORED, stored={1}), {"remaining": 1 + 4 + 20}),
    "all-stored": (RUN, KNOWN, at(1, 1.0, **STORED, stored={0, 1}), {"remaining": 1}),
    "stages-left-out": (
        RUN,
        KNOWN,
        after([*TAKEN[:2], ("prune", 1, 2.0)], **STORED),
        {"remaining": 22},
    ),
    # Killed with half of the calibration done, which is resumed after 10 s of starting and loading.
    "resumed": (
        RUN,
        KNOWN,
        after([*TAKEN[:2], ("calibrate", 0, 0.0)], share=0.5, rest_s=15.0, **RESUMED),
        {"remaining": 15 + 48, "share": 1 - 63 / 168},
    ),
    # The text, the calibration, the dense answers and one model of two are 134 s of 168 s.
    "resumed-late": (
        RUN,
        KNOWN,
        at(0, **RESUMED, calibrated=True, stored={0}),
        {"remaining": 34, "share": 134 / 168},
    ),
    "resumed-before-healing": (
        replace(RUN, sparsities_permille=(100,)).healed(8),
        KNOWN | {"heal": 50.0},
        at(0, **RESUMED, calibrated=True, stored={0}),
        {"remaining": 34 + 50},
    ),
    "begun-with-stored": (RUN, KNOWN, at(0, **STORED, stored={0}), {"remaining": 34, "share": 0.0}),
    # The text: evaluations are to come three times.
    "together-text": (
        RUN,
        KNOWN,
        at(2, 50.0, TOGETHER, rest_s=10.0, share=5 / 6),
        {"remaining": 10 + 30 + 8 + 60},
    ),
    "together-pruning": (RUN, KNOWN, at(4, 1.0, TOGETHER), {"remaining": 3 + 4 + 60}),
    "together-answering": (RUN, KNOWN, at(6, 15.0, TOGETHER), {"remaining": 45}),
    "together-dense-stored": (RUN, KNOWN, after(TOGETHER[:6], answered=True), {"remaining": 40.4}),
    "together-then-alone": (
        THREE,
        KNOWN | {"evaluate": None},
        after([*TOGETHER[:6], ("evaluate", None, 90.0), ("prune", 2, 4.0)]),
        {"remaining": 30.4},
    ),
    "walk": (RUN, KNOWN, at(3, 9.5, WALK, rest_s=28.5, share=0.25), {"remaining": 28.5 + 60}),
    "walk-by-usual-times": (RUN, KNOWN, at(3, 8.0, WALK), {"remaining": 30 + 60}),
    "walk-answering": (RUN, KNOWN, at(4, 15.0, WALK, calibrated=True), {"remaining": 45}),
    # Answers took as long as was expected: 60 s for three. Of the first three models the last one's
    # part is counted. Machines of a cluster: point 3, then 1, of four.
    "walks-in-any-order": (
        FOUR,
        KNOWN,
        after(
            [*WALK[:3], ("walk", 3, 38.0), ("walk", 1, 1.0)],
            calibrated=True,
            answered=True,
            any_order=True,
        ),
        {"remaining": 3 + 2 * 4 + 4 * 20},
    ),
    "second-walk": (
        FOUR,
        KNOWN,
        after([*WALK, ("walk", 3, 2.0)], calibrated=True),
        {"remaining": 46},
    ),
    # Its step says how long the rest takes; the unhealed model is done.
    "healing": (
        replace(RUN.healed(8), sparsities_permille=(200,)),
        KNOWN | {"heal": 100.0},
        after([*TAKEN[:7], ("prune", 1, 4.0), ("heal", 1, 50.0)], share=0.5, rest_s=50.0),
        {"remaining": 50 + 20},
    ),
    "before-healing": (
        replace(RUN.healed(8), sparsities_permille=(200,)),
        KNOWN | {"heal": 100.0},
        after([*TAKEN[:7], ("prune", 1, 4.0), ("evaluate", 1, 0.0)]),
        {"remaining": 20},
    ),
    # Dense and one sparse model in 8 bits: what these are made of is read in no time.
    "quantising": (
        replace(RUN, sparsities_permille=(200,), quantise=("q8_0",)),
        KNOWN | {"quantise": 30.0},
        after(
            [
                *TAKEN[:3],
                ("prune", 0, 1.0),
                ("quantise", 0, 29.0),
                ("evaluate", 0, 20.0),
                ("prune", 1, 4.0),
            ]
        ),
        {"remaining": 0.4 + 20 + 30 + 20},
    ),
    "search-beyond-its-plan": (RUN, KNOWN, after([*TAKEN, ("prune", 5, 1.0)]), {"remaining": 20.5}),
}


@pytest.mark.parametrize("case", CASES)
def test_the_time_left_is_the_sum_of_what_is_still_to_come(case):
    run, expected, now, said = CASES[case]
    found = run_progress(run, expected, now)
    if "remaining" in said:
        assert (None if found.unmeasured else found.left_s) == (
            said["remaining"] and pytest.approx(said["remaining"])
        )
    if "share" in said:
        assert found.share == pytest.approx(said["share"])
    assert found.unmeasured == said.get("unmeasured", ())


def test_a_walk_that_finds_its_statistics_is_expected_to_prune_alone():
    taken = (*TAKEN[:2], ("walk", 1, 1.0))
    assert run_progress(RUN, KNOWN, after(taken, **STORED)).left_s == pytest.approx(
        2 * 4 - 1 + 2 * 20
    )
    unknown = run_progress(RUN, KNOWN | {"prune": None}, after(taken))
    assert unknown.unmeasured == ("walk",)


def test_writing_prompts_is_never_called_slow_pruning():
    taken = (*TAKEN[:5], ("prune", 0, 8.0), ("continue", 0, 9.0))
    assert run_progress(RUN, KNOWN, after(taken[:6])).slower == ("prune", 2.2)
    assert run_progress(RUN, KNOWN, after(taken)).slower is None


class Recorder:
    """A job table that keeps the last step, and its clock."""

    now, step, at = 0.0, None, 0.0

    def report(self, job, step):
        self.step, self.at = step, self.now

    def wanted(self, job):
        return True

    def clock(self):
        return self.now


LOOK_S = 0.5


def replayed(run, expected, stages, *, calibrated=False):
    """What is seen every half second of these stages: (stage, point, seconds of each of its
    steps).
    """
    table, looks = Recorder(), []
    report = Reporter(table, None, StopFlag(), table.clock)
    for stage, point, steps in stages:
        for number, seconds in enumerate([*steps, 0.0]):
            report(Step(stage, number, len(steps), point=point))
            end = table.now + seconds
            while table.now < end:
                now = replace(
                    JobPosition.of(table.step, table.now - table.at), calibrated=calibrated
                )
                looks.append(run_progress(run, expected, now, looks[-1] if looks else None))
                table.now = min(end, table.now + LOOK_S)
    return looks


def steps(seconds, n=20):
    return [seconds / n] * n


def timeline(pace=1.0, **changed):
    """The stages of RUN, each with the pace from there on and its steps where it has others."""
    for stage, point, seconds in TAKEN:
        name = stage if point is None else f"{stage}{point}"
        pace = changed.get("from_" + name, pace)
        yield (
            stage,
            point,
            changed.get(name, steps(pace * seconds, 1 if stage in ("start", "load") else 20)),
        )


TEN = replace(
    RUN,
    sparsities_permille=(100,),
    calibration=CalibrationSettings(corpus="c4"),
    methods=tuple(
        map(
            method_named,
            (
                *("best", "obs", "least-squares", "flap", "random", "magnitude", "wanda-channels"),
                *("obs-by-curves", "least-squares-by-curves", "sparsegpt"),
            ),
        )
    ),
)
PRUNES = (60, 40, 8, 4, 1, 1, 2, 55, 20, 90)
OF_TEN = {
    ("prune", method): 1.3 * seconds for method, seconds in zip(TEN.methods, PRUNES, strict=True)
}
SEARCH = planned_run(FindSettings(method=method_named("least-squares")))
REPLAYED = {
    "as expected": (RUN, KNOWN, timeline()),
    "fast, then slow": (RUN, KNOWN, timeline(evaluate=steps(5), text0=steps(200))),
    "a slow first batch": (
        RUN,
        KNOWN,
        timeline(evaluate=[12.0, *steps(18)], calibrate0=[15.0, *steps(28)]),
    ),
    "thrice as slow midway": (
        RUN,
        KNOWN,
        timeline(calibrate0=[*steps(15, 10), *steps(45, 10)], from_prune0=3.0),
    ),
    "thrice as slow in the last model": (RUN, KNOWN, timeline(from_prune1=3.0)),
    "half of what it takes was expected": (RUN, KNOWN, timeline(2.0)),
    "twice of what it takes was expected": (RUN, KNOWN, timeline(0.5)),
    "calibrated already": (
        RUN,
        KNOWN,
        [each for each in timeline() if each[0] not in ("text", "calibrate")],
    ),
    "a race of ten": (
        TEN,
        KNOWN | OF_TEN,
        [
            ("start", None, [8.0]),
            ("load", None, [2.0]),
            ("evaluate", None, steps(20)),
            ("calibrate", 0, steps(30)),
            ("calibrate", 1, steps(30)),
            *(
                (stage, point, steps(seconds))
                for point, each in enumerate(PRUNES)
                for stage, seconds in (("prune", each), ("evaluate", 20))
            ),
        ],
    ),
    # Every trial is decided after a quarter of its passages.
    "a search": (
        SEARCH,
        KNOWN,
        [*timeline()][:5]
        + [
            (stage, point, steps(20)[:n])
            for point in range(6)
            for stage, n in (("prune", 4), ("evaluate", 5))
        ],
    ),
}


@pytest.mark.parametrize("case", REPLAYED)
def test_the_time_left_counts_down_without_leaps_and_the_bar_follows(case):
    run, expected, stages = REPLAYED[case]
    looks = replayed(run, expected, stages, calibrated=case == "calibrated already")
    shares, end_s = [look.share for look in looks], looks[-1].elapsed_s
    assert shares == sorted(shares)
    least_s = inf
    for before, look in pairwise(looks):
        due_s = max(2.0, before.left_s - (look.elapsed_s - before.elapsed_s))
        least_s = min(least_s, max(2.0, before.left_s))
        assert look.left_s <= min(1.5 * due_s, 3 * least_s) or look.slower, look
    last_tenth_s = end_s - next(look.elapsed_s for look in looks if look.share >= 0.9)
    assert last_tenth_s <= 0.2 * end_s or any(look.slower for look in looks)


def test_pruning_that_takes_longer_than_expected_is_told_by_its_own_steps():
    run = replace(RUN, methods=(method_named("best"),), sparsities_permille=(200,))
    # 92 s for 20 expected: ten choices of 8 s, then ten refits.
    looks = replayed(
        run, KNOWN | {"prune": 20.0}, timeline(prune0=[*steps(80, 10), *steps(12, 10)], text0=[0.1])
    )
    looks = looks[
        : next(i for i, look in enumerate(looks) if look.elapsed_s >= 172.1)
    ]  # Of RUN's two models the first.
    half = next(look for look in looks if look.elapsed_s >= 60.1 + 40)
    assert half.left_s == pytest.approx(52 + 20, rel=0.25) and half.slower
    before_last = next(look for look in looks if look.elapsed_s >= 60.1 + 92)
    assert before_last.share < 0.95


@pytest.mark.parametrize(
    ("stage", "share", "rest_s", "left_s"),
    [("load", 0.0, None, None), ("calibrate", 0.5, 9.0, None), ("continue", 0.5, 4.0, 4.0)],
)
def test_only_the_last_stage_of_a_prompt_tells_the_time_left(stage, share, rest_s, left_s):
    now = JobPosition(
        taken=[Taken("start", None, 6.0), Taken(stage, None, 4.0)], share=share, rest_s=rest_s
    )
    found = job_progress(("start", "load", "read", "continue"), now)
    assert (found.left_s if not found.unmeasured else None) == left_s and 0 < found.share < 1
