"""The field table: every setting in one row, from which form, address and flags are made."""

import re
from collections import Counter
from itertools import chain

import pytest

from sparsedash.schema.errors import SettingsError
from sparsedash.schema.export_settings import ExportSettings
from sparsedash.schema.fields import field_rows
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.pair_records import ContinuationSettings, TimingSettings
from sparsedash.schema.settings import (
    CalibrationSettings,
    EvaluationSettings,
    RunSettings,
)
from sparsedash.schema.tolerance_settings import Tolerance

TABLES = (
    RunSettings,
    CalibrationSettings,
    EvaluationSettings,
    MethodSettings,
    Tolerance,
)
ROWS = list(chain.from_iterable(field_rows(table).values() for table in TABLES))
REQUESTS = (ContinuationSettings, TimingSettings, ExportSettings)
NUMBERS = []
for settings in (*TABLES, *REQUESTS):
    for setting in field_rows(settings).values():
        if setting.kind in ("whole", "number"):
            NUMBERS.append((settings.__name__, setting))


@pytest.mark.parametrize("column", ["key", "flag", "label"])
def test_no_two_settings_share_a_key_a_flag_or_a_label(column):
    counted = Counter(value for row in ROWS if (value := getattr(row, column)))
    assert [value for value, n in counted.items() if n > 1] == []


def test_every_setting_has_a_key_and_a_label_and_every_parameter_of_a_method_a_help():
    assert [row.name for row in ROWS if not (row.key and row.label)] == []
    assert [
        row.name
        for row in field_rows(MethodSettings).values()
        if not (row.help or row.flag_help)
    ] == []


@pytest.mark.parametrize(
    "row",
    [row for _, row in NUMBERS],
    ids=[f"{name}.{row.name}" for name, row in NUMBERS],
)
def test_a_number_is_checked_at_its_limits(row):
    row.check(row.low if row.kind == "number" else int(row.low))
    row.check(row.high if row.kind == "number" else int(row.high))
    beyond = row.low if row.above is None else row.above + 1
    for value in (beyond - 1, row.high + 1, float("nan"), "1", True):
        with pytest.raises(
            SettingsError, match=f"(?i)^{re.escape(row.title)} must be "
        ):
            row.check(value)
