"""Time of a run: earlier runs of its model here, else the cost model at this machine's speed."""

import json
from dataclasses import replace

import pytest

from sparsedash.catalog.builtin_tasks import BUILTIN_TASKS
from sparsedash.catalog.cost_model import STAGES, Speeds, Workload, shared_pruning_s
from sparsedash.catalog.mixed_text import mixed_documents
from sparsedash.catalog.model_sizes import listed_shape
from sparsedash.catalog.presets import method_named
from sparsedash.catalog.resources import TOGETHER_TOKENS, TOKENS_A_PASSAGE
from sparsedash.schema.errors import JobError
from sparsedash.schema.records import RESUMED
from sparsedash.schema.settings import (
    CalibrationSettings,
    EvaluationSettings,
    RunSettings,
)
from sparsedash.service.estimates import (
    NOTHING_STORED,
    Cached,
    expected_parts,
    healing_steps,
    run_duration,
    run_parts,
    run_workload,
)
from tests.factories import MIXTURE_SHAPE, RUN

SPEEDS = Speeds(float32=2e11, bfloat16=4e11, disk=1e9)
SETTINGS = RunSettings(
    calibration=CalibrationSettings(corpus="builtin:smollm2-text"), prompts=()
)


def described(speeds=SPEEDS, folder="/nowhere"):
    """Describes runs of listed models on a machine of this speed."""
    return lambda settings: run_workload(
        settings, listed_shape(settings.model), speeds, folder
    )


def counted(stage, settings=SETTINGS, speeds=SPEEDS):
    """Seconds of a stage of a whole run."""
    parts = run_parts(settings, described(speeds)(settings))
    return sum(part.seconds for part in parts if part.stage == stage)


def on_passages(n, settings=SETTINGS, **changes):
    evaluation = EvaluationSettings(corpus="lambada", n_passages=n, **changes)
    return replace(settings, evaluation=evaluation)


def by(*names, **changes):
    return replace(SETTINGS, methods=tuple(map(method_named, names)), **changes)


def large(model, method, n_samples, length, n_passages):
    return RunSettings(
        model=model,
        dtype="bfloat16",
        methods=(method_named(method),),
        sparsities_permille=(100, 200),
        calibration=CalibrationSettings(
            corpus="c4", n_samples=n_samples, length=length
        ),
        evaluation=EvaluationSettings(corpus="lambada", n_passages=n_passages),
        residency="streamed",
    )


LLAMA = large("huggyllama/llama-7b", "least-squares", 88, 512, 100)
GPT_J = large("EleutherAI/gpt-j-6b", "wanda-channels", 16, 256, 10)


@pytest.mark.parametrize(
    ("dtype", "tokens_a_second"), [("float32", 627), ("bfloat16", 982)]
)
def test_evaluating_the_built_in_model_is_estimated_within_a_third(
    dtype, tokens_a_second
):
    """`benchmarks/speed.py` on two cores, see docs/results.md."""
    settings = on_passages(200, replace(SETTINGS, dtype=dtype))
    seconds = counted("evaluate", settings, Speeds(float32=174e9, bfloat16=404e9))
    assert 3 * 200 * TOKENS_A_PASSAGE / seconds == pytest.approx(
        tokens_a_second, rel=1 / 3
    )


@pytest.mark.parametrize(
    ("settings", "speeds", "calibrate", "prune", "evaluate"),
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
            GPT_J,
            Speeds(float32=330e9, bfloat16=330e9, disk=1.3e9),
            187,
            244,
            247,
            id="GPT-J-6B",
        ),
    ],
)
def test_large_models_are_estimated_within_a_third(
    settings, speeds, calibrate, prune, evaluate
):
    """`benchmarks/streaming.py` on two cores with 24 GB, see docs/results.md."""
    estimate = {
        stage: counted(stage, settings, speeds) for stage in ("calibrate", "prune")
    }
    dense, *_ = (
        part
        for part in run_parts(settings, described(speeds)(settings))
        if part.stage == "evaluate"
    )
    # When it was measured, losses by kind of text were not.
    estimate["evaluate"] = 3 * dense.seconds
    assert estimate["calibrate"] == pytest.approx(calibrate, rel=1 / 3)
    assert estimate["evaluate"] == pytest.approx(evaluate, rel=1 / 3)
    assert sum(estimate.values()) == pytest.approx(
        calibrate + prune + evaluate, rel=1 / 3
    )


