"""Seconds of a run's stages, counted from operations and bytes at the measured speed of the machine."""

import os
import platform
import time
from dataclasses import replace

import pytest

from sparsedash.catalog.model_shape import listed_shape
from sparsedash.catalog.presets import method_named
from sparsedash.catalog.resources import MODELS_TOGETHER, TOGETHER_TOKENS, TOKENS_A_PASSAGE
from sparsedash.schema import store_keys
from sparsedash.schema.settings import CalibrationSettings, EvaluationSettings, RunSettings
from sparsedash.service import time_forecast
from sparsedash.service.time_forecast import MachineSpeed, Speeds, counted_seconds

SPEEDS = Speeds(float32=2e11, bfloat16=4e11, disk=1e9)
WRITTEN = RunSettings(calibration=CalibrationSettings(corpus="builtin:smollm2-text"))
STREAMED = replace(WRITTEN, residency="streamed")


def counted(settings=WRITTEN, speeds=SPEEDS):
    return counted_seconds(settings, speeds, listed_shape(settings.model))


def large(model, method, n_samples, length, n_passages):
    return RunSettings(
        model=model,
        dtype="bfloat16",
        methods=(method_named(method),),
        sparsities_permille=(100, 200),
        calibration=CalibrationSettings(corpus="file:/y.jsonl", n_samples=n_samples, length=length),
        evaluation=EvaluationSettings(corpus="file:/x.jsonl", n_passages=n_passages),
        residency="streamed",
    )


LLAMA = large("huggyllama/llama-7b", "least-squares", 88, 512, 100)
GPT_J = large("EleutherAI/gpt-j-6b", "wanda-channels", 16, 256, 10)


@pytest.mark.parametrize(("dtype", "tokens_a_second"), [("float32", 627), ("bfloat16", 982)])
def test_evaluating_the_built_in_model_is_foreseen_within_a_third_of_what_was_measured(dtype, tokens_a_second):
    """`benchmarks/speed.py` on two cores, see docs/results.md."""
    asked = replace(WRITTEN, dtype=dtype, evaluation=EvaluationSettings(corpus="file:/x.jsonl", n_passages=200))
    foreseen = 200 * TOKENS_A_PASSAGE / counted(asked, Speeds(float32=174e9, bfloat16=404e9))["evaluate"]
    assert foreseen == pytest.approx(tokens_a_second, rel=1 / 3)


@pytest.mark.parametrize(
    ("asked", "speeds", "calibrate", "prune", "evaluate"),
    [
        pytest.param(LLAMA, Speeds(float32=224e9, bfloat16=278e9, disk=1.3e9), 3196, 1009, 2302, id="LLaMA-7B"),
        pytest.param(GPT_J, Speeds(float32=330e9, bfloat16=330e9, disk=1.3e9), 187, 244, 247, id="GPT-J-6B"),
    ],
)
def test_large_models_are_foreseen_within_a_third_of_what_was_measured(asked, speeds, calibrate, prune, evaluate):
    """`benchmarks/streaming.py` on two cores with 24 GB, see docs/results.md: two sparse models and the dense one."""
    found = counted(asked, speeds)
    assert found["calibrate"] == pytest.approx(calibrate, rel=1 / 3)
    assert 3 * found["evaluate"] == pytest.approx(evaluate, rel=1 / 3)
    whole = found["calibrate"] + 2 * found["prune"] + 3 * found["evaluate"]
    assert whole == pytest.approx(calibrate + prune + evaluate, rel=1 / 3)


def test_stages_halve_on_a_machine_twice_as_fast_each_at_the_speed_of_its_own_products():
    twice = counted(speeds=Speeds(float32=4e11, bfloat16=8e11, disk=2e9))
    assert {stage: 2 * seconds for stage, seconds in twice.items()} == pytest.approx(counted())
    half, slower = replace(WRITTEN, dtype="bfloat16"), replace(SPEEDS, float32=1e11)
    for stage in ("load", "calibrate", "evaluate"):
        assert 0 < counted(half)[stage] < counted()[stage]
    for settings in (half, replace(half, methods=(method_named("obs"),))):
        assert counted(settings, slower)["prune"] > 1.5 * counted(settings)["prune"], "solved in single precision"
    assert counted(speeds=replace(SPEEDS, bfloat16=8e11)) == counted()


