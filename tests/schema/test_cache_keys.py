"""A stage's key changes if and only if a setting matters to the stage."""

from dataclasses import asdict, replace

import pytest

from sparsedash.catalog.presets import method_named
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.plain_values import STAGE_VERSIONS
from sparsedash.schema.settings import CalibrationSettings, EvaluationSettings, RunSettings
from sparsedash.schema.store_keys import (
    activations_key,
    calibration_keys,
    gradients_key,
    outcomes_key,
    own_text_identity,
    pruned_key,
    scheduled_gradients_key,
    sensitivity_key,
    statistics_key,
    text_key,
)
from tests.other_values import OTHER, RANDOM, other_values

MODEL, CORPUS, STATISTICS = "m" * 64, "c" * 64, "s" * 64
BOUNDS = ("floor", "ceiling", "blend")


def outcomes(method: MethodSettings) -> str:
    return outcomes_key(MODEL, "float32", CORPUS, EvaluationSettings(), (STATISTICS, method, 100))


@pytest.mark.parametrize(("name", "value"), other_values(CalibrationSettings))
def test_a_statistics_key_changes_with_every_calibration_setting(name, value):
    usual, changed = CalibrationSettings(), replace(CalibrationSettings(), **{name: value})
    identity = value if name == "corpus" else CORPUS
    assert statistics_key(MODEL, "float32", identity, changed) != statistics_key(MODEL, "float32", CORPUS, usual)


@pytest.mark.parametrize(("name", "value"), other_values(CalibrationSettings, ["token_weights", "packed"]))
def test_a_key_of_sampled_text_changes_with_every_setting_that_the_text_depends_on(name, value):
    changed = replace(CalibrationSettings(), **{name: value})
    assert text_key(MODEL, "float32", changed) != text_key(MODEL, "float32", CalibrationSettings())


def test_text_by_the_model_itself_is_told_by_the_key_of_its_settings():
    usual = CalibrationSettings()
    assert own_text_identity(MODEL, "float32", usual) == f"self:{text_key(MODEL, 'float32', usual)}"


def test_the_weights_of_tokens_change_statistics_and_neither_text_nor_gradients():
    usual, weighted = CalibrationSettings(), CalibrationSettings(token_weights="residual")
    assert text_key(MODEL, "float32", usual) == text_key(MODEL, "float32", weighted)
    keys, others = (asdict(calibration_keys(MODEL, "float32", CORPUS, settings)) for settings in (usual, weighted))
    assert {name for name in keys if keys[name] == others[name]} == {"gradients"}


def test_packing_changes_all_evidence_and_not_the_text_which_is_only_cut_in_another_way():
    usual, packed = CalibrationSettings(), CalibrationSettings(packed=True)
    assert text_key(MODEL, "float32", usual) == text_key(MODEL, "float32", packed)
    keys, others = (asdict(calibration_keys(MODEL, "float32", CORPUS, settings)) for settings in (usual, packed))
    assert not {name for name in keys if keys[name] == others[name]}


@pytest.mark.parametrize(("name", "value"), other_values(EvaluationSettings, ["corpus", "stop_early"]))
def test_an_outcomes_key_changes_with_every_evaluation_setting(name, value):
    usual, changed = EvaluationSettings(), replace(EvaluationSettings(), **{name: value})
    assert outcomes_key(MODEL, "float32", CORPUS, changed, None) != outcomes_key(MODEL, "float32", CORPUS, usual, None)


def test_two_names_of_the_same_text_have_the_same_keys():
    path, name = EvaluationSettings(corpus="file:a.txt"), EvaluationSettings(corpus="file:./a.txt")
    assert outcomes_key(MODEL, "float32", CORPUS, path, None) == outcomes_key(MODEL, "float32", CORPUS, name, None)
    assert statistics_key(MODEL, "float32", CORPUS, CalibrationSettings(corpus="file:a.txt")) == statistics_key(
        MODEL, "float32", CORPUS, CalibrationSettings(corpus="file:./a.txt")
    )


@pytest.mark.parametrize(("name", "value"), other_values(MethodSettings, ["seed", "strength", "rounds", *BOUNDS]))
def test_an_outcomes_key_changes_with_every_choice_that_least_squares_uses(name, value):
    assert outcomes(replace(MethodSettings(), **{name: value})) != outcomes(MethodSettings())


