"""Settings are refused where they are wrong, and a key changes if and only if its setting matters."""

import json
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsedash.canonical import STAGE_VERSIONS, canonical_json, digest
from sparsedash.errors import SettingsError
from sparsedash.keys import outcomes_key, statistics_key, text_key
from sparsedash.settings import (
    MAX_SPARSITY_PERMILLE,
    Allocation,
    CalibrationSettings,
    Compensation,
    ContinuationSettings,
    EvaluationSettings,
    MethodSettings,
    RunSettings,
    Saliency,
    parse_percents,
    settings_from_plain,
)

MODEL, CORPUS, STATISTICS = "m" * 64, "c" * 64, "s" * 64
RANDOM = MethodSettings(saliency="random", compensation="none")

OTHER = {
    MethodSettings: {
        "saliency": "magnitude",
        "pattern": None,
        "compensation": "none",
        "allocation": "sensitivity",
        "width_multiple": 64,
        "damping": 0.02,
        "strength": 1.0,
        "seed": 1,
    },
    CalibrationSettings: {
        "corpus": "wikitext-2",
        "n_samples": 64,
        "length": 128,
        "seed": 1,
    },
    EvaluationSettings: {
        "corpus": "lambada",
        "n_passages": 10,
        "shuffle_seed": 0,
        "rule": "published",
    },
    RunSettings: {
        "model": "gpt2",
        "dtype": "bfloat16",
        "methods": (RANDOM,),
        "sparsities_permille": (100,),
        "calibration": CalibrationSettings(seed=1),
        "evaluation": EvaluationSettings(n_passages=10),
    },
}
"""Another value for every field; None where there is only one so far."""


def other_values(kind, leave_out=()):
    return [
        pytest.param(name, value, id=name)
        for name, value in OTHER[kind].items()
        if value is not None and name not in leave_out
    ]


def outcomes(method: MethodSettings) -> str:
    return outcomes_key(MODEL, "float32", CORPUS, EvaluationSettings(), (STATISTICS, method, 100))


@pytest.mark.parametrize("kind", OTHER)
def test_the_table_of_other_values_has_every_field(kind):
    assert set(OTHER[kind]) == {field.name for field in fields(kind)}


@pytest.mark.parametrize(("name", "value"), other_values(RunSettings))
def test_a_run_key_changes_with_every_setting(name, value):
    assert replace(RunSettings(), **{name: value}).key() != RunSettings().key()


@pytest.mark.parametrize(("name", "value"), other_values(MethodSettings))
def test_a_run_key_changes_with_every_choice_of_a_method(name, value):
    changed = RunSettings(methods=(replace(MethodSettings(), **{name: value}),))
    assert changed.key() != RunSettings().key()


def test_a_run_key_changes_with_the_state_of_a_local_file():
    settings = RunSettings(model="/models/a.gguf")
    assert settings.key({"/models/a.gguf": "10 1"}) != settings.key({"/models/a.gguf": "10 2"})
    assert settings.key({}) == settings.key()


@pytest.mark.parametrize(("name", "value"), other_values(CalibrationSettings))
def test_a_statistics_key_changes_with_every_calibration_setting(name, value):
    usual, changed = CalibrationSettings(), replace(CalibrationSettings(), **{name: value})
    identity = value if name == "corpus" else CORPUS
    assert statistics_key(MODEL, "float32", identity, changed) != statistics_key(
        MODEL, "float32", CORPUS, usual
    )


@pytest.mark.parametrize(("name", "value"), other_values(CalibrationSettings))
def test_a_key_of_sampled_text_changes_with_every_calibration_setting(name, value):
    changed = replace(CalibrationSettings(), **{name: value})
    assert text_key(MODEL, "float32", changed) != text_key(MODEL, "float32", CalibrationSettings())


@pytest.mark.parametrize(("name", "value"), other_values(EvaluationSettings, ["corpus"]))
def test_an_outcomes_key_changes_with_every_evaluation_setting(name, value):
    usual, changed = EvaluationSettings(), replace(EvaluationSettings(), **{name: value})
    assert outcomes_key(MODEL, "float32", CORPUS, changed, None) != outcomes_key(
        MODEL, "float32", CORPUS, usual, None
    )


