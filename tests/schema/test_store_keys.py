"""A stage's key changes if and only if a setting matters to the stage; notes have distinct names of
one home.
"""

from dataclasses import asdict, replace
from pathlib import Path

import pytest

from sparsedash.catalog.presets import method_named
from sparsedash.schema import sparse_spec, store_keys
from sparsedash.schema.find_settings import FindSettings
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.settings import (
    CalibrationSettings,
    EvaluationSettings,
    RunSettings,
)
from sparsedash.schema.sparse_spec import DENSE, SparseSpec
from sparsedash.schema.stage_versions import STAGE_VERSIONS
from sparsedash.schema.store_keys import (
    NoteName,
    answers_key,
    calibration_keys,
    curves_key,
    healed_key,
    healed_part,
    outcomes_key,
    pruned_key,
    scheduled_gradients_key,
    scores_key,
    statistics_key,
    text_key,
)
from tests.other_values import OTHER, RANDOM, other_values

MODEL = "m" * 64
CORPUS = "c" * 64
STATISTICS = "s" * 64
OF_TASKS = ("tasks", "task_limit", "task_shots")
USUAL = MethodSettings()
CALIBRATION = CalibrationSettings()
EVALUATION = EvaluationSettings()
WANDA = MethodSettings(pattern="2:4", scope="decoder", compensation="none")


def outcomes(method=USUAL, evaluation=EVALUATION, heal_steps=0, **changes):
    spec = SparseSpec(method, 100, heal_steps)
    return outcomes_key(
        MODEL, "float32", CORPUS, evaluation, spec, STATISTICS, **changes
    )


def dense(evaluation):
    return outcomes_key(MODEL, "float32", CORPUS, evaluation, DENSE, "")


@pytest.mark.parametrize(("name", "value"), other_values(CalibrationSettings))
def test_keys_of_statistics_and_sampled_text_changewith_every_calibration_setting_that_matters(
    name, value
):
    changed = replace(CALIBRATION, **{name: value})
    identity = value if name == "corpus" else CORPUS
    assert statistics_key(MODEL, "float32", identity, changed) != statistics_key(
        MODEL, "float32", CORPUS, CALIBRATION
    )
    key, changed_key = (
        text_key(MODEL, "float32", calibration)
        for calibration in (CALIBRATION, changed)
    )
    assert (key == changed_key) == (name in ("token_weights", "packed"))


@pytest.mark.parametrize(
    ("change", "same"),
    [({"token_weights": "residual"}, {"gradients"}), ({"packed": True}, set())],
)
def test_the_weights_of_tokens_leave_the_gradients_alone_and_packing_changes_all(
    change, same
):
    keys, others = (
        asdict(calibration_keys(MODEL, "float32", CORPUS, calibration))
        for calibration in (CALIBRATION, replace(CALIBRATION, **change))
    )
    assert {name for name in keys if keys[name] == others[name]} == same


@pytest.mark.parametrize(
    ("name", "value"),
    other_values(EvaluationSettings, ["corpus", "stop_early", *OF_TASKS]),
)
def test_an_outcomes_key_changes_with_every_evaluation_setting(name, value):
    assert dense(replace(EVALUATION, **{name: value})) != dense(EVALUATION)


@pytest.mark.parametrize("name", OF_TASKS)
def test_tasks_leave_the_answers_to_passages_alone_and_name_another_run_where_there_are_any(
    name,
):
    changed = replace(EVALUATION, **{name: OTHER[EvaluationSettings][name]})
    assert outcomes(evaluation=changed) == outcomes()
    assert (RunSettings(evaluation=changed).key() == RunSettings().key()) == (
        name != "tasks"
    )
    piqa = replace(EVALUATION, tasks=("piqa",))
    assert (
        RunSettings(evaluation=replace(changed, tasks=("boolq",))).key()
        != RunSettings(evaluation=piqa).key()
    )


def test_a_key_of_answers_changes_with_model_task_and_what_a_method_uses_alone():
    def key(task="t", method=USUAL, model=MODEL):
        return answers_key(model, "float32", task, SparseSpec(method, 100), STATISTICS)

    assert (
        len(
            {
                key(),
                key("u"),
                key(model="n" * 64),
                key(method=RANDOM),
                answers_key(MODEL, "float32", "t", DENSE, ""),
            }
        )
        == 5
    )
    assert key(method=replace(USUAL, seed=1)) == key()


