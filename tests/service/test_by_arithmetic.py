"""Seconds of the stages counted from the speed of the machine: in proportion to what is asked for."""

from dataclasses import replace

import pytest

from sparsedash.catalog.memory import dimensions_of
from sparsedash.catalog.presets import METHODS, method_named
from sparsedash.schema.settings import CalibrationSettings, EvaluationSettings, RunSettings
from sparsedash.service.by_arithmetic import seconds_by_arithmetic

SPEED = 2e11
WRITTEN = RunSettings(calibration=CalibrationSettings(corpus="builtin:smollm2-text"))


def counted(settings=WRITTEN, speed=SPEED):
    return seconds_by_arithmetic(settings, speed, dimensions_of(settings.model))


def test_every_stage_of_the_first_run_can_be_counted():
    assert all(seconds is not None for seconds in counted().values())


def test_a_machine_twice_as_fast_takes_half_as_long():
    for stage in ("calibrate", "evaluate"):
        assert 2 * counted(speed=2 * SPEED)[stage] == counted()[stage]
    # What is read from the store does not come faster.
    assert counted()["prune"] / 2 < counted(speed=2 * SPEED)["prune"] < counted()["prune"]


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


def pruning(name, **changed):
    return counted(replace(WRITTEN, methods=(method_named(name),), **changed))["prune"]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_pruning_by_every_method_can_be_counted(method):
    assert pruning(method.name) > 0


def test_what_a_method_does_more_takes_longer():
    assert pruning("least-squares") < pruning("least-squares-by-sensitivity") < pruning("obs-by-sensitivity")
    assert pruning("obs-by-sensitivity") < pruning("obs-sequential")
    assert pruning("wanda") < pruning("sparsegpt")


@pytest.mark.parametrize("name", ["retrain-free (published)", "obs-sequential", "wanda"])
def test_what_reads_the_text_again_grows_with_it(name):
    twice = replace(WRITTEN.calibration, n_samples=2 * WRITTEN.calibration.n_samples)
    assert 1.1 * pruning(name) < pruning(name, calibration=twice) < 2 * pruning(name)


def test_a_race_takes_the_mean_of_its_methods_for_each_model():
    both = tuple(map(method_named, ("wanda", "sparsegpt")))
    expected = (pruning("wanda") + pruning("sparsegpt")) / 2
    assert counted(replace(WRITTEN, methods=both))["prune"] == pytest.approx(expected)


def test_what_no_formula_tells_is_not_known():
    assert counted(replace(WRITTEN, evaluation=EvaluationSettings(corpus="file:/x.txt")))["evaluate"] is None
    assert set(counted(replace(WRITTEN, model="owner/model")).values()) == {None}
    assert set(counted(speed=None).values()) == {None}
