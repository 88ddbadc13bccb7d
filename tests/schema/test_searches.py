"""What a search may be asked for, and the names of requests."""

from dataclasses import asdict, replace

import pytest

from sparsedash.schema.errors import SettingsError
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.settings import (
    PLANNED,
    CalibrationSettings,
    EvaluationSettings,
    FindSettings,
    RunSettings,
    planned_run,
    run_or_find_settings,
    settings_from_plain,
)

ASKED = FindSettings()


@pytest.mark.parametrize(
    "change",
    [
        {"model": " x"},
        {"dtype": "float8"},
        {"ratio": 1.0},
        {"ratio": float("nan")},
        {"ratio": "2"},
        {"points": 0},
        {"points": True},
        {"evaluation": EvaluationSettings(stop_early=True)},
        {"method": MethodSettings(pattern="2:4", saliency="magnitude", compensation="none")},
    ],
)
def test_what_makes_no_sense_is_refused(change):
    with pytest.raises(SettingsError):
        FindSettings(**change)


@pytest.mark.parametrize(
    "change",
    [
        {"model": "gpt2"},
        {"dtype": "bfloat16"},
        {"ratio": 1.2},
        {"points": 3},
        {"method": MethodSettings(saliency="magnitude")},
        {"method": MethodSettings(width_multiple=64)},
        {"calibration": CalibrationSettings(seed=1)},
        {"evaluation": EvaluationSettings(n_passages=400)},
    ],
)
def test_every_setting_changes_the_key(change):
    assert replace(ASKED, **change).key() != ASKED.key()


def test_equal_numbers_have_one_key_and_a_changed_file_another():
    assert FindSettings(points=2).key() == FindSettings(points=2.0).key()
    assert ASKED.key({"file:x": "1"}) != ASKED.key({"file:x": "2"})


def test_a_search_has_another_key_than_the_run_of_its_trials():
    assert ASKED.key() != ASKED.run((100, 200)).key()


def test_the_plain_form_gives_the_same_back_and_nothing_unknown_is_taken():
    assert settings_from_plain(FindSettings, asdict(ASKED)) == ASKED
    with pytest.raises(SettingsError):
        settings_from_plain(FindSettings, asdict(ASKED) | {"wish": 1})


def test_jobs_of_both_kinds_are_read_back_and_planned():
    run = RunSettings()
    assert run_or_find_settings("run", asdict(run)) == run == planned_run(run)
    assert run_or_find_settings("find", asdict(ASKED)) == ASKED
    assert planned_run(ASKED).sparsities_permille == PLANNED
