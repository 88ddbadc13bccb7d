"""Seconds of a run's stages, counted from operations and bytes at the measured speed of the machine."""

import os
import platform
import time
from dataclasses import replace

import pytest

from sparsedash.catalog.model_shape import listed_shape
from sparsedash.catalog.presets import METHODS, method_named
from sparsedash.catalog.resources import MODELS_TOGETHER, TOGETHER_TOKENS, TOKENS_A_PASSAGE
from sparsedash.schema import store_keys
from sparsedash.schema.settings import CalibrationSettings, EvaluationSettings, RunSettings
from sparsedash.service import time_forecast
from sparsedash.service.time_forecast import MachineSpeed, Speeds, counted_seconds
from sparsedash.storage.store import Store

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


def test_every_stage_of_the_first_run_is_counted_and_halves_on_a_machine_twice_as_fast():
    twice = counted(speeds=Speeds(float32=4e11, bfloat16=8e11, disk=2e9))
    assert {stage: 2 * seconds for stage, seconds in twice.items()} == pytest.approx(counted())
    assert twice["evaluate"] > 0


def test_in_bfloat16_text_is_read_at_the_speed_of_such_products_and_solved_in_single_precision():
    half, solving = replace(WRITTEN, dtype="bfloat16"), method_named("obs")
    assert counted(half)["evaluate"] < counted()["evaluate"]
    assert counted(half)["calibrate"] < counted()["calibrate"]
    slower = replace(SPEEDS, float32=1e11)
    for settings in (half, replace(half, methods=(solving,))):
        assert counted(settings, slower)["prune"] > 1.5 * counted(settings)["prune"]
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


def test_passages_that_go_through_a_streamed_model_together_read_it_once():
    n = TOGETHER_TOKENS // TOKENS_A_PASSAGE

    def reading_s(n_passages, alone=True, sparsities=(100, 200)):
        """Without what is computed, which takes as long on any disk."""
        passages = EvaluationSettings(corpus="file:/x.jsonl", n_passages=n_passages, stop_early=alone)
        asked = replace(STREAMED, sparsities_permille=sparsities, evaluation=passages)
        return counted(asked, replace(SPEEDS, disk=1e8))["evaluate"] - counted(asked)["evaluate"]

    assert reading_s(1) == pytest.approx(reading_s(n))
    assert reading_s(n + 1) - reading_s(n) == pytest.approx(reading_s(n) / (time_forecast._FINISHING + 1))
    # So do models that are evaluated side by side, as many as are.
    assert 3 * reading_s(5, alone=False) == pytest.approx(reading_s(5))
    many = tuple(range(100, 900, 100))
    assert MODELS_TOGETHER * reading_s(5, alone=False, sparsities=many) == pytest.approx(reading_s(5))


def test_passages_and_calibration_text_count_in_proportion():
    third, two_thirds = (
        counted(replace(WRITTEN, evaluation=EvaluationSettings(n_passages=n)))["evaluate"] for n in (44, 88)
    )
    # Finishing words takes as many passes of few passages as of many.
    assert two_thirds / 2 < third < counted()["evaluate"]
    assert counted()["evaluate"] - two_thirds == pytest.approx(two_thirds - third)
    half = replace(WRITTEN, calibration=replace(WRITTEN.calibration, n_samples=64))
    assert 2 * counted(half)["calibrate"] == counted()["calibrate"]
    # More passages than there are are not counted.
    assert counted(replace(WRITTEN, evaluation=EvaluationSettings(n_passages=1000))) == counted()


def test_loading_is_bound_by_the_disk():
    slow, fast = (counted(speeds=replace(SPEEDS, disk=disk))["load"] for disk in (1e8, 1e9))
    assert slow > fast > counted(replace(WRITTEN, dtype="bfloat16"))["load"]


def test_only_text_that_the_model_writes_itself_takes_writing():
    assert counted()["text"] == 0.0
    assert counted(RunSettings())["text"] > counted(RunSettings())["calibrate"]


