"""Every script of benchmarks/ still runs, and prints the figures that it promises; how large they are is not judged."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks import child, growth, small
from tests.browser.conftest import leave_out
from tests.browser.served import chromium
from tests.engine.conftest import model_folder  # noqa: F401 - a fixture
from tests.forks import forked

ROOT = Path(__file__).parents[2]
RUNNABLE = sorted(
    path.stem for path in (ROOT / "benchmarks").glob("*.py") if "if __name__ ==" in path.read_text(encoding="utf-8")
)
DRIVES_A_BROWSER = {"pages"}

N = r"-?[\d.,]+"
SHARE = rf"{N}\s?%"
SIGNED = rf"-?{N} \(-?{N} to -?{N}\)"
PRINTS: dict[str, dict[str, int]] = {
    "coverage": {
        "2 populations, 100 draws each, wanted: 2.5 % on either side": 1,
        rf"random, (?:30|50) % \(40\) +(?:30|400) *at the end(?: +{SHARE}){{2}} +{N}(?: +{SHARE}){{2}} .*": 4,
        rf"worst +400 *any look(?: +{SHARE}){{2}} .*": 1,
        rf"sweep of random, 2 models, n \d+: within {SHARE}, beyond {SHARE}": 2,
        r" +(?:30|400)(?: +\d+){26}": 2,
    },
    "early_stopping": {
        rf" +\d+(?: +{SHARE}){{4}} +{N} +\d+% +(?:{N}|never)": 13,
        r"\S+: dense \d+ of 20 right in \d+ s": 1,
        rf"20 %: \w+ after 20 of 20 passages, \d+ right, p [\d.e-]+, interval [+-]{N} to [+-]{N} points; "
        r"\d+ s, saved about \d+ s": 1,
    },
    "find": {
        rf"seed [01], search: (?:nothing|{SHARE}); trials: .*\(\d+\)": 2,
        rf"seed [01]: search (?:nothing|{SHARE}), sweep (?:nothing|{SHARE}), \d+ steps apart; models [12] of \d+, {N}; "
        rf"passages {N} of {N}, {N}": 2,
    },
    "find_draws": {
        "2 draws of 40 passages, 1 steps swept, 2 searched": 1,
        rf"allowed {N} and {N}: within one step [012] of 2 \(.*\); models {N}, at most {N}; passages {N}": 5,
    },
    "freed_memory": {
        rf"(?:answer|read|write): {N} s of processor time with freed memory kept, {N} s given back \({N} times\), "
        rf"{N} s given back, pages of 2 MB \({N} times\)": 3
    },
    "growth": {rf"(?:{'|'.join(growth.SMALLEST)}) \d+ \([12] times\): (?:[a-z ]+ {N} s \({N} times\),? ?)+": 8},
    "pages": {
        r"(?:overview|layers|compare), rerun: median \d+ ms, slowest \d+ ms, .*, n = 2": 3,
        r"compare, steps to 4: median \d+ ms, slowest \d+ ms, .*, n = 4": 1,
        rf"after [04] steps: {N} MB of JavaScript, {N} elements; the server \d+ MB": 2,
    },
    "precision": {
        rf"(?:float32|bfloat16) +last word \d+ of 12, {SHARE} \({SHARE} to {SHARE}\); .*": 2,
        rf"last (?:word|token) +\d+ of 12 verdicts equal; only FP32 right: \d+, only BF16 right: \d+, p {N}": 2,
        rf"answers +\d+ equal; log-likelihoods within {N}": 1,
        rf"time +BF16 takes {N} times as long as FP32 \(pieces: {N} to {N}\)": 1,
    },
    "prompts": {rf"(?:cold|warm): first words after {N} s, all 40 tokens of both after {N} s \(.*, both together\)": 3},
    "protocol": {
        "tiny-llama, calibrated on self, (?:25|50) %, 8 passages": 2,
        rf"  (?:flap|random) +{SIGNED}": 4,
        rf"(?:flap|random) +{N} +{N} +{N}(?:   [+-].*)?": 2,
    },
    "pruning": {
        "calibrated on 1,280 tokens of self": 1,
        rf"bare forward pass \d+ s, calibration alone {N} times that": 1,
        rf"dense loses {N} nats a word, 8 passages": 1,
        "method +25 % +50 % +s +next s +peak GB": 1,
        rf"(?:retrain-free \(published\)|random)(?: +{N} ±{N} \({N}\)){{2}} +\d+ +\d+ +{N}": 2,
    },
    "rules": {
        rf"(?:plain|published) +\d+ of 12 last tokens right, {N}%": 2,
        r"\d+ passages have more than 197 tokens; the rules differ on:": 1,
        "the last word is judged alike everywhere: yes": 1,
    },
    "sessions": {
        r"(?:overview|jobs) with 8 jobs and 5 runs: median \d+ ms, p95 \d+ ms, slowest \d+ ms, n = 3, .*": 2,
        r"  \d+ ms of the server's processor time each, .*": 2,
        r"4 sessions, 0 errors, the job is \w+": 1,
        r"a rerun with all of them: median \d+ ms, p95 \d+ ms, .*": 1,
        rf"memory of the server: \d+ MB before, \d+ MB with them, \d+ MB 0 s after they left, {N} times before": 1,
    },
    "speed": {
        r"\S+, 8 passages, own text of 8 x 32 tokens; \d+ threads, load .*": 1,
        rf"(?:float32|bfloat16) +matrix rate +{N} GFLOP/s": 2,
        rf"(?:float32|bfloat16) +(?:bare forward|evaluation|own text) +{N} tokens/s +{N}% of the matrix rate": 6,
        rf"(?:float32|bfloat16) +own text, core taken +{N} tokens/s +{N}% of the speed before": 2,
        rf"(?:float32|bfloat16) +calibration +{N} tokens/s +{N} times a bare forward's time": 2,
        r"(?:float32|bfloat16) +lm-evaluation-harness +"
        + (r"not installed .*" if find_spec("lm_eval") is None else r".* 8 of 8 verdicts equal, .*"): 2,
    },
    "statistics_size": {
        rf"a block's .*, {N} wide: {N} MB, {N} GB in all": 2,
        rf"the matrices of the inner activations as they are: {N} GB": 1,
    },
    "streaming": {
        rf"(?:resident|streamed): {N} GB at most \({N} times; at least {N} by the .*": 2,
        rf"  (?:load|calibrate|prune|evaluate|export) +{N} s +{N} GB (?: *{N} times the {N} s foreseen)?": 10,
        # Even of a tiny model the numbers are the same, whatever it takes.
        r"  16 answers: log-likelihoods at most 0.0e\+00 nats apart, widths equal, verdicts equal": 2,
    },
    "timing": {
        rf"  (?:prefill|decode|load) [18]: {N} \({N} to {N}\), within {SHARE}, ceiling {N}, {SHARE} of it, .*": 5,
        rf"(?:prefill|decode) against itself: the interval held 1 in [0-2] of 2 runs; ratios from {N} .*": 2,
    },
}
"""The lines that each script prints, as patterns, and how many of each."""


def test_no_script_is_forgotten():
    assert set(RUNNABLE) - {"small"} == set(small.OPTIONS), "give it a row in benchmarks/small.py"
    assert set(small.OPTIONS) == set(PRINTS), "say here what it prints"


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.browser] * (name in DRIVES_A_BROWSER)) for name in small.OPTIONS]
)
def test_it_runs_and_prints_its_figures(name, model_folder, tmp_path, monkeypatch):  # noqa: F811
    if name in DRIVES_A_BROWSER and chromium() is None:
        leave_out("No Chromium found (name one with CHROMIUM=...)")
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(child, "printed_by", forked)
    _, _, module, *options = small.command(name, model_folder, tmp_path)
    printed = forked(module, *options, environment=small.environment())
    for pattern, n in PRINTS[name].items():
        assert len(re.findall(rf"^{pattern}$", printed, re.MULTILINE)) == n, f"{pattern}\n{printed}"


def test_one_that_breaks_is_named_and_counted(monkeypatch, capfd):
    monkeypatch.setitem(small.OPTIONS, "freed_memory", "--wishes 3")
    assert small.main(["freed_memory"]) == 1
    printed = capfd.readouterr()
    assert printed.out.endswith("0 of 1 benchmarks ran, freed_memory did not\n")
    assert "unrecognized arguments: --wishes 3" in printed.err
