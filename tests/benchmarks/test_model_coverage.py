"""What docs/models.md says of each causal type of transformers is still so: many minutes."""

from pathlib import Path

import pytest

from benchmarks.model_coverage import coverage_of

_DOCUMENT = Path(__file__).parents[2] / "docs" / "models.md"
_METHODS = ("best", "layers", "experts", "expert-channels")


def columns_with_yes():
    """By type, the columns in which the table says yes."""
    lines = _DOCUMENT.read_text(encoding="utf-8").splitlines()
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| ")
    ]
    head = rows[0][1:]
    marked = {}
    for name, *cells in rows[1:]:
        marked[name.strip("`")] = {
            column for column, cell in zip(head, cells, strict=True) if cell == "yes"
        }
    return marked


_MARKED = columns_with_yes()


@pytest.mark.long
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("model_type", sorted(_MARKED))
def test_the_table_is_true_of(model_type):
    row = coverage_of(model_type, _METHODS)
    lost = {column: row.get(column) for column in _MARKED[model_type] if row.get(column) != "yes"}
    assert not lost
