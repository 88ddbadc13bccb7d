"""A table of a page as CSV: what is shown, and nothing that a spreadsheet would run."""

import csv
import io

from sparsedash.reporting.html import table
from sparsedash.reporting.record_pair import table_csv, table_file_name
from sparsedash.reporting.wording import NBSP

SHOWN = table(
    "Speed of 10 % / =evil", "What it is.", ["Model", "Right"], [["=1+1", f"20.5{NBSP}%"], ['a "b", c', "@x"]]
)


def test_every_cell_is_there_in_its_place_and_formulas_are_text():
    lines = list(csv.reader(io.StringIO(table_csv(SHOWN).decode())))
    assert lines == [["Model", "Right"], ["'=1+1", "20.5 %"], ['a "b", c', "'@x"]]


def test_the_file_has_a_name_that_every_file_can_have():
    assert table_file_name(SHOWN) == "sparsedash-speed-of-10-evil.csv"
