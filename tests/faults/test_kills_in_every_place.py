"""Runs killed in every other place of a stage resume as well; one place a stage is in
tests/engine/run.
"""

import pytest

from tests.engine.conftest import model_folder, passage_file, settings
from tests.engine.run.test_same_records import (
    ROWS,
    check_row,
    everything_is_long,
    whole,
)

__all__ = ["everything_is_long", "model_folder", "passage_file", "settings", "whole"]

pytestmark = [pytest.mark.faults, pytest.mark.long]


PLACES = [
    (name, after) for name, row in ROWS.items() if row.kill for after in row.kill.others
]


@pytest.mark.parametrize(("name", "after"), PLACES)
def test_a_killed_run_resumes_in_every_place(
    name, after, settings, whole, tmp_path, monkeypatch
):
    row = ROWS[name]
    check_row(
        row._replace(kill=row.kill._replace(after=after)),
        settings,
        whole,
        tmp_path,
        monkeypatch,
    )
