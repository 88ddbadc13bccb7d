"""Seconds of the stages counted from the speed of the machine: in proportion to what is asked for."""

from dataclasses import replace

import pytest

from sparsedash.catalog.engine_limits import MODELS_TOGETHER, TOGETHER_TOKENS, TOKENS_A_PASSAGE
from sparsedash.catalog.presets import METHODS, method_named
from sparsedash.catalog.resources import dimensions_of
from sparsedash.schema.settings import CalibrationSettings, EvaluationSettings, RunSettings
from sparsedash.service import time_forecast
from sparsedash.service.time_forecast import Speeds, seconds_by_arithmetic

SPEEDS = Speeds(float32=2e11, bfloat16=4e11, disk=1e9)
WRITTEN = RunSettings(calibration=CalibrationSettings(corpus="builtin:smollm2-text"))


def counted(settings=WRITTEN, speeds=SPEEDS):
    return seconds_by_arithmetic(settings, speeds, dimensions_of(settings.model))


@pytest.mark.parametrize(
    ("dtype", "tokens_a_second"), [pytest.param("float32", 627, id="FP32"), pytest.param("bfloat16", 982, id="BF16")]
)
def test_answering_by_the_built_in_model_is_foreseen_within_30_percent_of_what_was_measured(dtype, tokens_a_second):
    """`benchmarks/speed.py` on two cores, see docs/results.md."""
    speeds = Speeds(float32=174e9, bfloat16=404e9)
    asked = replace(WRITTEN, dtype=dtype, evaluation=EvaluationSettings(corpus="file:/x.jsonl", n_passages=200))
    foreseen = 200 * TOKENS_A_PASSAGE / counted(asked, speeds)["evaluate"]
    assert foreseen == pytest.approx(tokens_a_second, rel=0.3)


@pytest.mark.parametrize(
    ("model", "method", "n_samples", "length", "n_passages", "speeds", "measured"),
    [
        pytest.param(
            "huggyllama/llama-7b",
            "least-squares",
            88,
            512,
            100,
            Speeds(float32=224e9, bfloat16=278e9, disk=1.3e9),
            {"calibrate": 3196, "prune": 1009 / 2, "evaluate": 2302 / 3},
            id="a whole run of LLaMA-7B",
        ),
        pytest.param(
            "EleutherAI/gpt-j-6b",
            "wanda-channels",
            16,
            256,
            10,
            Speeds(float32=330e9, bfloat16=330e9, disk=1.3e9),
            {"calibrate": 186.9, "prune": 244.1 / 2, "evaluate": 246.5 / 3},
            id="a handful of passages by GPT-J-6B, which words that go on nearly double",
        ),
    ],
)
def test_large_models_are_foreseen_within_30_percent_of_what_was_measured(
    model, method, n_samples, length, n_passages, speeds, measured, monkeypatch
):
    """`benchmarks/streaming.py` on two cores with 24 GB, see docs/results.md."""
    monkeypatch.setattr(time_forecast, "memory_bytes", lambda: 24 * 2**30)
    asked = RunSettings(
        model=model,
        dtype="bfloat16",
        methods=(method_named(method),),
        calibration=CalibrationSettings(corpus="file:/y.jsonl", n_samples=n_samples, length=length),
        evaluation=EvaluationSettings(corpus="file:/x.jsonl", n_passages=n_passages),
        residency="streamed",
    )
    foreseen = counted(asked, speeds)
    for stage, seconds in measured.items():
        assert foreseen[stage] == pytest.approx(seconds, rel=0.3)


def test_every_stage_of_the_first_run_can_be_counted():
    assert all(seconds is not None for seconds in counted().values())


def test_a_machine_twice_as_fast_takes_half_as_long():
    twice = replace(SPEEDS, float32=4e11, bfloat16=8e11)
    assert 2 * counted(speeds=twice)["calibrate"] == counted()["calibrate"]
    # What is read from the store does not come faster, nor do weights that a few rows are multiplied with.
    for stage in ("prune", "evaluate"):
        assert counted()[stage] / 2 < counted(speeds=twice)[stage] < counted()[stage]


def test_in_bfloat16_text_is_read_at_the_speed_of_such_products_and_solved_in_single_precision():
    half = counted(replace(WRITTEN, dtype="bfloat16"))
    assert half["evaluate"] < counted()["evaluate"]
    assert half["calibrate"] < counted()["calibrate"]
    assert half["prune"] == counted()["prune"]
    faster = replace(SPEEDS, bfloat16=8e11)
    # What a block does beside its products becomes no faster.
    assert half["evaluate"] / 2 < counted(replace(WRITTEN, dtype="bfloat16"), faster)["evaluate"] < half["evaluate"]
    assert counted(speeds=faster) == counted()


def test_weights_that_no_memory_holds_come_from_the_disk_again_and_again(monkeypatch):
    streamed = replace(WRITTEN, residency="streamed", methods=(method_named("best"),))
    assert counted(streamed) == counted(replace(streamed, residency="resident"))
    monkeypatch.setattr(time_forecast, "memory_bytes", lambda: 10**8)
    for stage in ("calibrate", "prune", "evaluate"):
        assert counted(streamed)[stage] > counted(replace(streamed, residency="resident"))[stage]
    slow, fast = (counted(streamed, replace(SPEEDS, disk=disk))["evaluate"] for disk in (1e8, 1e12))
    assert fast < slow
    # Where the disk was not measured, nothing is said of it.
    assert counted(streamed, replace(SPEEDS, disk=0.0)) == counted(replace(streamed, residency="resident"))