def test_longer_passages_take_longer(tmp_path):
    """The built-in mix has three times the tokens of the cloze passages, a file what it holds."""

    def evaluating(corpus):
        settings = replace(
            SETTINGS, evaluation=EvaluationSettings(corpus=corpus, n_passages=10)
        )
        parts = run_parts(settings, described(folder=tmp_path)(settings))
        return sum(part.seconds for part in parts if part.stage == "evaluate")

    file = tmp_path / "long.jsonl"
    lines = [json.dumps({"text": f"{'word ' * 1000}{i} end"}) for i in range(10)]
    file.write_text("\n".join(lines))
    cloze = evaluating("builtin:cloze")
    longer = evaluating("builtin:mixed") - cloze
    # What does not grow with the passages, as the losses by kind of text, is in none of these.
    more_tokens = (1250 - TOKENS_A_PASSAGE) / (339 - TOKENS_A_PASSAGE)
    assert longer > 0.6 * cloze
    assert evaluating(f"file:{file}") - cloze == pytest.approx(
        more_tokens * longer, rel=0.01
    )


def test_the_built_in_mix_has_no_more_passages_than_texts():
    settings = replace(
        SETTINGS, evaluation=EvaluationSettings(corpus="builtin:mixed", n_passages=5000)
    )
    workload = described()(settings)
    assert workload.n_passages == len(list(mixed_documents()))


STREAMED = by("best", residency="streamed")
MANY_SAMPLES = replace(SETTINGS.calibration, n_samples=256)
N_AT_ONCE = TOGETHER_TOKENS // TOKENS_A_PASSAGE
SLOWER = {
    "streamed weights come from the disk": (
        STREAMED,
        replace(STREAMED, residency="resident"),
        "calibrate",
    ),
    "again for each sparse model": (
        STREAMED,
        replace(STREAMED, residency="resident"),
        "prune",
    ),
    "and for the passages": (
        STREAMED,
        replace(STREAMED, residency="resident"),
        "evaluate",
    ),
    "more passages than go together": (
        on_passages(N_AT_ONCE + 1, STREAMED, stop_early=True),
        on_passages(N_AT_ONCE, STREAMED, stop_early=True),
        "evaluate",
    ),
    "float32": (SETTINGS, replace(SETTINGS, dtype="bfloat16"), "load"),
    "more text": (by("best", calibration=MANY_SAMPLES), by("best"), "calibrate"),
    "curves": (by("least-squares-by-curves"), by("least-squares"), "prune"),
    "inverses": (by("obs"), by("least-squares"), "prune"),
    "single weights refitted": (by("sparsegpt"), by("wanda"), "prune"),
    "a text that the model writes": (RunSettings(), SETTINGS, "text"),
    **{
        f"text that {name} reads again": (
            by(name, calibration=MANY_SAMPLES),
            by(name),
            "prune",
        )
        for name in ("retrain-free (published)", "best", "wanda")
    },
}


@pytest.mark.parametrize(("more", "less", "stage"), SLOWER.values(), ids=SLOWER)
def test_what_does_more_takes_longer(more, less, stage):
    assert counted(stage, more) > 1.005 * counted(stage, less)


def test_models_side_by_side_read_streamed_weights_once():
    def reading_s(stop_early):
        settings = on_passages(5, STREAMED, stop_early=stop_early)
        slow = counted("evaluate", settings, replace(SPEEDS, disk=1e8))
        return slow - counted("evaluate", settings)

    assert 3 * reading_s(stop_early=False) == pytest.approx(reading_s(stop_early=True))


def test_a_model_without_a_cache_reads_its_texts_again_for_every_token():
    settings = replace(SETTINGS, prompts=RunSettings().prompts)
    shape = listed_shape(settings.model)
    whole = replace(shape, structure=replace(shape.structure, plain_cache=False))
    workload = Workload(shape=shape, settings=settings, speeds=SPEEDS, n_passages=100)

    def times_as_long(stage):
        seconds = STAGES[stage].seconds
        spec = settings.points[0]
        return seconds(replace(workload, shape=whole), spec) / seconds(workload, spec)

    # Half of a text on average; half of the passages, for two tokens.
    assert times_as_long("text") > settings.calibration.length / 5
    assert 1.5 < times_as_long("evaluate") < 2
    assert times_as_long("continue") > 1.5


