"""How a measured speed-up compares with what was removed: python -m benchmarks.timing [--dtypes float32,bfloat16]

Prunes the model at 20 and 30 % by least squares, times each sparse model beside the dense one as the dashboard does,
and prints for every phase the ratio with its interval, the ceiling that Amdahl's law gives, and the rounds it took.
Then times the dense model against itself --self-runs times, each with another seed and with copies of all its weights,
and counts how often the interval holds 1: 18 of 20 and more is what it promises. Figures of a busy machine are rough.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from sparsedash.catalog.presets import method_named
from sparsedash.engine.comparison.model_pair import ModelPairCache, ModelPart, ResidentModel
from sparsedash.engine.comparison.timing import TimeSample, decode_sample, prefill_sample, time_models, timed_rounds
from sparsedash.engine.models.loading import LoadedModel, ModelShelf, load_model, locate_model
from sparsedash.engine.run import pipeline
from sparsedash.reporting.deployment import timing_conditions
from sparsedash.schema.pair_records import TimedPhase, TimingSettings
from sparsedash.schema.settings import BUILTIN_MODEL, CalibrationSettings, EvaluationSettings, RunSettings
from sparsedash.storage.store import Store


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default=BUILTIN_MODEL)
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--sparsities", default="20,30", help="whole percents")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--most-s", type=int, default=120, help="seconds for each phase at most")
    parser.add_argument("--rounds", type=int, default=15, help="for each phase at least")
    parser.add_argument("--self-runs", type=int, default=20)
    parser.add_argument("--samples", type=int, default=128, help="of calibration text")
    parser.add_argument("--data-dir", type=Path, help="a new folder where not given")
    arguments = parser.parse_args()
    store = Store(arguments.data_dir or Path(tempfile.mkdtemp()))
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    for dtype in arguments.dtypes.split(","):
        for percent in arguments.sparsities.split(","):
            beside_dense(store, arguments, dtype, int(percent))
    if arguments.self_runs:
        against_itself(load_model(locate_model(arguments.model, store), arguments.dtypes.split(",")[0]), arguments)


def beside_dense(store: Store, arguments: argparse.Namespace, dtype: str, percent: int) -> None:
    """One sparse model beside dense, a line for each phase."""
    settings = RunSettings(
        model=arguments.model,
        dtype=dtype,
        methods=(method_named("least-squares"),),
        sparsities_permille=(10 * percent,),
        calibration=CalibrationSettings(n_samples=arguments.samples, length=64),
        evaluation=EvaluationSettings(n_passages=5),
    )
    asked = TimingSettings(
        dense="-",
        sparse="-",
        n_prompt=arguments.prompt,
        most_s=arguments.most_s,
        least_rounds=arguments.rounds,
        n_threads=arguments.threads,
    )
    shelf = ModelShelf()
    run = pipeline.run(settings, store, shelf=shelf)
    found = time_models(replace(asked, dense=run.dense, sparse=run.sparse[-1]), store, ModelPairCache(shelf))
    print(f"{percent} %, {timing_conditions(found)}")
    for phase in found.phases:
        print(f"  {_line(phase)}", flush=True)


def _line(phase: TimedPhase) -> str:
    ratio, spent = phase.ratio, sum(phase.dense_s) + sum(phase.sparse_s)
    wide = max(ratio.high / ratio.value - 1, 1 - ratio.low / ratio.value)
    return (
        f"{phase.phase} {phase.batch}: {ratio.value:.3f} ({ratio.low:.3f} to {ratio.high:.3f}), within {wide:.1%}, "
        f"ceiling {phase.ceiling:.3f}, {ratio.value / phase.ceiling:.1%} of it, {len(phase.dense_s)} rounds in "
        f"{spent:.1f} s"
    )


@torch.inference_mode()
def against_itself(loaded: LoadedModel, arguments: argparse.Namespace) -> None:
    """The dense model beside a copy of itself, again and again: by right the ratio is 1."""
    pair = _copy(loaded), _copy(loaded)
    drawn = torch.Generator().manual_seed(0)
    vocabulary = loaded.model.get_input_embeddings().weight.shape[0]
    n_prompt = min(arguments.prompt, loaded.max_length - 16)
    ids = torch.randint(vocabulary, (1, n_prompt), generator=drawn)
    stop = TimingSettings(dense="-", sparse="-", least_rounds=arguments.rounds, most_s=arguments.most_s)
    for name, sample in _works(loaded, pair, ids):
        held, ratios = 0, []
        for seed in range(arguments.self_runs):
            ratio = timed_rounds(sample, replace(stop, seed=seed), time.monotonic, lambda n, s: None).ratio
            held += ratio.low <= 1 <= ratio.high
            ratios.append(ratio.value)
        print(
            f"{name} against itself: the interval held 1 in {held} of {arguments.self_runs} runs; ratios from "
            f"{min(ratios):.3f} to {max(ratios):.3f}",
            flush=True,
        )


def _works(
    loaded: LoadedModel, pair: tuple[ResidentModel, ResidentModel], ids: torch.Tensor
) -> Iterator[tuple[str, TimeSample]]:
    yield "prefill", prefill_sample(loaded.model, pair, ids)
    yield "decode", decode_sample(loaded.model, pair, ids, 16)


def _copy(loaded: LoadedModel) -> ResidentModel:
    made: dict[int, torch.nn.Parameter] = {}
    parts = []
    for module in loaded.model.modules():
        own = {}
        for name, weight in module._parameters.items():
            if weight is not None and id(weight) not in made:
                made[id(weight)] = torch.nn.Parameter(weight.detach().clone(), requires_grad=False)
            own[name] = None if weight is None else made[id(weight)]
        if own:
            parts.append(ModelPart(module, own, {}))
    return ResidentModel(parts)


if __name__ == "__main__":
    main()
