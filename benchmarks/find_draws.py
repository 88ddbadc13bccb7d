"""A search for how much can go beside an exhaustive sweep, on many draws of passages from answers that are kept.

    python -m benchmarks.find_draws
    python -m benchmarks.find_draws --evaluation "file:PASSAGES.jsonl[:500]" \\
        --calibration "file:PASSAGES.jsonl[3600:]" --samples 64 --drawn 400 --draws 200 --dtype bfloat16 --data-dir DIR

A real run at 10, 20 and 30 % first. Each draw takes --drawn of its passages, with replacement, and a loss for every
step of one width multiple: a passage's own, interpolated between the models of the run, and extended beyond the last; a
verdict changes at a place of its own between two models that differ. Then for each of a few tolerances the search as it
is made, and the sweep up to --most percent judged after Holm.
"""

import argparse
import random
from collections import Counter
from dataclasses import replace
from statistics import fmean

from benchmarks.arguments import answers_parser
from sparsedash.catalog.presets import DEFAULT_METHOD, method_named
from sparsedash.engine.evaluation.early_stopping import StopRule, evaluation_chunks
from sparsedash.engine.run import pipeline
from sparsedash.schema.progress import ignore_steps
from sparsedash.schema.records import Record
from sparsedash.schema.settings import SELF, CalibrationSettings, EvaluationSettings, RunSettings
from sparsedash.stats.sparsity_search import channel_steps, most_trials, next_trial, search_bounds
from sparsedash.stats.tolerance import Tolerance, judge_all, passage_losses
from sparsedash.storage.store import Store

TOLERANCES = ((1.10, 2.0), (1.25, 5.0), (1.5, 10.0), (2.0, 20.0), (3.0, 40.0))


def main() -> None:
    arguments = _arguments()
    store = Store(arguments.data_dir)
    run = pipeline.run(_settings(arguments), store, ignore_steps)
    records = [store.get(Record, key) for key in (run.dense, *run.sparse)]
    pruned = records[1].pruned
    steps = channel_steps(pruned.dense_widths, pruned.method.width_multiple)
    curve = _Curve(records, steps)
    swept = [step for step in steps if step <= 10 * arguments.most]
    print(f"{arguments.draws} draws of {arguments.drawn} passages, {len(swept)} steps swept, {len(steps)} searched")
    for ratio, points in TOLERANCES:
        tolerance = Tolerance(ratio=ratio, points=points)
        apart, models, passages = [], [], []
        for seed in range(arguments.draws):
            rows = random.Random(seed).choices(range(len(records[0].outcomes)), k=arguments.drawn)
            found, trials, answered = _searched(curve, steps, rows, tolerance)
            apart.append(found - _swept(curve, swept, rows, tolerance))
            models.append(trials / len(swept))
            passages.append(answered / (len(swept) * arguments.drawn))
        _say(tolerance, apart, models, passages)


class _Curve:
    """Outcomes at every step, made of those of a few models."""

    def __init__(self, records, steps) -> None:
        self.dense = [_light(outcome) for outcome in records[0].outcomes]
        # Where widths are few, two sparsities can be the same model.
        reached = {1000 * record.pruned.reached.channels: record for record in records[1:]}
        known = {0.0: records[0]} | {place: record for place, record in reached.items() if place > 0}
        self._places, self._records = list(known), list(known.values())
        draw = random.Random(0)
        self._cuts = [[draw.random() for _ in records] for _ in self.dense]
        self.at = {step: [self._outcome(row, step) for row in range(len(self.dense))] for step in steps}

    def _outcome(self, row, step):
        after = next((i for i, place in enumerate(self._places) if place >= step), len(self._places) - 1)
        low, high = self._places[after - 1], self._places[after]
        one, two = (self._records[i].outcomes[row] for i in (after - 1, after))
        share = (step - low) / (high - low)
        right = (two if share > self._cuts[row][after] else one).last_word_right
        changed = one.log_likelihood + share * (two.log_likelihood - one.log_likelihood)
        return replace(self.dense[row], log_likelihood=changed, last_word_right=right)


def _searched(curve, steps, rows, tolerance):
    """The place of the answer among the steps, -1 for none; the trials, and the passages they answered."""
    rule = StopRule(
        dense=[curve.dense[row] for row in rows], n_comparisons=most_trials(len(steps)), tolerance=tolerance
    )
    tried, n_answered = [], 0
    while (place := next_trial(len(steps), tried)) is not None:
        outcomes = {}
        for chunk in evaluation_chunks(len(rows)):
            outcomes |= {i: curve.at[steps[place]][rows[i]] for i in chunk}
            stopping = rule.stopping(outcomes)
            if stopping and stopping.decision != "open":
                break
        tried.append((place, stopping.decision == "within"))
        n_answered += len(outcomes)
    return search_bounds(len(steps), tried)[0], len(tried), n_answered


def _swept(curve, steps, rows, tolerance) -> int:
    """The place of the largest step that a sweep calls within; -1 for none."""
    models = [passage_losses([(curve.dense[row], curve.at[step][row]) for row in rows]) for step in steps]
    verdicts = judge_all(models, tolerance)
    return max((place for place, judged in enumerate(verdicts) if judged.verdict == "within"), default=-1)


def _say(tolerance, apart, models, passages) -> None:
    counts = ", ".join(f"{steps:+d}: {n}" for steps, n in sorted(Counter(apart).items()))
    near = sum(abs(steps) <= 1 for steps in apart)
    print(
        f"allowed {tolerance.ratio:g} and {tolerance.points:g}: within one step {near} of {len(apart)} ({counts}); "
        f"models {fmean(models):.2f}, at most {max(models):.2f}; passages {fmean(passages):.2f}",
        flush=True,
    )


def _light(outcome):
    return replace(outcome, target="", answer="", tokens=(), top=())


def _settings(arguments) -> RunSettings:
    return RunSettings(
        model=arguments.model,
        dtype=arguments.dtype,
        methods=(method_named(arguments.method),),
        sparsities_permille=(100, 200, 300),
        calibration=CalibrationSettings(
            corpus=arguments.calibration, n_samples=arguments.samples, length=arguments.length
        ),
        evaluation=EvaluationSettings(corpus=arguments.evaluation, n_passages=arguments.passages),
    )


def _arguments() -> argparse.Namespace:
    parser = answers_parser(__doc__)
    parser.add_argument("--method", default=DEFAULT_METHOD)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--calibration", default=SELF)
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--drawn", type=int, default=400, help="passages of each draw")
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--most", type=float, default=60.0, help="percent up to which is swept")
    return parser.parse_args()


if __name__ == "__main__":
    main()
