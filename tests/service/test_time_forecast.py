"""Seconds of a run's stages, counted from operations and bytes at the measured speed of the
machine.
"""

import os
import platform
import time
from dataclasses import replace

import pytest

from sparsedash.catalog.builtin_tasks import BUILTIN_TASKS
from sparsedash.catalog.cost_model import Speeds
from sparsedash.catalog.model_shape import listed_shape
from sparsedash.catalog.presets import method_named
from sparsedash.catalog.resources import TOGETHER_TOKENS, TOKENS_A_PASSAGE
from sparsedash.schema import store_keys
from sparsedash.schema.errors import JobError
from sparsedash.schema.records import RESUMED
from sparsedash.schema.settings import CalibrationSettings, EvaluationSettings, RunSettings
from sparsedash.service import time_forecast
from sparsedash.service.time_forecast import (
    MachineSpeed,
    counted_seconds,
    expected_seconds,
    healing_steps,
)
from tests.factories import RUN

SPEEDS = Speeds(float32=2e11, bfloat16=4e11, disk=1e9)
WRITTEN = RunSettings(calibration=CalibrationSettings(corpus="builtin:smollm2-text"))


def counted(settings=WRITTEN, speeds=SPEEDS):
    return counted_seconds(settings, speeds, listed_shape(settings.model))


def evaluated(n_passages):
    return replace(
        WRITTEN, evaluation=EvaluationSettings(corpus="file:/x.jsonl", n_passages=n_passages)
    )


def by(name, **changed):
    return replace(WRITTEN, methods=(method_named(name),), **changed)


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
def test_evaluating_the_built_in_model_is_foreseen_within_a_third_of_what_was_measured(
    dtype, tokens_a_second
):
    """`benchmarks/speed.py` on two cores, see docs/results.md."""
    asked = replace(
        WRITTEN, dtype=dtype, evaluation=EvaluationSettings(corpus="file:/x.jsonl", n_passages=200)
    )
    foreseen = (
        200 * TOKENS_A_PASSAGE / counted(asked, Speeds(float32=174e9, bfloat16=404e9))["evaluate"]
    )
    assert foreseen == pytest.approx(tokens_a_second, rel=1 / 3)


def test_built_in_tasks_are_counted_by_their_tokens_and_others_are_not_known():
    def answering(*tasks, limit=None, asked=WRITTEN):
        return counted(
            replace(asked, evaluation=EvaluationSettings(tasks=tasks, task_limit=limit))
        ).get("answer")

    both = answering(*BUILTIN_TASKS)
    n_passages = (
        sum(task.n_questions * task.n_tokens for task in BUILTIN_TASKS.values()) / TOKENS_A_PASSAGE
    )
    assert (
        both
        == pytest.approx(sum(map(answering, BUILTIN_TASKS)))
        == pytest.approx(counted(evaluated(round(n_passages)))["evaluate"], rel=0.3)
    )
    assert answering("builtin:copying", limit=60) == pytest.approx(
        answering("builtin:copying") / 10
    )
    assert answering("builtin:copying", asked=LLAMA) > 100 * answering("builtin:copying", limit=60)
    assert answering() is answering("builtin:copying", "piqa") is None


@pytest.mark.parametrize(
    ("asked", "speeds", "calibrate", "prune", "evaluate"),
    [
        pytest.param(
            LLAMA,
            Speeds(float32=224e9, bfloat16=278e9, disk=1.3e9),
            3196,
            1009,
            2302,
            id="LLaMA-7B",
        ),
        pytest.param(
            GPT_J, Speeds(float32=330e9, bfloat16=330e9, disk=1.3e9), 187, 244, 247, id="GPT-J-6B"
        ),
    ],
)
def test_large_models_are_foreseen_within_a_third_of_what_was_measured(
    asked, speeds, calibrate, prune, evaluate
):
    """`benchmarks/streaming.py` on two cores with 24 GB, see docs/results.md: two sparse models and
    the dense one.
    """
    found = counted(asked, speeds)
    assert found["calibrate"] == pytest.approx(calibrate, rel=1 / 3)
    assert 3 * found["evaluate"] == pytest.approx(evaluate, rel=1 / 3)
    whole = found["calibrate"] + 2 * found["prune"] + 3 * found["evaluate"]
    assert whole == pytest.approx(calibrate + prune + evaluate, rel=1 / 3)


