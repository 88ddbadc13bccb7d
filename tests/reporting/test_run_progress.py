"""Progress of a job: one share of its parts that only grows, and the time left at its own pace."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from sparsedash.catalog.cost_model import Speeds
from sparsedash.catalog.model_sizes import listed_shape
from sparsedash.catalog.presets import method_named
from sparsedash.reporting.run_progress import ALMOST, job_progress, stage_parts
from sparsedash.schema.find_settings import FindSettings, planned_run
from sparsedash.schema.progress import StageTime, Step
from sparsedash.schema.settings import (
    CalibrationSettings,
    EvaluationSettings,
    RunSettings,
)
from sparsedash.service.estimates import (
    NOTHING_STORED,
    Cached,
    RunPart,
    expected_parts,
    run_workload,
)

SECONDS = {
    "start": 8,
    "load": 2,
    "calibrate": 30,
    "prune": 10,
    "heal": 50,
    "evaluate": 20,
}


def parts_of(*named, basis="measured"):
    return [
        RunPart(
            stage=stage,
            point=point,
            seconds=SECONDS[stage],
            basis=basis,
        )
        for stage, point in named
    ]


DENSE = (("start", None), ("load", None), ("evaluate", None))
FIRST = (("calibrate", 0), ("prune", 0), ("evaluate", 0))
SECOND = (("prune", 1), ("evaluate", 1))
RUN = parts_of(*DENSE, *FIRST, *SECOND)
"""30 s for the dense model, 60 s for the first sparse one, 30 s for the second: 120 s in all."""


def looked_at(taken, parts=RUN, share=0.0, remaining_s=None, **more):
    """Progress after these (stage, point, seconds), the last one at a share of its steps."""
    stage, point, _ = taken[-1]
    step = Step(
        stage,
        round(100 * share),
        100,
        point=point,
        rate=remaining_s and 100 * (1 - share) / remaining_s,
        stage_times=tuple(StageTime(*entry) for entry in taken),
    )
    return job_progress(parts, step, **more)


def expected(*named):
    """Entries that took as long as expected."""
    return [(stage, point, float(SECONDS[stage])) for stage, point in named]


CASES = {
    "begun": ([("start", None, 0.0)], {}, 120, 0.0),
    "half of a stage by its time": ([("start", None, 4.0)], {}, 116, 4 / 120),
    "overdue": ([("start", None, 99.0)], {}, 112.8, 7.2 / 120),
    "by its own rate": (
        expected(*DENSE, ("calibrate", 0)),
        {"share": 0.5, "remaining_s": 90.0},
        90 + 60,
        45 / 120,
    ),
    "too early for its own rate": (
        [*expected(*DENSE), ("calibrate", 0, 1.0)],
        {"share": 0.05, "remaining_s": 900.0},
        0.95 * 30 + 60,
        31.5 / 120,
    ),
    "twice as slow": (
        [
            ("start", None, 8.0),
            ("load", None, 2.0),
            ("evaluate", None, 40.0),
            ("calibrate", 0, 0.0),
        ],
        {},
        # Evaluations at their own pace, the rest at the job's, beside which 20 s count.
        (40 + 20) / (20 + 20) * (30 + 10 + 10) + 2 * 40,
        30 / 120,
    ),
    "text that is read again belongs to pruning": (
        [
            *expected(*DENSE, ("calibrate", 0)),
            ("prune", 0, 1.0),
            ("calibrate", 0, 4.0),
        ],
        {"share": 0.1},
        5 + 20 + 30,
        65 / 120,
    ),
    "dense answers found in the store": (
        expected(*DENSE[:2], *FIRST),
        {"share": 0.5, "remaining_s": 10.0},
        10 + 30,
        70 / 120,
    ),
    "more trials than planned": (
        [*expected(*DENSE, *FIRST, *SECOND), ("prune", 2, 9.0)],
        {},
        2,
        118 / 120,
    ),
    "the last": (expected(*DENSE, *FIRST, *SECOND), {"share": 1.0}, 2, 118 / 120),
}


@pytest.mark.parametrize(
    ("taken", "more", "left_s", "share"),
    CASES.values(),
    ids=CASES,
)
def test_the_bar_fills_part_by_part_and_the_time_left_is_that_of_the_rest(
    taken, more, left_s, share
):
    progress = looked_at(taken, **more)
    assert progress.left_s == pytest.approx(left_s)
    assert progress.share == pytest.approx(share)
    assert progress.unmeasured == ()


def test_one_stage_may_serve_several_models_whose_weights_are_streamed():
    together = [
        *expected(*DENSE[:2], *FIRST[:2]),
        ("prune", 1, 10.0),
        ("evaluate", 1, 0.0),
    ]
    assert looked_at(together).left_s == pytest.approx(60)
    walk = [*expected(*DENSE[:2]), ("walk", 1, 25.0)]
    progress = looked_at(walk, share=0.5, remaining_s=25.0)
    assert progress.left_s == pytest.approx(25 + 60)
    assert progress.share == pytest.approx((10 + 25) / 120)
    assert looked_at([*walk, ("evaluate", None, 0.0)]).share == pytest.approx(60 / 120)


def test_what_an_earlier_attempt_has_done_is_a_part_of_the_bar():
    remaining = parts_of(*DENSE[:2], *SECOND)
    progress = looked_at(
        [("start", None, 0.0)],
        remaining,
        done_before_s=80.0,
    )
    assert (progress.left_s, progress.share) == (40, pytest.approx(80 / 120))


def test_parts_that_were_never_measured_make_the_time_left_a_guess_until_their_rate_is_known():
    guessed = parts_of(
        *DENSE,
        *FIRST,
        *SECOND,
        basis="guessed",
    )
    before = expected(*DENSE, ("calibrate", 0))
    assert looked_at(before, guessed).unmeasured == ("calibrate", "prune")
    assert looked_at(
        before,
        guessed,
        share=0.5,
        remaining_s=9.0,
    ).unmeasured == ("prune",)
    assert looked_at([*before, *expected(("prune", 0))], guessed).unmeasured == (
        "prune",
    )
    assert looked_at(expected(*DENSE, *FIRST), guessed).unmeasured == ()


@pytest.mark.parametrize(
    ("stage", "share", "remaining_s", "left_s"),
    [
        ("load", 0.0, None, None),
        ("calibrate", 0.5, 9.0, None),
        ("continue", 0.5, 4.0, 4.0),
    ],
)
def test_only_the_last_stage_of_a_prompt_tells_the_time_left(
    stage, share, remaining_s, left_s
):
    parts = stage_parts(("start", "load", "read", "continue"))
    stage_times = [("start", None, 6.0), (stage, None, 4.0)]
    progress = looked_at(
        stage_times,
        parts,
        share,
        remaining_s,
    )
    assert (None if progress.unmeasured else progress.left_s) == left_s
    assert 0 < progress.share < ALMOST


RECORDED = json.loads((Path(__file__).parent / "recorded_runs.json").read_text())
"""Jobs of the built-in model on two cores that other work kept busy.

