"""What a run may not ask, and in which words it is refused."""

from dataclasses import replace

import pytest

from sparsedash.catalog import export_forms
from sparsedash.catalog.model_sizes import listed_shape
from sparsedash.catalog.presets import method_named
from sparsedash.catalog.run_rules import (
    require_artefact_room,
    require_calibration_tokens,
    require_healable,
    require_possible,
    require_quantisable,
)
from sparsedash.schema.errors import CalibrationError, SettingsError, StoreError
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.settings import (
    BUILTIN_MIXED,
    BUILTIN_MODEL,
    CalibrationSettings,
    RunSettings,
)
from tests.catalog.test_model_sizes import ONE_BLOCK, SHAPE

BUILTIN_SHAPE = listed_shape(BUILTIN_MODEL)


def asked(*methods, percent=20, **settings):
    return RunSettings(
        methods=methods,
        sparsities_permille=(10 * percent,),
        **settings,
    )


def test_no_more_can_be_asked_than_all_but_one_multiple_of_each_mlp():
    methods = (
        MethodSettings(
            budget="weights",
            width_multiple=2,
        ),
        MethodSettings(pattern="1x1"),
    )
    require_possible(
        RunSettings(
            methods=methods,
            sparsities_permille=(450,),
        ),
        SHAPE,
    )
    with pytest.raises(
        SettingsError, match=r"at most 45 % of the blocks' weights, not '45.1 %'"
    ):
        require_possible(
            RunSettings(
                methods=methods,
                sparsities_permille=(451,),
            ),
            SHAPE,
        )


def test_channels_free_nothing_of_the_kv_cache():
    method = MethodSettings(budget="kv-cache", width_multiple=2)
    with pytest.raises(SettingsError, match="frees nothing of the KV cache"):
        require_possible(asked(method), SHAPE)


def test_the_only_layer_of_a_model_stays():
    with pytest.raises(SettingsError, match="at most 0 %"):
        require_possible(asked(method_named("layers")), ONE_BLOCK)


def test_widths_that_are_all_below_one_multiple_cannot_be_cut():
    method = replace(method_named("obs"), width_multiple=8)
    with pytest.raises(SettingsError, match="less than the 8 channels"):
        require_possible(asked(method), SHAPE)
    require_possible(asked(method, percent=0), SHAPE)
    require_possible(asked(replace(method, width_multiple=4)), SHAPE)


def test_one_sample_cannot_be_half_the_mix():
    best, obs = (
        replace(method_named(name), width_multiple=1) for name in ("best", "obs")
    )
    one = CalibrationSettings(corpus="file:own.txt", n_samples=1)
    with pytest.raises(SettingsError, match="at least 2 with this method"):
        require_possible(asked(best, calibration=one), SHAPE)
    require_possible(asked(best, calibration=replace(one, n_samples=2)), SHAPE)
    require_possible(asked(best, calibration=replace(one, corpus=BUILTIN_MIXED)), SHAPE)
    require_possible(asked(obs, calibration=one), SHAPE)


def test_healing_needs_all_weights_in_memory_and_a_sample_that_is_held_out():
    require_healable(16, streamed=False)
    with pytest.raises(CalibrationError, match="Healing needs all weights in memory"):
        require_healable(16, streamed=True)
    with pytest.raises(
        CalibrationError, match=r"Healing needs at least 16 .*; there are 15"
    ):
        require_healable(15, streamed=False)


def test_quantising_needs_all_weights_in_memory_and_llama_cpp(monkeypatch):
    plain = asked(method_named("obs"))
    quantised = replace(plain, quantise=("q8_0",))
    require_quantisable(quantised, "llama", streamed=False)
    require_quantisable(plain, "bloom", streamed=True)
    with pytest.raises(
        CalibrationError, match="Quantising needs all weights in memory"
    ):
        require_quantisable(quantised, "llama", streamed=True)
    monkeypatch.setattr(export_forms, "find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=r"cannot be quantised: llama.cpp, which"):
        require_quantisable(quantised, "llama", streamed=False)


def test_fitting_needs_four_tokens_for_each_channel_of_the_widest_layer():
    require_calibration_tokens(32, (4, 8))
    with pytest.raises(
        CalibrationError, match=r"31 calibration tokens are too few .* it needs 32,"
    ):
        require_calibration_tokens(31, (4, 8))


def test_the_calibration_data_of_the_models_still_to_be_made_has_to_fit_its_limit():
    best = method_named("best")
    random = method_named("random")
    settings = asked(best, random)

    def require(methods, room):
        require_artefact_room(
            settings,
            BUILTIN_SHAPE,
            methods,
            n_sequences=128,
            room=room,
        )

    with pytest.raises(
        StoreError, match=r"takes 0.1 GB; the limit is 0.0 GB. Raise the limit on"
    ):
        require({best, random}, 10**6)
    require({best, random}, 10**9)
    require({random}, 10**6)
    require(set(), 10**6)
