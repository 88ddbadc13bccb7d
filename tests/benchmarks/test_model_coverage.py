"""What docs/models.md says of each causal type of transformers is still so: many minutes."""

from pathlib import Path

import pytest

from benchmarks.model_coverage import coverage_of

_DOCUMENT = Path(__file__).parents[2] / "docs" / "models.md"
_METHODS = ("best", "layers", "experts", "expert-channels")


def columns_with_yes():
    """By type, the columns in which the table says yes."""
    rows = []
    for line in _DOCUMENT.read_text(encoding="utf-8").splitlines():
        if line.startswith("| "):
            rows.append([cell.strip() for cell in line.split("|")[1:-1]])
    head = rows.pop(0)
    marked = {}
    for row in rows:
        model_type = row[0].strip("`")
        marked[model_type] = {
            column for column, cell in zip(head, row, strict=True) if cell == "yes"
        }
    return marked


_MARKED = columns_with_yes()


@pytest.mark.long
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("model_type", sorted(_MARKED))
def test_the_table_is_true_of(model_type):
    row = coverage_of(model_type, _METHODS)
    lost = {
        column: row.get(column)
        for column in _MARKED[model_type]
        if row.get(column) != "yes"
    }
    assert not lost
