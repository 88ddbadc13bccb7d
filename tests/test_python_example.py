"""The program in examples/ is what somebody who writes Python reads first: it runs, and says what was lost."""

import re
from pathlib import Path

import pytest

from sparsedash.schema.records import Run
from sparsedash.storage.store import Store
from tests.engine.conftest import model_folder  # noqa: F401 - a fixture
from tests.forks import forked

ROOT = Path(__file__).parents[1]
EXAMPLE = "examples.prune_from_python"
VERDICT = re.compile(
    r"([\d.]+) % sparse [\d.]+% right: \d+ answers broke, \d+ were mended; "
    r"McNemar p ([\d.e-]+), ([+-][\d.]+) points \(95 %: ([+-][\d.]+) to ([+-][\d.]+)\)"
)


def test_it_prints_a_paired_verdict_on_every_sparsity_and_keeps_the_run(model_folder, tmp_path):  # noqa: F811
    asked = ("--model", str(model_folder), "--passages", "12", "--sparsity", "25,50", "--data-dir", str(tmp_path))
    first, dense, *sparse = forked(EXAMPLE, *asked).splitlines()
    assert first == f"{model_folder}, best, the first 12 passages of builtin:cloze"
    assert re.fullmatch(r"dense      [\d.]+% right", dense)
    verdicts = [[float(number) for number in VERDICT.fullmatch(line).groups()] for line in sparse]
    assert [percent for percent, *_ in verdicts] == [25, 50]
    for _, p_value, difference, low, high in verdicts:
        assert 0 < p_value <= 1
        assert low <= difference <= high
    store = Store(tmp_path)
    (run,) = (store.get(Run, key) for key in store.keys(Run))
    store.close()
    assert run.finished and len(run.sparse) == 2


def test_its_help_says_how_to_call_it_and_what_is_usual():
    said = forked(EXAMPLE, "--help")
    assert "    python -m examples.prune_from_python\n" in said
    assert "keeps what is computed; a temporary folder where not given" in said


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.name)
def test_every_example_is_run_by_a_test(path):
    assert path.stem in {"prune_from_python"}
