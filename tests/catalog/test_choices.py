"""What a person can choose is named once, described in a line, and accepted by the settings."""

from dataclasses import replace

import pytest

from sparsedash.catalog.choices import CALIBRATION_CORPORA, EVALUATION_CORPORA, MODELS
from sparsedash.catalog.presets import (
    DEFAULT_METHOD,
    METHODS,
    method_name,
    method_named,
    spec_name,
)
from sparsedash.schema.errors import SettingsError
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.settings import BUILTIN_CLOZE, BUILTIN_MODEL, RunSettings
from sparsedash.schema.sparse_spec import SparseSpec


@pytest.mark.parametrize(
    "rows", [MODELS, EVALUATION_CORPORA, CALIBRATION_CORPORA, METHODS], ids=len
)
def test_no_name_is_given_twice_and_each_is_described_in_one_line(rows):
    assert (
        len({row.name for row in rows})
        == len({getattr(row, "title", row.name) for row in rows})
        == len(rows)
    )
    for row in rows:
        assert (
            row.summary and "\n" not in row.summary and not row.summary.endswith(".")
        ), row.name


def test_what_a_newcomer_gets_needs_no_network():
    settings = RunSettings()
    assert settings.model == BUILTIN_MODEL == MODELS[0].name
    assert settings.evaluation.corpus == BUILTIN_CLOZE == EVALUATION_CORPORA[0].name
    assert settings.calibration.corpus == "self" == CALIBRATION_CORPORA[0].name
    assert METHODS[0].name == DEFAULT_METHOD
    assert method_named(DEFAULT_METHOD).is_structured


def test_a_method_is_found_by_its_name_and_named_by_its_choices_and_another_refused_with_all_names():
    with pytest.raises(
        SettingsError, match=r"^Method must be .*, not 'wand'"
    ) as refused:
        method_named("wand")
    for method in METHODS:
        assert method_named(method.name) == method.settings
        assert method_name(method.settings) == method.name
        assert method.name in refused.value.message


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"damping": 0.5}, "least-squares (damping 0.5)"),
        ({"width_multiple": 64}, "least-squares (multiples of 64)"),
        ({"seed": 3, "strength": 1}, "least-squares (strength 1, seed 3)"),
        (
            {"heal_steps": 1200, "damping": 0.5},
            "least-squares (damping 0.5, healed 1,200 steps)",
        ),
        (
            {
                "saliency": "fisher",
                "compensation": "none",
                "allocation": "global",
                "heal_steps": 8,
            },
            "fisher + none + global (healed 8 steps)",
        ),
        ({"saliency": "random"}, "random + least-squares + uniform"),
        (
            {"allocation": "curves", "damping": 0.1},
            "least-squares-by-curves (damping 0.1)",
        ),
    ],
)
def test_a_preset_keeps_its_name_and_says_what_is_unusual(changes, name):
    steps = changes.get("heal_steps", 0)
    choices = {name: value for name, value in changes.items() if name != "heal_steps"}
    assert (
        spec_name(SparseSpec(replace(MethodSettings(), **choices), 100, steps)) == name
    )