def test_streamed_weights_come_from_the_disk_again_and_again():
    for stage in ("calibrate", "prune", "evaluate"):
        streamed = replace(STREAMED, methods=(method_named("best"),))
        assert counted(streamed)[stage] > counted(replace(streamed, residency="resident"))[stage]
    slow, fast = (counted(STREAMED, replace(SPEEDS, disk=disk))["evaluate"] for disk in (1e8, 1e12))
    assert fast < slow
    # A disk that could not be measured is a usual one.
    assert counted(STREAMED, replace(SPEEDS, disk=0.0)) == counted(STREAMED, replace(SPEEDS, disk=1e9))


@pytest.mark.parametrize(("name", "is_read"), [("least-squares", False), ("wanda", False), ("best", True)])
def test_in_one_walk_nothing_is_read_for_the_calibration_text(name, is_read):
    streamed = replace(STREAMED, methods=(method_named(name),))
    one, other = (counted(streamed, replace(SPEEDS, disk=disk)) for disk in (1e8, 1e7))
    assert (one["calibrate"] < other["calibrate"]) == is_read
    apart = replace(streamed, evaluation=replace(streamed.evaluation, stop_early=True))
    assert counted(apart)["calibrate"] > counted(apart, replace(SPEEDS, disk=1e12))["calibrate"]


def test_passages_that_go_through_a_streamed_model_together_read_it_once_as_do_models_side_by_side():
    n, many = TOGETHER_TOKENS // TOKENS_A_PASSAGE, tuple(range(100, 900, 100))

    def reading_s(n_passages, alone=True, sparsities=(100, 200)):
        """Without what is computed, which takes as long on any disk."""
        passages = EvaluationSettings(corpus="file:/x.jsonl", n_passages=n_passages, stop_early=alone)
        asked = replace(STREAMED, sparsities_permille=sparsities, evaluation=passages)
        return counted(asked, replace(SPEEDS, disk=1e8))["evaluate"] - counted(asked)["evaluate"]

    assert reading_s(1) == pytest.approx(reading_s(n)) and reading_s(n + 1) > 1.05 * reading_s(n)
    for together, sparsities in ((3, (100, 200)), (MODELS_TOGETHER, many)):
        assert together * reading_s(5, alone=False, sparsities=sparsities) == pytest.approx(reading_s(5))


def test_passages_and_calibration_text_count_in_proportion():
    def evaluate(n):
        return counted(replace(WRITTEN, evaluation=EvaluationSettings(n_passages=n)))["evaluate"]

    # Finishing words takes as many passes of few passages as of many.
    assert evaluate(88) / 2 < evaluate(44) < evaluate(132)
    assert evaluate(132) - evaluate(88) == pytest.approx(evaluate(88) - evaluate(44))
    assert evaluate(1000) == evaluate(None) == evaluate(132), "there are no more"
    half = replace(WRITTEN, calibration=replace(WRITTEN.calibration, n_samples=64))
    assert 2 * counted(half)["calibrate"] == counted()["calibrate"]


def pruning(name, **changed):
    return counted(replace(WRITTEN, methods=(method_named(name),), **changed))["prune"]


def test_where_too_little_is_read_for_second_moments_none_are_counted():
    def asked(n_samples, name="wanda-channels"):
        text = CalibrationSettings(corpus="file:/y.jsonl", n_samples=n_samples, length=512)
        return counted(replace(WRITTEN, model="huggyllama/llama-7b", methods=(method_named(name),), calibration=text))

    few, many = asked(8), asked(88)
    # One token takes less, too: nothing is summed up but squares.
    assert few["calibrate"] / 8 < 0.9 * many["calibrate"] / 88
    assert few["prune"] < many["prune"] < asked(8, "least-squares")["prune"]
    # Without any text there are none either.
    assert asked(88, "random")["prune"] == few["prune"]


