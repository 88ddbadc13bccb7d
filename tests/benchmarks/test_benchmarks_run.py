"""Every script of benchmarks/ still runs, and prints the figures that it promises; how large they are is not judged."""

import re
import subprocess
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks import growth, small
from tests.browser.conftest import leave_out
from tests.browser.served import chromium
from tests.engine.conftest import model_folder  # noqa: F401 - a fixture

ROOT = Path(__file__).parents[2]
RUNNABLE = sorted(
    path.stem for path in (ROOT / "benchmarks").glob("*.py") if "if __name__ ==" in path.read_text(encoding="utf-8")
)
DRIVES_A_BROWSER = {"pages"}


def rows(pattern: str, printed: str) -> list[tuple[float, ...]]:
    """The numbers in the pattern's groups, for every line that begins like it."""
    found = re.finditer(rf"^{pattern}", printed, re.MULTILINE)
    return [tuple(float(text.replace(",", "").rstrip("%")) for text in match.groups()) for match in found]


def reads_coverage(printed: str) -> None:
    assert rows(r"(\d+) populations, (\d+) draws each, wanted: 2.5 % on either side$", printed) == [(2, 100)]
    share = r" +([\d.]+%)"
    found = rows(rf"random, (\d+) % \(40\) +(\d+) *at the end{share}{share} +([\d.]+){share}{share} +", printed)
    assert [(percent, n) for percent, n, *_ in found] == [(30, 30), (30, 400), (50, 30), (50, 400)]
    # Of 100 draws 2.5 on average are wrong on either side; never is the interval narrower than Student's.
    assert all(max(within, beyond) <= 15 and width >= 1 for *_, within, beyond, width, _, _ in found)
    assert [n for n, *_ in rows(rf"worst +(\d+) *any look{share}{share} ", printed)] == [400]
    assert len(rows(r"sweep of random, (2) models, n (\d+): within ([\d.]+) %, beyond ([\d.]+) %$", printed)) == 2
    chances = re.findall(r"^ +(?:30|400)((?: +\d+)+)$", printed, re.MULTILINE)
    assert [len(line.split()) for line in chances] == [26, 26]


def reads_early_stopping(printed: str) -> None:
    share = r" +([\d.]+%)"
    simulated = rows(rf" +(\d+){share}{share}{share}{share} +([\d,]+) +(\d+%) +(?:[\d,]+|never)$", printed)
    assert len(simulated) == 13
    for _, _, difference, close, undecided, n_answered, saved in simulated:
        assert difference + close + undecided == pytest.approx(100, abs=0.2)
        assert n_answered / 400 == pytest.approx(1 - saved / 100, abs=0.01)
    ((n_right, n_passages),) = rows(r"\S+: dense (\d+) of (\d+) right in \d+ s$", printed)
    assert n_right <= n_passages == 20
    ((percent, n_answered, n_passages, p_value, low, high),) = rows(
        r"([\d.]+) %: \w+ after (\d+) of (\d+) passages, \d+ right, p ([\d.e-]+), "
        r"interval ([+-][\d.]+) to ([+-][\d.]+) points; \d+ s, saved about \d+ s$",
        printed,
    )
    assert percent == n_answered == n_passages == 20
    assert 0 < p_value <= 1 and low <= high


def reads_find(printed: str) -> None:
    searched = rows(r"seed (\d+), search: (?:nothing|[\d.]+ %); trials: .*\((\d+)\)$", printed)
    assert [seed for seed, _ in searched] == [0, 1] and all(0 < answered <= 40 for _, answered in searched)
    beside = rows(
        r"seed (\d+): search (?:nothing|[\d.]+ %), sweep (?:nothing|[\d.]+ %), (\d+) steps apart; "
        r"models (\d+) of (\d+), [\d.]+; passages ([\d,]+) of ([\d,]+), [\d.]+$",
        printed,
    )
    assert [seed for seed, *_ in beside] == [0, 1]
    for _, _, made, steps, answered, whole in beside:
        assert 0 < made <= 2 and answered <= 40 * made and whole == 40 * steps


