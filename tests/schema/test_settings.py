"""Settings are refused where they are wrong, and a request's key changes with every one of them."""

import json
from dataclasses import asdict, fields, replace
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsedash.schema.errors import SettingsError
from sparsedash.schema.find_settings import (
    PLANNED,
    FindSettings,
    planned_run,
    run_or_find_settings,
)
from sparsedash.schema.method_settings import (
    Allocation,
    Budget,
    Compensation,
    MethodSettings,
    Pattern,
    Saliency,
    Scope,
    allowed_choices,
    with_budget,
)
from sparsedash.schema.pair_records import ContinuationSettings
from sparsedash.schema.settings import (
    MAX_SPARSITY_PERMILLE,
    CalibrationSettings,
    EvaluationSettings,
    RunSettings,
    parse_percents,
    settings_from_plain,
)
from sparsedash.schema.sparse_spec import DENSE, SparseSpec
from sparsedash.schema.tolerance_settings import Tolerance
from tests.other_values import OTHER


@pytest.mark.parametrize("kind", OTHER)
def test_the_table_of_other_values_has_every_field(kind):
    assert set(OTHER[kind]) == {field.name for field in fields(kind)}


RUN = RunSettings()
FIND = FindSettings()
METHOD = MethodSettings()
PROMPT = ContinuationSettings(left="l", right="r", prompt="Once")
SINGLE = MethodSettings(pattern="1x1")
CHANGES = [
    *[
        (RUN, {name: value})
        for name, value in OTHER[RunSettings].items()
        if name != "residency"
    ],
    *[
        (RUN, {"methods": (replace(METHOD, **{name: value}),)})
        for name, value in OTHER[MethodSettings].items()
        if value is not None
    ],
    (FIND, {"quantise": ("q8_0",)}),
    (RunSettings(methods=(SINGLE,)), {"methods": (replace(SINGLE, scope="decoder"),)}),
    *[
        (FIND, {name: OTHER[RunSettings][name]})
        for name in ("model", "dtype", "calibration", "evaluation")
    ],
    *[
        (FIND, change)
        for change in (
            {"tolerance": Tolerance(ratio=1.2)},
            {"tolerance": Tolerance(points=3)},
            {"method": replace(METHOD, width_multiple=64)},
        )
    ],
    *[
        (PROMPT, change)
        for change in (
            {"left": "x"},
            {"right": "x"},
            {"prompt": "More"},
            {"n_tokens": 41},
        )
    ],
    (PROMPT, {"others": ("x",)}),
    (replace(PROMPT, temperature_percent=50), {"seed": 1}),
]


@pytest.mark.parametrize(
    ("usual", "change"),
    CHANGES,
    ids=[f"{n}-{next(iter(c))}" for n, (_, c) in enumerate(CHANGES)],
)
def test_a_request_s_key_changes_with_every_setting(usual, change):
    assert replace(usual, **change).key() != usual.key()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (
            RunSettings(methods=(MethodSettings(damping=1),)),
            RunSettings(methods=(MethodSettings(damping=1.0),)),
        ),
        (
            FindSettings(tolerance=Tolerance(points=2)),
            FindSettings(tolerance=Tolerance(points=2.0)),
        ),
        (replace(PROMPT, seed=1), PROMPT),
        (RunSettings(residency="resident"), RunSettings()),
        (RunSettings(residency="streamed"), RunSettings()),
        (FindSettings(residency="resident"), FindSettings()),
        (FindSettings(residency="streamed"), FindSettings()),
    ],
)
def test_requests_of_one_result_have_one_key(one, other):
    assert one.key() == other.key()


@pytest.mark.parametrize("settings", [RUN, FIND], ids=["run", "search"])
def test_a_key_changes_with_the_state_of_a_local_file(settings):
    assert settings.key({"/models/a.gguf": "10 1"}) != settings.key(
        {"/models/a.gguf": "10 2"}
    )
    assert settings.key({}) == settings.key()


@pytest.mark.parametrize("pattern", ["1x1", "2:4", "4:8"])
def test_choices_that_make_no_sense_for_single_weights_are_refused_with_those_that_do(
    pattern,
):
    kinds = {
        "saliency": Saliency,
        "compensation": Compensation,
        "allocation": Allocation,
        "budget": Budget,
    }
    for name, allowed in allowed_choices(pattern).items():
        for value in get_args(kinds.get(name, Scope)):
            if value in allowed:
                assert (
                    getattr(MethodSettings(pattern=pattern, **{name: value}), name)
                    == value
                )
                continue
            with pytest.raises(
                SettingsError, match=f"{', '.join(allowed)} with pattern {pattern}"
            ) as caught:
                MethodSettings(pattern=pattern, **{name: value})
            assert caught.value.field == name