def test_what_all_models_of_a_method_share_is_counted_once():
    two = counted("prune", by("obs"))
    one = counted("prune", by("obs", sparsities_permille=(100,)))
    assert one < two < 1.5 * one
    assert counted("prune", by("obs", "wanda")) == pytest.approx(
        two + counted("prune", by("wanda"))
    )


def test_fewer_experts_of_all_points_are_made_with_the_first():
    methods = (method_named("experts"), method_named("reap"))
    settings = RunSettings(model="m", methods=methods, sparsities_permille=(250, 500))
    workload = Workload(
        shape=MIXTURE_SHAPE, settings=settings, speeds=SPEEDS, n_passages=100
    )

    def pruning(settings):
        parts = run_parts(settings, workload)
        return [part.seconds for part in parts if part.stage == "prune"]

    first, *others = pruning(settings)
    assert others == [0, 0, 0]
    # The dense model reads the text once for all of them.
    alone = [
        pruning(replace(settings, sparsities_permille=(250,), methods=(m,)))
        for m in methods
    ]
    shared = shared_pruning_s(workload, methods[0])
    assert first == pytest.approx(2 * sum(seconds for (seconds,) in alone) - 3 * shared)


@pytest.mark.parametrize("stage", ["calibrate", "prune", "evaluate"])
def test_a_machine_twice_as_fast_halves_every_stage(stage):
    twice = Speeds(float32=4e11, bfloat16=8e11, disk=2e9)
    assert 2 * counted(stage, speeds=twice) == pytest.approx(counted(stage))
    slow_solver = counted(
        "prune", by("obs", dtype="bfloat16"), replace(SPEEDS, float32=1e11)
    )
    assert slow_solver > 1.4 * counted("prune", by("obs", dtype="bfloat16"))


def test_built_in_tasks_are_counted_by_their_tokens():
    def answering(*tasks, limit=None, settings=SETTINGS):
        evaluation = EvaluationSettings(tasks=tasks, task_limit=limit)
        return counted("answer", replace(settings, evaluation=evaluation))

    one_by_one = sum(answering(task) for task in BUILTIN_TASKS)
    assert answering(*BUILTIN_TASKS) == pytest.approx(one_by_one)
    assert answering("builtin:copying", limit=60) == pytest.approx(
        answering("builtin:copying") / 10
    )
    assert answering() == 0


def run_of(settings=SETTINGS, cached=(), busy=False, **seconds):
    """A finished run of two sparse models, 3 s + 32 s + 4 s + 15 s."""
    seconds = {"load": 3.0, "calibrate": 32.0, "prune": 4.0, "evaluate": 15.0} | seconds
    return replace(
        RUN, settings=settings, finished=True, seconds=seconds, cached=cached, busy=busy
    )


def estimated(settings, *runs, stored=NOTHING_STORED, speeds=None, start_s=0.0):
    parts = expected_parts(settings, stored, runs, described(speeds), start_s)
    return run_duration(parts)


MORE_TEXT = replace(SETTINGS, calibration=replace(SETTINGS.calibration, n_samples=256))
PROMPTED = replace(SETTINGS, prompts=("Once",))
HALF = Cached(calibration=True, dense=True, points=(0,), n_sparse=2)
C4 = replace(SETTINGS, calibration=CalibrationSettings(corpus="c4"))
TWO_TEXTS = replace(
    C4, methods=tuple(map(method_named, ("obs-by-curves", "least-squares")))
)
TIMES = {
    "the sum of the earlier run": (SETTINGS, [run_of()], NOTHING_STORED, 54),
    "prompts count with pruning": (
        PROMPTED,
        [run_of(PROMPTED, **{"continue": 6.0})],
        NOTHING_STORED,
        60,
    ),
    "half is stored": (SETTINGS, [run_of()], HALF, 3 + 2 + 5),
    "all is stored": (SETTINGS, [run_of()], replace(HALF, points=(0, 1)), 0),
    "twice the text": (MORE_TEXT, [run_of()], NOTHING_STORED, 54 + 32),
    "twice the passages": (
        on_passages(264),
        [run_of(on_passages(132))],
        NOTHING_STORED,
        54 + 15,
    ),
    "the slowest of the last three": (
        SETTINGS,
        [run_of(load=0.0), run_of(), run_of(load=1.0), run_of(load=99.0)],
        NOTHING_STORED,
        54,
    ),
    "what was cached tells nothing": (
        SETTINGS,
        [run_of(calibrate=0.1, cached=("calibration", "evaluation, dense")), run_of()],
        NOTHING_STORED,
        54,
    ),
    "of another machine's load": (
        SETTINGS,
        [run_of(evaluate=99.0, busy=True), run_of()],
        NOTHING_STORED,
        54,
    ),
    "nor a run that was resumed": (
        SETTINGS,
        [run_of(load=99.0, cached=(RESUMED,)), run_of()],
        NOTHING_STORED,
        54,
    ),
    "nor one in another number format": (
        SETTINGS,
        [run_of(replace(SETTINGS, dtype="bfloat16"), load=99.0), run_of()],
        NOTHING_STORED,
        54,
    ),
}