def test_two_names_of_the_same_text_have_the_same_keys():
    path, name = EvaluationSettings(corpus="file:a.txt"), EvaluationSettings(corpus="file:./a.txt")
    assert outcomes_key(MODEL, "float32", CORPUS, path, None) == outcomes_key(
        MODEL, "float32", CORPUS, name, None
    )
    assert statistics_key(
        MODEL, "float32", CORPUS, CalibrationSettings(corpus="file:a.txt")
    ) == statistics_key(MODEL, "float32", CORPUS, CalibrationSettings(corpus="file:./a.txt"))


@pytest.mark.parametrize(("name", "value"), other_values(MethodSettings, ["seed", "strength"]))
def test_an_outcomes_key_changes_with_every_choice_that_least_squares_uses(name, value):
    assert outcomes(replace(MethodSettings(), **{name: value})) != outcomes(MethodSettings())


def test_an_outcomes_key_changes_with_the_seed_of_a_random_method():
    assert outcomes(replace(RANDOM, seed=1)) != outcomes(RANDOM)


def test_an_outcomes_key_changes_with_the_strength_of_a_sequential_method():
    sequential = MethodSettings(compensation="sequential")
    assert outcomes(replace(sequential, strength=1.0)) != outcomes(sequential)


def test_an_outcomes_key_ignores_what_its_method_does_not_use():
    assert outcomes(replace(MethodSettings(), seed=1)) == outcomes(MethodSettings())
    assert outcomes(replace(RANDOM, damping=0.5)) == outcomes(RANDOM)


def test_an_outcomes_key_changes_with_the_damping_that_the_allocation_uses():
    measured = replace(RANDOM, allocation="sensitivity")
    assert outcomes(replace(measured, damping=0.5)) != outcomes(measured)


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


def test_a_raised_stage_version_changes_the_key(monkeypatch):
    before = text_key(MODEL, "float32", CalibrationSettings())
    monkeypatch.setitem(STAGE_VERSIONS, "text", STAGE_VERSIONS["text"] + 1)
    assert text_key(MODEL, "float32", CalibrationSettings()) != before


@pytest.mark.parametrize(
    ("name", "value"),
    [("left", "x"), ("right", "x"), ("prompt", "Other words"), ("n_tokens", 41)],
)
def test_a_continuation_key_changes_with_records_prompt_and_length(name, value):
    usual = ContinuationSettings(left="l", right="r", prompt="Once")
    assert replace(usual, **{name: value}).key() != usual.key()


def test_equal_settings_have_equal_keys():
    whole = RunSettings(methods=(MethodSettings(damping=1),))
    real = RunSettings(methods=(MethodSettings(damping=1.0),))
    assert whole == real
    assert whole.key() == real.key()


run_settings = st.builds(
    RunSettings,
    dtype=st.sampled_from(["float32", "bfloat16"]),
    methods=st.lists(
        st.builds(
            MethodSettings,
            saliency=st.sampled_from(["activation-aware", "magnitude", "random"]),
            damping=st.floats(1e-6, 10) | st.integers(1, 10),
            width_multiple=st.integers(1, 4096),
        ),
        min_size=1,
        max_size=3,
    ).map(tuple),
    sparsities_permille=st.lists(
        st.integers(0, MAX_SPARSITY_PERMILLE), min_size=1, max_size=5, unique=True
    ).map(tuple),
)


@given(run_settings)
def test_settings_come_back_equal_through_json_and_keep_their_key(settings):
    again = settings_from_plain(RunSettings, json.loads(json.dumps(asdict(settings))))
    assert again == settings
    assert again.key() == settings.key()


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=10,
    )
)
def test_canonical_json_ignores_the_order_of_keys_and_loses_nothing(value):
    assert json.loads(canonical_json(value)) == value
    if isinstance(value, dict):
        assert canonical_json(dict(reversed(value.items()))) == canonical_json(value)