taken: as in Step, at the end. looks: number of the present entry, its seconds so far, seconds since
the last step, done, total, ahead, rate.
"""

ASKED = RunSettings(
    calibration=CalibrationSettings(corpus="builtin:smollm2-text", n_samples=24),
    evaluation=EvaluationSettings(n_passages=20),
)
HEALED = replace(
    ASKED,
    evaluation=EvaluationSettings(
        n_passages=20,
        tasks=("builtin:copying",),
        task_limit=10,
    ),
    sparsities_permille=(200,),
    methods=(method_named("flap"),),
)
SETTINGS = {
    "plain": (replace(ASKED, methods=(method_named("least-squares"),)), NOTHING_STORED),
    "search": (
        planned_run(
            FindSettings(
                method=method_named("least-squares"),
                calibration=replace(ASKED.calibration, n_samples=32),
                evaluation=EvaluationSettings(n_passages=60),
            )
        ),
        NOTHING_STORED,
    ),
    "healed": (
        replace(
            HEALED,
            heal_steps=(0, 1),
            quantise=("q8_0",),
        ),
        Cached(calibration=True),
    ),
}


def described(settings):
    speeds = Speeds(float32=3e10, bfloat16=3e10)
    return run_workload(
        settings,
        listed_shape(settings.model),
        speeds,
        Path("/nowhere"),
    )


@pytest.mark.parametrize("name", SETTINGS)
def test_in_recorded_runs_the_bar_never_goes_back_and_the_time_left_is_about_right(
    name,
):
    settings, stored = SETTINGS[name]
    parts = expected_parts(
        settings,
        stored,
        [],
        described,
    )
    stage_times = [StageTime(*entry) for entry in RECORDED[name]["taken"]]
    whole_s = sum(entry.seconds for entry in stage_times)
    shares = []
    ratios = []
    for number, spent_s, silent_s, done, total, ahead, rate in RECORDED[name]["looks"]:
        present = stage_times[number]._replace(seconds=spent_s)
        so_far = (*stage_times[:number], present)
        step = Step(
            present.stage,
            done,
            total,
            ahead=ahead,
            point=present.point,
            rate=rate,
            stage_times=so_far,
        )
        progress = job_progress(parts, step, silent_s)
        shares.append(progress.share)
        left_s = whole_s - sum(entry.seconds for entry in so_far) - silent_s
        if left_s > 0.1 * whole_s:
            ratios.append(progress.left_s / left_s)
    assert shares == sorted(shares)
    assert 0.5 < sorted(ratios)[len(ratios) // 2] < 2