STREAMED = by("best", residency="streamed")
N_AT_ONCE = TOGETHER_TOKENS // TOKENS_A_PASSAGE


def passages(n):
    return replace(
        STREAMED,
        evaluation=EvaluationSettings(corpus="file:/x.jsonl", n_passages=n, stop_early=True),
    )


SLOWER = {
    "streamed weights come from the disk": (
        STREAMED,
        replace(STREAMED, residency="resident"),
        "calibrate",
    ),
    "again for each sparse model": (STREAMED, replace(STREAMED, residency="resident"), "prune"),
    "and for the passages": (STREAMED, replace(STREAMED, residency="resident"), "evaluate"),
    "more passages than go together": (passages(N_AT_ONCE + 1), passages(N_AT_ONCE), "evaluate"),
    "float32": (WRITTEN, replace(WRITTEN, dtype="bfloat16"), "load"),
    "more text": (
        by("best"),
        by("best", calibration=replace(WRITTEN.calibration, n_samples=64)),
        "calibrate",
    ),
    "whole passages": (
        WRITTEN,
        replace(WRITTEN, evaluation=EvaluationSettings(n_passages=88)),
        "evaluate",
    ),
    "curves": (by("least-squares-by-curves"), by("least-squares"), "prune"),
    "inverses": (by("obs"), by("least-squares"), "prune"),
    "walks": (by("best"), by("obs-by-curves"), "prune"),
    "single weights refitted": (by("sparsegpt"), by("wanda"), "prune"),
    "a text that the model writes": (RunSettings(), WRITTEN, "text"),
    **{
        f"text that {name} reads again": (
            by(name),
            by(name, calibration=replace(WRITTEN.calibration, n_samples=64)),
            "prune",
        )
        for name in ("retrain-free (published)", "best", "wanda")
    },
}


@pytest.mark.parametrize(("more", "less", "stage"), SLOWER.values(), ids=SLOWER)
def test_what_does_more_takes_longer(more, less, stage):
    assert counted(more)[stage] > 1.005 * counted(less)[stage]


def test_models_side_by_side_read_streamed_weights_once():
    def reading_s(alone):
        asked = replace(STREAMED, evaluation=replace(passages(5).evaluation, stop_early=alone))
        return counted(asked, replace(SPEEDS, disk=1e8))["evaluate"] - counted(asked)["evaluate"]

    assert 3 * reading_s(alone=False) == pytest.approx(reading_s(alone=True))


def test_stages_halve_on_a_machine_twice_as_fast_each_at_the_speed_of_its_own_products():
    one, twice = (
        counted(by("least-squares"), each)
        for each in (SPEEDS, Speeds(float32=4e11, bfloat16=8e11, disk=2e9))
    )
    # But for making its modules.
    del one["load"], twice["load"]
    assert {stage: 2 * seconds for stage, seconds in twice.items()} == pytest.approx(one)
    for settings in (replace(WRITTEN, dtype="bfloat16"), by("obs", dtype="bfloat16")):
        slower = counted(settings, replace(SPEEDS, float32=1e11))["prune"]
        assert slower > 1.4 * counted(settings)["prune"], "solved in single precision"
    assert counted(speeds=replace(SPEEDS, bfloat16=8e11)) == counted()
    # A disk that could not be measured is a usual one.
    assert counted(STREAMED, replace(SPEEDS, disk=0.0)) == counted(
        STREAMED, replace(SPEEDS, disk=1e9)
    )