def test_what_a_method_does_more_takes_longer():
    names = ("least-squares", "least-squares-by-sensitivity", "obs-by-sensitivity", "obs-sequential")
    times = list(map(pruning, names))
    assert times == sorted(times) and pruning("wanda") < pruning("sparsegpt")
    both = tuple(map(method_named, ("wanda", "sparsegpt")))
    expected = (pruning("wanda") + pruning("sparsegpt")) / 2
    assert counted(replace(WRITTEN, methods=both))["prune"] == pytest.approx(expected), "of a race the mean"
    assert counted()["text"] == 0.0 < counted(RunSettings())["calibrate"] < counted(RunSettings())["text"]


@pytest.mark.parametrize("name", ["retrain-free (published)", "obs-sequential", "wanda"])
def test_a_method_that_reads_the_text_again_takes_longer_with_more_of_it(name):
    twice = replace(WRITTEN.calibration, n_samples=2 * WRITTEN.calibration.n_samples)
    assert 1.1 * pruning(name) < pruning(name, calibration=twice) < 2 * pruning(name)


def test_a_text_of_unknown_size_an_unknown_model_and_an_unmeasured_machine_are_not_counted():
    assert counted(replace(WRITTEN, evaluation=EvaluationSettings(corpus="file:/x.txt")))["evaluate"] is None
    assert set(counted(replace(WRITTEN, model="owner/model")).values()) == {None}
    assert set(counted(speeds=None).values()) == {None}


NAME = store_keys.machine_speed_note(platform.node(), os.cpu_count() or 1)


@pytest.fixture
def speed(store):
    speed = MachineSpeed(store)
    yield speed
    speed.close()


@pytest.fixture
def measured_by(speed, tmp_path, monkeypatch):
    """Let a program of these lines measure, and wait for it."""

    def measure(script):
        program = tmp_path / "measure"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o700)
        monkeypatch.setattr(time_forecast.sys, "executable", str(program))
        assert speed.known() is None
        speed._measuring.wait(timeout=60)

    return measure


def test_the_speed_is_known_once_it_was_measured(speed, store, measured_by):
    """tests/engine/comparison/test_machine_rates.py has the program that measures."""
    measured_by("""echo '{"float32": 5e9, "bfloat16": 6e9, "disk": 1e8}'""")
    assert speed.known() == MachineSpeed(store).known() == Speeds(float32=5e9, bfloat16=6e9, disk=1e8)
    assert not speed.is_measuring()


@pytest.mark.parametrize("script", ["false", """echo '{"float32": 0, "bfloat16": 1}'"""], ids=["fails", "no speeds"])
def test_a_measurement_that_fails_is_not_tried_again_and_again(script, speed, measured_by):
    measured_by(script)
    before = speed._measuring
    assert speed.known() is speed.known() is None
    assert speed._measuring is before


GOOD = '{"float32": 5e9, "bfloat16": 6e9, "disk": 1e8, "at": %s}'


@pytest.mark.parametrize(
    ("note", "known", "measures"),
    [
        pytest.param("", False, True, id="nothing"),
        pytest.param("nan at yesterday", False, True, id="words"),
        pytest.param("[" * 10_000, False, True, id="deep"),
        pytest.param('{"float32": 5e9, "bfloat16": 0, "disk": 1, "at": 1}', False, True, id="no speed"),
        pytest.param(GOOD % (time.time() + 1e6), True, True, id="of the future"),
        pytest.param(GOOD % 1, True, True, id="old, until there is a new one"),
        pytest.param(GOOD % "NOW", True, False, id="new"),
    ],
)
def test_what_was_measured_holds_for_a_while(note, known, measures, speed, store, monkeypatch):
    monkeypatch.setattr(time_forecast.sys, "executable", "true")
    store.remember(NAME, note.replace("NOW", str(time.time())))
    assert speed.known() == (Speeds(float32=5e9, bfloat16=6e9, disk=1e8) if known else None)
    assert (speed._measuring is not None) == measures