@pytest.mark.parametrize("name", BOUNDS)
def test_an_outcomes_key_changes_with_what_bounds_the_sensitivities_and_with_no_other_allocation(name):
    uniform, best = MethodSettings(), method_named("best")
    value = OTHER[MethodSettings][name]
    assert outcomes(replace(best, **{name: value})) != outcomes(best)
    assert outcomes(replace(uniform, **{name: value})) == outcomes(uniform)


def test_an_outcomes_key_changes_with_the_seed_of_a_random_method():
    assert outcomes(replace(RANDOM, seed=1)) != outcomes(RANDOM)


def test_an_outcomes_key_changes_with_the_strength_of_a_sequential_method():
    sequential = MethodSettings(compensation="sequential")
    assert outcomes(replace(sequential, strength=1.0)) != outcomes(sequential)


def test_an_outcomes_key_changes_with_the_rounds_of_a_fisher_method_and_how_it_grows_in_them():
    once = MethodSettings(saliency="fisher")
    rounds = replace(once, rounds=6)
    assert len({outcomes(once), outcomes(rounds), outcomes(replace(rounds, schedule="cubic"))}) == 3
    assert outcomes(replace(once, schedule="cubic")) == outcomes(once)


def test_gradients_of_a_schedule_depend_on_what_chooses_the_masks_and_not_on_what_refits():
    def key(method, permille=100, weights="equal"):
        calibration = CalibrationSettings(token_weights=weights)
        keys = calibration_keys(MODEL, "float32", CORPUS, calibration)
        return scheduled_gradients_key(keys, method, permille)

    usual = MethodSettings(saliency="fisher", allocation="global", rounds=6)
    by_sensitivity = replace(usual, allocation="sensitivity")
    for same in ({"compensation": "none"}, {"width_multiple": 1}, {"damping": 0.5}, {"seed": 3}):
        assert key(replace(usual, **same)) == key(usual)
    for other in ({"rounds": 5}, {"schedule": "linear"}, {"allocation": "uniform"}):
        assert key(replace(usual, **other)) != key(usual)
    assert key(usual, permille=200) != key(usual)
    assert key(usual, weights="residual") == key(usual)
    assert key(by_sensitivity, weights="residual") != key(by_sensitivity)


def test_an_outcomes_key_ignores_what_its_method_does_not_use():
    assert outcomes(replace(MethodSettings(), rounds=6)) == outcomes(MethodSettings())
    assert outcomes(replace(MethodSettings(), seed=1)) == outcomes(MethodSettings())
    assert outcomes(replace(RANDOM, damping=0.5)) == outcomes(RANDOM)


def test_an_outcomes_key_of_single_weights_has_what_they_use_and_nothing_else():
    wanda = MethodSettings(pattern="2:4", scope="decoder", compensation="none")
    surgeon = replace(wanda, saliency="obs")
    assert outcomes(replace(wanda, scope="mlp")) != outcomes(wanda)
    assert outcomes(replace(wanda, pattern="4:8")) != outcomes(wanda)
    assert outcomes(replace(wanda, damping=0.5)) == outcomes(wanda)
    assert outcomes(replace(wanda, width_multiple=1, seed=3, strength=0.1)) == outcomes(wanda)
    assert outcomes(replace(surgeon, damping=0.5)) != outcomes(surgeon)


def test_an_outcomes_key_changes_with_the_damping_where_something_is_refitted():
    measured = MethodSettings(allocation="sensitivity")
    assert outcomes(replace(measured, damping=0.5)) != outcomes(measured)
    cut = replace(measured, compensation="none")
    assert outcomes(replace(cut, damping=0.5)) == outcomes(cut)


@pytest.mark.parametrize(
    ("stage", "method"),
    [
        ("sensitivity", MethodSettings(allocation="sensitivity", compensation="none")),
        ("pruned", MethodSettings(compensation="sequential")),
        ("solve", MethodSettings()),
        ("elimination", MethodSettings(saliency="obs", compensation="none")),
    ],
)
def test_an_outcomes_key_has_the_versions_of_what_it_rests_on_and_no_others(stage, method, monkeypatch):
    before = outcomes(method), outcomes(RANDOM)
    monkeypatch.setitem(STAGE_VERSIONS, stage, STAGE_VERSIONS[stage] + 1)
    assert outcomes(method) != before[0]
    assert outcomes(RANDOM) == before[1]