@pytest.mark.parametrize(
    ("name", "is_read"), [("least-squares", False), ("wanda", False), ("best", True)]
)
def test_in_one_walk_nothing_is_read_for_the_calibration_text(name, is_read):
    streamed = by(name, residency="streamed")
    one, other = (counted(streamed, replace(SPEEDS, disk=disk)) for disk in (1e8, 1e7))
    assert (one["calibrate"] < other["calibrate"]) == is_read
    apart = replace(streamed, evaluation=replace(streamed.evaluation, stop_early=True))
    assert counted(apart)["calibrate"] > counted(apart, replace(SPEEDS, disk=1e12))["calibrate"]


def test_where_too_little_is_read_for_second_moments_none_are_counted():
    def asked(n_samples, name="wanda-channels"):
        text = CalibrationSettings(corpus="file:/y.jsonl", n_samples=n_samples, length=512)
        return counted(by(name, model="huggyllama/llama-7b", calibration=text))

    few, many = asked(8), asked(88)
    # One token takes less, too: nothing is summed up but squares.
    assert few["calibrate"] / 8 < 0.9 * many["calibrate"] / 88
    assert few["prune"] < many["prune"] < asked(8, "least-squares")["prune"]
    # Without any text there are none either.
    assert asked(88, "random")["prune"] == few["prune"]


def test_of_several_methods_it_is_the_mean_and_what_is_not_known_is_not_counted():
    both = replace(WRITTEN, methods=tuple(map(method_named, ("wanda", "sparsegpt"))))
    expected = (counted(by("wanda"))["prune"] + counted(by("sparsegpt"))["prune"]) / 2
    assert counted(both)["prune"] == pytest.approx(expected)
    assert counted()["text"] == 0.0
    assert (
        counted(replace(WRITTEN, evaluation=EvaluationSettings(corpus="file:/x.txt")))["evaluate"]
        is None
    )
    assert set(counted(replace(WRITTEN, model="owner/model")).values()) == {None}
    assert set(counted(speeds=None).values()) == {None}


HEALED = by("best").healed(48)


def healed_run(took, cached=()):
    """A finished run of two healed models at 48 steps, and of two unhealed ones."""
    return replace(RUN, settings=HEALED, finished=True, seconds={"heal": took}, cached=cached)


def test_minutes_become_steps_by_what_healing_took_here_else_by_the_machine():
    shape, minutes = listed_shape(WRITTEN.model), 5
    counted_steps = healing_steps(minutes, WRITTEN, [], SPEEDS, shape)
    assert (
        8
        <= counted_steps
        < healing_steps(minutes, WRITTEN, [], replace(SPEEDS, float32=4e11), shape)
    )
    assert counted_steps % 8 == 0 and healing_steps(0.01, WRITTEN, [], SPEEDS, shape) == 8
    assert healing_steps(minutes, WRITTEN, [healed_run(2 * 48 * 2.9)], SPEEDS, shape) == 104
    assert (
        healing_steps(
            minutes, WRITTEN, [healed_run(1.0, ("evaluation, 20 % sparse",))], SPEEDS, shape
        )
        == counted_steps
    )
    assert (
        healing_steps(minutes, WRITTEN, [healed_run(1.0, (RESUMED,))], SPEEDS, shape)
        == counted_steps
    )
    for speeds, known, missing in ((None, shape, "speed"), (SPEEDS, None, "sizes")):
        with pytest.raises(JobError, match=missing):
            healing_steps(minutes, WRITTEN, [], speeds, known)


def test_healing_is_foreseen_for_the_healed_models_alone():
    def seconds(asked, runs=(), speeds=SPEEDS):
        return expected_seconds(asked, runs, lambda key: None, speeds, listed_shape(asked.model))[0]

    assert "heal" not in seconds(by("best"))
    assert seconds(HEALED)["heal"] == pytest.approx(seconds(by("best").healed(24))["heal"] * 2)
    assert seconds(HEALED, [healed_run(2 * 48 * 3.0)])["heal"] == 144
    assert seconds(HEALED, speeds=None)["heal"] is None