def reads_find_draws(printed: str) -> None:
    assert rows(r"(\d+) draws of (\d+) passages, (\d+) steps swept, (\d+) searched$", printed) == [(2, 40, 1, 2)]
    drawn = rows(
        r"allowed ([\d.]+) and [\d.]+: within one step (\d+) of 2 \(.*\); models ([\d.]+), at most ([\d.]+); "
        r"passages ([\d.]+)$",
        printed,
    )
    assert [ratio for ratio, *_ in drawn] == [1.1, 1.25, 1.5, 2, 3]
    for _, near, models, most, passages in drawn:
        assert near <= 2 and 0 < passages <= models <= most


def reads_timing(printed: str) -> None:
    number = r"([\d.]+)"
    phases = rows(
        rf"  (?:prefill|decode|load) (\d): {number} \({number} to {number}\), within ([\d.]+%), ceiling {number}, "
        rf"([\d.]+%) of it, (\d+) rounds in {number} s$",
        printed,
    )
    assert [batch for batch, *_ in phases] == [1, 1, 8, 8, 1]
    assert all(low <= ratio <= high and ceiling > 1 and n >= 3 for _, ratio, low, high, _, ceiling, _, n, _ in phases)
    held = rows(
        rf"(?:prefill|decode) against itself: the interval held 1 in (\d+) of (\d+) runs; ratios from {number}", printed
    )
    assert len(held) == 2 and all(n_held <= n_runs == 2 for n_held, n_runs, _ in held)


def reads_freed_memory(printed: str) -> None:
    other = r"[\d.]+ s given back(?:, pages of 2 MB)? \(([\d.]+) times\)"
    ratios = rows(
        rf"(?:answer|read|write): [\d.]+ s of processor time with freed memory kept, {other}, {other}$", printed
    )
    assert len(ratios) == 3 and all(ratio > 0 for own in ratios for ratio in own)


def reads_pages(printed: str) -> None:
    times = r"median (\d+) ms, slowest (\d+) ms, server \d+ ms of processor time, n = (\d+)$"
    shown = rows(rf"(?:overview|layers|compare), rerun: {times}", printed)
    assert [n for *_, n in shown] == [2, 2, 2]
    stepped = rows(rf"compare, steps to 4: {times}", printed)
    assert [n for *_, n in stepped] == [4]
    assert all(0 < median <= slowest for median, slowest, _ in shown + stepped)
    memory = rows(r"after (\d+) steps: ([\d.]+) MB of JavaScript, ([\d,]+) elements; the server (\d+) MB$", printed)
    assert [n for n, *_ in memory] == [0, 4] and min(min(figures) for _, *figures in memory) > 0


def reads_precision(printed: str) -> None:
    assert len(rows(r"(?:float32|bfloat16) +last word (\d+) of 12, [\d.]+ % \([\d.]+% to [\d.]+%\)", printed)) == 2
    verdicts = rows(
        r"last (?:word|token) +(\d+) of 12 verdicts equal; only FP32 right: (\d+), only BF16 right: (\d+), p [\d.]+$",
        printed,
    )
    assert [sum(counts) for counts in verdicts] == [12, 12]
    assert len(rows(r"answers +(\d+) equal; log-likelihoods within ([\d.]+)$", printed)) == 1
    ((ratio, lowest, highest),) = rows(
        r"time +BF16 takes ([\d.]+) times as long as FP32 \(pieces: ([\d.]+) to ([\d.]+)\)$", printed
    )
    assert 0 < lowest <= ratio <= highest


def reads_prompts(printed: str) -> None:
    asked = rows(
        r"(?:cold|warm): first words after ([\d.]+) s, all 40 tokens of both after ([\d.]+) s "
        r"\((?:\d+ tokens a second|too fast to be timed), both together\)$",
        printed,
    )
    assert len(asked) == 3 and all(0 < first <= whole for first, whole in asked)


