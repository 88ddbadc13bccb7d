"""A search for how much can go beside an exhaustive sweep: whether both say the same, and for how
much of the work.

    python -m benchmarks.find
    python -m benchmarks.find --evaluation "file:PASSAGES.jsonl[:3600]" --calibration "file:PASSAGES.jsonl[3600:]" \\
        --samples 64 --passages 400 --method best --most 60 --seeds 0,1,2 --dtype bfloat16 --data-dir DIR

For every seed, which draws the passages: the search as `sparsedash find` makes it; then a run at
every step of one width multiple up to --most percent, every passage answered, judged after Holm.
The steps closest to the search's answer come first. Everything is kept in the data folder, where
the same command goes on after it was stopped. The dense model's answers serve both and are not
counted.
"""

from benchmarks.arguments import calibration_settings, run_parser
from sparsedash.catalog.presets import DEFAULT_METHOD, method_named
from sparsedash.engine.models.loading import ModelCache
from sparsedash.engine.run import pipeline
from sparsedash.engine.run.search import find_sparsity
from sparsedash.schema.find_settings import FindSettings
from sparsedash.schema.progress import ignore_steps
from sparsedash.schema.records import Record
from sparsedash.schema.settings import EvaluationSettings
from sparsedash.schema.tolerance_settings import Tolerance
from sparsedash.stats.tolerance import judge_all, record_losses
from sparsedash.storage.store import Store


def main() -> None:
    arguments = _arguments()
    store = Store(arguments.data_dir)
    model_cache = ModelCache()
    searches = []
    for seed in map(int, arguments.seeds.split(",")):
        settings = _settings(arguments, seed)
        result = find_sparsity(settings, store, ignore_steps, model_cache)
        searches.append((settings, result))
        trials = [
            f"{trial.permille / 10:g} % {trial.verdict} ({trial.n_passages})"
            for trial in result.trials
        ]
        print(
            f"seed {seed}, search: {_percent(result.answer)}; trials: {'; '.join(trials)}",
            flush=True,
        )
    for settings, result in searches:
        print(
            _compared(settings, result, 10 * arguments.most, store, model_cache),
            flush=True,
        )


def _compared(settings, result, most, store, model_cache):
    """The line of one seed, once every step has been swept."""
    steps = [step for step in result.steps if step <= most]
    nearest = sorted(steps, key=lambda step: abs(step - (result.answer or 0)))
    run = pipeline.run(settings.run(tuple(nearest)), store, ignore_steps, model_cache)
    dense = store.get(Record, run.dense)
    losses = [record_losses(dense, store.get(Record, key)) for key in run.sparse]
    verdicts = judge_all(losses, settings.tolerance)
    within = [
        step
        for step, model in zip(nearest, verdicts, strict=True)
        if model.verdict == "within"
    ]
    swept = max(within, default=None)
    apart = abs(_n_up_to(steps, swept) - _n_up_to(steps, result.answer))
    n_models = len(result.trials)
    n_answered = sum(trial.n_passages for trial in result.trials)
    n_swept = len(steps) * len(dense.outcomes)
    return (
        f"seed {settings.evaluation.shuffle_seed}: search {_percent(result.answer)}, sweep {_percent(swept)}, "
        f"{apart} steps apart; models {n_models} of {len(steps)}, {n_models / len(steps):.2f}; "
        f"passages {n_answered:,} of {n_swept:,}, {n_answered / n_swept:.2f}"
    )


def _n_up_to(steps, answer):
    return sum(step <= (answer or 0) for step in steps)


def _percent(answer):
    return "nothing" if answer is None else f"{answer / 10:g} %"


def _settings(arguments, seed):
    return FindSettings(
        model=arguments.model,
        dtype=arguments.dtype,
        method=method_named(arguments.method),
        calibration=calibration_settings(arguments),
        evaluation=EvaluationSettings(
            corpus=arguments.evaluation,
            n_passages=arguments.passages,
            shuffle_seed=seed,
        ),
        tolerance=Tolerance(ratio=arguments.within, points=arguments.within_points),
    )


def _arguments():
    parser = run_parser(
        __doc__,
        method=DEFAULT_METHOD,
        seeds=("0", "with commas between"),
        most=(60.0, "percent up to which is swept"),
        within=1.10,
        within_points=2.0,
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