@pytest.mark.parametrize(
    ("settings", "runs", "stored", "seconds"), TIMES.values(), ids=TIMES
)
def test_a_run_takes_what_its_parts_took_before(settings, runs, stored, seconds):
    duration = estimated(settings, *runs, stored=stored)
    assert duration.total_s == pytest.approx(seconds, rel=0.2)
    assert duration.counted == ()
    start_s = 7 if seconds else 0
    begun = estimated(settings, *runs, stored=stored, start_s=7.0)
    assert begun.total_s == pytest.approx(seconds + start_s, rel=0.2)


@pytest.mark.parametrize("speeds", [None, SPEEDS])
def test_a_method_that_never_ran_is_counted_where_the_speed_is_known(speeds):
    duration = estimated(by("obs"), run_of(), speeds=speeds)
    assert duration.unknown == (() if speeds else ("pruning",))
    assert duration.counted == (("pruning",) if speeds else ())


def test_each_text_that_the_methods_read_is_calibrated_on():
    parts = dict(estimated(TWO_TEXTS, run_of(C4), speeds=SPEEDS).parts)
    assert parts["calibrating"] == pytest.approx(64)


def test_tasks_that_cannot_be_counted_take_as_long_as_the_same_ones_did():
    with_tasks = replace(SETTINGS, evaluation=EvaluationSettings(tasks=("piqa",)))
    answers = {"a": ("b",)}
    before = replace(run_of(with_tasks, answer=30.0), answers=answers)
    assert dict(estimated(with_tasks, before).parts)[
        "answering tasks"
    ] == pytest.approx(30)
    failed = replace(before, answers={})
    fewer = replace(with_tasks, evaluation=replace(with_tasks.evaluation, task_limit=9))
    for settings, run in ((with_tasks, failed), (fewer, before)):
        assert "answering tasks" in estimated(settings, run, speeds=SPEEDS).unknown


def test_nothing_is_estimated_of_a_model_of_unknown_size():
    unknown = estimated(replace(SETTINGS, model="owner/model"), speeds=SPEEDS)
    assert unknown.total_s is None and unknown.parts == (("starting", 0.0),)


def stages(settings, stored=NOTHING_STORED):
    return [part.stage for part in run_parts(settings, None, stored)]


def test_a_quantised_model_is_pruned_and_healed_once_for_all_types():
    quantised = by("best", quantise=("q8_0", "q6_k"))
    parts = stages(quantised)
    assert [parts.count(stage) for stage in ("prune", "quantise", "evaluate")] == [
        2,
        6,
        9,
    ]
    healed = by("best", heal_steps=(0, 8), quantise=("q8_0",))
    plain = tuple(i for i, spec in enumerate(healed.points) if not spec.quantise)
    remaining = stages(healed, Cached(dense=True, points=plain))
    assert [remaining.count(stage) for stage in ("heal", "quantise", "evaluate")] == [
        0,
        5,
        5,
    ]


HEALED = by("best").healed(48)


def test_minutes_become_steps_by_what_healing_took_here_else_by_the_machine():
    def steps(minutes, *runs, speeds=SPEEDS, settings=SETTINGS):
        return healing_steps(minutes, settings, runs, described(speeds))

    by_machine = steps(5)
    assert 8 <= by_machine < steps(5, speeds=replace(SPEEDS, float32=4e11))
    assert by_machine % 8 == 0 and steps(0.01) == 8
    assert steps(5, run_of(HEALED, heal=2 * 48 * 2.9)) == 104
    partial = run_of(HEALED, heal=1.0, cached=("evaluation, 20 % sparse",))
    assert steps(5, partial) == by_machine
    with pytest.raises(JobError, match="speed"):
        steps(5, speeds=None)
    with pytest.raises(JobError, match="sizes"):
        steps(5, settings=replace(SETTINGS, model="owner/model"))