def reads_protocol(printed: str) -> None:
    cases = rows(r"tiny-llama, calibrated on self, (25|50) %, (\d+) passages$", printed)
    assert cases == [(25, 8), (50, 8)]
    losses = rows(r"  (?:flap|random) +(-?[\d.]+) \((-?[\d.]+) to (-?[\d.]+)\)$", printed)
    assert len(losses) == 4 and all(low <= lost <= high for lost, low, high in losses)
    (best, worst) = rows(r"(?:flap|random) +([\d.]+) +([\d.]+) +([\d.]+)(?:$|   [+-])", printed)
    assert best[0] <= worst[0]
    assert all(score == pytest.approx((most + mean) / 2, abs=0.002) for score, most, mean in (best, worst))


def reads_pruning(printed: str) -> None:
    assert rows(r"calibrated on ([\d,]+) tokens of self$", printed) == [(1280,)]
    ((times,),) = rows(r"bare forward pass \d+ s, calibration alone ([\d.]+) times that$", printed)
    assert times > 0
    ((lost,),) = rows(r"dense loses ([\d.]+) nats a word, 8 passages$", printed)
    assert lost > 0
    assert len(rows(r"method +(25) % +(50) % +s +next s +peak GB$", printed)) == 1
    loss = r" +(-?[\d.]+) ±([\d.]+) \((-?[\d.]+)\)"
    published, other = rows(rf"(?:retrain-free \(published\)|random){loss}{loss} +(\d+) +(\d+) +([\d.]+)$", printed)
    assert published[2] == published[5] == 1
    assert min(published[-1], other[-1]) > 0


def reads_rules(printed: str) -> None:
    plain, published = rows(r"(?:plain|published) +(\d+) of 12 last tokens right, ([\d.]+)%$", printed)
    differing = rows(r"  passage (\d+) \(.*, (\d+) tokens\): the model says it", printed)
    assert plain[0] - published[0] == len(differing)
    assert rows(r"(\d+) passages have more than 197 tokens; the rules differ on:$", printed)
    assert "the last word is judged alike everywhere: yes\n" in printed


def reads_sessions(printed: str) -> None:
    times = r"median (\d+) ms, p95 (\d+) ms, slowest (\d+) ms, n = (\d+), load [\d.]+$"
    listed = rows(rf"(?:overview|jobs) with 8 jobs and 5 runs: {times}", printed)
    assert [n for *_, n in listed] == [3, 3]
    assert len(rows(r"  (\d+) ms of the server's processor time each", printed)) == 2
    assert rows(r"(\d+) sessions, (\d+) errors, the job is \w+$", printed) == [(4, 0)]
    ((median, p95, slowest, n),) = rows(rf"a rerun with all of them: {times}", printed)
    assert 0 < median <= p95 <= slowest and n > 4
    ((before, most, after, ratio),) = rows(
        r"memory of the server: (\d+) MB before, (\d+) MB with them, (\d+) MB 0 s after they left, "
        r"([\d.]+) times before$",
        printed,
    )
    assert min(before, most) > 0 and ratio == pytest.approx(after / before, abs=0.02)


