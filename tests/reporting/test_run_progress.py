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


def after(taken, **more):
    return RunPosition(taken=tuple(Taken(*each) for each in taken), **more)


def at(index, seconds=0.0, taken=TAKEN, **more):
    """So far, with this many seconds spent in the part of this index."""
    return after([*taken[:index], (*taken[index][:2], seconds)], **more)


def test_methods_on_texts_of_their_own_are_calibrated_for_one_after_another():
    names = ("best", "obs", "least-squares", "random")
    race = replace(
        RUN,
        sparsities_permille=(100,),
        calibration=CalibrationSettings(corpus="c4"),
        methods=tuple(map(method_named, names)),
    )
    taken = (
        *(("start", None, 8.0), ("load", None, 2.0), ("evaluate", None, 20.0)),
        *(("calibrate", 0, 30.0), ("prune", 0, 4.0), ("evaluate", 0, 20.0), ("calibrate", 1, 10.0)),
    )
    now = after(taken, share=1 / 3, rest_s=20.0)
    found = run_progress(race, KNOWN, now)
    assert (found.part, found.n_parts) == (7, 13)
    assert found.remaining_s == pytest.approx(20 + 3 * (4 + 20))


@pytest.mark.parametrize(
    ("where", "more", "remaining_s", "share"),
    [
        (0, {"seconds": 0.0}, 168, 0.0),
        (0, {"seconds": 5.0}, 163, 5 / 168),
        (2, {"seconds": 5.0}, 153, 15 / 168),
        # Its own rate says 50 s more of the text, not 40.
        (3, {"seconds": 20.0, "rest_s": 50.0, "share": 0.3}, 128, 50 / 178),
        (5, {"seconds": 1.0}, 47, 121 / 168),
        (8, {"seconds": 19.0, "rest_s": 1.0, "share": 0.95}, 1, ALMOST),
    ],
)
def test_the_time_left_is_the_sum_of_what_is_still_to_come(where, more, remaining_s, share):
    found = run_progress(RUN, KNOWN, at(where, **more))
    assert found.remaining_s == pytest.approx(remaining_s)
    assert found.share == pytest.approx(share)
    assert found.unmeasured == ()


def test_what_takes_longer_than_expected_is_never_said_to_be_over():
    for seconds in (8.0, 20.0, 300.0):
        found = run_progress(RUN, KNOWN, at(0, seconds))
        assert found.remaining_s == pytest.approx(160 + max(8.0, seconds) * 0.1)
    last = run_progress(RUN, KNOWN, at(8, 500.0))
    assert last.share == pytest.approx(648 / (648 + 50)) and last.remaining_s > 1


def test_a_run_at_half_the_pace_takes_twice_as_long_the_more_so_the_longer_it_ran():
    slow = tuple((stage, point, 2 * seconds) for stage, point, seconds in TAKEN)
    now = after((*slow[:4], ("calibrate", 0, 0.0)))
    # 180 s instead of 90: (180 + 20) / (90 + 20) times as long; answers take the 40 s that the dense model took.
    pace = 200 / 110
    assert run_progress(RUN, KNOWN, now).remaining_s == pytest.approx(30 * pace + 2 * (4 * pace + 40))


def test_without_measurements_parts_are_counted_and_no_time_is_said():
    found = run_progress(RUN, NOTHING, at(3, 100.0, share=0.5, rest_s=100.0))
    assert (found.part, found.n_parts, found.remaining_s) == (4, 9, None)
    assert found.share == pytest.approx(3.5 / 9)
    assert found.unmeasured == ("calibrate", "prune")


def test_what_the_first_sparse_model_took_tells_of_the_second():
    found = run_progress(RUN, NOTHING, at(6, 10.0, share=0.5, rest_s=10.0))
    assert found.remaining_s == pytest.approx(10 + 4 + 20)
    other = replace(RUN, methods=(method_named("obs"), method_named("magnitude")), sparsities_permille=(100,))
    assert run_progress(other, NOTHING, at(6, 10.0, share=0.5, rest_s=10.0)).unmeasured == ("prune",)


STORED = {"calibrated": True, "answered": True}


@pytest.mark.parametrize(
    ("taken", "more", "part", "remaining_s"),
    [
        ((*TAKEN[:1], ("load", None, 1.0)), STORED | {"n_stored": 1}, (2, 4), 1 + 4 + 20),
        ((*TAKEN[:1], ("load", None, 1.0)), STORED | {"n_stored": 2}, (2, 2), 1),
        # Stages that were left out are no parts before it either.
        ((*TAKEN[:2], ("prune", 1, 2.0)), STORED, (3, 4), 2 + 20),
    ],
)
def test_what_is_stored_takes_no_time_and_is_no_part(taken, more, part, remaining_s):
    found = run_progress(RUN, KNOWN, after(taken, **more))
    assert ((found.part, found.n_parts), found.remaining_s) == (part, pytest.approx(remaining_s))


@pytest.mark.parametrize(
    ("taken", "more", "remaining_s"),
    [
        # Killed with half of the calibration done, which is resumed after 10 s of starting and loading.
        ((*TAKEN[:2], ("calibrate", 0, 0.0)), {"share": 0.5, "rest_s": 15.0, "answered": True}, 15 + 2 * (4 + 20)),
        # The text, the calibration, the dense answers and one model of two are 134 s of 168 s.
        ((("start", None, 0.0),), STORED | {"n_stored": 1}, 8 + 2 + 4 + 20),
    ],
)
def test_a_resumed_run_begins_where_an_earlier_attempt_ended(taken, more, remaining_s):
    found = run_progress(RUN, KNOWN, after(taken, goes_on=True, **more))
    assert found.remaining_s == pytest.approx(remaining_s)
    assert found.share == pytest.approx(1 - remaining_s / 168)
    assert len(taken) > 1 or run_progress(RUN, KNOWN, after(taken, **more)).share == 0.0