def test_a_pattern_that_decides_the_sparsity_is_made_once_whatever_the_sweep_asks_for():
    single, fixed = (
        MethodSettings(pattern=pattern, scope="decoder") for pattern in ("1x1", "2:4")
    )
    settings = RunSettings(
        methods=(METHOD, fixed, single), sparsities_permille=(100, 300)
    )
    assert settings.points == (
        SparseSpec(METHOD, 100),
        SparseSpec(METHOD, 300),
        SparseSpec(fixed, 500),
        SparseSpec(single, 100),
        SparseSpec(single, 300),
    )
    assert settings.n_sparse == 5


def test_a_method_that_removes_nothing_is_the_dense_model_and_is_not_healed():
    assert SparseSpec(METHOD, 0, heal_steps=10) == DENSE
    assert (
        SparseSpec(METHOD, 0, quantise="q8_0") == SparseSpec(quantise="q8_0") != DENSE
    )


def test_quantised_models_are_healed_once_at_widths_that_suit_all_types_and_dense_is_quantised_once():
    plain = RunSettings(
        methods=(replace(METHOD, width_multiple=96),), sparsities_permille=(0, 100)
    ).healed(8)
    settings = replace(plain, quantise=("q8_0", "q4_k_m"))
    assert {method.width_multiple for method in settings.methods} == {768}
    assert [
        (spec.quantise, spec.permille)
        for spec in settings.points
        if spec.quantise and not spec.heal_steps
    ] == [
        ("q8_0", 0),
        ("q4_k_m", 0),
        ("q8_0", 100),
        ("q4_k_m", 100),
    ]
    assert [spec.permille for spec in settings.points if spec.heal_steps] == [
        100,
        100,
        100,
    ]
    layers = RunSettings(
        methods=(
            MethodSettings(
                pattern="layer",
                saliency="block-influence",
                compensation="none",
                allocation="uniform",
            ),
        )
    )
    assert {
        method.width_multiple
        for method in replace(layers, quantise=("q4_k_m",)).methods
    } == {MethodSettings().width_multiple}
    alone = RunSettings(
        methods=(MethodSettings(),), sparsities_permille=(0,), quantise=("q8_0",)
    )
    assert (settings.point_permilles, alone.point_permilles) == ((100,), (0,))
    with pytest.raises(SettingsError, match="float32 where models are quantised"):
        replace(settings, dtype="bfloat16")


def test_a_run_has_one_budget_which_single_weights_beside_do_not_share():
    single = MethodSettings(pattern="1x1")
    magnitude = MethodSettings(saliency="magnitude")
    methods = with_budget([METHOD, single, magnitude], "bytes")
    assert [method.budget for method in methods] == ["bytes", "channels", "bytes"]
    assert (
        RunSettings(methods=methods).budget == "bytes"
        and RunSettings(methods=(single,)).budget == "channels"
    )
    with pytest.raises(SettingsError, match="one for all methods of a run"):
        RunSettings(methods=(methods[0], magnitude))
    with pytest.raises(
        SettingsError, match=r"Budget must be channels with.*not 'bytes'"
    ):
        with_budget([single], "bytes")


@pytest.mark.parametrize(
    "prompts",
    [
        ("",),
        (" Once",),
        ("a\nb",),
        ("\ud800",),
        ("a\x00b",),
        ("x" * 301,),
        ("a", "a"),
        tuple("abcdefghijk"),
    ],
)
def test_prompts_are_few_short_different_lines(prompts):
    assert RunSettings(prompts=()).prompts == () and FindSettings(
        prompts=("Once",)
    ).run((100,)).prompts == ("Once",)
    with pytest.raises(SettingsError, match="Prompts"):
        RunSettings(prompts=prompts)


def test_one_round_has_no_schedule():
    assert MethodSettings(saliency="fisher", schedule="cubic") == MethodSettings(
        saliency="fisher"
    )
    rounds = MethodSettings(saliency="fisher", rounds=2)
    assert replace(rounds, schedule="cubic") != rounds


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        (RUN, "run"),
        (RunSettings(dtype="bfloat16", sparsities_permille=(0, 125, 900)), "run"),
        (RunSettings(methods=(METHOD, replace(METHOD, damping=10), SINGLE)), "run"),
        (
            RunSettings(methods=(MethodSettings(saliency="fisher", schedule="cubic"),)),
            "run",
        ),
        (FIND, "find"),
        (
            FindSettings(
                tolerance=Tolerance(ratio=2, points=1),
                evaluation=EvaluationSettings(n_passages=9),
            ),
            "find",
        ),
    ],
)
def test_settings_come_back_equal_through_json_and_keep_their_key(settings, kind):
    again = run_or_find_settings(kind, json.loads(json.dumps(asdict(settings))))
    assert (again, again.key()) == (settings, settings.key())


