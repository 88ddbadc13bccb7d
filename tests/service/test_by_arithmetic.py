"""Seconds of the stages counted from the speed of the machine: in proportion to what is asked for."""

from dataclasses import replace

from sparsedash.catalog.memory import dimensions_of
from sparsedash.catalog.presets import method_named
from sparsedash.schema.settings import CalibrationSettings, EvaluationSettings, RunSettings
from sparsedash.service.by_arithmetic import seconds_by_arithmetic

SPEED = 2e11
WRITTEN = RunSettings(calibration=CalibrationSettings(corpus="builtin:smollm2-text"))


def counted(settings=WRITTEN, speed=SPEED):
    return seconds_by_arithmetic(settings, speed, dimensions_of(settings.model))


def test_every_stage_of_the_first_run_can_be_counted():
    assert all(seconds is not None for seconds in counted().values())


def test_a_machine_twice_as_fast_takes_half_as_long():
    for stage in ("calibrate", "prune", "evaluate"):
        assert 2 * counted(speed=2 * SPEED)[stage] == counted()[stage]


def test_passages_and_calibration_text_count_in_proportion():
    half = replace(WRITTEN, evaluation=EvaluationSettings(n_passages=66))
    assert 2 * counted(half)["evaluate"] == counted()["evaluate"]
    half = replace(WRITTEN, calibration=replace(WRITTEN.calibration, n_samples=64))
    assert 2 * counted(half)["calibrate"] == counted()["calibrate"]


def test_more_passages_than_there_are_are_not_counted():
    asked = replace(WRITTEN, evaluation=EvaluationSettings(n_passages=1000))
    assert counted(asked) == counted()


def test_only_text_that_the_model_writes_itself_takes_writing():
    assert counted()["text"] == 0.0
    assert counted(RunSettings())["text"] > counted(RunSettings())["calibrate"]


def test_what_no_formula_tells_is_not_known():
    for name in ("best", "retrain-free (published)", "obs"):
        assert counted(replace(WRITTEN, methods=(method_named(name),)))["prune"] is None
    assert counted(replace(WRITTEN, evaluation=EvaluationSettings(corpus="file:/x.txt")))["evaluate"] is None
    assert set(counted(replace(WRITTEN, model="owner/model")).values()) == {None}
    assert set(counted(speed=None).values()) == {None}
