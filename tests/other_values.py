"""Another value for every field of the settings, for the tests of what a key depends on."""

import pytest

from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.settings import (
    CalibrationSettings,
    EvaluationSettings,
    RunSettings,
)

RANDOM = MethodSettings(saliency="random", compensation="none")

OTHER = {
    MethodSettings: {
        "saliency": "magnitude",
        "pattern": "2:4",
        "compensation": "none",
        "allocation": "curves",
        "width_multiple": 64,
        "budget": "weights",
        "damping": 0.02,
        "strength": 1.0,
        "seed": 1,
        "scope": None,
        "rounds": 6,
        "schedule": None,
        "curve_levels": 8,
        "mix": 0.5,
    },
    CalibrationSettings: {
        "corpus": "wikitext-2",
        "n_samples": 64,
        "length": 128,
        "seed": 1,
        "token_weights": "residual",
        "packed": True,
    },
    EvaluationSettings: {
        "corpus": "lambada",
        "n_passages": 10,
        "shuffle_seed": 0,
        "rule": "published",
        "stop_early": True,
        "tasks": ("piqa",),
        "task_limit": 500,
        "task_shots": 5,
    },
    RunSettings: {
        "model": "gpt2",
        "dtype": "bfloat16",
        "methods": (RANDOM,),
        "sparsities_permille": (100,),
        "heal_steps": (0, 24),
        "quantise": ("q8_0",),
        "quantised_permille": (100,),
        "calibration": CalibrationSettings(seed=1),
        "evaluation": EvaluationSettings(n_passages=10),
        "residency": "streamed",
        "prompts": ("Once",),
        "revisions": (("gpt2", "a" * 40),),
    },
}
"""Another value for every field; None where there is no other beside the defaults of the others."""


def other_values(kind, leave_out=()):
    return [
        pytest.param(name, value, id=name)
        for name, value in OTHER[kind].items()
        if value is not None and name not in leave_out
    ]
