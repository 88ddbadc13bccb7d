"""Every script of benchmarks/ still runs and prints figures; how large they are is not judged."""

import re
from pathlib import Path

import pytest

from benchmarks import child, small
from tests.browser.conftest import leave_out
from tests.browser.served import chromium
from tests.engine.conftest import model_folder, tokenizers_are_tried_once  # noqa: F401 - fixtures
from tests.forks import forked

ROOT = Path(__file__).parents[2]
RUNNABLE = sorted(
    path.stem
    for path in (ROOT / "benchmarks").glob("*.py")
    if "if __name__ ==" in path.read_text(encoding="utf-8")
)
DRIVES_A_BROWSER = {"pages"}
EXACT = {
    "streaming": "log-likelihoods at most 0.0e+00 nats apart, widths equal, verdicts equal",
    "tasks": ", 0 answers differ,",
}
"""What some of them say of every model, however tiny."""


def test_no_script_is_forgotten():
    assert set(RUNNABLE) - {"small"} == set(small.OPTIONS), (
        "give it a row in benchmarks/small.py"
    )


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.browser] * (name in DRIVES_A_BROWSER))
        for name in small.OPTIONS
    ],
)
def test_it_runs_and_prints_its_figures(name, model_folder, tmp_path, monkeypatch):  # noqa: F811
    if name in ("quantised", "llama_speed"):
        pytest.importorskip("llama_cpp_py_sync")
    if name in DRIVES_A_BROWSER and chromium() is None:
        leave_out("No Chromium found (name one with CHROMIUM=...)")
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(child, "printed_by", forked)
    _, _, module, *options = small.command(name, model_folder, tmp_path)
    printed = forked(module, *options, environment=small.environment())
    assert re.search(r"\d", printed) and EXACT.get(name, "") in printed


def test_one_that_breaks_is_named_and_counted(monkeypatch, capfd):
    monkeypatch.setitem(small.OPTIONS, "find", "--wishes 3")
    assert small.main(["find"]) == 1
    printed = capfd.readouterr()
    assert printed.out.endswith("0 of 1 benchmarks ran, find did not\n")
    assert "unrecognized arguments: --wishes 3" in printed.err