def pruning(name, **changed):
    return counted(replace(WRITTEN, methods=(method_named(name),), **changed))["prune"]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_pruning_by_every_method_is_counted(method):
    assert pruning(method.name) > 0


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
    assert pruning("least-squares") < pruning("least-squares-by-sensitivity") < pruning("obs-by-sensitivity")
    assert pruning("obs-by-sensitivity") < pruning("obs-sequential")
    assert pruning("wanda") < pruning("sparsegpt")


@pytest.mark.parametrize("name", ["retrain-free (published)", "obs-sequential", "wanda"])
def test_a_method_that_reads_the_text_again_takes_longer_with_more_of_it(name):
    twice = replace(WRITTEN.calibration, n_samples=2 * WRITTEN.calibration.n_samples)
    assert 1.1 * pruning(name) < pruning(name, calibration=twice) < 2 * pruning(name)


def test_a_race_takes_the_mean_of_its_methods_for_each_model():
    both = tuple(map(method_named, ("wanda", "sparsegpt")))
    expected = (pruning("wanda") + pruning("sparsegpt")) / 2
    assert counted(replace(WRITTEN, methods=both))["prune"] == pytest.approx(expected)


def test_a_text_of_unknown_size_an_unknown_model_and_an_unmeasured_machine_are_not_counted():
    assert counted(replace(WRITTEN, evaluation=EvaluationSettings(corpus="file:/x.txt")))["evaluate"] is None
    assert set(counted(replace(WRITTEN, model="owner/model")).values()) == {None}
    assert set(counted(speeds=None).values()) == {None}


NAME = store_keys.machine_speed_note(platform.node(), os.cpu_count() or 1)


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "data")
    yield store
    store.close()


@pytest.fixture
def speed(store):
    speed = MachineSpeed(store)
    yield speed
    speed.close()


def measured_by(monkeypatch, folder, speed, script):
    """Let a program of these lines measure, and wait for it."""
    program = folder / "measure"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o700)
    monkeypatch.setattr(time_forecast.sys, "executable", str(program))
    speed.known()
    if speed._measuring is not None:
        speed._measuring.wait(timeout=60)


def test_the_speed_is_known_once_it_was_measured(speed, store, monkeypatch, tmp_path):
    """tests/engine/timing/test_machine_speed.py has the program that measures."""
    measured_by(monkeypatch, tmp_path, speed, """echo '{"float32": 5e9, "bfloat16": 6e9, "disk": 1e8}'""")
    assert speed.known() == Speeds(float32=5e9, bfloat16=6e9, disk=1e8)
    assert MachineSpeed(store).known() == speed.known()
    assert not speed.is_measuring()


@pytest.mark.parametrize(
    "kept",
    [
        "",
        "nan at yesterday",
        "[" * 10_000,
        '{"speeds": {"float32": 5e9, "bfloat16": 0, "disk": 1}, "at": 1}',
        '{"speeds": {"float32": 5e9, "bfloat16": 5e9, "disk": -1}, "at": 1}',
    ],
    ids=["nothing", "words", "deep", "no speed", "no disk"],
)
def test_without_a_note_that_is_a_speed_it_is_measured(kept, speed, store):
    store.remember(NAME, kept)
    assert speed.known() is None
    assert speed.is_measuring()


@pytest.mark.parametrize("age_s", [1.0, 1e9])
def test_an_old_measurement_holds_until_there_is_a_new_one(age_s, speed, store):
    store.remember(NAME, f'{{"speeds": {{"float32": 5e9, "bfloat16": 6e9, "disk": 1e8}}, "at": {time.time() - age_s}}}')
    assert speed.known() == Speeds(float32=5e9, bfloat16=6e9, disk=1e8)
    assert speed.is_measuring() == (age_s > 1e3)


@pytest.mark.parametrize("script", ["false", """echo '{"float32": 0, "bfloat16": 1}'"""], ids=["fails", "no speeds"])
def test_a_measurement_that_fails_is_not_tried_again_and_again(script, speed, monkeypatch, tmp_path):
    measured_by(monkeypatch, tmp_path, speed, script)
    assert speed.known() is speed.known() is None
    assert speed._failed and speed._measuring is None