def test_a_run_whose_tasks_have_all_failed_says_nothing_of_the_next_one():
    asked = replace(WRITTEN, evaluation=EvaluationSettings(tasks=("piqa",)))
    run = replace(
        RUN, settings=asked, finished=True, seconds={"answer": 5.0}, answers={}, cached=()
    )
    assert expected_seconds(asked, [run], lambda key: None)[0]["answer"] is None


def test_quantising_is_foreseen_by_what_it_took_here_and_is_no_part_of_pruning():
    quantised = replace(by("best"), quantise=("q8_0",))
    run = replace(
        RUN, settings=quantised, finished=True, seconds={"prune": 8.0, "quantise": 30.0}, cached=()
    )
    n_pruned = len(quantised.sparsities_permille)
    for asked in (quantised, replace(by("best"), quantise=("q4_0",))):
        found = expected_seconds(asked, [run], lambda key: None)[0]
        assert (found["prune"], found["quantise"]) == (8.0 / n_pruned, 30.0 / (n_pruned + 1))
    other = replace(run, cached=("evaluation, 20 % sparse, Q8_0",))
    assert expected_seconds(quantised, [other], lambda key: None)[0]["quantise"] is None
    assert counted(quantised)["quantise"] > 0 and "quantise" not in counted(by("best"))


NAME = store_keys.machine_speed_note(platform.node(), os.cpu_count() or 1)
GOOD = '{"float32": 5e9, "bfloat16": 6e9, "disk": 1e8, "at": %s}'
KNOWN = Speeds(float32=5e9, bfloat16=6e9, disk=1e8)


@pytest.fixture
def speed(store):
    speed = MachineSpeed(store)
    yield speed
    speed.close()


@pytest.mark.parametrize(
    ("script", "known"),
    [
        (f"echo '{GOOD % 0}'", KNOWN),
        ("false", None),
        ("""echo '{"float32": 0, "bfloat16": 1}'""", None),
    ],
    ids=["measured", "fails", "no speeds"],
)
def test_the_speed_is_known_once_it_was_measured_and_a_measurement_that_fails_is_not_repeated(
    script, known, speed, store, tmp_path, monkeypatch
):
    """tests/engine/comparison/test_machine_rates.py has the program that measures."""
    program = tmp_path / "measure"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o700)
    monkeypatch.setattr(time_forecast.sys, "executable", str(program))
    assert speed.known() is None
    measuring = speed._measuring
    measuring.wait(timeout=60)
    assert speed.known() == speed.known() == known
    assert speed._measuring is (None if known else measuring) and not speed.is_measuring()


@pytest.mark.parametrize(
    ("note", "known", "measures"),
    [
        pytest.param("busy", True, False, id="old, while jobs run"),
        pytest.param("nan at yesterday", False, True, id="words"),
        pytest.param(
            '{"float32": 5e9, "bfloat16": 0, "disk": 1, "at": 1}', False, True, id="no speed"
        ),
        pytest.param(GOOD % (time.time() + 1e6), True, True, id="of the future"),
        pytest.param(GOOD % 1, True, True, id="old, until there is a new one"),
        pytest.param(GOOD % "NOW", True, False, id="new"),
    ],
)
def test_what_was_measured_holds_for_a_while(note, known, measures, speed, store, monkeypatch):
    monkeypatch.setattr(time_forecast.sys, "executable", "true")
    if note == "busy":
        speed._busy, note = (lambda: True), GOOD % 1
    store.remember(NAME, note.replace("NOW", str(time.time())))
    assert speed.known() == (KNOWN if known else None)
    assert (speed._measuring is not None) == measures
