"""A search for how much can go beside an exhaustive sweep: whether both say the same, and for how much of the work.

    python -m benchmarks.find
    python -m benchmarks.find --evaluation "file:PASSAGES.jsonl[:3600]" --calibration "file:PASSAGES.jsonl[3600:]" \\
        --samples 64 --passages 400 --method best --most 60 --seeds 0,1,2 --dtype bfloat16 --data-dir DIR

For every seed, which draws the passages: the search as `sparsedash find` makes it; then a run at every step of one
width multiple up to --most percent, every passage answered, judged after Holm. The steps closest to the search's answer
come first. Everything is kept in the data folder, where the same command goes on after it was stopped. The dense
model's answers serve both and are not counted.
"""

import argparse

from benchmarks.arguments import answers_parser
from sparsedash.catalog.presets import DEFAULT_METHOD, method_named
from sparsedash.engine.models.loading import ModelShelf
from sparsedash.engine.run import pipeline
from sparsedash.engine.run.search import find_sparsity
from sparsedash.schema.find_settings import FindSettings
from sparsedash.schema.progress import ignore_steps
from sparsedash.schema.records import Record
from sparsedash.schema.settings import SELF, CalibrationSettings, EvaluationSettings
from sparsedash.stats.tolerance import Tolerance, judge_all, record_losses
from sparsedash.storage.store import Store


def main() -> None:
    arguments = _arguments()
    store, shelf = Store(arguments.data_dir), ModelShelf()
    searches = {}
    for seed in map(int, arguments.seeds.split(",")):
        result = find_sparsity(_settings(arguments, seed), store, ignore_steps, shelf)
        searches[seed] = result
        trials = "; ".join(f"{t.permille / 10:g} % {t.verdict} ({t.n_passages})" for t in result.trials)
        print(f"seed {seed}, search: {_said(result.answer)}; trials: {trials}", flush=True)
    for seed, result in searches.items():
        print(_compared(arguments, seed, result, store, shelf), flush=True)


def _compared(arguments, seed, result, store, shelf) -> str:
    """The line of one seed, once every step has been swept."""
    settings = _settings(arguments, seed)
    steps = [step for step in result.steps if step <= 10 * arguments.most]
    near = sorted(steps, key=lambda step: abs(step - (result.answer or 0)))
    run = pipeline.run(settings.run(tuple(near)), store, _Points(near), shelf)
    dense = store.get(Record, run.dense)
    verdicts = judge_all(
        [record_losses(dense, store.get(Record, key)) for key in run.sparse],
        Tolerance(ratio=settings.ratio, points=settings.points),
    )
    within = [step for step, judged in zip(near, verdicts, strict=True) if judged.verdict == "within"]
    swept = max(within, default=None)
    apart = abs(_place(steps, swept) - _place(steps, result.answer))
    answered = sum(trial.n_passages for trial in result.trials)
    whole = len(steps) * len(dense.outcomes)
    return (
        f"seed {seed}: search {_said(result.answer)}, sweep {_said(swept)}, {apart} steps apart; "
        f"models {len(result.trials)} of {len(steps)}, {len(result.trials) / len(steps):.2f}; "
        f"passages {answered:,} of {whole:,}, {answered / whole:.2f}"
    )


class _Points:
    """Says when a step of the sweep is begun: each takes minutes."""

    def __init__(self, steps) -> None:
        self._steps, self._last = steps, None

    def __call__(self, step) -> None:
        if step.stage == "prune" and step.point != self._last:
            self._last = step.point
            print(f"  sweep: {self._steps[step.point] / 10:g} %, {step.point + 1} of {len(self._steps)}", flush=True)


def _place(steps, answer) -> int:
    """The place of an answer among the steps; -1 where nothing is within."""
    return -1 if answer is None else sum(step <= answer for step in steps) - 1


def _said(answer) -> str:
    return "nothing" if answer is None else f"{answer / 10:g} %"


def _settings(arguments, seed) -> FindSettings:
    return FindSettings(
        model=arguments.model,
        dtype=arguments.dtype,
        method=method_named(arguments.method),
        calibration=CalibrationSettings(
            corpus=arguments.calibration, n_samples=arguments.samples, length=arguments.length
        ),
        evaluation=EvaluationSettings(corpus=arguments.evaluation, n_passages=arguments.passages, shuffle_seed=seed),
        ratio=arguments.within,
        points=arguments.within_points,
    )


def _arguments() -> argparse.Namespace:
    parser = answers_parser(__doc__)
    parser.add_argument("--method", default=DEFAULT_METHOD)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--calibration", default=SELF)
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--seeds", default="0", help="with commas between")
    parser.add_argument("--most", type=float, default=60.0, help="percent up to which is swept")
    parser.add_argument("--within", type=float, default=1.10)
    parser.add_argument("--within-points", type=float, default=2.0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