@pytest.mark.parametrize(
    ("name", "value"),
    other_values(MethodSettings, ["seed", "strength", "rounds", "curve_levels"]),
)
def test_an_outcomes_key_changes_with_every_choice_that_least_squares_uses(name, value):
    assert outcomes(replace(USUAL, **{name: value})) != outcomes()


SEQUENTIAL = MethodSettings(compensation="sequential")
FISHER, ROUNDS = (MethodSettings(saliency="fisher", rounds=rounds) for rounds in (1, 6))
MEASURED = MethodSettings(allocation="curves")


@pytest.mark.parametrize(
    ("method", "change", "matters"),
    [
        *[
            (USUAL, {name: OTHER[MethodSettings][name]}, False)
            for name in ("curve_levels", "rounds", "seed")
        ],
        (replace(USUAL, allocation="curves"), {"curve_levels": 8}, True),
        (RANDOM, {"seed": 1}, True),
        (RANDOM, {"damping": 0.5}, False),
        (SEQUENTIAL, {"strength": 1.0}, True),
        (FISHER, {"rounds": 6}, True),
        (FISHER, {"schedule": "cubic"}, False),
        (ROUNDS, {"schedule": "cubic"}, True),
        (WANDA, {"scope": "mlp"}, True),
        (WANDA, {"pattern": "4:8"}, True),
        (WANDA, {"damping": 0.5}, False),
        (WANDA, {"width_multiple": 1, "seed": 3, "strength": 0.1}, False),
        (replace(WANDA, saliency="obs"), {"damping": 0.5}, True),
        (MEASURED, {"damping": 0.5}, True),
        (replace(MEASURED, compensation="none"), {"damping": 0.5}, False),
    ],
)
def test_an_outcomes_key_changes_with_the_parameters_that_its_method_uses_alone(
    method, change, matters
):
    assert (outcomes(replace(method, **change)) != outcomes(method)) == matters


def test_scores_serve_every_budget():
    assert scores_key(STATISTICS, replace(USUAL, budget="bytes")) == scores_key(
        STATISTICS, USUAL
    )


def test_curves_serve_every_budget_and_refit_but_not_another_order():
    usual = method_named("obs-by-curves")
    key = curves_key
    for same in ({"budget": "weights"}, {"compensation": "sequential"}):
        assert key(STATISTICS, replace(usual, **same)) == key(STATISTICS, usual)
    for change in (
        {"saliency": "activation-aware"},
        {"damping": 0.5},
        {"curve_levels": 8},
        {"width_multiple": 64},
    ):
        assert key(STATISTICS, replace(usual, **change)) != key(STATISTICS, usual)


def test_gradients_of_a_schedule_depend_on_what_chooses_the_masks_and_not_on_what_refits():
    def key(method, permille=100, weights="equal"):
        keys = calibration_keys(
            MODEL, "float32", CORPUS, CalibrationSettings(token_weights=weights)
        )
        return scheduled_gradients_key(keys, method, permille)

    usual = replace(ROUNDS, allocation="global")
    for same in (
        {"compensation": "none"},
        {"width_multiple": 1},
        {"damping": 0.5},
        {"seed": 3},
    ):
        assert key(replace(usual, **same)) == key(usual)
    for change in (
        {"rounds": 5},
        {"schedule": "linear"},
        {"allocation": "uniform"},
        {"budget": "bytes"},
    ):
        assert key(replace(usual, **change)) != key(usual)
    assert key(usual, permille=200) != key(usual)
    assert key(usual, weights="residual") == key(usual)


@pytest.mark.parametrize(
    ("stage", "method"),
    [
        ("curves", MethodSettings(allocation="curves", compensation="none")),
        ("pruned", SEQUENTIAL),
        ("solve", USUAL),
        ("elimination", MethodSettings(saliency="obs", compensation="none")),
    ],
)
def test_an_outcomes_key_has_the_versions_of_what_it_rests_on_and_no_others(
    stage, method, monkeypatch
):
    before = outcomes(method), outcomes(RANDOM)
    monkeypatch.setitem(STAGE_VERSIONS, stage, STAGE_VERSIONS[stage] + 1)
    assert outcomes(method) != before[0]
    assert outcomes(RANDOM) == before[1]


def test_channels_drawn_at_random_have_the_version_of_their_draw_and_layers_drawn_at_random_do_not(
    monkeypatch,
):
    layers = method_named("random-layers")
    before = outcomes(RANDOM), outcomes(layers)
    monkeypatch.setitem(STAGE_VERSIONS, "random", STAGE_VERSIONS["random"] + 1)
    assert outcomes(RANDOM) != before[0]
    assert outcomes(layers) == before[1]