@pytest.mark.parametrize(
    "value",
    [Path("/x"), {1, 2}, b"x", object(), 1j, {1: "x"}, [{None: 1}], {"a": ({True: 1},)}],
    ids=repr,
)
def test_a_value_that_is_not_plain_is_refused_and_never_turned_into_text(value):
    with pytest.raises(TypeError):
        canonical_json(value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_has_no_key(value):
    with pytest.raises(ValueError, match="JSON compliant"):
        digest({"x": value})


REFUSED = [
    (MethodSettings, {"saliency": "size"}, "saliency", ", ".join(get_args(Saliency))),
    (MethodSettings, {"pattern": "2:4"}, "pattern", "channelx1"),
    (MethodSettings, {"compensation": "more"}, "compensation", ", ".join(get_args(Compensation))),
    (MethodSettings, {"allocation": "equal"}, "allocation", ", ".join(get_args(Allocation))),
    (MethodSettings, {"width_multiple": 0}, "width_multiple", "1 to 4,096"),
    (MethodSettings, {"width_multiple": 32.0}, "width_multiple", "a whole number"),
    (MethodSettings, {"damping": 0}, "damping", "more than 0"),
    (MethodSettings, {"damping": float("nan")}, "damping", "at most 10"),
    (MethodSettings, {"damping": True}, "damping", "at most 10"),
    (MethodSettings, {"damping": "0.1"}, "damping", "at most 10"),
    (MethodSettings, {"seed": -1}, "method seed", "from 0"),
    (CalibrationSettings, {"corpus": ""}, "calibration text", "without spaces around"),
    (CalibrationSettings, {"corpus": " self"}, "calibration text", "without spaces around"),
    (CalibrationSettings, {"n_samples": 0}, "calibration samples", "1 to 100,000"),
    (CalibrationSettings, {"length": 7}, "calibration length", "8 to 32,768"),
    (CalibrationSettings, {"seed": True}, "seed", "a whole number"),
    (EvaluationSettings, {"corpus": "a\nb"}, "evaluation text", "printable"),
    (EvaluationSettings, {"n_passages": 0}, "passages", "1 to 10,000,000"),
    (EvaluationSettings, {"shuffle_seed": 2**31}, "shuffle seed", "2,147,483,647"),
    (RunSettings, {"model": "x" * 4097}, "model", "4,096"),
    (RunSettings, {"model": 5}, "model", "a reference"),
    (RunSettings, {"dtype": "float16"}, "dtype", "float32, bfloat16"),
    (RunSettings, {"methods": ()}, "methods", "at least one"),
    (RunSettings, {"sparsities_permille": ()}, "sparsities", "1 to 50"),
    (RunSettings, {"sparsities_permille": (100, 100)}, "sparsities", "each one once"),
    (RunSettings, {"sparsities_permille": (901,)}, "sparsity (per mille)", "0 to 900"),
    (RunSettings, {"sparsities_permille": (12.5,)}, "sparsity (per mille)", "a whole number"),
]


@pytest.mark.parametrize(
    ("kind", "values", "name", "allowed"),
    REFUSED,
    ids=[f"{kind.__name__}-{values}"[:50] for kind, values, *_ in REFUSED],
)
def test_a_refused_setting_names_the_field_the_value_and_what_is_allowed(
    kind, values, name, allowed
):
    with pytest.raises(SettingsError) as caught:
        kind(**values)
    (value,) = values.values()
    shown = value[0] if isinstance(value, tuple) and name.startswith("sparsity") else value
    assert caught.value.field == name
    assert caught.value.message.startswith(f"{name}: ")
    assert repr(shown)[:40] in caught.value.message
    assert allowed in caught.value.message


@pytest.mark.parametrize(
    ("values", "name"), [({"n_tokens": 0}, "tokens to write"), ({"prompt": "  "}, "prompt")]
)
def test_a_continuation_needs_a_prompt_and_a_length(values, name):
    usual = {"left": "l", "right": "r", "prompt": "Once"}
    with pytest.raises(SettingsError) as caught:
        ContinuationSettings(**usual | values)
    assert caught.value.field == name


@pytest.mark.parametrize(
    "plain",
    [
        None,
        [],
        {"model": 5},
        {"methods": "least-squares"},
        {"calibration": {"length": 1}},
        {"modle": "gpt2"},
        {"methods": [{"dampening": 0.1}]},
    ],
)
def test_plain_values_that_are_not_settings_are_refused(plain):
    with pytest.raises(SettingsError):
        settings_from_plain(RunSettings, plain)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10,20", (100, 200)),
        ("12.5 30 %", (125, 300)),
        ("0", (0,)),
        ("90", (900,)),
        (" 10 ,20,, 30%", (100, 200, 300)),
        ("0.1", (1,)),
    ],
)
def test_percents_become_per_mille(text, expected):
    assert parse_percents(text) == expected


@pytest.mark.parametrize("text", ["", " , ", "ten", "-1", "91", "12.55", "nan", "inf", "1e400"])
def test_a_percent_that_is_no_tenth_or_out_of_range_is_refused(text):
    with pytest.raises(SettingsError, match="sparsity"):
        parse_percents(text)


@given(st.integers(0, MAX_SPARSITY_PERMILLE))
def test_every_tenth_of_a_percent_is_read_exactly(permille):
    assert parse_percents(f"{permille / 10}") == (permille,)