def test_a_search_is_planned_with_its_usual_trials_and_has_another_key_than_their_run():
    assert planned_run(RUN) == RUN
    assert planned_run(FIND).sparsities_permille == PLANNED
    assert FIND.key() != planned_run(FIND).key()


REFUSED = [
    (MethodSettings, {"saliency": "size"}, "saliency", ", ".join(get_args(Saliency))),
    (MethodSettings, {"pattern": "3:4"}, "pattern", ", ".join(get_args(Pattern))),
    (MethodSettings, {"scope": "decoder"}, "scope", "mlp with pattern channelx1"),
    (MethodSettings, {"width_multiple": 32.0}, "width multiple", "a whole number"),
    (CalibrationSettings, {"corpus": ""}, "calibration text", "without spaces around"),
    (
        CalibrationSettings,
        {"corpus": " self"},
        "calibration text",
        "without spaces around",
    ),
    (EvaluationSettings, {"corpus": "a\nb"}, "evaluation text", "printable"),
    (RunSettings, {"model": "x" * 4097}, "model", "4,096"),
    (RunSettings, {"model": 5}, "model", "a reference"),
    (RunSettings, {"dtype": "float16"}, "dtype", "float32, bfloat16"),
    (RunSettings, {"methods": ()}, "methods", "at least one"),
    (RunSettings, {"sparsities_permille": ()}, "number of sparsities", "1 to 50"),
    (
        RunSettings,
        {"sparsities_permille": tuple(range(51))},
        "number of sparsities",
        "1 to 50",
    ),
    (RunSettings, {"sparsities_permille": (100, 100)}, "sparsities", "all different"),
    (RunSettings, {"sparsities_permille": (901,)}, "sparsity (per mille)", "0 to 900"),
    (
        RunSettings,
        {"sparsities_permille": (12.5,)},
        "sparsity (per mille)",
        "a whole number",
    ),
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
    if name == "sparsities":
        value = ", ".join(f"{permille / 10:g}" for permille in value)
    value = len(value) if name.startswith("number") else value
    shown = (
        value[0] if isinstance(value, tuple) and name.startswith("sparsity") else value
    )
    assert caught.value.field == name
    assert caught.value.message.startswith(f"{name[:1].upper()}{name[1:]} must be ")
    assert repr(shown)[:40] in caught.value.message
    assert allowed in caught.value.message


@pytest.mark.parametrize(
    "refused",
    [
        lambda: replace(PROMPT, n_tokens=0),
        lambda: replace(PROMPT, prompt="  "),
        lambda: FindSettings(evaluation=EvaluationSettings(stop_early=True)),
        lambda: FindSettings(
            method=MethodSettings(
                pattern="2:4", saliency="magnitude", compensation="none"
            )
        ),
        lambda: settings_from_plain(FindSettings, asdict(FIND) | {"wish": 1}),
    ],
)
def test_what_makes_no_sense_is_refused(refused):
    with pytest.raises(SettingsError):
        refused()


@pytest.mark.parametrize(
    "plain",
    [
        None,
        {"model": 5},
        {"calibration": {"length": 1}},
        {"modle": "gpt2"},
        {"methods": [{"dampening": 0.1}]},
    ],
)
def test_plain_values_that_are_not_settings_are_refused(plain):
    with pytest.raises(SettingsError):
        settings_from_plain(RunSettings, plain)


@pytest.mark.parametrize(
    ("text", "expected"), [("12.5 30 %", (125, 300)), (" 0 ,90,, 0.1%", (0, 900, 1))]
)
def test_percents_become_per_mille(text, expected):
    assert parse_percents(text) == expected


@pytest.mark.parametrize(
    "text", ["", " , ", "ten", "-1", "91", "12.55", "90.05", "nan", "inf", "1e400"]
)
def test_a_percent_that_is_no_tenth_or_out_of_range_is_refused(text):
    with pytest.raises(SettingsError, match="parsit"):
        parse_percents(text)


@given(st.integers(0, MAX_SPARSITY_PERMILLE))
def test_every_tenth_of_a_percent_is_read_exactly(permille):
    assert parse_percents(f"{permille / 10}") == (permille,)


def test_only_sparsities_of_the_run_are_quantised():
    run = RunSettings(quantise=("q8_0",), quantised_permille=(200,))
    assert [(spec.permille, spec.quantise) for spec in run.points] == [
        (0, "q8_0"),
        (100, ""),
        (200, ""),
        (200, "q8_0"),
    ]
    with pytest.raises(SettingsError, match="must be some of 10, 20, not '30'"):
        RunSettings(quantise=("q8_0",), quantised_permille=(300,))