def reads_speed(printed: str) -> None:
    begun = r"\S+, (\d+) passages, own text of (\d+) x (\d+) tokens; \d+ threads, load [\d.]+$"
    assert rows(begun, printed) == [(8, 8, 32)]
    dtype, speed = r"(?:float32|bfloat16) +", r" +([\d.]+) tokens/s +"
    assert len(rows(rf"{dtype}matrix rate +([\d.]+) GFLOP/s$", printed)) == 2
    for name in ("bare forward", "evaluation", "own text"):
        shares = rows(rf"{dtype}{name}{speed}([\d.]+)% of the matrix rate$", printed)
        assert len(shares) == 2 and min(min(pair) for pair in shares) > 0
    taken = rows(rf"{dtype}own text, core taken{speed}([\d.]+)% of the speed before$", printed)
    assert len(taken) == 2 and min(min(pair) for pair in taken) > 0
    times = rows(rf"{dtype}calibration{speed}([\d.]+) times a bare forward's time$", printed)
    assert len(times) == 2 and min(min(pair) for pair in times) > 0
    if find_spec("lm_eval") is None:
        assert printed.count("lm-evaluation-harness  not installed (pip install lm_eval)\n") == 2
    else:
        beside = r"([\d.]+) times the evaluation's time; (\d+) of (\d+) verdicts equal, log-likelihoods within"
        assert [pair[2:] for pair in rows(rf"{dtype}lm-evaluation-harness{speed}{beside}", printed)] == [(8, 8)] * 2


def reads_growth(printed: str) -> None:
    grown = re.findall(r"^(\w+) \d+ \(([12]) times\): (.*)$", printed, re.MULTILINE)
    assert [(name, size) for name, size, _ in grown] == [(n, s) for n in growth.SMALLEST for s in ("1", "2")]
    for name, size, told in grown:
        stages = re.findall(r"([a-z ]+) [\d.]+ s \(([\d.]+) times\)", told)
        assert {stage.strip() for stage, _ in stages} == {growth.STAGES[stage] for stage in growth.STAGES_OF[name]}
        assert size == "2" or all(times == "1.00" for _, times in stages)


def reads_statistics_size(printed: str) -> None:
    sizes = rows(r"a block's .*, ([\d,]+) wide: ([\d.]+) MB, ([\d.]+) GB in all$", printed)
    assert [width for width, *_ in sizes] == [1024, 256]
    (plain,) = rows(r"the matrices of the inner activations as they are: ([\d.]+) GB$", printed)
    assert min(*sizes[0], *sizes[1], *plain) > 0


def reads_streaming(printed: str) -> None:
    number = r"([\d.]+)"
    found = rows(rf"(?:resident|streamed): {number} GB at most \({number} times; at least {number} by the", printed)
    assert len(found) == 2
    assert found[0][1] == 1
    row = r"^  (\w+) +[\d.]+ s +[\d.]+ GB (?: *[\d.]+ times the [\d.]+ s foreseen)?$"
    parts = re.findall(row, printed, re.MULTILINE)
    assert [name for name in parts if name != "text"] == 2 * ["load", "calibrate", "prune", "evaluate", "export"]
    # Even of a tiny model the numbers are the same, whatever it takes.
    assert printed.count("16 answers: log-likelihoods at most 0.0e+00 nats apart, widths equal, verdicts equal") == 2


READERS: dict[str, Callable[[str], None]] = {
    name.removeprefix("reads_"): reader for name, reader in list(globals().items()) if name.startswith("reads_")
}


def test_no_script_is_forgotten():
    assert set(RUNNABLE) - {"small"} == set(small.OPTIONS), "give it a row in benchmarks/small.py"
    assert set(small.OPTIONS) == set(READERS), "say here what it prints"


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.browser] * (name in DRIVES_A_BROWSER)) for name in small.OPTIONS]
)
def test_it_runs_and_prints_its_figures(name, model_folder, tmp_path):  # noqa: F811
    if name in DRIVES_A_BROWSER and chromium() is None:
        leave_out("No Chromium found (name one with CHROMIUM=...)")
    done = subprocess.run(
        small.command(name, model_folder, tmp_path),
        cwd=ROOT,
        env=small.environment(),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    READERS[name](done.stdout)


def test_one_that_breaks_is_named_and_counted(monkeypatch, capfd):
    monkeypatch.setitem(small.OPTIONS, "freed_memory", "--wishes 3")
    assert small.main(["freed_memory"]) == 1
    printed = capfd.readouterr()
    assert printed.out.endswith("0 of 1 benchmarks ran, freed_memory did not\n")
    assert "unrecognized arguments: --wishes 3" in printed.err