def test_outcomes_keys_tell_model_precision_text_statistics_and_sparsity_apart():
    method, evaluation = MethodSettings(), EvaluationSettings()
    keys = [
        outcomes_key(MODEL, "float32", CORPUS, evaluation, None),
        outcomes_key("n" * 64, "float32", CORPUS, evaluation, None),
        outcomes_key(MODEL, "bfloat16", CORPUS, evaluation, None),
        outcomes_key(MODEL, "float32", "d" * 64, evaluation, None),
        outcomes_key(MODEL, "float32", CORPUS, evaluation, (STATISTICS, method, 100)),
        outcomes_key(MODEL, "float32", CORPUS, evaluation, (STATISTICS, method, 200)),
        outcomes_key(MODEL, "float32", CORPUS, evaluation, ("t" * 64, method, 100)),
    ]
    assert len(set(keys)) == len(keys)


def test_only_the_key_of_a_sparse_model_that_stops_early_knows_of_it_and_of_how_many_there_are():
    plain, early = EvaluationSettings(), EvaluationSettings(stop_early=True)
    sparse = (STATISTICS, MethodSettings(), 100)

    def key(evaluation, made, n_sparse):
        return outcomes_key(MODEL, "float32", CORPUS, evaluation, made, n_sparse=n_sparse)

    assert key(early, None, 3) == key(plain, None, 1)
    assert key(plain, sparse, 3) == key(plain, sparse, 1)
    assert len({key(plain, sparse, 1), key(early, sparse, 1), key(early, sparse, 3)}) == 3


@pytest.fixture
def first_versions(monkeypatch):
    """Every stage at its first version: what is left is what goes into a key."""
    for stage in STAGE_VERSIONS:
        monkeypatch.setitem(STAGE_VERSIONS, stage, 1)


@pytest.mark.usefixtures("first_versions")
def test_the_keys_are_those_that_results_are_already_kept_under():
    """Raise a stage's version to change one; anything else that changes them loses what people have computed."""
    sequential = MethodSettings(compensation="sequential")
    dense, published = EvaluationSettings(), EvaluationSettings(rule="published")
    keys = {
        "text": text_key(MODEL, "float32", CalibrationSettings()),
        "statistics": statistics_key(MODEL, "float32", CORPUS, CalibrationSettings()),
        "gradients": gradients_key(STATISTICS),
        "sensitivity": sensitivity_key(STATISTICS),
        "activations": activations_key(MODEL, "float32", "t", "w"),
        "pruned": pruned_key(STATISTICS, sequential, 100),
        "dense": outcomes_key(MODEL, "float32", CORPUS, dense, None),
        "published": outcomes_key(MODEL, "float32", CORPUS, published, None),
        "run": RunSettings().key(),
    }
    assert {name: key[:16] for name, key in keys.items()} == {
        "text": "cbc9d2920093a9e0",
        "statistics": "08e8b9407d0f1c85",
        "gradients": "11f40dfb35b29256",
        "sensitivity": "b1c2db59ffa5896e",
        "activations": "245c33e952ec7bfb",
        "pruned": "dc951871db82a5de",
        "dense": "5046cfd563402bd8",
        "published": "11d0eebfe1c49a66",
        "run": "71abcf58f586379f",
    }


@pytest.mark.usefixtures("first_versions")
@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("least-squares", "71a1beff875f0727"),
        ("least-squares-by-sensitivity", "df80d4cd284566d7"),
        ("obs-by-sensitivity", "8c6f1c4bc464a4ac"),
        ("obs-sequential", "e419da7fd81bcb01"),
        ("retrain-free (published)", "d1a8f7f95eae9557"),
        ("obs", "8c8828c21fdacf6b"),
        ("flap", "5b64373af3052400"),
        ("wanda-channels", "d0aa9118a5cb62d6"),
        ("magnitude", "4741682afa4b9e8d"),
        ("random", "15d33b29f48279a9"),
    ],
)
def test_the_answers_of_a_named_method_keep_their_key(name, key):
    assert outcomes(method_named(name)).startswith(key)


@pytest.mark.usefixtures("first_versions")
def test_answers_from_before_there_were_rounds_are_those_of_one_round():
    once = replace(method_named("retrain-free (published)"), rounds=1)
    assert outcomes(once).startswith("39509031cb755799")


def test_a_raised_stage_version_changes_the_key(monkeypatch):
    before = text_key(MODEL, "float32", CalibrationSettings())
    monkeypatch.setitem(STAGE_VERSIONS, "text", STAGE_VERSIONS["text"] + 1)
    assert text_key(MODEL, "float32", CalibrationSettings()) != before