def test_in_one_walk_nothing_is_read_for_the_calibration_text(monkeypatch):
    monkeypatch.setattr(time_forecast, "memory_bytes", lambda: 10**8)
    for name, is_read in (("least-squares", False), ("wanda", False), ("best", True)):
        streamed = replace(WRITTEN, residency="streamed", methods=(method_named(name),))
        one, other = (counted(streamed, replace(SPEEDS, disk=disk)) for disk in (1e8, 1e7))
        for stage in ("calibrate", "prune"):
            assert (one[stage] < other[stage]) == is_read
        apart = replace(streamed, evaluation=replace(streamed.evaluation, stop_early=True))
        assert counted(apart, SPEEDS)["calibrate"] > counted(apart, replace(SPEEDS, disk=0.0))["calibrate"]


def test_weights_that_the_system_keeps_beside_a_run_are_not_read_again(monkeypatch):
    """As measured: 13.5 GB in files, in 24 GB."""
    asked = replace(WRITTEN, model="huggyllama/llama-7b", dtype="bfloat16", residency="streamed")
    fast, slow = (replace(SPEEDS, disk=disk) for disk in (1e9, 1e8))
    for n_bytes, is_read_again in ((24 * 2**30, False), (16 * 2**30, True)):
        monkeypatch.setattr(time_forecast, "memory_bytes", lambda n_bytes=n_bytes: n_bytes)
        assert (counted(asked, slow)["evaluate"] > counted(asked, fast)["evaluate"]) == is_read_again


def test_passages_that_go_through_a_model_in_its_files_together_read_them_once(monkeypatch):
    monkeypatch.setattr(time_forecast, "memory_bytes", lambda: 10**8)
    n = TOGETHER_TOKENS // TOKENS_A_PASSAGE

    def reading_s(n_passages, alone=True, sparsities=(100, 200)):
        """Without what is computed, which takes as long on any disk."""
        passages = EvaluationSettings(corpus="file:/x.jsonl", n_passages=n_passages, stop_early=alone)
        asked = replace(WRITTEN, residency="streamed", sparsities_permille=sparsities, evaluation=passages)
        return counted(asked, replace(SPEEDS, disk=1e8))["evaluate"] - counted(asked)["evaluate"]

    assert reading_s(1) == pytest.approx(reading_s(n))
    assert reading_s(n + 1) - reading_s(n) == pytest.approx(reading_s(n) / (time_forecast._FINISHING + 1))
    # So do models that answer side by side, as many as do.
    assert 3 * reading_s(5, alone=False) == pytest.approx(reading_s(5))
    many = tuple(range(100, 900, 100))
    assert MODELS_TOGETHER * reading_s(5, alone=False, sparsities=many) == pytest.approx(reading_s(5))
    # What is kept until words are finished has room for so many passages, of one model as of several.
    assert reading_s(1000, alone=False) > 0.9 * reading_s(1000)


def test_passages_and_calibration_text_count_in_proportion():
    third, two_thirds = (
        counted(replace(WRITTEN, evaluation=EvaluationSettings(n_passages=n)))["evaluate"] for n in (44, 88)
    )
    # Finishing words takes as many passes of few passages as of many.
    assert two_thirds / 2 < third < counted()["evaluate"]
    assert counted()["evaluate"] - two_thirds == pytest.approx(two_thirds - third)
    half = replace(WRITTEN, calibration=replace(WRITTEN.calibration, n_samples=64))
    assert 2 * counted(half)["calibrate"] == counted()["calibrate"]


def test_more_passages_than_there_are_are_not_counted():
    asked = replace(WRITTEN, evaluation=EvaluationSettings(n_passages=1000))
    assert counted(asked) == counted()


def test_loading_is_bound_by_the_disk_and_by_how_fast_files_are_taken_in():
    slow, fast, faster = (counted(speeds=replace(SPEEDS, disk=disk))["load"] for disk in (1e8, 1e9, 1e12))
    assert slow > fast == faster == counted(speeds=replace(SPEEDS, disk=0.0))["load"]
    assert counted(replace(WRITTEN, dtype="bfloat16"))["load"] < fast


def test_only_text_that_the_model_writes_itself_takes_writing():
    assert counted()["text"] == 0.0
    assert counted(RunSettings())["text"] > counted(RunSettings())["calibrate"]


def pruning(name, **changed):
    return counted(replace(WRITTEN, methods=(method_named(name),), **changed))["prune"]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_pruning_by_every_method_can_be_counted(method):
    assert pruning(method.name) > 0


def test_where_too_little_is_read_for_second_moments_none_are_counted():
    def asked(n_samples, name="wanda-channels"):
        text = CalibrationSettings(corpus="file:/y.jsonl", n_samples=n_samples, length=512)
        return counted(replace(WRITTEN, model="huggyllama/llama-7b", methods=(method_named(name),), calibration=text))

    few, many = asked(8), asked(88)
    # One token takes less, too: nothing is summed up but squares.
    assert few["calibrate"] / 8 < 0.8 * many["calibrate"] / 88
    assert few["prune"] < many["prune"] / 5
    # Without any text there are none either.
    assert asked(88, "random")["prune"] == few["prune"]
    assert asked(8, "least-squares")["prune"] > many["prune"] / 2


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
    assert set(counted(speeds=None).values()) == {None}
