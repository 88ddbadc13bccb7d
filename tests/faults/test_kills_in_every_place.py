"""Runs killed in every other place of a stage resume as well; one place a stage is in tests/engine/run."""

import pytest

from tests.engine.conftest import model_folder, passage_file, settings
from tests.engine.run.test_resumed_runs import KILLS, check_resumed, everything_is_long, whole

__all__ = ["everything_is_long", "model_folder", "passage_file", "settings", "whole"]

pytestmark = [pytest.mark.faults, pytest.mark.long]


@pytest.mark.parametrize(("name", "at"), [(name, at) for name, kill in KILLS.items() for at in kill.other_places])
def test_a_killed_run_resumes_in_every_place(name, at, settings, whole, tmp_path, monkeypatch):
    check_resumed(KILLS[name], at, settings, whole, tmp_path, monkeypatch)
