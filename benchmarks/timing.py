"""How a measured speed-up compares with what was removed: python -m benchmarks.timing [--dtypes
float32,bfloat16]

Prunes the model at 20 and 30 % by least squares, times each sparse model beside the dense one as
the dashboard does, and prints for every phase the ratio with its interval, the ceiling that
Amdahl's law gives, and the rounds it took. Then times the dense model against itself --self-runs
times, each with another seed and with copies of all its weights, and counts how often the interval
holds 1: 18 of 20 and more is what it promises. Figures of a busy machine are rough.
"""

import tempfile
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.arguments import run_parser, run_settings
from sparsedash.catalog.presets import method_named
from sparsedash.engine.comparison.model_pair import ModelPairCache, ResidentModel
from sparsedash.engine.comparison.timing import timed_rounds
from sparsedash.engine.comparison.torch_timing import (
    decode_sample,
    prefill_sample,
    time_models,
)
from sparsedash.engine.models.loading import LoadedModel, ModelCache, load_model
from sparsedash.engine.models.locating import locate_model
from sparsedash.engine.run import pipeline
from sparsedash.reporting.deployment import timing_conditions
from sparsedash.schema.pair_records import TimedPhase, TimingSettings
from sparsedash.schema.settings import RunSettings
from sparsedash.storage.store import Store


def main() -> None:
    arguments = _arguments()
    store = Store(arguments.data_dir or Path(tempfile.mkdtemp()))
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    settings = TimingSettings(
        dense="-",
        sparse="-",
        n_prompt=arguments.prompt,
        most_s=arguments.most_s,
        least_rounds=arguments.rounds,
        n_threads=arguments.threads,
    )
    dtypes = arguments.dtypes.split(",")
    for dtype in dtypes:
        for percent in arguments.sparsities.split(","):
            run = run_settings(
                arguments,
                [method_named("least-squares")],
                dtype=dtype,
                sparsity=percent,
            )
            print_speed_up(run, settings, store)
    if arguments.self_runs:
        loaded = load_model(locate_model(arguments.model, store), dtypes[0])
        print_self_ratios(loaded, settings, arguments.self_runs)


def print_speed_up(settings: RunSettings, timing: TimingSettings, store: Store) -> None:
    """Print the run's sparse model next to dense, a line for each phase."""
    model_cache = ModelCache()
    run = pipeline.run(settings, store, model_cache=model_cache)
    times = time_models(
        replace(timing, dense=run.dense, sparse=run.sparse[-1]),
        store,
        ModelPairCache(model_cache),
    )
    (permille,) = settings.sparsities_permille
    print(f"{permille / 10:g} %, {timing_conditions(times)}")
    for phase in times.phases:
        print(f"  {_line(phase)}", flush=True)


def _line(phase: TimedPhase) -> str:
    ratio = phase.ratio
    width = max(ratio.high / ratio.value - 1, 1 - ratio.low / ratio.value)
    spent_s = sum(phase.dense_s) + sum(phase.sparse_s)
    return (
        f"{phase.phase} {phase.batch}: {ratio.value:.3f} ({ratio.low:.3f} to {ratio.high:.3f}), within {width:.1%}, "
        f"ceiling {phase.ceiling:.3f}, {ratio.value / phase.ceiling:.1%} of it, {len(phase.dense_s)} rounds in "
        f"{spent_s:.1f} s"
    )


@torch.inference_mode()
def print_self_ratios(
    loaded: LoadedModel, settings: TimingSettings, n_runs: int
) -> None:
    """Print how often the interval of the dense model next to a copy of itself holds 1, the true
    ratio.
    """
    pair = _copy(loaded), _copy(loaded)
    generator = torch.Generator().manual_seed(0)
    vocabulary = loaded.model.get_input_embeddings().weight.shape[0]
    n_prompt = min(settings.n_prompt, loaded.max_length - 16)
    ids = torch.randint(vocabulary, (1, n_prompt), generator=generator)
    samples = {
        "prefill": prefill_sample(loaded.model, pair, ids),
        "decode": decode_sample(loaded.model, pair, ids, 16),
    }
    for phase, sample in samples.items():
        ratios = [
            timed_rounds(sample, replace(settings, seed=seed)).ratio
            for seed in range(n_runs)
        ]
        values = [ratio.value for ratio in ratios]
        n_held = sum(ratio.low <= 1 <= ratio.high for ratio in ratios)
        print(
            f"{phase} against itself: the interval held 1 in {n_held} of {n_runs} runs; ratios from "
            f"{min(values):.3f} to {max(values):.3f}",
            flush=True,
        )


def _copy(loaded):
    parts = ResidentModel.of(loaded.model).parts
    # All at once: weights that modules share stay shared.
    copies = deepcopy([part.weights for part in parts])
    return ResidentModel(
        [
            part._replace(weights=weights)
            for part, weights in zip(parts, copies, strict=True)
        ]
    )


def _arguments():
    parser = run_parser(
        __doc__,
        dtypes="float32,bfloat16",
        sparsities=("20,30", "percents with commas between"),
        threads=int,
        prompt=512,
        most_s=(120, "seconds for each phase at most"),
        rounds=(15, "for each phase at least"),
        self_runs=20,
        length=64,
        passages=5,
        data_dir=(Path, "a new folder where not given"),
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
