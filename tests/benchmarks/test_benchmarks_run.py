"""Every script of benchmarks/ still runs, and prints the figures that it promises; how large they are is not judged."""

import re
from pathlib import Path

import pytest

from benchmarks import child, growth, small
from tests.browser.conftest import leave_out
from tests.browser.served import chromium
from tests.engine.conftest import model_folder, tokenizers_are_tried_once  # noqa: F401 - fixtures
from tests.forks import forked

ROOT = Path(__file__).parents[2]
RUNNABLE = sorted(
    path.stem for path in (ROOT / "benchmarks").glob("*.py") if "if __name__ ==" in path.read_text(encoding="utf-8")
)
DRIVES_A_BROWSER = {"pages"}

N = r"-?[\d.,]+"
SHARE = rf"{N}\s?%"
NEXT_TO = r"(?:not installed .*|.* 8 of 8 verdicts equal, .*)"
PRINTS: dict[str, tuple[int, str]] = {
    "coverage": (9, rf"(?:random, (?:30|50) % \(40\)|worst) +(?:30|400) *(?:at the end|any look)(?: +{SHARE}){{2}} .*"),
    "early_stopping": (
        14,
        rf"(?: +\d+(?: +{SHARE}){{4}} +.*|20 %: \w+ after 20 of 20 passages, \d+ right, p [\d.e-]+, .*)",
    ),
    "find": (2, rf"seed [01]: search .*, sweep .*, \d+ steps apart; models [12] of \d+, {N}; passages {N} of {N}, {N}"),
    "find_draws": (
        5,
        rf"allowed {N} and {N}: within one step [012] of 2 \(.*\); models {N}, at most {N}; passages {N}",
    ),
    "freed_memory": (3, rf"(?:answer|read|write): {N} s of processor time .*, {N} s given back, .* \({N} times\)"),
    "growth": (8, rf"(?:{'|'.join(growth.SMALLEST)}) \d+ \([12] times\): (?:[a-z ]+ {N} s \({N} times\),? ?)+"),
    "llama_speed": (1, rf"\| .* \| {N} \|(?: {N} \({N}\) \| {N} \({N} to {N}\) \|){{2}}"),
    "off_grid": (
        10,
        rf"(?:turned, F(?:32|16): logits at most .*|\| (?:dense|50 %), (?:16 bits|Q8_0) \| {N} \|.*\|"
        r"|.*/files/(?:dense|50)(?:-Q8_0)?\.gguf)",
    ),
    "pages": (
        7,
        r"(?:overview|compare(?:\?view=layers|\?filter=both-wrong)?|models by tasks), "
        r"(?:rerun|steps to 4|first drawn|opened anew): "
        r"median \d+ ms, slowest \d+ ms, .*, n = [124]",
    ),
    "precision": (2, rf"(?:float32|bfloat16) +last word \d+ of 12, {SHARE} \({SHARE} to {SHARE}\); .*"),
    "prompts": (3, rf"(?:cold|warm): first words after {N} s, all 24 tokens of both after {N} s \(.*, both together\)"),
    # The losses, and after them the divergences.
    "protocol": (8, rf"  (?:flap|random) +{N} \({N} to {N}\)"),
    "pruning": (2, rf"(?:retrain-free \(published\)|random)(?: +{N} ±{N} \({N}\)){{2}} +\d+ +\d+ +{N}"),
    "quantised": (4, rf"q\d_\w+ +1[12] of 12 verdicts equal, {SHARE}; KL.* {N}, KL.* {N}, n = \d+ tokens; {N} MB; .*"),
    "rules": (2, rf"(?:plain|published) +\d+ of 12 last tokens right, {N}%"),
    "runtimes": (1, r"\S+ by transformers \S+: (\d+) of \1 first choices equal; .* at most 0.0e\+00, n = 2 passages"),
    "sessions": (
        3,
        r"(?:(?:overview|runs) with 8 jobs and 5 runs: median .*, n = 3, .*|4 sessions, 0 errors, the job .*)",
    ),
    "speed": (4, rf"(?:float32|bfloat16) +(?:calibration +{N} tokens/s .*|lm-evaluation-harness +{NEXT_TO})"),
    "statistics_size": (2, rf"a block's .*, {N} wide: {N} MB, {N} GB in all"),
    # Even of a tiny model the numbers are the same, whatever it takes.
    "streaming": (2, r"  16 answers: log-likelihoods at most 0.0e\+00 nats apart, widths equal, verdicts equal"),
    "task_power": (3, rf" +(?:[02] +10% +500(?: +{N}){{7}}|3 tasks of +500(?: +{N}){{4}})"),
    # Even of a tiny model the answers are the same.
    "tasks": (4, rf".* +\d+ questions, 0 answers differ, log-likelihoods within \S+; {N} x as fast, .*"),
    "timing": (
        5,
        rf"  (?:prefill|decode|load) [18]: {N} \({N} to {N}\), within {SHARE}, ceiling {N}, {SHARE} of it, .*",
    ),
}
"""Of each script the lines of its result: how many, and their pattern."""


def test_no_script_is_forgotten():
    assert set(RUNNABLE) - {"small"} == set(small.OPTIONS), "give it a row in benchmarks/small.py"
    assert set(small.OPTIONS) == set(PRINTS), "say here what it prints"


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.browser] * (name in DRIVES_A_BROWSER)) for name in small.OPTIONS]
)
def test_it_runs_and_prints_its_figures(name, model_folder, tmp_path, monkeypatch):  # noqa: F811
    if name in ("quantised", "off_grid", "llama_speed"):
        pytest.importorskip("llama_cpp_py_sync")
    if name in DRIVES_A_BROWSER and chromium() is None:
        leave_out("No Chromium found (name one with CHROMIUM=...)")
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(child, "printed_by", forked)
    _, _, module, *options = small.command(name, model_folder, tmp_path)
    printed = forked(module, *options, environment=small.environment())
    n, pattern = PRINTS[name]
    assert len(re.findall(rf"^{pattern}$", printed, re.MULTILINE)) == n, printed


def test_one_that_breaks_is_named_and_counted(monkeypatch, capfd):
    monkeypatch.setitem(small.OPTIONS, "freed_memory", "--wishes 3")
    assert small.main(["freed_memory"]) == 1
    printed = capfd.readouterr()
    assert printed.out.endswith("0 of 1 benchmarks ran, freed_memory did not\n")
    assert "unrecognized arguments: --wishes 3" in printed.err