def test_the_share_never_falls_below_what_was_shown():
    assert run_progress(RUN, KNOWN, at(0, 4.0), shown=0.4).share == 0.4


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
    assert shares == sorted(shares)
    assert shares[-1] <= ALMOST


TOGETHER = (*TAKEN[:2], *TAKEN[3:6], TAKEN[7], ("evaluate", None, 60.0))
"""Where both sparse models are evaluated together with the dense one."""
WALK = (*TAKEN[:2], TAKEN[3], ("walk", 1, 38.0), ("evaluate", None, 60.0))
"""Where both are calibrated for and made in a single pass, while the dense model reads."""


@pytest.mark.parametrize(
    ("taken", "n_taken", "seconds", "more", "remaining_s"),
    [
        # The text: evaluations are to come three times.
        (TOGETHER, 3, 50.0, {"rest_s": 10.0}, 10 + 30 + 2 * 4 + 3 * 20),
        (TOGETHER, 5, 1.0, {}, 3 + 4 + 3 * 20),
        (TOGETHER, 6, 1.0, {}, 3 + 3 * 20),
        (TOGETHER, 7, 15.0, {"rest_s": 45.0}, 45),
        (TOGETHER, 7, 15.0, {}, 45),
        # Not known yet to be a single pass, and expected to take as long either way.
        (WALK, 3, 50.0, {"rest_s": 10.0}, 10 + 30 + 2 * 4 + 3 * 20),
        (WALK, 4, 9.5, {"rest_s": 28.5}, 28.5 + 3 * 20),
        (WALK, 4, 8.0, {}, 30 + 3 * 20),
        (WALK, 5, 15.0, {"rest_s": 45.0}, 45),
        (WALK, 5, 15.0, {"calibrated": True}, 45),
    ],
)
def test_models_evaluated_together_are_all_to_come_until_then(taken, n_taken, seconds, more, remaining_s):
    found = run_progress(RUN, KNOWN, at(n_taken - 1, seconds, taken, **more))
    assert found.remaining_s == pytest.approx(remaining_s)
    assert found.share == pytest.approx(1 - remaining_s / 168, abs=0.01)


def test_what_some_took_side_by_side_tells_of_those_after_them():
    run = replace(RUN, sparsities_permille=(100, 200, 300))
    taken = (*TOGETHER[:6], ("evaluate", None, 90.0), ("prune", 2, 4.0))
    unknown = KNOWN | {"evaluate": None}
    assert run_progress(run, unknown, after(taken)).remaining_s == pytest.approx(30 + 0.4)


def test_a_dense_model_that_is_stored_is_not_waited_for():
    taken = TOGETHER[:6]
    assert run_progress(RUN, KNOWN, after(taken, answered=True)).remaining_s == pytest.approx(2 * 20 + 0.4)


def test_a_walk_that_finds_its_statistics_is_expected_to_prune_alone():
    taken = (*TAKEN[:2], ("walk", 1, 1.0))
    found = run_progress(RUN, KNOWN, after(taken, calibrated=True, answered=True))
    assert found.remaining_s == pytest.approx(2 * 4 - 1 + 2 * 20)
    unknown = run_progress(RUN, KNOWN | {"prune": None}, after(taken))
    assert unknown.remaining_s is None and unknown.unmeasured == ("walk",)


def test_a_second_walk_is_for_the_models_behind_the_first():
    many = replace(RUN, sparsities_permille=(100, 200, 300, 400))
    taken = (*WALK, ("walk", 3, 2.0))
    found = run_progress(many, KNOWN, after(taken, calibrated=True))
    # Answers took as long as was expected: 60 s for three.
    assert found.remaining_s == pytest.approx(2 * 4 - 2 + 2 * 20)
    # Of the first three models the last one's part is counted: 5 of them, then this walk and two that answer.
    assert (found.part, found.n_parts) == (6, 8)


def test_a_method_that_reads_the_text_for_every_sparsity_repeats_nothing():
    asked = replace(RUN, methods=(method_named("obs-sequential"),))
    again = [*TAKEN[:7], ("prune", 1, 1.0), ("calibrate", 1, 3.0)]
    found = run_progress(asked, KNOWN, after(again))
    assert found.part == 8


def test_a_search_may_try_more_sparsities_than_were_planned():
    assert 20 < run_progress(RUN, KNOWN, after([*TAKEN, ("prune", 5, 1.0)])).remaining_s < 24


def test_text_of_a_file_is_read_while_the_model_is_found():
    asked = replace(RUN, evaluation=EvaluationSettings(n_passages=10))
    taken = [("start", None, 8.0), ("load", None, 1.0), ("text", None, 1.0), ("load", None, 1.0)]
    found = run_progress(asked, KNOWN, after(taken))
    assert (found.part, found.n_parts) == (2, 9)


@pytest.mark.parametrize(
    ("stage", "share", "part", "shown"),
    [("start", 0.0, 1, 0.0), ("load", 0.5, 2, 0.375), ("calibrate", 0.0, 2, 0.25), ("continue", 1.0, 4, ALMOST)],
)
def test_the_parts_of_a_prompt_are_counted(stage, share, part, shown):
    found = stage_progress(("start", "load", "read", "continue"), stage, share)
    assert (found.part, found.n_parts, found.remaining_s) == (part, 4, None)
    assert found.share == pytest.approx(shown)