def test_another_version_of_the_quantiser_does_not_answer_with_what_an_earlier_one_made(
    monkeypatch,
):
    quantised = SparseSpec(quantise="q6_k")
    plain = SparseSpec(USUAL, 100)
    before = quantised.key, plain.key
    monkeypatch.setattr(sparse_spec, "quantiser_version", lambda: "0.2")
    assert quantised.key != before[0]
    assert plain.key == before[1]


def test_a_healed_model_has_keys_of_its_own_with_the_version_of_healing(monkeypatch):
    healed = [outcomes(heal_steps=n) for n in (8, 16)]
    assert len({outcomes(), *healed}) == 3
    plain = outcomes()
    monkeypatch.setitem(STAGE_VERSIONS, "healed", STAGE_VERSIONS["healed"] + 1)
    assert outcomes() == plain
    assert outcomes(heal_steps=8) != healed[0]
    assert RunSettings().healed(8).key() != RunSettings().key()
    part = healed_part("k", "3")
    assert (healed_key(part), healed_key("k/3")) == ("k", "")


def test_outcomes_keys_tell_model_precision_text_statistics_and_sparsity_apart():
    usual = (MODEL, "float32", CORPUS, EVALUATION, SparseSpec(USUAL, 100), STATISTICS)
    others = (
        "n" * 64,
        "bfloat16",
        "d" * 64,
        EvaluationSettings(n_passages=1),
        DENSE,
        "t" * 64,
    )
    keys = {
        outcomes_key(*usual[:place], value, *usual[place + 1 :])
        for place, value in enumerate(others)
    }
    keys |= {
        outcomes_key(*usual[:4], spec, STATISTICS)
        for spec in (SparseSpec(USUAL, 200), SparseSpec(quantise="q8_0"))
    }
    assert len(keys | {outcomes_key(*usual)}) == 9


def test_only_the_key_of_a_sparse_model_that_stops_early_knows_of_it_and_of_how_many_there_are():
    early = EvaluationSettings(stop_early=True)
    assert dense(early) == dense(EVALUATION)
    assert outcomes(n_sparse=3) == outcomes()
    assert (
        len(
            {
                outcomes(),
                outcomes(evaluation=early),
                outcomes(evaluation=early, n_sparse=3),
            }
        )
        == 3
    )


def test_the_keys_are_those_that_results_are_already_kept_under():
    """Raise a stage's version to change one; anything else that changes them loses what people have
    computed.
    """
    keys = {
        "text": text_key(MODEL, "float32", CALIBRATION),
        **asdict(calibration_keys(MODEL, "float32", CORPUS, CALIBRATION)),
        "pruned": pruned_key(STATISTICS, SparseSpec(SEQUENTIAL, 100)),
        "dense": dense(EVALUATION),
        "best": outcomes(method_named("best")),
        "published": outcomes(
            method_named("retrain-free (published)"),
            EvaluationSettings(rule="published"),
        ),
        "run": RunSettings().key(),
    }
    assert {name: key[:8] for name, key in keys.items()} == KEPT


@pytest.mark.parametrize("asked", [RunSettings(), FindSettings()])
def test_a_request_is_another_one_once_a_stage_has_another_version(asked, monkeypatch):
    before = asked.key()
    monkeypatch.setitem(STAGE_VERSIONS, "outcomes", 99)
    assert asked.key() != before


KEPT = {
    "text": "7b6b8fd3",
    "statistics": "0ce7349f",
    "inputs": "19f700eb",
    "gradients": "fffdb6a2",
    "pruned": "fc1a59e9",
    "dense": "7f4fdab8",
    "best": "30f020ee",
    "published": "7ace3144",
    "run": "ce331e01",
}


ROOT = Path(__file__).parents[2]
HOME = ROOT / "sparsedash" / "schema" / "store_keys.py"
OTHERS = sorted(
    {*ROOT.glob("*.py"), *ROOT.glob("pages/*.py"), *ROOT.glob("sparsedash/**/*.py")}
    - {HOME}
)


def test_no_two_notes_share_a_name_and_no_other_file_makes_one():
    """mypy lets no plain text through to the store; what is left is to call a text a name, here or
    by a cast.
    """
    names = {
        name: make("a", "b")
        for name, make in vars(store_keys).items()
        if name.endswith("_note") and name[0] != "_"
    }
    assert len(set(names.values())) == len(names) > 20
    assert store_keys.model_identity_note("gpt2", "f") == "identity|gpt2|f"
    for path in OTHERS:
        assert NoteName.__name__ + "(" not in path.read_text(), path
