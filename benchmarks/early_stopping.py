"""How many passages a decision takes where an evaluation may stop early, and how often it is the wrong one.

    python -m benchmarks.early_stopping
    python -m benchmarks.early_stopping --evaluation file:PASSAGES.jsonl --calibration file:TEXT.jsonl --passages 3600

Simulated first: models that lose so many points at flip rates as pruning the built-in model has them on LAMBADA, looked
at where the evaluator looks. Beside it the passages after which a test of a number fixed before shows it four times of
five. With --evaluation, a real run after that: what its sparse models answered, and the seconds that were saved.
"""

import argparse
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from statistics import NormalDist

import numpy as np

from sparsedash.catalog.presets import DEFAULT_METHOD, method_named
from sparsedash.engine.evaluation.early_stopping import look_counts
from sparsedash.schema.settings import (
    BUILTIN_MODEL,
    SELF,
    CalibrationSettings,
    EvaluationSettings,
    RunSettings,
    parse_percents,
)
from sparsedash.stats.anytime import MARGIN, decide_difference
from sparsedash.stats.significance import Z_95

RATES = [
    (0.0, 0.02),
    (0.0, 0.05),
    (0.0, 0.15),
    (0.01, 0.04),
    (0.01, 0.07),
    (0.02, 0.06),
    (0.02, 0.1),
    (0.05, 0.09),
    (0.05, 0.15),
    (0.1, 0.14),
    (0.1, 0.2),
    (0.2, 0.24),
    (0.2, 0.3),
]
"""True loss of accuracy, and share of passages that flip."""

decide_once = cache(decide_difference)


def main() -> None:
    arguments = _arguments()
    simulate(arguments.n, arguments.runs, arguments.comparisons)
    if arguments.evaluation:
        real(arguments)


def simulate(n_passages: int, n_runs: int, n_comparisons: int) -> None:
    sizes = np.diff([0, *look_counts(n_passages)])
    print(
        f"{n_runs} simulated evaluations of {n_passages:,} passages, looks at {np.cumsum(sizes).tolist()}, "
        f"{n_comparisons} comparisons in the run; close: under {100 * MARGIN:g} points"
    )
    print(
        f"{'points lost':>12}{'flips':>8}{'difference':>12}{'close':>8}{'open':>8}{'passages':>10}"
        f"{'saved':>8}{'fixed test':>12}"
    )
    rng = np.random.default_rng(0)
    for loss, flips in RATES:
        shares = ((flips + loss) / 2, (flips - loss) / 2, 1 - flips)
        parts = [rng.multinomial(size, shares, n_runs)[:, :2] for size in sizes]
        ends = [
            ending(run, np.cumsum(sizes).tolist(), n_comparisons)
            for run in np.cumsum(np.stack(parts, axis=1), axis=1).tolist()
        ]
        found = {d: np.mean([e[0] == d for e in ends]) for d in ("difference", "close", "open")}
        answered = float(np.mean([e[1] for e in ends]))
        print(
            f"{100 * loss:>12g}{flips:>8.0%}{found['difference']:>12.1%}{found['close']:>8.1%}{found['open']:>8.1%}"
            f"{answered:>10,.0f}{1 - answered / n_passages:>8.0%}{fixed(loss, flips):>12}"
        )


def ending(run: list[list[int]], looks: list[int], n_comparisons: int) -> tuple[str, int]:
    """The decision and after how many passages."""
    for (broke, fixed), n in zip(run, looks, strict=True):
        decision = decide_once(broke, fixed, n, n_comparisons)
        if decision != "open":
            return decision, n
    return "open", looks[-1]


def fixed(loss: float, flips: float) -> str:
    if loss == 0:
        return "never"
    spread = Z_95 * flips**0.5 + NormalDist().inv_cdf(0.8) * (flips - loss**2) ** 0.5
    return f"{(spread / loss) ** 2:,.0f}"


def real(arguments: argparse.Namespace) -> None:
    from sparsedash.engine.run import pipeline
    from sparsedash.schema.progress import ignore_steps
    from sparsedash.schema.records import Record
    from sparsedash.storage.store import Store

    settings = RunSettings(
        model=arguments.model,
        methods=(method_named(arguments.method),),
        sparsities_permille=parse_percents(arguments.sparsity),
        calibration=replace(CalibrationSettings(), corpus=arguments.calibration),
        evaluation=EvaluationSettings(corpus=arguments.evaluation, n_passages=arguments.passages, stop_early=True),
    )
    with tempfile.TemporaryDirectory() as folder:
        store = Store(arguments.data_dir or Path(folder))
        run = pipeline.run(settings, store, ignore_steps)
        dense, *sparse = (store.get(Record, key) for key in (run.dense, *run.sparse))
        store.close()
    assert dense is not None
    score = dense.last_word
    print(f"{arguments.model}: dense {score.right} of {score.total} right in {dense.seconds:.0f} s")
    for record in sparse:
        assert record is not None and record.stopping is not None
        ended, score = record.stopping, record.last_word
        whole = record.seconds * ended.n_passages / ended.n_answered
        print(
            f"{record.sparsity_permille / 10:g} %: {ended.decision} after {ended.n_answered:,} of "
            f"{ended.n_passages:,} passages, "
            f"{score.right} right, p {ended.p_value:.2g}, interval {100 * ended.interval[0]:+.1f} to "
            f"{100 * ended.interval[1]:+.1f} points; {record.seconds:.0f} s, saved about {whole - record.seconds:.0f} s"
        )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--n", type=int, default=5153, help="passages of a simulated evaluation")
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--comparisons", type=int, default=1)
    parser.add_argument("--evaluation", help="text reference; without one, nothing real is run")
    parser.add_argument("--calibration", default=SELF)
    parser.add_argument("--passages", type=int)
    parser.add_argument("--model", default=BUILTIN_MODEL)
    parser.add_argument("--method", default=DEFAULT_METHOD)
    parser.add_argument("--sparsity", default="20")
    parser.add_argument("--data-dir", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
